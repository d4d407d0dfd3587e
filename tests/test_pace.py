"""--minutes and --preset, through train.py itself."""

import math
import re
import time
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import FAST, TINY, Workplace
from utils import pace
from utils.options import PRESETS

SHORT = (*TINY, *FAST, "--name", "short", "--repeat", "20", "--ema", "0.9", "--schedule", "cosine")


def test_a_run_of_minutes_ends_in_time_and_goes_on_exactly(work: Workplace) -> None:
    """The number of steps is fixed once: from a kept state the same steps lead to the same weights."""
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

    weights = work.file("short", "latest_net.pth").read_bytes()
    again = work.train("--epoch", str((total - 1) // an_epoch), "--name", "short")
    assert f"to {total}," in again.stderr and "length" not in again.stderr
    assert work.file("short", "latest_net.pth").read_bytes() == weights

    done = work.train("--resume", "--name", "short", code=2)
    assert f"has all its {total} steps" in done.stderr and "--minutes" in done.stderr
    work.train("--resume", "--name", "short", "--minutes", "0.05")
    assert torch.load(work.file("short", "latest_state.pth"), weights_only=True)["total"] > total


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


def test_a_stall_and_slow_first_steps_do_not_change_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: now))
    watch, waited = pace.Stopwatch(), 0.0
    for number in range(pace.LEAST):
        slow = 10.0 if number < 8 else 0.1
        now += 60.0 if number == 20 else slow + 0.02
        waited += 0.02
        assert watch.step(waited) == (number == pace.LEAST - 1)
    assert watch.read() == pytest.approx((0.1, 0.02))


@pytest.mark.parametrize(
    ("total", "timed"), [(100, 25), (250, 25), (260, 26), (5000, 500), (10**6, pace.MOST)]
)
def test_a_tenth_of_the_steps_is_timed_within_bounds(total: int, timed: int) -> None:
    watch, steps = pace.Stopwatch(), 0
    while not (watch.step(0) and watch.enough(total)):
        steps += 1
    assert steps + 1 == timed
