"""What the loop of train.py costs beside the bare step: images/s of both.

The bare step is what one step of train.py must do to one fixed batch in memory: forward, loss, backward,
clipping, optimizer, schedule, average. train.py adds reading, cropping, turning, noise, the check for NaN,
the PSNR of every training image, the log, visdom, signals, saves; its first epoch is left out. Both run in
turns of a few seconds, each stopped while the other runs, since a machine's speed may waver by more than
what is measured.
"""

import signal
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.common import NOISY, flag_parser, table, workplace
from tests.builders import DATASETS, ROOT, words
from tests.cli import Job
from utils.run.log import read_log


class Case(NamedTuple):
    """Flags of both processes; steps of an epoch, and between two records; seconds of a turn."""

    flags: tuple[str, ...]
    epoch: int
    every: int
    turn_s: float


COMMON = words("--optimizer adamw --schedule cosine --ema 0.995 --clip 1")
GRAY = words(
    "--model resunet --crop_size 96 --channels_last --input_nc 1 --output_nc 1 --repeat 8 --batchSize 8"
)
COLOUR = words("--model resnet --crop_size 256 --input_nc 3 --output_nc 3 --repeat 2 --batchSize 1")
HAZY = ("--dataroot", f"{DATASETS}/sots-indoor")
CASES = {
    "resunet 96 x 96, batch 8": Case((*COMMON, *NOISY, *GRAY), 400, every=10, turn_s=5),
    "resnet 256 x 256, batch 1": Case((*COMMON, *HAZY, *COLOUR), 84, every=1, turn_s=10),
}


class Turns:
    """A process that logs its steps, stopped except during its turns."""

    def __init__(self, job: Job, log: Path):
        self.job, self.log = job, log

    def warm_up(self, steps: int) -> None:
        """Let it run until it has taken so many steps."""
        self.job.until(lambda: (found := read_log(self.log)) and found[-1]["step"] >= steps, seconds=600)
        self.job.signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> list[dict[str, Any]]:
        """Let it run so long; what it logged meanwhile."""
        before = len(read_log(self.log))
        self.job.signal(signal.SIGCONT)
        time.sleep(seconds)
        self.job.signal(signal.SIGSTOP)
        return read_log(self.log)[before:]

    def end(self) -> None:
        """Let it save and stop its visdom server."""
        for number in (signal.SIGTERM, signal.SIGCONT):
            self.job.signal(number)
        self.job.wait(None)


def steps_s(records: list[dict[str, Any]]) -> float:
    """Steps a second from the first record to the last."""
    first, last = records[0], records[-1]
    return (last["step"] - first["step"]) / (last["time"] - first["time"])


def measured(case: Case, turns: int, workers: str) -> Iterator[tuple[float, float, float]]:
    """Of each pair of turns: steps/s of the bare step and of train.py, and the share that this one waits."""
    flags = (*case.flags, "--num_workers", workers, "--log_freq", str(case.every))
    endless = words("--n_epochs 1000 --val_share 0 --visdom start --visdom_port 8099")
    with workplace() as work, ExitStack() as processes:
        job = work.start("train.py", *flags, *endless)
        whole = Turns(job, job.run / "log.jsonl")
        processes.callback(whole.end)
        whole.warm_up(case.epoch + 2 * case.every)
        command = (sys.executable, "-m", "tests.benchmarks.step", "--log", *flags)
        bare = Turns(work.process(*command, PYTHONPATH=str(ROOT)), work.folder / "bare.jsonl")
        processes.callback(bare.end)
        bare.warm_up(2 * case.every)
        for _ in range(turns):
            alone, trained = bare.turn(case.turn_s), whole.turn(case.turn_s)
            yield steps_s(alone), steps_s(trained), statistics.mean(row["wait"] for row in trained[1:])


def rows(turns: int, workers: str, only: str) -> Iterator[tuple[object, ...]]:
    for name, case in CASES.items():
        if only not in name:
            continue
        found = list(measured(case, turns, workers))
        alone, trained, wait = (statistics.median(turn[i] for turn in found) for i in range(3))
        low, middle, high = statistics.quantiles((turn[1] / turn[0] for turn in found), n=4)
        batch = int(case.flags[case.flags.index("--batchSize") + 1])
        share = f"**{middle:.1%}**", f"{low:.1%} to {high:.1%}"
        yield name, f"{alone * batch:.1f}", f"{trained * batch:.1f}", *share, f"{wait:.1%}"


def main(argv: list[str]) -> None:
    parser = flag_parser(__doc__)
    parser.add_argument("--turns", type=int, default=20, help="pairs of turns of both")
    parser.add_argument("--num_workers", default="0")
    parser.add_argument("--only", default="", help="the steps whose name holds this, such as resunet")
    opt = parser.parse_args(argv)
    columns = ("step", "bare, images/s", "train.py, images/s", "share", "half of the turns", "waits for data")
    table("The loop", columns, rows(opt.turns, opt.num_workers, opt.only))
