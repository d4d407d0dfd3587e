"""Image files as arrays `(H, W, C)` of 1 or 3 channels: uint8, uint16, or float32 in [0, 1].

Pillow decodes; what it would truncate to 8 bit without a word (16-bit colour, float colour) is recognised
from the header and goes to imagecodecs (PNG) and tifffile (TIFF), the extra `[tiff]`. Every pixel of a file
passes `read_image`.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

from utils.system.errors import UserError

Array = np.ndarray
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
MAX_PIXELS = 2**27
Image.MAX_IMAGE_PIXELS = None  # `opened` checks, and refuses where Pillow would only warn

BITS, PHOTOMETRIC, SAMPLE_FORMAT, ORIENTATION = 258, 262, 339, 0x0112  # TIFF tags; the last is EXIF's too
BLACK_IS_ZERO, RGB = 1, 2  # of PHOTOMETRIC
DTYPES = {8: np.uint8, 16: np.uint16, 32: np.float32}

# kinds of TIFF whose header Pillow would not read without a line here; tifffile decodes their pixels
for _order in (TiffImagePlugin.II, TiffImagePlugin.MM):
    for _extra in ((), (0,), (1,), (2,)):
        _float, _gray = (_order, RGB, (3,), 1), (_order, BLACK_IS_ZERO, (1,), 1)
        _mode = "RGBA" if _extra else "RGB"
        TiffImagePlugin.OPEN_INFO.setdefault((*_float, (32,) * len(_mode), _extra), (_mode, _mode))
        if _extra:
            TiffImagePlugin.OPEN_INFO.setdefault((*_gray, (16, 16), _extra), ("LA", "LA"))


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


def max_value(dtype: Any) -> float:
    """The value that stands for 1.0: 255, 65535, or 1 for float images.

    >>> max_value(np.uint16)
    65535.0
    """
    kind = np.dtype(dtype)
    return float(np.iinfo(kind).max) if kind.kind == "u" else 1.0


def quant_levels(dtype: Any) -> int | None:
    """The largest value of an integer depth; None for float images, which have no steps.

    >>> quant_levels(np.uint8), quant_levels(np.float32)
    (255, None)
    """
    return None if np.dtype(dtype).kind == "f" else int(max_value(dtype))


def to_float(image: Array) -> Array:
    """Convert an image of any depth to float32 in [0, 1]; float images are copied, not clamped.

    >>> to_float(np.array([0, 51, 255], np.uint8)).tolist()
    [0.0, 0.20000000298023224, 1.0]
    """
    scaled = image.astype(np.float32)
    scaled /= np.float32(max_value(image.dtype))
    return scaled


def to_bytes(image: Array) -> Array:
    """Convert a float image in [0, 1] to uint8: clamp, round half to even.

    >>> to_bytes(np.array([-1, 0.1, 0.5, 2])).tolist()
    [0, 26, 128, 255]
    """
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


# ----------------------------------------------------------------------------------------------- reading


@contextmanager
def opened(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open a file and check its header; whatever is wrong with it, here or in the block, is one UserError.

    Raises:
        UserError: unreadable, over `max_pixels`, or of a depth that is none of 8 bit, 16 bit and float.
    """
    try:
        # not by its path: Pillow would map an uncompressed TIFF into memory, and get turned ones wrong
        with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as file:
            if file.width * file.height > max_pixels:
                size = f"{file.width} x {file.height} pixels, at most {max_pixels}"
                raise UserError(
                    f"{path} is too large", size, "raise --max_pixels if it is meant to be, or remove it"
                )
            if depth_of(file) not in DTYPES:
                found = f"mode {file.mode}, {depth_of(file)} bits a channel"
                raise UserError(f"{path} has an unknown depth", found, "convert it to 8 or 16 bit, or float")
            if depth_of(file) > 8 and photometric_of(file) not in (BLACK_IS_ZERO, RGB):
                found = f"photometric interpretation {photometric_of(file)}"  # CMYK, white is 0
                raise UserError(f"{path} is neither gray nor RGB", found, "convert it")
            yield file
    except UserError:
        raise
    except Exception as error:  # decoders raise many kinds
        what = str(error).replace("\n", " ")
        raise UserError(
            f"{path} cannot be read", f"{type(error).__name__}: {what}", "replace or remove it"
        ) from None


def header(path: Path, max_pixels: int = MAX_PIXELS) -> Header:
    """The header of a file, without decoding it; UserError as in `opened`."""
    with opened(path, max_pixels) as file:
        width, height = file.size
        if file.format != "TIFF" and orientation_of(file, path) >= 5:  # Pillow turns TIFFs, and these only
            width, height = height, width
        return Header(width, height, channels_of(file), depth_of(file), file.mode)


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Array:
    """Decode one image, upright, `(H, W, C)`; UserError as in `opened`.

    A palette and CMYK become RGB, alpha is dropped, an EXIF rotation is applied: alike on both sides.

    Raises:
        UserError: also where a float image leaves [0, 1], and for 16-bit colour without the extra `[tiff]`.
    """
    with opened(path, max_pixels) as file:
        depth, orientation = depth_of(file), orientation_of(file, path)
        if _by_pillow(file):
            orientation = 1 if file.format == "TIFF" else orientation  # Pillow turns TIFFs, and these only
            image = _array_of(_to_8_bit(file) if depth == 8 else file)
        else:
            image = _read_deep(path, file.format or "")
        image = image if image.ndim == 3 else image[:, :, None]
        image = image[:, :, : 1 if image.shape[2] <= 2 else 3].astype(DTYPES[depth], copy=False)
        if depth == 32 and not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            found = f"its values lie between {image.min():g} and {image.max():g}"
            raise UserError(f"{path} leaves [0, 1]", found, "scale float images to [0, 1]")
        return upright(image, orientation)


