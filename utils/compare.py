"""Compare runs side by side: `python -m utils.compare RUN RUN ...`.

The table shows options and best validation from `checkpoints/RUN/`, and test results from every
`results/RUN/*/summary.json`; the curve (PNG, needs matplotlib) is validation PSNR over training steps.
"""

import json
import math
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from utils.options import parse_or_exit
from utils.options.flags import DEBUG, RESULTS
from utils.options.kinds import path
from utils.options.parser import Parser, flag
from utils.run.log import read_log
from utils.run.run import Run
from utils.system.atomic import atomic_write
from utils.system.errors import UserError, run_script
from utils.system.jsonfile import read_object

CONDITIONS = (
    *("protocol", "degrade", "split", "scale", "images"),
    *("x8", "tile", "precision", "seen", "complete"),
)
DEFAULTS = {"x8": False, "precision": "float32", "seen": "", "complete": True}  # of older results
EQUAL_DB = 0.01  # two means over the same images differ by less, on any machine
IGNORED_OPTIONS = {  # how a run was displayed or resumed, not what it is
    *("name", "versions", "results_dir", "visdom", "visdom_server", "visdom_port", "tensorboard"),
    *("debug", "resume", "epoch", "dry_run", "data_changed", "run_id"),
}


def parse(argv: Sequence[str]) -> Namespace:
    """Parse the command line.

    Raises:
        UserError: a wrong flag, or a file for the curve that cannot be written.
    """
    curve_flag = flag("--curve", "compare.png", path, "PNG of validation PSNR over steps")
    usage = "%(prog)s RUN [RUN ...] [flags]"
    flags = {"flags": [RESULTS, curve_flag, DEBUG]}
    parser = Parser("python -m utils.compare", "Compare runs: a table and a curve.", flags, usage)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs, under checkpoints/")
    opt = parser.options(argv)
    curve = Path(opt.curve)
    if curve.suffix.lower() != ".png" or curve.is_dir() or not curve.parent.is_dir():
        raise UserError(f"bad file [--curve {opt.curve}]", fix="name a .png in a folder that exists")
    return opt


# ------------------------------------------------------------------------------------------------- reading


@dataclass
class DatasetResult:
    """The results of test.py on one data set; a mean is None if missing."""

    conditions: dict[str, str]  # figures are comparable where these agree
    image_set: str | None  # a hash of the names of the images; None: unknown
    data: str
    images: int | None
    psnr: float | None
    psnr_input: float | None
    ssim: float | None

    @property
    def gain(self) -> float | None:
        """PSNR above the input's, in dB."""
        return None if self.psnr is None or self.psnr_input is None else self.psnr - self.psnr_input


@dataclass
class Record:
    """Everything that is compared of one run.

    Args:
        curve: (step, validation PSNR in dB), by step.
        psnr_input: validation PSNR of the input, in dB.
        tested: results by name of the data set.
    """

    name: str
    options: dict[str, Any]
    steps: int | None = None
    curve: list[tuple[int, float]] = field(default_factory=list)
    psnr_input: float | None = None
    tested: dict[str, DatasetResult] = field(default_factory=dict)

    @property
    def best(self) -> tuple[int | None, float | None]:
        """Step and value of the first highest validation PSNR."""
        return max(self.curve, key=lambda point: point[1], default=(None, None))


def read_record(name: str, results: Path) -> Record:
    """Read everything about the run `name`; a log that is missing or damaged is read as far as possible.

    Raises:
        UserError: no such run; a file of options or of results that cannot be read.
    """
    run = Run.named(name)
    record = Record(run.name, run.options())
    try:
        log = read_log(run.log)
    except (OSError, ValueError, RecursionError):
        log = []
    for line in log:
        step = finite(line.get("step")) if isinstance(line, dict) else None
        if step is None:
            continue
        record.steps = max(record.steps or 0, int(step))
        value, baseline = finite(line.get("val_psnr")), finite(line.get("val_psnr_input"))
        if value is not None:
            record.curve.append((int(step), value))
        if baseline is not None:
            record.psnr_input = baseline
    record.curve.sort()
    record.tested = read_tested(sorted((results / run.name).glob("*/summary.json")))
    return record


def read_tested(paths: Iterable[Path]) -> dict[str, DatasetResult]:
    """Read summary.json files, by the names of their folders, which tell data set, split and settings.

    Raises:
        UserError: a file that cannot be read.
    """
    visible = [path for path in paths if not path.parent.name.startswith(".")]  # others are being written
    summaries = [read_object(path, "run test.py again") for path in visible]
    return {
        one_line(path.parent.name): result_of(summary)
        for path, summary in zip(visible, summaries, strict=True)
    }


