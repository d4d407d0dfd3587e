"""Run a network on images of any size: normalise, cut into tiles where memory asks for it, undo both."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from models.ensemble import dihedral_mean
from models.layers import size_of
from models.tiling import Tiling, bands, bytes_per_pixel, first_tile, smaller_tile, starts
from utils.system.batch import denormalize, to_batch
from utils.system.device import free_memory

Array = np.ndarray
SMALL_IMAGE_PIXELS = 2**19  # smaller images go through the network whole, without an estimate of the memory
EXAMPLE_SIDE = 64  # pixels, of the example that the estimate runs on


class Stopped(Exception):
    """Prediction was asked to stop."""


@dataclass
class Predictor:
    """Run a network on full-size images, in bands of rows.

    Args:
        net: the bare network, on `device`; its `size` states what it requires of its input.
        mean, std: of the Normalize that it was trained with.
        tiling: how to cut images that are too large.
        x8: average over eight flips and rotations of the input.
        say: called with each note, once: the use of tiles, and by how much they change the output.
        stopped: asked before each forward pass; once it is true, `Stopped` is raised.

    Raises:
        UserError: tiles that would not advance.
    """

    net: nn.Module
    device: torch.device
    amp: bool = False
    mean: float = 0.5
    std: float = 0.5
    tiling: Tiling = field(default_factory=Tiling)
    x8: bool = False
    say: Callable[[str], object] = print
    stopped: Callable[[], object] = bool  # false
    notes: list[str] = field(default_factory=list)  # what a reader of the figures should know

    def __post_init__(self) -> None:
        self.multiple, self.minimum, self.scale = size_of(self.net)
        self.pixel_bytes: float | None = None
        if self.tiling.size is not None:  # refuse here, not at the first large image
            starts(self.tiling.size, self.tiling.size, self.tiling.overlap, self.multiple)

    def bands(self, image: Array) -> tuple[int | None, Iterator[Tensor]]:
        """Return the tile and the output in bands of rows; use smaller tiles when out of memory."""
        first_try = tile = self.choose_tile(image)
        while True:
            parts = self.tiled(image, tile)
            try:
                first = next(parts)  # every tile needs as much memory as the first
                break
            except torch.OutOfMemoryError:
                longest = max(image.shape[:2])
                tile = smaller_tile(min(tile or longest, longest), self.tiling.overlap, self.multiple)
                if tile is None:
                    raise
            torch.cuda.empty_cache()
        if tile != first_try:
            self.note(f"out of memory: using tiles of {tile}")
        return tile, chain(iter([first]), parts)

    def tiled(self, image: Array, tile: int | None) -> Iterator[Tensor]:
        return bands(self.forward, image, tile, self.tiling.overlap, self.multiple, self.scale)

    def choose_tile(self, image: Array) -> int | None:
        """Return the tile to try first: the requested one, or 512 where the whole image would not fit."""
        height, width, channels = image.shape
        if self.tiling.size is not None or height * width < SMALL_IMAGE_PIXELS:
            return self.tiling.size
        if self.pixel_bytes is None:
            side = -(-max(EXAMPLE_SIDE, self.minimum) // self.multiple) * self.multiple
            with self.autocast():
                example = torch.zeros(1, channels, side, side, device=self.device)
                self.pixel_bytes = bytes_per_pixel(self.net, example)
        needed, free = self.pixel_bytes * height * width, free_memory(self.device)
        tile = first_tile(self.tiling, needed, free, self.multiple)
        if tile:
            memory = f"the whole image needs about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
            self.note(f"{width} x {height} pixels: using tiles of {tile} ({memory})")
        return tile

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp)

    def forward(self, part: Array) -> Tensor:
        """Map `(h, w, C)` of any depth to `(1, C, h, w)` in [0, 1], not clamped; with x8 `(2, C, h, w)`."""
        if self.stopped():
            raise Stopped
        x = to_batch([part], self.mean, self.std).to(self.device)
        with self.autocast():
            outputs = dihedral_mean(self.net, x) if self.x8 else self.net(x)
        return denormalize(outputs.float(), self.mean, self.std).cpu()

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            self.say(text)


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Switch to eval mode, then restore the mode of each layer."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
