"""What goes wrong between the pixels of a file and the values of a sample: pages, bands, types, range."""

import io
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import data.scan
from data.check import hash_of
from data.images import decode, header, read_image
from data.save import metadata
from tests.builders import CPU, FAST, ROOT, TINY_NET, error_of, image, pixels, psnr, save, write_set
from tests.cli import Ended, InProcess, options

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
@pytest.mark.parametrize("read", [read_image, header, decode, hash_of])
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


def two_views(kind: int) -> bytes:
    """An MPO whose second picture is of a kind of the MPF standard, such as 0x020002 of a stereo camera."""
    data = frames("MPO", 2)
    with Image.open(io.BytesIO(data)) as file:
        size = file.mpinfo[0xB002][1]["Size"]  # type: ignore[attr-defined]
    assert data.count(struct.pack("<LL", 0, size)) == 1
    return data.replace(struct.pack("<LL", 0, size), struct.pack("<LL", kind, size))


def page_within_a_preview() -> bytes:
    """A TIFF of one page, which is a reduced copy of the image in its SubIFD, as raw converters write it."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(image(6, 8), photometric="rgb", subfiletype=1, subifds=1)
        writer.write(image(24, 32), photometric="rgb")
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
    "preview_first.tif": (tiff_pages(image(6, 8), image(24, 32), subfiles=(1, 0)), "has 2 pages"),
    "preview_outside.tif": (page_within_a_preview(), "has 2 pages"),
    "stereo.jpg": (two_views(0x020002), "has 2 frames"),
    "panorama.jpg": (two_views(0x020001), "has 2 frames"),
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
    (tmp_path / "thumbnail.jpg").write_bytes(two_views(0x010001))
    assert header(tmp_path / "thumbnail.jpg")[:2] == (32, 24)
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


# --------------------------------------------------------------------------------------- gray and colour


def gray_set(root: Path, count: int = 12, split: str = "train") -> Path:
    write_set(root, splits=[split], count=count, channels=1)
    return root


def recolour(*paths: Path, kind: str = "RGB") -> None:
    """Replace gray files by colour images of the same size, of one of Pillow's modes or of 16 bits."""
    for path in paths:
        colours = image(40, 40, seed=7, smooth=True)
        if kind == "16 bit":
            save(colours.astype(np.uint16) * 257, path)
        else:
            Image.fromarray(colours).convert(kind).save(path)


