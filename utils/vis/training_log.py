"""What a training run logs and shows while it runs: scalars, validations, comparison grids."""

import math
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from utils.eval.evaluator import MeanPSNR, Worst
from utils.optim.horizon import Horizon
from utils.run.checkpoint import Best, beside_input
from utils.run.log import Logger, cut_log
from utils.run.run import Run
from utils.system.compat import save_image
from utils.vis.console import clock
from utils.vis.grids import ROLES, comparison_grid, side_by_side
from utils.vis.panel import Facts, Pace, facts_of
from utils.vis.run_report import Ending, write_report
from utils.vis.sinks import open_logger
from utils.vis.visdom import TRAINING, open_plot


class TrainingLog:
    """Logs scalars and validations; on all processes but the first it does nothing.

    Args:
        logger: writes the records.
        grid: file of the latest comparison of inputs, outputs and targets; None: write none.
        say: prints a line.
    """

    def __init__(self, logger: Logger, grid: Path | None, say: Callable[[str], None]):
        self.logger, self.grid, self.say = logger, grid, say
        self.facts: Facts = []
        self.latest: dict[str, str] = {}  # facts that change
        self.pace = Pace()
        self.worst: list[Worst] = []  # of the latest validation

    def start(self, lines: Sequence[str], report: Path) -> None:
        """Print what the run is, and show it on the page.

        Args:
            report: is written at the end of the run.
        """
        self.say("\n".join(filter(None, lines)))
        self.facts = facts_of(lines)
        self.latest = {"report": f"{report} (at the end)"}
        self.logger.panel([*self.facts, *self.latest.items()])

    def step(self, horizon: Horizon, **values: float) -> None:
        """Log values measured at a step, and how far the run is."""
        self.logger.scalars(horizon.step, horizon.epochs_done, **values)
        done = f"step {horizon.step}"
        if horizon.total is not None:
            done += f" of {horizon.total}, {self.pace.left(horizon)} left"
        self.latest |= {"progress": done, "speed": f"{values['images_s']:.1f} images/s"}
        self.logger.panel([*self.facts, *self.latest.items()])

    def validation(self, found: MeanPSNR | None, better: bool, best: Best, horizon: Horizon) -> None:
        """Log and print a validation, and write its grid; None is a run without validation images."""
        if found is None:
            return
        step, epochs = horizon.step, horizon.epochs_done
        self.logger.scalars(step, epochs, val_psnr=found.psnr, val_psnr_input=found.psnr_input)
        place = f"step {step}" if horizon.in_tenths else f"epoch {math.ceil(epochs)}"
        record = "the best so far" if better else f"best {math.nan if best.psnr is None else best.psnr:.2f}"
        self.say(f"{place}: val PSNR {beside_input(found.psnr, found.psnr_input)}, {record}")
        self.worst = found.worst
        self.latest["best"] = best.describe()
        self.logger.panel([*self.facts, *self.latest.items()])
        if self.grid:
            rows = [side_by_side(each.input, each.output, each.target) for each in found.shown]
            grid = comparison_grid(rows, captions=ROLES)
            save_image(grid, self.grid)
            self.logger.picture("grid", f"input | output | target, step {step}", grid, step)

    def finish(self, run: Run, best: Best, seconds: float) -> None:
        """Write the run's report and curve, and name them; a disk that is full only costs a line."""
        if self.grid is None or not run.is_held():  # another process writes them; the folder is gone
            return
        self.latest |= {"report": str(run.report), "progress": f"ended after {clock(seconds)}"}
        self.logger.panel([*self.facts, *self.latest.items()])
        try:
            drawn = write_report(run, self.facts, Ending(best.describe(), seconds, self.worst))
        except OSError as error:
            self.say(f"report  none: {error}")
        else:
            self.say(f"report  {run.report}" + (f", curve {run.curve}" if drawn else ""))


def open_log(
    cleanup: ExitStack,
    run: Run | None,
    step: int,
    opt: Namespace,
    say: Callable[[str], None],
) -> TrainingLog:
    """Cut the log of a run back to `step`, and open it; `cleanup` closes it.

    Args:
        run: None on all processes but the first.
        step: the step at which the run starts; its state must have been saved.
        opt: with the options of visdom and TensorBoard; a dry run shows nothing on a page.
    """
    if run is None:
        return TrainingLog(Logger(None, []), None, say)
    mode = "off" if opt.dry_run else opt.visdom
    cut_log(run.log, step, say)
    plot = open_plot(mode, run.name, TRAINING, opt.visdom_server, opt.visdom_port, say)
    logger = cleanup.enter_context(closing(open_logger(run, step, plot, opt.tensorboard)))
    return TrainingLog(logger, run.grid, say)
