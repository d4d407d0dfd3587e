"""What a network makes of whole images, and how that compares with their targets; nothing logs or saves."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from data.images import max_value, quant_levels
from data.transforms import denormalize, enlarge, to_batch
from models.layers import size_of
from utils.eval.ensemble import dihedral_mean
from utils.eval.metrics import Protocol, Score
from utils.eval.tiling import Tiling, bands, fitting_tile, memory_per_pixel, smaller_tile, starts
from utils.system.distributed import Ranks, free_memory

if TYPE_CHECKING:
    from data.datasets import Whole

Array = np.ndarray


class Prediction(NamedTuple):
    """One image after the network; images are arrays `(H, W, C)`, the output as it is saved.

    `scores` holds `psnr`, `mae`, `ssim` of the output, with the ending `_input` those of doing nothing, and
    `psnr_single` without the ensemble; a value is missing without a target, or where channels do not compare.
    """

    name: str
    input: Array
    output: Array
    target: Array | None
    scores: dict[str, float]
    seconds: float  # of the forward pass
    tile: int | None  # None: the whole image at once


@dataclass
class Evaluator:
    """Run a network over whole images and measure each.

    Args:
        net: the bare network, on `device`; its `size` states what it wants of its input.
        mean, std: of the Normalize that it was trained with.
        metrics: `psnr` and `mae` are always measured; `ssim` if named here.
        x8: average over eight flips and turns of the input.
        say: is told each note when it arises: tiles, and what they change.

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
    notes: list[str] = field(default_factory=list)  # what the reader of the figures should know, said once

    def __post_init__(self) -> None:
        self.multiple, self.minimum, self.scale = size_of(self.net)
        self.pixel_bytes: float | None = None
        self.compared = False  # tiles with the whole
        if self.tiling.size is not None:  # refused here, not at the first large image
            starts(self.tiling.size, self.tiling.size, self.tiling.overlap, self.multiple)

    def __call__(self, images: "Iterable[Whole]") -> Iterator[Prediction]:
        """Evaluator images one by one; the network is in eval mode meanwhile."""
        with eval_mode(self.net), torch.inference_mode():
            yield from map(self.judge, images)  # no name here keeps a large image in memory

    def judge(self, image: "Whole") -> Prediction:
        """Predict, and measure band by band, so that a large image needs no float copy of the whole."""
        height, width = (side * self.scale for side in image.input.shape[:2])
        measured: list[Score] = []
        output: Array | None = None
        row, seconds = 0, 0.0
        began = time.perf_counter()
        tile, parts = self.parts(image.input)
        for band in parts:  # (1 or 2, C, h, W)
            seconds += time.perf_counter() - began
            if output is None:
                output = np.empty((height, width, band.shape[1]), image.depth)
                measured = self.scores(image.target, band)
            rows = slice(row, row + band.shape[2])
            save_rows(band[0], output[rows])
            if image.target is not None:
                for score, k in zip(measured, range(len(band)), strict=False):
                    score_rows(score, band[k], image.target[rows])
            row = rows.stop
            del band  # before the next one is made: it may be large
            began = time.perf_counter()
        assert output is not None
        if tile is not None and max(image.input.shape[:2]) > tile:
            self.compare_tiles(image.input, tile)
        values = self.values(image, measured)
        return Prediction(image.name, image.input, output, image.target, values, seconds, tile)

    def scores(self, target: Array | None, band: Tensor) -> list[Score]:
        """One Score for each prediction of a band: the output, and with x8 the one without the ensemble."""
        if target is None or target.shape[2] != band.shape[1]:
            return []
        levels, wanted = quant_levels(target.dtype), "ssim" in self.metrics
        return [
            Score(self.protocol, len(target), levels, with_ssim=wanted and i == 0) for i in range(len(band))
        ]

    def values(self, image: "Whole", measured: list[Score]) -> dict[str, float]:
        """The scores of one image, those of doing nothing among them."""
        values: dict[str, float] = {}
        for score, ending in zip(measured, ("", "_single"), strict=False):
            values |= {name + ending: value for name, value in score.result().items()}
        values.pop("mae_single", None)
        if image.target is not None:
            nothing = input_baseline(image.input, image.target, self.protocol, "ssim" in self.metrics)
            values |= {f"{name}_input": value for name, value in nothing.items()}
        return values

    # -------------------------------------------------------------------------------------------- predicting

    def parts(self, image: Array) -> tuple[int | None, Iterator[Tensor]]:
        """(tile, bands of rows) of a prediction; smaller tiles where the memory does not suffice."""
        wanted = tile = self.first_tile(image)
        while True:
            found = bands(self.forward, image, tile, self.tiling.overlap, self.multiple, self.scale)
            try:
                first = next(found)  # every tile needs as much memory as the first
            except torch.OutOfMemoryError:
                longest = max(image.shape[:2])
                tile = smaller_tile(min(tile or longest, longest), self.tiling.overlap, self.multiple)
                if tile is None:
                    raise
                torch.cuda.empty_cache()
                continue
            if tile != wanted:
                self.note(f"out of memory: going on with tiles of {tile}")
            return tile, _chain(first, found)

    def first_tile(self, image: Array) -> int | None:
        """The tile to try first: the one asked for, or 512 where the whole image would not fit."""
        if self.tiling.size is not None:
            return self.tiling.size
        pixels = image.shape[0] * image.shape[1]
        if pixels < 2**19:  # not worth asking
            return None
        if self.pixel_bytes is None:
            side = -(-max(64, self.minimum) // self.multiple) * self.multiple
            example = torch.zeros(1, image.shape[2], side, side, device=self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
                self.pixel_bytes = memory_per_pixel(self.net, example)
        needed, available = self.pixel_bytes * pixels, free_memory(self.device)
        tile = fitting_tile(self.tiling, needed, available, self.multiple)
        if tile:
            gib = f"about {needed / 2**30:.1f} GiB needed for the whole, {available / 2**30:.1f} free"
            self.note(f"{image.shape[1]} x {image.shape[0]} pixels go in tiles of {tile}: {gib}")
        return tile

    def forward(self, part: Array) -> Tensor:
        """`(h, w, C)` of any depth to `(1, C, h, w)` of full scale 1, not clamped; with x8 `(2, C, h, w)`."""
        given = to_batch([part], self.mean, self.std).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            outputs = dihedral_mean(self.net, given) if self.x8 else self.net(given)
        return denormalize(outputs.float(), self.mean, self.std).cpu()

    def compare_tiles(self, image: Array, tile: int) -> None:
        """Say once by how much tiles differ from the whole, on a part of one and a half tiles."""
        if self.compared:
            return
        self.compared = True
        side = 3 * tile // 2
        part = image[:side, :side]
        try:
            whole = self.forward(part)[0]
        except torch.OutOfMemoryError:
            return
        tiled = torch.cat(
            list(bands(self.forward, part, tile, self.tiling.overlap, self.multiple, self.scale)), 2
        )[0]
        mse = (whole - tiled).double().square().mean().item()
        decibel = f"{-10 * math.log10(mse):.1f} dB" if mse else "none"
        most = (whole - tiled).abs().max().item()
        self.note(
            f"tiles of {tile}, overlap {self.tiling.overlap}, differ from the whole by at most {most:.1e} "
            f"(PSNR between the two: {decibel}), on {part.shape[1]} x {part.shape[0]} pixels"
        )

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            self.say(text)


def _chain(first: Tensor, rest: Iterator[Tensor]) -> Iterator[Tensor]:
    yield first
    yield from rest


def save_rows(image: Tensor, saved: Array) -> None:
    """Fill `saved`, `(h, w, C)` of a file's depth, from `(C, h, w)` of full scale 1; NaN becomes 0."""
    levels = quant_levels(saved.dtype)
    for part in strips(saved):
        rows = image[:, part].clamp(0, 1).nan_to_num().permute(1, 2, 0)
        if levels:  # in float64, as the scores are, or ties would round elsewhere
            rows = rows.double().mul(levels).round().to(torch.int32)
        saved[part] = rows.numpy()


def score_rows(score: Score, image: Tensor, target: Array) -> None:
    """Score rows `(C, h, W)` of full scale 1 against `(h, W, C)` of any depth."""
    for part in strips(target):
        score.add(image[:, part], tensor_of(target[part]))


def strips(image: Array) -> Iterator[slice]:
    """Rows of `(h, W, C)` at a time, such that a copy of them in float64 takes about 4 MB."""
    rows = max(16, 2**19 // (image.shape[1] * image.shape[2]))
    return (slice(top, top + rows) for top in range(0, len(image), rows))


def tensor_of(image: Array) -> Tensor:
    """`(h, W, C)` of any depth to float64 `(C, h, W)` of full scale 1."""
    scaled = image.astype(np.float64) / max_value(image.dtype)
    return torch.from_numpy(scaled).permute(2, 0, 1)


def input_baseline(
    given: Array, target: Array, protocol: Protocol, with_ssim: bool = False
) -> dict[str, float]:
    """Scores of the input as given: not clamped, not rounded; gray repeated where the target has colours.

    A smaller input is enlarged by bicubic interpolation. Empty where the channels have no counterpart.
    """
    if given.shape[2] not in (1, target.shape[2]):
        return {}
    if given.shape[:2] != target.shape[:2]:
        given = enlarge(given, *target.shape[:2])
    score = Score(protocol, len(target), quant_levels(target.dtype), clean=False, with_ssim=with_ssim)
    for part in strips(target):
        goal = tensor_of(target[part])
        score.add(tensor_of(given[part]).expand_as(goal), goal)
    return score.result()


def mean_psnr(
    judged: Iterable[Prediction], ranks: Ranks, keep: set[int]
) -> tuple[float, float, list[Prediction]]:
    """(mean PSNR, mean PSNR of doing nothing) over all processes; and the images at `keep` of this one.

    Each process brings its own part of the set; sums and counts are added, so no image counts twice. The mean
    is that of the images that differ from their target; inf where none does.
    """
    sums = torch.zeros(4, dtype=torch.float64)  # PSNR and its count, doing nothing and its count
    shown: list[Prediction] = []
    for i, image in enumerate(judged):
        values = image.scores["psnr"], image.scores.get("psnr_input", math.nan)
        for at, value in zip((0, 2), values, strict=True):
            if value != math.inf:
                sums[at : at + 2] += torch.tensor([value, 1.0], dtype=torch.float64)
        if i in keep:
            shown.append(image)
    if ranks.world > 1:
        sums = ranks.reduce(sums.to(ranks.device)).cpu()
    total, count, nothing, compared = sums.tolist()
    return total / count if count else math.inf, nothing / compared if compared else math.inf, shown


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Switch to eval mode, and each layer back to what it was."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
