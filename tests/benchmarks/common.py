"""What the benchmarks share: the machine, tables, and the scripts as subprocesses that are timed."""

import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from utils.run.log import read_log
from utils.run.run import versions

ROOT = Path(__file__).resolve().parents[2]
DATASETS = ROOT / "datasets"
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


class Call(NamedTuple):
    """A script that has ended: wall time, the peak of its memory, and what it said."""

    seconds: float
    peak_mib: float
    said: str


def call(folder: Path, *command: str) -> Call:
    """Run `python command...` in `folder`; CalledProcessError where it fails."""
    with (folder / "said.txt").open("w+") as file:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, *command], cwd=folder, stdout=file, stderr=file)
        peak_mib = 0.0
        while process.poll() is None:
            peak_mib = max(peak_mib, resident_mib(process.pid))
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        file.seek(0)
        said = file.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, said)
    return Call(seconds, peak_mib, said)


def resident_mib(pid: int) -> float:
    """The peak so far of a process's memory; what the system counts for children begins with the parent's."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def train(folder: Path, *flags: str) -> Call:
    """train.py with these flags as run `run` below `folder`."""
    return call(folder, str(ROOT / "train.py"), "--name", "run", *flags)


def test(folder: Path, *flags: str) -> tuple[Call, dict[str, Any]]:
    """test.py on run `run`, and the summary that it wrote."""
    done = call(folder, str(ROOT / "test.py"), "--name", "run", "--visdom", "off", *flags)
    written = (folder / "results" / "run").glob("*/summary.json")
    newest = max(written, key=lambda file: file.stat().st_mtime_ns)
    return done, json.loads(newest.read_text())


def records(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return read_log(folder / "checkpoints/run/log.jsonl")
