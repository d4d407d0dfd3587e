"""Pixel losses between output and target, `(N, C, H, W)` in the network's range, reduced to a scalar."""

import torch
from torch import Tensor, nn
from torch.nn import L1Loss, MSELoss

__all__ = ["CharbonnierLoss", "L1Loss", "MSELoss"]


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
