"""Graceful shutdown: which signals arrived, to be asked about between two steps."""

import signal
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def handled() -> list[int]:
    """The stopping signals that are not ignored, as SIGHUP is by nohup and SIGINT in the background."""
    return [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]


class Signals:
    """Remembers INT, TERM, HUP (stop after this step) and USR1 (save after this step).

    A second stopping signal ends the process at once.

    Args:
        grace_s: with several processes, the seconds that a process may take to stop: a launcher stops the
            others when one died, and one that hangs in a collective operation would never end.
    """

    def __init__(self, grace_s: float = 0) -> None:
        self.grace_s = grace_s
        self.stop = 0  # the number of the signal
        self.save = False
        for number in handled():
            signal.signal(number, self._request_stop)
        signal.signal(signal.SIGUSR1, self._request_save)

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        if self.grace_s and not self.stop:
            signal.setitimer(signal.ITIMER_REAL, self.grace_s)  # SIGALRM ends the process
        self.stop = number
        for each in handled():
            if not self.grace_s or each != signal.SIGTERM:  # a scheduler and torchrun both send SIGTERM
                signal.signal(each, signal.SIG_DFL)

    def _request_save(self, number: int, frame: FrameType | None) -> None:
        self.save = True

    def disarm_kill_timer(self) -> None:
        """Let the shutdown take as long as it needs from here on."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def take_save(self) -> bool:
        """Whether a save was requested since the last call."""
        requested, self.save = self.save, False
        return requested

    def until_stopped(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items until a signal asks to stop."""
        for item in items:
            yield item
            if self.stop:
                return
