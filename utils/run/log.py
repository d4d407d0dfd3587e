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
    """Shows the records of the log, pictures `(3, H, W)` in [0, 1], and what there is to say of the run."""

    name: str

    def panel(self, facts: list[tuple[str, str]]) -> None: ...

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

    def panel(self, facts: list[tuple[str, str]]) -> None:
        """Show (label, text) pairs in place of those before."""
        self._pass_on(lambda sink: sink.panel(facts))

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


def cut_log(path: Path, step: int, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Remove the records after `step` and the lines that are no records; return the others.

    Args:
        say: prints how many whole lines were no records, if there are any.
    """
    records, bad = parse_log(path)
    if bad:
        say(f"note    {path}: {bad} {'line is no record' if bad == 1 else 'lines are no records'}, left out")
    kept = [record for record in records if record["step"] <= step]
    write_text("".join(json.dumps(record) + "\n" for record in kept), path)
    return kept


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log; lines that are no records are skipped."""
    return parse_log(path)[0]


def parse_log(path: Path) -> tuple[list[dict[str, Any]], int]:
    """(records, number of whole lines that are no records); an incomplete last line counts as neither."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
    found = [parse_record(line) for line in lines]
    bad = sum(record is None for record, line in zip(found[:-1], lines, strict=False) if line.strip())
    return [record for record in found if record is not None], bad


def parse_record(line: bytes) -> dict[str, Any] | None:
    """A line as a record, an object of numbers with an integer `step`; None if it is something else.

    NaN and Infinity become None, as in what is logged.

    >>> parse_record(b'{"step": 2, "loss": NaN}'), parse_record(b'{"step": "2"}'), parse_record(b"[2")
    ({'step': 2, 'loss': None}, None, None)
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(step := record.get("step")) is not int or not is_finite(step):
        return None
    if not all(value is None or isinstance(value, int | float) for value in record.values()):
        return None
    return {key: value if is_finite(value) else None for key, value in record.items()}


def is_finite(value: float | None) -> bool:
    """Whether a value is a number that a float can hold."""
    return value is not None and abs(value) <= sys.float_info.max
