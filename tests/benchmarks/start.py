"""How soon the scripts answer: --help, the imports, and the first step of training on the demo."""

import statistics
import sys
import time
from collections.abc import Iterator

from tests.benchmarks.common import flag_parser, table, timed, workplace
from tests.builders import ROOT, words

REPEATS = 7
DEMO = words("--dataroot demo --preset coarse --visdom off --log_freq 1 --max_steps 1000")
IMPORTS = "import torch, torchvision, PIL.Image, numpy, tqdm"


def first_step() -> float:
    """Seconds from the command to the first logged step."""
    with workplace() as work:
        began = time.perf_counter()
        job = work.start("train.py", *DEMO)
        job.until_step(1)
        return time.perf_counter() - began


def seconds(*arguments: str) -> float:
    """Of `python arguments...`."""
    with workplace() as work:
        return timed(work.process(sys.executable, *arguments)).seconds


def rows() -> Iterator[tuple[object, ...]]:
    measures = {
        "train.py --help": lambda: seconds(str(ROOT / "train.py"), "--help"),
        "test.py --help": lambda: seconds(str(ROOT / "test.py"), "--help"),
        IMPORTS: lambda: seconds("-c", IMPORTS),
        "first step of train.py on the demo": first_step,
    }
    for what, measure in measures.items():
        measure()  # from a warm disk
        times = [measure() for _ in range(REPEATS)]
        yield what, f"{statistics.median(times):.2f}", f"{min(times):.2f} to {max(times):.2f}"


def main(argv: list[str]) -> None:
    flag_parser(__doc__).parse_args(argv)
    table("Start", ("what", "seconds, median of 7", "range"), rows())
