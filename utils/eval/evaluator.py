"""Run a network on full-size images and score the outputs. No logging, no files."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from data.transforms import denormalize, to_batch
from models.layers import size_of
from utils.eval.ensemble import dihedral_mean
from utils.eval.metrics import Protocol, mse_to_psnr
from utils.eval.scoring import ScoredOutput, input_baseline
from utils.eval.tiling import Tiling, bands, bytes_per_pixel, first_tile, smaller_tile, starts
from utils.system.device import free_memory
from utils.system.distributed import Ranks

if TYPE_CHECKING:
    from data.datasets import Whole

Array = np.ndarray
SMALL_IMAGE_PIXELS = 2**19  # smaller images go through the network whole, without an estimate of the memory
EXAMPLE_SIDE = 64  # pixels, of the example that the estimate runs on


class Prediction(NamedTuple):
    """The output for one image; images are arrays `(H, W, C)`, the output as it is saved.

    `scores` holds `psnr`, `mae`, `ssim` of the output, with the suffix `_input` those of the input, and
    `psnr_single` without the ensemble; a value is missing without a target, or if channels do not match.
    """

    name: str
    input: Array
    output: Array
    target: Array | None
    scores: dict[str, float]
    seconds: float  # of the forward pass
    tile: int | None  # pixels a side; None: the whole image at once


class Stopped(Exception):
    """Prediction was asked to stop."""


@dataclass
class Evaluator:
    """Run a network on full-size images and score each output.

    Args:
        net: the bare network, on `device`; its `size` states what it requires of its input.
        mean, std: of the Normalize that it was trained with.
        metrics: `psnr` and `mae` are always measured; `ssim` if listed here.
        x8: average over eight flips and rotations of the input.
        say: called with each note, once: the use of tiles, and by how much they change the output.
        stopped: asked before each forward pass; once it is true, no more predictions follow.

    Raises:
        UserError: tiles that would not advance.
    """

    net: nn.Module
    device: torch.device
    amp: bool
    mean: float = 0.5
    std: float = 0.5
    protocol: Protocol = field(default_factory=Protocol)
    metrics: Sequence[str] = ("psnr",)
    tiling: Tiling = field(default_factory=Tiling)
    x8: bool = False
    say: Callable[[str], object] = print
    stopped: Callable[[], object] = bool  # false
    notes: list[str] = field(default_factory=list)  # what a reader of the figures should know

    def __post_init__(self) -> None:
        self.multiple, self.minimum, self.scale = size_of(self.net)
        self.pixel_bytes: float | None = None
        self.compared = False  # tiles with the whole image
        if self.tiling.size is not None:  # refuse here, not at the first large image
            starts(self.tiling.size, self.tiling.size, self.tiling.overlap, self.multiple)

    def __call__(self, images: "Iterable[Whole]") -> Iterator[Prediction]:
        """Yield the prediction of each image; the network is in eval mode meanwhile."""
        with eval_mode(self.net), torch.inference_mode(), suppress(Stopped):
            yield from map(self.predict, images)  # no name here keeps a large image in memory

    def predict(self, image: "Whole") -> Prediction:
        """Run the network on one image, and score the output band by band."""
        height, width = (side * self.scale for side in image.input.shape[:2])
        with_ssim = "ssim" in self.metrics
        output = ScoredOutput(height, width, np.dtype(image.depth), image.target, self.protocol, with_ssim)
        seconds, began = 0.0, time.perf_counter()
        tile, parts = self.bands(image.input)
        for band in parts:  # (1 or 2, C, h, W)
            seconds += time.perf_counter() - began
            output.add(band)
            del band  # before the next one is made: it may be large
            began = time.perf_counter()
        assert output.array is not None
        if tile is not None and max(image.input.shape[:2]) > tile:
            self.compare_tiles(image.input, tile)
        scores = output.compute()
        if image.target is not None:
            baseline = input_baseline(image.input, image.target, self.protocol, with_ssim)
            scores |= {f"{name}_input": value for name, value in baseline.items()}
        return Prediction(image.name, image.input, output.array, image.target, scores, seconds, tile)

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

    def compare_tiles(self, image: Array, tile: int) -> None:
        """Note, once, how much tiles change the output, on a part of 1.5 x 1.5 tiles."""
        if self.compared:
            return
        self.compared = True
        side = 3 * tile // 2
        part = image[:side, :side]
        try:
            whole = self.forward(part)[0]
        except torch.OutOfMemoryError:
            return
        error = whole - torch.cat(list(self.tiled(part, tile)), 2)[0]
        between = mse_to_psnr(error.double().square().mean().item())
        self.note(
            f"tiles of {tile}, overlap {self.tiling.overlap}, differ from the whole image by at most "
            f"{error.abs().max().item():.1e} (PSNR between the two: {between:.1f} dB), "
            f"on {part.shape[1]} x {part.shape[0]} pixels"
        )

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            self.say(text)


class MeanPSNR(NamedTuple):
    """Mean PSNR in dB of the outputs and of the inputs, and the predictions that were kept."""

    psnr: float
    psnr_input: float
    shown: list[Prediction]


def mean_psnr(predictions: Iterable[Prediction], ranks: Ranks, keep: set[int]) -> MeanPSNR:
    """Average the PSNR over all processes, and keep this process's predictions at positions `keep`.

    Each process evaluates its own part of the set; sums and counts are added, so no image counts twice.
    Images that equal their target (inf) are left out of the mean; it is inf where all of them do.
    """
    sums = torch.zeros(4, dtype=torch.float64)  # PSNR and its count, the input's PSNR and its count
    shown: list[Prediction] = []
    for i, image in enumerate(predictions):
        values = image.scores["psnr"], image.scores.get("psnr_input", math.nan)
        for at, value in zip((0, 2), values, strict=True):
            if value != math.inf:
                sums[at : at + 2] += torch.tensor([value, 1.0], dtype=torch.float64)
        if i in keep:
            shown.append(image)
    if ranks.world > 1:
        sums = ranks.reduce(sums.to(ranks.device)).cpu()
    total, count, total_input, count_input = sums.tolist()
    return MeanPSNR(
        total / count if count else math.inf, total_input / count_input if count_input else math.inf, shown
    )


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