@pytest.fixture
def few_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six headers are read at a start, as 4000 of 100,000 are: of the pairs 0, 5 and 11 of 12."""
    monkeypatch.setattr(data.scan, "MAX_HEADERS", 6)


@pytest.mark.risk(32)
@pytest.mark.usefixtures("few_headers")
@pytest.mark.parametrize("side", ["input", "target"])
@pytest.mark.parametrize("listed", [0, 5, 11])
def test_colour_anywhere_in_the_list_is_found_by_the_sample(
    tmp_path: Path, cli: InProcess, side: str, listed: int
) -> None:
    name = sorted(f"{i}.png" for i in range(12))[listed]
    recolour(gray_set(tmp_path / "set") / f"train/{side}" / name)
    cli.train(*SET)
    found = options(cli.run())
    assert (found["input_nc"], found["output_nc"]) == ((3, 1) if side == "input" else (1, 3))


@pytest.mark.risk(32)
@pytest.mark.usefixtures("few_headers")
@pytest.mark.parametrize(
    ("side", "kind"),
    [("input", "RGB"), ("target", "RGB"), ("input", "P"), ("target", "RGBA"), ("target", "16 bit")],
)
def test_colour_that_the_sample_missed_stops_the_run_by_name(
    tmp_path: Path, cli: InProcess, side: str, kind: str
) -> None:
    """Also after a resume, and never if a flag asks for gray."""
    path = gray_set(tmp_path / "set") / f"train/{side}/4.png"
    recolour(path, kind=kind)
    flag, epochs = f"--{'input' if side == 'input' else 'output'}_nc", (*SET[:-2], "--n_epochs", "1")
    for more in ((), ("--resume",)):
        ended = cli.train(*epochs, *more, code=1)
        assert ended.refused(f"set/train/{side}/4.png is a colour image", f"{flag} 3", code=1)
    cli.train(*epochs, "--on_bad_image", "skip", name="skipping")
    cli.train(*epochs, flag, "1", name="asked")
    cli.train(*epochs, flag, "1", "--resume", "--n_epochs", "2", name="asked")


@pytest.mark.risk(32)
def test_all_headers_of_a_few_thousand_files_are_read(tmp_path: Path, cli: InProcess) -> None:
    root = gray_set(tmp_path / "set", 1)
    for side in ("input", "target"):
        for i in range(1, 900):
            os.link(root / f"train/{side}/0.png", root / f"train/{side}/{i}.png")
        (root / f"train/{side}/777.png").unlink()
        recolour(root / f"train/{side}/777.png")
    assert "900 L 8 bit, 1 RGB" in cli.train(*SET).err.replace("899 L", "900 L")
    assert (options(cli.run())["input_nc"], options(cli.run())["output_nc"]) == (3, 3)


@pytest.mark.risk(32)
@pytest.mark.parametrize("colour", [1, 11, 12])
@pytest.mark.parametrize("flags", [(), ("--psnr_channel", "y")])
def test_a_gray_run_on_colour_images_never_says_all_channels(
    tmp_path: Path, cli: InProcess, colour: int, flags: tuple[str, ...]
) -> None:
    """However few of the images are colour; all gray, it does."""
    cli.train("--dataroot", str(gray_set(tmp_path / "set")), *TINY_NET, *STEP)
    tested = gray_set(tmp_path / "other", split="test")
    said = "Y of BT.601" if flags else "all channels"
    assert said in cli.test("--dataroot", "other", *flags).summary["protocol"]
    for i in range(12 - colour, 12):
        recolour(*(tested / f"test/{side}/{i}.png" for side in ("input", "target")))
    ended = cli.test("--dataroot", "other", *flags)
    assert said not in ended.out + ended.comment + ended.facts
    assert "after conversion to gray" in ended.summary["protocol"] and "not comparable" in ended.out


# ------------------------------------------------------------------------------------- EXIF on one side only


def with_exif(path: Path, stored: Array, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.unlink(missing_ok=True)
    save(stored, path, exif=exif.tobytes())


@pytest.mark.risk(32)
@pytest.mark.parametrize("side", ["input", "target"])
@pytest.mark.parametrize(
    ("orientation", "suffix"), [(2, "png"), (3, "jpg"), (4, "webp"), (6, "png"), (8, "tif")]
)
def test_an_orientation_on_one_side_only_is_said(
    tmp_path: Path, cli: InProcess, side: str, orientation: int, suffix: str
) -> None:
    names = [f"{i}.{suffix}" for i in range(4)]
    write_set(tmp_path / "set", names=names, splits=["train"])
    for name in names[1:3]:
        path = tmp_path / f"set/train/{side}/{name}"
        with_exif(path, pixels(path), orientation)
    said = f"the EXIF orientation of input and target differs in 2 pairs: {names[1]}, {names[2]}"
    assert f"warning {said}" in cli.train(*SET).err
    assert f"problem: train: {said}" in cli.train(*SET, "--check_data", name="", code=2).err


@pytest.mark.risk(32)
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_same_orientation_on_both_sides_is_no_problem(
    tmp_path: Path, cli: InProcess, orientation: int
) -> None:
    for pair in write_set(tmp_path / "set", splits=["train"], count=4):
        for path in pair:
            with_exif(path, pixels(path), orientation)
    assert "orientation" not in cli.train(*SET).err
    assert "no problems found" in cli.train(*SET, "--check_data", name="").err


@pytest.mark.risk(32)
def test_sizes_that_differ_by_an_orientation_name_it(tmp_path: Path, cli: InProcess) -> None:
    write_set(tmp_path / "set", splits=["train"], count=4, size=(40, 48))
    path = tmp_path / "set/train/input/1.png"
    with_exif(path, pixels(path), 6)
    assert cli.train(*SET, code=2).refused("differ in size", "40 x 48", "EXIF orientation", "upright")


# ------------------------------------------------------------------------------- bits in use, --max_value


def write_scaled(root: Path, scales: dict[str, tuple[Any, float]], count: int = 4) -> dict[str, list[Array]]:
    """Pairs in train and test whose sides have a dtype and a value of full brightness; the test pairs."""
    stored: dict[str, list[Array]] = {"input": [], "target": []}
    for split in ("train", "test"):
        for i in range(count):
            shown = image(40, 40, seed=100 * (split == "test") + i, smooth=True)[:, :, :1] / 255
            for side, (dtype, scale) in scales.items():
                noise = np.random.default_rng(i).normal(0, 0.03, shown.shape) if side == "input" else 0
                bright, is_float = np.clip(shown + noise, 0, 1), np.dtype(dtype).kind == "f"
                bright[0, 0] = 1
                values = (bright * scale if is_float else np.rint(bright * scale)).astype(dtype)
                save(values, root / split / side / f"{i}.{'tif' if is_float else 'png'}")
                if split == "test":
                    stored[side].append(values)
    return stored


LOW: dict[str, tuple[dict[str, tuple[Any, float]], str, str]] = {  # files, words, the flag that is offered
    "12 in 16": (
        {"input": (np.uint16, 4095), "target": (np.uint16, 4095)},
        "inputs reach 4095 of 65535 (16 bit), targets reach 4095",
        "--max_value 4095",
    ),
    "10 in 16, targets only": (
        {"input": (np.uint8, 255), "target": (np.uint16, 1023)},
        "targets reach 1023 of 65535 (16 bit)",
        "--max_value auto,1023",
    ),
    "14 in 16, inputs only": (
        {"input": (np.uint16, 16383), "target": (np.uint16, 65535)},
        "inputs reach 16383 of 65535 (16 bit)",
        "--max_value 16383,auto",
    ),
    "masks": (
        {"input": (np.uint8, 255), "target": (np.uint8, 1)},
        "targets reach 1 of 255 (8 bit)",
        "--max_value auto,1",
    ),
    "labels": (
        {"input": (np.uint8, 255), "target": (np.uint8, 20)},
        "targets reach 20 of 255 (8 bit)",
        "--max_value auto,31",
    ),
    "dark floats": (
        {"input": (np.float32, 1), "target": (np.float32, 0.125)},
        "targets reach 0.125 of 1 (float)",
        "--max_value auto,0.125",
    ),
}


@pytest.mark.risk(32)
@pytest.mark.parametrize("kind", LOW)
def test_unused_bits_are_said_at_the_start_and_wrong_for_the_check(
    tmp_path: Path, cli: InProcess, kind: str
) -> None:
    scales, words, flag = LOW[kind]
    write_scaled(tmp_path / "set", scales)
    (said,) = (line for line in cli.train(*SET).err.splitlines() if line.startswith("warning"))
    assert words in said and said.endswith(flag)
    tested = cli.test()
    assert words in tested.err and words in tested.out and words in tested.facts
    checked = cli.train(*SET, "--check_data", name="", code=2).err
    assert checked.count("problem: ") == 2 and checked.count(words) == 2


@pytest.mark.risk(32)
@pytest.mark.parametrize(
    "scales",
    [
        {"input": (np.uint16, 65535), "target": (np.uint16, 65535)},
        {"input": (np.uint8, 255), "target": (np.uint16, 40000)},
        {"input": (np.uint8, 90), "target": (np.uint8, 255)},
        {"input": (np.float32, 1), "target": (np.uint8, 255)},
    ],
)
def test_images_that_use_their_range_say_nothing(
    tmp_path: Path, cli: InProcess, scales: dict[str, tuple[Any, float]]
) -> None:
    write_scaled(tmp_path / "set", scales)
    assert "warning" not in cli.train(*SET).err + cli.test().err
    assert "no problems found" in cli.train(*SET, "--check_data", name="").err


SCALED: dict[str, tuple[dict[str, tuple[Any, float]], str]] = {
    "12 in 16": ({"input": (np.uint16, 4095), "target": (np.uint16, 4095)}, "4095"),
    "masks": ({"input": (np.uint8, 255), "target": (np.uint8, 1)}, "auto,1"),
    "100 levels": ({"input": (np.uint8, 255), "target": (np.uint8, 100)}, "255,100"),
    "two scales": ({"input": (np.uint16, 1023), "target": (np.uint16, 9999)}, "1023,9999"),
    "float inputs": ({"input": (np.float32, 4095), "target": (np.uint16, 4095)}, "4095"),
    "float 255": ({"input": (np.float32, 255), "target": (np.float32, 255)}, "255"),
    "float of metres": ({"input": (np.uint8, 255), "target": (np.float32, 7.5)}, "auto,7.5"),
}


def output_of(ended: Ended, name: str) -> Array:
    (path,) = (ended.results / "outputs").glob(f"{Path(name).stem}.*")
    return decode(path)


@pytest.mark.risk(32)
@pytest.mark.parametrize("kind", SCALED)
def test_max_value_is_the_full_scale_of_figures_and_outputs(
    tmp_path: Path, cli: InProcess, kind: str
) -> None:
    """PSNR of input and output are NumPy's of the stored values; outputs are on the scale of the targets."""
    scales, flag = SCALED[kind]
    stored = write_scaled(tmp_path / "set", scales)
    assert "warning" not in cli.train(*SET, "--max_value", flag).err
    assert options(cli.run())["max_value"] == flag
    ended = cli.test()
    low, high = (scales[side][1] for side in ("input", "target"))
    integers = np.dtype(scales["target"][0]).kind == "u"
    assert not integers or f"rounded to steps of 1/{high:g}" in ended.summary["protocol"]
    for i, row in enumerate(ended.rows):
        given, target = (stored[side][i] / full for side, full in (("input", low), ("target", high)))
        output = output_of(ended, row["name"])
        assert output.dtype == (np.float32 if not integers else np.uint8 if high <= 255 else np.uint16)
        assert output.max() <= high
        assert float(row["psnr_input"]) == pytest.approx(psnr(given, target), abs=1e-3)
        exact = 1e-6 if integers else 1e-4
        assert float(row["psnr"]) == pytest.approx(psnr(output / high, target), abs=exact)
    assert "no problems found" in cli.train(*SET, "--max_value", flag, "--check_data", name="").err


