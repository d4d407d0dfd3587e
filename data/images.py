"""Read and write image files as arrays `(H, W, C)` of 1 or 3 channels: uint8, uint16, or float32 in [0, 1].

Pillow decodes. Files that it would silently truncate to 8 bits (16-bit and float colour) are recognised by
their header and decoded by imagecodecs (PNG) and tifffile (TIFF), the extra `[tiff]`.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from data.headers import (
    Unsupported,
    channels_of,
    depth_of,
    orientation_of,
    portable_scale,
    refuse_unknown_tiff,
    refuse_unsupported,
)
from utils.system.errors import UserError
from utils.system.pixels import max_value, to_full_range

Array = np.ndarray
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".webp", ".tif", ".tiff"),
    *(".gif", ".pbm", ".pgm", ".ppm", ".pnm"),
)
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
MAX_PIXELS = 2**27
Image.MAX_IMAGE_PIXELS = None  # `opened` refuses large images, Pillow would only warn
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**26  # bytes of text or profile in a PNG

DTYPES = {8: np.uint8, 16: np.uint16, 32: np.float32}  # by bits per channel
SPECIAL = {  # what opens like a file
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class Header(NamedTuple):
    """The header of an image file."""

    width: int  # after EXIF rotation
    height: int
    channels: int  # 1 or 3, as `read_image` returns
    depth: int  # bits per channel: 8, 16 or 32 (float)
    mode: str  # Pillow's
    orientation: int = 1  # of EXIF, 1 to 8; 1: the file stores the image upright

    @property
    def kind(self) -> str:
        """Mode and depth, such as "RGB 8 bit"."""
        return f"{self.mode} {'float' if self.depth == 32 else f'{self.depth} bit'}"


# ----------------------------------------------------------------------------------------------- reading


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; a FIFO, socket, device or folder is an error instead of a hang.

    Raises:
        UserError: it is no regular file.
        OSError: it cannot be opened.
    """
    _refuse_special(path, path.stat())  # before it is opened: opening alone may have effects
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        _refuse_special(path, os.fstat(number))  # it may have been replaced in between
    except UserError:
        os.close(number)
        raise
    return os.fdopen(number, "rb")


