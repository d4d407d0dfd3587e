"""Paired augmentation (`--augment`): one random draw, applied to both images.

Images are `(H, W, C)`: numpy arrays, of which crops and flips are views, or tensors on a device. The draws
are the same for both.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from utils.system.errors import did_you_mean

Image = Any  # np.ndarray or torch.Tensor
Images = Sequence[Image]
MOST_WINDOWS = 64
SAMPLES = 16  # pixels in a row and in a column that the texture of a window is estimated from


def random_crop(
    images: Images, size: int, rng: np.random.Generator, scale: int = 1, windows: int = 1
) -> list[Image]:
    """Crop the same random window from every image.

    Args:
        size: side of the window in pixels of the last image, the target.
        scale: target size / input size; the window starts at a multiple of it.
        windows: so many are drawn, and the one with the most texture in the target is kept.

    Raises:
        ValueError: the target is smaller than the window.
    """
    height, width = images[-1].shape[:2]
    if height < size or width < size:
        raise ValueError(f"{width} x {height} pixels are less than --crop_size {size}")
    places = [
        [int(rng.integers((side - size) // scale + 1)) for side in (height, width)] for _ in range(windows)
    ]
    if windows > 1:
        starts = [(scale * top, scale * left) for top, left in places]
        scores = textures([images[-1][y : y + size, x : x + size] for y, x in starts])
        places = [places[scores.index(max(scores))]]
    ((top, left),) = places
    crops = []
    for image in images:
        unit = scale * image.shape[0] // height  # pixels of this image for `scale` of the target's
        y, x, side = top * unit, left * unit, size // scale * unit
        crops.append(image[y : y + side, x : x + side])
    return crops


def textures(images: Images) -> list[float]:
    """Variance of an even sample of pixels, summed over channels: small in a blue sky, large in a meadow."""
    step = max(1, min(images[0].shape[:2]) // SAMPLES)
    samples = [image[::step, ::step].reshape(-1, image.shape[2]) for image in images]
    if isinstance(samples[0], np.ndarray):
        return [float(sample.var(0, dtype=np.float64).sum()) for sample in samples]
    import torch

    return torch.stack(samples).float().var(1, correction=0).sum(1).tolist()  # one wait for the device


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


class Augmentation(NamedTuple):
    """How training images vary.

    Args:
        turn: flips and quarter turns, of `AUGMENTATIONS`.
        windows: that are drawn for a crop, of which the one with the most texture is kept.
    """

    turn: Callable[[Images, np.random.Generator], list[Image]]
    windows: int = 1


def parse_augment(text: str) -> Augmentation:
    """An augmentation by its text: `flip`, `flip_rot90+texture:4`.

    Raises:
        ValueError: an unknown part, two flips, or a number of windows that is none.
    """
    turns, windows = [], []
    known = [*AUGMENTATIONS, "texture"]
    for part in text.replace(" ", "").split("+"):
        name, _, count = part.partition(":")
        if name not in known or (count and name != "texture"):
            parts = [f"unknown augmentation {part[:40]!r}: {', '.join(known)}:N", did_you_mean(name, known)]
            raise ValueError("; ".join(filter(None, parts)))
        if name != "texture":
            turns.append(name)
        elif count.isascii() and count.isdecimal() and 2 <= int(count[:9]) <= MOST_WINDOWS:
            windows.append(int(count))
        else:
            most = f"of 2 to {MOST_WINDOWS} random crops, one is kept"
            raise ValueError(f"{part[:40]} has no such number; use such as texture:4: {most}")
    if len(turns) > 1 or len(windows) > 1:
        raise ValueError(f"{text[:60]!r} names two of a kind; use one, such as flip_rot90+texture:4")
    return Augmentation(AUGMENTATIONS[turns[0] if turns else "none"], *windows)