@pytest.mark.risk(32)
def test_identical_images_are_identical_on_any_scale(tmp_path: Path, cli: InProcess) -> None:
    stored = write_scaled(tmp_path / "set", {"input": (np.uint16, 4095), "target": (np.uint16, 4095)})
    cli.train(*SET, "--max_value", "4095")
    for i, values in enumerate(stored["target"]):
        save(values, tmp_path / f"set/test/input/{i}.png")
    assert {row["psnr_input"] for row in cli.test().rows} == {"inf"}


@pytest.mark.risk(32)
@pytest.mark.parametrize(
    ("values", "flag", "words"),
    [
        (np.full((40, 40), 4096, np.uint16), "4095", ["has values outside [0, 4095]", "maximum 4096"]),
        (np.full((40, 40, 3), 2, np.uint8), "1", ["has values outside [0, 1]", "maximum 2"]),
        (np.full((40, 40), 300, np.float32), "255", ["has values outside [0, 255]", "maximum 300"]),
        (np.full((40, 40), 3, np.float32), None, ["has values outside [0, 1]", "by --max_value"]),
        (np.full((40, 40), np.nan, np.float32), "255", ["has values outside [0, 255]", "nan"]),
        (np.full((40, 40), np.inf, np.float32), None, ["has values outside [0, 1]", "maximum inf"]),
        (np.full((40, 40), -0.25, np.float32), None, ["has values outside [0, 1]", "minimum -0.25"]),
        (np.full((40, 40, 3), -1, np.float32), "255", ["has values outside [0, 255]", "minimum -1"]),
        (np.full((40, 40), 9, np.uint8), "4095", ["has 8 bits a channel", "--max_value 4095"]),
        (np.full((40, 40), 9, np.uint16), "0.5", ["has 16 bits a channel", "a whole number up to 65535"]),
    ],
)
def test_values_that_the_scale_does_not_hold_are_refused_by_name(
    tmp_path: Path, cli: InProcess, values: Array, flag: str | None, words: list[str]
) -> None:
    write_set(tmp_path / "set", splits=["train"], count=3)
    given = () if flag is None else ("--max_value", f"auto,{flag}")
    for path in (tmp_path / "set/train/target").iterdir():
        path.unlink()
        save(values, path.with_suffix(".tif"))
    ended = cli.train(*SET, *given, "--batchSize", "1", code=2)
    assert ended.refused("set/train/target/0.tif", *words)
    checked = cli.train(*SET, *given, "--check_data", name="", code=2).err
    assert "3 pairs cannot be used" in checked and words[0] in checked


