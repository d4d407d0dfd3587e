"""Figures of a run for the metadata of its exported files."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from utils.eval.folder import summary_of
from utils.run.checkpoint import FIGURES
from utils.run.log import read_log

CHOOSING = [(f"val_{figure}", sign) for figure, sign in FIGURES.items() if figure != "psnr"]


def figures(results: Path, log: Path, weights: Path) -> list[dict[str, Any]]:
    """The figures of a run: the best validation, and every complete test of these weights.

    Args:
        results: `results/<run>`.
        log: the run's log.
        weights: the file that was tested, as test.py names it.
    """
    found = []
    with suppress(OSError, ValueError, KeyError):
        validated = [record for record in read_log(log) if isinstance(record.get("val_psnr"), float)]
        choosing = ((key, sign) for key, sign in CHOOSING if validated and key in validated[0])
        figure, sign = next(choosing, ("val_psnr", 1))
        best = max(validated, key=lambda record: sign * record[figure])
        found.append({"data": "validation", "psnr": best["val_psnr"], "psnr_input": best["val_psnr_input"]})
    for folder in sorted(results.glob("[!.]*")):
        summary = summary_of(folder) or {}
        if summary.get("weights") == str(weights) and summary.get("complete", True):
            means = {
                name: summary[name]["mean"] for name in ("psnr", "psnr_input", "ssim") if name in summary
            }
            finite = {name: mean for name, mean in means.items() if mean is not None and math.isfinite(mean)}
            how = {key: summary.get(key) for key in ("data", "degrade", "images", "protocol", "x8")}
            found.append(how | finite)
    return found
