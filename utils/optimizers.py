"""Optimizers by name."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    Parameters = Iterable[nn.Parameter]
    Betas = tuple[float, float]


def adam(params: "Parameters", lr: float, betas: "Betas", momentum: float, decay: float) -> "Optimizer":
    from torch.optim import Adam

    return Adam(params, lr, betas, weight_decay=decay)


def adamw(params: "Parameters", lr: float, betas: "Betas", momentum: float, decay: float) -> "Optimizer":
    from torch.optim import AdamW

    return AdamW(params, lr, betas, weight_decay=decay)


def sgd(params: "Parameters", lr: float, betas: "Betas", momentum: float, decay: float) -> "Optimizer":
    from torch.optim import SGD

    return SGD(params, lr, momentum=momentum, weight_decay=decay)


def rmsprop(params: "Parameters", lr: float, betas: "Betas", momentum: float, decay: float) -> "Optimizer":
    from torch.optim import RMSprop

    return RMSprop(params, lr, momentum=momentum, weight_decay=decay)


OPTIMIZERS = {"adam": adam, "adamw": adamw, "sgd": sgd, "rmsprop": rmsprop}
