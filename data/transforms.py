"""From decoded images to tensors: the classic torchvision transforms, without a random one among them."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image

from utils.images import levels_of
from utils.tvcompat import transforms

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
    levels = levels_of(image.dtype)
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))
    changed = transform(tensor).numpy().transpose(1, 2, 0)  # type: ignore[attr-defined]
    return np.rint(np.clip(changed, 0, levels)).astype(image.dtype) if levels else changed


def as_array(image: Array) -> Array:
    return image if image.ndim == 3 else image[:, :, None]


def normalization(mean: float, std: float) -> Callable[[Array], torch.Tensor]:
    """Float array `(H, W, C)` in [0, 1] to tensor `(C, H, W)`.

    The bits of torchvision's `ToTensor` and `Normalize(mean, std)`, at a third of their time on small crops.
    """
    return partial(_normalize, mean=mean, std=std)


def _normalize(image: Array, mean: float, std: float) -> torch.Tensor:
    planes = np.array(image.transpose(2, 0, 1), dtype=np.float32, order="C")  # a copy: changed in place
    planes -= np.float32(mean)
    planes /= np.float32(std)
    return torch.from_numpy(planes)


def normalize_batch(images: Sequence[torch.Tensor], mean: float, std: float) -> torch.Tensor:
    """Images `(H, W, C)` on one device, uint8 or float32 in [0, 1], to one float32 `(N, C, H, W)`.

    The bits of `utils.images.to_float` and `normalization`, that is true divisions: by a Python number, a GPU
    would multiply by its reciprocal.
    """
    if len({image.dtype for image in images}) > 1:
        images = [_unit(image) for image in images]
    planes = _unit(torch.stack(list(images))).permute(0, 3, 1, 2) - mean
    return (planes / planes.new_full((), std)).contiguous()


def _unit(image: torch.Tensor) -> torch.Tensor:
    planes = image.float()
    return planes / planes.new_full((), 255) if image.dtype == torch.uint8 else planes


def to_unit(image: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    """Undo Normalize(mean, std): what enters or leaves a network, back to [0, 1]; any shape, not clamped."""
    return image * std + mean
