"""The figures of one test: rows, their statistics, `metrics.csv` and `summary.json`."""

import csv
import hashlib
import io
import json
import math
import os
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.system.atomic import write_text
from utils.system.errors import printable

# columns in order; those without a value are left out
COLUMNS = (
    "name",
    "psnr",
    "psnr_input",
    "gain",
    "psnr_single",
    "ssim",
    "ssim_input",
    "mae",
    "mae_input",
    "lpips",
    "lpips_input",
    "sharpness",
    "sharpness_input",
    "lite0",
    "lite0_input",
    "vgg",
    "vgg_input",
    "seconds",
)
HIGHER_IS_BETTER = ("psnr", "ssim", "gain", "sharpness")
FORMULA = (
    "=",
    "+",
    "-",
    "@",
    "'",
)  # how a cell begins that a spreadsheet computes; "'" marks an escaped name
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Results:
    """The rows of a test on one data set, and their statistics.

    Args:
        listed: how many images the test has; None: those that are measured.
    """

    def __init__(self, listed: int | None = None):
        self.listed = listed
        self.rows: list[dict[str, Any]] = []
        self.sets: dict[str, float] = {}  # figures of all images together, with those of the inputs
        self.sums: dict[str, tuple[float, int]] = {}  # by column: sum and count of the finite values

    def incomplete(self, complete: bool) -> str:
        """Such as "incomplete: 3 of 10 images"; empty for a complete test."""
        return "" if complete else f"incomplete: {len(self.rows)} of {self.listed} images"

    def add(self, name: str, scores: Mapping[str, float], seconds: float) -> None:
        """Add the row of one image."""
        row: dict[str, Any] = {"name": name, **scores, "seconds": seconds}
        if {"psnr", "psnr_input"} <= scores.keys():
            baseline = scores["psnr_input"]
            row["gain"] = scores["psnr"] - baseline if math.isfinite(baseline) else math.nan
        self.rows.append({column: row[column] for column in COLUMNS if column in row})
        for column, value in row.items():
            if column != "name" and math.isfinite(value):
                total, count = self.sums.get(column, (0.0, 0))
                self.sums[column] = total + value, count + 1

    def columns(self) -> list[str]:
        return [column for column in COLUMNS if any(column in row for row in self.rows)]

    def values(self, column: str) -> list[float]:
        """Return the values of a column; NaN (an empty cell) where an image has none."""
        return [row.get(column, math.nan) for row in self.rows]

    def stats(self, column: str) -> dict[str, Any]:
        """Return `mean`, `median`, `worst`, `worst_name` and `std` (of the population) of a column.

        Over the finite values; `identical` counts the infinite ones (PSNR of equal images), `empty` those
        that could not be measured (SSIM under 11 pixels). `mean` is None where no finite value is left.
        """
        values = self.values(column)
        finite = [(value, i) for i, value in enumerate(values) if math.isfinite(value)]
        found: dict[str, Any] = {
            "mean": None,
            "identical": values.count(math.inf),
            "empty": sum(math.isnan(value) for value in values),
        }
        if finite:
            worst, at = (min if column.startswith(HIGHER_IS_BETTER) else max)(finite)
            numbers = [value for value, _ in finite]
            found |= {
                "mean": statistics.fmean(numbers),
                "median": statistics.median(numbers),
                "worst": worst,
                "worst_name": self.rows[at]["name"],
                "std": statistics.pstdev(numbers),
            }
        return found

    def mean(self, column: str) -> float:
        """Return the mean of the finite values of a column so far; NaN without any."""
        total, count = self.sums.get(column, (math.nan, 1))
        return total / count

    def write(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Write `metrics.csv` and `summary.json`; `facts` describe the test (`protocol`, `weights`, ...)."""
        columns = self.columns()
        stats = {column: self.stats(column) for column in columns if column not in ("name", "seconds")}
        total = sum(self.values("seconds"))
        of_sets = {name: value if math.isfinite(value) else None for name, value in self.sets.items()}
        summary = {
            **facts,
            **of_sets,
            "images": len(self.rows),
            "images_hash": self.images_hash(),
            **stats,
            "seconds": total,
        }
        write_text(json.dumps(summary, indent=2, allow_nan=False), folder / "summary.json")

        text = io.StringIO()
        about = "; ".join([*filter(None, [self.incomplete(facts.get("complete", True))]), *conditions(facts)])
        text.write(f"# {re.sub(',(?=[=+@-])', ', ', printable(about))}\n")  # no cell of it is a formula
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({key: _cell(value) for key, value in row.items()})
        write_text(text.getvalue(), folder / "metrics.csv")

    def images_hash(self) -> str:
        """A hash of the names of the images."""
        names = "\0".join(sorted(row["name"] for row in self.rows))
        return hashlib.sha256(os.fsencode(names)).hexdigest()[:12]


def conditions(facts: Mapping[str, Any]) -> list[str]:
    """Return the conditions of the test, for the first line of the CSV."""
    words = [facts["protocol"], facts["degrade"] or "input as given", facts["weights"]]
    words += [f"{key} {facts[key]}" for key in ("split", "seed") if key in facts]
    words += ["self-ensemble x8"] if facts.get("x8") else []
    words += [f"tiles of {facts['tile']}, overlap {facts['tile_overlap']}"] if facts.get("tile") else []
    words += facts.get("caveats", [])
    return words + [f"{key} {version}" for key, version in facts.get("versions", {}).items()]


def _cell(value: float | str) -> str:
    """Format with six decimals; empty for NaN, `inf` for the PSNR of equal images."""
    if isinstance(value, str):
        return safe_cell(value)
    return "" if math.isnan(value) else f"{value:.6f}"


def safe_cell(name: str) -> str:
    r"""Return a name that no spreadsheet takes for a formula, and without control characters.

    >>> [safe_cell(name) for name in ("a.png", "=1+1.png", "a\n.png")]
    ['a.png', "'=1+1.png", "'a\\x0a.png"]
    """
    if not name.startswith(FORMULA) and not CONTROL.search(name):
        return name
    return "'" + re.sub(r"[\\\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: _escape(found[0]), name)


def _escape(letter: str) -> str:
    return f"\\x{ord(letter):02x}" if ord(letter) < 256 else f"\\u{ord(letter):04x}"


def true_name(cell: str) -> str:
    r"""Undo `safe_cell`.

    >>> all(true_name(safe_cell(name)) == name for name in ("a", "'a", "=a\\x0a", "a\\b\n\u2028"))
    True
    """
    if not cell.startswith("'"):
        return cell
    return re.sub(
        r"\\x([0-9a-f]{2})|\\u([0-9a-f]{4})", lambda found: chr(int(found[1] or found[2], 16)), cell[1:]
    )


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a `metrics.csv`; its first line is the comment with the protocol."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        next(file)
        rows = list(csv.DictReader(file))
    return [row | {"name": true_name(row["name"])} if "name" in row else row for row in rows]
