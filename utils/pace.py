"""How many steps fit into `--minutes`: measured once, and then a number like any other."""

import time
from collections.abc import Callable
from typing import NamedTuple

WARM, TIMED = 5, 20  # steps: the first ones are slow, the next are measured
SHARE = 0.03  # of a run's steps that are measured, where these are more: the speed of a machine wavers
SPARE = 0.02  # of the time, for what the measured steps did not show
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
    980
    >>> steps_within(100, Costs(step=0.09, load=0.01, decode=0.1, decoding=100, close=17), epoch_steps=1000)
    607
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
    """Times the steps that follow the first few; `waited_s` are the seconds waited for data so far."""

    def __init__(self) -> None:
        self.first, self.last = WARM, WARM + TIMED  # the steps between are timed
        self.steps = 0
        self.began = self.waited = 0.0

    def step(self, waited_s: float) -> bool:
        """Count a step; True at the last one that is timed."""
        self.steps += 1
        if self.steps == self.first:
            self.began, self.waited = time.perf_counter(), waited_s
        return self.steps == self.last

    def read(self, waited_s: float) -> tuple[float, float]:
        """Seconds of a step without its wait, and of the wait."""
        timed = self.last - self.first
        wait = (waited_s - self.waited) / timed
        return (time.perf_counter() - self.began) / timed - wait, wait

    def enough(self, total: int) -> bool:
        """Whether the steps timed suffice for a run of `total` steps; else time later ones."""
        if self.last >= SHARE * total:
            return True
        self.first, self.last = self.steps + 1, max(self.steps + TIMED, round(SHARE * total))
        return False
