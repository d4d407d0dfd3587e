"""How many steps fit into `--minutes`: measured once, and then a number like any other."""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

LEAST, MOST = 25, 1000  # steps that are timed before the length is fixed
SHARE = 0.1  # of all steps that are timed, between these two: the speed of a machine wavers
SPARE = 0.05  # of the time, for what the measured steps did not show
LEAST_EPOCH = 500  # steps of an epoch that ends with a validation and a save
UNKNOWN = 10**9  # steps of a run whose length is still to be measured: its schedule stands at its beginning


class Costs(NamedTuple):
    """What the rest of a run costs, in seconds.

    Args:
        step: one step, without the wait for its data.
        load: the data of one step, of images that have been decoded.
        decode: what they cost beyond that when they are decoded, in the first `decoding` steps.
        close: the validation and the save at the end of an epoch.
    """

    step: float
    load: float
    decode: float
    decoding: int
    close: float


def steps_within(seconds: float, costs: Costs, epoch_steps: int) -> int:
    """How many steps fit, with their validations; at least one.

    >>> steps_within(100, Costs(step=0.09, load=0.01, decode=0, decoding=0, close=0), epoch_steps=500)
    950
    >>> steps_within(100, Costs(step=0.09, load=0.01, decode=0.1, decoding=100, close=17), epoch_steps=1000)
    581
    """
    left = seconds * (1 - SPARE) - costs.close  # that of the last epoch, which may be a short one
    each = costs.step + costs.load + costs.close / epoch_steps
    decoding = min(costs.decoding, left / (each + costs.decode))  # all of it may be spent decoding
    return max(1, round((left - decoding * costs.decode) / each))


def seconds_of(work: Callable[[], object]) -> float:
    """How long `work` takes when it is done again: the first time may load, plan and allocate."""
    work()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Stopwatch:
    """Times steps until they suffice for an estimate: the later half of them, as the first ones are slow.

    Medians, since a step during which the machine was busy elsewhere says nothing about the others.
    """

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []  # of each step: when, and the wait for data up to then
        self.due = LEAST

    def step(self, waited_s: float) -> bool:
        """Count a step, before which the run has waited `waited_s` for data; True where enough are timed."""
        self.ends.append((time.perf_counter(), waited_s))
        return len(self.ends) == self.due

    def read(self) -> tuple[float, float]:
        """Seconds of a step without its wait, and of the wait."""
        timed = list(pairwise(self.ends[len(self.ends) // 2 :]))
        waits = [after[1] - before[1] for before, after in timed]
        steps = [after[0] - before[0] - wait for (before, after), wait in zip(timed, waits, strict=True)]
        return statistics.median(steps), statistics.median(waits)

    def enough(self, total: int) -> bool:
        """Whether the steps timed suffice for a run of `total` steps; else more will be."""
        wanted = min(MOST, round(SHARE * total))
        if len(self.ends) >= wanted:
            return True
        self.due = wanted
        return False
