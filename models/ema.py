"""The exponential moving average of a network's weights, or nothing at all, behind one interface."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


def warmed(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """What AveragedModel does to tensors of one kind after `n` averages: a decay of
    min(decay, (1 + n) / (10 + n)).

    The smaller decay at first (as in TensorFlow's ExponentialMovingAverage with num_updates) lets a short
    run forget its initial weights.
    """

    def update(averaged: Tensors, current: Tensors, n: Tensor | int) -> None:
        if not averaged[0].is_floating_point():  # the counts of batch norms
            torch._foreach_copy_(averaged, current)
            return
        n = torch.as_tensor(n)
        keep = ((1 + n) / (10 + n)).clamp(max=decay)
        if keep.device.type == "cpu":
            torch._foreach_lerp_(averaged, current, 1 - keep.item())
        else:  # without a host read
            torch._foreach_mul_(averaged, keep)
            torch._foreach_add_(averaged, torch._foreach_mul(current, 1 - keep))

    return update


class EMA:
    """Follows `net` with weights and buffers averaged by `decay`, or with a decay of 0 is `net` itself.

    Attributes:
        net: the bare network to evaluate and to save.
    """

    def __init__(self, net: nn.Module, decay: float):
        self.live = net
        self.model = AveragedModel(net, multi_avg_fn=warmed(decay), use_buffers=True) if decay else None
        self.net: nn.Module = self.model.module if self.model else net

    def update(self) -> None:
        if self.model:
            self.model.update_parameters(self.live)

    def state_dict(self) -> dict[str, Any]:
        return self.model.state_dict() if self.model else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.model:
            self.model.load_state_dict(state)
