"""Reading image files. Only Pillow decodes, and every path that reads a pixel passes `open_image`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps

from utils.errors import Refusal

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
MAX_PIXELS = 2**27
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a file and check its header; whatever is wrong with it, here or in the block, is one Refusal.

    Raises:
        Refusal: unreadable, over MAX_PIXELS, or 16 bit (which 8-bit code would silently truncate).
    """
    try:
        with Image.open(path, formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:
                size = f"{file.width} x {file.height} pixels, at most {MAX_PIXELS}"
                raise Refusal(f"{path} is too large", size)
            if deep(file):
                raise Refusal(
                    f"{path} has more than 8 bits a channel", f"mode {file.mode}", "convert it to 8 bit"
                )
            yield file
    except Refusal:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds
        raise Refusal(
            f"{path} cannot be read", f"{type(error).__name__}: {error}", "replace or remove it"
        ) from None


def open_image(path: Path) -> Image.Image:
    """Decode one image as `L` (gray) or `RGB`, upright; Refusal as in `opened`.

    A palette becomes RGB, alpha is dropped, an EXIF rotation is applied: alike for inputs and targets.
    """
    with opened(path) as file:
        channels = channels_of(file)
        image = ImageOps.exif_transpose(file)
        if image.mode == "P":  # its transparency may be one alpha a colour
            image = image.convert("RGBA")
        return image.convert("L" if channels == 1 else "RGB")


def header(path: Path) -> tuple[int, int, int]:
    """(width, height, channels) of an upright image, without decoding it; Refusal as in `opened`."""
    with opened(path) as file:
        width, height = file.size
        turned = file.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # 0x0112: EXIF orientation
        return (height, width, channels_of(file)) if turned else (width, height, channels_of(file))


def channels_of(file: Image.Image) -> int:
    """1 for gray images, 3 for all others, from the header."""
    return 1 if file.mode in ("1", "L", "LA") else 3


def deep(file: Image.Image) -> bool:
    """Whether a file has more than 8 bits a channel; Pillow reads 16-bit RGB as 8 bit without a word."""
    if file.mode in ("I", "F") or file.mode.startswith("I;16"):
        return True
    if file.format == "TIFF":
        return max(file.tag_v2.get(258, (8,))) > 8  # type: ignore[attr-defined]  # 258: BitsPerSample
    return any("16" in str(tile.args) for tile in file.tile) if file.format == "PNG" else False  # type: ignore[attr-defined]
