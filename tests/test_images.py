"""Every kind of image file: read as it was written, trained on and tested, and written at its depth."""

import io
import struct
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from data.images import MAX_PIXELS, header, read_image
from data.save import LOSSY, output_suffix
from data.transforms import preparation
from models import build_network, own_arguments
from models.weights import load_weights
from tests.builders import FAST, TINY_NET, pixels, png_chunk, png_file, save
from tests.cli import InProcess
from utils.run.run import Run
from utils.system.errors import UserError
from utils.system.pixels import from_float, max_value, to_float

imagecodecs = pytest.importorskip("imagecodecs")
tifffile = pytest.importorskip("tifffile")

Array = np.ndarray
Made = tuple[bytes, Array]  # a file, and the pixels (H, W, C) that reading it has to give
SIZES = ((1, 1), (1, 9), (33, 20), (64, 49))  # (width, height)
LEVELS: dict[Any, float] = {np.dtype("u1"): 255, np.dtype("u2"): 65535, np.dtype("f4"): 1.0}
SHORT = ("--dataroot", "set", *TINY_NET, *FAST, "--max_steps", "2")


# ------------------------------------------------------------------------------------- files of every kind


def plain(values: Array) -> Array:
    return np.array(values[:, :, 0] if values.shape[2] == 1 else values, order="C")


def png(values: Array, turned: int = 1, late: bool = False) -> bytes:
    """A PNG of 8 or 16 bits, with an EXIF orientation before or `late`, behind the pixels."""
    data = imagecodecs.png_encode(plain(values))
    at = -12 if late else 33
    return data if turned == 1 else data[:at] + png_chunk(b"eXIf", exif(turned)) + data[at:]


def tiff(values: Array, order: Literal["<", ">"] = "<", turned: int = 1, **options: Any) -> bytes:
    """A TIFF; `order` is struct's."""
    file, stored = io.BytesIO(), plain(values)
    if options.get("planarconfig") == "separate":
        stored = stored.transpose(2, 0, 1)
    options.setdefault("photometric", "rgb" if values.shape[2] == 3 else "minisblack")
    tags = [(274, "H", 1, turned, True)]
    tifffile.imwrite(file, stored, byteorder=order, metadata=None, extratags=tags, **options)
    return file.getvalue()


def with_tags(data: bytes, **tags: int) -> bytes:
    """A TIFF whose header says something else."""
    file = io.BytesIO(data)
    file.name = "in memory"
    with tifffile.TiffFile(file, mode="r+b") as found:
        for name, value in tags.items():
            found.pages.first.tags[name].overwrite(value)
        return file.getvalue()


def exif(orientation: int) -> bytes:
    """An EXIF block with that one tag."""
    return b"MM\0\x2a\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", 274, 3, 1, orientation, 0, 0)


def laid(upright: Array, orientation: int) -> Array:
    """How a file of that EXIF orientation stores an upright image.

    The table of EXIF 2.3 (tag 274): where the stored row 0 and column 0 lie in the upright image.
    """
    ways: dict[int, Callable[[Array], Array]] = {
        1: lambda x: x,  # row 0 top, column 0 left
        2: np.fliplr,  # top, right
        3: lambda x: np.rot90(x, 2),  # bottom, right
        4: np.flipud,  # bottom, left
        5: lambda x: x.transpose(1, 0, 2),  # left, top
        6: np.rot90,  # right, top: turn it clockwise to see it
        7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),  # right, bottom
        8: lambda x: np.rot90(x, -1),  # left, bottom
    }
    return np.ascontiguousarray(ways[orientation](upright))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pil(values: Array) -> Image.Image:
    return Image.fromarray(plain(values))


