"""What the header of an image file says: channels, depth, orientation, and what of it cannot be read."""

import os
import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

from PIL import Image, TiffImagePlugin
from PIL.ImageFile import ImageFile

SUBFILE, BITS, PHOTOMETRIC, SAMPLES, EXTRA, SAMPLE_FORMAT = 254, 258, 262, 277, 338, 339  # TIFF tags
SUB_IFDS = 330  # a TIFF tag: pages within a page
MP_ENTRIES = 0xB002  # of an MPO: a description of each picture
IMAGE_DEPTH = 32997  # the slices of a volume
ORIENTATION = 0x0112  # also an EXIF tag
BLACK_IS_ZERO, RGB = 1, 2  # values of PHOTOMETRIC
COLOURS = {RGB: 3, 5: 4, 6: 3, 8: 3}  # bands by PHOTOMETRIC: CMYK, YCbCr, CIELab; 1 for others
UNSIGNED, FLOAT, UNDEFINED = 1, 3, 4  # values of SAMPLE_FORMAT
NUMBERS = {  # name and meaning by SAMPLE_FORMAT
    UNSIGNED: ("uint", "unsigned integers"),
    2: ("int", "signed integers, which may be negative"),
    FLOAT: ("float", "floating point numbers"),
    UNDEFINED: ("uint", "unsigned integers"),
    5: ("complex", "complex integers"),
    6: ("complex", "complex numbers"),
}
REDUCED, ALPHA = 1, ((1,), (2,))  # a bit of SUBFILE; values of EXTRA
MAX_PAGES = 1000  # are counted
PORTABLE_WORDS = "I;16B"  # Pillow's name of 16 bits in a PGM

# Register TIFF variants whose headers Pillow refuses to read: float RGB, and 16-bit gray with alpha. Their
# pixels are decoded by tifffile.
for _order in (TiffImagePlugin.II, TiffImagePlugin.MM):
    for _extra in ((), *ALPHA):
        _float, _gray = (_order, RGB, (FLOAT,), 1), (_order, BLACK_IS_ZERO, (UNSIGNED,), 1)
        _mode = "RGBA" if _extra else "RGB"
        TiffImagePlugin.OPEN_INFO.setdefault((*_float, (32,) * len(_mode), _extra), (_mode, _mode))
        if _extra:
            TiffImagePlugin.OPEN_INFO.setdefault((*_gray, (16, 16), _extra), ("LA", "LA"))


class Unsupported(Exception):
    """A file that is sound, but that would not be read as it was meant.

    Args:
        what: follows the name of the file, such as "has 3 pages".
        why: the values that were found.
        fix: what to do about it.
    """

    def __init__(self, what: str, why: str, fix: str):
        super().__init__(what, why, fix)
        self.what, self.why, self.fix = what, why, fix


def refuse_unsupported(file: ImageFile) -> None:
    """Raise Unsupported for a depth, bands or pages that would be lost; `file` is not decoded yet."""
    if file.format == "TIFF":
        _refuse_tags(file.tag_v2)  # type: ignore[attr-defined]
    elif file.format == "PPM" and file.mode == "F":
        raise Unsupported("has an unsupported depth", "float32 in a PFM file", "save it as a TIFF")
    if (pages := pages_of(file)) > 1:
        _refuse_pages(pages, "pages" if file.format in ("TIFF", "PPM") else "frames")


def refuse_unknown_tiff(file: BinaryIO) -> None:
    """Raise Unsupported for a TIFF that Pillow cannot open, such as one of float64; return for others."""
    file.seek(0)
    try:
        tags = next(directories(file))
    except Exception:  # damaged, or of another kind
        return
    _refuse_tags(tags)


def _refuse_tags(tags: Any) -> None:
    """Raise Unsupported for the tags of the first page of a TIFF."""
    number = min(tags.get(SAMPLE_FORMAT, (UNSIGNED,)))
    bits, photometric = max(tags.get(BITS, (1,))), tags.get(PHOTOMETRIC, BLACK_IS_ZERO)
    depth = tiff_depth(tags)
    if depth is None:
        name, meaning = NUMBERS.get(number, ("sample format ", "unknown numbers"))
        fix = "convert it to uint8, uint16, or float32 in [0, 1]"
        raise Unsupported("has an unsupported depth", f"{name}{bits}: {meaning} of {bits} bits", fix)
    bands, extra = tags.get(SAMPLES, 1), tags.get(EXTRA, ())
    if depth > 8 and photometric not in (BLACK_IS_ZERO, RGB):  # CMYK, white is zero
        found = f"photometric interpretation {photometric}"
        raise Unsupported("is neither gray nor RGB", found, "convert it to gray or RGB")
    colours = COLOURS.get(photometric, 1)
    if bands > colours and not (bands == colours + 1 and extra in ALPHA):
        found = f"{bands} bands: {colours} of colour, and others that are not marked as alpha"
        fix = "save the bands to use as a gray or RGB file; mark a band of opacity as alpha"
        raise Unsupported("has bands beyond gray or RGB", found, fix)
    if tags.get(IMAGE_DEPTH, 1) > 1:
        _refuse_pages(tags[IMAGE_DEPTH], "slices")


def _refuse_pages(count: int, what: str) -> None:
    why = "an image file is one image here; the first alone would be read"
    raise Unsupported(f"has {count} {what}", why, "save each of them as a file of its own")


