"""What goes wrong with files: damaged, huge, of other sizes, wrongly named, linked, missing."""

import contextlib
import json
import multiprocessing
import os
import re
import struct
import unicodedata
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from data.datasets import ImageSpec, TrainDataset
from data.images import MAX_PIXELS, header, read_image, save_image
from data.loader import LoaderIterator, no_collate
from data.matching import match_names
from data.pairs import Source
from data.scan import scan_headers
from data.splits import find_pairs
from tests.builders import CPU, FAST, TINY_NET, Outline, image, pixels, save, tiny_flags, truncate, write_set
from tests.cli import Ended, InProcess, Workplace
from tests.harness import Cases
from utils.eval.results import read_csv
from utils.system.errors import UserError

Script = Callable[..., Ended]
PHOTOS = ("--dataroot", "photos", *TINY_NET, *FAST, *CPU, "--val_share", "0", "--max_steps", "1")


@pytest.fixture
def learn(cli: InProcess) -> Script:
    """train.py in this process, however it ends; the run's name is among the flags or its default."""
    return partial(cli.train, name="", code=None)


@pytest.fixture
def judge(cli: InProcess) -> Script:
    return partial(cli.test, name="", code=None)


def photo_set(root: Path, count: int = 8) -> list[Path]:
    """Pairs of 40 x 40 pixels, three of them to test; the inputs to train on."""
    write_set(root, splits=["test"], names=[f"test{i}.png" for i in range(3)], seed=100)
    files = write_set(root, splits=["train"], names=[f"train{i}.png" for i in range(count)])
    return [file.input for file in files]


def picture(path: Path, height: int = 40, width: int = 40) -> Path:
    return save(image(height, width, seed=1), path)


def pair_of(root: Path, given: str, target: str, split: str = "train") -> None:
    picture(root / split / "input" / given)
    picture(root / split / "target" / target)


# --------------------------------------------------------------------------------------------- damaged images

