"""Read and write image files as arrays `(H, W, C)` of 1 or 3 channels: uint8, uint16, or float32 in [0, 1].

Pillow decodes. Files that it would silently truncate to 8 bits (16-bit and float colour) are recognised by
their header and decoded by imagecodecs (PNG) and tifffile (TIFF), the extra `[tiff]`.
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
Image.MAX_IMAGE_PIXELS = None  # `opened` refuses large images, Pillow would only warn

BITS, PHOTOMETRIC, SAMPLE_FORMAT, ORIENTATION = (
    258,
    262,
    339,
    0x0112,
)  # TIFF tags; the last one is also an EXIF tag
BLACK_IS_ZERO, RGB = 1, 2  # values of PHOTOMETRIC
UNSIGNED, FLOAT, UNDEFINED = 1, 3, 4  # values of SAMPLE_FORMAT; 2 is signed
DTYPES = {8: np.uint8, 16: np.uint16, 32: np.float32}  # by bits per channel

# Register TIFF variants whose headers Pillow refuses to read: float RGB, and 16-bit gray with alpha. Their
# pixels are decoded by tifffile.
for _order in (TiffImagePlugin.II, TiffImagePlugin.MM):
    for _extra in ((), (0,), (1,), (2,)):
        _float, _gray = (_order, RGB, (3,), 1), (_order, BLACK_IS_ZERO, (1,), 1)
        _mode = "RGBA" if _extra else "RGB"
        TiffImagePlugin.OPEN_INFO.setdefault((*_float, (32,) * len(_mode), _extra), (_mode, _mode))
        if _extra:
            TiffImagePlugin.OPEN_INFO.setdefault((*_gray, (16, 16), _extra), ("LA", "LA"))


class Header(NamedTuple):
    """The header of an image file."""

    width: int  # after EXIF rotation
    height: int
    channels: int  # 1 or 3, as `read_image` returns
    depth: int  # bits per channel: 8, 16 or 32 (float)
    mode: str  # Pillow's

    @property
    def kind(self) -> str:
        """Mode and depth, such as "RGB 8 bit"."""
        return f"{self.mode} {'float' if self.depth == 32 else f'{self.depth} bit'}"


# ----------------------------------------------------------------------------------------------- reading


@contextmanager
def opened(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open a file and check its header; convert all errors of decoders, here or in the block, to UserError.

    Raises:
        UserError: unreadable, more than `max_pixels` pixels, or a depth other than 8 bit, 16 bit or float.
    """
    try:
        # a stream, not a path: Pillow memory-maps uncompressed TIFFs, and then ignores their orientation
        with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as file:
            if file.width * file.height > max_pixels:
                size = f"{file.width} x {file.height} pixels, at most {max_pixels}"
                raise UserError(f"{path} is too large", size, "raise --max_pixels, or remove the file")
            try:
                depth = depth_of(file)
            except ValueError as error:
                fix = "convert it to 8 bit, 16 bit or float"
                raise UserError(f"{path} has an unsupported depth", str(error), fix) from None
            if depth > 8 and photometric_of(file) not in (BLACK_IS_ZERO, RGB):
                found = f"photometric interpretation {photometric_of(file)}"  # CMYK, white is zero
                raise UserError(f"{path} is neither gray nor RGB", found, "convert it to gray or RGB")
            yield file
    except UserError:
        raise
    except Exception as error:  # decoders raise many kinds
        what = str(error).replace("\n", " ")
        raise UserError(
            f"{path} cannot be read", f"{type(error).__name__}: {what}", "replace or remove it"
        ) from None


def header(path: Path, max_pixels: int = MAX_PIXELS) -> Header:
    """Read the header of a file without decoding pixels; raises UserError as `opened` does."""
    with opened(path, max_pixels) as file:
        width, height = file.size
        if file.format != "TIFF" and orientation_of(file, path) >= 5:  # Pillow rotates TIFFs itself
            width, height = height, width
        return Header(width, height, channels_of(file), depth_of(file), file.mode)


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Array:
    """Decode an image to `(H, W, C)`, C 1 or 3.

    Palettes and CMYK become RGB, alpha is dropped, and EXIF rotation is applied.

    Raises:
        UserError: as `opened` does; a float image outside [0, 1]; 16-bit colour without the extra `[tiff]`.
    """
    with opened(path, max_pixels) as file:
        depth, orientation = depth_of(file), orientation_of(file, path)
        if _by_pillow(file):
            orientation = 1 if file.format == "TIFF" else orientation  # Pillow rotates TIFFs itself
            image = _array_of(_to_8_bit(file) if depth == 8 else file)
        else:
            image = _read_deep(path, file.format or "")
        image = image if image.ndim == 3 else image[:, :, None]
        image = image[:, :, : 1 if image.shape[2] <= 2 else 3].astype(DTYPES[depth], copy=False)
        if depth == 32 and not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            found = f"minimum {image.min():g}, maximum {image.max():g}"
            raise UserError(f"{path} has values outside [0, 1]", found, "scale float images to [0, 1]")
        return upright(image, orientation)


