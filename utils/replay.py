"""Send a finished run to visdom again: `python -m utils.replay NAME`.

Training curves come from `checkpoints/NAME/log.jsonl`, test curves from every `results/NAME/*/metrics.csv`.
"""

import importlib.util
import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from utils.options import parse_or_exit
from utils.options.flags import RESULTS, SERVER
from utils.options.parser import Parser
from utils.system.errors import UserError, run_script
from utils.system.streams import fix_streams


def parse(argv: Sequence[str]) -> Namespace:
    """Parse the command line; UserError for a wrong flag."""
    flags = {"flags": [RESULTS, *SERVER]}
    usage = "%(prog)s NAME [flags]"
    parser = Parser("python -m utils.replay", "Send a finished run to visdom again.", flags, usage)
    parser.add_argument("name", help="the run, under checkpoints/")
    return parser.options(argv)


def main(opt: Namespace, cleanup: ExitStack) -> int:
    import torch

    from data.images import read_image
    from utils.eval.results import read_csv
    from utils.run.log import read_log
    from utils.run.run import Run
    from utils.system.pixels import to_float
    from utils.vis.console import say_on
    from utils.vis.sinks import training_points
    from utils.vis.visdom import TEST, TRAINING, VisdomPlot

    run = Run.named(opt.name)
    run.options()  # raises if there is no such run
    if importlib.util.find_spec("visdom") is None:
        raise UserError("visdom is not installed", fix="the README's first command installs it")
    found = sorted(Path(opt.results_dir, run.name).glob("*/metrics.csv"))
    tests = {path.parent.name: path for path in found if not path.parent.name.startswith(".")}
    windows = TRAINING | {f"test_{name}": TEST for name in tests}
    plot = VisdomPlot(run.name, windows, opt.visdom_server, opt.visdom_port, say=say_on(True))

    def show(name: str, title: str, path: Path) -> None:
        if path.is_file():
            plot.picture(name, title, torch.from_numpy(to_float(read_image(path)).transpose(2, 0, 1)))

    log = read_log(run.log)
    for record in log:
        for point in training_points(record):
            plot.add(*point)
    validated = [record["step"] for record in log if "val_psnr" in record]
    show("grid", f"input | output | target, step {max(validated, default=0)}", run.grid)
    for name, path in tests.items():
        values = [float(row["psnr"]) for row in read_csv(path) if row.get("psnr")]
        for i, value in enumerate(values):
            plot.add(f"test_{name}", "clear", i + 1, value)
        finite = [value for value in values if math.isfinite(value)]
        plot.add(f"test_{name}", "mean", 0, sum(finite) / len(finite) if finite else math.nan)
        show(f"grid_{name}", f"{name}: input | output | target", path.with_name("grid.png"))
    if not plot.close(timeout_s=30):
        place = f"{opt.visdom_server}:{opt.visdom_port}"
        what = f"{place} did not take the plots [--visdom_port]"
        raise UserError(what, fix="start a visdom server first", code=1)
    return 0


if __name__ == "__main__":
    fix_streams()
    sys.exit(run_script(main, parse_or_exit(parse)))
