"""Networks, losses and initialisations by name. PairList them imports no torch; building one does.

To add a network: one file in this folder, one line in NETWORKS. The keywords of the line are its own flags
and their defaults; a flag that a network does not name is refused for it.
"""

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from utils.system.errors import UserError

if TYPE_CHECKING:
    from torch import nn


def _build(module: str, name: str, **arguments: Any) -> Any:
    return getattr(import_module(f"models.{module}"), name)(**arguments)


NETWORKS = {
    "resnet": partial(
        _build,
        "resnet",
        "ResNet",
        width=64,
        depth=9,
        norm="instance",
        act="relu",
        init="normal",
        upsample="transpose",
    ),
    "unet": partial(_build, "unet", "UNet", width=64, depth=5, norm="instance", act="leaky", init="normal"),
    "dncnn": partial(_build, "dncnn", "DnCNN", width=64, depth=17, norm="batch", act="relu", init="kaiming"),
    "resunet": partial(
        _build,
        "resunet",
        "ResUNet",
        width=32,
        depth=2,
        levels=3,
        stem=2,
        norm="none",
        act="relu",
        init="kaiming",
    ),
    "spandrel": partial(_build, "spandrel", "Zoo", weights=None),  # whatever network the weights are of
}

RESIDUAL = ("dncnn", "resunet")  # networks that subtract or add to their input themselves
UNIT_RANGE = ("spandrel",)  # networks of images in [0, 1]: mean 0, std 1 unless told

LOSSES = {
    "l1": partial(_build, "losses", "L1Loss"),
    "mse": partial(_build, "losses", "MSELoss"),
    "charbonnier": partial(_build, "losses", "CharbonnierLoss"),
}

NORMS = ("instance", "batch", "group", "none")
ACTIVATIONS = ("relu", "leaky", "silu")
INITS = ("normal", "xavier", "kaiming", "orthogonal")
UPSAMPLES = ("transpose", "resize")


def network_defaults(model: str) -> dict[str, Any]:
    """The flags that network `model` has, with its own default for each."""
    return dict(NETWORKS[model].keywords)


def own_arguments(model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `build_network` that `options` (of a run, by their flags' names) hold for `model`."""
    own = {flag: options[flag] for flag in network_defaults(model)}
    channels = {"input_nc": options["input_nc"], "output_nc": options["output_nc"]}
    return own | channels | {"scale": options.get("scale") or 1, "residual": options.get("residual", False)}


def build_network(model: str, *, scale: int = 1, residual: bool = False, **arguments: Any) -> "nn.Module":
    """Build an initialised network.

    Args:
        model: a key of NETWORKS.
        scale: the output is so many times larger than the input.
        residual: its output is what has to be subtracted from the input.
        arguments: `input_nc`, `output_nc`, and all of `network_defaults(model)`.

    Raises:
        UserError: `residual` where the output cannot be subtracted from the input, or already is.
    """
    if residual and model in RESIDUAL:
        raise UserError(f"--residual means nothing for --model {model}", "it does so itself", "leave it out")
    if residual and arguments["input_nc"] not in (1, arguments["output_nc"]):
        channels = f"{arguments['input_nc']} channels in, {arguments['output_nc']} out"
        raise UserError("--residual has nothing to subtract from", channels, "leave it out")
    from models.layers import enlarge_input, size_of, subtract_output

    net = NETWORKS[model](**arguments)
    if residual and size_of(net).scale > 1:
        raise UserError("--residual wants an output of the input's size", f"--model {model} enlarges")
    if scale > 1 and size_of(net).scale == 1:  # one that does not enlarge by itself
        enlarge_input(net, scale)
    if residual:
        subtract_output(net)
    return net
