"""Stopping in good order: signals asked for, and numbers gone wrong."""

import signal
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

from utils.distributed import Place

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


def read_flags(loss: Tensor, norm: Tensor, stop: int, place: Place) -> tuple[bool, int]:
    """The one host read of a step, over all processes: (loss or gradient not finite, signal to stop)."""
    bad = ~(torch.isfinite(loss.detach()) & torch.isfinite(norm))
    flags = torch.stack([bad.long(), torch.full_like(bad, stop, dtype=torch.long)])
    flags = place.reduce(flags, dist.ReduceOp.MAX)
    wrong, asked = flags.tolist()
    return bool(wrong), asked
