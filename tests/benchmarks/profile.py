"""Where a minute of training goes: torch's operations in train.py itself, preset fine, denoising.

The steps of the first epoch, which decodes, are left out. A row is the time of the operation alone, without
those that it calls; that of the DataLoader is numpy's, for the next batch. `Python and the rest` is what no
operation takes. Profiling slows Python down, and adding a minute up takes three.
"""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from torch.profiler import ProfilerActivity, profile, schedule

from tests.benchmarks.common import NOISY, flag_parser, table, workplace
from tests.cli import InProcess
from tests.seams import wrap

TRAINING = ("--preset", "fine", *NOISY, "--val_share", "0", "--n_epochs", "1000", "--visdom", "off")
FIRST_EPOCH, WINDOW = 50, 20  # steps: left out, and profiled together before the profile is added up
ROWS = 12


def train_profiled(seconds: float) -> tuple[Counter[str], float, int]:
    """(seconds of each operation, of all steps, number of steps) of so many seconds of train.py, run here."""
    spent: Counter[str] = Counter()
    total, steps, ended = 0.0, 0, False

    def add_up(profiler: Any) -> None:
        nonlocal total, steps, ended
        for event in profiler.key_averages():
            if event.key.startswith("ProfilerStep"):
                total += event.cpu_time_total / 1e6
                steps += event.count
            else:
                spent[event.key] += event.self_cpu_time_total / 1e6
        if total >= seconds and not ended:
            ended = True
            os.kill(os.getpid(), signal.SIGTERM)  # train.py saves and ends, and the last window with it

    windows = schedule(skip_first=FIRST_EPOCH, wait=0, warmup=1, active=WINDOW)
    profiler = profile(activities=[ProfilerActivity.CPU], schedule=windows, on_trace_ready=add_up)

    def step(honest: Any, *given: Any) -> None:
        honest(*given)
        profiler.step()

    with pytest.MonkeyPatch.context() as patch, profiler:
        wrap("progress", step, patch)
        InProcess().train(*TRAINING, code=None)
    return spent, total, steps


def rows(seconds: float) -> Iterator[tuple[object, ...]]:
    with workplace() as work, pytest.MonkeyPatch.context() as patch:
        patch.chdir(work.folder)
        spent, total, steps = train_profiled(seconds)

    def row(what: str, took: float) -> tuple[object, ...]:
        return what, f"{1000 * took / steps:.2f}", f"{took / total:.1%}"

    yield row(f"{steps} steps", total)
    for operation, took in spent.most_common(ROWS):
        yield row(operation, took)
    yield row("Python and the rest", total - sum(spent.values()))


def main(argv: list[str]) -> None:
    parser = flag_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    opt = parser.parse_args(argv)
    table("Profile of a minute of train.py", ("operation", "ms a step", "share"), rows(opt.seconds))
