"""What a test leaves on the disk: `results/<name>/<dataset>/`."""

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

# the order of the columns; those without a value are left out
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
HIGH_IS_GOOD = ("psnr", "ssim", "gain")


class Results:
    """Outputs, one CSV, one summary and one grid of a test on one data set.

    Args:
        folder: `results/<run name>`.
        dataroot: what was tested; its last part names the data set.
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
        self.sums: dict[str, tuple[float, int]] = {}  # of the finite values of a column, and their number
        self.written: set[Path] = set()
        self.folder.mkdir(parents=True, exist_ok=True)

    def output(self, name: str, depth: Any) -> Path:
        """Where the output of image `name` goes: below `outputs/`, sub-folder included; see `output_suffix`.

        Raises:
            UserError: two images would get the same file, or one outside the folder.
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
        """Refuse, before the first image, names of which two would become one output."""
        outputs = Counter(str(Path(name).with_suffix(output_suffix(name, "u1"))) for name in names)
        double = [name for name, count in outputs.items() if count > 1]
        if double:
            raise UserError(
                "several images would be written to one file", ", ".join(double[:5]), "rename them"
            )

    def add(self, name: str, scores: Mapping[str, float], seconds: float) -> None:
        """Note the scores of one image."""
        row: dict[str, Any] = {"name": name, **scores, "seconds": seconds}
        if {"psnr", "psnr_input"} <= scores.keys():
            inputs = scores["psnr_input"]
            row["gain"] = scores["psnr"] - inputs if math.isfinite(inputs) else math.nan
        self.rows.append({column: row[column] for column in COLUMNS if column in row})
        for column, value in row.items():
            if column != "name" and math.isfinite(value):
                total, count = self.sums.get(column, (0.0, 0))
                self.sums[column] = total + value, count + 1

    def columns(self) -> list[str]:
        return [column for column in COLUMNS if any(column in row for row in self.rows)]

    def values(self, column: str) -> list[float]:
        """The values of a column; NaN (an empty one) where an image has none."""
        return [row.get(column, math.nan) for row in self.rows]

    def stats(self, column: str) -> dict[str, Any]:
        """`mean`, `median`, `worst` with `worst_name`, `std` (of the population) of a column.

        Over the finite values; `identical` counts the infinite ones (PSNR of equal images), `empty` those
        that could not be measured (SSIM under 11 pixels). `mean` is None where nothing is left.
        """
        values = self.values(column)
        finite = [(value, i) for i, value in enumerate(values) if math.isfinite(value)]
        found: dict[str, Any] = {
            "mean": None,
            "identical": values.count(math.inf),
            "empty": sum(math.isnan(value) for value in values),
        }
        if finite:
            worst, at = (min if column.startswith(HIGH_IS_GOOD) else max)(finite)
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
        """Mean of the finite values of a column so far; NaN where it holds none."""
        total, count = self.sums.get(column, (math.nan, 1))
        return total / count

    def write(self, facts: Mapping[str, Any]) -> None:
        """Write `metrics.csv` and `summary.json`; `facts` say what was measured and how (`protocol`)."""
        columns = self.columns()
        stats = {column: self.stats(column) for column in columns if column not in ("name", "seconds")}
        total = sum(self.values("seconds"))
        summary = {**facts, "images": len(self.rows), **stats, "seconds": total}
        write_text(json.dumps(summary, indent=2, allow_nan=False), self.summary)

        text = io.StringIO()
        text.write(f"# {'; '.join(origin(facts))}\n")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({key: _cell(value) for key, value in row.items()})
        write_text(text.getvalue(), self.csv)


def origin(facts: Mapping[str, Any]) -> list[str]:
    """What was measured and how, for the first line of the CSV."""
    words = [facts["protocol"], facts["degrade"] or "input as given", facts["weights"]]
    words += [f"{key} {facts[key]}" for key in ("split", "seed") if key in facts]
    words += ["self-ensemble x8"] if facts.get("x8") else []
    words += [f"tiles of {facts['tile']}, overlap {facts['tile_overlap']}"] if facts.get("tile") else []
    return words + [f"{key} {version}" for key, version in facts.get("versions", {}).items()]


def _cell(value: float | str) -> str:
    """Six decimals; empty where there is no value; `inf` for the PSNR of equal images."""
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else f"{value:.6f}"


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a `metrics.csv`; its first line is the comment with the protocol."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        next(file)
        return list(csv.DictReader(file))