def _by_pillow(file: Image.Image) -> bool:
    """Whether Pillow decodes all of it: not what it cuts to 8 bits, nor floats whose bytes it swaps twice."""
    if file.mode == "F":
        swapped = file.tag_v2.prefix == TiffImagePlugin.MM  # type: ignore[attr-defined]
        return not (swapped and file.info.get("compression") != "raw")
    return depth_of(file) == 8 or file.mode.startswith("I;16")


def _array_of(image: Image.Image) -> Array:
    """`np.asarray`, strip by strip where that would hold three copies of a large image."""
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


def _to_8_bit(file: Image.Image) -> Image.Image:
    wanted = "L" if channels_of(file) == 1 else "RGB"
    if file.mode == "P":  # its transparency may be one alpha a colour
        return file.convert("RGBA").convert(wanted)
    return file if file.mode == wanted else file.convert(wanted)


def _read_deep(path: Path, kind: str) -> Array:
    """Decode a 16-bit or float file that Pillow does not, `(H, W, C)`, not turned."""
    try:
        import imagecodecs
        import tifffile
    except ImportError:
        raise UserError(
            f"{path} needs more than Pillow",
            "it has more than 8 bits a channel in colour, or big-endian compressed floats",
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


def orientation_of(file: Image.Image, path: Path) -> int:
    """The EXIF orientation, 1 to 8, without decoding pixels (which PngImageFile.getexif would)."""
    found = Image.Image.getexif(file).get(ORIENTATION)
    if found is None and file.format == "PNG":
        exif = Image.Exif()
        exif.load(_png_exif(path))
        found = exif.get(ORIENTATION)
    return found if found is not None and found in range(1, 9) else 1


def _png_exif(path: Path) -> bytes:
    """The eXIf chunk of a PNG, which may follow its pixels; empty without one."""
    with path.open("rb", buffering=0) as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            if name == b"eXIf":
                return file.read(length)
            file.seek(length + 4, 1)
    return b""


def photometric_of(file: Image.Image) -> int:
    """What the values of a TIFF mean, by its tag; RGB for other formats."""
    return file.tag_v2.get(PHOTOMETRIC, BLACK_IS_ZERO) if file.format == "TIFF" else RGB  # type: ignore[attr-defined]


def channels_of(file: Image.Image) -> int:
    """1 for gray images, 3 for all others, from the header."""
    gray = file.mode in ("1", "L", "LA", "F", "I") or file.mode.startswith("I;16")
    return 1 if gray or "LA;16B" in raw_modes(file) else 3  # Pillow calls 16-bit gray with alpha RGBA


def raw_modes(file: Image.Image) -> list[str]:
    """How the pixels lie in the file, in Pillow's words, until they are decoded."""
    return [str(tile[3]) for tile in getattr(file, "tile", ())]


def depth_of(file: Image.Image) -> int:
    """8, 16 or 32 (float), from the header, not from Pillow's mode; other numbers are not read here."""
    if file.format == "TIFF":
        tags = file.tag_v2  # type: ignore[attr-defined]
        bits, kinds = max(tags.get(BITS, (1,))), set(tags.get(SAMPLE_FORMAT, (1,)))
        if kinds == {3}:
            return 32
        return (8 if bits <= 8 else bits if bits < 32 else -bits) if kinds <= {1, 4} else -bits
    deep = file.mode.startswith("I;16") or any("16" in mode for mode in raw_modes(file))
    return 16 if file.format == "PNG" and deep else 8


# ----------------------------------------------------------------------------------------------- writing


def save_image(image: Array, path: Path) -> None:
    """Write `(H, W, C)` of any depth as PNG, or as TIFF where `path` says so or the values are floats.

    Raises:
        UserError: 16-bit or float colour without the extra `[tiff]`.
    """
    flat = np.ascontiguousarray(image[:, :, 0] if image.shape[2] == 1 else image)
    if image.dtype == np.uint8 or image.shape[2] == 1:
        Image.fromarray(flat).save(path)
        return
    try:
        import imagecodecs
        import tifffile
    except ImportError:
        raise UserError(f"{path} needs more than Pillow", fix='pip install -e ".[tiff]"', code=1) from None
    if path.suffix.lower() == ".png":
        path.write_bytes(
            imagecodecs.png_encode(flat.copy())
        )  # a copy has plain strides also for 1 x 1 pixels
    else:
        tifffile.imwrite(path, flat, photometric="rgb", compression="zlib")


def output_suffix(name: str, dtype: Any) -> str:
    """The suffix of an output: TIFF stays TIFF, float becomes it, all others are PNG, which loses nothing.

    >>> [output_suffix("a.JPG", np.uint8), output_suffix("a.tiff", np.uint16), output_suffix("a.png", float)]
    ['.png', '.tiff', '.tif']
    """
    suffix = Path(name).suffix
    if suffix.lower() in (".tif", ".tiff"):
        return suffix
    return ".tif" if np.dtype(dtype).kind == "f" else ".png"
