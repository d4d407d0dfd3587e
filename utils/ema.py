"""The exponential moving average of a network's weights, or nothing at all, behind one interface."""

from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average:
    """Follows `net` with weights and buffers averaged by `decay`; with a decay of 0 it is `net` itself.

    Attributes:
        net: the bare network to evaluate and to save.
    """

    def __init__(self, net: nn.Module, decay: float):
        self.live = net
        self.model = (
            AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True) if decay else None
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
