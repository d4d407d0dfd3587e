"""The page a test leaves behind: every image with its error, worst first, in one file without a network."""

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

from utils.system.atomic import write_text

TEMPLATE = Path(__file__).with_name("report.html")
THUMB = 160  # pixels, longer side of the pictures in the table
PREVIEW = 640  # pixels, longer side of the pictures in the slider
PREVIEW_BUDGET = 24 * 2**20  # bytes of all previews together; the page grows by 4/3 of that
ERROR_SCALE = 0.1  # share of full scale that the error map draws white
QUALITY = 85

LABELS = {
    "psnr_input": "PSNR in (dB)",
    "psnr": "PSNR out (dB)",
    "psnr_single": "PSNR single (dB)",
    "gain": "gain (dB)",
    "ssim_input": "SSIM in",
    "ssim": "SSIM",
    "mae": "MAE",
    "mae_input": "MAE in",
    "lpips": "LPIPS",
    "lpips_input": "LPIPS in",
    "seconds": "time (s)",
}


@dataclass
class Pictures:
    """What the page shows of one image, as JPEG; sizes are (width, height)."""

    size: tuple[int, int]
    thumbs: dict[str, bytes]
    large_size: tuple[int, int]
    large: dict[str, bytes] | None  # None: the thumbnails have to do


