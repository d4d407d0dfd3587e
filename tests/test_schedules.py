"""Learning rates against closed forms and torch's own schedulers, at any step and after any resume."""

import math
from argparse import Namespace
from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam, Optimizer, lr_scheduler

from utils.optim.horizon import Horizon
from utils.optim.schedules import SCHEDULES, Plan, Schedule, build_schedule, factor

LR = 0.0002
TOTAL = 40
PLAN = Plan(total=TOTAL, decay=13, step_size=6, milestones=(5, 11, 30), gamma=0.3)
WARM = PLAN._replace(warmup=4)


def schedule_of(name: str, plan: Plan, lr: float, step: int = 0) -> Schedule:
    """A schedule of a run whose epochs have one step."""
    horizon = Horizon(steps_per_epoch=1)
    horizon.step, horizon.total = step, int(plan.total)
    lengths = plan.decay, plan.step_size, plan.milestones, plan.gamma, plan.warmup
    return Schedule(name, lr, horizon, *lengths)


def build_scheduler(
    optimizer: Optimizer, name: str, plan: Plan = PLAN, lr: float = LR, step: int = 0
) -> lr_scheduler.LRScheduler:
    return schedule_of(name, plan, lr, step).scheduler(optimizer)


def optimizer_at(lr: float = LR, **options: Any) -> Optimizer:
    return Adam([torch.nn.Parameter(torch.zeros(2))], lr, **options)


def curve(scheduler: lr_scheduler.LRScheduler, steps: int = TOTAL) -> list[float]:
    """The learning rate of each of the next `steps` optimizer steps."""
    rates = []
    for _ in range(steps):
        rates.append(float(scheduler.optimizer.param_groups[0]["lr"]))
        assert scheduler.get_last_lr() == rates[-1:]
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def ours(name: str, plan: Plan = PLAN, step: int = 0) -> list[float]:
    """The curve from `step` to the end."""
    return curve(build_scheduler(optimizer_at(), name, plan, step=step), plan.total - step)


# --------------------------------------------------------------------------------------- what each of them is


