"""What the tests share: the scripts as subprocesses, in a folder of their own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models import NETWORKS
from utils.system.signals import STOPPING

ROOT = Path(__file__).resolve().parent.parent
DATASETS = ROOT / "datasets"
OURS = [name for name in NETWORKS if name != "spandrel"]  # those that need no file of weights
TINY = ("--dataroot", "demo:6:48", "--model", "resunet", "--width", "8", "--depth", "1", "--levels", "2")
FAST = ("--crop_size", "32", "--batchSize", "4", "--log_freq", "1", "--visdom", "off", "--seed", "3")
STRICT = (  # Python's flags: warnings are errors, but for
    *("-W", "error"),
    *("-W", "ignore:This process:DeprecationWarning"),  # Python 3.12+ on torch's fork of loader workers
    # more workers than cores: with `-n 2` there is one
    *("-W", "ignore:This DataLoader will create:UserWarning"),
)


class Workplace:
    """A working directory with runs in it, and the scripts started from it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def start(self, script: str, *flags: str, **env: str) -> "subprocess.Popen[str]":
        command = [sys.executable, *STRICT, str(ROOT / script), *flags]
        environment = {**os.environ, "PYTHONWARNINGS": "", **env}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, script: str, *flags: str, code: int = 0, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run a script to its end; fails the test unless it ends with `code`."""
        process = self.start(script, *flags, **env)
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, f"{script} ended with {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(process.args, code, out, err)

    def train(self, *flags: str, code: int = 0, **env: str) -> "subprocess.CompletedProcess[str]":
        return self.call("train.py", *flags, code=code, **env)

    def test(self, *flags: str, code: int = 0, **env: str) -> "subprocess.CompletedProcess[str]":
        return self.call("test.py", *flags, code=code, **env)

    def log(self, name: str, key: str) -> list[tuple[int, float]]:
        """(step, value) of every record of a run's log that has `key`."""
        lines = (self.folder / "checkpoints" / name / "log.jsonl").read_text().splitlines()
        records: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [(record["step"], record[key]) for record in records if key in record]

    def file(self, name: str, file: str) -> Path:
        return self.folder / "checkpoints" / name / file


@pytest.fixture
def work(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def dataset(name: str) -> Path:
    """A real data set, or a skip where it is absent."""
    if not (DATASETS / name).exists():
        pytest.skip(f"datasets/{name} is absent")
    return DATASETS / name


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Call train.py's main in this process: `trained(*flags)` returns the run's folder below `tmp_path`."""
    import train
    from utils.options.flags import parse_train

    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (*STOPPING, signal.SIGUSR1)}

    def call(*flags: str, name: str = "run") -> Path:
        with ExitStack() as cleanup:
            code = train.main(parse_train([*flags, "--name", name]), cleanup)
        assert code == 0
        return tmp_path / "checkpoints" / name

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def records(run: Path, key: str) -> list[Any]:
    """Every value of `key` in a run's log."""
    lines = (run / "log.jsonl").read_text().splitlines()
    return [record[key] for record in map(json.loads, lines) if key in record]


def pixels(path: Path) -> np.ndarray:
    """A picture on the disk, as it was written."""
    with Image.open(path) as file:
        return np.asarray(file)
