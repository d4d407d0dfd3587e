"""EMA of the weights; a no-op when the decay is 0."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def ema_with_warmup(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """The update of AveragedModel for a decay of min(decay, (1 + n) / (10 + n)) after `n` updates.

    The smaller decay at first (as in TensorFlow's ExponentialMovingAverage with num_updates) lets a short
    run forget its initial weights. Integer buffers (the batch counts of batch norms) are copied.
    """

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], n: Tensor | int) -> None:
        n = torch.as_tensor(n)  # AveragedModel moves it to the tensors' device: no host read
        step = 1 - ((1 + n) / (10 + n)).clamp(max=decay)
        for average, value in zip(averaged, current, strict=True):
            if average.is_floating_point():
                average.lerp_(value, step.to(average.dtype))
            else:
                average.copy_(value)

    return update


class EMA:
    """Exponential moving average of the weights and buffers of `net`.

    Args:
        net: the network that is trained.
        decay: share of the average that each update keeps; 0 turns averaging off.

    Attributes:
        net: the averaged network, to evaluate and to save; `net` itself when the decay is 0.
    """

    def __init__(self, net: nn.Module, decay: float):
        self.live = net
        self.model = (
            AveragedModel(net, multi_avg_fn=ema_with_warmup(decay), use_buffers=True) if decay else None
        )
        self.net: nn.Module = self.model.module if self.model else net

    def update(self) -> None:
        if self.model:
            self.model.update_parameters(self.live)

    def state_dict(self) -> dict[str, Any]:
        return self.model.state_dict() if self.model else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.model:
            self.model.load_state_dict(state)
