"""Where a run is and how long it is: step, total, epoch; and `--minutes` as a number of steps.

The speed of a machine varies. Whenever half of the remaining steps have been taken, `Deadline` checks whether
the rest still fits; if not, the run becomes shorter. It becomes longer only where much more fits.
"""

import math
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

from utils.optim.cadence import LONG_EPOCH, SHARE, SHORT_EPOCHS, interval
from utils.system.distributed import Ranks, all_reduce_max
from utils.system.errors import UserError

FEWEST_TIMED_STEPS = 3  # are timed before the length is set, however slow they are
MIN_TIMED_STEPS, MAX_TIMED_STEPS = 25, 1000  # as well, unless that takes MAX_TIMED_SHARE of the time
TIMED_SHARE, MAX_TIMED_SHARE = 0.1, 0.2  # of all steps, within these two; of the time that was left
LONGER = 1.2  # a run becomes longer where so many times its steps fit: it was timed in a slow moment
SAFETY_MARGIN = 0.03  # of the time, when the length is set, for what the timed steps did not show


class Horizon:
    """The position of a run. Steps are optimizer updates; epochs count from 0.

    Args:
        steps_per_epoch: steps in one pass of the sampler.

    Attributes:
        step: steps taken.
        total: steps of the whole run; None while `--minutes` is still being measured.
        stop_after: end at this step already, as a dry run does; None: at `total`.
        closed_at: the step at which the end of an epoch was last handled (validation, saves).
        validated_at: the step of the last validation.
        val_every: steps between two validations; None while the length is unknown.
        in_tenths: whether `val_every` follows from the length of the run; then the first validation comes
            within its first tenth, however rare the others are.
    """

    def __init__(self, steps_per_epoch: int):
        self.steps_per_epoch = steps_per_epoch
        self.step = self.closed_at = self.validated_at = 0
        self.val_every: int | None = None
        self.in_tenths = True
        self.total: int | None = None
        self.stop_after: int | None = None

    @property
    def epoch(self) -> int:
        """The epoch of the next step."""
        return self.step // self.steps_per_epoch

    @property
    def offset(self) -> int:
        """The batch of that epoch which comes next."""
        return self.step % self.steps_per_epoch

    @property
    def epochs_done(self) -> float:
        return self.step / self.steps_per_epoch

    @property
    def last(self) -> float:
        """The step after which this process ends; infinite while the length is unknown."""
        total = math.inf if self.total is None else self.total
        return total if self.stop_after is None else min(total, self.stop_after)

    @property
    def done(self) -> bool:
        return self.step >= self.last

    @property
    def epoch_ended(self) -> bool:
        """Whether an epoch, or the run, has ended and was not handled (validated, saved) yet."""
        return self.closed_at < self.step and (self.offset == 0 or self.done)

    @property
    def validation_due(self) -> bool:
        """Whether this step is one of those that are validated, and was not yet; the last one always is."""
        if max(self.closed_at, self.validated_at) >= self.step:
            return False
        if self.done:
            return True
        if self.val_every is None:
            return False
        first = self.in_tenths and not self.validated_at and self.step >= SHARE * (self.total or 0)
        if self.in_tenths and self.steps_left < self.val_every / 2:  # the last one comes soon
            return False
        return first or self.step % self.val_every == 0

    def close(self) -> None:
        """Record that the validation and the end of an epoch that were due at this step are done."""
        ended = self.epoch_ended
        self.validated_at = self.step if self.validation_due else self.validated_at
        self.closed_at = self.step if ended else self.closed_at

    def kept_epoch(self, every: int) -> int:
        """The number of the epoch that just ended, where its checkpoint is to be kept; else 0."""
        kept = every and self.closed_at == self.step and self.offset == 0 and self.epoch % every == 0
        return self.epoch if kept else 0

    def in_steps(self, epochs: float) -> float:
        return round(epochs * self.steps_per_epoch, 6)  # 1.1 epochs of 50 steps are 55, not 55.00000000000001

    @property
    def title(self) -> str:
        """Such as "epoch 2/40", of the last step; "epoch 2" while the length is not known."""
        of = "" if self.total is None else f"/{math.ceil(self.total / self.steps_per_epoch)}"
        return f"epoch {math.ceil(self.epochs_done) or 1}{of}"

    @property
    def steps_left(self) -> float:
        return math.inf if self.total is None else self.total - self.step

    def describe(self) -> str:
        return f"at step {self.step}"

    def __str__(self) -> str:
        """Such as "steps 0 to 400, 20 an epoch"."""
        until = f"to {self.total}" if self.total is not None else "to the end of --minutes"
        return f"steps {self.step} {until}, {self.steps_per_epoch} an epoch"

    def set_length(self, n_epochs: int, max_steps: int | None, warmup: float) -> None:
        """Let the run end after `n_epochs` epochs, or after `max_steps` steps if that is earlier.

        Raises:
            UserError: a warm-up, in epochs, that is as long as the run.
        """
        self.total = min(n_epochs * self.steps_per_epoch, max_steps or sys.maxsize)
        if (steps := self.in_steps(warmup)) >= self.total:
            what, why = f"--warmup {warmup:g} is as long as the run", f"{steps:g} of {self.total} steps"
            raise UserError(what, why, "lower it, or train longer")

    def advance(self) -> None:
        self.step += 1

    def state_dict(self) -> dict[str, Any]:
        names = ("step", "closed_at", "total", "validated_at", "val_every")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.closed_at, self.total = state["step"], state["closed_at"], state["total"]
        self.validated_at = state.get("validated_at", self.closed_at)  # older ones end epochs with it
        self.val_every = state.get("val_every")


