"""Layers that several networks share, each by the name that its flag has."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F


def norm_layer(norm: str, channels: int) -> nn.Module:
    """`instance` (no parameters, as in pix2pix), `batch`, `group` (8 at most) or `none`."""
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
    """Initialise convolutions: `normal` (std .02), `xavier`, `kaiming` (fan-in), `orthogonal`; biases 0."""
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
    """Let a convolution's output start at 0, so that a residual branch starts as the identity."""
    assert isinstance(conv, nn.Conv2d)
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class SizeRequirements(NamedTuple):
    """What a network wants of the sides of its input, and the size of its output; networks pad by themselves.

    Args:
        multiple: height and width are padded to a multiple of this.
        minimum: and at least to this many pixels.
        scale: output size / input size.
    """

    multiple: int = 1
    minimum: int = 1
    scale: int = 1


def size_of(net: nn.Module) -> SizeRequirements:
    """The size requirements a network states as `net.size`; none for a foreign module."""
    return getattr(net, "size", SizeRequirements())


def pad_to(x: Tensor, size: SizeRequirements) -> Tensor:
    """Pad `(N, C, H, W)` at the right and the bottom to the next multiple, at least to the minimum.

    Reflects where the image is large enough, else repeats the border.
    """
    height, width = x.shape[-2:]
    down, right = (-(-max(n, size.minimum) // size.multiple) * size.multiple - n for n in (height, width))
    if not (down or right):
        return x
    mode = "reflect" if down < height and right < width else "replicate"
    return F.pad(x, (0, right, 0, down), mode=mode)


def residual_base(x: Tensor, channels: int) -> Tensor | float:
    """What a residual output is added to: the input, its gray repeated for more channels, or nothing."""
    if x.shape[1] == channels:
        return x
    return x.expand(-1, channels, -1, -1) if x.shape[1] == 1 else 0.0


def enlarge_input(net: nn.Module, scale: int) -> None:
    """Let a network of equal sizes super-resolve: its input is enlarged `scale` times, bicubic, before it.

    By a hook, so that the names of its weights stay. The kernel (antialiased, a = -0.5) is that of Pillow
    and MATLAB.
    """
    net.register_forward_pre_hook(partial(_enlarge, scale))
    net.size = size_of(net)._replace(scale=scale)  # type: ignore[assignment]


def _enlarge(scale: int, net: nn.Module, args: tuple[Tensor]) -> Tensor:
    height, width = (side * scale for side in args[0].shape[-2:])
    return F.interpolate(args[0], (height, width), mode="bicubic", antialias=True)


def subtract_output(net: nn.Module) -> None:
    """Let a network that predicts what is wrong with its input (noise, rain) give the image instead."""
    net.register_forward_hook(_subtract)


def _subtract(net: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    return residual_base(args[0], output.shape[1]) - output


class ResidualBlock(nn.Module):
    """x + conv(act(norm(conv(x)))) and a second norm, at one width.

    Args:
        channels: width in and out.
        padding: of both convolutions, `zeros` or `reflect`.
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
