"""What a training run logs and shows while it runs: scalars, validations, comparison grids."""

import math
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from torch import Tensor

from utils.eval.evaluator import MeanPSNR, Prediction
from utils.optim.horizon import Horizon
from utils.run.checkpoint import LABELS, Best, beside_input
from utils.run.log import Logger, cut_log
from utils.run.run import Run
from utils.system.compat import save_image
from utils.vis.grids import comparison_grid, side_by_side
from utils.vis.sinks import open_logger
from utils.vis.visdom import TRAINING, open_plot

MAX_RIGHT, LONG_STEPS = 0.97, 500  # above, for so many steps, a discriminator has won


class TrainingLog:
    """Logs scalars and validations; on all processes but the first it does nothing.

    Args:
        logger: writes the records.
        grid: file of the latest comparison of inputs, outputs and targets; None: write none.
        say: prints a line.
    """

    def __init__(self, logger: Logger, grid: Path | None, say: Callable[[str], None]):
        self.logger, self.picture, self.grid, self.say = logger, logger.picture, grid, say
        self.watch = DiscriminatorWatch(say)

    def scalars(self, step: int, epoch: float, **values: float) -> None:
        """Log values measured after `step` optimizer steps, `epoch` epochs (a fraction)."""
        self.logger.scalars(step, epoch, **values)
        if "D_right" in values:
            self.watch.see(step, values["D_right"])

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
        self.say(f"epoch {math.ceil(epochs)}: {in_words(found)}, {record}")
        if self.grid:
            rows = [panels(each) for each in found.shown]
            grid = comparison_grid(rows)
            save_image(grid, self.grid)
            back = any(each.back is not None for each in found.shown)
            title = "A | A to B | B | B to A" if back else "input | output | target"
            self.picture("grid", f"{title}, step {step}", grid, step)


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