class Report:
    """Collects small pictures while images are judged, so that memory stays bounded, and writes the page."""

    def __init__(self) -> None:
        self.pictures: dict[str, Pictures] = {}
        self.preview_bytes = 0
        self.full = False
        self.without_preview = 0

    def add(self, name: str, input: np.ndarray, output: np.ndarray, target: np.ndarray | None) -> None:
        """Keep small JPEG pictures of one image; nothing refers to the arrays afterwards.

        Args:
            name: key of the image, as in the rows of `write`.
            input: `(H, W, C)`, C 1 or 3; uint8, uint16 or floating with full scale 1 (clamped for display).
                It may be smaller than the output, and is then shown enlarged to the output's size.
            output: likewise.
            target: likewise, of the output's size; or None.
        """
        height, width = output.shape[:2]
        size, large_size = within(width, height, THUMB), within(width, height, PREVIEW)
        given = {"input": input, "output": output} | ({} if target is None else {"target": target})
        coarse = {role: shrink(image) for role, image in given.items()}
        thumbs = {role: jpeg(fit(image, size)) for role, image in coarse.items()}
        large = {role: fit(image, large_size) for role, image in coarse.items()}
        if target is not None:
            thumbs["error"] = jpeg(heat(fit(difference(large["output"], large["target"]), size)))
        self.pictures[name] = Pictures(size, thumbs, large_size, self._within_budget(large, size))

    def _within_budget(self, large: dict[str, np.ndarray], size: tuple[int, int]) -> dict[str, bytes] | None:
        """The previews as JPEG; None where they are no larger than the thumbnails, or once the budget is
        spent."""
        if next(iter(large.values())).shape[1::-1] == size:
            return None
        if not self.full:
            encoded = {role: jpeg(image) for role, image in large.items()}
            count = sum(map(len, encoded.values()))
            self.full = self.preview_bytes + count > PREVIEW_BUDGET
            if not self.full:
                self.preview_bytes += count
                return encoded
        self.without_preview += 1
        return None

    def write(
        self,
        path: Path,
        title: str,
        facts: Sequence[tuple[str, str]],
        rows: Sequence[Mapping[str, Any]],
    ) -> None:
        """Write the page.

        Args:
            path: where to, whole or not at all.
            title: heading and title of the page.
            facts: (label, text) pairs of the summary above the table.
            rows: a mapping an image, with "name" and numbers: None, NaN and a missing key are an empty cell,
                a column without any value is left out. An image without a row gets one of its name alone.
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
            f"(limit {PREVIEW_BUDGET / 2**20:g} MB a page); their slider shows the thumbnails."
        ]

    def _row(self, row: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
        pictures = self.pictures.get(str(row["name"]))
        found: dict[str, Any] = {
            "name": in_utf8(str(row["name"])),
            "values": [plain(row.get(key)) for key in keys],
        }
        if pictures:
            found |= {"size": pictures.size, "thumbs": encoded(pictures.thumbs)}
            if pictures.large:
                found |= {"largeSize": pictures.large_size, "large": encoded(pictures.large)}
            elif pictures.large_size != pictures.size:
                found["small"] = True
        return found


# ---------------------------------------------------------------------------------------------- the pictures


def within(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) with the longer side at most `side`, the shape kept; never larger, never empty.

    >>> within(1280, 960, 640), within(3000, 1, 160), within(5, 7, 160)
    ((640, 480), (160, 1), (5, 7))
    """
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def shrink(image: np.ndarray, side: int = PREVIEW) -> np.ndarray:
    """Mean over square blocks, as large as keep the longer side of the result at least `side`.

    Works a band of rows at a time, so that of a huge image no second copy is made.

    Args:
        image: `(H, W, C)`; integers have the full scale of their type, floating ones 1.

    Returns:
        `(h, w, C)` float32 in [0, 1]; each pixel is clamped before the mean, NaN is black.
    """
    height, width, channels = image.shape
    block = max(1, max(height, width) // side)
    starts = np.arange(0, width, block)
    counts = np.diff(starts, append=width)[:, None]
    small = np.empty((-(-height // block), len(starts), channels), np.float32)
    for i, band in enumerate(image[y : y + block] for y in range(0, height, block)):
        total = unit(band).sum(axis=0)
        small[i] = np.add.reduceat(total, starts, axis=0) / (counts * len(band))
    return small


def unit(band: np.ndarray) -> np.ndarray:
    """float32 in [0, 1] of integers or floating numbers."""
    if np.issubdtype(band.dtype, np.integer):
        return band.astype(np.float32) / np.float32(np.iinfo(band.dtype).max)
    return np.nan_to_num(band.astype(np.float32).clip(0, 1))


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`(H, W, C)` float32 brought to (width, height): enlarged by repeating pixels, shrunk by averaging."""
    height, width, channels = image.shape
    if (width, height) == size:
        return image
    larger = width <= size[0] and height <= size[1]
    how = Image.Resampling.NEAREST if larger else Image.Resampling.HAMMING
    planes = (Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(channels))
    return np.stack([np.asarray(plane.resize(size, how)) for plane in planes], axis=2)


def difference(output: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Absolute difference, mean over channels: `(H, W, 1)`; one channel is compared with all three."""
    return np.abs(output - target).mean(axis=2, keepdims=True)


def heat(error: np.ndarray) -> np.ndarray:
    """`(H, W, 1)` errors to `(H, W, 3)`: black at 0, red, yellow, white from ERROR_SCALE on.

    >>> heat(np.float32([[[0], [ERROR_SCALE / 3], [ERROR_SCALE]]])).round(3).tolist()
    [[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]
    """
    ramp = error / ERROR_SCALE * 3 - np.arange(3, dtype=np.float32)
    return ramp.clip(0, 1)


def jpeg(image: np.ndarray) -> bytes:
    """A JPEG file of `(H, W, C)` in [0, 1], C 1 or 3; colours at full resolution, or errors would smear."""
    pixels = (image.clip(0, 1) * 255).round().astype(np.uint8)
    file = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


# --------------------------------------------------------------------------------------------------- the data


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys of all rows but "name", in the order of first appearance; only those with a value somewhere."""
    seen = dict.fromkeys(key for row in rows for key in row if key != "name")
    return [key for key in seen if any(plain(row.get(key)) is not None for row in rows)]


def digits_of(key: str, rows: Sequence[Mapping[str, Any]]) -> int:
    """Decimals of a column: 2 for dB, 3 for seconds, 4 for all else unless it holds whole numbers only."""
    if key.startswith(("psnr", "gain")):
        return 2
    if key == "seconds":
        return 3
    values = (plain(row.get(key)) for row in rows)
    whole = all(value.is_integer() for value in values if isinstance(value, float))
    return 0 if whole and key not in LABELS else 4


def plain(value: Any) -> float | str | None:
    """A number as strict JSON can hold it: infinite as text, NaN as nothing.

    >>> plain(float("inf")), plain(float("-inf")), plain(float("nan")), plain(None), plain(3)
    ('inf', '-inf', None, None, 3.0)
    """
    if value is None or math.isnan(value):
        return None
    return float(value) if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def in_utf8(text: str) -> str:
    """Names of files as UTF-8 has them, also where the locale made them something else."""
    return os.fsencode(text).decode("utf-8", "surrogateescape")


def script_json(data: Any) -> str:
    r"""Strict JSON in ASCII that no HTML parser mistakes for markup.

    >>> script_json("</script>&\u2028")
    '"\\u003c/script\\u003e\\u0026\\u2028"'
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def encoded(files: Mapping[str, bytes]) -> dict[str, str]:
    return {role: b64encode(file).decode("ascii") for role, file in files.items()}
