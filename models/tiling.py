"""Process full-size images in bounded memory: overlapping tiles, blended, returned in bands of rows."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from utils.system.errors import UserError

Array = np.ndarray
MAX_RAMP = 16  # pixels over which one tile fades into the next, in the middle of their overlap
AUTO_TILE, MIN_TILE, MAX_RETRY_TILE = 512, 64, 1024  # pixels a side
# The peak memory of a forward pass is estimated as 4 times the input and output of the largest layer, plus 6
# float32 copies of the image. Measured on one CPU (float32, 1 to 4 megapixels), the peak was 1.5 (dncnn), 1.7
# (resnet), 2.4 (unet) and 2.9 (resunet) times the former; tests/test_tiling.py repeats the measurement.
PEAK_LAYERS, IMAGE_COPIES = 4, 6


class Tiling(NamedTuple):
    """How to cut an image into tiles.

    Args:
        size: side of a tile in pixels; None: the whole image where it fits into memory, else 512.
        overlap: pixels that neighbors share. Tiles reproduce the whole-image output where this is at least
            the network's receptive field + 16: only the middle 16 are blended, the rest is discarded. With
            a self-ensemble, the sides of the image must also be multiples of the network's `multiple`.
    """

    size: int | None = None
    overlap: int = 64


def bands(
    forward: Callable[[Array], Tensor],
    image: Array,
    tile: int | None,
    overlap: int,
    multiple: int,
    scale: int,
) -> Iterator[Tensor]:
    """Yield the output for an image from top to bottom, in bands of rows `(K, C, h, W * scale)`.

    Args:
        forward: maps an `(h, w, C)` part of the image to `(K, C, h * scale, w * scale)`, on the CPU.
        image: `(H, W, C)`.
        tile: largest side of a part in pixels, or None for the whole image at once.
        multiple: parts begin at multiples of this, so that strided networks see the grid of the whole image.
    """
    height, width = image.shape[:2]
    if tile is None or (height <= tile and width <= tile):
        yield forward(image)
        return
    tile = tile // multiple * multiple  # so that a part keeps the grid also when it is flipped
    tops, lefts = starts(height, tile, overlap, multiple), starts(width, tile, overlap, multiple)
    across = [torch.from_numpy(w) for w in blending(lefts, width, tile, overlap, scale)]
    down = [torch.from_numpy(w)[:, None] for w in blending(tops, height, tile, overlap, scale)]
    pending = rest = None  # rows being summed; those of them that the next tiles will add to
    done = 0
    for top, following, row_weight in zip(tops, [*tops[1:], height], down, strict=True):
        bottom = min(top + tile, height) * scale
        for left, column_weight in zip(lefts, across, strict=True):
            part = forward(image[top : top + tile, left : left + tile]) * (row_weight * column_weight)
            if pending is None:
                pending = part.new_zeros(*part.shape[:2], bottom - done, width * scale)
                if rest is not None:
                    pending[:, :, : rest.shape[2]] = rest
            x, y = left * scale, top * scale - done
            pending[:, :, y : y + part.shape[2], x : x + part.shape[3]] += part
        assert pending is not None
        ready = following * scale - done
        yield pending[:, :, :ready]
        rest, pending, done = pending[:, :, ready:].clone(), None, following * scale


def starts(length: int, tile: int, overlap: int, multiple: int) -> list[int]:
    """Return where tiles begin: multiples of `multiple`, at least `overlap` shared, the last at the end.

    >>> starts(100, 40, 8, 4), starts(30, 40, 8, 4)
    ([0, 32, 60], [0])

    Raises:
        UserError: tiles of this size would not advance.
    """
    step = (tile // multiple * multiple - overlap) // multiple * multiple
    if step < 1:
        raise UserError(
            f"--tile {tile} with --tile_overlap {overlap} does not advance",
            f"tiles begin at multiples of {multiple}, which the network requires",
            f"--tile {-(-overlap // multiple) * multiple + multiple} or more",
        )
    last = -(-max(0, length - tile) // multiple) * multiple
    return [*range(0, last, step), last]


def blending(begin: list[int], length: int, tile: int, overlap: int, scale: int) -> list[Array]:
    """Return the weights `(w * scale,)`, float32, of each tile along one side; they sum to 1 everywhere.

    Each tile fades into the next in the middle of their overlap and is 0 outside.
    """
    position = np.arange(length * scale) + 0.5
    ramp = max(min(MAX_RAMP, overlap) * scale, 1e-6)
    middles = [(a + tile + b) / 2 * scale for a, b in pairwise(begin)]
    rising = [np.clip((position - middle) / ramp + 0.5, 0, 1) for middle in middles]
    rising = [np.ones_like(position), *rising, np.zeros_like(position)]
    return [
        (enters - leaves)[a * scale : (a + tile) * scale].astype(np.float32)
        for a, enters, leaves in zip(begin, rising, rising[1:], strict=False)
    ]


# ------------------------------------------------------------------------------------------ choosing the tile


def first_tile(tiling: Tiling, needed: float, available: float, multiple: int) -> int | None:
    """Return the tile to try first: None (whole) where `needed` bytes are available, else 512.

    Larger than 512 where the requested overlap takes more than half of that.
    """
    if tiling.size is not None or needed <= available:
        return tiling.size
    return max(AUTO_TILE, 2 * tiling.overlap) // multiple * multiple or multiple


def smaller_tile(tile: int, overlap: int, multiple: int) -> int | None:
    """Return half of `tile`, at most 1024; None where `tile` already is the smallest useful size."""
    smallest = -(-max(MIN_TILE, overlap + multiple) // multiple) * multiple
    return None if tile <= smallest else max(smallest, min(tile // 2, MAX_RETRY_TILE) // multiple * multiple)


def bytes_per_pixel(net: nn.Module, example: Tensor) -> float:
    """Estimate the peak bytes of a forward pass per input pixel, from one pass over a small example.

    Args:
        example: `(1, C, H, W)`, on the network's device.
    """
    largest = 0

    def measure(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal largest
        if not any(layer.children()):
            tensors = [value for value in (*inputs, output) if isinstance(value, Tensor)]
            largest = max(largest, sum(tensor.nbytes for tensor in tensors))

    hook = register_module_forward_hook(measure)
    try:
        with torch.inference_mode():
            output = net(example)
    finally:
        hook.remove()
    images = IMAGE_COPIES * 4 * max(example.numel(), output.numel())
    return (PEAK_LAYERS * largest + images) / (example.shape[2] * example.shape[3])
