"""Images as pictures to look at: beside each other, in grids."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.images import to_float

Array = np.ndarray
LARGEST = 1024  # pixels of a side that a picture keeps about; a grid shows far fewer


def side_by_side(*images: Array | None) -> Tensor:
    """`(3, h, n w)` in [0, 1]: images `(H, W, C)` of any depth next to each other, at the last one's size.

    A None is left out. Large images are thinned to about 1024 pixels a side.
    """
    present = [image for image in images if image is not None]
    step = max(1, min(present[-1].shape[:2]) // LARGEST)
    height, width = (-(-side // step) for side in present[-1].shape[:2])
    return torch.cat([_picture(image, height, width, step) for image in present], dim=2)


def _picture(image: Array, height: int, width: int, step: int) -> Tensor:
    thinned = to_float(image[::step, ::step])
    picture = torch.from_numpy(np.ascontiguousarray(thinned)).permute(2, 0, 1).clamp(0, 1).expand(3, -1, -1)
    if picture.shape[1:] == (height, width):
        return picture
    return F.interpolate(picture[None], (height, width), mode="nearest")[0]


def comparison_grid(rows: Sequence[Tensor], width: int = 720) -> Tensor:
    """`(3, H, W)` in [0, 1]: one row a pair (see `side_by_side`), each brought to `width` pixels."""
    scaled = []
    for row in rows:
        height = max(1, round(row.shape[1] * width / row.shape[2]))
        scaled.append(F.interpolate(row[None].float(), (height, width), mode="bilinear", antialias=True)[0])
    rows = [F.pad(row, (4, 4, 0, 4), value=1.0) for row in scaled]  # torchvision's make_grid wants one height
    return F.pad(torch.cat(rows, dim=1), (0, 0, 4, 0), value=1.0).clamp(0, 1)


def evenly_spaced(count: int, keep: int) -> set[int]:
    """At most `keep` positions of `count`, evenly spread, first and last included.

    >>> sorted(evenly_spaced(10, 4)), evenly_spaced(1, 4)
    ([0, 3, 6, 9], {0})
    """
    return {round(i * (count - 1) / (keep - 1)) for i in range(keep)}