def half_cosine(done: float, start: float, end: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


CLOSED_FORMS: dict[str, Callable[[int], float]] = {
    "lambda": lambda s: 1 if s < 13 else 1 - (s - 13) / 27,
    "step": lambda s: 0.3 ** (s // 6),
    "multiplicative": lambda s: 0.3 ** (s // 6),
    "multistep": lambda s: 0.3 ** ((s >= 5) + (s >= 11) + (s >= 30)),
    "cosine": lambda s: half_cosine(s / 40, 1, 0),
    "onecycle": lambda s: half_cosine(s / 12, 0.04, 1) if s < 12 else half_cosine((s - 12) / 28, 1, 4e-6),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_their_closed_forms(name: str) -> None:
    wanted = [LR * CLOSED_FORMS[name](step) for step in range(TOTAL)]
    scheduler = build_scheduler(optimizer_at(), name)
    assert curve(scheduler) == pytest.approx(wanted, rel=1e-9)
    assert [LR * factor(name, step, PLAN) for step in range(TOTAL)] == pytest.approx(wanted, rel=1e-9)
    assert scheduler.get_last_lr()[0] > 0  # the loop steps it once more than the optimizer needs
    assert factor(name, TOTAL + 10, PLAN) == factor(name, TOTAL - 1, PLAN)


TORCH: dict[str, Callable[[Optimizer], lr_scheduler.LRScheduler]] = {
    "step": lambda o: lr_scheduler.StepLR(o, 6, 0.3),
    "multiplicative": lambda o: lr_scheduler.StepLR(o, 6, 0.3),
    "multistep": lambda o: lr_scheduler.MultiStepLR(o, [5, 11, 30], 0.3),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL),
    "onecycle": lambda o: lr_scheduler.OneCycleLR(  # its cycle ends one step later, at the step not taken
        o, LR, TOTAL + 1, pct_start=(0.3 * TOTAL + 1) / (TOTAL + 1), cycle_momentum=False
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_schedules_are_those_of_torch(name: str) -> None:
    assert ours(name) == pytest.approx(curve(TORCH[name](optimizer_at())), rel=1e-6)


def test_lambda_and_warm_up_are_torchs_linear() -> None:
    linear = lr_scheduler.LinearLR(optimizer_at(), 1.0, 1 / TOTAL, TOTAL - 1)
    assert ours("lambda", PLAN._replace(decay=0)) == pytest.approx(curve(linear), rel=1e-9)
    linear = lr_scheduler.LinearLR(optimizer_at(), 1 / 5, 1.0, 4)
    assert ours("lambda", PLAN._replace(decay=TOTAL, warmup=4)) == pytest.approx(curve(linear), rel=1e-9)


def test_schedules_that_never_fall_are_constant() -> None:
    for decay in (TOTAL, TOTAL + 5, 10**9):
        assert ours("lambda", PLAN._replace(decay=decay)) == [LR] * TOTAL
    assert ours("multistep", PLAN._replace(milestones=())) == [LR] * TOTAL


@pytest.mark.parametrize("decay", [0, 0.5, 12.5, 38, 38.7, 39])
def test_lambda_falls_by_equal_parts(decay: float) -> None:
    rates = ours("lambda", PLAN._replace(decay=decay))
    assert all(rate == LR for rate in rates[: int(decay) + 1])
    falling = rates[math.ceil(decay) :]
    parts = {round((a - b) / LR, 9) for a, b in pairwise(falling)}
    assert len(parts) <= 1 and all(part > 0 for part in parts)
    assert rates[-1] == pytest.approx(LR / max(TOTAL - decay, 1), rel=1e-9)  # 0 would be the next


def test_milestones_count_in_any_order() -> None:
    assert ours("multistep", PLAN._replace(milestones=(30, 5, 11))) == ours("multistep")


@pytest.mark.parametrize("name", ["step", "multiplicative"])
def test_cuts_at_fractions_of_a_step(name: str) -> None:
    wanted = [LR * 0.3 ** sum(2.5 * k <= step for k in range(1, 20)) for step in range(TOTAL)]
    assert ours(name, PLAN._replace(step_size=2.5)) == pytest.approx(wanted, rel=1e-9)


# ---------------------------------------------------------------------------------------------------- warm-up


@pytest.mark.parametrize("warmup", [1, 4, 2.5])
@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_is_a_line_up_to_the_schedule(name: str, warmup: float) -> None:
    warm = ours(name, PLAN._replace(warmup=warmup))
    done = [min(1, (step + 1) / (warmup + 1)) for step in range(TOTAL)]
    if name == "cosine":  # begins after it
        plain = [LR * half_cosine(max(0, step - warmup) / (TOTAL - warmup), 1, 0) for step in range(TOTAL)]
    else:
        plain = ours(name)
    assert warm == pytest.approx([a * b for a, b in zip(plain, done, strict=True)], rel=1e-9)
    assert warm[0] == pytest.approx(plain[0] / (warmup + 1), rel=1e-9)


# ------------------------------------------------------------------------------------------------- never at 0

PLANS = {
    "usual": PLAN,
    "warm": WARM,
    "one_step": PLAN._replace(total=1, decay=0),
    "two_steps": PLAN._replace(total=2, decay=1),
    "decay_at_once": PLAN._replace(decay=0),
    "decay_near_the_end": PLAN._replace(decay=TOTAL - 0.5),
    "only_warm_up": PLAN._replace(warmup=2 * TOTAL),
    "long": PLAN._replace(total=3000, decay=2999, step_size=300, milestones=(1000, 2999)),
    "many_cuts": PLAN._replace(total=1000, step_size=1, milestones=tuple(range(1000)), gamma=0.1),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_no_step_is_taken_at_0(name: str, plan: Plan) -> None:
    assert all(0 < factor(name, step, plan) <= 1 + 1e-12 for step in range(plan.total))
    rates = ours(name, plan)
    assert len(rates) == plan.total and min(rates) > 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_momentum_and_betas_stay(name: str) -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    adam, sgd = Adam([parameter], LR, betas=(0.5, 0.99)), SGD([parameter], LR, momentum=0.8)
    for optimizer, key, kept in ((adam, "betas", (0.5, 0.99)), (sgd, "momentum", 0.8)):
        scheduler = build_scheduler(optimizer, name, WARM)
        for _ in range(TOTAL):
            assert optimizer.param_groups[0][key] == kept
            optimizer.step()
            scheduler.step()


# ----------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("plan", [PLAN, WARM], ids=["plain", "warm"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_resumed_schedule_has_the_bits_of_the_unbroken_one(name: str, plan: Plan) -> None:
    """Whatever rate the restored optimizer holds."""
    unbroken = [rate.hex() for rate in ours(name, plan)]
    for step, held in product((0, 1, 6, 7, TOTAL - 1), (LR, 0.7)):  # 6: a cut
        optimizer = optimizer_at()
        if step:
            optimizer.param_groups[0]["lr"] = held
        resumed = curve(build_scheduler(optimizer, name, plan, step=step), TOTAL - step)
        assert [rate.hex() for rate in resumed] == unbroken[step:], (step, held)


@pytest.mark.parametrize("name", SCHEDULES)
def test_whatever_rate_an_optimizer_brings_the_schedule_decides(name: str) -> None:
    """A restored optimizer brings the `initial_lr` of the run that saved it."""
    assert curve(build_scheduler(optimizer_at(0.7), name, WARM)) == ours(name, WARM)
    old, new = optimizer_at(0.7), optimizer_at()
    curve(build_scheduler(old, "cosine", lr=0.7), 7)
    new.load_state_dict(old.state_dict())
    assert curve(build_scheduler(new, name, step=7), TOTAL - 7) == ours(name)[7:]
    groups = Adam([{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(2)], 0.7)
    one, two = build_scheduler(groups, name, WARM, step=7).get_last_lr()
    assert one == two == ours(name, WARM)[7]


@pytest.mark.parametrize("name", ["lambda", "cosine", "onecycle"])
def test_a_longer_run_recomputes_its_curve(name: str) -> None:
    longer = PLAN._replace(total=60, decay=20)
    resumed = ours(name, longer, step=TOTAL)
    assert resumed == ours(name, longer)[TOTAL:] and len(resumed) == 20
    assert resumed[0] > ours(name)[-1]  # the shorter one had come down further


@pytest.mark.parametrize("step", [0, 7])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_order_of_the_loop_is_that_which_torch_wants(name: str, step: int) -> None:
    """torch warns of another order; warnings are errors."""
    layer = torch.nn.Linear(2, 1)
    optimizer = Adam(layer.parameters(), LR)
    scheduler = build_scheduler(optimizer, name, WARM, step=step)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == [ours(name, WARM)[step + 3]]


# ------------------------------------------------------------------------------ a length that is not fixed


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_stands_at_its_beginning_while_the_length_is_unknown(name: str) -> None:
    schedule = schedule_of(name, WARM._replace(warmup=0, decay=50, step_size=1000, milestones=(1000,)), LR)
    schedule.horizon.total = None
    start = factor(name, 0, WARM._replace(total=10**12, warmup=0, decay=10**12))
    assert all(schedule.factor(step) == pytest.approx(start) for step in (0, 10, 900))


@pytest.mark.parametrize("name", ["lambda", "cosine", "onecycle"])
@pytest.mark.parametrize("unknown", [False, True])
def test_a_length_that_changes_between_two_steps_is_followed_at_once(name: str, unknown: bool) -> None:
    """Without building the scheduler again; and to the bit as a run that is resumed there."""
    schedule = schedule_of(name, PLAN._replace(decay=2), LR)
    schedule.horizon.total = None if unknown else TOTAL
    scheduler = schedule.scheduler(optimizer_at())
    for step in range(1, 7):
        scheduler.optimizer.step()
        if step == 6:
            schedule.horizon.total = 9
        scheduler.step()
    resumed = schedule_of(name, PLAN._replace(decay=2, total=9), LR, step=6).scheduler(optimizer_at())
    assert [rate.hex() for rate in curve(scheduler, 3)] == [rate.hex() for rate in curve(resumed, 3)]


@pytest.mark.parametrize("total", [13, 26, 61, 222, 5000])
def test_a_run_of_minutes_that_is_shorter_than_its_warm_up_reaches_its_peak_and_decays(total: int) -> None:
    horizon = Horizon(500)
    horizon.total = total
    opt = Namespace(
        **{"minutes": 0.5, "schedule": "cosine", "lr": 1.0, "decay_epoch": None, "step_size": 10.0},
        **{"milestones": [], "gamma": 0.5, "warmup": 0.2},
    )
    rates = [build_schedule(opt, horizon).factor(step) for step in range(total)]
    assert max(rates) > 0.8 and rates.index(max(rates)) <= min(100, 0.2 * total) + 1
    assert rates[-1] < 0.05
