"""Deterministic transforms from decoded images to tensors: resize, grayscale, normalize."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from data.images import quant_levels
from utils.system.compat import transforms

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


def to_batch(images: Sequence[Any], mean: float, std: float) -> torch.Tensor:
    """Stack images `(H, W, C)` of one size to float32 `(N, C, H, W)` and normalize them.

    Bit-equal to torchvision's `ToTensor` and `Normalize` on every device. Divisors are tensors, because a GPU
    multiplies by the reciprocal of a Python number.

    Args:
        images: arrays of any depth; or tensors on one device, uint8 or float32.
        mean, std: of Normalize, for values in [0, 1].
    """
    stack: Any = torch.stack if isinstance(images[0], torch.Tensor) else _stack
    if len({image.dtype for image in images}) > 1:  # files of different depths
        batch = torch.cat([_to_unit_range(stack([image])) for image in images])
    else:
        batch = _to_unit_range(stack(images))
    batch -= mean
    batch /= batch.new_full((), std)
    return batch


def _stack(images: Sequence[Array]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images))


def _to_unit_range(images: torch.Tensor) -> torch.Tensor:
    """Convert `(N, H, W, C)` of any depth to float32 `(N, C, H, W)` in [0, 1], perhaps in the same memory."""
    planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    if not images.is_floating_point():
        planes /= planes.new_full((), torch.iinfo(images.dtype).max)
    return planes


def denormalize(image: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    """Invert Normalize(mean, std): a network's input or output to [0, 1]; any shape, not clamped."""
    return image * std + mean