def set_length(horizon: Horizon, opt: Namespace, validation_cost: float = 0) -> None:
    """Set the length of a run by its options; a resumed run with --minutes keeps the length that it has.

    Sets how often it validates as well: with --minutes that follows with the length.

    Args:
        validation_cost: of a validation, in steps.

    Raises:
        UserError: the run has all its steps, or a warm-up that is as long as the run.
    """
    if not opt.minutes:
        horizon.set_length(opt.n_epochs, opt.max_steps, opt.warmup)
    elif "minutes" in opt.changed:
        horizon.total = None
    few = opt.n_epochs < SHORT_EPOCHS and horizon.steps_per_epoch >= LONG_EPOCH
    horizon.in_tenths = not opt.val_freq and bool(opt.minutes or opt.max_steps or few)
    if not horizon.in_tenths:
        horizon.val_every = (opt.val_freq or 1) * horizon.steps_per_epoch
    elif horizon.total is None:
        horizon.val_every = None
    elif not opt.minutes:
        horizon.val_every = interval(horizon.total, validation_cost)
    if horizon.done and not horizon.epoch_ended:  # else its last validation is still missing
        flag, why = "--n_epochs", f"--n_epochs {opt.n_epochs}, steps an epoch: {horizon.steps_per_epoch}"
        if horizon.total == opt.max_steps:
            flag, why = "--max_steps", f"--max_steps {opt.max_steps}"
        fix = "give a new --minutes" if opt.minutes else f"raise {flag}"
        what = f"{opt.name} is finished: it has all its {horizon.total} steps"
        raise UserError(what, "" if opt.minutes else why, fix)
    horizon.stop_after = horizon.step + 2 if opt.dry_run else None


class StepCost(NamedTuple):
    """What the rest of a run costs, in seconds.

    Args:
        step: one step, with its data and its share of the validations and saves.
        last: the validation and the save at the end of the run.
        decode: what the data of a step costs in addition while images have to be decoded, in the first
            `decoding` steps.
        spare: share of the time that is kept for what was not measured.
    """

    step: float
    last: float
    decode: float = 0
    decoding: int = 0
    spare: float = 0


def steps_within(seconds: float, cost: StepCost) -> int:
    """How many steps fit; at least one.

    >>> steps_within(100, StepCost(step=0.1, last=0))
    1000
    >>> steps_within(100, StepCost(step=0.1, last=5, decode=0.1, decoding=100))
    850
    """
    left = seconds * (1 - cost.spare) - cost.last
    decoding = min(cost.decoding, left / (cost.step + cost.decode))  # all of it may be spent decoding
    return max(1, math.floor((left - decoding * cost.decode) / cost.step + 1e-6))


def seconds_of(work: Callable[[], object]) -> float:
    """How long `work` takes the second time: the first time may load, plan and allocate."""
    work()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class EpochWork(NamedTuple):
    """What a run does besides the steps that are timed at its start.

    Args:
        load: loads one batch whose images were decoded before.
        predict: runs the network on one validation image.
        images: validation images of this process.
        decoding_steps: steps after which every training image was decoded once.
    """

    load: Callable[[], object]
    predict: Callable[[], object]
    images: int
    decoding_steps: int


class Saves(Protocol):
    """What a deadline asks of the checkpoints."""

    seconds: float  # of the last save


