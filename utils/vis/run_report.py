"""What a run leaves to read: `curve.png` and `report.md` in its folder, made without a server."""

import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from utils.eval.evaluator import Worst
from utils.run.log import read_log
from utils.run.run import Run, versions
from utils.system.atomic import write_text
from utils.vis.console import clock
from utils.vis.curves import BASELINE, Line, color_of, draw_curves
from utils.vis.grids import evenly_spaced
from utils.vis.panel import Facts

MAX_ROWS = 12  # validations in the table
Record = dict[str, Any]


class Ending(NamedTuple):
    """How a run ended.

    Args:
        best: the best validation in words.
        seconds: of this command.
        worst: validation images with the lowest PSNR.
    """

    best: str
    seconds: float
    worst: Sequence[Worst]


def write_report(run: Run, facts: Facts, ending: Ending) -> bool:
    """Write both files from the run's log; returns whether there was a curve to draw.

    Raises:
        OSError: a file cannot be written.
    """
    log = read_log(run.log)
    drawn = draw_run(run.curve, run.name, log)
    write_text("\n".join([*_head(run, facts, ending, drawn), *_tables(log, ending)]) + "\n", run.report)
    return drawn


def draw_run(path: Path, name: str, log: Sequence[Record]) -> bool:
    """Draw the PSNR of training, validation and input over the steps of a run."""
    curves = {key: _points(log, key) for key in ("train_psnr", "val_psnr", "val_psnr_input")}
    lines = [
        Line("train", curves["train_psnr"], color_of(1), width=1),
        Line("validation", curves["val_psnr"], color_of(0)),
        Line("input", curves["val_psnr_input"][-1:], BASELINE, width=2, level=True),
    ]
    return draw_curves(path, name, "step", "PSNR (dB)", [line for line in lines if line.points])


def _points(log: Sequence[Record], key: str) -> list[tuple[float, float]]:
    return [(record["step"], record[key]) for record in log if record.get(key) is not None]


def _head(run: Run, facts: Facts, ending: Ending, drawn: bool) -> list[str]:
    pictures = {"PSNR over steps": run.curve} if drawn else {}
    pictures |= {"input, output, target of validation images": run.grid} if run.grid.is_file() else {}
    command = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
    rows = [("result", ending.best), *facts, ("machine", machine()), ("time", clock(ending.seconds))]
    rows += [(name, version) for name, version in versions().items()]
    return [
        f"# {run.name}",
        "",
        f"Written {time.strftime('%Y-%m-%d %H:%M')} by",
        "",
        f"    {command}",
        "",
        *markdown(("", ""), rows),
        *(line for title, path in pictures.items() for line in (f"![{title}]({path.name})", "")),
    ]


def _tables(log: Sequence[Record], ending: Ending) -> list[str]:
    validated = [record for record in log if record.get("val_psnr") is not None]
    shown = [validated[i] for i in sorted(evenly_spaced(len(validated), MAX_ROWS))] if validated else []
    lines = []
    if shown:
        rows = [(f"{each['step']}", *_beside(each["val_psnr"], each.get("val_psnr_input"))) for each in shown]
        lines += ["## Validation", "", *markdown(("step", "PSNR (dB)", "input", "gain"), rows)]
    if ending.worst:
        worst = [(each.name, *_beside(each.psnr, each.psnr_input)) for each in ending.worst]
        lines += [
            "## The worst validation images",
            "",
            *markdown(("image", "PSNR (dB)", "input", "gain"), worst),
        ]
    return lines


def _beside(psnr: float, psnr_input: float | None) -> tuple[str, str, str]:
    if psnr_input is None or psnr_input != psnr_input:
        return f"{psnr:.2f}", "", ""
    return f"{psnr:.2f}", f"{psnr_input:.2f}", f"{psnr - psnr_input:+.2f}"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown; a cell is one line, and none of its signs ends the cell.

    >>> markdown(("a", "b"), [("x|y", "1")])
    ['| a | b |', '|---|---|', '| x\\\\|y | 1 |', '']
    """
    cells = [[" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in [list(heads), *cells]]
    return [lines[0], "|" + "---|" * len(heads), *lines[1:], ""]


def machine() -> str:
    """Such as "AMD EPYC 7B13, 2 cores, Linux"."""
    model = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} core{'s' * (cores != 1)}, {platform.system()}"
