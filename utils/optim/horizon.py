"""How many steps fit into `--minutes`: measured at the start, and then a number like any other.

The speed of a machine wavers, though. Whenever half of the steps that are left have been taken, the time says
whether the rest still fits; where it does not, the run is made shorter, never longer.
"""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

LEAST, MOST = 25, 1000  # steps that are timed before the length is fixed
SHARE = 0.1  # of all steps that are timed, between these two: the speed of a machine wavers
SAFETY_MARGIN = 0.03  # of the time, when the length is fixed, for what the measured steps did not show
LEAST_EPOCH = 500  # steps of an epoch that ends with a validation and a save
UNKNOWN = 10**9  # steps of a run whose length is still to be measured: its schedule stands at its beginning


class StepCost(NamedTuple):
    """What the rest of a run costs, in seconds.

    Args:
        step: one step, with its data and its share of the validations and saves.
        last: the validation and the save at the end of the run.
        decode: what the data of a step costs beyond that where images have to be decoded, in the first
            `decoding` steps.
        spare: share of the time that is kept for what was not seen.
    """

    step: float
    last: float
    decode: float = 0
    decoding: int = 0
    spare: float = 0


def steps_within(seconds: float, costs: StepCost) -> int:
    """How many steps fit; at least one.

    >>> steps_within(100, StepCost(step=0.1, last=0))
    1000
    >>> steps_within(100, StepCost(step=0.1, last=5, decode=0.1, decoding=100))
    850
    """
    left = seconds * (1 - costs.spare) - costs.last
    decoding = min(costs.decoding, left / (costs.step + costs.decode))  # all of it may be spent decoding
    return max(1, round((left - decoding * costs.decode) / costs.step))


def seconds_of(work: Callable[[], object]) -> float:
    """How long `work` takes when it is done again: the first time may load, plan and allocate."""
    work()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class StepTimer:
    """Times the steps of a run: until they suffice to fix its length, and then whether it keeps to its time.

    Args:
        on: or it is never due.
    """

    def __init__(self, on: bool) -> None:
        self.taken = 0  # steps
        self.due = LEAST if on else 0  # how many of them have been taken when it is to be read
        self.ends: list[tuple[float, float]] = []  # of each: when, and the wait for data up to then
        self.fixed: tuple[int, float, StepCost] | None = None  # when and by what the length was: steps, time

    def step(self, waited_s: float) -> bool:
        """Count a step, before which the run has waited `waited_s` for data; True where it is due."""
        if not self.due:
            return False
        self.taken += 1
        if not self.fixed:
            self.ends.append((time.perf_counter(), waited_s))
        return self.taken == self.due

    def read(self) -> tuple[float, float]:
        """Seconds of a step without its wait, and of the wait, before the length is fixed.

        Medians of the later half, as the first ones are slow, and a step during which the machine was busy
        elsewhere says nothing about the others.
        """
        timed = list(pairwise(self.ends[len(self.ends) // 2 :]))
        waits = [after[1] - before[1] for before, after in timed]
        steps = [after[0] - before[0] - wait for (before, after), wait in zip(timed, waits, strict=True)]
        return statistics.median(steps), statistics.median(waits)

    def since(self) -> StepCost:
        """What the rest costs, by the time since the length was fixed, validations included."""
        assert self.fixed
        steps, then, costs = self.fixed
        return StepCost((time.perf_counter() - then) / (self.taken - steps), costs.last)

    def settled(self, left: int, costs: StepCost) -> bool:
        """Whether the steps timed suffice to fix, or to change, the length to `left` more; sets `due`.

        Args:
            costs: by which `left` steps fit.
        """
        wanted = min(MOST, round(SHARE * (self.taken + left)))
        if not self.fixed and self.taken < wanted:
            self.due = wanted
            return False
        self.fixed = self.fixed or (self.taken, self.ends[-1][0], costs)
        self.due = self.taken + left // 2 if left // 2 >= LEAST else 0
        return True
