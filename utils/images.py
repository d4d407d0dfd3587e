"""Reading image files. Only Pillow decodes, and every path that reads a pixel passes `open_image`."""

from pathlib import Path

from PIL import Image, ImageOps

from utils.errors import Refusal

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
MAX_PIXELS = 2**27
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


def open_image(path: Path) -> Image.Image:
    """Decode one image as `L` (gray) or `RGB`, upright.

    A palette becomes RGB, alpha is dropped, an EXIF rotation is applied: alike for inputs and targets.

    Raises:
        Refusal: unreadable, over MAX_PIXELS, or 16 bit (which 8-bit code would silently truncate).
    """
    try:
        with Image.open(path, formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:
                raise Refusal(
                    f"{path} is too large", f"{file.width} x {file.height} pixels, at most {MAX_PIXELS}"
                )
            if deep(file):
                raise Refusal(
                    f"{path} has more than 8 bits a channel", f"mode {file.mode}", "convert it to 8 bit"
                )
            image = ImageOps.exif_transpose(file)
            return image.convert("L" if channels_of(file) == 1 else "RGB")
    except Refusal:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds
        raise Refusal(
            f"{path} cannot be read", f"{type(error).__name__}: {error}", "replace or remove it"
        ) from None


def deep(file: Image.Image) -> bool:
    """Whether a file has more than 8 bits a channel; Pillow reads 16-bit RGB PNG as 8 bit without a word."""
    if file.mode in ("I", "F") or file.mode.startswith("I;16"):
        return True
    tiles = getattr(file, "tile", None) or []
    return file.format == "PNG" and any(
        str(part).endswith(";16B") for tile in tiles for part in _flat(tile[3])
    )


def _flat(args: object) -> tuple[object, ...]:
    return args if isinstance(args, tuple) else (args,)


def channels_of(file: Image.Image) -> int:
    """1 for gray images, 3 for all others, from the header."""
    return 1 if file.mode in ("1", "L", "LA") else 3


def header(path: Path) -> tuple[int, int, int]:
    """(width, height, channels) of an upright image, without decoding it."""
    try:
        with Image.open(path, formats=FORMATS) as file:
            width, height = file.size
            turned = file.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # 0x0112: EXIF orientation
            return (height, width, channels_of(file)) if turned else (width, height, channels_of(file))
    except Exception as error:
        raise Refusal(
            f"{path} cannot be read", f"{type(error).__name__}: {error}", "replace or remove it"
        ) from None
