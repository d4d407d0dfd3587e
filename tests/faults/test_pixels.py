"""What goes wrong between the pixels of a file and the values of a sample: pages, bands, types, range."""

import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from data.check import sha256
from data.images import decode, header, read_image
from data.save import metadata
from tests.builders import CPU, FAST, ROOT, TINY_NET, error_of, image, pixels, save, write_set
from tests.cli import InProcess

imagecodecs = pytest.importorskip("imagecodecs")
tifffile = pytest.importorskip("tifffile")

Array = np.ndarray
STEP = (*FAST, *CPU, "--val_share", "0", "--max_steps", "1")
SET = ("--dataroot", "set", *TINY_NET, *STEP)


def pillow(values: Array, kind: str, mode: str | None = None) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(values)
    if mode:  # such as RGBX, of four bytes a pixel
        image = Image.frombytes(mode, image.size, values.tobytes())
    image.save(file, kind)
    return file.getvalue()


def tiff(values: Array, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def stack(count: int, dtype: Any = np.uint8, channels: int = 3) -> list[Array]:
    return [image(24, 32, channels, dtype, seed=seed).squeeze() for seed in range(count)]


def frames(kind: str, count: int = 3) -> bytes:
    first, *others = (Image.fromarray(each) for each in stack(count))
    file = io.BytesIO()
    first.save(file, kind, save_all=True, append_images=others)
    return file.getvalue()


# ---------------------------------------------------------------------------------- files of other types


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a socket": lambda path: socket.socket(socket.AF_UNIX).bind(os.path.relpath(path)),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
}


@pytest.mark.risk(33)
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.parametrize("read", [read_image, header, decode, sha256])
@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, read: Callable[[Path], object]
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    path = tmp_path / "odd.png"
    SPECIAL[kind](path)
    error = error_of(read, path)
    assert f"{path} is not a regular file" in error.what and error.why == f"it is {kind}"
    assert metadata(path, image(4, 4)) == {}


@pytest.mark.risk(33)
@pytest.mark.parametrize("place", ["train/input", "train/target", "test/input"])
@pytest.mark.parametrize("check", [False, True])
def test_a_fifo_or_device_in_a_set_never_hangs(
    tmp_path: Path, cli: InProcess, place: str, check: bool
) -> None:
    """However it came there: the listing names it, and its partner has none."""
    write_set(tmp_path / "set", count=4)
    split = place.split("/")[0]
    if split == "test" and not check:
        cli.train(*SET)
    for kind, i in (("a FIFO", 0), ("a device", 1)):
        path = tmp_path / f"set/{place}/{i}.png"
        path.unlink()
        SPECIAL[kind](path)
    if check:
        ended = cli.train(*SET, "--check_data", name="", code=2)
    else:
        ended = cli.train(*SET, code=2) if split == "train" else cli.test(code=2)
        assert ended.refused("2 targets have no partner" if "input" in place else "2 inputs")
    assert f"not regular files in set/{place}, not read: 0.png, 1.png" in ended.err


