"""Deterministic transforms from decoded images to tensors: resize, grayscale, normalize."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image

from utils.system.compat import transforms
from utils.system.pixels import quant_levels

Array = np.ndarray
Transform = Callable[..., object]
BICUBIC = transforms.InterpolationMode.BICUBIC


def preparation(size: int | None, channels: int) -> Callable[[Array], Array]:
    """Return a function of `(H, W, C)` that resizes to a square (if `size`), and converts to 1 or 3 channels.

    It resizes bicubic, keeps the dtype, and can be pickled.
    """
    resize = transforms.Resize((size, size), BICUBIC, antialias=True) if size else None
    return partial(_prepare, resize=resize, gray=transforms.Grayscale(1), channels=channels)


def _prepare(image: Array, resize: Transform | None, gray: Transform, channels: int) -> Array:
    if resize:
        image = transformed(image, resize)
    if channels == 1 and image.shape[2] == 3:
        image = transformed(image, gray)
    return np.repeat(image, 3, axis=2) if channels == 3 and image.shape[2] == 1 else image


def enlarge(image: Array, height: int, width: int) -> Array:
    """Resize `(H, W, C)` to `height` x `width`, bicubic: the input baseline of super-resolution."""
    return transformed(image, transforms.Resize((height, width), BICUBIC, antialias=True))


def transformed(image: Array, transform: Transform) -> Array:
    """Apply a torchvision transform to `(H, W, C)`, as a Pillow image if 8 bits, else as a tensor.

    The dtype stays; integers are rounded and clamped, floats are not clamped.
    """
    if image.dtype == np.uint8:
        changed_image = np.asarray(
            transform(Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image))
        )
        return changed_image if changed_image.ndim == 3 else changed_image[:, :, None]
    levels = quant_levels(image.dtype)
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))
    changed = transform(tensor).numpy().transpose(1, 2, 0)  # type: ignore[attr-defined]
    return np.rint(np.clip(changed, 0, levels)).astype(image.dtype) if levels else changed
