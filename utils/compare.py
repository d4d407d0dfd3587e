"""Runs side by side: `python -m utils.compare RUN RUN ...`.

The table takes the options and the best validation from `checkpoints/RUN/`, what test.py measured from every
`results/RUN/*/summary.json`; the curve (PNG, needs matplotlib) is validation PSNR over training steps.
"""

import json
import math
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.options.flags import parse_compare, parse_or_exit
from utils.run.log import read_log
from utils.run.run import Run
from utils.system.atomic import atomic_write
from utils.system.errors import UserError, run_script

SAME_DB = 0.01  # two means over the same images differ by less, whatever the machine
UNLIKE = {"name", "versions", "results_dir", "visdom", "visdom_server", "visdom_port"}
UNLIKE |= {
    "tensorboard",
    "debug",
    "resume",
    "epoch",
    "dry_run",
}  # how a run was seen or continued, not what it is


@dataclass
class Measured:
    """What test.py measured on one data set; a mean is None where there is none."""

    conditions: dict[str, str]  # figures are comparable where these agree
    images: int | None
    psnr: float | None
    psnr_input: float | None
    ssim: float | None

    @property
    def gain(self) -> float | None:
        """PSNR above doing nothing, in dB."""
        return None if self.psnr is None or self.psnr_input is None else self.psnr - self.psnr_input


@dataclass
class Record:
    """All that is compared of one run.

    Args:
        curve: (step, validation PSNR in dB), by step.
        nothing: validation PSNR of doing nothing, in dB.
        tested: by name of the data set.
    """

    name: str
    options: dict[str, Any]
    steps: int | None = None
    curve: list[tuple[int, float]] = field(default_factory=list)
    nothing: float | None = None
    tested: dict[str, Measured] = field(default_factory=dict)

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and value of the first highest validation PSNR."""
        return max(self.curve, key=lambda point: point[1], default=None)


@dataclass
class Column:
    """One column of a table; where `star` is set the cells of the highest value get one.

    Args:
        values: one a row, None where there is none.
        form: format specification of a number; None leaves the value as it is.
    """

    title: str
    values: Sequence[Any]
    form: str | None = None
    star: bool = False
    group: str = ""
    left: bool = False

    def cells(self) -> list[str]:
        """The cells, title first, all of one width."""
        shown = ["-" if value is None else format(value, self.form or "") for value in self.values]
        known = [value for value in self.values if value is not None]
        if self.star and len(known) > 1:
            best = format(max(known), self.form or "")
            marked = [f"{text}*" if text == best else f"{text} " for text in shown]
            shown = [f"{self.title} ", *marked]
        else:
            shown = [self.title, *shown]
        width = max(map(len, shown))
        return [text.ljust(width) if self.left else text.rjust(width) for text in shown]


# ------------------------------------------------------------------------------------------------- reading


def finite(value: object) -> float | None:
    """A JSON number as a finite float; None for anything else.

    >>> finite(3), finite(None), finite(True), finite(float("nan")), finite(10**400)
    (3.0, None, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def plain(value: object, width: int = 60) -> str:
    """A JSON value on one short line that cannot steer a terminal.

    >>> plain(None), plain(True), plain([20.0, 30.0]), plain("a" + chr(27) + "b")
    ('none', 'true', '[20.0, 30.0]', 'a?b')
    """
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= width else text[: width - 3] + "..."


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
        UserError: a file that cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}", plain(str(error)), "measure or train that run again") from None
    if not isinstance(content, dict):
        raise UserError(f"cannot read {path}", "it holds no JSON object", "measure or train that run again")
    return content


def read_record(name: str, results: Path) -> Record:
    """Everything known about the run `name`; a log that is missing or torn counts as far as it can be read.

    Raises:
        UserError: no such run; a file of options or of results that cannot be read.
    """
    run = Run.named(name)
    if not run.exists():
        run.options()  # refuses, and lists the runs there are
    record = Record(run.name, read_object(run.options_file))
    try:
        log = read_log(run.log)
    except (OSError, ValueError, RecursionError):
        log = []
    for line in log:
        step = finite(line.get("step")) if isinstance(line, dict) else None
        if step is None:
            continue
        record.steps = max(record.steps or 0, int(step))
        value, nothing = finite(line.get("val_psnr")), finite(line.get("val_psnr_input"))
        if value is not None:
            record.curve.append((int(step), value))
        record.nothing = record.nothing if nothing is None else nothing
    record.curve.sort()
    record.tested = read_tested(sorted((results / run.name).glob("*/summary.json")))
    return record


