"""Send a finished run to visdom again: `python -m utils.redraw NAME`.

Training curves come from `checkpoints/NAME/log.jsonl`, test curves from every `results/NAME/*/metrics.csv`.
"""

import sys
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path

from utils.errors import Refusal, run_script
from utils.options import parse_or_exit, parse_redraw


def main(opt: Namespace, cleanup: ExitStack) -> int:
    import importlib.util

    from utils.logger import training_points
    from utils.results import read_csv
    from utils.runs import Run, read_log
    from utils.visdom_plot import TEST, TRAINING, VisdomPlot

    run = Run.named(opt.name)
    run.options()  # refuses a run that does not exist
    if importlib.util.find_spec("visdom") is None:
        raise Refusal("visdom is not installed", fix="the README's first command installs it")
    tables = {
        f"test_{path.parent.name}": path for path in Path(opt.results_dir, run.name).glob("*/metrics.csv")
    }
    plot = VisdomPlot(run.name, TRAINING | dict.fromkeys(tables, TEST), opt.visdom_server, opt.visdom_port)
    for record in read_log(run.log):
        for point in training_points(record):
            plot.add(*point)
    for window, path in tables.items():
        values = [float(row["psnr"]) for row in read_csv(path)]
        for i, value in enumerate(values):
            plot.add(window, "clear", i + 1, value)
        plot.add(window, "mean", 0, sum(values) / len(values))
    if not plot.close(timeout_s=30):
        raise Refusal(f"{opt.visdom_server}:{opt.visdom_port} did not take the plots [--visdom_port]", code=1)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main, parse_or_exit(parse_redraw)))
