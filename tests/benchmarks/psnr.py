"""Time to PSNR: train.py with a length in minutes, timed from start to end, and test.py on real images.

The figure of denoising is that of the DnCNN papers' code: Set12, noise of sigma 25, output not rounded. No
test image is trained on, and none chose a flag: those were chosen on 20 of the training images.
"""

from tests.benchmarks.common import NOISY, flag_parser, table, test, train, workplace
from tests.builders import DATASETS
from tests.cli import log

SET12 = ("--dataroot", f"{DATASETS}/set12", "--degrade", "noise:25", "--no_quantize")
TASKS = {  # flags of train.py and of test.py
    "denoise": (("--preset", "fine", *NOISY, "--val_share", "0.05"), SET12),
    "dehaze": (("--preset", "coarse", "--dataroot", f"{DATASETS}/sots-indoor"), ()),
    "derain": (("--preset", "fine", "--dataroot", f"{DATASETS}/rain100L"), ()),
}


def measure(task: str, minutes: float, flags: list[str]) -> tuple[object, ...]:
    """A row of the table."""
    training, testing = TASKS[task]
    with workplace() as work:
        done = train(work, *training, "--minutes", str(minutes), *flags)
        steps = log(done.ended.run)[-1]["step"]
        summary = test(work, *testing).ended.summary
    psnr, of_input = (f"{summary[key]['mean']:.2f}" for key in ("psnr", "psnr_input"))
    spent, rest = divmod(round(done.seconds), 60)
    return task, f"{minutes:g}", f"{spent}:{rest:02d}", steps, f"**{psnr}**", of_input, f"{done.peak_mib:.0f}"


def main(argv: list[str]) -> None:
    parser = flag_parser(__doc__)
    parser.add_argument("--tasks", nargs="+", default=[*TASKS], choices=[*TASKS])
    parser.add_argument("--minutes", nargs="+", default=[1, 5], type=float)
    opt, flags = parser.parse_known_args(argv)
    rows = (measure(task, minutes, flags) for task in opt.tasks for minutes in opt.minutes)
    columns = ("task", "--minutes", "wall time", "steps", "test PSNR", "input PSNR", "peak MiB")
    table(" ".join(["Time to PSNR", *flags]), columns, rows)
