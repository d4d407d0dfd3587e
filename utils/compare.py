"""Compare runs side by side: `python -m utils.compare RUN RUN ...`.

The table shows options and best validation from `checkpoints/RUN/`, and test results from every
`results/RUN/*/summary.json`; the curve (PNG) is validation PSNR over training steps. Figures of weights that
are gone, or that changed after the test, get no star and a note.
"""

import json
import math
import sys
import textwrap
from argparse import Namespace
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.options import parse_or_exit
from utils.options.flags import DEBUG, RESULTS
from utils.options.kinds import path
from utils.options.parser import SWITCH, Parser, flag
from utils.run.log import read_log
from utils.run.run import Run
from utils.system.errors import UserError, run_script
from utils.system.jsonfile import read_object
from utils.system.streams import fix_streams
from utils.vis.curves import BASELINE, Line, color_of, draw_curves
from utils.vis.table import TERMINAL_WIDTH, Column, layout

CONDITIONS = (
    *("protocol", "degrade", "split", "scale", "images"),
    *("x8", "tile", "precision", "seen", "complete"),
)
DEFAULTS = {"x8": False, "precision": "float32", "seen": "", "complete": True}  # of older results
MAX_OPTION = 40  # letters of an option's value in the table
FEW_POINTS = 10  # with fewer validations the curve shows the PSNR of training as well
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
    curve_flag = flag("--curve", None, path, "PNG of validation PSNR (default: results/compare.png)")
    wide = flag("--wide", False, SWITCH, f"one table, however wide, instead of {TERMINAL_WIDTH} columns")
    usage = "%(prog)s RUN [RUN ...] [flags]"
    flags = {"flags": [RESULTS, curve_flag, wide, DEBUG]}
    parser = Parser("python -m utils.compare", "Compare runs: a table and a curve.", flags, usage)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs, under checkpoints/")
    opt = parser.options(argv)
    if opt.curve is None:
        opt.curve = str(Path(opt.results_dir, "compare.png"))
        Path(opt.results_dir).mkdir(parents=True, exist_ok=True)
    curve = Path(opt.curve)
    if curve.suffix.lower() != ".png" or curve.is_dir() or not curve.parent.is_dir():
        raise UserError(f"bad file [--curve {opt.curve}]", fix="name a .png in a folder that exists")
    return opt


# ------------------------------------------------------------------------------------------------- reading


@dataclass
class DatasetResult:
    """The results of test.py on one data set; a mean is None if missing.

    Args:
        caveats: what test.py said beside the figures.
        outdated: why the figures are not those of the run as it is now; "" where they are.
    """

    conditions: dict[str, str]  # figures are comparable where these agree
    image_set: str | None  # a hash of the names of the images; None: unknown
    data: str
    images: int | None
    psnr: float | None
    psnr_input: float | None
    ssim: float | None
    caveats: tuple[str, ...] = ()
    outdated: str = ""

    @property
    def gain(self) -> float | None:
        """PSNR above the input's, in dB."""
        return None if self.psnr is None or self.psnr_input is None else self.psnr - self.psnr_input


@dataclass
class Record:
    """Everything that is compared of one run.

    Args:
        curve: (step, validation PSNR in dB), by step.
        training: (step, PSNR of the training images in dB).
        psnr_input: validation PSNR of the input, in dB.
        tested: results by name of the data set.
    """

    name: str
    options: dict[str, Any]
    steps: int | None = None
    curve: list[tuple[int, float]] = field(default_factory=list)
    training: list[tuple[int, float]] = field(default_factory=list)
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
        if (training := finite(line.get("train_psnr"))) is not None:
            record.training.append((int(step), training))
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
        one_line(path.parent.name): result_of(summary, outdated(path, summary))
        for path, summary in zip(visible, summaries, strict=True)
    }


def outdated(path: Path, summary: dict[str, Any]) -> str:
    """Why a result is not that of its weights as they are now: they are gone, or younger; "" where it is."""
    weights = summary.get("weights")
    try:
        younger = isinstance(weights, str) and Path(weights).stat().st_mtime > path.stat().st_mtime
    except (OSError, ValueError):
        return "the tested weights are gone"
    return "the weights changed after the test: test again" if younger else ""