def read_tested(paths: Sequence[Path]) -> dict[str, Measured]:
    """What these summary.json hold, by data set; by folder where two of them name the same data set.

    Raises:
        UserError: a file that cannot be read.
    """
    summaries = [read_object(path) for path in paths]
    names = [plain(s.get("dataset") or path.parent.name) for s, path in zip(summaries, paths, strict=True)]
    folders = [plain(path.parent.name) for path in paths]
    keys = [folder if names.count(name) > 1 else name for name, folder in zip(names, folders, strict=True)]
    return {key: measured_from(summary) for key, summary in zip(keys, summaries, strict=True)}


def measured_from(summary: dict[str, Any]) -> Measured:
    def metric(name: str, key: str) -> float | None:
        values = summary.get(name)
        return finite(values.get(key)) if isinstance(values, dict) else None

    conditions = {key: plain(summary.get(key)) for key in ("protocol", "degrade", "split", "scale", "images")}
    # a mean leaves out the images that were met exactly: it is then one over other images
    conditions["identical images"] = plain(int(metric("psnr", "identical") or 0))
    images = finite(summary.get("images"))
    return Measured(
        conditions,
        None if images is None else int(images),
        metric("psnr", "mean"),
        metric("psnr_input", "mean"),
        metric("ssim", "mean"),
    )


# ------------------------------------------------------------------------------------------------ comparing


def by_value(pairs: Iterable[tuple[str, str]]) -> str:
    """(run, value) pairs as `text (a, b), rgb (c)`."""
    groups: dict[str, list[str]] = {}
    for name, value in pairs:
        groups.setdefault(value, []).append(name)
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in groups.items())


def measured_differently(records: Sequence[Record], dataset: str) -> str:
    """The conditions that differ between the runs tested on `dataset`; empty where they agree."""
    found = [
        (record.name, record.tested[dataset].conditions) for record in records if dataset in record.tested
    ]
    differ = [key for key in found[0][1] if len({conditions[key] for _, conditions in found}) > 1]
    return "; ".join(f"{key} {by_value((name, kept[key]) for name, kept in found)}" for key in differ)


def shared_input_psnr(records: Sequence[Record]) -> float | None:
    """Validation PSNR of doing nothing, in dB, if all runs that have a curve know it and agree on it."""
    values = [record.nothing for record in records if record.curve]
    known = [value for value in values if value is not None]
    agree = known and len(known) == len(values) and max(known) - min(known) <= SAME_DB
    return known[0] if agree else None


def validation_differences(records: Sequence[Record]) -> str:
    """What doing nothing reaches in each run, where that shows that they validated on different inputs."""
    known = [(r.name, r.nothing) for r in records if r.curve and r.nothing is not None]
    values = [value for _, value in known]
    if not values or max(values) - min(values) <= SAME_DB:
        return ""
    return "doing nothing " + by_value((name, f"{value:.2f} dB") for name, value in known)


def option_differences(records: Sequence[Record]) -> dict[str, list[str | None]]:
    """The options in which the runs differ, one value a run, None where a run does not know the option."""
    keys = list(dict.fromkeys(key for record in records for key in record.options if key not in UNLIKE))
    rows = {
        key: [plain(r.options[key]) if key in r.options else None for r in records]
        for key in keys
        if len({json.dumps(r.options[key], sort_keys=True) if key in r.options else None for r in records})
        > 1
    }
    if "dataroot" in rows:
        rows.pop("data", None)  # its description follows from it
    return rows


# -------------------------------------------------------------------------------------------------- showing