class StepTimer:
    """Times the steps of a run, first to set its length, then to see whether it keeps to it.

    Args:
        on: without it, it is never due.
    """

    def __init__(self, on: bool) -> None:
        self.taken = 0  # steps
        self.due = FEWEST_TIMED_STEPS if on else 0  # read it after this many steps
        self.ends: list[tuple[float, float]] = []  # of each step: when, and the wait for data until then
        self.fixed: tuple[int, float, StepCost] | None = None  # step, time and cost when the length was set

    def step(self, waited_s: float) -> bool:
        """Count a step, before which the run has waited `waited_s` for data; True where it is to be read."""
        if not self.due:
            return False
        self.taken += 1
        if not self.fixed:
            self.ends.append((time.perf_counter(), waited_s))
        return self.taken == self.due

    def read(self) -> tuple[float, float]:
        """Seconds of a step without its wait, and of the wait, before the length is set.

        Medians over the later half: the first steps are slow, and a stall tells nothing about other steps.
        """
        timed = list(pairwise(self.ends[len(self.ends) // 2 :]))
        waits = [after[1] - before[1] for before, after in timed]
        steps = [after[0] - before[0] - wait for (before, after), wait in zip(timed, waits, strict=True)]
        return statistics.median(steps), statistics.median(waits)

    def too_early(self, left_s: float) -> bool:
        """Whether more steps are to be timed before anything is estimated; sets `due`."""
        timed_s = self.ends[-1][0] - self.ends[0][0]
        if self.taken >= MIN_TIMED_STEPS or timed_s > MAX_TIMED_SHARE * (timed_s + left_s):
            return False
        self.due = self.taken + 1
        return True

    def cost(self, work: EpochWork, val_every: int | None, save_s: float, left_s: float) -> StepCost:
        """What the rest costs before the length is set, by the steps that were timed.

        Args:
            work: what the timed steps did not include; it is done twice to be timed.
            val_every: steps between two validations; None: as in a run of `left_s` seconds.
            save_s: seconds of a save; a validation may be followed by two (latest and best).
        """
        step_s, wait_s = self.read()
        load_s = min(wait_s, seconds_of(work.load))
        validation_s = seconds_of(work.predict) * work.images + 2 * save_s
        each = max(step_s + load_s, 1e-9)
        each += validation_s / (val_every or interval(max(left_s, 0) / each, validation_s / each))
        decoding_steps = max(0, work.decoding_steps - self.taken)
        return StepCost(each, validation_s, wait_s - load_s, decoding_steps, SAFETY_MARGIN)

    def since(self) -> StepCost:
        """What the rest costs, by the time since the length was set, validations included."""
        assert self.fixed
        steps, then, cost = self.fixed
        return StepCost((time.perf_counter() - then) / (self.taken - steps), cost.last)

    def ready(self, left: int, cost: StepCost) -> bool:
        """Whether enough steps were timed to set, or to change, the length to `left` more; sets `due`."""
        wanted = min(MAX_TIMED_STEPS, round(TIMED_SHARE * (self.taken + left)))
        if not self.fixed and self.taken < wanted:
            self.due = wanted
            return False
        self.fixed = self.fixed or (self.taken, self.ends[-1][0], cost)
        half = left // 2
        self.due = self.taken + half if half >= min(MIN_TIMED_STEPS, self.taken) else 0
        return True


class Deadline:
    """Sets `horizon.total` so that the command ends in time, and again where the speed of steps changes.

    Without `--minutes`, or once a resumed run has a total, it is never due.

    Args:
        minutes: from `started` to the end of the command; None: no deadline.
        started: `time.monotonic()` at the start of the command.
        work: what an epoch does besides its steps.
        saves: knows how long a save takes.
    """

    def __init__(
        self,
        minutes: float | None,
        started: float,
        horizon: Horizon,
        ranks: Ranks,
        work: EpochWork,
        saves: Saves,
    ):
        self.minutes, self.started, self.horizon, self.ranks = minutes, started, horizon, ranks
        self.work, self.saves = work, saves
        self.timer = StepTimer(on=horizon.total is None and horizon.stop_after is None)

    def step(self, waited_s: float) -> str:
        """Count a step; may change `horizon.total`, and then returns the line that says so, else ""."""
        if not self.timer.step(waited_s):
            return ""
        timer, horizon = self.timer, self.horizon
        if not timer.fixed and not all_reduce_max(not timer.too_early(self.left_s()), self.ranks):
            return ""
        cost, before = timer.since() if timer.fixed else self.first_cost(), horizon.total
        left_s = self.left_s()
        slowest = -all_reduce_max(-steps_within(left_s, cost), self.ranks)  # in the slowest process
        fits = horizon.step + slowest
        if before is not None and before < fits <= LONGER * before:
            fits = before
        if not timer.ready(fits - horizon.step, cost) or fits == before:
            return ""
        horizon.total = fits
        if before is None and horizon.in_tenths:
            every = interval(fits, cost.last / cost.step)
            horizon.val_every = all_reduce_max(every, self.ranks)
        note = f", to end {self.minutes:g} minutes after the start"
        over_s = cost.step * slowest + cost.last - left_s
        if before is not None:
            change = (
                "fewer because steps became slower" if fits < before else "more because steps became faster"
            )
            note = f", {change}{note}"
        elif over_s > cost.step:  # more than rounding
            late = f"the last step, validation and save take {over_s:.0f} s longer"
            note = f"; --minutes {self.minutes:g} cannot be met: {late} [raise it, or lower --crop_size]"
        return f"length  {fits} steps{note}"

    def left(self) -> float:
        """Seconds until the end that --minutes asks for; infinite without it."""
        return self.left_s() if self.minutes else math.inf

    def left_s(self) -> float:
        assert self.minutes is not None
        return 60 * self.minutes - (time.monotonic() - self.started)

    def first_cost(self) -> StepCost:
        return self.timer.cost(self.work, self.horizon.val_every, self.saves.seconds, self.left_s())
