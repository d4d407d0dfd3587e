"""Networks, losses and objectives by name. Listing the names imports no torch; building one does.

To add a network: one file in this folder, one function here and its line in NETWORKS. The function's
keyword-only arguments are the network's flags and their defaults.
"""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

from models.zoo import RECOGNISED, SHORTHANDS, arch_defaults, architecture_of, pools_locally
from utils.system.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from models.objectives import Objective
    from models.run import load_run as load_run


def __getattr__(name: str) -> Any:
    """`load_run`, which imports torch, on its first use."""
    if name == "load_run":
        from models.run import load_run

        return load_run
    raise AttributeError(f"module 'models' has no attribute {name!r}")


def build_resnet(
    input_nc: int,
    output_nc: int,
    *,
    width: int = 64,
    depth: int = 9,
    norm: str = "instance",
    act: str = "relu",
    init: str = "normal",
    upsample: str = "transpose",
) -> "nn.Module":
    from models.resnet import ResNet

    return ResNet(input_nc, output_nc, width, depth, norm, act, init, upsample)


def build_unet(
    input_nc: int,
    output_nc: int,
    *,
    width: int = 64,
    depth: int = 5,
    norm: str = "instance",
    act: str = "leaky",
    init: str = "normal",
    upsample: str = "transpose",
) -> "nn.Module":
    from models.unet import UNet

    return UNet(input_nc, output_nc, width, depth, norm, act, init, upsample)


def build_dncnn(
    input_nc: int,
    output_nc: int,
    *,
    width: int = 64,
    depth: int = 17,
    norm: str = "batch",
    act: str = "relu",
    init: str = "kaiming",
) -> "nn.Module":
    from models.dncnn import DnCNN

    return DnCNN(input_nc, output_nc, width, depth, norm, act, init)


def build_resunet(
    input_nc: int,
    output_nc: int,
    *,
    width: int = 32,
    depth: int = 2,
    levels: int = 3,
    stem: int = 2,
    norm: str = "none",
    act: str = "relu",
    init: str = "kaiming",
) -> "nn.Module":
    from models.resunet import ResUNet

    return ResUNet(input_nc, output_nc, width, depth, levels, stem, norm, act, init)


def build_spandrel(input_nc: int, output_nc: int, *, weights: str | None = None) -> "nn.Module":
    """The architecture is recognised from the file `weights`, which is required."""
    from models.spandrel import SpandrelNet

    return SpandrelNet(input_nc, output_nc, weights)


def build_architecture(
    model: str, input_nc: int, output_nc: int, *, arch: str, weights: str | None = None, scale: int = 1
) -> "nn.Module":
    """A network of spandrel by name: of SHORTHANDS, or `spandrel:NAME`."""
    from models.spandrel import SpandrelNet

    return SpandrelNet(input_nc, output_nc, weights, architecture_of(model), arch, scale)


def l1_loss(*, reduction: str = "mean") -> "nn.Module":
    from models.losses import L1Loss

    return L1Loss(reduction=reduction)


def mse_loss(*, reduction: str = "mean") -> "nn.Module":
    from models.losses import MSELoss

    return MSELoss(reduction=reduction)


def charbonnier_loss(*, reduction: str = "mean") -> "nn.Module":
    from models.losses import CharbonnierLoss

    return CharbonnierLoss(reduction=reduction)


def ssim_loss(*, reduction: str = "mean") -> "nn.Module":
    from models.losses import SSIMLoss

    return SSIMLoss(reduction=reduction)


def color_loss(*, reduction: str = "mean") -> "nn.Module":
    from models.losses import ColorLoss

    return ColorLoss(reduction=reduction)


def lite0_loss(*, reduction: str = "mean") -> "nn.Module":
    from models.perceptual import FeatureDistance, Jittered, lite0_features

    return Jittered(FeatureDistance(lite0_features(), reduction=reduction))


def vgg_loss(*, reduction: str = "mean") -> "nn.Module":
    from models.perceptual import Jittered, VGGDistance, vgg_features

    return Jittered(VGGDistance(vgg_features(), reduction=reduction))


def paired_objective(*given: Any) -> "Objective":
    from models.objectives import Paired

    return Paired(*given)


def cycle_objective(*given: Any) -> "Objective":
    from models.cycle import Cycle

    return Cycle(*given)


