"""Losses between output and target, `(N, C, H, W)`, reduced to a scalar.

Pixel losses take images in the network's range. A class with `unit_range = True` takes them in [0, 1].
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import L1Loss, MSELoss
from torch.nn import functional as F

from models import LOSSES
from utils.system.batch import denormalize
from utils.system.errors import UserError
from utils.system.ssim import WINDOW, ssim_map

__all__ = ["CharbonnierLoss", "ColorLoss", "L1Loss", "MSELoss", "SSIMLoss", "build_terms", "over_images"]

BOX = 16  # side of ColorLoss in pixels


def over_images(each: Tensor, reduction: str) -> Tensor:
    """Reduce one value for each image, `(N,)`, by `mean` or `sum`."""
    return each.mean() if reduction == "mean" else each.sum()


class CharbonnierLoss(nn.Module):
    """sqrt(d^2 + eps^2), a smooth L1 (Charbonnier et al. 1994; eps as in Lai et al., LapSRN, 2017).

    Args:
        reduction: `mean` or `sum` over all elements.
        eps: in units of the network's range.

    >>> CharbonnierLoss(eps=3.0)(torch.tensor([4.0]), torch.tensor([0.0])).item()
    5.0
    """

    def __init__(self, reduction: str = "mean", eps: float = 1e-3):
        super().__init__()
        self.reduction, self.eps = reduction, eps

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        each = torch.sqrt((output - target).square() + self.eps**2)
        return each.mean() if self.reduction == "mean" else each.sum()


class ColorLoss(nn.Module):
    """L1 of both images averaged over boxes of 16 x 16 pixels: against a colour cast.

    Boxes at the right and bottom border may be smaller.

    Args:
        reduction: `mean` or `sum` over all elements of the averaged images.
    """

    def __init__(self, reduction: str = "mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        boxes = F.avg_pool2d(output - target, BOX, ceil_mode=True, count_include_pad=False)
        return boxes.abs().mean() if self.reduction == "mean" else boxes.abs().sum()


class SSIMLoss(nn.Module):
    """1 - SSIM of each image (Wang et al. 2004), for images in [0, 1] of at least 11 x 11 pixels.

    Args:
        reduction: `mean` or `sum` over the images.
    """

    unit_range = True

    def __init__(self, reduction: str = "mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        height, width = output.shape[-2:]
        if min(height, width) < WINDOW:
            why = f"its window has {WINDOW} x {WINDOW} pixels, the images {width} x {height}"
            raise UserError("the loss term ssim cannot be computed [--loss]", why, "raise --crop_size")
        return over_images(1 - ssim_map(output, target).flatten(1).mean(1), self.reduction)


class InUnitRange(nn.Module):
    """A loss for images in [0, 1], of images normalised by `mean` and `std`."""

    def __init__(self, loss: nn.Module, mean: float, std: float):
        super().__init__()
        self.loss, self.mean, self.std = loss, mean, std

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        value: Tensor = self.loss(*(denormalize(image, self.mean, self.std) for image in (output, target)))
        return value


Term = Callable[[Tensor, Tensor], Tensor]


def build_terms(
    weights: Mapping[str, float], reduction: str, mean: float, std: float, device: torch.device
) -> dict[str, tuple[float, Term]]:
    """(weight, loss between output and target) of each term that LOSSES has, by name.

    Args:
        mean, std: of the Normalize of the images.

    Raises:
        UserError: a pretrained network of a term is missing.
    """
    terms: dict[str, tuple[float, Term]] = {}
    for name in weights.keys() & LOSSES.keys():
        loss = LOSSES[name](reduction=reduction)
        if getattr(loss, "unit_range", False):
            loss = InUnitRange(loss, mean, std)
        terms[name] = weights[name], loss.to(device)
    return {name: terms[name] for name in weights if name in terms}