@pytest.mark.risk(33)
def test_a_file_that_becomes_a_fifo_after_the_start_is_refused(tmp_path: Path) -> None:
    """A process reads it twice, the second time as a FIFO without a writer; a hang would time out."""
    path = save(image(24, 32), tmp_path / "a.png")
    code = (
        "import os, sys; from pathlib import Path; from data.images import read_image;"
        "p = Path(sys.argv[1]); read_image(p); p.unlink(); os.mkfifo(p); read_image(p)"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "a.png is not a regular file" in done.stderr


# --------------------------------------------------------------------------------------- pages and frames


def tiff_pages(*pages: Array, subfiles: tuple[int, ...] = ()) -> bytes:
    """A TIFF of one page for each array; `subfiles` are their NewSubfileType, 1 for a reduced copy."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for page, subfile in zip(pages, subfiles or (0,) * len(pages), strict=True):
            colour = "rgb" if page.ndim == 3 else "minisblack"
            writer.write(page, photometric=colour, subfiletype=subfile, contiguous=False)
    return file.getvalue()


PAGES: dict[str, tuple[bytes, str]] = {
    "two.tif": (tiff_pages(*stack(2)), "has 2 pages"),
    "other_sizes.tif": (tiff_pages(image(24, 32), image(9, 8)), "has 2 pages"),
    "sixteen.tif": (tiff_pages(*stack(3, np.uint16)), "has 3 pages"),
    "pillow.tiff": (frames("TIFF"), "has 3 pages"),
    "bands.tif": (tiff(np.stack(stack(5, channels=1)), photometric="minisblack"), "has 5 pages"),
    "planes.tif": (tiff(np.stack(stack(3, channels=1)), photometric="minisblack"), "has 3 pages"),
    "batch.tif": (tiff(np.stack(stack(2, np.float32)), photometric="rgb"), "has 2 pages"),
    "float64.tif": (tiff(np.stack(stack(4, np.float64, 1)), photometric="minisblack"), "float64"),
    "volume.tif": (
        tiff(np.stack(stack(16, channels=1)), volumetric=True, photometric="minisblack"),
        "has 16 slices",
    ),
    "animated.gif": (frames("GIF"), "has 3 frames"),
    "animated.png": (frames("PNG"), "has 3 frames"),
    "animated.webp": (frames("WEBP"), "has 3 frames"),
    "two.pgm": (2 * pillow(image(24, 32, 1)[:, :, 0], "PPM"), "has 2 pages"),
    "two.ppm": (2 * pillow(image(24, 32), "PPM"), "has 2 pages"),
    "two.pbm": (2 * pillow(image(24, 31, 1)[:, :, 0] > 99, "PPM"), "has 2 pages"),
}


@pytest.mark.risk(32)
@pytest.mark.parametrize("name", PAGES)
def test_pages_beyond_the_first_are_refused_by_name(tmp_path: Path, name: str) -> None:
    data, words = PAGES[name]
    path = tmp_path / name
    path.write_bytes(data)
    for read in (header, read_image):
        error = error_of(read, path)
        assert str(path) in error.what and words in f"{error.what} {error.why}" and error.fix


@pytest.mark.risk(32)
@pytest.mark.parametrize("kind", ["tif", "gif", "webp"])
def test_the_scripts_refuse_pages_with_the_way_out(tmp_path: Path, cli: InProcess, kind: str) -> None:
    write_set(tmp_path / "set", count=4)
    data = PAGES["two.tif" if kind == "tif" else f"animated.{kind}"][0]
    cli.train(*SET)
    for split in ("train", "test"):
        (tmp_path / f"set/{split}/input/1.png").unlink()
        (tmp_path / f"set/{split}/input/1.{kind}").write_bytes(data)
    refused = cli.train(*SET, name="other", code=2)
    assert refused.refused(f"1.{kind} has ", "a file of its own")
    assert f"1.{kind} has" in cli.train(*SET, "--check_data", name="", code=2).err
    assert f"1.{kind} has" in cli.test(code=3).err


@pytest.mark.risk(32)
def test_a_photo_with_previews_is_one_image(tmp_path: Path) -> None:
    """Pages that are marked as reduced copies, and the second picture of a phone's MPO."""
    large = image(24, 32)
    path = tmp_path / "pyramid.tif"
    path.write_bytes(tiff_pages(large, large[::2, ::2], large[::4, ::4], subfiles=(0, 1, 1)))
    assert np.array_equal(read_image(path), large)
    phone = tmp_path / "phone.jpg"
    photo = Image.fromarray(image(24, 32, smooth=True))
    photo.save(phone, "MPO", save_all=True, append_images=[photo.resize((8, 6))], quality=95)
    with Image.open(phone) as file:
        assert (file.format, file.n_frames) == ("MPO", 2)  # type: ignore[attr-defined]
    assert np.array_equal(read_image(phone), pixels(phone)) and header(phone)[:2] == (32, 24)
    single = tmp_path / "single.gif"
    Image.fromarray(large).quantize(16).save(single)
    with Image.open(single) as file:
        assert np.array_equal(read_image(single), np.asarray(file.convert("RGB")))


# ------------------------------------------------------------------------------------- bands and data types


RGB4 = image(24, 32, 4)
BANDS: dict[str, tuple[bytes, str]] = {
    "near_infrared.tif": (tiff(RGB4, photometric="rgb", extrasamples=["unspecified"]), "4 bands"),
    "sixteen.tif": (tiff(image(24, 32, 4, np.uint16), photometric="rgb", extrasamples=[0]), "4 bands"),
    "float.tif": (tiff(image(24, 32, 4, np.float32), photometric="rgb", extrasamples=[0]), "4 bands"),
    "planar.tif": (
        tiff(RGB4.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", extrasamples=[0]),
        "4 bands",
    ),
    "padded.tif": (pillow(RGB4, "TIFF", mode="RGBX"), "4 bands"),
    "two.tif": (tiff(image(24, 32, 2), photometric="minisblack", planarconfig="contig"), "2 bands"),
    "five.tif": (tiff(image(24, 32, 5), photometric="minisblack", planarconfig="contig"), "5 bands"),
    "satellite.tif": (
        tiff(image(24, 32, 8, np.uint16), photometric="minisblack", planarconfig="contig"),
        "8 bands",
    ),
    "alpha_and_more.tif": (tiff(image(24, 32, 5), photometric="rgb", extrasamples=[2, 0]), "5 bands"),
}


@pytest.mark.risk(32)
@pytest.mark.parametrize("name", BANDS)
def test_a_band_that_is_not_alpha_is_refused_by_name(tmp_path: Path, name: str) -> None:
    data, words = BANDS[name]
    path = tmp_path / name
    path.write_bytes(data)
    for read in (header, read_image):
        error = error_of(read, path)
        assert f"{path} has bands beyond gray or RGB" in error.what and words in error.why and error.fix


@pytest.mark.risk(32)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_alpha_is_dropped_and_the_colours_stay(tmp_path: Path, dtype: Any) -> None:
    values = image(24, 32, 4, dtype)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(values, photometric="rgb", extrasamples=["unassalpha"]))
    assert np.array_equal(read_image(path), values[:, :, :3])


WRONG_TYPES = {
    "float64": "64 bits",
    "float16": "16 bits",
    "int16": "signed integers",
    "int8": "signed integers",
    "int32": "signed integers",
    "uint32": "32 bits",
    "complex64": "complex numbers",
}


@pytest.mark.risk(32)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", WRONG_TYPES)
def test_a_type_that_is_not_read_is_named_in_words(tmp_path: Path, dtype: str, channels: int) -> None:
    path = tmp_path / "a.tif"
    values = np.ones((24, 32, channels), dtype).squeeze()
    path.write_bytes(tiff(values, photometric="rgb" if channels == 3 else "minisblack"))
    for read in (header, read_image):
        error = error_of(read, path)
        assert f"{path} has an unsupported depth" in error.what
        assert error.why.startswith(dtype[:7]) and WRONG_TYPES[dtype] in error.why
        assert "float32 in [0, 1]" in error.fix


@pytest.mark.risk(32)
def test_a_pfm_is_no_image_of_8_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.pgm"
    path.write_bytes(b"Pf\n3 2\n-1.0\n" + np.full(6, 0.5, "<f4").tobytes())
    assert "float32" in error_of(read_image, path).why


# -------------------------------------------------------------------------------------------- large metadata


def with_text(*texts: tuple[str, int]) -> dict[str, Any]:
    info = PngImagePlugin.PngInfo()
    for kind, size in texts:
        if kind == "xmp":
            info.add_itxt("XML:com.adobe.xmp", "x" * size, zip=True)
        else:
            info.add_text(kind, "x" * size, zip=kind == "workflow")
    return {"pnginfo": info}


METADATA: dict[str, dict[str, Any]] = {
    "xmp": with_text(("xmp", 3_000_000)),
    "workflow": with_text(("workflow", 3_000_000)),
    "both": with_text(("xmp", 9_000_000), ("workflow", 9_000_000)),
    "plain": with_text(("comment", 2_000_000)),
    "profile": {"icc_profile": bytes(2_000_000)},
}


@pytest.mark.risk(32)
@pytest.mark.parametrize("kind", METADATA)
def test_large_metadata_of_a_png_does_not_keep_its_pixels(tmp_path: Path, kind: str) -> None:
    values = image(24, 32)
    path = save(values, tmp_path / "a.png", **METADATA[kind])
    assert np.array_equal(read_image(path), values) and header(path)[:2] == (32, 24)


@pytest.mark.risk(32)
def test_metadata_without_end_is_refused(tmp_path: Path) -> None:
    path = save(image(24, 32), tmp_path / "a.png", **with_text(("workflow", 100_000_000)))
    assert path.stat().st_size < 200_000
    assert "a.png cannot be read" in error_of(read_image, path).what
