"""Pooling over windows: test PSNR of NAFNet with windows of the training crop, and over whole images.

The same weights are tested twice; the second time the run's options say nothing of windows.
"""

import shutil

from tests.benchmarks.common import flag_parser, table, test, train, workplace
from tests.benchmarks.psnr import TASKS

RECIPE = (
    "--preset",
    "fine",
    "--model",
    "nafnet",
    "--optimizer",
    "adamw",
    "--lr",
    "1e-3",
    "--arch",
    "tlc=True",
)


def measure(task: str, crop: int, minutes: float, flags: list[str]) -> tuple[object, ...]:
    """A row of the table."""
    training, testing = TASKS[task]
    with workplace() as work:
        own = (*RECIPE, "--crop_size", str(crop), "--minutes", str(minutes), *flags)
        run = train(work, *training[2:], *own).ended.run
        windows = test(work, *testing).ended.summary
        plain = shutil.copytree(run, run.with_name("plain")) / "options.json"
        plain.write_text(plain.read_text().replace("tlc=True", "tlc=False"))
        whole = test(work, *testing, "--name", "plain").ended.summary
    psnrs = [f"{each['psnr']['mean']:.2f}" for each in (windows, whole)]
    return task, crop, f"{minutes:g}", *psnrs, f"{windows['psnr_input']['mean']:.2f}"


def main(argv: list[str]) -> None:
    parser = flag_parser(__doc__)
    parser.add_argument("--tasks", nargs="+", default=["dehaze", "derain", "denoise"], choices=[*TASKS])
    parser.add_argument("--crops", nargs="+", default=[64, 128], type=int)
    parser.add_argument("--minutes", default=5, type=float)
    opt, flags = parser.parse_known_args(argv)
    rows = (measure(task, crop, opt.minutes, flags) for task in opt.tasks for crop in opt.crops)
    columns = ("task", "--crop_size", "--minutes", "windows", "whole image", "input")
    table("Pooling over windows", columns, rows)
