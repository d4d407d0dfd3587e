"""Optimizers by name, fused where torch supports it; and freezing parameters."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from utils.system.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    Parameters = Iterable[nn.Parameter]
    Betas = tuple[float, float]


def adam(params: "Parameters", lr: float, betas: "Betas", momentum: float, decay: float) -> "Optimizer":
    from torch.optim import Adam

    return _fused(Adam(params, lr, betas, weight_decay=decay, fused=True))


def adamw(params: "Parameters", lr: float, betas: "Betas", momentum: float, decay: float) -> "Optimizer":
    from torch.optim import AdamW

    return _fused(AdamW(params, lr, betas, weight_decay=decay, fused=True))


def sgd(params: "Parameters", lr: float, betas: "Betas", momentum: float, decay: float) -> "Optimizer":
    from torch.optim import SGD

    return _fused(SGD(params, lr, momentum=momentum, weight_decay=decay, fused=True))


def rmsprop(params: "Parameters", lr: float, betas: "Betas", momentum: float, decay: float) -> "Optimizer":
    from torch.optim import RMSprop

    return RMSprop(params, lr, momentum=momentum, weight_decay=decay)


def muon(params: "Parameters", lr: float, betas: "Betas", momentum: float, decay: float) -> "Optimizer":
    """Orthogonalized steps for the weights of hidden layers, AdamW for all others; see `utils.optim.muon`.

    A weight of shape `(out, in, ...)` with at least 16 channels on both sides is a matrix of `out` rows; its
    step is the Nesterov momentum with all singular values near 1, times sqrt(max(1, rows / columns)).
    """
    from utils.optim.muon import Muon

    return _fused(Muon(params, lr, betas, momentum, decay))


def _fused(optimizer: "Optimizer") -> "Optimizer":
    """Give loaded state the memory layout of its parameter: fused kernels ignore strides."""
    import torch

    def lay_out(optimizer: "Optimizer") -> None:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    optimizer.register_load_state_dict_post_hook(lay_out)
    return optimizer


def freeze(net: "nn.Module", pattern: str | None) -> "list[nn.Parameter]":
    """Freeze the parameters whose name matches the regex `pattern`; return the others.

    Raises:
        UserError: the pattern matches none, or all.
    """
    names = [name for name, _ in net.named_parameters()]
    frozen = {name for name in names if pattern and re.search(pattern, name)}
    if pattern and len(frozen) in (0, len(names)):
        which = "no parameter" if not frozen else "every parameter"
        raise UserError(f"--freeze {pattern} matches {which}", f"names are such as {names[0]}, {names[-1]}")
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


OPTIMIZERS = {"adam": adam, "adamw": adamw, "sgd": sgd, "rmsprop": rmsprop, "muon": muon}
