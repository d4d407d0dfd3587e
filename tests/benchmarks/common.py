"""What the benchmarks share: the machine, tables, and the scripts as processes that are timed."""

import datetime
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from tests.builders import DATASETS
from tests.cli import Ended, Job, Workplace
from utils.run.run import versions

NOISY = ("--dataroot", f"{DATASETS}/bsd400-gray", "--degrade", "noise:25", "--augment", "flip_rot90")


def machine() -> str:
    """Processor, number of cores, torch and date: what stands above every table."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    features = {word for line in lines if line.startswith("flags") for word in line.split()}
    kinds = [kind for kind in ("amx_bf16", "avx512_bf16") if kind in features]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    name = names[0] if names else "unknown processor"
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {name} ({', '.join(kinds) or 'no bfloat16'}){gpu}, torch {versions()['torch']}"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table in Markdown, each row as soon as it is measured."""
    print(f"\n### {title}\n\n{machine()}, {datetime.date.today()}\n")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)


class Timed(NamedTuple):
    """A script that has ended: seconds of wall time, the peak of its memory, and its outcome."""

    seconds: float
    peak_mib: float
    ended: Ended


def timed(job: Job) -> Timed:
    """Wait for a process; fails if it does."""
    began, peak_mib = time.perf_counter(), 0.0
    while job.running():
        peak_mib = max(peak_mib, resident_mib(job.pid))
        time.sleep(0.02)
    return Timed(time.perf_counter() - began, peak_mib, job.wait())


def resident_mib(pid: int) -> float:
    """The peak so far of a process's memory; what the system counts for children begins with the parent's."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


@contextmanager
def workplace() -> Iterator[Workplace]:
    """A temporary folder in which scripts run."""
    with tempfile.TemporaryDirectory() as folder:
        place = Workplace(Path(folder))
        try:
            yield place
        finally:
            place.close()


def train(work: Workplace, *flags: str) -> Timed:
    """train.py with these flags as run `run`."""
    return timed(work.start("train.py", "--visdom", "off", *flags))


def test(work: Workplace, *flags: str) -> Timed:
    """test.py on run `run`, on the GPU where there is one."""
    return timed(work.start("test.py", "--gpu_ids", "0", *flags))
