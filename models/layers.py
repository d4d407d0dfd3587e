"""Layers that several networks share; norms, activations and inits by the values of their flags."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.system.distributed import Ranks


def norm_layer(norm: str, channels: int) -> nn.Module:
    """`instance` (no parameters, as in pix2pix), `batch`, `group` (at most 8 groups) or `none`."""
    layers: dict[str, Callable[[], nn.Module]] = {
        "instance": lambda: nn.InstanceNorm2d(channels),
        "batch": lambda: nn.BatchNorm2d(channels),
        "group": lambda: nn.GroupNorm(
            next((g for g in (8, 4, 2) if channels % g == 0 and channels > g), 1), channels
        ),
        "none": nn.Identity,
    }
    return layers[norm]()


def act_layer(act: str) -> nn.Module:
    """`relu`, `leaky` (slope 0.2) or `silu`."""
    layers: dict[str, Callable[[], nn.Module]] = {
        "relu": lambda: nn.ReLU(inplace=True),
        "leaky": lambda: nn.LeakyReLU(0.2, inplace=True),
        "silu": lambda: nn.SiLU(inplace=True),
    }
    return layers[act]()


def init_weights(net: nn.Module, init: str) -> None:
    """Initialise convolutions: `normal` (std 0.02), `xavier`, `kaiming` (fan-in), `orthogonal`; biases 0."""
    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        "normal": lambda weight: nn.init.normal_(weight, 0.0, 0.02),
        "xavier": nn.init.xavier_normal_,
        "kaiming": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
        "orthogonal": nn.init.orthogonal_,
    }
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            kinds[init](module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def zero_weights(conv: nn.Module) -> None:
    """Set a convolution's weight and bias to 0, so that a residual branch starts as the identity."""
    assert isinstance(conv, nn.Conv2d)
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class SizeRequirements(NamedTuple):
    """Requirements on height and width of a network's input, and its scale. Networks pad by themselves.

    Args:
        multiple: height and width are padded to a multiple of this.
        minimum: height and width are padded at least to this many pixels.
        scale: output size / input size.
    """

    multiple: int = 1
    minimum: int = 1
    scale: int = 1


def size_of(net: nn.Module) -> SizeRequirements:
    """The requirements a network states as `net.size`; the defaults for any other module."""
    return getattr(net, "size", SizeRequirements())


def pad_to(x: Tensor, size: SizeRequirements) -> Tensor:
    """Pad `(N, C, H, W)` at the right and bottom to the next multiple, at least to the minimum.

    By reflection where the image is large enough, else by repeating the border.
    """
    height, width = x.shape[-2:]
    if isinstance(height, torch.SymInt) or isinstance(width, torch.SymInt):
        return _pad_symbolic(x, size)
    down, right = (-(-max(n, size.minimum) // size.multiple) * size.multiple - n for n in (height, width))
    if not (down or right):
        return x
    mode = "reflect" if down < height and right < width else "replicate"
    return F.pad(x, (0, right, 0, down), mode=mode)


def _pad_symbolic(x: Tensor, size: SizeRequirements) -> Tensor:
    """`pad_to` while `torch.export` traces any height and width: no branch depends on them.

    Padding is an index into the rows and columns.
    """
    units = -(-size.minimum // size.multiple)
    reflected, repeated = [], []
    for n in x.shape[-2:]:
        count = (n + size.multiple - 1) // size.multiple  # positive: ONNX divides towards 0
        padded = (torch.sym_max(count, units) if units > 1 else count) * size.multiple
        at = torch.arange(padded, device=x.device)
        reflected.append(torch.where(at < n, at, 2 * (n - 1) - at))
        repeated.append(at.clamp(max=n - 1))
    large_enough = (reflected[0] >= 0).all() & (reflected[1] >= 0).all()
    rows, columns = (torch.where(large_enough, *pair) for pair in zip(reflected, repeated, strict=True))
    return x.index_select(2, rows).index_select(3, columns)


def crop_to(x: Tensor, height: int, width: int) -> Tensor:
    """The top left part of `(N, C, H, W)`: what `pad_to` added is removed."""
    if isinstance(height, torch.SymInt) or isinstance(width, torch.SymInt):  # a slice would depend on them
        rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
        return x.index_select(2, rows).index_select(3, columns)
    return x[..., :height, :width]


def residual_base(x: Tensor, channels: int) -> Tensor | float:
    """The base that a residual of `channels` channels is added to.

    Returns:
        The input itself, a gray input repeated over `channels`, or 0.0 where neither fits.
    """
    if x.shape[1] == channels:
        return x
    return x.expand(-1, channels, -1, -1) if x.shape[1] == 1 else 0.0


def sync_batchnorm(net: nn.Module, ranks: Ranks) -> str:
    """Compute batch-norm statistics over all processes on GPUs, in place; weight names and values stay.

    Returns:
        A note that the statistics are per process (on CPUs, where torch has no SyncBatchNorm), else "".
    """
    if ranks.world == 1 or not any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
        return ""
    if ranks.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(net)
        return ""
    return f"batch-norm statistics are per process on a CPU, not over all {ranks.world}"


class ResidualBlock(nn.Module):
    """x + norm(conv(act(norm(conv(x))))), `(N, channels, H, W)` to the same shape.

    Args:
        channels: of input and output.
        padding: of both 3 x 3 convolutions, `zeros` or `reflect`.
    """

    def __init__(self, channels: int, norm: str, act: str, padding: str = "zeros"):
        super().__init__()
        self.body = nn.Sequential(
            *self.conv(channels, padding),
            norm_layer(norm, channels),
            act_layer(act),
            *self.conv(channels, padding),
            norm_layer(norm, channels),
        )

    @staticmethod
    def conv(channels: int, padding: str) -> list[nn.Module]:
        if padding == "reflect":
            return [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3)]
        return [nn.Conv2d(channels, channels, 3, padding=1)]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)
