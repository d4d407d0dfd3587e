"""What a training run logs and shows while it runs: scalars, validations, comparison grids."""

import math
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from torch import Tensor

from utils.eval.evaluator import MeanPSNR, Prediction, Worst
from utils.optim.horizon import Horizon
from utils.run.checkpoint import LABELS, Best, beside_input
from utils.run.log import Logger, cut_log
from utils.run.run import Run
from utils.vis.console import clock
from utils.vis.grids import ROLES, comparison_grid, save_grid, side_by_side
from utils.vis.panel import Facts, facts_of
from utils.vis.run_report import Ending, write_report
from utils.vis.sinks import open_logger
from utils.vis.visdom import TRAINING, open_plot

DOMAINS = ("A", "A to B", "B", "B to A")  # columns of the grid of images without pairs
MAX_RIGHT, LONG_STEPS = 0.97, 500  # above, for so many steps, a discriminator has won


class TrainingLog:
    """Logs scalars and validations; on all processes but the first it does nothing.

    Args:
        logger: writes the records.
        grid: file of the latest comparison of inputs, outputs and targets; None: write none.
        say: prints a line.
    """

    def __init__(self, logger: Logger, grid: Path | None, say: Callable[[str], None]):
        self.logger, self.grid, self.say = logger, grid, say
        self.watch = DiscriminatorWatch(say)
        self.facts: Facts = []
        self.latest: dict[str, str] = {}  # facts that change
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

    def step(self, horizon: Horizon, left: str, **values: float) -> None:
        """Log values measured at a step, and how far the run is; `left` is the time until its end."""
        self.logger.scalars(horizon.step, horizon.epochs_done, **values)
        if "D_right" in values:
            self.watch.see(horizon.step, values["D_right"])
        done = f"step {horizon.step}"
        if horizon.total is not None:
            done += f" of {horizon.total}, {left} left"
        self.latest |= {"progress": done, "speed": f"{values['images_s']:.1f} images/s"}
        self.logger.panel([*self.facts, *self.latest.items()])

    def validation(self, found: MeanPSNR | None, better: bool, best: Best, horizon: Horizon) -> None:
        """Log and print a validation, and write its grid; None is a run without validation images."""
        if found is None:
            return
        step, epochs = horizon.step, horizon.epochs_done
        values = {f"val_{name}": value for name, value in found.figures.items()}
        if has_psnr(found):
            values |= {"val_psnr": found.psnr, "val_psnr_input": found.psnr_input}
        self.logger.scalars(step, epochs, **values)
        record = "the best so far" if better else best.record
        place = f"step {step}" if horizon.in_tenths else f"epoch {math.ceil(epochs)}"
        self.say(f"{place}: {in_words(found)}, {record}")
        self.worst = found.worst
        self.latest["best"] = best.describe()
        self.logger.panel([*self.facts, *self.latest.items()])
        if self.grid:
            back = any(each.back is not None for each in found.shown)
            captions = DOMAINS if back else ROLES
            grid = comparison_grid([panels(each) for each in found.shown], captions=captions)
            save_grid(grid, self.grid)
            self.logger.picture("grid", f"{' | '.join(captions)}, step {step}", grid, step)

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


def panels(shown: Prediction) -> Tensor:
    """Input, output and target side by side; of images without pairs A, A to B, B, B to A."""
    return side_by_side(shown.input, shown.output, *(shown.back or (shown.target,)))


def in_words(found: MeanPSNR) -> str:
    """Such as "val PSNR 21.25 dB (input 11.89, +9.36), Lite0 distance 0.1234 (input 0.3456)"."""
    words = []
    if has_psnr(found):
        words.append(f"PSNR {beside_input(found.psnr, found.psnr_input)}")
    for name, value in found.figures.items():
        if name in LABELS:
            words.append(f"{LABELS[name]} {value:.4f} (input {found.figures[f'{name}_input']:.4f})")
    return f"val {', '.join(words) or 'grid, no figures'}"


def has_psnr(found: MeanPSNR) -> bool:
    """Whether there were targets; of outputs that are NaN the inputs have a PSNR."""
    return not (math.isnan(found.psnr) and math.isnan(found.psnr_input))


class DiscriminatorWatch:
    """Warns once where a discriminator has won: it tells almost all patches apart, for long.

    Then the generator learns little from it (its outputs often turn black, or stop changing).
    """

    def __init__(self, say: Callable[[str], None]):
        self.say, self.warned = say, False
        self.since: int | None = None  # the first step of the streak

    def see(self, step: int, right: float) -> None:
        """Take the share of patches that were judged right in the steps before `step`."""
        if not right > MAX_RIGHT:  # NaN as well
            self.since = None
        elif self.since is None:
            self.since = step
        elif step - self.since >= LONG_STEPS and not self.warned:
            self.warned = True
            fix = "lower its lr (--gan lr=...), use --gan norm=spectral, or lower the weight of gan in --loss"
            self.say(
                f"warning the discriminator has won: it judges {right:.0%} of the patches right since step "
                f"{self.since}; {fix}"
            )


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