NETWORKS: "dict[str, Callable[..., nn.Module]]" = {
    "resnet": build_resnet,
    "unet": build_unet,
    "dncnn": build_dncnn,
    "resunet": build_resunet,
    "spandrel": build_spandrel,
}
RESIDUAL = ("dncnn", "resunet")  # networks that predict a residual and add or subtract it themselves
NETWORK_NAMES = (
    *(name for name in NETWORKS if name != RECOGNISED),
    *SHORTHANDS,
    RECOGNISED,
)  # or spandrel:NAME

LOSSES: "dict[str, Callable[..., nn.Module]]" = {
    "l1": l1_loss,
    "mse": mse_loss,
    "charbonnier": charbonnier_loss,
    "ssim": ssim_loss,
    "color": color_loss,
    "lite0": lite0_loss,
    "vgg": vgg_loss,
}

OBJECTIVES: "dict[str, Callable[..., Objective]]" = {
    "paired": paired_objective,
    "cycle": cycle_objective,
}

NORMS = ("instance", "batch", "group", "none")
ACTIVATIONS = ("relu", "leaky", "silu")
INITS = ("normal", "xavier", "kaiming", "orthogonal")
UPSAMPLES = ("transpose", "resize")


def network_defaults(model: str) -> dict[str, Any]:
    """The flags of network `model` and their defaults.

    >>> network_defaults("spandrel")
    {'weights': None}
    >>> network_defaults("compact")
    {'arch': 'num_feat=32, num_conv=8', 'weights': None}
    """
    if model not in NETWORKS:
        return {"arch": arch_defaults(model), "weights": None}
    arguments = signature(NETWORKS[model]).parameters.values()
    return {each.name: each.default for each in arguments if each.kind is each.KEYWORD_ONLY}


def own_arguments(model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `build_network` for `model`, taken from a run's options (flag name -> value).

    A flag that an older run did not have, or that is None, takes the network's default.
    """
    own = network_defaults(model)
    own |= {flag: options[flag] for flag in own if options.get(flag) is not None}
    channels = {"input_nc": options["input_nc"], "output_nc": options["output_nc"]}
    crop = options.get("crop_size") or options.get("size")
    common = {"scale": options.get("scale") or 1, "residual": options.get("residual", False), "crop": crop}
    return own | channels | common


def network_builder(model: str, scale: int) -> "Callable[..., nn.Module]":
    """The function that builds a network of input_nc, output_nc and `network_defaults(model)`."""
    return NETWORKS[model] if model in NETWORKS else partial(build_architecture, model, scale=scale)


def build_network(
    model: str, *, scale: int = 1, residual: bool = False, crop: int | None = None, **arguments: Any
) -> "nn.Module":
    """Build an initialised network.

    Args:
        model: a key of NETWORKS or of SHORTHANDS, or spandrel:NAME.
        scale: output size / input size; a network that keeps the size gets its input enlarged.
        residual: the network predicts the degradation, which is subtracted from its input.
        crop: side in pixels of the targets that it is trained on, and of the windows of `tlc=True` in `arch`.
        arguments: `input_nc`, `output_nc`, and any of `network_defaults(model)`.

    Raises:
        UserError: `residual` is redundant for this network, or input and output differ in channels or size.
    """
    input_nc, output_nc = arguments["input_nc"], arguments["output_nc"]
    if residual and model in RESIDUAL:
        what = f"--residual is redundant with --model {model}"
        raise UserError(what, f"{model} already predicts the residual", "drop --residual")
    if residual and input_nc not in (1, output_nc):
        what = "--residual needs a gray input or as many input as output channels"
        raise UserError(what, f"--input_nc {input_nc}, --output_nc {output_nc}", "drop --residual")
    from models.layers import size_of
    from models.pooling import pool_locally
    from models.wrappers import Residual, Upscale

    net = network_builder(model, scale)(**arguments)
    upscales = size_of(net).scale > 1
    if residual and upscales:
        what = f"--residual needs an output of the input's size, which --model {model} enlarges"
        raise UserError(what, f"{size_of(net).scale} times in both directions", "drop --residual")
    if pools_locally(arguments.get("arch", "")):
        pool_locally(net, arguments["input_nc"], crop and max(1, crop // size_of(net).scale))
    net = Residual(net) if residual else net
    return Upscale(net, scale) if scale > 1 and not upscales else net
