"""The position and the length of a run: Horizon, --minutes, --preset."""

import math
import re
import time
from argparse import Namespace
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from tests.builders import FAST, TINY
from tests.cli import Workplace
from utils.optim import horizon as module
from utils.optim.horizon import Deadline, EpochWork, Horizon, StepCost, StepTimer, set_length
from utils.options.presets import PRESETS
from utils.system.distributed import Ranks
from utils.system.errors import UserError

SHORT = (*TINY, *FAST, "--name", "short", "--repeat", "20", "--ema", "0.9", "--schedule", "cosine")


def test_a_run_of_minutes_ends_in_time_and_goes_on_exactly(work: Workplace) -> None:
    """The number of steps is kept in the state: from there the same steps lead to the same weights."""
    began = time.monotonic()
    run = work.train(*SHORT, "--minutes", "0.15", "--save_freq", "1")
    took = time.monotonic() - began
    assert 4 < took < 14, took  # 9 s were asked for; a busy machine may change its speed meanwhile
    state = torch.load(work.file("short", "latest_state.pth"), weights_only=True)["horizon"]
    total = state["total"]
    assert f"length  {total} steps" in run.err and state["step"] == total
    assert max(step for step, _ in work.log("short", "lr")) == total
    an_epoch = int(re.search(r"(\d+) an epoch", run.err)[1])  # type: ignore[index]
    assert f"/{math.ceil(total / an_epoch)} {total}/{total} loss" in run.err
    rates = dict(work.log("short", "lr"))
    assert rates[total] < 0.01 * max(rates.values())  # the schedule ends where the run does

    last = (total - 1) // an_epoch
    kept = torch.load(work.file("short", f"epoch_{last:04d}_state.pth"), weights_only=True)["horizon"][
        "total"
    ]
    assert kept >= total  # a run is made shorter where it becomes slower
    ends = []
    for _ in range(2):
        again = work.train("--epoch", str(last), "--name", "short")
        assert f"to {kept}," in again.err and "length" not in again.err
        ends.append(work.file("short", "latest_net.pth").read_bytes())
    assert ends[0] == ends[1]

    done = work.train("--resume", "--name", "short", code=2)
    assert f"has all its {kept} steps" in done.err and "--minutes" in done.err
    work.train("--resume", "--name", "short", "--minutes", "0.05")
    assert torch.load(work.file("short", "latest_state.pth"), weights_only=True)["horizon"]["total"] > kept


def test_two_lengths_are_refused_and_a_dry_run_measures_none(work: Workplace) -> None:
    refused = work.train(*SHORT, "--minutes", "1", "--max_steps", "5", code=2)
    assert "--max_steps" in refused.err and "leave one out" in refused.err
    assert "s a step" in work.train(*SHORT, "--minutes", "1", "--dry_run").err


def test_a_preset_is_other_defaults_that_flags_override_and_a_resume_keeps(work: Workplace) -> None:
    given = ("--dataroot", "demo:8:96", "--preset", "fine", "--width", "8", "--visdom", "off", "--name", "p")
    out = work.train(*given, "--crop_size", "32", "--batchSize", "4", "--n_epochs", "1", "--debug").err
    wanted = PRESETS["fine"] | {"crop_size": 32, "batchSize": 4, "width": 8}
    for key, value in wanted.items():
        assert f"{key}={value}" in out.replace("\n", " "), key
    more = work.train("--resume", "--name", "p", "--n_epochs", "2", "--debug").err
    assert f"lr={PRESETS['fine']['lr']}" in more.replace("\n", " ")
    assert "--preset cannot change" not in more


# -------------------------------------------------------------------------------------------------- position


def walk(horizon: Horizon, total: int) -> list[tuple[int, int, bool]]:
    """(epoch, offset, whether an epoch ended) before each step and after the last."""
    horizon.total, seen = total, []
    while True:
        ended = horizon.epoch_ended
        seen.append((horizon.epoch, horizon.offset, ended))
        horizon.closed_at = horizon.step if ended else horizon.closed_at
        if horizon.done:
            return seen
        horizon.advance()


