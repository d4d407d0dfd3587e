"""Turns: the optimizers of a step, each with its parameters, losses and scheduler."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from utils.optim.schedules import Schedule


class Spec(Protocol):
    """What an objective says of a turn; see `models.objectives.TurnSpec`."""

    @property
    def name(self) -> str: ...
    @property
    def module(self) -> nn.Module: ...
    @property
    def parameters(self) -> list[nn.Parameter]: ...
    @property
    def losses(self) -> Callable[[dict[str, Any]], dict[str, Tensor]]: ...
    @property
    def lr(self) -> float | None: ...


class Turn(NamedTuple):
    """One of the optimizers that step after all gradients are computed; a plain run has one.

    Args:
        came_to: the learning rate that the optimizer had, which in a resumed run is that of its state.
    """

    name: str
    module: nn.Module
    parameters: list[nn.Parameter]
    losses: Callable[[dict[str, Any]], dict[str, Tensor]]
    optimizer: Optimizer
    scheduler: LRScheduler
    came_to: float

    @property
    def lr(self) -> float:
        """Learning rate of the step that comes next, or, before the scheduler steps, that was just taken."""
        return float(self.scheduler.get_last_lr()[0])

    @property
    def lr_change(self) -> str:
        """A line about a resumed run that continues at another learning rate, else ""."""
        now, before = f"{self.lr:.2e}", f"{self.came_to:.2e}"
        return f"lr      {now} (of the saved state: {before})" if now != before else ""


def build_turns(specs: Sequence[Spec], optimizers: Mapping[str, Optimizer], schedule: Schedule) -> list[Turn]:
    """The turns of a run; each learning rate stands where the schedule's horizon stands.

    Args:
        optimizers: by the names of the turns.
    """
    turns = []
    for spec in specs:
        optimizer = optimizers[spec.name]
        came_to = optimizer.param_groups[0]["lr"]
        scheduler = replace(schedule, lr=spec.lr or schedule.lr).scheduler(optimizer)
        turns.append(
            Turn(spec.name, spec.module, spec.parameters, spec.losses, optimizer, scheduler, came_to)
        )
    return turns


def terms_of_step(micro_batches: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """What a step logs besides its loss: means over its micro-batches, on the device.

    `loss_<term>` of each term, where there are several in the step, and what the objective watches.

    Args:
        micro_batches: with "terms", the weighted terms by the name of their turn, and perhaps "watched".
    """
    found: dict[str, list[Tensor]] = {}
    for micro in micro_batches:
        terms = {f"loss_{name}": value for turn in micro["terms"].values() for name, value in turn.items()}
        shown = (terms if len(terms) > 1 else {}) | micro.get("watched", {})
        for name, value in shown.items():
            found.setdefault(name, []).append(value.detach().float())
    return {name: torch.stack(values).mean() for name, values in found.items()}
