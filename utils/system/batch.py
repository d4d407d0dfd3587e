"""Image arrays to normalised batches `(N, C, H, W)` and back to [0, 1]."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

Array = np.ndarray


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
