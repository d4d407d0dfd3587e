"""Objectives: what turns (networks, batch) into named loss terms. train.py knows only this interface."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from models import LOSSES

Batch = dict[str, Any]  # "input" and "target": (N, C, H, W) in the network's range


class TurnSpec(NamedTuple):
    """One set of parameters that is trained in each step, with its own optimizer and its own loss.

    Args:
        name: "G" for the network that is evaluated and saved.
        module: what is trained, wrapped for compilation and distribution.
        parameters: those that are trained.
        losses: computes the named terms of a batch, scalars whose sum is minimised.
    """

    name: str
    module: nn.Module
    parameters: list[nn.Parameter]
    losses: Callable[[Batch], dict[str, Tensor]]


class Objective(Protocol):
    """What train.py needs: the turns of a step, in order, and the state to save and restore."""

    def turns(self) -> list[TurnSpec]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Paired:
    """Pixel loss between `model(input)` and the target: one turn, no state.

    Args:
        model: the network, wrapped for compilation and distribution.
        parameters: those of its parameters that are trained.
        loss: a key of LOSSES.
        reduction: `mean` or `sum` over the elements of a batch.
        autocast: returns the context in which the network runs; the loss is computed outside, in float32.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[nn.Parameter],
        loss: str,
        reduction: str,
        autocast: Callable[[], AbstractContextManager[Any]],
    ):
        self.model, self.parameters = model, list(parameters)
        self.loss, self.criterion = loss, LOSSES[loss](reduction=reduction)
        self.autocast = autocast

    def turns(self) -> list[TurnSpec]:
        return [TurnSpec("G", self.model, self.parameters, self.losses)]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Run the network, keep its output as `batch["output"]`, and return the loss by its name."""
        with self.autocast():
            batch["output"] = self.model(batch["input"])
        return {self.loss: self.criterion(batch["output"].float(), batch["target"])}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


OBJECTIVES: dict[str, Callable[..., Objective]] = {"paired": Paired}
