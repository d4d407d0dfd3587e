"""Objectives: from networks and a batch to named loss terms, one group of terms for each optimizer."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from models import LOSSES


class TurnSpec(NamedTuple):
    """What one optimizer trains, and by which losses.

    Args:
        name: such as "G", the generator.
        module: what computes the outputs, wrapped for compilation and several processes.
        parameters: those that are trained.
        losses: a batch to scalar loss terms by name; may leave its outputs in the batch.
    """

    name: str
    module: nn.Module
    parameters: list[nn.Parameter]
    losses: Callable[[dict[str, Any]], dict[str, Tensor]]


class Objective(Protocol):
    """What train.py needs of an objective."""

    def turns(self) -> list[TurnSpec]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Paired:
    """A pixel loss between the output and the target: one turn, no state.

    Args:
        model: the network, wrapped for training.
        parameters: of the network, those that are trained.
        loss: a key of LOSSES.
        reduction: `mean` or `sum` over pixels and images.
        autocast: makes the context in which the network runs; the loss is computed in float32.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[nn.Parameter],
        loss: str,
        reduction: str,
        autocast: Callable[[], AbstractContextManager[Any]],
    ):
        self.model, self.parameters, self.name = model, list(parameters), loss
        self.criterion, self.autocast = LOSSES[loss](reduction=reduction), autocast

    def turns(self) -> list[TurnSpec]:
        return [TurnSpec("G", self.model, self.parameters, self.losses)]

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Loss terms of `input` and `target`, `(N, C, H, W)`; leaves the network's `output` in the batch."""
        with self.autocast():
            batch["output"] = self.model(batch["input"])
        return {self.name: self.criterion(batch["output"].float(), batch["target"])}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


OBJECTIVES = {"paired": Paired}
