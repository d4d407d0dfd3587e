"""Format the metrics of a test as text: for the terminal, and for the head of its page."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from data.folders import first_five
from data.images import header
from data.pairs import PairList, counted
from utils.eval.metrics import Protocol
from utils.eval.results import Results
from utils.system.errors import UserError, printable

NAMES = {
    **{"psnr": "PSNR", "ssim": "SSIM", "mae": "MAE", "lpips": "LPIPS"},
    **{"sharpness": "sharpness", "lite0": "Lite0 distance", "vgg": "VGG19 distance", "kid": "KID (Lite0)"},
}
UNITS = {"psnr": " dB"}
DIGITS = {"psnr": 2, "ssim": 4, "mae": 5, "lpips": 4, "sharpness": 3, "lite0": 4, "vgg": 4, "kid": 4}
PERCEPTUAL = ("lpips", "sharpness", "lite0", "vgg")  # not measured of small images


def headline(
    results: Results, protocol: Protocol, incomplete: str = "", caveats: Sequence[str] = ()
) -> list[str]:
    """Return the lines printed at the end: each metric beside the input's, the protocol, and remarks.

    Args:
        incomplete: such as "incomplete: 3 of 10 images"; stands before the first figure.
        caveats: what a reader of the figures has to know; stands after the figures.
    """
    lines = [line for metric in NAMES if (line := metric_line(results, metric))] or ["nothing measured"]
    lines[0] += f"; {counted(len(results.rows), 'image')}; {protocol.describe()}"
    lines[0] = f"{incomplete}: {lines[0]}" if incomplete else lines[0]
    return [printable(line) for line in [*lines, *caveats, *worse_than_input(results), *remarks(results)]]


def worse_than_input(results: Results) -> list[str]:
    """Say that the outputs are worse than the inputs, by PSNR; empty if they are not."""
    gain = results.mean("gain")
    if not gain <= -0.005:  # NaN as well
        return []
    return [
        f"worse than the input by {-gain:.2f} dB: the outputs are further from the targets than the inputs"
    ]


def in_groups(notes: Sequence[str], tiled: Mapping[int, Sequence[str]]) -> list[str]:
    """Return the notes of a test with one line, and the names of its images, in place of one for each size.

    Args:
        tiled: names of the images by the side of their tiles.

    >>> in_groups(["9 x 9 pixels: using tiles of 4", "8 x 9 pixels: using tiles of 4"], {4: ["a", "b"]})
    ['tiles of 4 pixels: 2 images (a, b)']
    """
    others = [note for note in notes if ": using tiles of " not in note]
    counts = {tile: f"{len(names)} image{'s' * (len(names) > 1)}" for tile, names in tiled.items()}
    lines = [f"tiles of {tile} pixels: {counts[tile]} ({first_five(names)})" for tile, names in tiled.items()]
    return [*lines, *others]


def caveats(size: int | None, seen: str, to_gray: bool) -> list[str]:
    """Return what has to be said beside the figures of a test.

    Args:
        size: of --size in training.
        seen: "trained on" or "validated on" where the images are those of training or validation.
        to_gray: the network is gray, and colour images were made gray for it.
    """
    lines = []
    if seen:
        fix = "test others by --dataroot, or train with --test_share"
        lines.append(f"these images are what the network was {seen}: no figure for unseen images ({fix})")
    if size:
        lines.append(
            f"trained on images resized to --size {size}, measured at native size: not the task of training, "
            "and not comparable with its validation PSNR"
        )
    if to_gray:
        lines.append(
            "gray network on colour images: measured after conversion to gray, not comparable with colour"
        )
    return lines


def is_gray_on_colour(pairs: PairList, input_nc: int, output_nc: int) -> bool:
    """Whether a gray network is to measure colour images, by their headers."""
    if output_nc != 1:
        return False
    for file in filter(None, (pair.target or pair.input for pair in pairs.pairs)):
        with suppress(UserError):  # it is reported when it is read
            if header(file, pairs.max_pixels).channels == 3:
                return True
    return pairs.layout == "demo"


def metric_line(results: Results, metric: str) -> str:
    """Format the mean of a metric, such as `PSNR 21.56 dB (input 12.45, +9.11)`; "" without values."""
    digits, unit = DIGITS[metric], UNITS.get(metric, "")
    if metric in results.sets:
        value, baseline = results.sets[metric], results.sets[f"{metric}_input"]
        if math.isnan(value):
            return f"{NAMES[metric]} not measured: it takes at least two images"
        change = value - baseline
        return f"{NAMES[metric]} {value:.{digits}f} (input {baseline:.{digits}f}, {change:+.{digits}f})"
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
        loss = ": a loss, leave --x8 out" if change <= -0.005 else ""
        lines.append(
            f"x8 changes PSNR by {round(change, 2) + 0.0:+.2f} dB (single prediction {single:.2f} dB){loss}"
        )
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
    if metric in PERCEPTUAL or not math.isnan(row.get("psnr", 0.0)):
        return "too small, or a flat target" if metric == "sharpness" else "too small"
    if "psnr_input" not in row:
        return "NaN in the output, or no pixels left after --crop_border"
    return "no pixels left after --crop_border" if math.isnan(row["psnr_input"]) else "NaN in the output"


def facts_in_words(facts: Mapping[str, Any], results: Results) -> list[tuple[str, str]]:
    """Return (label, text) pairs for the page."""
    lines = [(NAMES[metric], line) for metric in NAMES if (line := metric_line(results, metric))]
    degraded = f", degraded by {facts['degrade']} (seed {facts['seed']})" if facts["degrade"] else ""
    scale = f", x{facts['scale']}" if facts["scale"] > 1 else ""
    seconds = sum(results.values("seconds"))
    incomplete = results.incomplete(facts.get("complete", True))
    return [
        *[("incomplete", incomplete.removeprefix("incomplete: "))] * bool(incomplete),
        *[(name, line.removeprefix(f"{name} ")) for name, line in lines],
        *[("beware", text) for text in facts.get("caveats", [])],
        ("protocol", facts["protocol"] + (", self-ensemble x8" if facts["x8"] else "")),
        ("data", facts["data"] + degraded),
        ("network", f"{facts['model']}, {facts['weights']}{scale}"),
        ("computed", f"{facts['device']}, peak {facts['peak_mib']} MiB, {seconds:.1f} s"),
        *[("note", note) for note in [*worse_than_input(results), *remarks(results), *facts["notes"]]],
    ]
