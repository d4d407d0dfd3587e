"""Format the metrics of a test as text: for the terminal, and for the head of its page."""

import math
from collections.abc import Mapping
from typing import Any

from utils.eval.metrics import Protocol
from utils.eval.results import Results

NAMES = {"psnr": "PSNR", "ssim": "SSIM", "mae": "MAE", "lpips": "LPIPS"}
UNITS = {"psnr": " dB"}
DIGITS = {"psnr": 2, "ssim": 4, "mae": 5, "lpips": 4}


def headline(results: Results, protocol: Protocol) -> list[str]:
    """Return the lines printed at the end: each metric beside the input's, the protocol, and remarks."""
    lines = [line for metric in NAMES if (line := metric_line(results, metric))] or ["nothing measured"]
    lines[0] += f"; {len(results.rows)} images; {protocol.describe()}"
    return lines + remarks(results)


def metric_line(results: Results, metric: str) -> str:
    """Format the mean of a metric, such as `PSNR 21.56 dB (input 12.45, +9.11)`; "" without values."""
    digits, unit = DIGITS[metric], UNITS.get(metric, "")
    stats = results.stats(metric)
    if stats["mean"] is None:
        if not stats["identical"]:
            return ""
        outputs = "every output that can be measured" if stats["empty"] else "every output"
        return f"{NAMES[metric]} inf{unit}: {outputs} equals its target"
    line = f"{NAMES[metric]} {stats['mean']:.{digits}f}{unit}"
    baseline = results.mean(f"{metric}_input")
    if math.isnan(baseline):
        return line
    # the gain is over the images that have both: an identical one is left out of one of the two means only
    change = results.mean("gain") if metric == "psnr" else stats["mean"] - baseline
    return f"{line} (input {baseline:.{digits}f}, {change:+.{digits}f})"


def remarks(results: Results) -> list[str]:
    """Return the spread of PSNR, what the means leave out, and the effect of the self-ensemble."""
    stats = results.stats("psnr")
    lines = []
    if len(results.rows) > 1 and stats["mean"] is not None:
        spread = f"median {stats['median']:.2f}, std {stats['std']:.2f}"
        lines.append(f"PSNR {spread}, worst {stats['worst']:.2f} dB ({stats['worst_name']})")
    for column in results.columns():
        metric, _, suffix = column.partition("_")
        if metric not in NAMES:
            continue
        if identical := results.stats(column)["identical"]:
            label = f"{suffix} {NAMES[metric]}".strip()
            lines.append(f"{label}: {identical} identical images (inf) are left out of the mean")
        if not suffix:
            lines += [f"{NAMES[metric]}: {why}" for why in unmeasured(results, metric)]
    single = results.mean("psnr_single")
    change = results.mean("psnr") - single
    if not math.isnan(change):
        lines.append(f"x8 changes PSNR by {change:+.2f} dB (single prediction {single:.2f} dB)")
    return lines


def unmeasured(results: Results, metric: str) -> list[str]:
    """Count the images with a target that have no value of `metric`: one text for each reason."""
    reasons: dict[str, list[str]] = {}
    for row in results.rows:
        if math.isnan(row.get(metric, 0.0)):
            reasons.setdefault(_reason(row, metric), []).append(row["name"])
    return [f"no value for {len(names)} images ({why}; first: {names[0]})" for why, names in reasons.items()]


def _reason(row: Mapping[str, Any], metric: str) -> str:
    """Tell why a value is NaN, from the PSNR of the input, which is measured over the same pixels."""
    if metric == "lpips" or not math.isnan(row.get("psnr", 0.0)):
        return "too small"
    if "psnr_input" not in row:
        return "NaN in the output, or no pixels left after --crop_border"
    return "no pixels left after --crop_border" if math.isnan(row["psnr_input"]) else "NaN in the output"


def facts_in_words(facts: Mapping[str, Any], results: Results) -> list[tuple[str, str]]:
    """Return (label, text) pairs for the page."""
    lines = [(NAMES[metric], line) for metric in NAMES if (line := metric_line(results, metric))]
    degraded = f", degraded by {facts['degrade']} (seed {facts['seed']})" if facts["degrade"] else ""
    scale = f", x{facts['scale']}" if facts["scale"] > 1 else ""
    seconds = sum(results.values("seconds"))
    return [
        *[(name, line.removeprefix(f"{name} ")) for name, line in lines],
        ("protocol", facts["protocol"] + (", self-ensemble x8" if facts["x8"] else "")),
        ("data", facts["data"] + degraded),
        ("network", f"{facts['model']}, {facts['weights']}{scale}"),
        ("computed", f"{facts['device']}, peak {facts['peak_mib']} MiB, {seconds:.1f} s"),
        *[("note", note) for note in [*remarks(results), *facts["notes"]]],
    ]
