"""Networks, losses and initialisations by name. Listing them imports no torch; building one does.

To add a network: one file in this folder, one line in NETWORKS. The keywords of the line are its own flags
and their defaults; a flag that a network does not name is refused for it.
"""

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

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
}

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


def own_arguments(model: str, options: dict[str, Any]) -> dict[str, Any]:
    """Those of `options` that network `model` takes."""
    return {flag: options[flag] for flag in network_defaults(model)}


def build_network(model: str, **arguments: Any) -> "nn.Module":
    """Build an initialised network.

    Args:
        model: a key of NETWORKS.
        arguments: `input_nc`, `output_nc`, and any of `network_defaults(model)`.
    """
    return NETWORKS[model](**arguments)