def layout(columns: Sequence[Column]) -> str:
    """Aligned text: a line of groups if there are any, a line of titles, a line a row."""
    blocks: list[tuple[str, list[list[str]]]] = []
    for column in columns:
        if not blocks or blocks[-1][0] != column.group or not column.group:
            blocks.append((column.group, []))
        blocks[-1][1].append(column.cells())
    texts = []
    for group, cells in blocks:
        body = ["  ".join(row) for row in zip(*cells, strict=True)]
        width = max(len(group), len(body[0]))
        head = f"{group} ".ljust(width, "-")[:width] if group else ""
        texts.append([line.rjust(width) for line in (head.ljust(width), *body)])
    lines = ["   ".join(row).rstrip() for row in zip(*texts, strict=True)]
    return "\n".join(lines if lines[0] else lines[1:])


def figures(records: Sequence[Record]) -> str:
    """The table of figures, a row a run, and below it a line for each group that cannot be compared."""
    alike = validation_differences(records)
    notes = [f"validation: not comparable, no star: {alike}"] if alike else []
    best = [record.best for record in records]
    columns = [
        Column("run", [record.name for record in records], left=True),
        Column("model", [plain(record.options.get("model")) for record in records], left=True),
        Column("steps", [record.steps for record in records]),
        Column("PSNR", [b and b[1] for b in best], ".2f", star=not alike, group="validation"),
        Column("at step", [b and b[0] for b in best], group="validation"),
    ]
    for dataset in dict.fromkeys(name for record in records for name in record.tested):
        different = measured_differently(records, dataset)
        notes += (
            [f"{dataset}: measured differently, not comparable, no star: {different}"] if different else []
        )
        tested = [record.tested.get(dataset) for record in records]
        values = [(t.psnr, t.gain, t.ssim, t.images) if t else (None,) * 4 for t in tested]
        psnr, gain, ssim, images = zip(*values, strict=True)
        columns += [
            Column("PSNR", psnr, ".2f", star=not different, group=dataset),
            Column("gain", gain, "+.2f", star=not different, group=dataset),
            Column("SSIM", ssim, ".4f", star=not different, group=dataset),
            Column("images", images, group=dataset),
        ]
    return "\n".join([layout(columns), *notes])


def differences(records: Sequence[Record]) -> str:
    """The table of options that differ, a row an option."""
    rows = option_differences(records)
    if not rows:
        return "the runs have the same options"
    columns = [Column(r.name, [row[i] for row in rows.values()]) for i, r in enumerate(records)]
    return layout([Column("option", list(rows), left=True), *columns])


def draw(records: Sequence[Record], path: Path) -> None:
    """Write the curves of validation PSNR as PNG; a single value becomes a marker.

    Raises:
        ImportError: no matplotlib.
    """
    import warnings

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="validation PSNR (dB)")
    for i, record in enumerate(record for record in records if record.curve):
        steps, values = zip(*record.curve, strict=True)
        label = f" {record.name}" if record.name.startswith("_") else record.name  # a legend hides _names
        single = len(steps) == 1
        style, marker = ("none", "o") if single else (("-", "--", ":", "-.")[i // 10 % 4], None)
        axes.plot(steps, values, color=f"C{i % 10}", linestyle=style, marker=marker, label=label)
    nothing = shared_input_psnr(records)
    if nothing is not None:
        axes.axhline(nothing, color="0.4", linestyle="--", linewidth=1.2, label="doing nothing")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    with warnings.catch_warnings(), atomic_write(path) as file:
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a run's name may be in any script
        figure.savefig(file, format="png")


def main(opt: Namespace, cleanup: ExitStack) -> int:
    records = [read_record(name, Path(opt.results_dir)) for name in dict.fromkeys(opt.runs)]
    print(figures(records))
    if len(records) > 1:
        print(f"\n{differences(records)}")
    if not any(record.curve for record in records):
        print(f"\nno validation value in any log: no {opt.curve}")
        return 0
    try:
        draw(records, Path(opt.curve))
    except ImportError:
        print(f'\nno {opt.curve}: matplotlib is not installed: pip install -e ".[plot]"')
        return 0
    print(f"\ncurve {opt.curve}")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main, parse_or_exit(parse_compare)))
