"""Write the HTML page of a test: every image with its error, worst first, in one file that works offline."""

import heapq
import html
import io
import json
import math
import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from utils.system.atomic import write_text
from utils.system.pixels import from_float
from utils.vis.grids import evenly_spaced
from utils.vis.thumbnails import Size, fit_within, resize, thumbnail

TEMPLATE = Path(__file__).with_name("report.html")
THUMB_SIDE = 160  # pixels, longer side of the pictures in the table
PREVIEW_SIDE = 640  # pixels, longer side of the pictures in the slider
PREVIEW_SIDE_ALONE = 1280  # the same, where no target takes room
PAGE_LIMIT = 20 * 2**20  # bytes; of these 4/3 of the two budgets are pictures, the rest is text
THUMB_BUDGET, PREVIEW_BUDGET = 5 * 2**20, 8 * 2**20  # bytes of all thumbnails, and of all previews
SAMPLE = 24  # images, evenly spaced, that keep their pictures however good they are
ERROR_SCALES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of full scale: errors from here on are white
FEW, MOST = 0.02, 0.9  # the scale is such that in most images only a few pixels are white
JPEG_QUALITY = 85

LABELS = {
    "psnr_input": "input PSNR (dB)",
    "psnr": "PSNR (dB)",
    "psnr_single": "PSNR without x8 (dB)",
    "gain": "gain (dB)",
    "ssim_input": "input SSIM",
    "ssim": "SSIM",
    "mae": "MAE",
    "mae_input": "input MAE",
    "lpips": "LPIPS",
    "lpips_input": "input LPIPS",
    "sharpness": "sharpness",
    "sharpness_input": "input sharpness",
    "lite0": "Lite0 distance",
    "lite0_input": "input Lite0",
    "vgg": "VGG19 distance",
    "vgg_input": "input VGG19",
    "seconds": "time (s)",
}


@dataclass
class Pictures:
    """The sizes of the pictures of one image (thumbnail, preview, whole), and where its output lies.

    Args:
        error: that only a few pixels exceed, a share of full scale; None without a target.
    """

    size: Size
    large_size: Size
    full_size: Size
    link: str
    error: float | None


class Shelf:
    """JPEG files of images by role, within a budget of bytes.

    Beyond the budget, the images of the highest score go first, the latest of equal ones; those of the
    sample stay.
    """

    def __init__(self, budget: int):
        self.budget, self.bytes = budget, 0
        self.files: dict[str, dict[str, bytes]] = {}
        self.ranked: list[tuple[float, int, str]] = []  # a heap: the best and latest first

    def put(self, name: str, files: dict[str, bytes], score: float, order: int, sampled: bool) -> None:
        """Add the files of one image; drop others, or these, while there are too many bytes."""
        self.files[name] = files
        self.bytes += sum(map(len, files.values()))
        if not sampled:
            heapq.heappush(self.ranked, (-score, -order, name))
        while self.bytes > self.budget and self.ranked:
            dropped = self.files.pop(heapq.heappop(self.ranked)[2])
            self.bytes -= sum(map(len, dropped.values()))


