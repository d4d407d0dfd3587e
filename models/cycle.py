"""CycleGAN (Zhu et al. 2017): two networks between two sets of images without pairs."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from models.adversary import Adversary
from models.objectives import Batch, Task, TurnSpec
from utils.system.errors import UserError

POOL_SIZE = 50  # images, as in the paper


class Generators(nn.Module):
    """Both networks, run in one forward pass, so that one wrapper serves both.

    Args:
        identity: whether each network also runs on images of the set that it translates into.
    """

    def __init__(self, net: nn.Module, netBA: nn.Module, identity: bool):
        super().__init__()
        self.net, self.netBA, self.identity = net, netBA, identity

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        """Return A to B, B to A, A to B to A, B to A to B; with identity `net(b)` and `netBA(a)`, too."""
        fake_b, fake_a = self.net(a), self.netBA(b)
        back_a, back_b = self.netBA(fake_b), self.net(fake_a)
        same = (self.net(b), self.netBA(a)) if self.identity else ()
        return fake_b, fake_a, back_a, back_b, *same


class Discriminators(nn.Module):
    """Both discriminators, run in one forward pass."""

    def __init__(self, a: nn.Module, b: nn.Module):
        super().__init__()
        self.a, self.b = a, b

    def forward(self, a: Tensor, b: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return self.a(a), self.b(b)


class Cycle:
    """Two turns: both generators, then both discriminators. A batch has images of A and of B.

    The terms are `gan`, `cycle` (L1 between an image and itself after both networks) and `identity` (L1
    between an image and the output of the network that translates into its set), each summed over both ways.

    Raises:
        UserError: the term `identity` for sets with other channels.
    """

    def __init__(self, task: Task):
        check_terms(task)
        self.task, (channels_a, channels_b) = task, task.channels
        generators = Generators(task.nets["net"], task.nets["netBA"], "identity" in task.loss)
        self.model = task.wrap(generators)
        self.a = task.adversary(channels_a, number=1, pool=POOL_SIZE)
        self.b = task.adversary(channels_b, number=2, pool=POOL_SIZE)
        self.both = Discriminators(self.a.net, self.b.net)
        self.netD = task.wrap(self.both)

    def turns(self) -> list[TurnSpec]:
        judged = list(self.both.parameters())
        return [
            TurnSpec("G", self.model, list(self.task.parameters), self.losses),
            TurnSpec("D", self.netD, judged, self.judge, self.task.gan.lr),
        ]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Run both networks, keep what they make as `batch["fakes"]`, and return the weighted terms."""
        a, b = batch["input"], batch["target"]
        with self.task.autocast():
            outputs = self.model(a, b)
        fake_b, fake_a, back_a, back_b = (image.float() for image in outputs[:4])
        batch["fakes"] = fake_a.detach(), fake_b.detach()
        found = {
            "gan": self.a.generator_term(fake_a) + self.b.generator_term(fake_b),
            "cycle": self._l1(back_a, a) + self._l1(back_b, b),
        }
        if "identity" in self.task.loss:
            same_b, same_a = (image.float() for image in outputs[4:])
            found["identity"] = self._l1(same_a, a) + self._l1(same_b, b)
        return {name: weight * found[name] for name, weight in self.task.loss.items()}

    def _l1(self, image: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(image, target, reduction=self.task.reduction)

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of both discriminators, after `losses` of the same batch; leaves `batch["watched"]`."""
        fake_a, fake_b = batch["fakes"]
        pairs = self.a.pair(batch["input"], fake_a), self.b.pair(batch["target"], fake_b)
        with self.task.autocast():
            logits_a, logits_b = self.netD(*pairs)
        loss_a, watched_a = self.a.discriminator_term(logits_a)
        loss_b, watched_b = self.b.discriminator_term(logits_b)
        batch["watched"] = {key: (watched_a[key] + watched_b[key]) / 2 for key in watched_a}
        return {"D": loss_a + loss_b}

    def _parts(self) -> dict[str, Adversary]:
        return {"D_A": self.a, "D_B": self.b}

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])


def check_terms(task: Task) -> None:
    """Raise UserError where the terms of `--loss` do not fit images without pairs."""
    if "identity" in task.loss and task.channels[0] != task.channels[1]:
        why = f"A has {task.channels[0]} channels, B {task.channels[1]}"
        raise UserError("the loss term identity needs as many channels in A as in B [--loss]", why, "drop it")
