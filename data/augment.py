"""Paired augmentation: one random draw, applied to both images.

Images are `(H, W, C)`: numpy arrays, of which crops and flips are views, or tensors on a device. The draws
are the same for both.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Image = Any  # np.ndarray or torch.Tensor
Images = Sequence[Image]


def random_crop(images: Images, size: int, rng: np.random.Generator, scale: int = 1) -> list[Image]:
    """Crop the same random window from every image.

    Args:
        size: side of the window in pixels of the last image, the target.
        scale: target size / input size; the window starts at a multiple of it.

    Raises:
        ValueError: the target is smaller than the window.
    """
    height, width = images[-1].shape[:2]
    if height < size or width < size:
        raise ValueError(f"{width} x {height} pixels are less than --crop_size {size}")
    top, left = (int(rng.integers((side - size) // scale + 1)) for side in (height, width))
    crops = []
    for image in images:
        unit = scale * image.shape[0] // height  # pixels of this image for `scale` of the target's
        y, x, side = top * unit, left * unit, size // scale * unit
        crops.append(image[y : y + side, x : x + side])
    return crops


def keep(images: Images, rng: np.random.Generator) -> list[Image]:
    return list(images)


def flip(images: Images, rng: np.random.Generator) -> list[Image]:
    """Mirror every image left to right, with probability 0.5."""
    return [_library(image).flip(image, (1,)) for image in images] if rng.integers(2) else list(images)


def flip_rot90(images: Images, rng: np.random.Generator) -> list[Image]:
    """Apply one of the eight combinations of mirroring and quarter turns to every image."""
    turns = int(rng.integers(4))
    return [_library(image).rot90(image, turns) if turns else image for image in flip(images, rng)]


def _library(image: Image) -> Any:
    """Return numpy or torch; their `flip` and `rot90` agree."""
    if isinstance(image, np.ndarray):
        return np
    import torch  # here, because the options import this module and --help must be fast

    return torch


AUGMENTATIONS: dict[str, Callable[[Images, np.random.Generator], list[Image]]] = {
    "none": keep,
    "flip": flip,
    "flip_rot90": flip_rot90,
}