@pytest.mark.risk(32)
@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "a", "1,2,3", "1,", ",", "auto,x"])
def test_a_full_scale_that_is_none_is_refused(cli: InProcess, text: str) -> None:
    assert cli.train("--dataroot", "demo:6:48", "--max_value", text, code=2).refused("--max_value", "such as")


@pytest.mark.risk(32)
def test_a_test_takes_the_scale_of_the_run_or_another_one(tmp_path: Path, cli: InProcess) -> None:
    write_scaled(tmp_path / "set", {"input": (np.uint16, 4095), "target": (np.uint16, 4095)})
    cli.train(*SET, "--max_value", "4095")
    assert cli.train(*SET, "--resume", "--max_value", "1023", code=2).refused("--max_value cannot change")
    same, other = cli.test("--max_value", "4095"), cli.test("--max_value", "8191")
    assert (same.results.name, other.results.name) == ("set", "set-max8191")
    lower = other.numbers("psnr_input") - same.numbers("psnr_input")
    assert np.abs(lower - 20 * np.log10(8191 / 4095)).max() < 1e-2
    write_set(tmp_path / "photos", splits=["test"], count=2, channels=1)
    assert "has 8 bits a channel" in cli.test("--dataroot", "photos", code=3).err
    assert len(cli.test("--dataroot", "photos", "--max_value", "auto").rows) == 2


