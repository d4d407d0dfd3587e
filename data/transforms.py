"""From decoded images to tensors: the classic torchvision transforms, without a random one among them."""

import numpy as np
import torch
from PIL import Image

from utils.tvcompat import transforms

Array = np.ndarray


def preparation(size: int | None, channels: int) -> transforms.Compose:
    """Pillow image to uint8 `(H, W, C)`: `Resize((size, size), BICUBIC)` if asked, then 1 or 3 channels."""
    bicubic = transforms.InterpolationMode.BICUBIC
    resize = [transforms.Resize((size, size), bicubic)] if size else []
    return transforms.Compose([*resize, transforms.Grayscale(1) if channels == 1 else to_rgb, as_array])


def to_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def as_array(image: Image.Image) -> Array:
    array = np.asarray(image)
    return array if array.ndim == 3 else array[:, :, None]


def normalization(mean: float, std: float) -> transforms.Compose:
    """Float array `(H, W, C)` in [0, 1] to tensor `(C, H, W)`: `ToTensor`, `Normalize(mean, std)`."""
    return transforms.Compose([np.ascontiguousarray, transforms.ToTensor(), transforms.Normalize(mean, std)])


def to_unit(image: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    """Undo Normalize(mean, std): what enters or leaves a network, back to [0, 1]; any shape, not clamped."""
    return image * std + mean
