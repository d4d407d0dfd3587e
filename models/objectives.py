"""Objectives: what turns (networks, batch) into named loss terms. train.py knows only this interface."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.adversary import Adversary, ImagePool
from models.discriminator import build_discriminator
from models.losses import build_terms
from models.terms import GanSettings
from utils.system.distributed import Ranks

Batch = dict[str, Any]  # "input" and "target": (N, C, H, W) in the network's range
DISCRIMINATOR_SEED = 1_000_000_007  # added to the seed of the run, times the number of the discriminator


class TurnSpec(NamedTuple):
    """One set of parameters that is trained in each step, with its own optimizer and its own loss.

    Args:
        name: "G" for the networks that are evaluated and saved.
        module: what is trained, wrapped for compilation and distribution.
        parameters: those that are trained.
        losses: computes the named terms of a batch, scalars whose sum is minimised.
        lr: base learning rate; None: that of the run.
    """

    name: str
    module: nn.Module
    parameters: list[nn.Parameter]
    losses: Callable[[Batch], dict[str, Tensor]]
    lr: float | None = None


class Objective(Protocol):
    """Owns what only training needs, such as discriminators; its state is a part of the run."""

    def turns(self) -> list[TurnSpec]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def unwrapped(net: nn.Module) -> nn.Module:
    return net


@dataclass(frozen=True)
class Task:
    """What an objective trains, and how.

    Args:
        nets: the bare networks by name: "net", and for --objective cycle "netBA", the way back.
        parameters: those of their parameters that are trained.
        loss: weights of the terms by name.
        ranks: the processes; the device of the networks.
        reduction: `mean` or `sum` over the elements of a batch.
        autocast: returns the context in which networks run; losses are computed outside, in float32.
        wrap: wraps a module for compilation and distribution.
        gan, seed: of the discriminators.
        channels: of inputs and targets.
        mean, std: of the Normalize of the images.
    """

    nets: Mapping[str, nn.Module]
    parameters: Sequence[nn.Parameter]
    loss: Mapping[str, float]
    ranks: Ranks
    reduction: str
    autocast: Callable[[], AbstractContextManager[Any]]
    wrap: Callable[[nn.Module], nn.Module] = unwrapped
    gan: GanSettings = GanSettings()  # noqa: RUF009 - never changed
    seed: int = 0
    channels: tuple[int, int] = (3, 3)
    mean: float = 0.5
    std: float = 0.5

    def adversary(self, channels: int, number: int = 0, pool: int = 0) -> Adversary:
        """A discriminator of images with so many channels.

        Args:
            number: of the discriminator in the run.
            pool: size of its pool, where --gan sets none.
        """
        seed = self.seed + (1 + number) * DISCRIMINATOR_SEED
        net = build_discriminator(channels, self.gan, seed).to(self.ranks.device)
        size = pool if self.gan.pool is None else self.gan.pool
        images = ImagePool(size, self.seed, number, self.ranks)
        return Adversary(net, self.gan, images, self.reduction, self.autocast)


class Paired:
    """Terms between `net(input)` and the target; with the term `gan` a second turn, the discriminator's.

    The discriminator sees the input beside the output: it judges pairs. Without `gan` there is no state.
    """

    def __init__(self, task: Task):
        self.task, self.model = task, task.wrap(task.nets["net"])
        self.terms = build_terms(task.loss, task.reduction, task.mean, task.std, task.ranks.device)
        self.adversary: Adversary | None = None
        if "gan" in task.loss:
            self.adversary = task.adversary(sum(task.channels))
            self.netD = task.wrap(self.adversary.net)

    def turns(self) -> list[TurnSpec]:
        turns = [TurnSpec("G", self.model, list(self.task.parameters), self.losses)]
        if self.adversary:
            parameters = list(self.adversary.net.parameters())
            turns.append(TurnSpec("D", self.netD, parameters, self.judge, self.task.gan.lr))
        return turns

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Run the network, keep its output as `batch["output"]`, and return the weighted terms by name."""
        with self.task.autocast():
            batch["output"] = self.model(batch["input"])
        output = batch["output"].float()
        found = {}
        for name, weight in self.task.loss.items():
            if name in self.terms:
                found[name] = weight * self.terms[name][1](output, batch["target"])
            elif self.adversary:
                found[name] = weight * self.adversary.generator_term(beside(batch["input"], output))
        return found

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """The discriminator's loss, after `losses` of the same batch; leaves `batch["watched"]`."""
        assert self.adversary
        given = batch["input"]
        images = self.adversary.pair(
            beside(given, batch["target"]), beside(given, batch["output"].detach().float())
        )
        with self.task.autocast():
            logits = self.netD(images)
        loss, batch["watched"] = self.adversary.discriminator_term(logits)
        return {"D": loss}

    def state_dict(self) -> dict[str, Any]:
        return {"D": self.adversary.state_dict()} if self.adversary else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.adversary:
            self.adversary.load_state_dict(state["D"])


def beside(given: Tensor, image: Tensor) -> Tensor:
    """The input, enlarged to the size of `image` where it is smaller, and the image: `(N, C + c, H, W)`."""
    if given.shape[-2:] != image.shape[-2:]:
        given = F.interpolate(given, image.shape[-2:], mode="bicubic", antialias=True)
    return torch.cat([given, image], 1)
