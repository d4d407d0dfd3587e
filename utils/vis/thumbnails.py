"""Shrink images for display, with little memory: the pictures of grids and of the HTML report."""

import numpy as np
from PIL import Image

from utils.system.pixels import to_float

Array = np.ndarray
Size = tuple[int, int]  # (width, height)


def thumbnail(image: Array, size: Size) -> Array:
    """Resize `(H, W, C)` of any depth to `size`, as float32 in [0, 1]; NaN is black.

    Shrinks by averaging, a band of rows at a time, so that a huge image is never copied whole; values are
    clamped before. Enlarges by repeating pixels.
    """
    return resize(block_mean(image, max(1, max(image.shape[:2]) // max(size))), size)


def fit_within(width: int, height: int, side: int) -> Size:
    """Scale a size down so that its longer side is at most `side`; at least 1 x 1.

    >>> fit_within(1280, 960, 640), fit_within(3000, 1, 160), fit_within(5, 7, 160)
    ((640, 480), (160, 1), (5, 7))
    """
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def block_mean(image: Array, block: int) -> Array:
    """Average square blocks of `(H, W, C)`, any depth: `(ceil(H / block), ceil(W / block), C)` in [0, 1]."""
    height, width, channels = image.shape
    starts = np.arange(0, width, block)
    counts = np.diff(starts, append=width)[:, None]
    small = np.empty((-(-height // block), len(starts), channels), np.float32)
    for i, top in enumerate(range(0, height, block)):
        band = np.nan_to_num(to_float(image[top : top + block]).clip(0, 1))
        small[i] = np.add.reduceat(band.sum(axis=0), starts, axis=0) / (counts * len(band))
    return small


def resize(image: Array, size: Size) -> Array:
    """Resize `(H, W, C)` float32: enlarge by repeating pixels, shrink by averaging."""
    height, width, channels = image.shape
    if (width, height) == size:
        return image
    larger = width <= size[0] and height <= size[1]
    how = Image.Resampling.NEAREST if larger else Image.Resampling.HAMMING
    planes = (Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(channels))
    return np.stack([np.asarray(plane.resize(size, how)) for plane in planes], axis=2)
