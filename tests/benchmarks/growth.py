"""How cost grows: seconds and memory against image size, batch, width, number of pairs, and processes.

`growth` is the exponent between the last two rows of a series: 1 is linear in the first column (for image
size: in its pixels; for width: 2 is the growth of the arithmetic). --plot FILE draws the series (matplotlib).
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path

from data.demo import render_pair
from tests.benchmarks import step
from tests.benchmarks.common import flag_parser, table, test, train, workplace
from tests.benchmarks.inference import SCENE, TRAINING, lay_out
from tests.builders import save, words
from tests.cli import TORCHRUN, records

Row = tuple[float, float, float]  # the number that grows, seconds, peak MiB (of one process)


def image_sizes() -> Iterator[Row]:
    scenes = [render_pair(2_000_000 + number, 1, SCENE) for number in range(12)]
    with workplace() as work:
        train(work, *TRAINING)
        for side in (256, 512, 1024, 2048, 4096):
            lay_out(work.folder / str(side), side, side, 1, scenes)
            summary = test(work, "--dataroot", str(side)).ended.summary
            yield side**2, summary["seconds"], summary["peak_mib"]


def steps(flag: str, numbers: Sequence[int]) -> Iterator[Row]:
    for number in numbers:
        found = step.apart((*step.PRESET, flag, str(number)), 3)
        yield number, found["step"], found["peak_mib"]


def pairs() -> Iterator[Row]:
    """The start of training and two steps; all pairs are hard links of ten files (a file may have 65,000)."""
    flags = words("--crop_size 32 --batchSize 8 --model resunet --width 8 --dry_run --dataroot set")
    sides = "input", "target"
    with workplace() as work:
        root, done = work.folder / "set", 0
        for side, image in zip(sides, render_pair(0, 1, 64), strict=True):
            (root / "train" / side).mkdir(parents=True)
            for copy in range(10):
                save(image, root / f"{side}{copy}.png")
        for count in (10, 100, 1000, 10_000, 100_000):
            for side, number in product(sides, range(done, count)):
                os.link(root / f"{side}{number % 10}.png", root / "train" / side / f"{number:06d}.png")
            done = count
            found = train(work, *flags)
            yield count, found.seconds, found.peak_mib


def processes() -> Iterator[Row]:
    """Seconds of a step, the same batch in all; the threads are divided."""
    flags = words("--dataroot demo --preset fine --batchSize 16 --max_steps 200 --visdom off")
    for count in (1, 2):
        with workplace() as work:
            run = work.train(*flags, launcher=(*TORCHRUN[:-1], f"--nproc_per_node={count}")).run
            rates = sorted(records(run, "images_s"))
            yield count, 16 / rates[len(rates) // 2], math.nan


SERIES: dict[str, tuple[str, Callable[[], Iterator[Row]]]] = {
    "pixels of an image, test.py": ("seconds of the forward pass", image_sizes),
    "batch of 64 x 64": ("seconds of a step", partial(steps, "--batchSize", (1, 2, 4, 8, 16, 32, 64))),
    "width": ("seconds of a step", partial(steps, "--width", (8, 16, 32, 64, 128))),
    "pairs in the folder": ("seconds of train.py --dry_run", pairs),
    "processes": ("seconds of a step", processes),
}


def measured(rows: list[Row], series: Iterator[Row]) -> Iterator[tuple[object, ...]]:
    """The lines of a table; appends what is measured to `rows`."""
    for number, seconds, peak_mib in series:
        growth = ""
        if rows:
            growth = f"{math.log(seconds / rows[-1][1]) / math.log(number / rows[-1][0]):.2f}"
        rows.append((number, seconds, peak_mib))
        yield f"{number:,}", f"{seconds:.3g}", growth, f"{peak_mib:.0f}"


def plot(series: dict[str, list[Row]], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(series), 3), layout="constrained")
    for axes, (what, rows) in zip(figure.subplots(1, len(series)), series.items(), strict=True):
        counts, seconds, _ = zip(*rows, strict=True)
        axes.loglog(counts, seconds, "o-")
        axes.loglog(counts, [seconds[-1] * n / counts[-1] for n in counts], ":", color="gray")
        axes.set(xlabel=what, ylabel=SERIES[what][0])
    figure.savefig(file, dpi=90)


def main(argv: list[str]) -> None:
    parser = flag_parser(__doc__)
    parser.add_argument("--plot", type=Path, help="PNG of all series; dotted: linear")
    opt = parser.parse_args(argv)
    found: dict[str, list[Row]] = {}
    for what, (seconds, measure) in SERIES.items():
        lines = measured(found.setdefault(what, []), measure())
        table(f"Growth: {what}", (what, seconds, "growth", "peak MiB"), lines)
    if opt.plot:
        plot(found, opt.plot)