# --------------------------------------------------------------------------------------------------- pages


def pages_of(file: ImageFile) -> int:
    """Count the pages or frames; 1 for a photo with previews (MPO, pages of reduced size)."""
    if file.format == "PPM":
        return 1 + _portable_follows(file)
    if file.format == "MPO":  # of a stereo camera or a panorama; a phone adds previews and gain maps
        entries = file.mpinfo.get(MP_ENTRIES, ())  # type: ignore[attr-defined]
        return 1 + sum("Multi-Frame" in str(each["Attribute"]["MPType"]) for each in entries[1:])
    if file.format == "TIFF":
        return _tiff_pages(file)
    return file.n_frames if getattr(file, "is_animated", False) else 1  # type: ignore[attr-defined]


def _tiff_pages(file: ImageFile) -> int:
    """Count the pages of a TIFF that are no reduced copies, and with them a first one that is."""
    if not getattr(file, "is_animated", False):
        tags: Any = file.tag_v2  # type: ignore[attr-defined]
        within = tags.get(SUB_IFDS, ()) if tags.get(SUBFILE, 0) & REDUCED else ()
        return 1 + (len(within) if isinstance(within, tuple) else 1)
    stream: Any = file.fp
    at = stream.tell()
    stream.seek(0)
    reduced = [bool(tags.get(SUBFILE, 0) & REDUCED) for tags in islice(directories(stream), MAX_PAGES)]
    stream.seek(at)
    return reduced.count(False) + reduced[0]


def directories(file: BinaryIO) -> Iterator[Any]:
    """Yield the tags of each page of a TIFF, from its beginning; the same object each time."""
    head = file.read(8)
    head += file.read(8) if head[2:3] == b"+" else b""  # BigTIFF
    tags = TiffImagePlugin.ImageFileDirectory_v2(head)
    seen: set[int] = set()
    while tags.next and tags.next not in seen:
        seen.add(tags.next)
        file.seek(tags.next)
        tags.load(file)
        yield tags


def _portable_follows(file: ImageFile) -> bool:
    """Whether another image follows the first one in a binary PBM, PGM or PPM file."""
    kind, _, offset, _ = file.tile[0]
    if kind == "ppm_plain":
        return False
    row = -(-file.width // 8) if file.mode == "1" else file.width * channels_of(file) * depth_of(file) // 8
    stream: Any = file.fp
    at = stream.tell()
    stream.seek(offset + row * file.height)
    more = stream.read(64).lstrip().startswith(b"P")
    stream.seek(at)
    return more


# --------------------------------------------------------------------------------------- channels and depth


def channels_of(file: ImageFile) -> int:
    """Return 1 for gray images and 3 for all others, from the header."""
    gray = file.mode in ("1", "L", "LA", "F", "I") or file.mode.startswith("I;16")
    return 1 if gray or "LA;16B" in raw_modes(file) else 3  # Pillow calls 16-bit gray with alpha RGBA


def raw_modes(file: ImageFile) -> list[str]:
    """Return Pillow's names of the pixel formats in the file; empty once it is decoded."""
    return [str(tile[3]) for tile in getattr(file, "tile", ())]


def depth_of(file: ImageFile) -> int:
    """Return the bits per channel from the header: 8 (or fewer), 16 or 32 (float)."""
    if file.format == "TIFF":
        return tiff_depth(file.tag_v2) or 8  # type: ignore[attr-defined]
    if file.format == "PPM":
        return 16 if portable_scale(file) > 255 else 8
    deep = file.mode.startswith("I;16") or any("16" in mode for mode in raw_modes(file))
    return 16 if file.format == "PNG" and deep else 8


def tiff_depth(tags: Any) -> int | None:
    """Return the depth by the tags of a TIFF: 8 (or fewer), 16 or 32 (float); None: another."""
    bits, formats = max(tags.get(BITS, (1,))), set(tags.get(SAMPLE_FORMAT, (UNSIGNED,)))
    if formats == {FLOAT}:
        return 32 if bits == 32 else None
    known = bits in (*range(9), 16) and formats <= {UNSIGNED, UNDEFINED}
    return max(bits, 8) if known else None


def portable_scale(file: ImageFile) -> int:
    """Return the value of white in a PBM, PGM or PPM file, before it is decoded."""
    format = file.tile[0][3]
    if isinstance(format, tuple):
        return int(format[1])
    return 65535 if format == PORTABLE_WORDS else 255


# ----------------------------------------------------------------------------------------------- orientation


def orientation_of(file: ImageFile) -> int:
    """Return the EXIF orientation, 1 to 8, without decoding pixels (PngImageFile.getexif would)."""
    found = Image.Image.getexif(file).get(ORIENTATION)
    if found is None and file.format == "PNG":
        exif = Image.Exif()
        exif.load(_png_exif(file))
        found = exif.get(ORIENTATION)
    return found if found is not None and found in range(1, 9) else 1


def _png_exif(file: ImageFile) -> bytes:
    """Return the eXIf chunk of a PNG, which may follow the pixels; empty if there is none."""
    assert file.fp
    at, number = 8, file.fp.fileno()
    while len(head := os.pread(number, 8, at)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name == b"eXIf":
            body = os.pread(number, length, at + 8)
            if len(body) < length:
                raise EOFError("the file ends within its eXIf chunk")
            return body
        at += length + 12
    return b""
