"""Where measured values go: `log.jsonl` always, visdom and TensorBoard where they are wanted."""

import json
import math
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from torch import Tensor
from tqdm import tqdm

from utils.run.run import Run, read_log
from utils.system.errors import UserError, first_sentence
from utils.vis.visdom import VisdomPlot


class Sink(Protocol):
    """Takes every record of the log, and pictures `(3, H, W)` in [0, 1]."""

    name: str

    def record(self, record: dict[str, Any]) -> None: ...

    def picture(self, name: str, title: str, image: Tensor, step: int) -> None: ...

    def close(self) -> None: ...


class Logger:
    """Append values to the run's log and pass them on.

    Args:
        run: its log is appended to; None for a process that does not log.
        sinks: who else gets them.
    """

    def __init__(self, run: Run | None, sinks: list[Sink]):
        self.file = run.log.open("a", encoding="utf-8") if run else None
        self.sinks = sinks

    def scalars(self, step: int, epoch: float, **values: float) -> None:
        """Log values measured after `step` optimizer steps, `epoch` epochs (a fraction)."""
        if self.file is None:
            return
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        record = {"step": step, "epoch": round(epoch, 4), "time": round(time.time(), 3), **finite}
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        self._pass_on(lambda sink: sink.record(record))

    def picture(self, name: str, title: str, image: Tensor, step: int) -> None:
        self._pass_on(lambda sink: sink.picture(name, title, image, step))

    def close(self) -> None:
        self._pass_on(lambda sink: sink.close())
        if self.file:
            self.file.close()

    def _pass_on(self, call: Callable[[Sink], None]) -> None:
        """Whatever goes wrong with a sink is no concern of the run: it is said, and the sink left out."""
        for sink in self.sinks[:]:
            try:
                call(sink)
            except Exception as error:
                self.sinks.remove(sink)
                with suppress(Exception):
                    sink.close()
                _say_lost(sink.name, error)


class VisdomSink:
    """Training curves in visdom; starts with what the log already holds, so a resumed run goes on."""

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

    def close(self) -> None:
        self.plot.close()


def training_points(record: dict[str, Any]) -> list[tuple[str, str, float, float]]:
    """The (window, curve, x, y) that one record of the log becomes."""
    axes = (
        ("loss", "loss", "train", "step"),
        ("lr", "lr", "lr", "step"),
        ("psnr", "val_psnr", "validation", "epoch"),
        ("psnr", "val_psnr_input", "doing nothing", "epoch"),
    )
    return [
        (window, curve, record[x], math.nan if record[key] is None else record[key])
        for window, key, curve, x in axes
        if key in record
    ]


class TensorBoardSink:
    """The same as TensorBoard events; what an earlier run wrote after `step` is purged."""

    name = "TensorBoard"

    def __init__(self, run: Run, step: int):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "tensorboard is not installed [--tensorboard]", fix="pip install tensorboard"
            ) from None
        _hush("_AsyncWriterThread")
        self.writer = SummaryWriter(str(run.tensorboard), purge_step=step + 1)

    def record(self, record: dict[str, Any]) -> None:
        for key, value in record.items():
            if key not in ("step", "time") and value is not None:
                self.writer.add_scalar(key, value, record["step"])

    def picture(self, name: str, title: str, image: Tensor, step: int) -> None:
        self.writer.add_image(name, image, step)

    def close(self) -> None:
        self.writer.close()


def _say_lost(name: str, error: Exception) -> None:
    why = f"{type(error).__name__}: {first_sentence(error)}"
    tqdm.write(f"{name}: nothing more is written ({why}); the run goes on", file=sys.stderr)


def _hush(kind: str) -> None:
    """No traceback from threads of this class: whoever uses them gets the exception at its next call."""
    others = threading.excepthook

    def hook(failure: Any) -> None:
        if type(failure.thread).__name__ != kind:
            others(failure)

    threading.excepthook = hook


def open_logger(run: Run, step: int, plot: VisdomPlot | None, tensorboard: bool) -> Logger:
    """The logger of the process that logs; the log must have been cut back to `step` before."""
    sinks: list[Sink] = []
    if plot:
        sinks.append(VisdomSink(plot, read_log(run.log)))
    if tensorboard:
        try:
            sinks.append(TensorBoardSink(run, step))
        except OSError as error:
            _say_lost(TensorBoardSink.name, error)
    return Logger(run, sinks)


def say_on(first: bool) -> Callable[[str], None]:
    """A function that prints a line on stderr, above a progress bar; silent but on the first process."""
    return partial(tqdm.write, file=sys.stderr) if first else lambda text: None