@pytest.mark.risk(32)
@pytest.mark.parametrize(
    ("flag", "dtype"), [("auto,4095", np.uint16), ("auto,1", np.float32), ("auto,7.5", np.float32)]
)
def test_outputs_without_targets_are_on_the_scale_of_the_targets(
    tmp_path: Path, cli: InProcess, flag: str, dtype: Any
) -> None:
    """As integers where they have the levels for it; the same network gives the same share of full scale."""
    scale = float(flag.split(",")[1])
    kind = np.float32 if scale == 7.5 else np.uint16 if scale > 255 else np.uint8
    write_scaled(tmp_path / "set", {"input": (np.uint8, 255), "target": (kind, scale)})
    cli.train(*SET, "--max_value", flag)
    write_set(tmp_path / "photos", "inputs", splits=[""], count=2, channels=1)
    on_scale = cli.test("--dataroot", "photos")
    found = [output_of(on_scale, f"{i}.png") for i in range(2)]
    plain = cli.test("--dataroot", "photos", "--max_value", "auto")
    for i, output in enumerate(found):
        assert output.dtype == dtype
        share = output_of(plain, f"{i}.png") / 255
        steps = 1 / 255 + (1 / scale if dtype == np.uint16 else 0)  # each of the two is rounded once
        assert np.abs(output / scale - share).max() <= steps / 2 + 1e-6


# --------------------------------------------------------------------------------- smaller than the crop


@pytest.mark.risk(32)
@pytest.mark.parametrize(("name", "size"), [("0.png", (24, 24)), ("599.png", (31, 99)), ("560.png", (99, 8))])
def test_a_small_image_anywhere_in_the_list_is_found_at_the_start(
    tmp_path: Path, cli: InProcess, name: str, size: tuple[int, int]
) -> None:
    write_set(tmp_path / "set", splits=["train"], count=1)
    for side in ("input", "target"):
        folder = tmp_path / "set/train" / side
        for i in range(1, 600):
            os.link(folder / "0.png", folder / f"{i}.png")
        (folder / name).unlink()
        save(image(*size), folder / name)
    assert cli.train(*SET, code=2).refused("--crop_size 32", name, f"{min(size)} pixels")


@pytest.mark.risk(32)
@pytest.mark.parametrize("scale", [1, 2])
def test_the_check_lists_images_that_the_crop_does_not_fit_into(
    tmp_path: Path, cli: InProcess, scale: int
) -> None:
    write_set(tmp_path / "set", "clean", splits=["train"], count=4, size=[(40, 40), (33, 50), (24, 40)])
    flags = ("--dataroot", "set", "--degrade", f"sr:{scale}" if scale > 1 else "noise:25", "--check_data")
    ended = cli.train(*flags, "--crop_size", "34", name="", code=2)
    assert "problem: train: 2 images are smaller than --crop_size 34: 1.png (50 x 33), 2.png (40 x 24)" in (
        ended.err.replace("(50 x 32)", "(50 x 33)")
    )
    for fits in (("--crop_size", "24"), ("--crop_size", "34", "--size", "48"), ()):
        assert "no problems found" in cli.train(*flags, *fits, name="").err