def _refuse_special(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = SPECIAL.get(stat.S_IFMT(found.st_mode), "something else")
        raise UserError(
            f"{path} is not a regular file", f"it is {kind}", "remove it, or copy the image there"
        )


@contextmanager
def opened(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[ImageFile]:
    """Open a file and check its header; convert all errors of decoders, here or in the block, to UserError.

    Raises:
        UserError: no regular file, unreadable, more than `max_pixels` pixels; or what would be lost: a depth
            other than 8 bit, 16 bit or float, bands beyond colour and alpha, pages beyond the first.
    """
    try:
        # a stream, not a path: Pillow memory-maps uncompressed TIFFs, and then ignores their orientation
        with open_regular(path) as stream, _identified(stream) as file:
            if file.width * file.height > max_pixels:
                size = f"{file.width} x {file.height} pixels, at most {max_pixels}"
                raise UserError(f"{path} is too large", size, "raise --max_pixels, or remove the file")
            refuse_unsupported(file)
            yield file
    except UserError:
        raise
    except Unsupported as error:
        raise UserError(f"{path} {error.what}", error.why, error.fix) from None
    except Exception as error:  # decoders raise many kinds
        what = str(error).replace("\n", " ")
        raise UserError(
            f"{path} cannot be read", f"{type(error).__name__}: {what}", "replace or remove it"
        ) from None


def _identified(stream: BinaryIO) -> ImageFile:
    try:
        return Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        refuse_unknown_tiff(stream)
        raise


def header(path: Path, max_pixels: int = MAX_PIXELS) -> Header:
    """Read the header of a file without decoding pixels; raises UserError as `opened` does."""
    with opened(path, max_pixels) as file:
        (width, height), orientation = file.size, orientation_of(file)
        if file.format != "TIFF" and orientation >= 5:  # Pillow rotates TIFFs itself
            width, height = height, width
        return Header(width, height, channels_of(file), depth_of(file), file.mode, orientation)


def decode(path: Path, max_pixels: int = MAX_PIXELS) -> Array:
    """Decode an image to `(H, W, C)`, C 1 or 3, with the values of the file.

    Palettes and CMYK become RGB, alpha is dropped, and EXIF rotation is applied.

    Raises:
        UserError: as `opened` does; 16-bit colour without the extra `[tiff]`.
    """
    with opened(path, max_pixels) as file:
        depth, orientation = depth_of(file), orientation_of(file)
        if _by_pillow(file):
            orientation = 1 if file.format == "TIFF" else orientation  # Pillow rotates TIFFs itself
            image = _array_of(_to_8_bit(file) if depth == 8 else file)
        else:
            image = _read_portable(file) if file.format == "PPM" else _read_deep(path, file.format or "")
        image = image if image.ndim == 3 else image[:, :, None]
        image = image[:, :, : 1 if image.shape[2] <= 2 else 3].astype(DTYPES[depth], copy=False)
        return upright(image, orientation)


class OutOfRange(UserError):
    """Pixels that are less than 0, or more than full scale."""


def read_image(path: Path, max_pixels: int = MAX_PIXELS, full_scale: float | None = None) -> Array:
    """Decode an image to `(H, W, C)`, C 1 or 3, that uses the full range of its dtype.

    Args:
        full_scale: of --max_value, the value of full brightness in the file, see `to_full_range`.

    Raises:
        UserError: as `decode` does; values outside 0 to full scale (OutOfRange).
    """
    image = decode(path, max_pixels)
    if image.dtype.kind == "f" or full_scale:
        check_range(image, path, full_scale)
    return to_full_range(image, full_scale)


def check_range(image: Array, path: Path, full_scale: float | None) -> None:
    """Raise OutOfRange for values below 0, above full scale, or not finite; or a scale the dtype lacks."""
    integer, most = image.dtype.kind == "u", full_scale or 1
    if integer and not (most <= max_value(image.dtype) and float(most).is_integer()):
        what = f"{path} has {8 * image.dtype.itemsize} bits a channel [--max_value {most:g}]"
        fix = f"a whole number up to {max_value(image.dtype):g}, or auto: full scale of the file"
        raise OutOfRange(what, f"no value of it can be {most:g}", fix)
    low, high = image.min(), image.max()
    if not (np.isfinite(image).all() and low >= 0 and high <= most):
        given = f" [--max_value {most:g}]" if full_scale else ""
        fix = "give the value of full brightness by --max_value, or scale float images to [0, 1]"
        found = f"minimum {low:g}, maximum {high:g}"
        raise OutOfRange(f"{path} has values outside [0, {most:g}]{given}", found, fix)


def _by_pillow(file: ImageFile) -> bool:
    """Whether Pillow decodes at full depth; it swaps the bytes of compressed big-endian floats twice."""
    if file.mode == "F":
        swapped = file.tag_v2.prefix == TiffImagePlugin.MM  # type: ignore[attr-defined]
        return not (swapped and file.info.get("compression") != "raw")
    return depth_of(file) == 8 or file.mode.startswith("I;16")


def _array_of(image: Image.Image) -> Array:
    """`np.asarray` in strips: in one piece it holds three copies of a large image."""
    strip = max(1, 2**22 // image.width)
    if image.height <= strip:
        return np.asarray(image)
    tops = range(0, image.height, strip)
    boxes = [(0, top, image.width, min(top + strip, image.height)) for top in tops]
    first = np.asarray(image.crop(boxes[0]))
    whole = np.empty((image.height, *first.shape[1:]), first.dtype)
    for box in boxes:
        whole[box[1] : box[3]] = np.asarray(image.crop(box))
    return whole


def _to_8_bit(file: ImageFile) -> Image.Image:
    wanted = "L" if channels_of(file) == 1 else "RGB"
    if file.mode == "P":  # the palette may have an alpha per colour
        return file.convert("RGBA").convert(wanted)
    return file if file.mode == wanted else file.convert(wanted)


def _read_portable(file: ImageFile) -> Array:
    """Decode a PGM or PPM of more than 8 bits to `(H, W, C)`, which Pillow would reduce to 8 in colour."""
    (kind, _, offset, _), scale = file.tile[0], portable_scale(file)
    stream: Any = file.fp
    stream.seek(offset)
    count = file.height * file.width * channels_of(file)
    if kind == "ppm_plain":  # numbers in ASCII
        words = re.sub(rb"#[^\r\n]*", b"", stream.read()).split()[:count]
        stored = np.array([int(word) for word in words])
    else:
        stored = np.frombuffer(stream.read(2 * count), ">u2")
    if len(stored) < count or stored.min() < 0 or stored.max() > scale:
        raise ValueError(f"{len(stored)} of {count} values, or values above {scale}")
    image = stored.reshape(file.height, file.width, -1)
    return image if scale == 65535 else np.rint(image * (65535 / scale))


def _read_deep(path: Path, kind: str) -> Array:
    """Decode a 16-bit or float file to `(H, W, C)`, without rotation."""
    try:
        import imagecodecs
        import tifffile
    except ImportError:
        raise UserError(
            f"{path} needs more than Pillow",
            "it has more than 8 bits a channel in colour, or big-endian compressed floats",
            'pip install -e ".[tiff]"',
        ) from None
    with open_regular(path) as stream:
        if kind == "PNG":
            return np.asarray(imagecodecs.png_decode(stream.read()))
        with tifffile.TiffFile(stream, name=path.name) as tiff:
            page = tiff.pages.first
            image = np.asarray(page.asarray())
            return np.moveaxis(image, 0, 2) if page.axes.startswith("S") else image


def upright(image: Array, orientation: int) -> Array:
    """Rotate and flip `(H, W, C)` as an EXIF orientation (1 to 8) demands."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image
