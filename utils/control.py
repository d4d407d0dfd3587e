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

from utils.distributed import Place
from utils.errors import Refusal, first_sentence

T = TypeVar("T")
MAX_SKIPPED = 10  # steps in a row that --nan_policy skip forgives
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Remembers INT, TERM, HUP (stop after this step) and USR1 (save after this step).

    A second stopping signal ends the process at once.
    """

    def __init__(self) -> None:
        self.stop = 0  # the number of the signal
        self.save = False
        for number in STOPPING:
            signal.signal(number, self._ask_stop)
        signal.signal(signal.SIGUSR1, self._ask_save)

    def _ask_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop = number
        for each in STOPPING:
            signal.signal(each, signal.SIG_DFL)

    def _ask_save(self, number: int, frame: FrameType | None) -> None:
        self.save = True

    def take_save(self) -> bool:
        asked, self.save = self.save, False
        return asked

    def heed(self, images: Iterable[T]) -> Iterator[T]:
        """Yield images to judge until a signal asks to stop."""
        for image in images:
            yield image
            if self.stop:
                return


def read_flags(loss: Tensor, norm: Tensor, stop: int, place: Place) -> tuple[bool, int]:
    """The one host read of a step, over all processes: (loss or gradient not finite, signal to stop)."""
    bad = ~(torch.isfinite(loss.detach()) & torch.isfinite(norm))
    flags = torch.stack([bad.long(), torch.full_like(bad, stop, dtype=torch.long)])
    flags = place.reduce(flags, dist.ReduceOp.MAX)
    wrong, asked = flags.tolist()
    return bool(wrong), asked


@contextmanager
def explain_memory(where: Callable[[], str]) -> Iterator[None]:
    """Turn what a full memory raises in this block into one message.

    Args:
        where: says what was being done, such as "at step 7".

    Raises:
        Refusal: instead of torch's or Python's own exception.
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
        raise Refusal(
            f"out of memory {where()}",
            asked,
            "lower --batchSize or --crop_size, split the batch by --accum 2, or add --amp on",
            code=1,
        ) from None


def finite_buffers(net: nn.Module) -> bool:
    """Whether the running statistics of all norms are finite: a forward pass alone can poison them."""
    return all(buffer.isfinite().all() for buffer in net.buffers())


def agree(stop: int, place: Place) -> int:
    """The signal to stop that any process got, or 0."""
    return int(place.reduce(torch.tensor(stop, device=place.device), dist.ReduceOp.MAX).item())
