"""How soon the scripts answer: --help, the imports, and the first step of training on the demo."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.common import ROOT, call, table

REPEATS = 7
DEMO = (
    "--dataroot",
    "demo",
    "--preset",
    "coarse",
    "--visdom",
    "off",
    "--log_freq",
    "1",
    "--max_steps",
    "1000",
)
IMPORTS = "import torch, torchvision, PIL.Image, numpy, tqdm"


def first_step() -> float:
    """Seconds from the command to the first logged step."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "train.py"), "--name", "run", *DEMO]
        log = Path(folder) / "checkpoints/run/log.jsonl"
        began = time.perf_counter()
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, cwd=folder, stdout=quiet, stderr=quiet) as process:
            while not (log.is_file() and log.read_text().endswith("\n")):
                if process.poll() is not None:
                    raise subprocess.CalledProcessError(process.returncode, command)
                time.sleep(0.01)
            seconds = time.perf_counter() - began
            assert json.loads(log.read_text().splitlines()[0])["step"] == 1
            process.kill()
    return seconds


def rows() -> Iterator[tuple[object, ...]]:
    measures = {
        "train.py --help": lambda: call(ROOT_TMP, str(ROOT / "train.py"), "--help").seconds,
        "test.py --help": lambda: call(ROOT_TMP, str(ROOT / "test.py"), "--help").seconds,
        IMPORTS: lambda: call(ROOT_TMP, "-c", IMPORTS).seconds,
        "first step of train.py on the demo": first_step,
    }
    for what, measure in measures.items():
        measure()  # from a warm disk
        times = [measure() for _ in range(REPEATS)]
        yield what, f"{statistics.median(times):.2f}", f"{min(times):.2f} to {max(times):.2f}"


ROOT_TMP = Path(tempfile.gettempdir())


def main(argv: list[str] | None = None) -> None:
    table("Start", ("what", "seconds, median of 7", "range"), rows())


if __name__ == "__main__":
    main()
