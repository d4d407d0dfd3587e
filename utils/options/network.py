"""The flags of a network: the defaults of the one that was chosen."""

import os
import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models import network_defaults
from models.zoo import AUTO, RECOGNISED, complete_arch, is_zoo
from utils.options.flags import NETWORK_FLAGS
from utils.system.errors import UserError


def resolve_network(opt: Namespace, given: set[str]) -> None:
    """Fill in the network's own defaults, in place.

    Args:
        given: names of the flags that were typed.

    Raises:
        UserError: a flag that the network does not have, or no --weights to recognise it by.
    """
    own = network_defaults(opt.model)
    if "arch" in own and opt.weights:
        own["arch"] = AUTO  # published weights have the shape that they have
    for name in NETWORK_FLAGS:
        if name not in own and name in given:
            raise UserError(f"--model {opt.model} has no --{name}", fix=f"it has {', '.join(own)}")
        if name in own and getattr(opt, name, None) is None:
            setattr(opt, name, own[name])
    if (opt.model == RECOGNISED or getattr(opt, "arch", None) == AUTO) and not opt.weights:
        fix = "name the file of the network, or choose its architecture by --model"
        raise UserError(f"--model {opt.model} needs --weights", "it is recognised by them", fix)
    mean, std = (0.0, 1.0) if is_zoo(opt.model) else (0.5, 0.5)
    opt.mean = mean if opt.mean is None else opt.mean
    opt.std = std if opt.std is None else opt.std


def complete(typed: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The typed flags, with --arch over the arguments of its network's short name.

    Args:
        before: the options that those typed override.
    """
    if "arch" not in typed:
        return typed
    model = typed.get("model") or before["model"]
    return typed | {"arch": complete_arch(model, typed["arch"])}


def default_name(dataroot: str, model: str) -> str:
    """`<folder of the data>_<model>`, of letters that a folder name takes anywhere."""
    folder = Path(os.path.realpath(dataroot.split(":")[0])).name.removesuffix(".csv")  # links may loop
    return re.sub(r"[^\w.\-=+]", "_", f"{folder}_{model}")