def result_of(summary: dict[str, Any]) -> DatasetResult:
    def metric(name: str, key: str) -> float | None:
        values = summary.get(name)
        return finite(values.get(key)) if isinstance(values, dict) else None

    conditions = {key: one_line(summary.get(key, DEFAULTS.get(key))) for key in CONDITIONS}
    # a mean leaves out identical images: with other counts it is one over other images
    conditions["identical images"] = one_line(int(metric("psnr", "identical") or 0))
    images = finite(summary.get("images"))
    means = (metric(name, "mean") for name in ("psnr", "psnr_input", "ssim"))
    image_set = summary.get("images_hash")
    data = one_line(summary.get("data"), 100)
    return DatasetResult(conditions, image_set, data, None if images is None else int(images), *means)


def finite(value: object) -> float | None:
    """Convert a JSON number to a finite float; anything else to None.

    >>> finite(3), finite(None), finite(True), finite(float("nan")), finite(10**400)
    (3.0, None, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def one_line(value: object, width: int = 60) -> str:
    """Format a JSON value on one short line, without control characters.

    >>> one_line(None), one_line(True), one_line([20.0, 30.0]), one_line("a" + chr(27) + "b")
    ('none', 'true', '[20.0, 30.0]', 'a?b')
    """
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= width else text[: width - 3] + "..."


# ------------------------------------------------------------------------------------------------ comparing


def by_value(pairs: Iterable[tuple[str, str]]) -> str:
    """Format (run, value) pairs as `text (a, b), rgb (c)`."""
    groups: dict[str, list[str]] = {}
    for name, value in pairs:
        groups.setdefault(value, []).append(name)
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in groups.items())


def condition_differences(records: Sequence[Record], dataset: str) -> str:
    """Describe the test conditions in which the runs tested on `dataset` differ; empty if they agree."""
    found = [(r.name, r.tested[dataset]) for r in records if dataset in r.tested]
    differ = [key for key in found[0][1].conditions if len({each.conditions[key] for _, each in found}) > 1]
    words = [f"{key} {by_value((name, each.conditions[key]) for name, each in found)}" for key in differ]
    if len({each.image_set for _, each in found} - {None}) > 1:
        words.append(f"names of the images {by_value((name, each.data) for name, each in found)}")
    inputs = [each.psnr_input for _, each in found if each.psnr_input is not None]
    if not words and inputs and max(inputs) - min(inputs) > EQUAL_DB:  # other images of the same names
        each_input = ((name, f"{each.psnr_input or math.nan:.2f} dB") for name, each in found)
        words.append(f"input {by_value(each_input)}")
    return "; ".join(words)


def measured_how(records: Sequence[Record], dataset: str) -> str:
    """Describe protocol, data and split of the results on `dataset`."""
    found = [(r.name, r.tested[dataset]) for r in records if dataset in r.tested]
    texts = [(name, f"{each.conditions['protocol']}; {each.data}") for name, each in found]
    if len({text for _, text in texts}) == 1:
        return f"{dataset}: {texts[0][1]}; split {by_value((n, e.conditions['split']) for n, e in found)}"
    splits = by_value((name, each.conditions["split"]) for name, each in found)
    return f"{dataset}: {by_value(texts)}; split {splits}"


def validation_inputs(records: Sequence[Record]) -> tuple[list[tuple[str, float]], bool]:
    """Return (run, PSNR of its validation inputs in dB) where known, and whether all of these agree."""
    known = [(r.name, r.psnr_input) for r in records if r.curve and r.psnr_input is not None]
    values = [value for _, value in known]
    return known, not values or max(values) - min(values) <= EQUAL_DB


def option_differences(records: Sequence[Record]) -> dict[str, list[str | None]]:
    """Return the options in which the runs differ: one value per run, None where a run lacks the option."""
    keys = dict.fromkeys(key for record in records for key in record.options if key not in IGNORED_OPTIONS)
    rows: dict[str, list[str | None]] = {}
    for key in keys:
        exact = {json.dumps(r.options[key], sort_keys=True) if key in r.options else None for r in records}
        if len(exact) > 1:
            rows[key] = [one_line(r.options[key]) if key in r.options else None for r in records]
    if "dataroot" in rows:
        rows.pop("data", None)  # its description follows from it
    return rows


# -------------------------------------------------------------------------------------------------- showing


@dataclass
class Column:
    """One column of a table.

    Args:
        values: one per row, None where missing.
        form: format specification of the values.
        star: mark the cells of the highest value, if there are several values.
        left: align to the left.
        group: columns of one group share a heading.
    """

    title: str
    values: Sequence[Any]
    form: str = ""
    star: bool = False
    left: bool = False
    group: str = ""

    def cells(self) -> list[str]:
        """Return the title and a text for each value, all of one width."""
        texts = ["-" if value is None else format(value, self.form) for value in self.values]
        known = [value for value in self.values if value is not None]
        if self.star and len(known) > 1:
            best = format(max(known), self.form)
            texts = [f"{text}*" if text == best else f"{text} " for text in texts]
        texts = [self.title + " " * self.star, *texts]
        width = max(map(len, texts))
        return [text.ljust(width) if self.left else text.rjust(width) for text in texts]


def layout(columns: Sequence[Column]) -> str:
    """Format a table: a line of groups if there are any, a line of titles, a line per row."""
    blocks = []
    for group, members in groupby(columns, key=lambda column: column.group):
        rows = ["  ".join(row) for row in zip(*(column.cells() for column in members), strict=True)]
        width = max(len(group), len(rows[0]))
        heading = f"{group} ".ljust(width, "-")[:width] if group else " " * width
        blocks.append([line.rjust(width) for line in (heading, *rows)])
    lines = ["   ".join(row).rstrip() for row in zip(*blocks, strict=True)]
    return "\n".join(lines if lines[0] else lines[1:])


def figures(records: Sequence[Record]) -> str:
    """Format the table of figures, a row per run, then a note on each group that is not comparable."""
    inputs, agree = validation_inputs(records)
    by_run = by_value((name, f"{value:.2f} dB") for name, value in inputs)
    notes = [] if agree else [f"validation: not comparable, no star: input {by_run}"]
    steps, values = zip(*(record.best for record in records), strict=True)
    columns = [
        Column("run", [record.name for record in records], left=True),
        Column("model", [one_line(record.options.get("model")) for record in records], left=True),
        Column("steps", [record.steps for record in records]),
        Column("PSNR", values, ".2f", star=agree, group="validation"),
        Column("at step", steps, group="validation"),
    ]
    for dataset in dict.fromkeys(name for record in records for name in record.tested):
        if differ := condition_differences(records, dataset):
            notes.append(f"{dataset}: measured differently, not comparable, no star: {differ}")
        results = [record.tested.get(dataset) for record in records]
        for title, key, form in (("PSNR", "psnr", ".2f"), ("gain", "gain", "+.2f"), ("SSIM", "ssim", ".4f")):
            column = [getattr(result, key, None) for result in results]
            columns.append(Column(title, column, form, star=not differ, group=dataset))
        columns.append(Column("images", [result and result.images for result in results], group=dataset))
    sets = dict.fromkeys(name for record in records for name in record.tested)
    return "\n".join([layout(columns), *notes, *(measured_how(records, dataset) for dataset in sets)])


def differences(records: Sequence[Record]) -> str:
    """Format the table of options that differ, a row per option."""
    rows = option_differences(records)
    if not rows:
        return "the runs have the same options"
    columns = [Column(r.name, [row[i] for row in rows.values()]) for i, r in enumerate(records)]
    return layout([Column("option", list(rows), left=True), *columns])


def draw(records: Sequence[Record], path: Path) -> None:
    """Write the curves of validation PSNR as PNG; a single value becomes a marker.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import warnings

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="validation PSNR (dB)")
    with_curve = [record for record in records if record.curve]
    for i, record in enumerate(with_curve):
        steps, values = zip(*record.curve, strict=True)
        label = f" {record.name}" if record.name.startswith("_") else record.name  # a legend hides _names
        single = len(steps) == 1
        style, marker = ("none", "o") if single else (("-", "--", ":", "-.")[i // 10 % 4], None)
        axes.plot(steps, values, color=f"C{i % 10}", linestyle=style, marker=marker, label=label)
    inputs, agree = validation_inputs(records)
    if inputs and agree and len(inputs) == len(with_curve):
        axes.axhline(inputs[0][1], color="0.4", linestyle="--", linewidth=1.2, label="input")
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
    sys.exit(run_script(main, parse_or_exit(parse)))