def test_epochs_end_after_their_steps_and_with_the_run() -> None:
    seen = walk(Horizon(steps_per_epoch=3), total=7)
    assert [place[:2] for place in seen] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
    assert [step for step, place in enumerate(seen) if place[2]] == [3, 6, 7]


@pytest.mark.parametrize("at", range(8))
def test_a_restored_horizon_walks_the_rest(at: int) -> None:
    whole, half = Horizon(3), Horizon(3)
    expected = walk(whole, 7)
    walk(half, at)
    half.closed_at = half.step // 3 * 3  # an epoch that the shorter run cut off has not ended
    rest = Horizon(3)
    rest.load_state_dict(half.state_dict())
    assert walk(rest, 7)[1:] == expected[at + 1 :]


@pytest.mark.parametrize(("every", "due"), [(1, [3, 6, 9, 10]), (2, [6, 10]), (5, [10])])
def test_every_so_many_epochs_are_validated_and_the_last(every: int, due: list[int]) -> None:
    horizon = Horizon(3)
    set_length(horizon, length(n_epochs=4, max_steps=10, val_freq=every))
    assert validated(horizon) == due


def length(**options: Any) -> Namespace:
    """Options of a run's length."""
    defaults = {"n_epochs": 40, "max_steps": None, "minutes": None, "val_freq": None, "warmup": 0.0}
    return Namespace(**(defaults | {"dry_run": False, "changed": set(), "name": "run"} | options))


def validated(horizon: Horizon) -> list[int]:
    """The steps at which the rest of a run validates; each epoch's end is handled as train.py does."""
    found = []
    while not horizon.done:
        horizon.advance()
        if horizon.validation_due:
            found.append(horizon.step)
        horizon.close()
        assert not horizon.validation_due  # once
    return found


@pytest.mark.parametrize(
    ("options", "cost", "due"),
    [
        ({"max_steps": 300}, 0.1, [*range(30, 301, 30)]),
        ({"max_steps": 305}, 0.1, [*range(31, 280, 31), 305]),
        ({"max_steps": 300}, 10, [30, 90, 180, 300]),  # at most a tenth of the time, the first one early
        ({"max_steps": 7}, 0.0, [1, 2, 3, 4, 5, 6, 7]),
        ({"max_steps": 300, "val_freq": 1}, 10, [120, 240, 300]),  # what was typed holds
        ({"n_epochs": 2}, 0.1, [*range(24, 241, 24)]),  # few epochs, but long ones
        ({"n_epochs": 10}, 0.1, [*range(120, 1201, 120)]),
    ],
)
def test_a_run_validates_about_ten_times_however_short_it_is(
    options: dict[str, Any], cost: float, due: list[int]
) -> None:
    horizon = Horizon(120)
    set_length(horizon, length(**options), cost)
    assert validated(horizon) == due


@pytest.mark.parametrize("at", [29, 30, 31, 120, 121])
def test_an_interrupted_run_validates_where_an_uninterrupted_one_does(at: int) -> None:
    whole = Horizon(120)
    set_length(whole, length(max_steps=300))
    expected = validated(whole)
    half, rest = Horizon(120), Horizon(120)
    set_length(half, length(max_steps=300))
    before = [step for step in expected if step <= at]
    for _ in range(at):
        half.advance()
        half.close()
    rest.load_state_dict(half.state_dict())
    set_length(rest, length(max_steps=300))
    assert before + validated(rest) == expected


@pytest.mark.parametrize(("every", "kept"), [(0, {}), (1, {3: 1, 6: 2, 9: 3}), (2, {6: 2})])
def test_whole_epochs_are_kept_once_they_are_validated(every: int, kept: dict[int, int]) -> None:
    horizon, found = Horizon(3), {}
    horizon.total = 10
    while not horizon.done:
        horizon.advance()
        assert not horizon.kept_epoch(every)
        horizon.closed_at = horizon.step if horizon.epoch_ended else horizon.closed_at
        if epoch := horizon.kept_epoch(every):
            found[horizon.step] = epoch
    assert found == kept


