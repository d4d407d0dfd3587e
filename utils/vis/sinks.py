"""Sinks of the logger: visdom and TensorBoard."""

import math
import threading
from typing import Any

from torch import Tensor

from utils.run.log import Logger, Sink, read_log, report_lost_sink
from utils.run.run import Run
from utils.system.errors import UserError
from utils.vis.panel import Facts, table
from utils.vis.visdom import VisdomPlot

VALIDATED = ("psnr", "ssim", "lite0", "kid")  # figures of validations, and names of their windows


class VisdomSink:
    """Plot training curves in visdom; starts with the logged history, so that a resumed run is complete."""

    name = "visdom"

    def __init__(self, plot: VisdomPlot, history: list[dict[str, Any]]):
        self.plot = plot
        for record in history:
            self.record(record)

    def record(self, record: dict[str, Any]) -> None:
        for window, curve, x, y in training_points(record):
            self.plot.add(window, curve, x, y)

    def picture(self, name: str, title: str, image: Tensor, step: int) -> None:
        self.plot.picture(name, title, image)

    def panel(self, facts: Facts) -> None:
        self.plot.text("run", "run", table(self.plot.env, facts))

    def close(self) -> None:
        self.plot.close()


def training_points(record: dict[str, Any]) -> list[tuple[str, str, float, float]]:
    """Convert one record of the log to points (window, curve, x, y)."""
    axes = (
        ("loss", "loss", "train", "step"),
        ("lr", "lr", "lr", "step"),
        ("D", "D_real", "D(real)", "step"),
        ("D", "D_fake", "D(fake)", "step"),
        ("D", "D_right", "share of patches right", "step"),
        *(("terms", key, key.removeprefix("loss_"), "step") for key in record if key.startswith("loss_")),
        ("psnr", "train_psnr", "train", "epoch"),
        *((figure, f"val_{figure}", "validation", "epoch") for figure in VALIDATED),
        *((figure, f"val_{figure}_input", "input", "epoch") for figure in VALIDATED),
    )
    return [
        (window, curve, record[x], math.nan if record[key] is None else record[key])
        for window, key, curve, x in axes
        if key in record and x in record
    ]


class TensorBoardSink:
    """Write TensorBoard events under the run's name; purge what an earlier run wrote after `step`."""

    name = "TensorBoard"

    def __init__(self, run: Run, step: int):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "tensorboard is not installed [--tensorboard]", fix="pip install tensorboard"
            ) from None
        _silence("_AsyncWriterThread")
        self.writer = SummaryWriter(str(run.tensorboard / run.name), purge_step=step + 1)

    def record(self, record: dict[str, Any]) -> None:
        for key, value in record.items():
            if key not in ("step", "epoch", "time") and value is not None:
                self.writer.add_scalar(key, value, record["step"])

    def picture(self, name: str, title: str, image: Tensor, step: int) -> None:
        self.writer.add_image(name, image, step)

    def panel(self, facts: Facts) -> None:
        pass

    def close(self) -> None:
        self.writer.close()


def _silence(thread_class: str) -> None:
    """Print no traceback from threads of this class: their user gets the exception at its next call."""
    previous = threading.excepthook

    def hook(failure: Any) -> None:
        if type(failure.thread).__name__ != thread_class:
            previous(failure)

    threading.excepthook = hook


def open_logger(run: Run, step: int, plot: VisdomPlot | None, tensorboard: bool) -> Logger:
    """Open the run's logger; the log must have been cut back to `step` before."""
    sinks: list[Sink] = []
    if plot:
        sinks.append(VisdomSink(plot, read_log(run.log)))
    if tensorboard:
        try:
            sinks.append(TensorBoardSink(run, step))
        except OSError as error:
            report_lost_sink(TensorBoardSink.name, error)
    return Logger(run, sinks)