def _by_pillow(file: Image.Image) -> bool:
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


def _to_8_bit(file: Image.Image) -> Image.Image:
    wanted = "L" if channels_of(file) == 1 else "RGB"
    if file.mode == "P":  # the palette may have an alpha per colour
        return file.convert("RGBA").convert(wanted)
    return file if file.mode == wanted else file.convert(wanted)


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
    if kind == "PNG":
        return np.asarray(imagecodecs.png_decode(path.read_bytes()))
    with tifffile.TiffFile(path) as tiff:
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


def orientation_of(file: Image.Image, path: Path) -> int:
    """Return the EXIF orientation, 1 to 8, without decoding pixels (PngImageFile.getexif would)."""
    found = Image.Image.getexif(file).get(ORIENTATION)
    if found is None and file.format == "PNG":
        exif = Image.Exif()
        exif.load(_png_exif(path))
        found = exif.get(ORIENTATION)
    return found if found is not None and found in range(1, 9) else 1


def _png_exif(path: Path) -> bytes:
    """Return the eXIf chunk of a PNG, which may follow the pixels; empty if there is none."""
    with path.open("rb", buffering=0) as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            if name == b"eXIf":
                body = file.read(length)
                if len(body) < length:
                    raise EOFError("the file ends within its eXIf chunk")
                return body
            file.seek(length + 4, 1)
    return b""


def photometric_of(file: Image.Image) -> int:
    """Return the photometric interpretation of a TIFF; RGB for other formats."""
    return file.tag_v2.get(PHOTOMETRIC, BLACK_IS_ZERO) if file.format == "TIFF" else RGB  # type: ignore[attr-defined]


def channels_of(file: Image.Image) -> int:
    """Return 1 for gray images and 3 for all others, from the header."""
    gray = file.mode in ("1", "L", "LA", "F", "I") or file.mode.startswith("I;16")
    return 1 if gray or "LA;16B" in raw_modes(file) else 3  # Pillow calls 16-bit gray with alpha RGBA


def raw_modes(file: Image.Image) -> list[str]:
    """Return Pillow's names of the pixel formats in the file; empty once it is decoded."""
    return [str(tile[3]) for tile in getattr(file, "tile", ())]


def depth_of(file: Image.Image) -> int:
    """Return the bits per channel from the header: 8 (or fewer), 16 or 32 (float).

    Raises:
        ValueError: another depth.
    """
    if file.format != "TIFF":
        deep = file.mode.startswith("I;16") or any("16" in mode for mode in raw_modes(file))
        return 16 if file.format == "PNG" and deep else 8
    tags = file.tag_v2  # type: ignore[attr-defined]
    bits, formats = max(tags.get(BITS, (1,))), set(tags.get(SAMPLE_FORMAT, (1,)))
    if formats == {FLOAT}:
        return 32
    if bits not in (*range(9), 16) or not formats <= {UNSIGNED, UNDEFINED}:
        raise ValueError(f"mode {file.mode}, {bits} bits per channel, sample format {min(formats)}")
    return max(bits, 8)


# ----------------------------------------------------------------------------------------------- writing


def save_image(image: Array, path: Path) -> None:
    """Write `(H, W, C)` of any depth in the format of the suffix of `path`.

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
        path.write_bytes(imagecodecs.png_encode(flat.copy()))  # a copy: strides of 1 x 1 images
    else:
        tifffile.imwrite(path, flat, photometric="rgb", compression="zlib")


def output_suffix(name: str, dtype: Any) -> str:
    """Return the suffix of an output file: TIFF for TIFF and float images, else PNG.

    >>> [output_suffix("a.JPG", np.uint8), output_suffix("a.tiff", np.uint16), output_suffix("a.png", float)]
    ['.png', '.tiff', '.tif']
    """
    suffix = Path(name).suffix
    if suffix.lower() in (".tif", ".tiff"):
        return suffix
    return ".tif" if np.dtype(dtype).kind == "f" else ".png"
