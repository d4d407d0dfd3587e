"""Image files as arrays `(H, W, C)` of 1 or 3 channels: uint8, uint16, or float32 in [0, 1].

Pillow decodes; what it would truncate to 8 bit without a word (16-bit colour, float colour) is recognised
from the header and goes to imagecodecs (PNG) and tifffile (TIFF), the extra `[tiff]`. Every pixel of a file
passes `read_image`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from utils.errors import Refusal

Array = np.ndarray
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
MAX_PIXELS = 2**27
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

BITS, SAMPLE_FORMAT, ORIENTATION = 258, 339, 0x0112  # TIFF tags; the last one is EXIF's too
DTYPES = {8: np.uint8, 16: np.uint16, 32: np.float32}


class Header(NamedTuple):
    """What a file says of itself: upright size, channels as they are read, 8, 16 or 32 (float) bits each."""

    width: int
    height: int
    channels: int
    depth: int
    mode: str

    @property
    def kind(self) -> str:
        """Such as "RGB 8 bit"."""
        return f"{self.mode} {'float' if self.depth == 32 else f'{self.depth} bit'}"


# ------------------------------------------------------------------------------------------------- depth


def full_scale(dtype: Any) -> float:
    """The value that stands for 1.0: 255, 65535, or 1 for float images.

    >>> full_scale(np.uint16)
    65535.0
    """
    kind = np.dtype(dtype)
    return float(np.iinfo(kind).max) if kind.kind == "u" else 1.0


def levels_of(dtype: Any) -> int | None:
    """The largest value of an integer depth; None for float images, which have no steps.

    >>> levels_of(np.uint8), levels_of(np.float32)
    (255, None)
    """
    return None if np.dtype(dtype).kind == "f" else int(full_scale(dtype))


def to_float(image: Array) -> Array:
    """A float32 array of full scale 1 of an image of any depth."""
    return image.astype(np.float32) / np.float32(full_scale(image.dtype))


def to_depth(image: Array, dtype: Any) -> Array:
    """A float array of full scale 1 clamped to [0, 1], and rounded to an integer depth, as saving it would.

    >>> to_depth(np.array([-0.5, 0.1, 2.0]), np.uint8).tolist()
    [0, 26, 255]
    """
    clamped, levels = np.clip(image, 0, 1), levels_of(dtype)
    return np.rint(clamped * np.float32(levels)).astype(dtype) if levels else clamped.astype(dtype)


# ----------------------------------------------------------------------------------------------- reading


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a file and check its header; whatever is wrong with it, here or in the block, is one Refusal.

    Raises:
        Refusal: unreadable, over MAX_PIXELS, or of a depth that is none of 8 bit, 16 bit and float.
    """
    try:
        with Image.open(path, formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:
                size = f"{file.width} x {file.height} pixels, at most {MAX_PIXELS}"
                raise Refusal(f"{path} is too large", size)
            if depth_of(file) not in DTYPES:
                found = f"mode {file.mode}, {depth_of(file)} bits a channel"
                raise Refusal(f"{path} has an unknown depth", found, "convert it to 8 or 16 bit, or float")
            yield file
    except Refusal:
        raise
    except Exception as error:  # decoders raise many kinds
        what = str(error).replace("\n", " ")
        raise Refusal(
            f"{path} cannot be read", f"{type(error).__name__}: {what}", "replace or remove it"
        ) from None


def header(path: Path) -> Header:
    """The header of a file, without decoding it; Refusal as in `opened`."""
    with opened(path) as file:
        width, height = file.size
        if orientation_of(file) >= 5:
            width, height = height, width
        return Header(width, height, channels_of(file), depth_of(file), file.mode)


def read_image(path: Path) -> Array:
    """Decode one image, upright, `(H, W, C)`; Refusal as in `opened`.

    A palette and CMYK become RGB, alpha is dropped, an EXIF rotation is applied: alike on both sides.

    Raises:
        Refusal: also where a float image leaves [0, 1], and for 16-bit colour without the extra `[tiff]`.
    """
    with opened(path) as file:
        depth, orientation = depth_of(file), orientation_of(file)
        if depth == 8:
            image = np.asarray(_to_8_bit(file))
        elif file.mode == "F" or file.mode.startswith("I;16"):
            image = np.asarray(file)
        else:
            image = _read_deep(path, file.format or "")
        image = image if image.ndim == 3 else image[:, :, None]
        image = image[:, :, : 1 if image.shape[2] <= 2 else 3].astype(DTYPES[depth], copy=False)
        if depth == 32 and not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            found = f"its values lie between {image.min():g} and {image.max():g}"
            raise Refusal(f"{path} leaves [0, 1]", found, "scale float images to [0, 1]")
        return upright(image, orientation)


def _to_8_bit(file: Image.Image) -> Image.Image:
    wanted = "L" if channels_of(file) == 1 else "RGB"
    if file.mode == "P":  # its transparency may be one alpha a colour
        return file.convert("RGBA").convert(wanted)
    return file if file.mode == wanted else file.convert(wanted)


def _read_deep(path: Path, kind: str) -> Array:
    """Decode a 16-bit or float colour file, `(H, W, C)`."""
    try:
        import imagecodecs
        import tifffile
    except ImportError:
        raise Refusal(
            f"{path} has more than 8 bits a channel in colour",
            "Pillow would cut it to 8",
            'pip install -e ".[tiff]"',
        ) from None
    if kind == "PNG":
        return np.asarray(imagecodecs.png_decode(path.read_bytes()))
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        image = np.asarray(page.asarray())
        return np.moveaxis(image, 0, 2) if page.axes.startswith("S") else image


def upright(image: Array, orientation: int) -> Array:
    """Apply an EXIF orientation (1 to 8) to `(H, W, C)`."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def orientation_of(file: Image.Image) -> int:
    found = file.getexif().get(ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def channels_of(file: Image.Image) -> int:
    """1 for gray images, 3 for all others, from the header."""
    gray = file.mode in ("1", "L", "LA", "F", "I") or file.mode.startswith("I;16")
    return 1 if gray else 3


def depth_of(file: Image.Image) -> int:
    """8, 16 or 32 (float), from the header, not from Pillow's mode; other numbers are not read here."""
    if file.format == "TIFF":
        tags = file.tag_v2  # type: ignore[attr-defined]
        bits, kinds = max(tags.get(BITS, (1,))), set(tags.get(SAMPLE_FORMAT, (1,)))
        if kinds == {3}:
            return 32
        return (8 if bits <= 8 else bits if bits < 32 else -bits) if kinds <= {1, 4} else -bits
    deep = file.mode.startswith("I;16") or any("16" in str(tile[3]) for tile in getattr(file, "tile", ()))
    return 16 if file.format == "PNG" and deep else 8


# ----------------------------------------------------------------------------------------------- writing


def save_image(image: Array, path: Path) -> None:
    """Write `(H, W, C)` of any depth as PNG, or as TIFF where `path` says so or the values are floats.

    Raises:
        Refusal: 16-bit or float colour without the extra `[tiff]`.
    """
    flat = image[:, :, 0] if image.shape[2] == 1 else image
    if image.dtype == np.uint8 or image.shape[2] == 1:
        Image.fromarray(np.ascontiguousarray(flat)).save(path)
        return
    try:
        import imagecodecs
        import tifffile
    except ImportError:
        raise Refusal(f"{path} needs more than Pillow", fix='pip install -e ".[tiff]"', code=1) from None
    if path.suffix.lower() == ".png":
        path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(flat)))
    else:
        tifffile.imwrite(path, np.ascontiguousarray(flat), photometric="rgb", compression="zlib")


def output_suffix(name: str, dtype: Any) -> str:
    """The suffix of an output: TIFF stays TIFF, float becomes it, all others are PNG, which loses nothing.

    >>> [output_suffix("a.JPG", np.uint8), output_suffix("a.tiff", np.uint16), output_suffix("a.png", float)]
    ['.png', '.tiff', '.tif']
    """
    suffix = Path(name).suffix
    if suffix.lower() in (".tif", ".tiff"):
        return suffix
    return ".tif" if np.dtype(dtype).kind == "f" else ".png"
