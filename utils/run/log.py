"""The log of a run: `log.jsonl`, and the sinks that show its records (visdom, TensorBoard)."""

import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tqdm import tqdm

from utils.system.atomic import write_text
from utils.system.errors import first_sentence

if TYPE_CHECKING:
    from torch import Tensor

    from utils.run.run import Run


class Sink(Protocol):
    """Shows the records of the log, and pictures `(3, H, W)` in [0, 1]."""

    name: str

    def record(self, record: dict[str, Any]) -> None: ...

    def picture(self, name: str, title: str, image: "Tensor", step: int) -> None: ...

    def close(self) -> None: ...


class Logger:
    """Append records to the run's log and pass them to the sinks.

    Args:
        run: None for a process that does not log.
    """

    def __init__(self, run: "Run | None", sinks: list[Sink]):
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

    def picture(self, name: str, title: str, image: "Tensor", step: int) -> None:
        self._pass_on(lambda sink: sink.picture(name, title, image, step))

    def close(self) -> None:
        self._pass_on(lambda sink: sink.close())
        if self.file:
            self.file.close()

    def _pass_on(self, call: Callable[[Sink], None]) -> None:
        """Call every sink; one that fails is reported and removed, and training continues."""
        for sink in self.sinks[:]:
            try:
                call(sink)
            except Exception as error:
                self.sinks.remove(sink)
                with suppress(Exception):
                    sink.close()
                report_lost_sink(sink.name, error)


def report_lost_sink(name: str, error: Exception) -> None:
    why = f"{type(error).__name__}: {first_sentence(error)}"
    tqdm.write(f"{name}: no further output ({why}); training continues", file=sys.stderr)


def cut_log(path: Path, step: int) -> list[dict[str, Any]]:
    """Remove the records after `step`, and an incomplete last line; return the others."""
    kept = [record for record in read_log(path) if record["step"] <= step]
    text = "".join(json.dumps(record) + "\n" for record in kept)
    write_text(text, path)
    return kept


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log, without an incomplete last line."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