@pytest.mark.parametrize(("warmup", "refused"), [(2.9, False), (3, True), (5, True)])
def test_a_warm_up_as_long_as_the_run_is_refused(warmup: float, refused: bool) -> None:
    horizon = Horizon(10)
    with pytest.raises(UserError, match="as long as the run") if refused else nullcontext():
        horizon.set_length(n_epochs=4, max_steps=30, warmup=warmup)


# -------------------------------------------------------------------------------------------------- --minutes


class Clock:
    """Stands for `time` in horizon.py."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class Saves:
    seconds = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(module, "time", Clock())
    return module.time


def deadline_of(seconds: float, horizon: Horizon) -> Deadline:
    work = EpochWork(load=lambda: None, predict=lambda: None, images=0, decoding_steps=0)
    return Deadline(seconds / 60, 0.0, horizon, Ranks(torch.device("cpu"), 0, 1, ""), work, Saves())


def test_a_stall_and_slow_first_steps_do_not_change_the_estimate(clock: Clock) -> None:
    timer, waited = StepTimer(on=True), 0.0  # of a run of hours: the stall is no share of it
    for number in range(module.MIN_TIMED_STEPS):
        slow = 10.0 if number < 8 else 0.1
        clock.now += 60.0 if number == 20 else slow + 0.02
        waited += 0.02
        due = timer.step(waited) and not timer.too_early(math.inf)
        assert due == (number == module.MIN_TIMED_STEPS - 1)
    assert timer.read() == pytest.approx((0.1, 0.02))


@pytest.mark.parametrize(
    ("total", "timed"), [(100, 25), (250, 25), (260, 26), (5000, 500), (10**6, module.MAX_TIMED_STEPS)]
)
def test_a_tenth_of_the_steps_is_timed_within_bounds(total: int, timed: int) -> None:
    timer, steps = StepTimer(on=True), 0
    while True:
        steps += 1
        early = not timer.step(0) or timer.too_early(math.inf)
        if not early and timer.ready(total - steps, StepCost(0.1, 0)):
            break
    assert steps == timed


@pytest.mark.risk(40)
@pytest.mark.parametrize(
    ("slower", "from_step", "within"),
    [(1.0, 0, (0.96, 0.98)), (1.03, 300, (0.97, 1.0)), (1.3, 300, (0.99, 1.02)), (3.0, 300, (0.99, 1.04))],
)
def test_a_machine_that_becomes_slower_shortens_the_run(
    clock: Clock, slower: float, from_step: int, within: tuple[float, float]
) -> None:
    """100 s for steps of 0.1 s, until something slows them down."""
    horizon, lengths = Horizon(steps_per_epoch=500), []
    deadline = deadline_of(100, horizon)
    while not horizon.done:
        horizon.advance()
        clock.now += 0.1 * (slower if horizon.step > from_step else 1)
        if note := deadline.step(0):
            lengths.append(horizon.total)
            assert note.startswith(f"length  {horizon.total} steps") and ("slower" in note) == (
                len(lengths) > 1
            )
    assert within[0] <= clock.now / 100 <= within[1]
    assert (len(lengths) > 1) == (slower > 1.03)  # the safety margin covers a little
    assert lengths == sorted(lengths, reverse=True)


def test_the_work_besides_the_steps_is_part_of_the_estimate(clock: Clock) -> None:
    """Validation of 4 images at 1 s each and two saves of 2 s, every 50 steps and at the end."""
    horizon = Horizon(steps_per_epoch=50)
    horizon.val_every, horizon.in_tenths = 50, False

    def predict() -> None:
        clock.now += 1

    work = EpochWork(load=lambda: None, predict=predict, images=4, decoding_steps=0)
    saves = Saves()
    saves.seconds = 2.0
    deadline = Deadline(1000 / 60, 0.0, horizon, Ranks(torch.device("cpu"), 0, 1, ""), work, saves)
    while horizon.total is None:
        horizon.advance()
        clock.now += 1
        deadline.step(0)
    each, end = 1 + 8 / 50, 8
    expected = horizon.step + (0.97 * (1000 - clock.now) - end) / each
    assert horizon.total == pytest.approx(expected, abs=3)


@pytest.mark.risk(40)
@pytest.mark.parametrize(
    ("slow_s", "slow_steps"), [(1.0, 8), (2.0, 12), (3.0, 4), (6.0, 3)], ids=["8", "12", "4", "3"]
)
def test_a_run_that_was_timed_in_a_slow_moment_becomes_longer(
    clock: Clock, slow_s: float, slow_steps: int
) -> None:
    """60 s, with steps of 0.1 s once the machine is free."""
    horizon, notes = Horizon(steps_per_epoch=500), []
    deadline = deadline_of(60, horizon)
    while not horizon.done:
        horizon.advance()
        clock.now += slow_s if horizon.step <= slow_steps else 0.1
        notes += filter(None, [deadline.step(0)])
    assert 45 < clock.now <= 61
    assert len(notes) == 1 or "more because steps became faster" in notes[1]


@pytest.mark.risk(40)
@pytest.mark.parametrize("step_s", [1.5, 4.0, 9.0, 25.0])
def test_steps_too_slow_to_be_timed_at_length_end_in_time(clock: Clock, step_s: float) -> None:
    """60 s hold fewer than twice the steps that are timed otherwise: the third step tells the length."""
    horizon, notes = Horizon(steps_per_epoch=500), []
    deadline = deadline_of(60, horizon)
    while not horizon.done:
        horizon.advance()
        clock.now += step_s
        notes += filter(None, [deadline.step(0)])
    assert 60 - 2 * step_s <= clock.now <= max(60, 4 * step_s)
    assert ("cannot be met" in notes[0]) == (4 * step_s > 60)


@pytest.mark.risk(40)
@pytest.mark.parametrize(("predict_s", "says"), [(1.0, False), (5.0, False), (80.0, True)])
def test_minutes_that_cannot_be_met_are_named_at_once(clock: Clock, predict_s: float, says: bool) -> None:
    """One validation of 5 images at the end of 60 s."""
    horizon = Horizon(steps_per_epoch=500)

    def predict() -> None:
        clock.now += predict_s

    work = EpochWork(load=lambda: None, predict=predict, images=5, decoding_steps=0)
    deadline, notes = deadline_of(60, horizon), []
    deadline.work = work
    while not notes:
        horizon.advance()
        clock.now += 1.5
        notes += filter(None, [deadline.step(0)])
    timed = math.ceil(module.MAX_TIMED_SHARE * 60 / 1.5)  # steps that take this share of the time
    assert horizon.step <= timed + 2 and ("cannot be met" in notes[0]) == says


@pytest.mark.parametrize(("total", "stop_after"), [(40, None), (None, 2)])
def test_a_known_length_and_a_dry_run_are_not_timed(
    clock: Clock, total: int | None, stop_after: int | None
) -> None:
    horizon = Horizon(10)
    horizon.total, horizon.stop_after = total, stop_after
    deadline = deadline_of(1, horizon)
    for _ in range(60):
        clock.now += 1
        assert deadline.step(0) == ""
    assert horizon.total == total


def test_a_run_of_minutes_validates_ten_times_once_its_length_is_known(clock: Clock) -> None:
    """Steps of 0.1 s; a validation of 0.2 s fits ten times, one of 5 s takes a tenth of the time."""
    for each_s, few, many in ((0.05, 9, 12), (1.25, 2, 4)):
        horizon, spent, took = Horizon(500), 0.0, []
        set_length(horizon, length(minutes=1, changed={"minutes"}))

        def predict(each_s: float = each_s) -> None:
            clock.now += each_s

        clock.now = 0.0
        deadline = deadline_of(60, horizon)
        deadline.work = EpochWork(load=lambda: None, predict=predict, images=4, decoding_steps=0)
        while not horizon.done:
            horizon.advance()
            clock.now += 0.1
            deadline.step(0)
            if horizon.validation_due:
                clock.now += 4 * each_s
                spent += 4 * each_s
                took.append(horizon.step)
            horizon.close()
        assert few <= len(took) <= many and clock.now < 61
        assert took[0] <= 0.12 * took[-1]  # the first pictures come within the first tenth
        assert spent <= 0.1 * 60 + 2 * 4 * each_s  # besides the first and the last one
