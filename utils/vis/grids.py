"""Lay images out for display: side by side, in grids."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from utils.vis.thumbnails import thumbnail

Array = np.ndarray
MAX_GRID_SIDE = 1024  # pixels, about: a larger image is shrunk by a whole factor; a grid shows far fewer
MARGIN = 4  # pixels


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


def comparison_grid(rows: Sequence[Tensor], width: int = 720) -> Tensor:
    """Stack rows (see `side_by_side`), each resized to `width` pixels: `(3, H, width + 8)` in [0, 1]."""
    scaled = []
    for row in rows:
        height = max(1, round(row.shape[1] * width / row.shape[2]))
        scaled.append(F.interpolate(row[None].float(), (height, width), mode="bilinear", antialias=True)[0])
    # torchvision's make_grid requires one height
    padded = [F.pad(row, (MARGIN, MARGIN, 0, MARGIN), value=1.0) for row in scaled]
    return F.pad(torch.cat(padded, dim=1), (0, 0, MARGIN, 0), value=1.0).clamp(0, 1)


def evenly_spaced(count: int, keep: int) -> set[int]:
    """Return at most `keep` positions of `count`, evenly spaced, first and last included.

    >>> sorted(evenly_spaced(10, 4)), evenly_spaced(1, 4)
    ([0, 3, 6, 9], {0})
    """
    return {round(i * (count - 1) / (keep - 1)) for i in range(keep)}
