"""Write the HTML page of a test: every image with its error, worst first, in one file that works offline."""

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

import numpy as np
from PIL import Image

from data.images import from_float
from utils.system.atomic import write_text
from utils.vis.thumbnails import Size, fit_within, resize, thumbnail

TEMPLATE = Path(__file__).with_name("report.html")
THUMB_SIDE = 160  # pixels, longer side of the pictures in the table
PREVIEW_SIDE = 640  # pixels, longer side of the pictures in the slider
PREVIEW_BUDGET = 24 * 2**20  # bytes of all previews together; they add 4/3 of that to the page
ERROR_SCALE = 0.1  # of full scale: errors from here on are white
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
    "seconds": "time (s)",
}


@dataclass
class Pictures:
    """The pictures of one image by role, as JPEG."""

    size: Size
    thumbs: dict[str, bytes]
    large_size: Size
    large: dict[str, bytes] | None  # None: the slider shows the thumbnails


class Report:
    """Collect small pictures of each image, so that memory stays bounded, and write the page."""

    def __init__(self) -> None:
        self.pictures: dict[str, Pictures] = {}
        self.preview_bytes = 0
        self.full = False
        self.without_preview = 0

    def add(self, name: str, input: np.ndarray, output: np.ndarray, target: np.ndarray | None) -> None:
        """Keep small JPEG pictures of one image, and no reference to the arrays.

        Args:
            name: key of the image, as in the rows of `write`.
            input: `(H, W, C)` of any depth, C 1 or 3; shown at the output's size.
            output: likewise.
            target: likewise, of the output's size; or None.
        """
        height, width = output.shape[:2]
        size, large_size = fit_within(width, height, THUMB_SIDE), fit_within(width, height, PREVIEW_SIDE)
        images = {"input": input, "output": output} | ({} if target is None else {"target": target})
        large = {role: thumbnail(image, large_size) for role, image in images.items()}
        thumbs = {role: jpeg(resize(image, size)) for role, image in large.items()}
        if target is not None:
            error = np.abs(large["output"] - large["target"]).mean(axis=2, keepdims=True)
            thumbs["error"] = jpeg(heat(resize(error, size)))
        previews = None if size == large_size else self._within_budget(large)
        self.pictures[name] = Pictures(size, thumbs, large_size, previews)

    def _within_budget(self, large: dict[str, np.ndarray]) -> dict[str, bytes] | None:
        """Encode the previews; None once the budget is spent."""
        if not self.full:
            files = {role: jpeg(image) for role, image in large.items()}
            count = sum(map(len, files.values()))
            self.full = self.preview_bytes + count > PREVIEW_BUDGET
            if not self.full:
                self.preview_bytes += count
                return files
        self.without_preview += 1
        return None

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
            "facts": [[label, in_utf8(text)] for label, text in facts],
            "notes": self._notes(),
            "scale": ERROR_SCALE,
            "columns": [
                {"key": key, "label": LABELS.get(key, key), "digits": digits_of(key, rows)} for key in keys
            ],
            "sort": "psnr" if "psnr" in keys else None,
            "rows": [self._row(row, keys) for row in rows],
        }
        text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
            title=html.escape(title).encode("ascii", "xmlcharrefreplace").decode("ascii"),
            data=script_json(data),
        )
        write_text(text, path)

    def _notes(self) -> list[str]:
        if not self.without_preview:
            return []
        return [
            f"{self.without_preview} of {len(self.pictures)} images have no large preview "
            f"(limit {PREVIEW_BUDGET / 2**20:g} MB per page); their slider shows the thumbnails."
        ]

    def _row(self, row: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "name": in_utf8(str(row["name"])),
            "values": [strict_number(row.get(key)) for key in keys],
        }
        if pictures := self.pictures.get(str(row["name"])):
            found |= {"size": pictures.size, "thumbs": in_base64(pictures.thumbs)}
            if pictures.large:
                found |= {"largeSize": pictures.large_size, "large": in_base64(pictures.large)}
            elif pictures.large_size != pictures.size:
                found["small"] = True
        return found


# ---------------------------------------------------------------------------------------------- the pictures


def heat(error: np.ndarray) -> np.ndarray:
    """Color errors `(H, W, 1)` as `(H, W, 3)`: black at 0, red, yellow, white from ERROR_SCALE on.

    >>> heat(np.float32([[[0], [ERROR_SCALE / 3], [ERROR_SCALE]]])).round(3).tolist()
    [[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]
    """
    ramp = error / ERROR_SCALE * 3 - np.arange(3, dtype=np.float32)
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
