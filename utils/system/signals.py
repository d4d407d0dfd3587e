"""Stopping in good order: signals asked for, and numbers gone wrong."""

import re
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.system.distributed import Ranks
from utils.system.errors import UserError, first_sentence

T = TypeVar("T")
MAX_SKIPPED = 10  # steps in a row that --nan_policy skip forgives
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Remembers INT, TERM, HUP (stop after this step) and USR1 (save after this step).

    A second stopping signal ends the process at once.

    Args:
        patience_s: for one of several processes: the seconds in which it has to end once asked to stop.
            A launcher asks its processes to stop when one of them died, and then one that hangs would stay.
    """

    def __init__(self, patience_s: float = 0) -> None:
        self.patience_s = patience_s
        self.stop = 0  # the number of the signal
        self.save = False
        for number in STOPPING:
            signal.signal(number, self._ask_stop)
        signal.signal(signal.SIGUSR1, self._ask_save)

    def _ask_stop(self, number: int, frame: FrameType | None) -> None:
        if self.patience_s and not self.stop:
            signal.setitimer(signal.ITIMER_REAL, self.patience_s)  # SIGALRM ends the process
        self.stop = number
        for each in STOPPING:
            if not self.patience_s or each != signal.SIGTERM:  # a scheduler and torchrun both send that one
                signal.signal(each, signal.SIG_DFL)

    def _ask_save(self, number: int, frame: FrameType | None) -> None:
        self.save = True

    def stopping(self) -> None:
        """Take as much time from here on as ending needs."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def take_save(self) -> bool:
        asked, self.save = self.save, False
        return asked

    def until_stopped(self, images: Iterable[T]) -> Iterator[T]:
        """Yield images to judge until a signal asks to stop."""
        for image in images:
            yield image
            if self.stop:
                return


def read_flags(loss: Tensor, norm: Tensor, stop: int, ranks: Ranks) -> tuple[bool, int]:
    """The one host read of a step, over all processes: (loss or gradient not finite, signal to stop)."""
    bad = ~(torch.isfinite(loss.detach()) & torch.isfinite(norm))
    flags = torch.stack([bad.long(), torch.full_like(bad, stop, dtype=torch.long)])
    flags = ranks.reduce(flags, dist.ReduceOp.MAX)
    wrong, asked = flags.tolist()
    return bool(wrong), asked


@contextmanager
def oom_errors(where: Callable[[], str]) -> Iterator[None]:
    """Turn what a full memory raises in this block into one message.

    Args:
        where: says what was being done, such as "at step 7".

    Raises:
        UserError: instead of torch's or Python's own exception.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "allocate memory" not in str(
            error
        ):
            raise
        size = re.search(r"allocate (\d[\d.]* ?\w*)", str(error))
        asked = f"{size[1]} asked for" if size else first_sentence(error)
        raise UserError(
            f"out of memory {where()}",
            asked,
            "lower --batchSize or --crop_size, split the batch by --accum 2, or add --amp on",
            code=1,
        ) from None


def describe_nonfinite(loss: Tensor, norm: Tensor, names: Iterable[str], ranks: Ranks) -> str:
    """Loss and files of each process whose loss is no number; of all where only a gradient is none."""
    here = f"loss {loss.item():g}, gradient norm {norm.item():g}, batch {', '.join(names)}"
    if ranks.world == 1:
        return here
    own = f"process {ranks.rank}: {here}"
    said = ranks.all_gather_text(own if not torch.isfinite(loss) else f"finite {own}")
    wrong = [text for text in said if not text.startswith("finite ")]
    return "; ".join(wrong or [text.removeprefix("finite ") for text in said])


def finite_buffers(net: nn.Module) -> bool:
    """Whether the running statistics of all norms are finite: a forward pass alone can poison them."""
    return all(buffer.isfinite().all() for buffer in net.buffers())


def all_reduce_max(number: int, ranks: Ranks) -> int:
    """The largest number that any process gives: the signal to stop that one of them got, or 0."""
    return int(ranks.reduce(torch.tensor(int(number), device=ranks.device), dist.ReduceOp.MAX).item())
