"""What a test leaves on the disk: `results/<name>/<dataset>/`."""

import csv
import io
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import Refusal
from utils.files import write_text

if TYPE_CHECKING:
    from utils.evaluate import Judged

COLUMNS = ("name", "psnr", "psnr_input", "seconds")


class Results:
    """Outputs, one CSV and one grid of a test on one data set.

    Args:
        folder: `results/<run name>`.
        dataroot: what was tested; its last part names the data set.
    """

    def __init__(self, folder: Path, dataroot: str):
        self.dataset = re.sub(r"[^\w.\-=+]", "_", Path(dataroot.split(":")[0]).resolve().name)
        self.window = f"test_{self.dataset}"
        self.folder = folder / self.dataset
        self.csv, self.grid = self.folder / "metrics.csv", self.folder / "grid.png"
        self.rows: list[dict[str, float | str]] = []
        self.written: set[Path] = set()
        self.folder.mkdir(parents=True, exist_ok=True)

    def output(self, name: str) -> Path:
        """Where the output of image `name` goes: its name and sub-folder below `outputs/`, as PNG.

        Raises:
            Refusal: two images would get the same file.
        """
        path = (self.folder / "outputs" / name).with_suffix(".png")
        if path in self.written:
            raise Refusal(f"two images would be written to {path}", fix="give them different names", code=1)
        self.written.add(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def add(self, image: "Judged") -> None:
        values = (image.name, image.psnr, image.psnr_input, image.seconds)
        self.rows.append(
            {key: math.nan if value is None else value for key, value in zip(COLUMNS, values, strict=True)}
        )

    def mean(self, column: str) -> float:
        """Mean of a column; NaN where it holds none."""
        values = [float(row[column]) for row in self.rows]
        return sum(values) / len(values) if values else math.nan

    def write_csv(self, convention: str) -> None:
        """Write `metrics.csv`: a comment with the convention, then a row an image; six decimals."""
        text = io.StringIO()
        text.write(f"# {convention}\n")
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()})
        write_text(text.getvalue(), self.csv)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a `metrics.csv`."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))
