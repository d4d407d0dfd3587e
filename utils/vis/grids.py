"""Lay images out for display: side by side, in grids."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from utils.vis.thumbnails import thumbnail

Array = np.ndarray
MAX_GRID_SIDE = 1024  # pixels, about: a larger image is shrunk by a whole factor; a grid shows far fewer
MARGIN, CAPTION = 4, 26  # pixels: between images; the height of the words over them
ROLES = ("input", "output", "target")  # of the columns


def side_by_side(*images: Array | None) -> Tensor:
    """Place images `(H, W, C)` of any depth next to each other: `(3, h, n w)` in [0, 1].

    They get the size of the last one, large ones are shrunk to about 1024 pixels a side; None is left out.
    """
    present = [image for image in images if image is not None]
    height, width = present[-1].shape[:2]
    factor = max(1, min(height, width) // MAX_GRID_SIDE)
    size = -(-width // factor), -(-height // factor)
    planes = [torch.from_numpy(thumbnail(image, size)).permute(2, 0, 1) for image in present]
    return torch.cat([plane.expand(3, -1, -1) for plane in planes], dim=2)


def comparison_grid(rows: Sequence[Tensor], width: int = 720, captions: Sequence[str] = ()) -> Tensor:
    """Stack rows (see `side_by_side`), each resized to `width` pixels: `(3, H, width + 8)` in [0, 1].

    Args:
        captions: a word over each column of images.
    """
    scaled = []
    for row in rows:
        height = max(1, round(row.shape[1] * width / row.shape[2]))
        scaled.append(F.interpolate(row[None].float(), (height, width), mode="bilinear", antialias=True)[0])
    # torchvision's make_grid requires one height
    padded = [F.pad(row, (MARGIN, MARGIN, 0, MARGIN), value=1.0) for row in scaled]
    grid = F.pad(torch.cat(padded, dim=1), (0, 0, MARGIN, 0), value=1.0).clamp(0, 1)
    return torch.cat([heading(captions, grid.shape[2]), grid], dim=1) if captions else grid


def save_grid(grid: Tensor, path: Path) -> None:
    """Write a grid `(3, H, W)` in [0, 1] as PNG, compressed 4 times as fast as usual to 20 % more bytes."""
    levels = grid.mul(255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()  # on a full disk Pillow would leave a truncated file, and not say so
    Image.fromarray(levels).save(file, "PNG", compress_level=1)
    path.write_bytes(file.getvalue())


def heading(words: Sequence[str], width: int) -> Tensor:
    """Write words over columns of equal width, dark on white: `(3, CAPTION, width)` in [0, 1]."""
    strip = Image.new("L", (width, CAPTION), 255)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(CAPTION - 8)
    for i, word in enumerate(words):
        draw.text(((i + 0.5) * width / len(words), CAPTION / 2), word, 40, font, anchor="mm")
    return torch.from_numpy(np.asarray(strip, np.float32) / 255).expand(3, -1, -1)


def evenly_spaced(count: int, keep: int) -> set[int]:
    """Return at most `keep` positions of `count`, evenly spaced, first and last included.

    >>> sorted(evenly_spaced(10, 4)), evenly_spaced(1, 4)
    ([0, 3, 6, 9], {0})
    """
    return {round(i * (count - 1) / (keep - 1)) for i in range(keep)}
