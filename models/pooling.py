"""Test-time local converter: global average pooling over windows of the size that was trained on.

A network with channel attention sees the mean of a crop in training and that of a whole image later. Pooling
over windows as large as the crop removes the difference without training (X. Chu et al., arXiv 2112.04491).
"""

from typing import Any

import torch
from torch import Tensor, nn

from models.predictor import eval_mode
from utils.system.errors import UserError

EXAMPLE_SIDE = 64  # pixels of the image on which the sizes of feature maps are measured


class LocalPool(nn.Module):
    """Average `(N, C, H, W)` over windows: `(N, C, 1, 1)` where one window holds all, else `(N, C, H, W)`.

    In training mode the window is the whole image, as in `nn.AdaptiveAvgPool2d(1)`. A window at the border is
    the one nearest to it that lies inside.

    Args:
        window: height and width in pixels of the feature map.
    """

    def __init__(self, window: tuple[int, int]):
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        symbolic = any(isinstance(side, torch.SymInt) for side in x.shape[2:])
        if self.training or (not symbolic and x.shape[2] <= self.window[0] and x.shape[3] <= self.window[1]):
            return x.mean((2, 3), keepdim=True)
        pooled = x.float()
        for dim, side in zip((2, 3), self.window, strict=True):
            pooled = running_mean(pooled, dim, side)
        return pooled.to(x.dtype)

    def extra_repr(self) -> str:
        return f"window={self.window}"


def running_mean(x: Tensor, dim: int, side: int) -> Any:
    """The mean of at most `side` neighbours along `dim`, at every place; of the shape of `x`."""
    length = x.shape[dim]
    count = torch.sym_min(side, length)
    first = (torch.arange(length, device=x.device) - count // 2).clamp(min=0, max=length - count)
    sums = x.cumsum(dim)
    ends = sums.index_select(dim, first + (count - 1))
    starts = (sums - x).index_select(dim, first)  # the sum of all before the window
    return (ends - starts) / count


def pool_locally(net: nn.Module, channels: int, crop: int | None) -> None:
    """Replace global pooling in the channel attention of `net`, in place; the names of weights stay.

    Replaced is an `nn.AdaptiveAvgPool2d(1)` at the head of a Sequential whose other layers keep any size.

    Args:
        channels: of the input of `net`.
        crop: side in pixels of the inputs that `net` is trained on.

    Raises:
        UserError: no crop, or no such pooling.
    """
    if crop is None:
        raise UserError("tlc=True needs --crop_size [--arch]", "it is the size of the windows")
    found: list[Any] = [module for module in net.modules() if is_attention(module)]
    if not found:
        raise UserError("tlc=True has no effect [--arch]", "the network has no global pooling", "drop it")
    sizes: dict[nn.Module, tuple[int, int]] = {}
    hooks = [
        each[0].register_forward_pre_hook(lambda pool, given: sizes.update({pool: given[0].shape[2:]}))
        for each in found
    ]
    with torch.no_grad(), eval_mode(net):
        net(torch.zeros(1, channels, EXAMPLE_SIDE, EXAMPLE_SIDE))
    for hook in hooks:
        hook.remove()
    for each in found:
        if each[0] in sizes:
            height, width = (max(1, round(crop * side / EXAMPLE_SIDE)) for side in sizes[each[0]])
            each[0] = LocalPool((height, width)).train(each.training)


def is_attention(module: nn.Module) -> bool:
    """Whether a module pools globally, then computes each place on its own."""
    if not isinstance(module, nn.Sequential) or not len(module):
        return False
    pool, *rest = module
    if not isinstance(pool, nn.AdaptiveAvgPool2d) or pool.output_size not in (1, (1, 1)):
        return False
    return all(
        each.kernel_size == (1, 1) if isinstance(each, nn.Conv2d) else is_activation(each) for each in rest
    )


def is_activation(module: nn.Module) -> bool:
    return isinstance(module, (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Hardsigmoid))
