"""The figures of a test in words: for the terminal, and for the head of its page."""

import math
from collections.abc import Mapping
from typing import Any

from utils.eval.metrics import Protocol
from utils.eval.results import Results

UNITS = {"psnr": " dB"}
NAMES = {"psnr": "PSNR", "ssim": "SSIM", "mae": "MAE", "lpips": "LPIPS"}
WHOSE = {"_input": " of doing nothing", "_single": " without --x8"}
DIGITS = {"psnr": 2, "ssim": 4, "mae": 5, "lpips": 4}


def headline(results: Results, protocol: Protocol) -> list[str]:
    """What the terminal says at the end: each metric beside doing nothing, and under which protocol."""
    lines = [line for metric in NAMES if (line := metric_line(results, metric))] or ["nothing measured"]
    lines[0] += f" ({len(results.rows)} images; {protocol.describe()})"
    return lines + remarks(results)


def metric_line(results: Results, metric: str) -> str:
    """One metric: its mean beside that of doing nothing; "" without values."""
    digits, unit = DIGITS[metric], UNITS.get(metric, "")
    found = results.stats(metric)
    if found["mean"] is None:
        if not found["identical"]:
            return ""
        every = "every output that can be measured" if found["empty"] else "every output"
        return f"{NAMES[metric]} inf{unit}: {every} equals its target"
    line = f"{NAMES[metric]} {found['mean']:.{digits}f}{unit}"
    nothing = results.mean(f"{metric}_input")
    if not math.isnan(nothing):
        word = "gain" if metric in ("psnr", "ssim") else "change"
        # of the images that have both: an identical one leaves only one of the two means
        gain = results.mean("gain") if metric == "psnr" else found["mean"] - nothing
        line += f", doing nothing {nothing:.{digits}f}, {word} {gain:+.{digits}f}"
    return line


def remarks(results: Results) -> list[str]:
    """What a mean leaves out, and what the ensemble gains."""
    found = results.stats("psnr")
    lines = []
    if len(results.rows) > 1 and found["mean"] is not None:
        spread = f"median {found['median']:.2f}, std {found['std']:.2f}"
        lines.append(f"PSNR {spread}, worst {found['worst']:.2f} dB ({found['worst_name']})")
    for column in results.columns():
        metric = column.partition("_")[0]
        if metric not in NAMES:
            continue
        whose = NAMES[metric] + WHOSE.get(column.removeprefix(metric), "")
        if identical := results.stats(column)["identical"]:
            lines.append(f"{whose}: {identical} identical images (inf) are left out of the mean")
        if column == metric:
            lines += [f"{whose}: {why}" for why in unmeasured(results, metric)]
    gain = results.mean("psnr") - results.mean("psnr_single")
    if not math.isnan(gain):
        lines.append(f"--x8 gains {gain:+.3f} dB over {results.mean('psnr_single'):.2f} dB")
    return lines


def unmeasured(results: Results, metric: str) -> list[str]:
    """How many images with a target have no value of `metric`, and why: one text for each reason."""
    reasons: dict[str, list[str]] = {}
    for row in results.rows:
        if math.isnan(row.get(metric, 0.0)):
            reasons.setdefault(_reason(row, metric), []).append(row["name"])
    return [f"{len(names)} images {why}, left empty ({names[0]})" for why, names in reasons.items()]


def _reason(row: Mapping[str, Any], metric: str) -> str:
    """Why a value is NaN: the input is measured over the same pixels, so that its PSNR tells."""
    if metric == "lpips" or not math.isnan(row.get("psnr", 0.0)):
        return "too small"
    if "psnr_input" not in row:
        return "whose output holds NaN, or of which the border leaves nothing"
    return "of which the border leaves nothing" if math.isnan(row["psnr_input"]) else "whose output holds NaN"


def facts_in_words(facts: Mapping[str, Any], results: Results) -> list[tuple[str, str]]:
    """(label, text) pairs for the page."""
    lines = [(NAMES[metric], line) for metric in NAMES if (line := metric_line(results, metric))]
    degraded = f", degraded by {facts['degrade']} (seed {facts['seed']})" if facts["degrade"] else ""
    found = [
        *[(name, line.removeprefix(f"{name} ")) for name, line in lines],
        ("protocol", facts["protocol"] + (", self-ensemble x8" if facts["x8"] else "")),
        ("data", facts["data"] + degraded),
        ("network", f"{facts['model']}, {facts['weights']}" + f", x{facts['scale']}" * (facts["scale"] > 1)),
        (
            "computed",
            f"{facts['device']}, peak {facts['peak_mib']} MiB, {sum(results.values('seconds')):.1f} s",
        ),
    ]
    return found + [("note", note) for note in [*remarks(results), *facts["notes"]]]
