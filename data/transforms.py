"""From decoded images to tensors: the classic torchvision transforms, without a random one among them."""

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
    """Image `(H, W, C)` to the same depth: `Resize((size, size), BICUBIC)` if asked, then 1 or 3 channels."""
    resize = transforms.Resize((size, size), BICUBIC, antialias=True) if size else None
    return partial(_prepare, resize=resize, gray=transforms.Grayscale(1), channels=channels)


def _prepare(image: Array, resize: Transform | None, gray: Transform, channels: int) -> Array:
    """At the top level, as loader processes that are not forked get it by pickle."""
    if resize:
        image = transformed(image, resize)
    if channels == 1 and image.shape[2] == 3:
        image = transformed(image, gray)
    return np.repeat(image, 3, axis=2) if channels == 3 and image.shape[2] == 1 else image


def enlarge(image: Array, height: int, width: int) -> Array:
    """Bicubic to `height` x `width`, by Pillow for 8 bits: super-resolution by doing nothing."""
    return transformed(image, transforms.Resize((height, width), BICUBIC, antialias=True))


def transformed(image: Array, transform: Transform) -> Array:
    """Apply a torchvision transform to an image `(H, W, C)`: with 8 bits as Pillow's, deeper as a tensor.

    The depth stays; float values stay unclamped.
    """
    if image.dtype == np.uint8:
        carrier = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        return as_array(np.asarray(transform(carrier)))
    levels = quant_levels(image.dtype)
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))
    changed = transform(tensor).numpy().transpose(1, 2, 0)  # type: ignore[attr-defined]
    return np.rint(np.clip(changed, 0, levels)).astype(image.dtype) if levels else changed


def as_array(image: Array) -> Array:
    return image if image.ndim == 3 else image[:, :, None]


def to_batch(images: Sequence[Any], mean: float, std: float) -> torch.Tensor:
    """A batch, float32 `(N, C, H, W)`, of images `(H, W, C)` of one size; `Normalize(mean, std)` of [0, 1].

    The bits of torchvision's `ToTensor` and `Normalize`, on every device: by true divisions, as dividing by a
    Python number a GPU would multiply by its reciprocal.

    Args:
        images: arrays of any depth, or tensors on one device, uint8 or float32.
    """
    stack: Any = torch.stack if isinstance(images[0], torch.Tensor) else _stack
    if len({image.dtype for image in images}) > 1:  # of files of unequal depth
        batch = torch.cat([_full_scale_1(stack([image])) for image in images])
    else:
        batch = _full_scale_1(stack(images))
    batch -= mean
    batch /= batch.new_full((), std)
    return batch


def _stack(images: Sequence[Array]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images))


def _full_scale_1(images: torch.Tensor) -> torch.Tensor:
    """`(N, H, W, C)` of any depth as float32 `(N, C, H, W)`, which may be the memory of `images`."""
    planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    if not images.is_floating_point():
        planes /= planes.new_full((), torch.iinfo(images.dtype).max)
    return planes


def denormalize(image: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    """Undo Normalize(mean, std): what enters or leaves a network, back to [0, 1]; any shape, not clamped."""
    return image * std + mean
