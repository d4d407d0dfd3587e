"""What the loop of train.py costs beside the bare step: images/s of both, in turns.

The bare step is what one step of train.py must do to one fixed batch in memory: forward, loss, backward,
clipping, optimizer, schedule, average. train.py adds reading, cropping, turning, noise, the check for NaN,
the PSNR of every training image, the log, visdom, signals, saves. Its images/s are those it logs after its
first epoch, without validation.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import step
from tests.benchmarks.common import DATASETS, records, table, train

COMMON = ("--optimizer", "adamw", "--schedule", "cosine", "--ema", "0.995", "--clip", "1")
CASES = {  # flags of the step, flags of the data, steps of an epoch, steps between two logged rates
    "resunet 96 x 96, batch 8": (
        ("--model", "resunet", "--crop_size", "96", "--batchSize", "8", "--channels_last", *COMMON),
        ("--dataroot", f"{DATASETS}/bsd400-gray", "--degrade", "noise:25", "--augment", "flip_rot90"),
        (400, 20),
    ),
    "resnet 256 x 256, batch 1": (
        ("--model", "resnet", "--crop_size", "256", "--batchSize", "1", *COMMON),
        ("--dataroot", f"{DATASETS}/sots-indoor"),
        (42, 6),
    ),
}


def trained(flags: tuple[str, ...], epoch_steps: int, every: int) -> tuple[float, float]:
    """Median images/s that train.py logs in its second epoch, and the share of time it waits for data."""
    size = ("--max_steps", str(2 * epoch_steps), "--log_freq", str(every), "--val_share", "0")
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder), *flags, *size, "--visdom", "start", "--visdom_port", "8099")
        rows = [row for row in records(Path(folder)) if row["step"] > epoch_steps + every]
    return tuple(statistics.median(row[key] for row in rows) for key in ("images_s", "wait"))  # type: ignore[return-value]


def rows(repeats: int, workers: str) -> Iterator[tuple[object, ...]]:
    for case, (network, data, (epoch_steps, every)) in CASES.items():
        pairs = []
        channels = ("--input_nc", "1" if "--degrade" in data else "3")
        repeat = () if epoch_steps < 50 else ("--repeat", "8")
        for _ in range(repeats):
            alone = step.apart((*network, *channels))["images_s"]
            whole, wait = trained((*network, *data, *repeat, "--num_workers", workers), epoch_steps, every)
            pairs.append((alone, whole, whole / alone, wait))
        alone, whole, share, wait = (statistics.median(pair[i] for pair in pairs) for i in range(4))
        bounds = f"{min(pair[2] for pair in pairs):.1%} to {max(pair[2] for pair in pairs):.1%}"
        yield case, f"{alone:.1f}", f"{whole:.1f}", f"**{share:.1%}**", bounds, f"{wait:.1%}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="pairs of a bare and a whole run")
    parser.add_argument("--num_workers", default="0")
    opt = parser.parse_args(argv)
    columns = ("step", "bare, images/s", "train.py, images/s", "share", "range", "waits for data")
    table("The loop", columns, rows(opt.repeats, opt.num_workers))


if __name__ == "__main__":
    main()
