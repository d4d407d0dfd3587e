"""Tensors as pictures: out of the network's range, into files and grids."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from utils.tvcompat import make_grid, transforms


def to_pil(image: Tensor) -> Image.Image:
    """An 8-bit Pillow image of a `(C, H, W)` tensor in [0, 1]."""
    return transforms.functional.to_pil_image(image.clamp(0, 1).mul(255).round().byte().cpu())


def side_by_side(*images: Tensor) -> Tensor:
    """`(3, H, 3 W)`: images of one size, `(C, H, W)` in [0, 1] with 1 or 3 channels, next to each other."""
    return torch.cat([image.clamp(0, 1).expand(3, -1, -1) for image in images], dim=2)


def comparison_grid(rows: Sequence[Tensor], width: int = 720) -> Tensor:
    """`(3, H, W)` in [0, 1]: one row a pair (see `side_by_side`), each brought to `width` pixels."""
    scaled = []
    for row in rows:
        height = max(1, round(row.shape[1] * width / row.shape[2]))
        scaled.append(F.interpolate(row[None].float(), (height, width), mode="bilinear", antialias=True)[0])
    tallest = max(row.shape[1] for row in scaled)
    padded = [F.pad(row, (0, 0, 0, tallest - row.shape[1]), value=1.0) for row in scaled]
    return make_grid(torch.stack(padded), nrow=1, padding=4, pad_value=1.0).clamp(0, 1)


def spread(count: int, keep: int) -> set[int]:
    """At most `keep` positions of `count`, evenly spread, first and last included.

    >>> sorted(spread(10, 4)), spread(1, 4)
    ([0, 3, 6, 9], {0})
    """
    return {round(i * (count - 1) / (keep - 1)) for i in range(keep)}
