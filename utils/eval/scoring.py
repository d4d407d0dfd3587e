"""Score outputs and inputs against their targets, a few rows at a time: no float copy of a large image."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from data.transforms import enlarge
from utils.eval.metrics import Protocol, Score
from utils.system.pixels import from_float, quant_levels, to_float

Array = np.ndarray
STRIP_VALUES = 2**19  # values of a strip of rows; 4 MB in float64
MIN_STRIP_ROWS = 16


class ScoredOutput:
    """An output that arrives in bands of rows: stored as its file stores it, and scored against the target.

    Args:
        height, width: of the whole output.
        dtype: of the output's file: uint8, uint16 or float32.
        target: `(height, width, C)` of any depth; None: only store.
    """

    def __init__(
        self, height: int, width: int, dtype: np.dtype, target: Array | None, protocol: Protocol, ssim: bool
    ):
        self.height, self.width, self.dtype, self.target = height, width, dtype, target
        self.protocol, self.ssim = protocol, ssim
        self.array: Array | None = None  # (height, width, C), allocated by the first band
        self.scored: list[Score] = []
        self.row = 0

    def add(self, band: Tensor) -> None:
        """Add the next rows, `(1, C, h, width)` in [0, 1]; or `(2, C, h, width)`: ensemble, single output."""
        if self.array is None:
            self.array = np.empty((self.height, self.width, band.shape[1]), self.dtype)
            self.scored = self._scores(band)
        rows = slice(self.row, self.row + band.shape[2])
        self.row = rows.stop
        saved = self.array[rows]
        for strip in strips(saved):
            saved[strip] = from_float(band[0][:, strip].permute(1, 2, 0).numpy(), self.dtype)
            if self.scored and self.target is not None:
                target = to_tensor(self.target[rows][strip])
                for score, image in zip(self.scored, band, strict=True):
                    score.update(image[:, strip], target)

    def _scores(self, band: Tensor) -> list[Score]:
        """One Score for each image of a band; none without a target of as many channels."""
        if self.target is None or self.target.shape[2] != band.shape[1]:
            return []
        levels = quant_levels(self.target.dtype)
        ssim = [self.ssim, False][: len(band)]
        return [Score(self.protocol, self.height, levels, with_ssim=each) for each in ssim]

    def compute(self) -> dict[str, float]:
        """Return the metrics of the output, and `psnr_single` without the ensemble."""
        values: dict[str, float] = {}
        for score, suffix in zip(self.scored, ("", "_single"), strict=False):
            values |= {name + suffix: value for name, value in score.compute().items()}
        values.pop("mae_single", None)
        return values


def input_baseline(
    image: Array, target: Array, protocol: Protocol, with_ssim: bool = False
) -> dict[str, float]:
    """Score the input as the output: neither clamped nor rounded; gray repeated for a color target.

    A smaller input is enlarged by bicubic interpolation. Empty for a color input with a gray target.

    Args:
        image, target: `(H, W, C)` of any depth.
    """
    if image.shape[2] not in (1, target.shape[2]):
        return {}
    if image.shape[:2] != target.shape[:2]:
        image = enlarge(image, *target.shape[:2])
    score = Score(protocol, len(target), quant_levels(target.dtype), clean=False, with_ssim=with_ssim)
    for strip in strips(target):
        expected = to_tensor(target[strip])
        score.update(to_tensor(image[strip]).expand_as(expected), expected)
    return score.compute()


def strips(image: Array) -> Iterator[slice]:
    """Yield slices of rows of `(h, W, C)`."""
    rows = max(MIN_STRIP_ROWS, STRIP_VALUES // (image.shape[1] * image.shape[2]))
    return (slice(top, top + rows) for top in range(0, len(image), rows))


def to_tensor(image: Array) -> Tensor:
    """Convert `(h, W, C)` of any depth to float64 `(C, h, W)` of full scale 1."""
    return torch.from_numpy(to_float(image, np.float64)).permute(2, 0, 1)