KINDS = ("png", "jpg", "webp", "bmp", "tif", "deep.png")
HEIGHT, WIDTH = 36, 50
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "ok": lambda data: data,
    "cut30": lambda data: data[: len(data) * 30 // 100],
    "cut90": lambda data: data[: len(data) * 90 // 100],
    "cut99": lambda data: data[: len(data) * 99 // 100],
    "zeros": lambda data: data[: len(data) // 2] + bytes(64) + data[len(data) // 2 + 64 :],
}


def encoded(kind: str, folder: Path) -> bytes:
    path = folder / f"sound.{kind}"
    smooth = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH))[:, :, None] + np.arange(3)
    values = (smooth % 256 + image(HEIGHT, WIDTH, seed=1) // 8).clip(0, 255).astype(np.uint8)
    if kind == "deep.png":
        save_image(values.astype(np.uint16) * 257, path)
    else:
        save(values, path, **({"compression": "tiff_adobe_deflate"} if kind == "tif" else {}))
    return path.read_bytes()


def outcome(path: Path, max_pixels: int = 2**20) -> str:
    """`refused` or `read`, or what is wrong."""
    try:
        found = read_image(path, max_pixels)
    except UserError as refusal:
        said = str(refusal)
        return "refused" if str(path) in refusal.what and len(said.splitlines()) <= 6 else f"said {said}"
    except BaseException as error:
        return f"{path.name}: {type(error).__name__}"
    size = header(path, max_pixels)[:2]
    return "read" if found.shape[1::-1] == size else f"{path.name}: {found.shape}, header {size}"


@pytest.mark.risk(8)
def test_a_damaged_file_is_refused_by_name_or_a_picture(cases: Cases, tmp_path: Path) -> None:
    for kind in KINDS:
        sound = encoded(kind, tmp_path)
        for name, damage in DAMAGES.items():
            path = tmp_path / f"{name}.{kind}"
            path.write_bytes(damage(sound))
            found = outcome(path)
            right = {"ok": ("read",), "zeros": ("read", "refused")}.get(name, ("refused",))
            if kind in ("png", "deep.png") and name == "zeros":
                right = ("refused",)  # its parts have checksums
            cases.check(found in right, f"{path.name} {found}")


def corrupted(sound: bytes, rng: np.random.Generator) -> bytes:
    """1 to 64 bytes of a file overwritten, in every third at its beginning."""
    data = bytearray(sound)
    count = int(rng.integers(1, 65))
    end = 100 if rng.integers(3) == 0 else len(data)
    at = int(rng.integers(0, max(1, end - count)))
    data[at : at + count] = rng.bytes(min(count, len(data) - at))
    return bytes(data)


@contextlib.contextmanager
def memory_grows() -> Iterator[Callable[[], int]]:
    """A function that gives the MiB by which this process' memory has been larger than at the beginning."""

    def field(name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found
        return int(found[1])

    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    except OSError:
        pytest.skip("no peak of memory to be had")
    before = field("VmRSS")
    yield lambda: (field("VmHWM") - before) // 1024


@pytest.mark.risk(8)
def test_random_damage_never_ends_the_process(
    cases: Cases, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(8)
    sound = {kind: encoded(kind, tmp_path) for kind in KINDS}
    with warnings.catch_warnings(), memory_grows() as growth:
        warnings.simplefilter("ignore")  # Pillow's, of a damaged EXIF part; here they would be errors
        for i in range(450):
            kind = KINDS[i % len(KINDS)]
            path = tmp_path / f"{i}.{kind}"
            path.write_bytes(corrupted(sound[kind], rng))
            found = outcome(path)
            cases.check(found in ("read", "refused"), found)
        assert growth() < 200
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.risk(8)
def test_the_start_reads_every_header(cases: Cases, learn: Script, tmp_path: Path) -> None:
    bad = photo_set(tmp_path / "photos")[5]
    sound = bad.read_bytes()
    for data in (b"", b"\x89PNG", b"<html>not found</html>", sound[:20], bytes(len(sound)), os.urandom(999)):
        bad.write_bytes(data)
        ended = learn(*PHOTOS, "--name", "run")
        cases.check(ended.refused("train5.png", "fix: replace or remove it"), ended.err)
        cases.check(not (tmp_path / "checkpoints").exists(), "the refused run left a folder")


@pytest.mark.risk(8)
def test_check_data_decodes_every_file(cases: Cases, learn: Script, tmp_path: Path) -> None:
    for path in photo_set(tmp_path / "photos")[3:5]:
        truncate(path)
    ended = learn(*PHOTOS, "--check_data")
    said = ended.out + ended.err
    for name, wanted in (("train3.png", True), ("train4.png", True), ("train5.png", False)):
        cases.check(ended.code == 2 and (f"{name}: " in said) == wanted, said)


@pytest.mark.risk(8)
def test_training_stops_and_testing_goes_on(
    cases: Cases, learn: Script, judge: Script, tmp_path: Path
) -> None:
    photo_set(tmp_path / "photos")
    assert learn(*PHOTOS, "--name", "run").code == 0
    for kind in KINDS:  # two bad ones of each kind, beside three sound ones
        sound = encoded(kind, tmp_path)
        for damage in ("cut30", "cut90"):
            name = f"{damage}_{kind.replace('.', '_')}.{kind.split('.')[-1]}"
            (tmp_path / "photos/test/input" / name).write_bytes(DAMAGES[damage](sound))
            (tmp_path / "photos/test/target" / name).write_bytes(sound)
    ended = judge("--name", "run")
    failed = [line for line in ended.err.splitlines() if line.startswith("failed")]
    for path in sorted((tmp_path / "photos/test/input").glob("cut*")):
        cases.check(ended.code == 3 and any(path.name in line for line in failed), f"{path.name} {ended.err}")
    assert len(read_csv(tmp_path / "results/run/photos/metrics.csv")) == 3


# ------------------------------------------------------------------------------------------------------ bombs


def part(name: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def black_png(width: int, height: int, rows: bool = True) -> bytes:
    """A PNG of 1 bit a pixel, all black; without its rows only a promise."""
    packed = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(packed.compress(row) for _ in range(height if rows else 1)) + packed.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", pixels) + part(b"IEND", b"")


BOMBS = {
    "18kB": lambda: black_png(12_000, 12_000),
    "49kB": lambda: black_png(20_000, 20_000),
    "promise": lambda: black_png(100_000, 100_000, rows=False),
}


@pytest.mark.risk(9)
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_its_header(
    cases: Cases, learn: Script, judge: Script, tmp_path: Path, name: str
) -> None:
    photo_set(tmp_path / "photos")
    assert learn(*PHOTOS, "--name", "run").code == 0
    data = BOMBS[name]()
    assert len(data) < 60_000
    for split in ("train", "test"):
        (tmp_path / f"photos/{split}/input/{split}1.png").write_bytes(data)
    with memory_grows() as growth:
        ended = learn(*PHOTOS, "--name", "other")
        cases.check(ended.refused("train1.png is too large", "--max_pixels") and growth() < 50, ended.err)
    with memory_grows() as growth:
        ended = judge("--name", "run")
        named = "test1.png is too large" in ended.err and ended.code == 3
        cases.check(named and growth() < 50, f"{growth()} MiB {ended.err}")


@pytest.mark.risk(9)
def test_the_limit_can_be_moved(
    cases: Cases, learn: Script, judge: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo_set(tmp_path / "photos")  # 40 x 40
    flags = (*PHOTOS, "--name")
    cases.check(learn(*flags, "a", "--max_pixels", "1599").refused("is too large", "1599", "40 x 40"))
    cases.check(learn(*flags, "a", "--max_pixels", "1600").code == 0)
    cases.check(judge("--name", "a", "--max_pixels", "1599").refused("too large", "1599", code=3))
    cases.check(judge("--name", "a", "--max_pixels", "1600").code == 0)
    cases.check(learn(*flags, "b", "--max_pixels", "0").refused("--max_pixels"))
    cases.check(learn("--resume", "--name", "a", "--max_steps", "2", "--max_pixels", "9999").code == 0)
    big = tmp_path / "big.png"
    big.write_bytes(black_png(12_000, 12_000, rows=False))
    cases.check(header(big, 12_000**2)[:2] == (12_000, 12_000))
    with pytest.raises(UserError, match="too large"):
        header(big)
    assert MAX_PIXELS == 2**27


@pytest.mark.risk(9)
@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_the_limit_holds_in_loader_processes(cases: Cases, tmp_path: Path, start: str) -> None:
    """However they are started; files grow after the start has looked at them."""
    photo_set(tmp_path / "photos", count=3)
    listing = find_pairs(Source(str(tmp_path / "photos"), max_pixels=2000), "train")
    data = TrainDataset(listing, ImageSpec(3, 3), crop_size=16)
    for grown in ("input/train1.png", "target/train2.png"):
        picture(tmp_path / "photos/train" / grown, 48, 48)
    context = multiprocessing.get_context(start)
    loader = DataLoader(
        data,
        num_workers=1,
        sampler=[(0, i) for i in range(3)],
        collate_fn=no_collate,
        multiprocessing_context=context,
    )
    refusals: list[UserError] = []
    read = [batch["name"] for batch in LoaderIterator(loader, skip=refusals.append)]
    cases.check(read == [["train0.png"]], f"40 x 40: {read}")
    for refusal, name in zip(refusals, ("input/train1.png", "target/train2.png"), strict=True):
        said = f"{refusal.what}: {refusal.why}"
        cases.check(f"{name} is too large: 48 x 48 pixels, at most 2000" in said, said)


# ------------------------------------------------------------------------------------------------ other sizes


def turned(path: Path, height: int, width: int) -> None:
    """A JPEG that is to be turned by a quarter: `width` x `height` once upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    save(image(width, height), path, exif=exif)


@pytest.mark.risk(10)
@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((40, 49), ("49 x 40", "crop, resize")),
        ((41, 48), ("48 x 41", "crop, resize")),
        ((80, 96), ("96 x 80", "add --scale 2")),
        ((48, 40), ("40 x 48", "crop, resize")),
    ],
)
def test_a_pair_of_two_sizes_is_refused_with_both(
    cases: Cases, learn: Script, tmp_path: Path, size: tuple[int, int], words: tuple[str, ...]
) -> None:
    for i in range(3):
        for side in ("input", "target"):
            picture(tmp_path / f"photos/train/{side}/{i}.png", 40, 48)
    picture(tmp_path / "photos/train/target/1.png", *size)
    ended = learn(*PHOTOS, "--name", "run")
    cases.check(ended.refused("input/1.png is 48 x 40", "target/1.png is", *words), ended.err)
    ended = learn(*PHOTOS, "--check_data")
    cases.check(ended.code == 2 and words[0] in ended.out + ended.err, ended.err)


@pytest.mark.risk(10)
@pytest.mark.parametrize("side", ["input", "target"])
def test_only_upright_sizes_count(cases: Cases, learn: Script, tmp_path: Path, side: str) -> None:
    for i in range(4):
        for folder in ("input", "target"):
            picture(tmp_path / f"photos/train/{folder}/{i}.jpg", 40, 48)
    turned(tmp_path / f"photos/train/{side}/1.jpg", 40, 48)  # lies as 40 x 48, stands as 48 x 40
    cases.check(learn(*PHOTOS, "--name", "run").code == 0, "upright sizes are equal")
    turned(tmp_path / f"photos/train/{side}/1.jpg", 48, 40)
    ended = learn(*PHOTOS, "--name", "other")
    cases.check(ended.refused("input/1.jpg is", "target/1.jpg is", "48 x 40", "40 x 48"), ended.err)


# ------------------------------------------------------------------------------------------------------ names


def composed(form: str, name: str = "Caf\u00e9") -> str:
    return unicodedata.normalize(form, name)  # type: ignore[arg-type]


NUMBERS = [f"{i}.png" for i in range(12)]
PAIRING: dict[str, tuple[list[str], list[str], str]] = {  # inputs, targets, words of the refusal, or none
    "double": (
        ["a.png", "a.jpg", "b.png"],
        ["a.png", "b.png"],
        "several input files share one name: a.jpg, a.png",
    ),
    "double target": (["a.png"], ["a.bmp", "a.tif"], "several target files share one name: a.bmp, a.tif"),
    "double by case of the suffix": (
        ["1.PNG", "1.png"],
        ["1.png"],
        "several input files share one name: 1.PNG, 1.png",
    ),
    "two folders": (["a/1.png", "b/1.png"], ["a/1.png", "b/1.png"], ""),
    "suffix in capitals": (["1.PNG"], ["1.png"], ""),
    "stem in capitals": (["A.png"], ["a.png"], "inputs: A.png; targets: a.png"),
    "no target": (
        ["a.png", "b.png"],
        ["a.png"],
        "1 inputs and 0 targets have no partner: inputs: b.png; targets: none",
    ),
    "no input": (
        ["a.png"],
        ["a.png", "b.png"],
        "0 inputs and 1 targets have no partner: inputs: none; targets: b.png",
    ),
    "one of each": (
        ["a.png", "b.png"],
        ["a.png", "c.png"],
        "1 inputs and 1 targets have no partner: inputs: b.png; targets: c.png",
    ),
    "many": (
        [*NUMBERS, "x.png"],
        ["x.png", *(f"t{name}" for name in NUMBERS)],
        "12 inputs and 12 targets have no partner: "
        "inputs: 0.png, 1.png, 10.png, 11.png, 2.png and 7 more; "
        "targets: t0.png, t1.png, t10.png, t11.png, t2.png and 7 more",
    ),
    "prefixes": (["1_a.png", "1_b.png", "2_a.png"], ["1.png", "2.png"], ""),
    "prefixes, a target too many": (["1_a.png", "2_a.png"], ["1.png", "2.png", "3.png"], "targets: 3.png"),
    "other folder": (["a/1.png"], ["b/1.png"], "inputs: a/1.png; targets: b/1.png"),
    "composed and not": ([composed("NFC") + ".png"], [composed("NFD") + ".png"], ""),
    "not composed": ([composed("NFD") + "_1.png"], [composed("NFC") + ".png"], ""),
    "both forms": (
        [composed("NFC") + ".png", composed("NFD") + ".png"],
        [composed("NFC") + ".png"],
        "several input files share one name",
    ),
}


@pytest.mark.risk(11)
@pytest.mark.parametrize("what", PAIRING)
def test_names_pair_or_are_listed(cases: Cases, tmp_path: Path, what: str) -> None:
    inputs, targets, words = PAIRING[what]
    for side, names in (("input", inputs), ("target", targets)):
        for name in names:
            picture(tmp_path / "train" / side / name, 4, 4)
    try:
        listing = find_pairs(Source(str(tmp_path)), "train", need_targets=True)
        scan_headers(listing)
        cases.check(not words and len(listing.pairs) == len(inputs), f"{what}: paired")
    except UserError as refusal:
        said = f"{refusal.what}: {refusal.why}"
        cases.check(bool(words) and words in said and bool(refusal.fix), f"{what}: {said}")


@pytest.mark.risk(11)
def test_training_refuses_names_that_do_not_pair(cases: Cases, learn: Script, tmp_path: Path) -> None:
    for path in photo_set(tmp_path / "photos")[2:]:
        path.rename(path.with_name(f"lone{path.name}"))
    ended = learn(*PHOTOS, "--name", "run")
    cases.check(ended.refused("6 inputs and 6 targets", "and 1 more", "--pair_by"), ended.err)
    ended = learn(*PHOTOS, "--check_data")
    cases.check(ended.code == 2 and "6 inputs and 6 targets" in ended.out + ended.err, ended.err)


@pytest.mark.risk(11)
def test_a_regular_expression_sees_one_form_of_a_name(cases: Cases) -> None:
    names = [composed(form) + end for form, end in (("NFD", "7.png"), ("NFC", "_gt7.png"))]
    found = match_names(names[:1], names[1:], pair_by="(Caf\u00e9).*?(\\d)")
    cases.check(found == {names[0]: names[1]}, str(found))


# ---------------------------------------------------------------------------------------------- hostile names

HOSTILE = (
    "\u65e5\u672c\u8a9e \u0416.png",
    composed("NFC") + ".png",
    composed("NFD", "Cr\u00e8me") + ".png",
    "two  blanks.png",
    "--help.png",
    "line\nbreak.png",
    "n" * 251 + ".png",
    "100%s%d%%.png",
    "[a-z]*?{b}.png",
    "\"><script>alert('1')<!--&amp;${data}.png",
    "up../x..two..dots..png",
    "CON.png",
    "trailing .png",
    "\U0001f600\u200d\u202e.png",
    os.fsdecode(b"latin\xe9\xff.png"),
)
HIDDEN = ".dot.png"


def hostile_set(root: Path, names: tuple[str, ...]) -> None:
    for split in ("train", "test"):
        for name in names:
            pair_of(root, name, name, split)


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.risk(12)
def test_hostile_names_are_only_names(cases: Cases, learn: Script, judge: Script, tmp_path: Path) -> None:
    hostile_set(tmp_path / "photos", (*HOSTILE, HIDDEN))
    hostile_set(tmp_path / "plain", tuple(f"{i}.png" for i in range(len(HOSTILE))))
    before = files_below(tmp_path)
    flags = (*PHOTOS, "--batchSize", str(len(HOSTILE)), "--nan_policy", "stop", "--name", "run")
    ended = learn(*flags)
    assert ended.code == 0, ended.err
    page = {}
    for data in ("photos", "plain"):
        ended = judge("--name", "run", "--dataroot", data)
        assert ended.code == 0, ended.err
        page[data] = Outline((tmp_path / f"results/run/{data}/index.html").read_text())
    assert page["photos"].tags == page["plain"].tags
    results = tmp_path / "results/run/photos"
    shown = re.findall(r'\{"name":("(?:[^"\\]|\\.)*")', page["photos"].texts["data"])
    rows = {row["name"] for row in read_csv(results / "metrics.csv")}
    on_page = {json.loads(text) for text in shown}
    for name in HOSTILE:
        output = results / "outputs" / name
        there = output.is_file() and pixels(output).shape == (40, 40, 3)
        cases.check(there and name in rows and name in on_page, repr(name))
    cases.check(rows == on_page == set(HOSTILE), "hidden files are left out")
    outside = {
        name for name in files_below(tmp_path) - before if not name.startswith(("checkpoints/", "results/"))
    }
    assert not outside and (tmp_path / "photos/train/input" / HIDDEN).is_file()


@pytest.mark.risk(12)
@pytest.mark.parametrize("number", [0, 5, 9, 14])
def test_a_folder_of_a_hostile_name(
    cases: Cases, learn: Script, judge: Script, tmp_path: Path, number: int
) -> None:
    root = HOSTILE[number].removesuffix(".png")
    photo_set(tmp_path / root)
    before = files_below(tmp_path)
    ended = learn(f"--dataroot={root}", *PHOTOS[2:])
    cases.check(ended.code == 0, ended.err)
    (run,) = (tmp_path / "checkpoints").iterdir()
    ended = judge("--name", run.name)
    (results,) = (tmp_path / "results" / run.name).iterdir()
    cases.check(ended.code == 0 and len(list((results / "outputs").iterdir())) == 3, ended.err)
    cases.check(learn("--resume", "--name", run.name, "--max_steps", "2").code == 0)
    page = Outline((results / "index.html").read_text())
    assert not any("alert" in str(tag) for tag in page.tags)
    new = files_below(tmp_path) - before
    assert all(name.startswith((f"checkpoints/{run.name}/", f"results/{run.name}/")) for name in new)


@pytest.mark.risk(12)
def test_a_bad_file_with_a_hostile_name_is_told(cases: Cases, work: Workplace, learn: Script) -> None:
    """By the script itself: its stdout and stderr must take any name, in any locale."""
    hostile_set(work.folder / "photos", HOSTILE)
    assert learn(*PHOTOS, "--name", "run").code == 0
    for name in HOSTILE:
        truncate(work.folder / "photos/test/input" / name)
    done = work.test(code=3, LC_ALL="C", PYTHONUTF8="0")
    assert "Traceback" not in done.err and f"{len(HOSTILE)} failed" in done.err
    for name in HOSTILE:
        seen = os.fsencode(name).decode("ascii", "surrogateescape")  # as a process of this locale has it
        shown = seen.encode("ascii", "backslashreplace").decode()
        cases.check(f"{shown} cannot be read" in done.err, repr(name))


# ------------------------------------------------------------------------------------------------------ links


@pytest.mark.risk(13)
@pytest.mark.parametrize(
    ("what", "count"),
    [("file", 4), ("folder", 5), ("side", 3), ("outside", 5), ("loop", 3), ("up", 3), ("root", 3)],
)
def test_links_work(cases: Cases, learn: Script, tmp_path: Path, what: str, count: int) -> None:
    train_folder = tmp_path / "photos/train"
    for i in range(3):
        pair_of(tmp_path / "photos", f"{i}.png", f"{i}.png")
        if i < 2:
            pair_of(tmp_path / "else", f"e{i}.png", f"e{i}.png")
    for side in ("input", "target"):
        folder = train_folder / side
        if what == "file":
            (folder / "link.png").symlink_to(tmp_path / "else/train" / side / "e0.png")
        elif what in ("folder", "outside"):
            end = Path("../../../else/train") if what == "folder" else tmp_path / "else/train"
            (folder / "more").symlink_to(end / side, target_is_directory=True)
            (folder / "nore").symlink_to(end / side, target_is_directory=True)  # once is enough
        elif what == "side":
            folder.rename(tmp_path / f"real_{side}")
            folder.symlink_to(tmp_path / f"real_{side}", target_is_directory=True)
        else:
            end = {"loop": folder, "up": tmp_path, "root": Path("/")}[what]
            (folder / "round").symlink_to(end, target_is_directory=True)
    listing = find_pairs(Source(str(tmp_path / "photos")), "train")
    cases.check(len(listing.pairs) == count, f"{len(listing.pairs)} pairs of {listing.where}")
    cases.check(learn(*PHOTOS, "--batchSize", "1", "--name", "run").code == 0)


@pytest.mark.risk(13)
@pytest.mark.parametrize("what", ["dangling", "itself", "a pair of links", "folder called x.png"])
def test_links_to_nothing_are_refused(
    cases: Cases, learn: Script, judge: Script, tmp_path: Path, what: str
) -> None:
    photo_set(tmp_path / "photos")
    assert learn(*PHOTOS, "--name", "run").code == 0
    for split in ("train", "test"):
        path = tmp_path / f"photos/{split}/input/{split}1.png"
        path.unlink()
        if what == "folder called x.png":
            (tmp_path / "empty").mkdir(exist_ok=True)
            path.symlink_to(tmp_path / "empty", target_is_directory=True)
            continue
        ends = {
            "dangling": tmp_path / f"gone_{split}.png",
            "itself": path,
            "a pair of links": path.with_name("back"),
        }
        path.symlink_to(ends[what])
        if what == "a pair of links":
            path.with_name("back").symlink_to(path)
    ended = learn(*PHOTOS, "--name", "other")
    cases.check(ended.refused("train1.png"), ended.err)
    ended = judge("--name", "run")
    if what == "folder called x.png":
        cases.check(ended.refused("test1.png"), ended.err)
    else:
        cases.check(ended.code == 3 and "test1.png cannot be read" in ended.err, ended.err)


@pytest.mark.risk(13)
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_hides_no_training_image(
    cases: Cases, learn: Script, judge: Script, tmp_path: Path, what: str
) -> None:
    root = tmp_path / "photos"
    photo_set(root)
    assert learn(*PHOTOS, "--name", "run").code == 0
    for side in ("input", "target"):
        if what == "file":
            (root / "test" / side / "other.png").symlink_to(root / "train" / side / "train0.png")
        else:
            (root / "test" / side / "more").symlink_to(root / "train" / side, target_is_directory=True)
    ended = judge("--name", "run")
    cases.check(ended.refused("what the run was trained on", "--split train"), ended.err)


@pytest.mark.risk(13)
def test_a_root_that_is_a_link(cases: Cases, learn: Script, judge: Script, tmp_path: Path) -> None:
    photo_set(tmp_path / "photos")
    for name, end in (("alias", "photos"), ("round", "round"), ("gone", "nothing")):
        (tmp_path / name).symlink_to(end, target_is_directory=True)
    assert learn(*PHOTOS, "--name", "run").code == 0
    for name, sound in (("alias", True), ("round", False), ("gone", False)):
        flags = ("--dataroot", name)  # without --name: the run is called after the folder
        for ended in (learn(*flags, *PHOTOS[2:]), judge("--name", "run", *flags)):
            well = ended.code == 0 if sound else ended.refused(f"no such folder [--dataroot {name}]")
            cases.check(well, f"{name}: {ended.code} {ended.err}")


# ---------------------------------------------------------------------------------------------- empty folders


SIDES = [f"{split}/{side}" for split in ("train", "test") for side in ("input", "target")]
EMPTY: dict[str, list[str]] = {  # folders, texts and images
    "no_folder": [],
    "a_file.txt": [""],
    "empty": [""],
    "only_hidden": [f"{side}/.a.png" for side in SIDES],
    "no_images": [f"{side}/notes.txt" for side in SIDES],
    "flat_without_images": ["notes.txt"],
    "empty_splits": ["train", "test"],
    "one_side_empty": ["train/input/a.png", "train/target", "test/input/a.png", "test/target"],
    "both_sides_empty": SIDES,
}


def lay_out(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        picture(path)
    elif path.suffix == ".txt":
        path.write_text("none here")
    else:
        path.mkdir()


@pytest.mark.risk(14)
def test_nothing_to_read_is_one_message(cases: Cases, learn: Script, judge: Script, tmp_path: Path) -> None:
    photo_set(tmp_path / "photos")
    assert learn(*PHOTOS, "--name", "run").code == 0
    before = files_below(tmp_path)
    for kind, paths in EMPTY.items():
        root = tmp_path / kind
        for path in paths:
            lay_out(root / path)
        flags = ("--dataroot", str(root), *PHOTOS[2:])
        for ended in (
            learn(*flags, "--name", "new"),
            learn(*flags, "--name", "new", "--degrade", "noise:25"),
            judge("--name", "run", "--dataroot", str(root)),
            judge("--name", "run", "--dataroot", str(root), "--degrade", "noise:25"),
        ):
            named = kind in ended.error and "fix:" in ended.error
            if kind == "one_side_empty":  # its message names the file without a partner
                named = "a.png" in ended.error or kind in ended.error
            cases.check(ended.refused() and named, f"{kind}: {ended.code} {ended.err}")
        written = {name for name in files_below(tmp_path) - before if not name.startswith(kind)}
        before |= files_below(tmp_path)
        assert not written


# -------------------------------------------------------------------------------------------------- odd sizes

SIZES = ((1, 1), (1, 7), (7, 1), (2, 2), (3, 3), (15, 17), (31, 33), (255, 257), (64, 1000), (20, 20))


def odd_sizes(folder: Path) -> dict[str, tuple[int, int]]:
    """Files of every size, one of 16 bits and one with a palette; name and (height, width) of each."""
    folder.mkdir(parents=True)
    made = {}
    for height, width in SIZES:
        made[f"{height}x{width}.png"] = height, width
        picture(folder / f"{height}x{width}.png", height, width)
    save_image(image(21, 34).astype(np.uint16) * 257, folder / "deep.png")
    Image.fromarray(image(22, 35)).convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
    return made | {"deep.png": (21, 34), "palette.png": (22, 35)}


@pytest.mark.risk(15)
@pytest.mark.parametrize(("model", "tile"), [("resunet", 0), ("resnet", 0), ("dncnn", 0), ("resunet", 48)])
def test_outputs_have_the_size_of_their_inputs(
    cases: Cases, learn: Script, judge: Script, tmp_path: Path, model: str, tile: int
) -> None:
    tiled = ("--tile", str(tile), "--tile_overlap", "8") if tile else ()
    photo_set(tmp_path / "photos")
    flags = ("--dataroot", "photos", *tiny_flags(model), *FAST, *CPU, "--max_steps", "1", "--val_share", "0")
    assert learn(*flags, "--name", "run").code == 0
    made = odd_sizes(tmp_path / "odd")
    ended = judge("--name", "run", "--dataroot", "odd", *tiled)
    assert ended.code == 0, ended.err
    for name, size in made.items():
        output = tmp_path / "results/run/odd/outputs" / name
        cases.check(output.is_file() and pixels(output).shape[:2] == size, f"{name} {ended.err}")


@pytest.mark.risk(15)
@pytest.mark.parametrize("smallest", SIZES)
def test_training_names_the_image_that_is_smaller_than_the_crop(
    cases: Cases, learn: Script, tmp_path: Path, smallest: tuple[int, int]
) -> None:
    photo_set(tmp_path / "photos")
    for side in ("input", "target"):
        picture(tmp_path / "photos/train" / side / "small.png", *smallest)
    ended = learn(*PHOTOS, "--name", "run")
    if min(smallest) >= 32:
        cases.check(ended.code == 0, ended.err)
    else:
        cases.check(ended.refused("--crop_size 32", "small.png", f"{min(smallest)} pixels"), ended.err)
