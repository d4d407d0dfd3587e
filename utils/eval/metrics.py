"""PSNR, SSIM and MAE as papers quote them: per image, after clamping and rounding the output, then averaged.

An image may arrive in bands of rows, so that a metric needs no more memory than a band.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from utils.system.batch import denormalize
from utils.system.ssim import WINDOW, ssim_map


class Protocol(NamedTuple):
    """How an output is compared with its target.

    Args:
        channel: `rgb`: all channels; `y`: the luma of color images (see `luma`), gray unchanged.
        border: rows and columns cropped on each side, in pixels.
        quantize: round the output to the target's bit depth; it is clamped in any case.
        max_value: of --max_value, for targets: outputs are rounded to steps of 1 / max_value instead.
        gray: colour images were made gray before.
    """

    channel: str = "rgb"
    border: int = 0
    quantize: bool = True
    max_value: float | None = None
    gray: bool = False

    def describe(self) -> str:
        """Describe the protocol in words.

        >>> Protocol("y", 4).describe()
        'per image, Y of BT.601 (16..235), clamped, rounded to the bit depth, border of 4 left out'
        >>> Protocol(max_value=4095, gray=True).describe()
        'per image, after conversion to gray, clamped, rounded to steps of 1/4095'
        """
        channels = "Y of BT.601 (16..235)" if self.channel == "y" else "all channels"
        channels = "after conversion to gray" if self.gray else channels
        steps = f"rounded to steps of 1/{self.max_value:g}" if self.max_value else "rounded to the bit depth"
        rounding = steps if self.quantize else "not rounded"
        border = f", border of {self.border} left out" if self.border else ""
        return f"per image, {channels}, clamped, {rounding}{border}"


def quantize(image: Tensor, levels: int | None = 255) -> Tensor:
    """Clamp to [0, 1] and round to the levels of an integer image, as saving to a file would.

    Args:
        image: any shape, nominally in [0, 1].
        levels: the largest integer value of the target's bit depth (255 for 8 bit); None only clamps.

    >>> quantize(torch.tensor([-0.5, 0.1, 2.0])).mul(255).tolist()
    [0.0, 26.0, 255.0]
    """
    clamped = image.clamp(0, 1)
    return clamped.mul(levels).round().div(levels) if levels else clamped


def luma(image: Tensor) -> Tensor:
    """Compute Y of `(..., 3, H, W)` in [0, 1] as MATLAB's rgb2ycbcr does, 16/255 to 235/255; keep gray.

    ITU-R BT.601 in 8-bit units: Y = 16 + 65.481 R + 128.553 G + 24.966 B; not rounded.

    >>> [round(luma(torch.full((3, 1, 1), value)).item() * 255, 3) for value in (0.0, 1.0)]
    [16.0, 235.0]
    """
    if image.shape[-3] == 1:
        return image
    red, green, blue = image.unbind(-3)
    return ((16 + 65.481 * red + 128.553 * green + 24.966 * blue) / 255).unsqueeze(-3)


def psnr(image: Tensor, target: Tensor) -> Tensor:
    """Compute the PSNR in dB of each image in float32, for training logs; inf where the two are equal.

    Exact figures come from `Score`; this runs on every device and never synchronizes with the host.

    Args:
        image, target: `(N, C, H, W)` in [0, 1]; `image` is used as given (see `quantize`).

    Returns:
        `(N,)` float32. Average these values; never compute the PSNR of a mean MSE.

    >>> psnr(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.1)).round(decimals=3).tolist()
    [20.0]
    """
    _check_same_shape(image, target)
    return -10 * (image - target).float().square().flatten(1).mean(1).log10()


def mean_train_psnr(batches: Sequence[Mapping[str, Tensor]], mean: float, std: float) -> Tensor:
    """Compute the mean PSNR in dB of network outputs, clamped but not rounded, for training logs.

    Args:
        batches: `output` and `target`, `(N, C, H, W)` in the network's range.
        mean, std: of the Normalize that made this range.
    """
    images = [denormalize(batch["output"].detach(), mean, std).clamp(0, 1) for batch in batches]
    targets = [denormalize(batch["target"], mean, std) for batch in batches]
    return torch.cat([psnr(image, target) for image, target in zip(images, targets, strict=True)]).mean()


def train_figures(batches: Sequence[Mapping[str, Tensor]], mean: float, std: float) -> dict[str, Tensor]:
    """The mean training PSNR by its name; empty where the batches have no outputs with targets."""
    if "output" not in batches[0]:
        return {}
    return {"train_psnr": mean_train_psnr(batches, mean, std)}


def mse_to_psnr(mse: float) -> float:
    """Compute 10 log10(1 / MSE) in dB, at full scale 1.

    >>> mse_to_psnr(0.01), mse_to_psnr(0.0), mse_to_psnr(math.nan)
    (20.0, inf, nan)
    """
    return math.inf if mse == 0 else -10 * math.log10(mse)


class Score:
    """PSNR, MAE and optionally SSIM, in float64, of one image that arrives in bands of rows, top to bottom.

    Args:
        height: rows of the whole image.
        levels: largest integer value of the target's bit depth, None for float targets.
        clean: clamp and round the image first, as for outputs; inputs are scored as given.
    """

    def __init__(
        self, protocol: Protocol, height: int, levels: int | None, clean: bool = True, with_ssim: bool = False
    ):
        self.protocol, self.levels, self.clean, self.with_ssim = protocol, levels, clean, with_ssim
        self.rows = range(protocol.border, height - protocol.border)
        self.top = 0
        self.squares = self.absolutes = self.similarity = 0.0
        self.count = self.windows = 0
        self.above: tuple[Tensor, Tensor] | None = None  # the last rows, where the next windows begin

    def update(self, image: Tensor, target: Tensor) -> None:
        """Add the next rows, `(C, h, W)` each in [0, 1]; allocates a dozen float64 copies of them."""
        _check_same_shape(image, target)
        image, target = image.double(), target.double()
        if self.clean:
            image = quantize(image, self.levels if self.protocol.quantize else None)
        if self.protocol.channel == "y":
            image, target = luma(image), luma(target)
        border, height = self.protocol.border, image.shape[1]
        rows = slice(max(0, self.rows.start - self.top), max(0, self.rows.stop - self.top))
        columns = slice(border, max(border, image.shape[2] - border))
        self.top += height
        image, target = image[:, rows, columns], target[:, rows, columns]
        difference = image - target
        self.squares += difference.square().sum().item()
        self.absolutes += difference.abs().sum().item()
        self.count += difference.numel()
        if self.with_ssim:
            self._update_ssim(image, target)

    def _update_ssim(self, image: Tensor, target: Tensor) -> None:
        if self.above:
            image, target = (torch.cat(pair, 1) for pair in zip(self.above, (image, target), strict=True))
        similarity = ssim_map(image[None], target[None])
        self.similarity += similarity.sum().item()
        self.windows += similarity.numel()
        first = max(0, image.shape[1] - WINDOW + 1)
        self.above = image[:, first:], target[:, first:]

    def compute(self) -> dict[str, float]:
        """Return `psnr` in dB (inf: identical, NaN: no pixel left), `mae`, and `ssim` (NaN under 11 px)."""
        values = {
            "psnr": mse_to_psnr(self.squares / self.count if self.count else math.nan),
            "mae": self.absolutes / self.count if self.count else math.nan,
        }
        if self.with_ssim:
            values["ssim"] = self.similarity / self.windows if self.windows else math.nan
        return values


def _check_same_shape(image: Tensor, target: Tensor) -> None:
    if image.shape != target.shape:
        raise ValueError(f"image {tuple(image.shape)} and target {tuple(target.shape)} differ in shape")
