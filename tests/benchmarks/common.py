"""What the benchmarks share: the machine, tables, and the scripts as processes that are timed."""

import argparse
import datetime
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import torch

from tests.builders import DATASETS
from tests.cli import Ended, Job, Workplace
from utils.run.run import versions

GRAY, AUGMENT = f"{DATASETS}/bsd400-gray", "flip_rot90+texture:4"
NOISY = ("--dataroot", GRAY, "--degrade", "noise:25", "--augment", AUGMENT)


def machine() -> str:
    """Processor, number of cores and torch: what stands above every table."""
    file = Path("/proc/cpuinfo")
    text = file.read_text() if file.is_file() else ""
    name = re.search(r"^model name\s*: (.*)", text, re.MULTILINE)
    kinds = [kind for kind in ("amx_bf16", "avx512_bf16") if kind in text.split()]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    processor = f"{name[1] if name else 'unknown processor'} ({', '.join(kinds) or 'no bfloat16'}){gpu}"
    return f"{len(os.sched_getaffinity(0))} cores of {processor}, torch {versions()['torch']}"


def flag_parser(doc: str | None, command: str | None = None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(command, description=doc, formatter_class=argparse.RawTextHelpFormatter)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table in Markdown, each row as soon as it is measured."""
    print(f"\n### {title}\n\n{machine()}, {datetime.date.today()}\n")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def seconds_of(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


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
    with suppress(OSError):  # it has ended
        peak = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
        return int(peak[1]) / 1024 if peak else 0.0
    return 0.0


@contextmanager
def workplace() -> Iterator[Workplace]:
    """A temporary folder in which scripts run."""
    with tempfile.TemporaryDirectory() as folder, closing(Workplace(Path(folder))) as place:
        yield place


def train(work: Workplace, *flags: str) -> Timed:
    return timed(work.start("train.py", "--visdom", "off", *flags))


def test(work: Workplace, *flags: str) -> Timed:
    return timed(work.start("test.py", "--gpu_ids", "0", *flags))
