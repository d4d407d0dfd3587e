"""Graceful shutdown: which signals arrived, to be asked about between two steps."""

import signal
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REPEATED_S = 2.0  # seconds after a signal in which another one is the same request


def handled() -> list[int]:
    """The stopping signals that are not ignored, as SIGHUP is by nohup and SIGINT in the background."""
    return [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]


class Signals:
    """Remembers INT, TERM, HUP (stop after this step) and USR1 (save after this step).

    A second stopping signal ends the process at once; with several processes only one that a person sent,
    REPEATED_S seconds after the first or later, and never SIGTERM: schedulers and launchers send it again.

    Args:
        grace_s: with several processes, the seconds that a process may take to stop: a launcher stops the
            others when one died, and one that hangs in a collective operation would never end.
    """

    def __init__(self, grace_s: float = 0) -> None:
        self.grace_s = grace_s
        self.stop, self.stopped_at = 0, 0.0  # the number of the signal, and when it came
        self.save = False
        for number in handled():
            signal.signal(number, self._request_stop)
        signal.signal(signal.SIGUSR1, self._request_save)

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        if self.grace_s and self.stop:  # a launcher passes on what all have received already
            if number != signal.SIGTERM and time.monotonic() - self.stopped_at > REPEATED_S:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            return
        self.stop, self.stopped_at = number, time.monotonic()
        if self.grace_s:
            signal.setitimer(signal.ITIMER_REAL, self.grace_s)  # SIGALRM ends the process
            return
        for each in handled():
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
