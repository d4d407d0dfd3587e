"""Files of one test: outputs, `metrics.csv`, `summary.json` and a grid in `results/<name>/<dataset>/`."""

import csv
import io
import json
import math
import os
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data.images import output_suffix
from utils.system.atomic import write_text
from utils.system.errors import UserError

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
    "seconds",
)
HIGHER_IS_BETTER = ("psnr", "ssim", "gain")


class Results:
    """The rows of a test on one data set, their statistics, and the paths of its files.

    Args:
        folder: `results/<run name>`.
        dataroot: the data set; the last part of its path names it.
    """

    def __init__(self, folder: Path, dataroot: str):
        place = dataroot.split(":")[0] if dataroot.startswith("demo") else dataroot
        name = Path(os.path.realpath(place)).name
        self.dataset = re.sub(r"[^\w.\-=+]", "_", name.removesuffix(".csv"))
        self.window = f"test_{self.dataset}"
        self.folder = folder / self.dataset
        self.csv, self.grid = self.folder / "metrics.csv", self.folder / "grid.png"
        self.summary, self.page = self.folder / "summary.json", self.folder / "index.html"
        self.rows: list[dict[str, Any]] = []
        self.sums: dict[str, tuple[float, int]] = {}  # by column: sum and count of the finite values
        self.written: set[Path] = set()
        self.folder.mkdir(parents=True, exist_ok=True)

    def output(self, name: str, depth: Any) -> Path:
        """Return the path of the output of image `name`, below `outputs/`; create its folder.

        Raises:
            UserError: another image has the same output, or it would lie outside `outputs/`.
        """
        root = self.folder / "outputs"
        path = (root / name).with_suffix(output_suffix(name, depth))
        if path in self.written:
            raise UserError(f"two images would be written to {path}", fix="give them different names", code=1)
        if not path.resolve().is_relative_to(root.resolve()):
            raise UserError(f"{name} would be written outside {root}", fix="rename it", code=1)
        self.written.add(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def check_names(self, names: Iterable[str]) -> None:
        """Raise UserError if two images would have the same output; called before the first image."""
        outputs = Counter(str(Path(name).with_suffix(output_suffix(name, "u1"))) for name in names)
        if shared := [name for name, count in outputs.items() if count > 1]:
            what = "several images would be written to one file"
            raise UserError(what, ", ".join(shared[:5]), "rename them")

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

    def write(self, facts: Mapping[str, Any]) -> None:
        """Write `metrics.csv` and `summary.json`; `facts` describe the test (`protocol`, `weights`, ...)."""
        columns = self.columns()
        stats = {column: self.stats(column) for column in columns if column not in ("name", "seconds")}
        total = sum(self.values("seconds"))
        summary = {**facts, "images": len(self.rows), **stats, "seconds": total}
        write_text(json.dumps(summary, indent=2, allow_nan=False), self.summary)

        text = io.StringIO()
        text.write(f"# {'; '.join(conditions(facts))}\n")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({key: _cell(value) for key, value in row.items()})
        write_text(text.getvalue(), self.csv)


def conditions(facts: Mapping[str, Any]) -> list[str]:
    """Return the conditions of the test, for the first line of the CSV."""
    words = [facts["protocol"], facts["degrade"] or "input as given", facts["weights"]]
    words += [f"{key} {facts[key]}" for key in ("split", "seed") if key in facts]
    words += ["self-ensemble x8"] if facts.get("x8") else []
    words += [f"tiles of {facts['tile']}, overlap {facts['tile_overlap']}"] if facts.get("tile") else []
    return words + [f"{key} {version}" for key, version in facts.get("versions", {}).items()]


def _cell(value: float | str) -> str:
    """Format with six decimals; empty for NaN, `inf` for the PSNR of equal images."""
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else f"{value:.6f}"


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a `metrics.csv`; its first line is the comment with the protocol."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        next(file)
        return list(csv.DictReader(file))
