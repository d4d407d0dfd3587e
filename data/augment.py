"""What training does to the two images of a pair at random: one draw, applied to both.

Images are numpy arrays `(H, W, C)`, so that a crop or a flip is a view and costs nothing until it is
converted, or tensors `(H, W, C)` on a device. The draws are the same.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Image = Any  # np.ndarray or torch.Tensor
Images = Sequence[Image]


def random_crop(images: Images, size: int, rng: np.random.Generator, scale: int = 1) -> list[Image]:
    """The same `size` x `size` window of every image; ValueError where one is smaller.

    `size` is measured on the last image, the target. It begins at a multiple of `scale`, and an image that is
    `scale` times smaller (the input of super-resolution) is cut accordingly.
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
    """Half of the time, the mirror image of every image."""
    return [_library(image).flip(image, (1,)) for image in images] if rng.integers(2) else list(images)


def flip_rot90(images: Images, rng: np.random.Generator) -> list[Image]:
    """The same one of the eight flips and quarter turns of every image."""
    turns = int(rng.integers(4))
    return [_library(image).rot90(image, turns) if turns else image for image in flip(images, rng)]


def _library(image: Image) -> Any:
    """numpy or torch, whose functions of these names do the same."""
    if isinstance(image, np.ndarray):
        return np
    import torch  # not at the top: the names in here are choices of a flag, and --help is quick

    return torch


AUGMENTATIONS: dict[str, Callable[[Images, np.random.Generator], list[Image]]] = {
    "none": keep,
    "flip": flip,
    "flip_rot90": flip_rot90,
}
