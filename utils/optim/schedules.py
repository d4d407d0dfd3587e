"""Learning rates as pure functions of (step, total steps), wrapped in torch's own schedulers.

Each entry of SCHEDULES maps a step to a factor of the base learning rate. No factor is 0 at a step that is
taken.
"""

import math
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from utils.optim.horizon import Horizon


MIN_LR_FACTOR = 1e-9  # no step is taken at a learning rate of 0


class Plan(NamedTuple):
    """The numbers that a schedule may use; all lengths in optimizer steps."""

    total: float  # steps of the whole run; infinite while --minutes is being measured
    decay: float  # where `lambda` begins to fall
    step_size: float = 1  # `step`, `multiplicative`: steps between two cuts
    milestones: tuple[float, ...] = ()  # `multistep`: where to cut
    gamma: float = 0.1  # factor of a cut
    warmup: float = 0  # steps of linear warm-up, before any schedule


def linear_decay(step: int, plan: Plan) -> float:
    """1 until `decay`, then a straight line that would reach 0 one step after the last.

    >>> [round(linear_decay(s, Plan(total=8, decay=4)), 2) for s in (0, 4, 6, 7)]
    [1.0, 1.0, 0.5, 0.25]
    """
    if step <= plan.decay or math.isinf(plan.total):
        return 1.0
    return max(plan.total - step, 1) / max(plan.total - plan.decay, 1)


def step_decay(step: int, plan: Plan) -> float:
    """gamma^k after k whole `step_size`s.

    >>> [step_decay(s, Plan(total=9, decay=0, step_size=3, gamma=0.5)) for s in (0, 2, 3, 8)]
    [1.0, 1.0, 0.5, 0.25]
    """
    return plan.gamma ** int(step / plan.step_size)


def multistep_decay(step: int, plan: Plan) -> float:
    """gamma^k after k milestones.

    >>> [multistep_decay(s, Plan(total=9, decay=0, milestones=(3, 6), gamma=0.5)) for s in (2, 3, 6)]
    [1.0, 0.5, 0.25]
    """
    return plan.gamma ** sum(step >= milestone for milestone in plan.milestones)


def cosine(step: int, plan: Plan) -> float:
    """Half a cosine from 1 to (almost) 0, after warm-up (Loshchilov and Hutter, SGDR, eq. 5, one cycle).

    >>> [round(cosine(s, Plan(total=4, decay=0)), 3) for s in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    done = (step - plan.warmup) / max(plan.total - plan.warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1 - 1e-4)))


def onecycle(step: int, plan: Plan) -> float:
    """Cosine from 1/25 up to 1 in the first 30 %, then down to 1/250000 (Smith, 1cycle); momentum stays.

    >>> [round(onecycle(s, Plan(total=10, decay=0)), 3) for s in (0, 3, 9)]
    [0.04, 1.0, 0.05]
    """
    peak = 0.3 * plan.total
    if step < peak:
        low, done = 1 / 25, 1 - step / peak
    else:
        low, done = 1 / 250_000, (step - peak) / (plan.total - peak)
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


MAX_WARMUP = 0.2  # of the steps of a run with --minutes
SCHEDULES = {
    "lambda": linear_decay,
    "multiplicative": step_decay,
    "step": step_decay,
    "multistep": multistep_decay,
    "cosine": cosine,
    "onecycle": onecycle,
}


def factor(name: str, step: int, plan: Plan) -> float:
    """Factor of the base learning rate at `step`: the schedule's, times linear warm-up.

    >>> factor("lambda", 0, Plan(total=100, decay=50, warmup=4))
    0.2
    """
    last = step if math.isinf(plan.total) else int(plan.total) - 1
    warm = min(1.0, (step + 1) / (plan.warmup + 1)) if plan.warmup else 1.0
    return warm * max(SCHEDULES[name](min(step, last), plan), MIN_LR_FACTOR)


@dataclass(frozen=True)
class Schedule:
    """A learning rate over a run whose length may still change: it reads the horizon at every step.

    Args:
        name: a key of SCHEDULES.
        lr: base learning rate.
        decay_epoch, step_size, milestones, warmup: in epochs; a `decay_epoch` of None is half of the run.
        gamma: factor of a decay.
        max_warmup: longest warm-up, as a share of the run.
    """

    name: str
    lr: float
    horizon: "Horizon"
    decay_epoch: float | None = None
    step_size: float = 10.0
    milestones: Sequence[float] = ()
    gamma: float = 0.5
    warmup: float = 0.0
    max_warmup: float = 1.0

    @property
    def plan(self) -> Plan:
        """The same lengths in steps, as the horizon stands now."""
        in_steps = self.horizon.in_steps
        total = math.inf if self.horizon.total is None else self.horizon.total
        return Plan(
            total=total,
            decay=total / 2 if self.decay_epoch is None else in_steps(self.decay_epoch),
            step_size=in_steps(self.step_size),
            milestones=tuple(in_steps(epoch) for epoch in self.milestones),
            gamma=self.gamma,
            warmup=min(in_steps(self.warmup), self.max_warmup * total),
        )

    def factor(self, step: int) -> float:
        """Factor of the base learning rate at `step`."""
        return factor(self.name, step, self.plan)

    def ratio(self, step: int) -> float:
        """Factor of the learning rate of the step before."""
        return self.factor(step) / self.factor(step - 1)

    def scheduler(self, optimizer: "Optimizer") -> "LRScheduler":
        """The scheduler as it stands before the horizon's step, whatever lr the optimizer holds.

        `multiplicative` multiplies step by step (MultiplicativeLR); all others are LambdaLR. It needs no
        state of an earlier run, so a longer or shorter run recomputes the whole curve.
        """
        from torch.optim.lr_scheduler import LambdaLR, MultiplicativeLR

        step = self.horizon.step
        for group in optimizer.param_groups:
            group["initial_lr"] = self.lr
        if self.name != "multiplicative":
            return LambdaLR(optimizer, self.factor, last_epoch=step - 1)
        scheduler = MultiplicativeLR(optimizer, self.ratio)
        reached = self.lr * self.factor(0)
        for s in range(1, step + 1):  # the same products in the same order as an uninterrupted run: same bits
            reached *= self.ratio(s)
        for group in optimizer.param_groups:
            group["lr"] = reached
        position = {"last_epoch": step, "_last_lr": [reached] * len(optimizer.param_groups)}
        scheduler.load_state_dict(scheduler.state_dict() | position)
        return scheduler


def build_schedule(opt: Namespace, horizon: "Horizon") -> Schedule:
    """The schedule that the options ask for; an epoch may be longer than all of a run with --minutes."""
    decays = opt.decay_epoch, opt.step_size, opt.milestones, opt.gamma, opt.warmup
    return Schedule(opt.schedule, opt.lr, horizon, *decays, MAX_WARMUP if opt.minutes else 1.0)
