"""Whole images in bounded memory: overlapping tiles, blended, handed on in bands of rows."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray
RAMP = 16  # pixels over which one tile fades into the next, in the middle of what they share
AUTO_TILE, SMALLEST_TILE = 512, 64


class Tiling(NamedTuple):
    """How to cut an image.

    Args:
        size: side of a tile; None: the whole image where it fits into memory, else 512.
        overlap: pixels that neighbours share. Tiles give what the whole image gives where this is at least
            the network's receptive field + 16: only the middle 16 are blended, the rest is thrown away.
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
    """Yield what `forward` makes of an image, from top to bottom in bands of rows `(K, C, h, W * scale)`.

    Args:
        forward: `(h, w, C)` part of the image to `(K, C, h * scale, w * scale)`, on the CPU.
        image: `(H, W, C)`.
        tile: largest side of a part, or None for the whole image at once.
        multiple: parts begin at multiples of this, so that strided networks see the grid of the whole image.
    """
    height, width = image.shape[:2]
    if tile is None or (height <= tile and width <= tile):
        yield forward(image)
        return
    tops, lefts = starts(height, tile, overlap, multiple), starts(width, tile, overlap, multiple)
    across = [torch.from_numpy(w) for w in blending(lefts, width, tile, overlap, scale)]
    down = [torch.from_numpy(w)[:, None] for w in blending(tops, height, tile, overlap, scale)]
    pending = None  # rows that the next tiles will add to
    done = 0
    for top, following, weight in zip(tops, [*tops[1:], height], down, strict=True):
        bottom = min(top + tile, height) * scale
        for left, share in zip(lefts, across, strict=True):
            part = forward(image[top : top + tile, left : left + tile]) * (weight * share)
            if pending is None:
                pending = part.new_zeros(*part.shape[:2], bottom, width * scale)
            elif pending.shape[2] < bottom - done:
                more = part.new_zeros(*part.shape[:2], bottom - done - pending.shape[2], width * scale)
                pending = torch.cat([pending, more], 2)
            x, y = left * scale, top * scale - done
            pending[:, :, y : y + part.shape[2], x : x + part.shape[3]] += part
        assert pending is not None
        ready = following * scale - done
        yield pending[:, :, :ready]
        pending, done = pending[:, :, ready:].clone(), following * scale


def starts(length: int, tile: int, overlap: int, multiple: int) -> list[int]:
    """Where tiles begin: at multiples of `multiple`, sharing at least `overlap`, the last reaching the end.

    >>> starts(100, 40, 8, 4), starts(30, 40, 8, 4)
    ([0, 32, 60], [0])

    Raises:
        ValueError: tiles that would not advance.
    """
    step = (tile - overlap) // multiple * multiple
    if step < 1 or tile < multiple:
        raise ValueError(f"a tile of {tile} with overlap {overlap} does not advance by {multiple} pixels")
    last = -(-max(0, length - tile) // multiple) * multiple
    return [*range(0, last, step), last]


def blending(begin: list[int], length: int, tile: int, overlap: int, scale: int) -> list[Array]:
    """Weights `(w * scale,)` float32 of each tile along one side; over all tiles they add up to 1 everywhere.

    Each fades into the next in the middle of what the two share, and is 0 outside.
    """
    position = np.arange(length * scale) + 0.5
    ramp = max(min(RAMP, overlap) * scale, 1e-6)
    middles = [(a + tile + b) / 2 * scale for a, b in pairwise(begin)]
    rising = [np.clip((position - middle) / ramp + 0.5, 0, 1) for middle in middles]
    rising = [np.ones_like(position), *rising, np.zeros_like(position)]
    return [
        (enters - leaves)[a * scale : (a + tile) * scale].astype(np.float32)
        for a, enters, leaves in zip(begin, rising, rising[1:], strict=False)
    ]


# ---------------------------------------------------------------------------------------- the largest tile


def fitting_tile(tiling: Tiling, needed: float, available: float, multiple: int) -> int | None:
    """The tile to begin with: the one asked for; or None (whole) where `needed` bytes are there, else 512."""
    if tiling.size is not None or needed <= available:
        return tiling.size
    return max(AUTO_TILE // multiple, 1) * multiple


def memory_per_pixel(net: torch.nn.Module, example: Tensor) -> float:
    """Bytes that a forward pass holds at most for each input pixel, from a pass over a small example.

    Six times the largest output of a layer: measured peaks of the networks here are 3 to 5 times.
    """
    largest = 0

    def measure(module: torch.nn.Module, given: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel() * output.element_size())

    hooks = [module.register_forward_hook(measure) for module in net.modules()]
    try:
        net(example)
    finally:
        for hook in hooks:
            hook.remove()
    return 6 * largest / (example.shape[2] * example.shape[3])
