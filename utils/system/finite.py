"""Non-finite losses and gradients: find them with one host read a step, and stop or skip the step."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.system.distributed import Ranks, all_reduce_max
from utils.system.errors import UserError

MAX_SKIPPED_STEPS = 10  # in a row, by --nan_policy skip


def read_flags(loss: Tensor, norm: Tensor, stop: int, ranks: Ranks) -> tuple[bool, int]:
    """The one host read of a step, over all processes: (loss or gradient not finite, signal to stop).

    Args:
        loss, norm: scalars on the device: the sum of all losses, and of all gradient norms.
        stop: number of the signal that this process got, or 0.
    """
    bad = ~(torch.isfinite(loss.detach()) & torch.isfinite(norm))
    flags = torch.stack([bad.long(), torch.full_like(bad, stop, dtype=torch.long)])
    wrong, asked = ranks.reduce(flags, dist.ReduceOp.MAX).tolist()
    return bool(wrong), asked


def describe_nonfinite(loss: Tensor, norm: Tensor, names: Iterable[str], ranks: Ranks) -> str:
    """Loss and files of each process whose loss is not finite; of all where only a gradient is not."""
    here = f"loss {loss.item():g}, gradient norm {norm.item():g}, batch {', '.join(names)}"
    if ranks.world == 1:
        return here
    own = f"process {ranks.rank}: {here}"
    texts = ranks.all_gather_text(own if not torch.isfinite(loss) else f"finite {own}")
    wrong = [text for text in texts if not text.startswith("finite ")]
    return "; ".join(wrong or [text.removeprefix("finite ") for text in texts])


def finite_buffers(net: nn.Module) -> bool:
    """Whether the running statistics of all norms are finite: a forward pass alone can make them NaN."""
    return all(buffer.isfinite().all() for buffer in net.buffers())


class FiniteGuard:
    """What to do at a step whose loss or gradient is not finite (`--nan_policy`).

    Args:
        policy: `stop`, or `skip`, which allows at most 10 steps in a row.
        net: its buffers are checked as well: skipping the step does not repair them.
        checkpoint: the file to name in the error.
        say: prints a skipped step.
    """

    def __init__(
        self, policy: str, net: nn.Module, ranks: Ranks, checkpoint: Path, say: Callable[[str], object]
    ):
        self.policy, self.net, self.ranks, self.checkpoint, self.say = policy, net, ranks, checkpoint, say
        self.skipped = 0  # in a row

    def check(self, bad: bool, step: int, loss: Tensor, norm: Tensor, names: Iterable[str]) -> None:
        """Count a step; where it is `bad` and may be skipped, print so.

        Raises:
            UserError: it may not be skipped; with the loss, the gradient norm and the files of the batch.
        """
        self.skipped = self.skipped + 1 if bad else 0
        if not bad:
            return
        what = f"loss or gradient is not finite at step {step}"
        why = describe_nonfinite(loss, norm, names, self.ranks)
        poisoned = all_reduce_max(not finite_buffers(self.net), self.ranks)
        if self.policy == "stop" or self.skipped > MAX_SKIPPED_STEPS or poisoned:
            fix = f"lower --lr or add --clip 1; {self.checkpoint} is intact"
            raise UserError(what, why, fix, code=1)
        self.say(f"step skipped: {what}: {why}")
