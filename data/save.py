"""Encode output images: lossless, or as the photo they come from, with its profile, resolution and EXIF."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.headers import ORIENTATION
from data.images import FORMATS, open_regular
from utils.system.errors import UserError

Array = np.ndarray
TIFF = (".tif", ".tiff")
LOSSY = (".jpg", ".jpeg", ".jfif", ".jpe")
EIGHT_BIT = (*LOSSY, ".bmp", ".webp")  # suffixes of formats without 16 bits and floats
WRITTEN = (".png", *TIFF, *EIGHT_BIT)  # suffixes of outputs; others are read only
HOW: dict[str, dict[str, Any]] = {  # options of Pillow by suffix
    **{suffix: {"quality": 95, "subsampling": 0} for suffix in LOSSY},
    ".webp": {"lossless": True},
    ".png": {"compress_level": 3},  # 2.7 times as fast as Pillow's 6, a tenth larger
}
EXIF_IFD, GPS_IFD, EXIF_SIZE = 0x8769, 0x8825, (40962, 40963)  # EXIF tags; the last two: width, height
DESCRIPTIVE = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298, EXIF_IFD, GPS_IFD)  # of a TIFF's tags


def output_suffix(name: str, dtype: Any) -> str:
    """Return the suffix of an output without loss: TIFF for TIFF and float images, else PNG.

    >>> [output_suffix("a.JPG", np.uint8), output_suffix("a.tiff", np.uint16), output_suffix("a.png", float)]
    ['.png', '.tiff', '.tif']
    >>> output_suffix("a.PNG", np.uint8)
    '.PNG'
    """
    suffix, is_float = Path(name).suffix, np.dtype(dtype).kind == "f"
    if suffix.lower() in TIFF or (suffix.lower() == ".png" and not is_float):
        return suffix
    return ".tif" if is_float else ".png"


def kept_suffix(name: str, dtype: Any) -> str:
    """Return the suffix of an output that keeps the format of its input where that can hold it.

    >>> [kept_suffix("a.JPG", np.uint8), kept_suffix("a.png", np.float32), kept_suffix("a.webp", np.uint16)]
    ['.JPG', '.tif', '.png']
    >>> kept_suffix("palette.gif", np.uint8)
    '.png'
    """
    suffix = Path(name).suffix
    keeps = suffix.lower() in WRITTEN and np.dtype(dtype) == np.uint8
    return suffix if keeps else output_suffix(name, dtype)


def metadata(path: Path, image: Array) -> dict[str, Any]:
    """Read what an output keeps of its input file: `icc_profile`, `dpi`, `exif` (pixels are upright already).

    Args:
        image: the output; a profile for another number of channels is left out.
    """
    try:
        with open_regular(path) as stream, Image.open(stream, formats=FORMATS) as file:
            profile, dpi = file.info.get("icc_profile"), file.info.get("dpi")
            exif = _exif(file, image)
    except Exception:  # a damaged EXIF block is not worth an output
        return {}
    kept: dict[str, Any] = {"exif": exif} if exif else {}
    if profile and profile[16:20] == _space(image):
        kept["icc_profile"] = profile
    if dpi and all(np.isfinite(float(each)) and float(each) > 0 for each in dpi):
        kept["dpi"] = tuple(float(each) for each in dpi)
    return kept


def _exif(file: Image.Image, image: Array) -> bytes:
    """The EXIF block of a file without orientation and thumbnail, with the size of the output."""
    exif = file.getexif()
    own, gps = exif.get_ifd(EXIF_IFD), exif.get_ifd(GPS_IFD)
    tiff = file.format == "TIFF"
    for tag in [tag for tag in exif if tag == ORIENTATION or (tiff and tag not in DESCRIPTIVE)]:
        del exif[tag]
    for tag, side in zip(EXIF_SIZE, (image.shape[1], image.shape[0]), strict=True):
        if tag in own:
            own[tag] = side
    return exif.tobytes() if len(exif) or own or gps else b""


def _space(image: Array) -> bytes:
    """The colour space of a profile that fits an image, as the profile's header names it."""
    return b"GRAY" if image.shape[2] == 1 else b"RGB "


def encode(image: Array, suffix: str, kept: dict[str, Any] | None = None) -> bytes:
    """Encode `(H, W, C)` of any depth in the format of a suffix; `kept` is from `metadata`.

    Raises:
        UserError: 16-bit or float colour without the extra `[tiff]`.
    """
    suffix, kept = suffix.lower(), dict(kept or {})
    flat = np.ascontiguousarray(image[:, :, 0] if image.shape[2] == 1 else image)
    if image.dtype == np.uint8 or image.shape[2] == 1:
        return _by_pillow(Image.fromarray(flat), suffix, kept)
    try:
        import imagecodecs
        import tifffile
    except ImportError:
        raise UserError(
            "16-bit and float colour need more than Pillow", fix='pip install -e ".[tiff]"', code=1
        ) from None
    if suffix == ".png":
        return _with_chunks(
            bytes(imagecodecs.png_encode(flat.copy())), kept
        )  # a copy: strides of 1 x 1 images
    file = io.BytesIO()
    more = {"resolution": kept["dpi"], "resolutionunit": "INCH"} if "dpi" in kept else {}
    profile = kept.get("icc_profile")
    tifffile.imwrite(file, flat, photometric="rgb", compression="zlib", iccprofile=profile, **more)
    return file.getvalue()


def _by_pillow(image: Image.Image, suffix: str, kept: dict[str, Any]) -> bytes:
    """Encode an image with Pillow; metadata that the format cannot hold is left out."""
    for more in (kept, {}) if kept else ({},):
        file = io.BytesIO()
        try:
            image.save(file, Image.registered_extensions()[suffix], **HOW.get(suffix, {}), **more)
            return file.getvalue()
        except (ValueError, TypeError, OSError, struct.error):  # such as a JPEG with 64 KB of EXIF
            if not more:
                raise
    raise AssertionError("the last attempt returns or raises")


def _with_chunks(png: bytes, kept: dict[str, Any]) -> bytes:
    """Add profile, resolution and EXIF to a PNG, after its header (8 + 25 bytes)."""
    chunks = b""
    if "icc_profile" in kept:
        chunks += _chunk(b"iCCP", b"profile\0\0" + zlib.compress(kept["icc_profile"]))
    if "dpi" in kept:
        chunks += _chunk(b"pHYs", struct.pack(">IIB", *(round(each / 0.0254) for each in kept["dpi"]), 1))
    if "exif" in kept:
        chunks += _chunk(b"eXIf", kept["exif"].removeprefix(b"Exif\0\0"))
    return png[:33] + chunks + png[33:]


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
