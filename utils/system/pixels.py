"""Depth and range of image arrays: uint8, uint16, or float32 in [0, 1]. Imports no torch."""

from typing import Any

import numpy as np

Array = np.ndarray


def max_value(dtype: Any) -> float:
    """Return the value of full brightness: 255, 65535, or 1 for float images.

    >>> max_value(np.uint16)
    65535.0
    """
    kind = np.dtype(dtype)
    return float(np.iinfo(kind).max) if kind.kind == "u" else 1.0


def quant_levels(dtype: Any) -> int | None:
    """Return the largest value of an integer dtype; None for floats, which are not quantized.

    >>> quant_levels(np.uint8), quant_levels(np.float32)
    (255, None)
    """
    return None if np.dtype(dtype).kind == "f" else int(max_value(dtype))


def to_float(image: Array, dtype: Any = np.float32) -> Array:
    """Convert an image of any depth to [0, 1], as float32; pass float64 for exact figures.

    Float images are copied, not clamped.

    >>> to_float(np.array([0, 51, 255], np.uint8)).tolist()
    [0.0, 0.20000000298023224, 1.0]
    """
    scaled = image.astype(dtype)
    scaled /= scaled.dtype.type(max_value(image.dtype))
    return scaled


def from_float(image: Array, dtype: Any) -> Array:
    """Clamp float values to [0, 1] and round them to the levels of `dtype`, as a file stores them; NaN is 0.

    >>> from_float(np.array([-1, 0.5, 2, np.nan]), np.uint8).tolist()
    [0, 128, 255, 0]
    """
    clamped = np.nan_to_num(image.clip(0, 1))
    levels = quant_levels(dtype)
    if levels:  # in float64, as the scores are: float32 would round some ties the other way
        clamped = np.rint(clamped.astype(np.float64) * levels)
    return clamped.astype(dtype)


def to_full_range(image: Array, full_scale: float | None) -> Array:
    """Stretch values of 0 to full scale over a whole dtype: uint16 for integers, [0, 1] for floats.

    Different integers stay different, so `from_full_range` inverts it. Without a scale the image stays.

    >>> to_full_range(np.array([0, 1], np.uint8), 1), to_full_range(np.float32([127.5]), 255).tolist()
    (array([    0, 65535], dtype=uint16), [0.5])
    """
    if not full_scale:
        return image
    if image.dtype.kind == "f":
        return image / image.dtype.type(full_scale)
    return np.rint(np.arange(full_scale + 1) * (65535 / full_scale)).astype(np.uint16)[image]


def from_full_range(image: Array, full_scale: float | None) -> Array:
    """Invert `to_full_range`: integers of 0 to full scale, with 8 bits where they suffice.

    >>> from_full_range(np.array([0, 65535], np.uint16), 1), from_full_range(np.float32([0.5]), 255).tolist()
    (array([0, 1], dtype=uint8), [127.5])
    """
    if not full_scale:
        return image
    if image.dtype.kind == "f":
        return image * image.dtype.type(full_scale)
    most = max_value(image.dtype)
    stored = np.rint(np.arange(most + 1) * (full_scale / most))
    return stored.astype(np.uint8 if full_scale <= 255 else np.uint16)[image]


def to_bytes(image: Array) -> Array:
    """Convert a float image in [0, 1] to uint8: clamp, round half to even.

    >>> to_bytes(np.array([-1, 0.1, 0.5, 2])).tolist()
    [0, 26, 128, 255]
    """
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