class Report:
    """Collect small pictures of each image, so that memory stays bounded, and write the page.

    Args:
        images: how many there will be; an even sample of them keeps its pictures.
    """

    def __init__(self, images: int = 0) -> None:
        self.sample = evenly_spaced(images, SAMPLE) if images > SAMPLE else set()
        self.pictures: dict[str, Pictures] = {}
        self.thumbs, self.large = Shelf(THUMB_BUDGET), Shelf(PREVIEW_BUDGET)

    def add(
        self,
        name: str,
        input: np.ndarray,
        output: np.ndarray,
        target: np.ndarray | None,
        score: float = math.inf,
        link: str = "",
    ) -> None:
        """Keep small JPEG pictures of one image, and no reference to the arrays.

        Args:
            name: key of the image, as in the rows of `write`.
            input: `(H, W, C)` of any depth, C 1 or 3; shown at the output's size.
            output: likewise.
            target: likewise, of the output's size; or None.
            score: of the output, such as its PSNR: where pictures have to go, the worst stay.
            link: path of the output's file, relative to the page.
        """
        height, width = output.shape[:2]
        side = PREVIEW_SIDE_ALONE if target is None else PREVIEW_SIDE
        size, large_size = fit_within(width, height, THUMB_SIDE), fit_within(width, height, side)
        high = None
        images = {"input": input, "output": output} | ({} if target is None else {"target": target})
        large = {role: thumbnail(image, large_size) for role, image in images.items()}
        thumbs = {role: jpeg(resize(image, size)) for role, image in large.items()}
        if target is not None:
            error = np.abs(large["output"] - large["target"]).mean(axis=2, keepdims=True)
            small = resize(error, size)
            thumbs["error"] = jpeg(np.sqrt(small))  # colored once the scale is known
            high = float(np.quantile(small, 1 - FEW))
        order = len(self.pictures)
        rank = (math.inf if math.isnan(score) else score), order, order in self.sample
        self.pictures[name] = Pictures(size, large_size, (width, height), link, high)
        self.thumbs.put(name, thumbs, *rank)
        if size != large_size:
            self.large.put(name, {role: jpeg(image) for role, image in large.items()}, *rank)

    def write(
        self,
        path: Path,
        title: str,
        facts: Sequence[tuple[str, str]],
        rows: Sequence[Mapping[str, Any]],
    ) -> None:
        """Write the page atomically.

        Args:
            path: of the HTML file.
            title: heading and title of the page.
            facts: (label, text) pairs of the summary above the table.
            rows: one mapping per image, "name" and numbers; None, NaN and a missing key are an empty cell,
                a column without any value is left out. An image without a row gets one with its name only.
        """
        known = {str(row["name"]) for row in rows}
        rows = [*rows, *({"name": name} for name in self.pictures if name not in known)]
        keys = columns_of(rows)
        data = {
            "notes": self._notes(),
            "scale": self.error_scale(),
            "columns": [
                {"key": key, "label": LABELS.get(key, key), "digits": digits_of(key, rows)} for key in keys
            ],
            "sort": "psnr" if "psnr" in keys else None,
            "rows": [self._row(row, keys) for row in rows],
        }
        text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
            title=in_html(title),
            facts="".join(f"<dt>{in_html(label)}</dt><dd>{in_html(text)}</dd>" for label, text in facts),
            data=script_json(data),
        )
        write_text(text, path)

    def error_scale(self) -> float:
        """The error that is white: the same in all images, chosen by their errors."""
        errors = [pictures.error for pictures in self.pictures.values() if pictures.error is not None]
        high = float(np.quantile(errors, MOST)) if errors else 0.0
        return next(scale for scale in ERROR_SCALES if scale >= min(high, 1.0) - 1e-4)

    def _thumbs(self, name: str) -> dict[str, bytes]:
        """The thumbnails of an image, the errors in color."""
        files = dict(self.thumbs.files[name])
        if "error" in files:
            with Image.open(io.BytesIO(files["error"])) as file:
                error = (np.asarray(file, np.float32)[..., None] / 255) ** 2
            files["error"] = jpeg(heat(error, self.error_scale()))
        return files

    def _notes(self) -> list[str]:
        """What is left out to keep the page within its limit."""
        total, limit = len(self.pictures), f"limit {PAGE_LIMIT / 2**20:g} MB per page"
        bare = total - len(self.thumbs.files)
        without = sum(
            p.size != p.large_size and name not in self.large.files for name, p in self.pictures.items()
        )
        notes = []
        if bare:
            notes.append(
                f"{bare} of {total} images have no pictures here ({limit}): "
                "the worst and an even sample have; each name links to its output."
            )
        elif without:
            notes.append(
                f"{without} of {total} images have no large preview ({limit}); "
                "their slider shows the thumbnails."
            )
        return notes

    def _row(self, row: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
        name = str(row["name"])
        found: dict[str, Any] = {
            "name": in_utf8(name),
            "values": [strict_number(row.get(key)) for key in keys],
        }
        pictures = self.pictures.get(name)
        if pictures and pictures.link:
            found["link"] = "./" + quote(os.fsencode(pictures.link))  # never another scheme
        if pictures and name in self.thumbs.files:
            found |= {"size": pictures.size, "thumbs": in_base64(self._thumbs(name))}
            found["fullSize"] = pictures.full_size
            if name in self.large.files:
                found |= {"largeSize": pictures.large_size, "large": in_base64(self.large.files[name])}
            elif pictures.large_size != pictures.size:
                found["small"] = True
        return found


# ---------------------------------------------------------------------------------------------- the pictures


def heat(error: np.ndarray, scale: float) -> np.ndarray:
    """Color errors `(H, W, 1)` as `(H, W, 3)`: black at 0, red, yellow, white from `scale` on.

    >>> heat(np.float32([[[0], [0.1], [0.3]]]), 0.3).round(3).tolist()
    [[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]
    """
    ramp = error / scale * 3 - np.arange(3, dtype=np.float32)
    return ramp.clip(0, 1)


def jpeg(image: np.ndarray) -> bytes:
    """Encode `(H, W, C)` in [0, 1], C 1 or 3, as JPEG, without chroma subsampling: it would blur errors."""
    pixels = from_float(image, np.uint8)
    file = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return file.getvalue()


# --------------------------------------------------------------------------------------------------- the data


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys with a value in some row, but "name", in the order of first appearance."""
    seen = dict.fromkeys(key for row in rows for key in row if key != "name")
    return [key for key in seen if any(strict_number(row.get(key)) is not None for row in rows)]


def digits_of(key: str, rows: Sequence[Mapping[str, Any]]) -> int:
    """Return the decimals of a column: 2 for dB, 3 for seconds, else 4; 0 for unknown columns of integers."""
    if key.startswith(("psnr", "gain")):
        return 2
    if key == "seconds":
        return 3
    values = (strict_number(row.get(key)) for row in rows)
    whole = all(value.is_integer() for value in values if isinstance(value, float))
    return 0 if whole and key not in LABELS else 4


def strict_number(value: Any) -> float | str | None:
    """Convert a number to strict JSON: infinity as text, NaN as None.

    >>> strict_number(float("inf")), strict_number(float("-inf")), strict_number(float("nan"))
    ('inf', '-inf', None)
    >>> strict_number(None), strict_number(3)
    (None, 3.0)
    """
    if value is None or math.isnan(value):
        return None
    return float(value) if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def in_html(text: str) -> str:
    """Escape text for HTML, in ASCII.

    >>> in_html("a < b, 5\u00b0")
    'a &lt; b, 5&#176;'
    """
    return html.escape(in_utf8(text)).encode("ascii", "xmlcharrefreplace").decode("ascii")


def in_utf8(text: str) -> str:
    """Decode a file name as UTF-8, whatever the locale."""
    return os.fsencode(text).decode("utf-8", "surrogateescape")


def script_json(data: Any) -> str:
    r"""Format strict JSON in ASCII that no HTML parser mistakes for markup.

    >>> script_json("</script>&\u2028")
    '"\\u003c/script\\u003e\\u0026\\u2028"'
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def in_base64(files: Mapping[str, bytes]) -> dict[str, str]:
    return {role: b64encode(file).decode("ascii") for role, file in files.items()}