def result_of(summary: dict[str, Any], outdated: str) -> DatasetResult:
    def metric(name: str, key: str) -> float | None:
        values = summary.get(name)
        return finite(values.get(key)) if isinstance(values, dict) else None

    conditions = {key: one_line(summary.get(key, DEFAULTS.get(key))) for key in CONDITIONS}
    # a mean leaves out identical images: with other counts it is one over other images
    conditions["identical images"] = one_line(int(metric("psnr", "identical") or 0))
    images = finite(summary.get("images"))
    psnr, psnr_input, ssim = (metric(name, "mean") for name in ("psnr", "psnr_input", "ssim"))
    image_set = summary.get("images_hash")
    data = one_line(summary.get("data"), 100)
    found = summary.get("caveats")
    said = tuple(one_line(each, 300) for each in found) if isinstance(found, list) else ()
    count = None if images is None else int(images)
    return DatasetResult(conditions, image_set, data, count, psnr, psnr_input, ssim, said, outdated)


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
            rows[key] = [one_line(r.options[key], MAX_OPTION) if key in r.options else None for r in records]
    if "dataroot" in rows:
        rows.pop("data", None)  # its description follows from it
    return rows


# -------------------------------------------------------------------------------------------------- showing


def notes_on(records: Sequence[Record], dataset: str) -> list[str]:
    """What has to be said beside the figures on `dataset`, each with the runs that it is about."""
    found = [(r.name, r.tested[dataset]) for r in records if dataset in r.tested]
    said: dict[str, list[str]] = {}
    for name, result in found:
        for text in [result.outdated] * bool(result.outdated) + list(result.caveats):
            said.setdefault(text, []).append(name)
    return [f"{dataset}: {text} ({', '.join(names)})" for text, names in said.items()]


def dataset_columns(records: Sequence[Record], dataset: str, comparable: bool) -> list[Column]:
    """The columns of one data set; figures that are outdated compete for no star."""
    results = [record.tested.get(dataset) for record in records]
    comparable = comparable and not any(result and result.outdated for result in results)
    figures = (("PSNR", "psnr", ".2f"), ("gain", "gain", "+.2f"), ("SSIM", "ssim", ".4f"))
    columns = [
        Column(title, [getattr(result, key, None) for result in results], form, comparable, group=dataset)
        for title, key, form in figures
    ]
    return [*columns, Column("images", [result and result.images for result in results], group=dataset)]


def figures(records: Sequence[Record], width: int | None = None) -> str:
    """Format the table of figures, a row per run, then notes: what is not comparable, how it was measured."""
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
    sets = dict.fromkeys(name for record in records for name in record.tested)
    for dataset in sets:
        if differ := condition_differences(records, dataset):
            notes.append(f"{dataset}: measured differently, not comparable, no star: {differ}")
        notes += notes_on(records, dataset)
        columns += dataset_columns(records, dataset, not differ)
    notes += [measured_how(records, dataset) for dataset in sets]
    return "\n".join([layout(columns, width), *(wrapped(note, width) for note in notes)])


def wrapped(text: str, width: int | None) -> str:
    return textwrap.fill(text, width, subsequent_indent="    ", break_long_words=False) if width else text


def differences(records: Sequence[Record], width: int | None = None) -> str:
    """Format the table of options that differ, a row per option."""
    rows = option_differences(records)
    if not rows:
        return "the runs have the same options"
    columns = [Column(r.name, [row[i] for row in rows.values()]) for i, r in enumerate(records)]
    return layout([Column("option", list(rows), left=True), *columns], width)


def draw(records: Sequence[Record], path: Path) -> bool:
    """Write the curves of validation PSNR as PNG; a single value becomes a mark; False without a value.

    Of a run that was validated rarely, the PSNR of its training images is a thin line.
    """
    lines: list[Line] = []
    for record in (record for record in records if record.curve):
        color = color_of(sum(not line.name.endswith("(train)") for line in lines))
        lines.append(Line(record.name, record.curve, color))
        if len(record.curve) < FEW_POINTS and len(record.training) > 1:
            lines.append(Line(f"{record.name[:20]} (train)", record.training, color, width=1))
    inputs, agree = validation_inputs(records)
    if inputs and agree and len(inputs) == sum(bool(record.curve) for record in records):
        steps = [step for record in records for step, _ in record.curve]
        baseline = [(step, inputs[0][1]) for step in (min(steps), max(steps))]
        lines.append(Line("input", baseline, BASELINE, width=2, level=True))
    return draw_curves(path, "validation PSNR", "step", "PSNR (dB)", lines)


def main(opt: Namespace, cleanup: ExitStack) -> int:
    records = [read_record(name, Path(opt.results_dir)) for name in dict.fromkeys(opt.runs)]
    width = None if opt.wide else TERMINAL_WIDTH
    print(figures(records, width))
    if len(records) > 1:
        print(f"\n{differences(records, width)}")
    drawn = draw(records, Path(opt.curve))
    print(f"\ncurve {opt.curve}" if drawn else f"\nno validation value in any log: no {opt.curve}")
    return 0


if __name__ == "__main__":
    fix_streams()
    sys.exit(run_script(main, parse_or_exit(parse)))