def with_alpha(values: Array) -> Array:
    """One more channel, of all values: what is transparent keeps its colour."""
    alpha = np.arange(values[:, :, 0].size).reshape(*values.shape[:2], 1) * 7919 % 256
    scaled = (alpha * (LEVELS[values.dtype] // 255)).astype(values.dtype)
    return np.concatenate([values, scaled], axis=2)


def of_palette(values: Array, kind: str = "PNG", **options: Any) -> Made:
    """A palette of 256 colours."""
    colours = np.random.default_rng(5).integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(values[:, :, 0])
    image.putpalette(colours.tobytes())  # makes it P
    return encoded(image, kind, **options), colours[values[:, :, 0]]


def of_one_bit(values: Array) -> Made:
    bits = values[:, :, 0] > 127
    return encoded(Image.fromarray(bits), "PNG"), bits[:, :, None] * np.uint8(255)


def of_few_bits(values: Array, bits: int) -> Made:
    """Gray of 2 or 4 bits; the largest value is white (PNG specification, 13.12)."""
    few, (height, width) = values >> (8 - bits), values.shape[:2]
    rows = np.packbits(np.unpackbits(few, axis=2)[:, :, 8 - bits :].reshape(height, -1), axis=1)
    data = png_file(width, height, bits, 0, b"".join(b"\0" + row.tobytes() for row in rows))
    return data, few * np.uint8(255 // (2**bits - 1))


def of_jpeg(values: Array, **options: Any) -> Made:
    data = encoded(pil(values), "JPEG", quality=95, **options)
    decoded = imagecodecs.jpeg8_decode(data)
    return data, decoded.reshape(values.shape)


def of_turned_jpeg(values: Array) -> Made:
    data, stored = of_jpeg(laid(values, 6), exif=b"Exif\0\0" + exif(6))
    return data, np.rot90(stored, -1)


def portable(values: Array, kind: int, scale: int, comment: bool = False) -> bytes:
    """A PGM or PPM as netpbm defines it: 2 and 3 are ASCII, 5 and 6 binary, most significant byte first."""
    height, width = values.shape[:2]
    note = "# made by a test\n" if comment else ""
    head = f"P{kind}\n{note}{width} {height}\n{scale}\n".encode()
    if kind in (2, 3):
        return head + "\n".join(map(str, values.ravel().tolist())).encode() + b"\n"
    return head + values.astype(">u2" if scale > 255 else "u1").tobytes()


def of_few_levels(values: Array, kind: int, scale: int) -> Made:
    """A file whose white is `scale`; 16 bits hold the nearest of their own levels."""
    few = (values.astype(np.int64) * scale // 65535).astype(np.uint16)
    return portable(few, kind, scale), np.rint(few * (65535 / scale)).astype(np.uint16)


def of_cmyk(values: Array) -> Made:
    """Four inks in Adobe's way, 255 - ink: R = (255 - C)(255 - K) / 255, as viewers without a profile do."""
    inks = Image.frombytes("CMYK", values.shape[1::-1], with_alpha(values).tobytes())
    data = encoded(inks, "JPEG", quality=95)
    light = imagecodecs.jpeg8_decode(data, colorspace="CMYK", outcolorspace="CMYK").astype(float)
    return data, np.rint(light[:, :, :3] * light[:, :, 3:] / 255).astype(np.uint8)


# family -> kind -> file of values (H, W, C) of the family's type and channels
KINDS: dict[str, dict[str, Callable[[Array], Made]]] = {
    "8 gray": {
        "gray.png": lambda v: (encoded(pil(v), "PNG"), v),
        "one_bit.png": of_one_bit,
        "two_bits.png": lambda v: of_few_bits(v, 2),
        "four_bits.png": lambda v: of_few_bits(v, 4),
        "alpha.png": lambda v: (encoded(pil(with_alpha(v)), "PNG"), v),
        "gray.bmp": lambda v: (encoded(pil(v), "BMP"), v),
        "gray.jpg": of_jpeg,
        "intel.tif": lambda v: (tiff(v), v),
        "lzw.TIFF": lambda v: (encoded(pil(v), "TIFF", compression="tiff_lzw"), v),
        "turned.tif": lambda v: (tiff(laid(v, 6), turned=6), v),
        "gray.pgm": lambda v: (portable(v, 5, 255, comment=True), v),
        "plain.pnm": lambda v: (portable(v, 2, 255), v),
        "bits.pbm": lambda v: (encoded(Image.fromarray(v[:, :, 0] > 99), "PPM"), (v > 99) * np.uint8(255)),
        "gray.jfif": of_jpeg,
    },
    "8 rgb": {
        "rgb.png": lambda v: (encoded(pil(v), "PNG"), v),
        "alpha.png": lambda v: (encoded(pil(with_alpha(v)), "PNG"), v),
        "palette.png": of_palette,
        "palette_one.png": lambda v: of_palette(v, transparency=3),  # one colour is transparent
        "palette_each.png": lambda v: of_palette(v, transparency=bytes(range(256))),
        "palette.tif": lambda v: of_palette(v, "TIFF"),
        "rgb.bmp": lambda v: (encoded(pil(v), "BMP"), v),
        "rgb.webp": lambda v: (encoded(pil(v), "WEBP", lossless=True), v),
        "alpha.webp": lambda v: (encoded(pil(with_alpha(v)), "WEBP", lossless=True, exact=True), v),
        "rgb.jpeg": of_jpeg,
        "cmyk.jpg": of_cmyk,
        "turned.JPG": of_turned_jpeg,
        "turned.png": lambda v: (png(laid(v, 8), 8), v),
        "motorola.tif": lambda v: (tiff(v, ">"), v),
        "planar.tif": lambda v: (tiff(v, planarconfig="separate"), v),
        "deflate.tif": lambda v: (encoded(pil(v), "TIFF", compression="tiff_adobe_deflate"), v),
        "palette.gif": lambda v: of_palette(v, "GIF"),
        "transparent.GIF": lambda v: of_palette(v, "GIF", transparency=3),
        "rgb.ppm": lambda v: (portable(v, 6, 255), v),
        "plain.ppm": lambda v: (portable(v, 3, 255, comment=True), v),
        "rgb.jpe": of_jpeg,
    },
    "16 gray": {
        "gray.png": lambda v: (png(v), v),
        "alpha.png": lambda v: (png(with_alpha(v)), v),
        "intel.tif": lambda v: (tiff(v), v),
        "motorola.tif": lambda v: (tiff(v, ">"), v),
        "lzw.tif": lambda v: (tiff(v, ">", compression="lzw"), v),
        "turned.png": lambda v: (png(laid(v, 6), 6), v),
        "turned.tiff": lambda v: (tiff(laid(v, 5), ">", turned=5), v),
        "gray.pgm": lambda v: (portable(v, 5, 65535, comment=True), v),
        "plain.pgm": lambda v: (portable(v, 2, 65535), v),
        "twelve_bits.pgm": lambda v: of_few_levels(v, 5, 4095),
        "thousand.pnm": lambda v: of_few_levels(v, 2, 1000),
    },
    "16 rgb": {
        "rgb.png": lambda v: (png(v), v),
        "alpha.png": lambda v: (png(with_alpha(v)), v),
        "intel.tif": lambda v: (tiff(v), v),
        "motorola.tif": lambda v: (tiff(v, ">"), v),
        "planar.tif": lambda v: (tiff(v, ">", planarconfig="separate"), v),
        "lzw.tif": lambda v: (tiff(v, compression="lzw"), v),
        "deflate.tif": lambda v: (tiff(v, ">", compression="zlib", predictor=2), v),
        "turned.png": lambda v: (png(laid(v, 8), 8, late=True), v),
        "turned.tif": lambda v: (tiff(laid(v, 6), turned=6), v),
        "rgb.ppm": lambda v: (portable(v, 6, 65535), v),
        "plain.pnm": lambda v: (portable(v, 3, 65535, comment=True), v),
        "ten_bits.ppm": lambda v: of_few_levels(v, 6, 1023),
    },
    "float gray": {
        "intel.tif": lambda v: (tiff(v), v),
        "motorola.tif": lambda v: (tiff(v, ">"), v),
        "deflate.tif": lambda v: (tiff(v, compression="zlib"), v),
        "deflate_motorola.tif": lambda v: (tiff(v, ">", compression="zlib"), v),
        "turned.tif": lambda v: (tiff(laid(v, 7), turned=7), v),
    },
    "float rgb": {
        "intel.tif": lambda v: (tiff(v), v),
        "motorola.tiff": lambda v: (tiff(v, ">"), v),
        "planar.tif": lambda v: (tiff(v, planarconfig="separate"), v),
        "lzw.tif": lambda v: (tiff(v, compression="lzw"), v),
        "turned.tif": lambda v: (tiff(laid(v, 6), ">", turned=6), v),
    },
}
FAMILY: dict[str, np.dtype[Any]] = {"8": np.dtype("u1"), "16": np.dtype("u2"), "float": np.dtype("f4")}
ALL = [(family, kind) for family, kinds in KINDS.items() for kind in kinds]


def some(family: str, size: tuple[int, int], seed: int = 0, top: float = 1.0) -> Array:
    """Smooth random values `(H, W, C)` of a family, at most `top` of full scale, noise in the low bits."""
    depth, colour = family.split()
    width, height = size
    rng = np.random.default_rng([seed, width, height])
    channels = 3 if colour == "rgb" else 1
    coarse = rng.random((4, 5, channels)).astype(np.float32)
    fine = [Image.fromarray(coarse[:, :, c]).resize(size, Image.Resampling.BILINEAR) for c in range(channels)]
    values = np.stack([np.asarray(image) for image in fine], axis=2) * 0.9
    values = top * np.clip(values + 0.1 * rng.random(values.shape), 0, 1)
    levels = LEVELS[FAMILY[depth]]
    return (values * levels).astype(FAMILY[depth])


def made(family: str, kind: str, path: Path, size: tuple[int, int], seed: int = 0) -> Array:
    """Write one file; its pixels."""
    data, expected = KINDS[family][kind](some(family, size, seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return expected


def on_disk(path: Path) -> Array:
    """`(H, W, C)` of an output by another reader than the one that `read_image` uses for its kind."""
    if path.suffix == ".png":
        decoded = imagecodecs.png_decode(path.read_bytes())
        if decoded.ndim == 3 and decoded.dtype == np.uint16:  # Pillow decodes the upper bytes
            assert np.array_equal(decoded >> 8, pixels(path))
    else:
        decoded = imagecodecs.tiff_decode(path.read_bytes())
    return decoded if decoded.ndim == 3 else decoded[:, :, None]


# ------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(("family", "kind"), ALL)
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (33, 20)])
def test_a_file_is_read_as_written(tmp_path: Path, family: str, kind: str, size: tuple[int, int]) -> None:
    path = tmp_path / kind
    expected = made(family, kind, path, size)
    image = read_image(path)
    assert image.dtype == expected.dtype and image.dtype.isnative
    assert image.shape == expected.shape == (size[1], size[0], 3 if "rgb" in family else 1)
    if path.suffix.lower() in LOSSY:  # two builds of libjpeg
        assert np.abs(image.astype(int) - expected).max() <= 1
    else:
        assert np.array_equal(image, expected)
    found = header(path)
    depth = {"8": 8, "16": 16, "float": 32}[family.split()[0]]
    assert (found.height, found.width, found.channels, found.depth) == (*image.shape, depth)


def test_a_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    path = tmp_path / "cmyk.jpg"
    inks = np.zeros((16, 64, 4), np.uint8)
    corners = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)]
    for i, ink in enumerate(corners):  # in whole blocks of JPEG
        inks[:, 16 * i : 16 * i + 16] = ink
    path.write_bytes(encoded(Image.frombytes("CMYK", (64, 16), inks.tobytes()), "JPEG", quality=100))
    image = read_image(path)
    for i, colour in enumerate([(255, 255, 255), (0, 255, 255), (255, 0, 0), (0, 0, 0)]):
        assert np.abs(image[:, 16 * i + 4 : 16 * i + 12].astype(int) - colour).max() <= 3
    assert header(path)[:4] == (64, 16, 3, 8)


ORIENTED: dict[str, tuple[str, Callable[[Array, int], bytes]]] = {
    "8.jpg": ("8 rgb", lambda v, o: encoded(pil(v), "JPEG", quality=100, exif=b"Exif\0\0" + exif(o))),
    "8.png": ("8 rgb", lambda v, o: png(v, o)),
    "8_late.png": ("8 gray", lambda v, o: png(v, o, late=True)),
    "8.webp": ("8 rgb", lambda v, o: encoded(pil(v), "WEBP", lossless=True, exif=b"Exif\0\0" + exif(o))),
    "8.tif": ("8 gray", lambda v, o: tiff(v, turned=o)),
    "8_rgb.tif": ("8 rgb", lambda v, o: tiff(v, ">", turned=o)),
    "16.png": ("16 gray", lambda v, o: png(v, o)),
    "16_rgb.png": ("16 rgb", lambda v, o: png(v, o)),
    "16_late.png": ("16 rgb", lambda v, o: png(v, o, late=True)),
    "16.tif": ("16 gray", lambda v, o: tiff(v, turned=o)),
    "16_motorola.tif": ("16 gray", lambda v, o: tiff(v, ">", turned=o)),
    "16_lzw.tif": ("16 gray", lambda v, o: tiff(v, turned=o, compression="lzw")),
    "16_rgb.tif": ("16 rgb", lambda v, o: tiff(v, ">", turned=o)),
    "float.tif": ("float gray", lambda v, o: tiff(v, turned=o)),
    "float_rgb.tif": ("float rgb", lambda v, o: tiff(v, turned=o)),
}


@pytest.mark.parametrize("kind", ORIENTED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_is_applied_once(tmp_path: Path, kind: str, orientation: int) -> None:
    family, write = ORIENTED[kind]
    values = some(family, (24, 16))
    path = tmp_path / kind
    path.write_bytes(write(laid(values, orientation), orientation))
    image = read_image(path)
    assert image.shape == values.shape
    if kind.endswith(".jpg"):  # the eight candidates are far apart
        assert np.abs(image.astype(int) - values).mean() < 8
    else:
        assert np.array_equal(image, values)
    assert header(path)[:2] == (24, 16)


@pytest.mark.parametrize("orientation", [0, 9, 60000])
def test_an_invalid_orientation_is_ignored(tmp_path: Path, orientation: int) -> None:
    values = some("8 rgb", (5, 4))
    (tmp_path / "a.png").write_bytes(png(values, orientation))
    assert np.array_equal(read_image(tmp_path / "a.png"), values)


def test_a_header_decodes_no_pixels(tmp_path: Path) -> None:
    """The survey before a run reads a thousand of them: pixels that are missing go unnoticed."""
    for family, kind in [("8 rgb", "rgb.png"), ("16 rgb", "rgb.png"), ("8 gray", "gray.png")]:
        path = tmp_path / kind
        made(family, kind, path, (64, 49))
        path.write_bytes(path.read_bytes()[:200])
        assert header(path)[:2] == (64, 49)
        with pytest.raises(UserError, match="cannot be read"):
            read_image(path)


def open_files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_no_file_stays_open(tmp_path: Path) -> None:
    paths = []
    for i, (family, kind) in enumerate(ALL):
        paths.append(tmp_path / f"{i}_{kind}")
        made(family, kind, paths[-1], (6, 5))
    broken = tmp_path / "broken.png"
    broken.write_bytes(paths[0].read_bytes()[:50])
    read_image(paths[0])
    kept, before = [], open_files()
    for path in paths:
        kept += [header(path), read_image(path)]
        assert open_files() == before, path
    with pytest.raises(UserError) as caught:
        read_image(broken)
    assert open_files() == before and "broken.png" in str(caught.value)


# --------------------------------------------------------------------------------------------------- errors

WHITE = np.full((4, 5, 1), 1000, np.uint16)
BAD: dict[str, tuple[bytes, str]] = {
    "twelve.tif": (with_tags(tiff(WHITE), BitsPerSample=12), "12 bits"),
    "int32.tif": (tiff(WHITE.astype(np.int32)), "unsupported depth"),
    "int16.tif": (tiff(WHITE.astype(np.int16)), "unsupported depth"),
    "white_is_zero.tif": (tiff(WHITE, photometric="miniswhite"), "neither gray nor RGB"),
    "inks16.tif": (tiff(np.repeat(WHITE, 4, 2), photometric="separated"), "neither gray nor RGB"),
    "above.tif": (tiff(np.full((4, 5, 1), 1.001, np.float32)), "outside [0, 1]"),
    "below.tif": (tiff(np.full((4, 5, 3), -0.001, np.float32)), "outside [0, 1]"),
    "nan.tif": (tiff(np.full((4, 5, 3), np.nan, np.float32)), "outside [0, 1]"),
    "inf.tif": (tiff(np.full((4, 5, 1), np.inf, np.float32), ">"), "outside [0, 1]"),
    "text.png": (b"no image at all", "cannot be read"),
    "empty.tif": (b"", "cannot be read"),
    "pcx.png": (encoded(Image.new("L", (5, 4)), "PCX"), "cannot be read"),
    "bomb.png": (png_file(2**14, MAX_PIXELS // 2**14 + 1, 8, 2), "too large"),
    "bomb16.png": (png_file(2**14, MAX_PIXELS // 2**14 + 1, 16, 2), "too large"),
    "bomb.tif": (with_tags(tiff(WHITE.astype("u1")), ImageWidth=2**14, ImageLength=2**14), "too large"),
    "bomb16.tif": (with_tags(tiff(WHITE), ImageWidth=2**14, ImageLength=2**14), "too large"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str) -> None:
    data, words = BAD[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_image(path)
    assert str(path) in caught.value.what and words in f"{caught.value.what} {caught.value.why}"
    if "outside" not in words:
        with pytest.raises(UserError, match=name):
            header(path)


def test_the_largest_size_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_file(2**14, MAX_PIXELS // 2**14, 8, 0))
    assert header(tmp_path / "a.png")[:2] == (2**14, MAX_PIXELS // 2**14)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for read in (read_image, header):
        with pytest.raises(UserError, match=r"none\.png cannot be read"):
            read(tmp_path / "none.png")


DEEP_PNG = [(family, kind) for family, kind in ALL if family[0] != "8" and kind.endswith(".png")]


@pytest.mark.filterwarnings("ignore:.*EXIF|Truncated File Read:UserWarning")  # Pillow's own, on the TIFF
@pytest.mark.parametrize(("family", "kind"), ALL)
def test_a_cut_file_is_refused_or_whole(tmp_path: Path, family: str, kind: str) -> None:
    path = tmp_path / kind
    expected = made(family, kind, path, (33, 20))
    data, refused = path.read_bytes(), 0
    cuts = [0, 8, 20, 60, 300, len(data) // 2, 3 * len(data) // 4, len(data) - 30, len(data) - 1]
    for cut in cuts:
        path.write_bytes(data[:cut])
        try:
            image = read_image(path)
        except UserError as refusal:
            assert str(path) in refusal.what
            refused += 1
        else:
            assert cut >= len(data) - 30 and np.array_equal(image, expected)  # the end mark of PNG or LZW
    assert refused >= len(cuts) - 2


@pytest.mark.parametrize(("family", "kind"), DEEP_PNG)
def test_a_flipped_bit_in_a_deep_png_is_refused(tmp_path: Path, family: str, kind: str) -> None:
    path = tmp_path / kind
    made(family, kind, path, (33, 20))
    data = path.read_bytes()
    pixels = data.index(b"IDAT") + 4
    length = struct.unpack(">I", data[pixels - 8 : pixels - 4])[0]
    for share in (0.1, 0.5, 0.9):
        damaged = bytearray(data)
        damaged[pixels + int(share * length)] ^= 16
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read"):
            read_image(path)


NEEDED = {("16 gray", "alpha.png"), ("float gray", "deflate_motorola.tif")}  # for gray


def test_only_deep_colour_needs_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {each: tmp_path / "_".join(each) for each in ALL}
    # before it is hidden: imagecodecs remembers for ever which of its parts it could not import
    written = {each: made(*each, path, (7, 5)) for each, path in places.items()}
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    for (family, kind), path in places.items():
        expected = written[family, kind]
        needed = ("rgb" in family and path.suffix not in (".ppm", ".pnm")) or (family, kind) in NEEDED
        if family.startswith("8") or not needed:
            assert read_image(path).shape == expected.shape
            continue
        with pytest.raises(UserError) as caught:
            read_image(path)
        assert str(path) in caught.value.what and "[tiff]" in caught.value.fix
    for dtype in (np.uint16, np.float32):
        with pytest.raises(UserError, match=r"\[tiff\]"):
            save(np.zeros((4, 5, 3), dtype), tmp_path / "out.tif")
        save(np.zeros((4, 5, 1), dtype), tmp_path / "out.tif")


# --------------------------------------------------------------------------------------------- depth, writing


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_level_survives_to_float_and_back(dtype: type) -> None:
    levels = np.iinfo(dtype).max
    every: Array = np.arange(levels + 1).astype(dtype).reshape(-1, 16, 1)
    unit = to_float(every)
    assert unit.dtype == np.float32 and max_value(dtype) == levels
    exact = np.arange(levels + 1).reshape(-1, 16, 1) / levels
    assert np.abs(unit - exact).max() <= 6e-8  # half a float32 step
    assert np.array_equal(from_float(unit, every.dtype), every)


def test_saving_rounds_to_the_nearest_and_clamps() -> None:
    for dtype, levels in ((np.uint8, 255), (np.uint16, 65535)):
        steps = np.arange(levels, dtype=np.float64)
        assert np.array_equal(from_float((steps + 0.49) / levels, dtype), steps)
        assert np.array_equal(from_float((steps + 0.51) / levels, dtype), steps + 1)
        assert from_float(np.array([-3.0, 7.0]), dtype).tolist() == [0, levels]
        values = np.random.default_rng(1).random(5000, dtype=np.float32)
        exact = [round(Fraction(float(value)) * levels) for value in values]
        assert from_float(values, dtype).tolist() == exact
    assert from_float(np.array([-1, 0.25, 2]), np.float32).tolist() == [0, 0.25, 1]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "suffix"), [("u1", ".png"), ("u1", ".tif"), ("u2", ".png"), ("u2", ".TIFF"), ("f4", ".tif")]
)
@pytest.mark.parametrize("size", [(1, 1), (9, 1), (33, 20)])
def test_what_is_saved_is_read_again(
    tmp_path: Path, dtype: str, suffix: str, channels: int, size: tuple[int, int]
) -> None:
    family = {"u1": "8", "u2": "16", "f4": "float"}[dtype] + (" rgb" if channels == 3 else " gray")
    image, path = some(family, size), tmp_path / f"a{suffix}"
    save(image, path)
    for found in (read_image(path), on_disk(path)):
        assert found.dtype == image.dtype and np.array_equal(found, image)
    save(image[::-1, ::-1], path)  # a view with steps of -1
    assert np.array_equal(on_disk(path), image[::-1, ::-1])


def test_the_suffix_of_an_output() -> None:
    for name in ("a.png", "a.JPG", "a.bmp", "a.webp", "a"):
        assert [output_suffix(name, dtype) for dtype in (np.uint8, np.uint16)] == [".png", ".png"]
        assert output_suffix(name, np.float32) == ".tif"
    assert output_suffix("a.PNG", np.uint8) == ".PNG" and output_suffix("a.PNG", np.float32) == ".tif"
    for suffix in (".tif", ".TIFF", ".Tif"):
        found = {output_suffix(f"s/a{suffix}", dtype) for dtype in (np.uint8, np.uint16, np.float32)}
        assert found == {suffix}


def test_a_deep_image_is_prepared_as_one_of_8_bits() -> None:
    """Resized and made gray at 16 bits and as floats it is what Pillow makes of 8 bits, to its rounding."""
    image = some("8 rgb", (33, 20), top=0.9)
    for size, channels in ((12, 3), (50, 3), (None, 1), (12, 1)):
        prepare = preparation(size, channels)
        expected = prepare(image)
        pillow = Image.fromarray(image)
        pillow = pillow.resize((size, size), Image.Resampling.BICUBIC) if size else pillow
        wanted = np.asarray(pillow.convert("L" if channels == 1 else "RGB")).reshape(expected.shape)
        assert np.array_equal(expected, wanted)
        deep = prepare(image.astype(np.uint16) * np.uint16(257))
        assert deep.dtype == np.uint16 and np.abs(deep / 257 - expected).max() <= 2
        unit = prepare(to_float(image))
        assert unit.dtype == np.float32 and np.abs(unit * 255 - expected).max() <= 2
    gray = some("16 gray", (7, 5))
    assert np.array_equal(preparation(None, 3)(gray), np.concatenate([gray] * 3, axis=2))


# ------------------------------------------------------------------------------------ from folder to results


def score(expected: Array, found: Array, dtype: Any) -> float:
    if np.array_equal(expected, found):
        return float("inf")
    return float(peak_signal_noise_ratio(expected, found, data_range=LEVELS[np.dtype(dtype)]))


def output_of(name: str, results: Path) -> Array:
    """What test.py wrote for an input of this name."""
    suffix = Path(name).suffix
    kept = suffix if suffix.lower() in (".tif", ".tiff") else ".png"
    return on_disk((results / "outputs" / name).with_suffix(kept))


@pytest.mark.parametrize("family", KINDS)
def test_a_folder_goes_through_training_and_testing(tmp_path: Path, cli: InProcess, family: str) -> None:
    """Every kind of a family is trained on and tested, in sub-folders, at all sizes."""
    files: dict[str, list[Array]] = {}
    for i, kind in enumerate([*KINDS[family]] * (1 if len(KINDS[family]) > 5 else 2)):
        for seed, side in enumerate(("input", "target")):
            made(family, kind, tmp_path / "set/train" / side / f"{i}_{kind}", (40, 48), 2 * i + seed)
    test = tmp_path / "set/test"
    for kind in KINDS[family]:
        for size in SIZES:
            name = f"{kind}/sub/{size[0]}x{size[1]}.{kind.partition('.')[2]}"
            sides = (("input", 100), ("target", 101))
            files[name] = [made(family, kind, test / side / name, size, seed) for side, seed in sides]
    cli.train(*SHORT)
    tested = cli.test()

    rows = {row["name"]: row for row in tested.rows}
    assert rows.keys() == files.keys()
    depth = FAMILY[family.split()[0]]
    assert sum(path.is_file() for path in (tested.results / "outputs").rglob("*.*")) == len(files)
    for name, (given, target) in files.items():
        output, row = output_of(name, tested.results), rows[name]
        assert output.shape == target.shape and output.dtype == depth, name
        jpeg = 0.1 if Path(name).suffix.lower() in LOSSY else 1e-6  # decoders differ in a bit
        assert float(row["psnr"]) == pytest.approx(score(target, output, depth), abs=jpeg), name
        assert float(row["psnr_input"]) == pytest.approx(score(target, given, depth), abs=jpeg), name
        if min(target.shape[:2]) < 11:
            assert row["ssim"] == "", name
    first = next(name for name in files if "33x20" in name)
    options: dict[str, Any] = {"gaussian_weights": True, "use_sample_covariance": False, "channel_axis": 2}
    options["data_range"] = LEVELS[depth]
    expected = structural_similarity(files[first][1], output_of(first, tested.results), **options)
    assert float(rows[first]["ssim"]) == pytest.approx(expected, abs=1e-5)


def test_inks_and_gray_beside_colour_do_not_crash(tmp_path: Path, cli: InProcess) -> None:
    """A CMYK JPEG, gray and RGB files, in one folder: the network has three channels, gray is repeated."""
    files = {}
    for split, size, count in (("train", (40, 48), 6), ("test", (33, 20), 3)):
        for side, coloured in (("input", 1), ("target", 0)):
            folder = tmp_path / "set" / split / side
            for i in range(count):
                kind = "rgb" if i % 3 == coloured else "gray"
                pixels = made(f"8 {kind}", f"{kind}.png", folder / f"{i}.png", size, 10 * i + 1 - coloured)
                files[split, side, i] = np.repeat(pixels, 3 // pixels.shape[2], axis=2)
            inks = Image.frombytes("CMYK", size, some("8 gray", (4 * size[0], size[1])).tobytes())
            (folder / "inks.jpg").write_bytes(encoded(inks, "JPEG"))
    cli.train(*SHORT)
    tested = cli.test()
    rows = {row["name"]: row for row in tested.rows}
    assert rows.keys() == {"0.png", "1.png", "2.png", "inks.jpg"}
    for i in range(3):
        output, target = output_of(f"{i}.png", tested.results), files["test", "target", i]
        assert output.shape == (20, 33, 3) and output.dtype == np.uint8
        for column, image in (("psnr", output), ("psnr_input", files["test", "input", i])):
            expected = score(target, image, np.uint8)
            assert float(rows[f"{i}.png"][column]) == pytest.approx(expected, abs=1e-6)
    assert output_of("inks.jpg", tested.results).shape == (20, 33, 3)
    assert rows["inks.jpg"]["psnr_input"] == "inf"  # the same file on both sides


@pytest.mark.parametrize(("given_family", "target_family"), [("8 gray", "16 gray"), ("16 gray", "8 gray")])
def test_an_output_has_the_depth_of_its_input_and_is_measured_at_that_of_the_target(
    tmp_path: Path, cli: InProcess, given_family: str, target_family: str
) -> None:
    pairs = {}
    for split, size, count in (("train", (40, 48), 6), ("test", (36, 20), 2)):
        for i in range(count):
            pairs[split, i] = [
                made(family, "gray.png", tmp_path / "set" / split / side / f"{i}.png", size, 10 * i + seed)
                for seed, (side, family) in enumerate((("input", given_family), ("target", target_family)))
            ]
    cli.train(*SHORT)
    tested = cli.test()
    run = Run.named("run")
    options = run.options()
    net = build_network(options["model"], **own_arguments(options["model"], options))
    load_weights(net, run.net("best"))
    net.eval()
    for i, row in enumerate(tested.rows):
        given, target = pairs["test", i]
        levels, goal = LEVELS[given.dtype], LEVELS[target.dtype]
        with torch.inference_mode():
            tensor = torch.from_numpy(given[None, None, :, :, 0] / levels * 2 - 1).float()
            unit = np.clip(net(tensor)[0, 0].double().numpy() / 2 + 0.5, 0, 1)[:, :, None]
        output = output_of(f"{i}.png", tested.results)
        assert output.dtype == given.dtype
        assert np.abs(output - unit * levels).max() <= 0.5 + 0.01 * levels / 255
        rounded = np.rint(unit * goal).astype(target.dtype)
        assert float(row["psnr"]) == pytest.approx(score(target, rounded, target.dtype), abs=1e-3)
        wanted = peak_signal_noise_ratio(target / goal, given / levels, data_range=1)
        assert float(row["psnr_input"]) == pytest.approx(wanted, abs=1e-6)


def test_noise_has_the_same_share_of_full_scale_at_16_bits(tmp_path: Path, cli: InProcess) -> None:
    """sigma 25 of 255: the input PSNR is -20 log10(25 / 255) = 20.17 dB."""
    for split, size, count in (("train", (40, 48), 6), ("test", (96, 96), 4)):
        for i in range(count):
            made("16 gray", "gray.png", tmp_path / "set" / split / f"{i}.png", size, 10 * i)
    cli.train(*SHORT, "--degrade", "noise:25")
    tested = cli.test("--dataroot", "set", "--degrade", "noise:25")
    assert tested.numbers("psnr_input").mean() == pytest.approx(-20 * np.log10(25 / 255), abs=0.1)
    for i, row in enumerate(tested.rows):
        target, output = some("16 gray", (96, 96), 10 * i), output_of(f"{i}.png", tested.results)
        assert output.dtype == np.uint16
        assert float(row["psnr"]) == pytest.approx(score(target, output, np.uint16), abs=1e-6)
