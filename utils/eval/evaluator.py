"""Run a network on full-size images and score the outputs. No logging, no files."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from models.predictor import Predictor, Stopped, eval_mode
from utils.eval.metrics import Protocol, mse_to_psnr
from utils.eval.scoring import ScoredOutput, input_baseline
from utils.system.distributed import Ranks

if TYPE_CHECKING:
    from data.datasets import Whole

Array = np.ndarray


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
    back: tuple[Array, Array] | None = None  # without pairs: an image of B, and what the way back makes of it


@dataclass
class Evaluator(Predictor):
    """Run a network on full-size images and score each output.

    Args:
        metrics: `psnr` and `mae` are always measured; `ssim` if listed here.
    """

    protocol: Protocol = field(default_factory=Protocol)
    metrics: Sequence[str] = ("psnr",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.compared = False  # tiles with the whole image

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


WORST = 5  # images that a validation names


class Worst(NamedTuple):
    """An image with its PSNR and that of its input in dB (NaN: unknown)."""

    name: str
    psnr: float
    psnr_input: float


class MeanPSNR(NamedTuple):
    """Mean PSNR in dB of outputs and inputs, the predictions that were kept, other figures, worst images.

    Without targets both PSNRs are NaN, and no image is the worst.
    """

    psnr: float
    psnr_input: float
    shown: list[Prediction]
    figures: Mapping[str, float] = {}
    worst: list[Worst] = []  # noqa: RUF012 - never changed


def mean_psnr(
    predictions: Iterable[Prediction], ranks: Ranks, keep: set[int], more: Sequence[str] = ()
) -> MeanPSNR:
    """Average the PSNR over all processes, and keep this process's predictions at positions `keep`.

    Each process evaluates its own part of the set; sums and counts are added, so no image counts twice.
    Images that equal their target (inf) are left out of the mean; it is inf where all of them do.

    Args:
        more: names of other scores to average, with those of the inputs, over the images that have one.
    """
    names = ["psnr", "psnr_input", *more, *(f"{name}_input" for name in more)]
    sums = torch.zeros(len(names), 2, dtype=torch.float64)  # of each score: the sum and its count
    shown: list[Prediction] = []
    each: list[Worst] = []
    for i, image in enumerate(predictions):
        for row, name in zip(sums, names, strict=True):
            value = image.scores.get(name, math.nan)
            if value != math.inf and not (name in names[2:] and math.isnan(value)):
                row += torch.tensor([value, 1.0], dtype=torch.float64)
        psnr, psnr_input = (image.scores.get(name, math.nan) for name in names[:2])
        if math.isfinite(psnr):
            each.append(Worst(image.name, psnr, psnr_input))
        if i in keep:
            shown.append(image)
    if ranks.world > 1:
        sums = ranks.reduce(sums.to(ranks.device)).cpu()
    means = [total / count if count else math.inf for total, count in sums.tolist()]
    means[2:] = [mean if math.isfinite(mean) else math.nan for mean in means[2:]]
    worst = sorted(each, key=lambda one: one.psnr)[:WORST]
    return MeanPSNR(means[0], means[1], shown, dict(zip(names[2:], means[2:], strict=True)), worst)
