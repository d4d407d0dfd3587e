"""--minutes and --preset, through train.py itself."""

import math
import re
import time

import pytest
import torch

from tests.conftest import FAST, TINY, Workplace
from utils.optim import horizon as pace
from utils.options.flags import PRESETS

SHORT = (*TINY, *FAST, "--name", "short", "--repeat", "20", "--ema", "0.9", "--schedule", "cosine")


def test_a_run_of_minutes_ends_in_time_and_goes_on_exactly(work: Workplace) -> None:
    """The number of steps is kept in the state: from there the same steps lead to the same weights."""
    began = time.monotonic()
    run = work.train(*SHORT, "--minutes", "0.15", "--save_freq", "1")
    took = time.monotonic() - began
    assert 4 < took < 14, took  # 9 s were asked for; a busy machine may change its speed meanwhile
    state = torch.load(work.file("short", "latest_state.pth"), weights_only=True)
    total = state["total"]
    assert f"length  {total} steps" in run.stderr and state["step"] == total
    assert max(step for step, _ in work.log("short", "lr")) == total
    an_epoch = int(re.search(r"(\d+) an epoch", run.stderr)[1])  # type: ignore[index]
    assert f"/{math.ceil(total / an_epoch)} {an_epoch}/{an_epoch} loss" in run.stderr  # once it is known
    rates = dict(work.log("short", "lr"))
    assert rates[total] < 0.01 * max(rates.values())  # the schedule ends where the run does

    last = (total - 1) // an_epoch
    kept = torch.load(work.file("short", f"epoch_{last:04d}_state.pth"), weights_only=True)["total"]
    assert kept >= total  # a run is made shorter where it becomes slower
    ends = []
    for _ in range(2):
        again = work.train("--epoch", str(last), "--name", "short")
        assert f"to {kept}," in again.stderr and "length" not in again.stderr
        ends.append(work.file("short", "latest_net.pth").read_bytes())
    assert ends[0] == ends[1]

    done = work.train("--resume", "--name", "short", code=2)
    assert f"has all its {kept} steps" in done.stderr and "--minutes" in done.stderr
    work.train("--resume", "--name", "short", "--minutes", "0.05")
    assert torch.load(work.file("short", "latest_state.pth"), weights_only=True)["total"] > kept


def test_two_lengths_are_refused_and_a_dry_run_measures_none(work: Workplace) -> None:
    refused = work.train(*SHORT, "--minutes", "1", "--max_steps", "5", code=2)
    assert "--max_steps" in refused.stderr and "leave one out" in refused.stderr
    assert "s a step" in work.train(*SHORT, "--minutes", "1", "--dry_run").stderr


def test_a_preset_is_other_defaults_that_flags_override_and_a_resume_keeps(work: Workplace) -> None:
    given = ("--dataroot", "demo:8:96", "--preset", "fine", "--width", "8", "--visdom", "off", "--name", "p")
    out = work.train(*given, "--crop_size", "32", "--batchSize", "4", "--n_epochs", "1").stderr
    wanted = PRESETS["fine"] | {"crop_size": 32, "batchSize": 4, "width": 8}
    for key, value in wanted.items():
        assert f"{key}={value}" in out.replace("\n", " "), key
    more = work.train("--resume", "--name", "p", "--n_epochs", "2").stderr
    assert f"lr={PRESETS['fine']['lr']}" in more.replace("\n", " ")
    assert "--preset cannot change" not in more


class Clock:
    """Stands for `time` in pace.py."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(pace, "time", Clock())
    return pace.time


def test_a_stall_and_slow_first_steps_do_not_change_the_estimate(clock: Clock) -> None:
    watch, waited = pace.StepTimer(on=True), 0.0
    for number in range(pace.LEAST):
        slow = 10.0 if number < 8 else 0.1
        clock.now += 60.0 if number == 20 else slow + 0.02
        waited += 0.02
        assert watch.step(waited) == (number == pace.LEAST - 1)
    assert watch.read() == pytest.approx((0.1, 0.02))


@pytest.mark.parametrize(
    ("total", "timed"), [(100, 25), (250, 25), (260, 26), (5000, 500), (10**6, pace.MOST)]
)
def test_a_tenth_of_the_steps_is_timed_within_bounds(total: int, timed: int) -> None:
    watch, steps = pace.StepTimer(on=True), 0
    while True:
        steps += 1
        if watch.step(0) and watch.settled(total - steps, pace.StepCost(0.1, 0)):
            break
    assert steps == timed


@pytest.mark.parametrize(
    ("slower", "from_step", "within"),
    [(1.0, 0, (0.96, 0.98)), (1.03, 300, (0.97, 1.0)), (1.3, 300, (0.99, 1.02)), (3.0, 300, (0.99, 1.04))],
)
def test_a_machine_that_becomes_slower_shortens_the_run(
    clock: Clock, slower: float, from_step: int, within: tuple[float, float]
) -> None:
    """The loop of train.py with 100 s for steps of 0.1 s, until something slows them down."""
    watch, total, step, lengths = pace.StepTimer(on=True), 10**9, 0, []
    while step < total:
        step += 1
        clock.now += 0.1 * (slower if step > from_step else 1)
        if watch.step(0):
            measured = pace.StepCost(watch.read()[0], last=0, spare=pace.SAFETY_MARGIN)
            costs = watch.since() if watch.fixed else measured
            fits = min(total, step + pace.steps_within(100 - clock.now, costs))
            if watch.settled(fits - step, costs) and fits < total:
                total = fits
                lengths.append(total)
    assert within[0] <= clock.now / 100 <= within[1]
    assert (len(lengths) > 1) == (slower > 1.03)  # what is spare suffices for a little
    assert lengths == sorted(lengths, reverse=True)
