"""What goes wrong with files: damaged, huge, of other sizes, wrongly named, linked, missing."""

import contextlib
import json
import multiprocessing
import os
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from data.datasets import ImageSpec, TrainDataset
from data.images import MAX_PIXELS, header, read_image
from data.loader import LoaderIterator, no_collate
from data.matching import match_names
from data.pairs import Source
from data.scan import scan_headers
from data.splits import find_pairs
from tests.builders import (
    CPU,
    FAST,
    TINY_NET,
    Outline,
    image,
    pixels,
    png_file,
    save,
    tiny_flags,
    truncate,
    write_set,
)
from tests.cli import InProcess, Workplace
from tests.harness import Cases
from utils.eval.results import read_csv
from utils.system.errors import UserError

STEP = (*FAST, *CPU, "--val_share", "0", "--max_steps", "1")
PHOTOS = ("--dataroot", "photos", *TINY_NET, *STEP)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A set of pairs of 40 x 40 pixels, eight to train on and three to test."""
    write_set(tmp_path / "photos", splits=["test"], names=[f"test{i}.png" for i in range(3)], seed=100)
    write_set(tmp_path / "photos", splits=["train"], names=[f"train{i}.png" for i in range(8)])
    return tmp_path / "photos"


@pytest.fixture
def trained(photos: Path, cli: InProcess) -> Path:
    """`photos`, on which the run "run" was trained."""
    cli.train(*PHOTOS)
    return photos


def picture(path: Path, height: int = 40, width: int = 40) -> Path:
    return save(image(height, width, seed=1), path)


# --------------------------------------------------------------------------------------------- damaged images

KINDS = ("png", "jpg", "webp", "bmp", "tif", "deep.png", "gif", "ppm")
HEIGHT, WIDTH = 36, 50
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "ok": lambda data: data,
    **{f"cut{share}": lambda data, n=share: data[: len(data) * n // 100] for share in (30, 90, 99)},
    "zeros": lambda data: data[: len(data) // 2] + bytes(64) + data[len(data) // 2 + 64 :],
}


def encoded(kind: str, folder: Path) -> bytes:
    path = folder / f"sound.{kind}"
    smooth = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH))[:, :, None] + np.arange(3)
    values = (smooth % 256 + image(HEIGHT, WIDTH, seed=1) // 8).clip(0, 255).astype(np.uint8)
    if kind == "deep.png":
        save(values.astype(np.uint16) * 257, path)
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
            allowed = {"read" if name == "ok" else "refused"}
            if name == "zeros" and "png" not in kind:  # the parts of a PNG have checksums
                allowed.add("read")
            cases.check((found := outcome(path)) in allowed, f"{path.name} {found}")


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
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
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
def test_the_start_reads_every_header(cases: Cases, cli: InProcess, photos: Path) -> None:
    bad = photos / "train/input/train5.png"
    sound = bad.read_bytes()
    for data in (b"", b"\x89PNG", b"<html>not found</html>", sound[:20], bytes(len(sound)), os.urandom(999)):
        bad.write_bytes(data)
        ended = cli.train(*PHOTOS, code=None)
        cases.check(ended.refused("train5.png", "fix: replace or remove it"), ended.err)
        cases.check(not Path("checkpoints").exists(), "the run that was not started left a folder")


@pytest.mark.risk(8)
def test_check_data_decodes_every_file(cli: InProcess, photos: Path) -> None:
    for i in (3, 4):
        truncate(photos / f"train/input/train{i}.png")
    ended = cli.train(*PHOTOS, "--check_data", name="", code=2)
    assert [f"train{i}.png: " in ended.out + ended.err for i in (3, 4, 5)] == [True, True, False]


@pytest.mark.risk(8)
def test_testing_reports_damaged_files_and_evaluates_the_others(
    cases: Cases, cli: InProcess, trained: Path
) -> None:
    for kind in KINDS:  # two bad ones of each kind, beside three sound ones
        sound = encoded(kind, Path())
        for damage in ("cut30", "cut90"):
            name = f"{damage}_{kind.replace('.', '_')}.{kind.split('.')[-1]}"
            (trained / "test/input" / name).write_bytes(DAMAGES[damage](sound))
            (trained / "test/target" / name).write_bytes(sound)
    ended = cli.test(code=3)
    failed = [line for line in ended.err.splitlines() if line.startswith("failed")]
    for path in sorted((trained / "test/input").glob("cut*")):
        cases.check(any(path.name in line for line in failed), f"{path.name} {ended.err}")
    assert len(read_csv(Path("results/run/photos/metrics.csv"))) == 3


# ------------------------------------------------------------------------------------------------------ bombs


def black_png(side: int, rows: int) -> bytes:
    """A square PNG of 1 bit a pixel, all black, of which only some rows are there."""
    return png_file(side, side, 1, 0, bytes((1 + (side + 7) // 8) * rows))


@pytest.mark.risk(9)
@pytest.mark.parametrize(("side", "rows"), [(12_000, 12_000), (20_000, 20_000), (100_000, 1)])
def test_a_bomb_is_refused_by_its_header(cli: InProcess, trained: Path, side: int, rows: int) -> None:
    data = black_png(side, rows)
    assert len(data) < 60_000
    for split in ("train", "test"):
        (trained / f"{split}/input/{split}1.png").write_bytes(data)
    with memory_grows() as growth:
        assert cli.train(*PHOTOS, name="other", code=2).refused("train1.png is too large", "--max_pixels")
        assert "test1.png is too large" in cli.test(code=3).err
        assert growth() < 50


@pytest.mark.risk(9)
def test_the_limit_can_be_moved(cli: InProcess, photos: Path) -> None:
    """From 1600 pixels, as many as the images have."""
    assert cli.train(*PHOTOS, "--max_pixels", "1599", code=2).refused("is too large", "1599", "40 x 40")
    cli.train(*PHOTOS, "--max_pixels", "1600")
    assert cli.test("--max_pixels", "1599", code=3).refused("too large", "1599", code=3)
    cli.test("--max_pixels", "1600")
    assert cli.train(*PHOTOS, "--max_pixels", "0", name="other", code=2).refused("--max_pixels")
    cli.train("--resume", "--max_steps", "2", "--max_pixels", "9999")
    big = photos / "big.png"
    big.write_bytes(black_png(12_000, 1))
    assert header(big, 12_000**2)[:2] == (12_000, 12_000)
    with pytest.raises(UserError, match="too large"):
        header(big)
    assert MAX_PIXELS == 2**27


@pytest.mark.risk(9)
@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_the_limit_holds_in_loader_processes(tmp_path: Path, start: str) -> None:
    """However they are started; files grow after the start has looked at them."""
    write_set(tmp_path, splits=["train"])
    data = TrainDataset(
        find_pairs(Source(str(tmp_path), max_pixels=2000), "train"), ImageSpec(3, 3), crop_size=16
    )
    for grown in ("input/1.png", "target/2.png"):
        picture(tmp_path / "train" / grown, 48, 48)
    options = {"num_workers": 1, "multiprocessing_context": multiprocessing.get_context(start)}
    loader = DataLoader(data, sampler=[(0, i) for i in range(3)], collate_fn=no_collate, **options)
    errors: list[UserError] = []
    assert [batch["name"] for batch in LoaderIterator(loader, skip=errors.append)] == [["0.png"]]
    for error, name in zip(errors, ("input/1.png", "target/2.png"), strict=True):
        assert f"{name} is too large: 48 x 48 pixels, at most 2000" in f"{error.what}: {error.why}"


# ------------------------------------------------------------------------------------------------ other sizes


def turned(path: Path, height: int, width: int) -> None:
    """A JPEG that is to be turned by a quarter: `width` x `height` once upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    save(image(width, height), path, exif=exif)


@pytest.mark.risk(10)
@pytest.mark.parametrize(
    ("size", "shown", "fix"),
    [
        ((40, 49), "49 x 40", "crop, resize"),
        ((41, 48), "48 x 41", "crop, resize"),
        ((80, 96), "96 x 80", "add --scale 2"),
        ((48, 40), "40 x 48", "crop, resize"),
    ],
)
def test_a_pair_of_two_sizes_is_refused_with_both(
    cli: InProcess, tmp_path: Path, size: tuple[int, int], shown: str, fix: str
) -> None:
    write_set(tmp_path / "photos", splits=["train"], size=(40, 48))
    picture(tmp_path / "photos/train/target/1.png", *size)
    ended = cli.train(*PHOTOS, code=2)
    assert ended.refused("input/1.png is 48 x 40", "target/1.png is", shown, fix)
    ended = cli.train(*PHOTOS, "--check_data", name="", code=2)
    assert shown in ended.out + ended.err


@pytest.mark.risk(10)
@pytest.mark.parametrize("side", ["input", "target"])
def test_only_upright_sizes_count(cli: InProcess, tmp_path: Path, side: str) -> None:
    names = [f"{i}.jpg" for i in range(4)]
    write_set(tmp_path / "photos", splits=["train"], size=(40, 48), names=names)
    turned(tmp_path / f"photos/train/{side}/1.jpg", 40, 48)  # is stored as 48 x 40
    cli.train(*PHOTOS)
    turned(tmp_path / f"photos/train/{side}/1.jpg", 48, 40)
    ended = cli.train(*PHOTOS, name="other", code=2)
    assert ended.refused("input/1.jpg is", "target/1.jpg is", "48 x 40", "40 x 48")


# ------------------------------------------------------------------------------------------------------ names


def composed(form: str, name: str = "Caf\u00e9") -> str:
    return unicodedata.normalize(form, name)  # type: ignore[arg-type]


NFC, NFD = composed("NFC"), composed("NFD")
NUMBERS = " ".join(f"{i}.png" for i in range(12))
LONE = "{} inputs and {} targets have no partner: inputs: {}; targets: {}"
PAIRING = {  # inputs, targets, words of the error, if there is one
    "double": ("a.png a.jpg b.png", "a.png b.png", "several input files share one name: a.jpg, a.png"),
    "double target": ("a.png", "a.bmp a.tif", "several target files share one name: a.bmp, a.tif"),
    "double by suffix": ("1.PNG 1.png", "1.png", "several input files share one name: 1.PNG, 1.png"),
    "two folders": ("a/1.png b/1.png", "a/1.png b/1.png", ""),
    "suffix in capitals": ("1.PNG", "1.png", ""),
    "stem in capitals": ("A.png", "a.png", "inputs: A.png; targets: a.png"),
    "no target": ("a.png b.png", "a.png", LONE.format(1, 0, "b.png", "none")),
    "no input": ("a.png", "a.png b.png", LONE.format(0, 1, "none", "b.png")),
    "one of each": ("a.png b.png", "a.png c.png", LONE.format(1, 1, "b.png", "c.png")),
    "many": (
        f"{NUMBERS} x.png",
        f"x.png t{NUMBERS.replace(' ', ' t')}",
        "12 inputs and 12 targets have no partner: "
        "inputs: 0.png, 1.png, 10.png, 11.png, 2.png and 7 more; "
        "targets: t0.png, t1.png, t10.png, t11.png, t2.png and 7 more",
    ),
    "prefixes": ("1_a.png 1_b.png 2_a.png", "1.png 2.png", ""),
    "prefixes, a target too many": ("1_a.png 2_a.png", "1.png 2.png 3.png", "targets: 3.png"),
    "other folder": ("a/1.png", "b/1.png", "inputs: a/1.png; targets: b/1.png"),
    "composed and not": (f"{NFC}.png", f"{NFD}.png", ""),
    "not composed": (f"{NFD}_1.png", f"{NFC}.png", ""),
    "both forms": (f"{NFC}.png {NFD}.png", f"{NFC}.png", "several input files share one name"),
}


@pytest.mark.risk(11)
@pytest.mark.parametrize(("inputs", "targets", "words"), PAIRING.values(), ids=PAIRING)
def test_names_pair_or_are_listed(tmp_path: Path, inputs: str, targets: str, words: str) -> None:
    for side, names in (("input", inputs), ("target", targets)):
        for name in names.split():
            picture(tmp_path / "train" / side / name, 4, 4)
    try:
        listing = find_pairs(Source(str(tmp_path)), "train", need_targets=True)
        scan_headers(listing)
        assert not words and len(listing.pairs) == len(inputs.split())
    except UserError as error:
        assert words and words in f"{error.what}: {error.why}" and error.fix


@pytest.mark.risk(11)
def test_training_refuses_names_that_do_not_pair(cli: InProcess, photos: Path) -> None:
    for i in range(2, 8):
        path = photos / f"train/input/train{i}.png"
        path.rename(path.with_name(f"lone{i}.png"))
    assert cli.train(*PHOTOS, code=2).refused("6 inputs and 6 targets", "and 1 more", "--pair_by")
    ended = cli.train(*PHOTOS, "--check_data", name="", code=2)
    assert "6 inputs and 6 targets" in ended.out + ended.err


@pytest.mark.risk(11)
def test_a_regular_expression_sees_one_form_of_a_name() -> None:
    input, target = f"{NFD}7.png", f"{NFC}_gt7.png"
    assert match_names([input], [target], pair_by="(Caf\u00e9).*?(\\d)") == {input: target}


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


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.risk(12)
def test_hostile_names_are_only_names(cases: Cases, cli: InProcess, tmp_path: Path) -> None:
    write_set(tmp_path / "photos", names=(*HOSTILE, HIDDEN))
    write_set(tmp_path / "plain", count=len(HOSTILE))
    before = files_below(tmp_path)
    cli.train(*PHOTOS, "--batchSize", str(len(HOSTILE)), "--nan_policy", "stop")
    tested = {data: cli.test("--dataroot", data) for data in ("photos", "plain")}
    page = {data: Outline(ended.page) for data, ended in tested.items()}
    assert page["photos"].tags == page["plain"].tags
    shown = re.findall(r'\{"name":("(?:[^"\\]|\\.)*")', page["photos"].texts["data"])
    on_page = {json.loads(text) for text in shown}
    rows = {row["name"] for row in tested["photos"].rows}
    for name in HOSTILE:
        output = tested["photos"].results / "outputs" / name
        there = output.is_file() and pixels(output).shape == (40, 40, 3)
        cases.check(there and name in rows and name in on_page, repr(name))
    assert rows == on_page == set(HOSTILE)  # hidden files are left out
    new = files_below(tmp_path) - before
    assert all(name.startswith(("checkpoints/", "results/")) for name in new)
    assert (tmp_path / "photos/train/input" / HIDDEN).is_file()


@pytest.mark.risk(12)
@pytest.mark.parametrize("number", [0, 5, 9, 14])
def test_a_folder_of_a_hostile_name(cli: InProcess, photos: Path, tmp_path: Path, number: int) -> None:
    root = HOSTILE[number].removesuffix(".png")
    photos.rename(root)
    before = files_below(tmp_path)
    cli.train(*PHOTOS, f"--dataroot={root}", name="")
    (run,) = (tmp_path / "checkpoints").iterdir()
    ended = cli.test(name=run.name)
    (results,) = (tmp_path / "results" / run.name).iterdir()
    assert len(list((results / "outputs").iterdir())) == 3
    cli.train("--resume", "--max_steps", "2", name=run.name)
    assert not any("alert" in str(tag) for tag in Outline(ended.page).tags)
    new = files_below(tmp_path) - before
    assert all(name.startswith((f"checkpoints/{run.name}/", f"results/{run.name}/")) for name in new)


@pytest.mark.risk(12)
def test_a_bad_file_with_a_hostile_name_is_reported(cases: Cases, work: Workplace, cli: InProcess) -> None:
    """By the script itself: its stdout and stderr must take any name, in any locale."""
    write_set(work.folder / "photos", names=HOSTILE)
    cli.train(*PHOTOS)
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
def test_links_work(cli: InProcess, tmp_path: Path, what: str, count: int) -> None:
    write_set(tmp_path / "photos", splits=["train"])
    write_set(tmp_path / "else", splits=["train"], names=["e0.png", "e1.png"])
    for side in ("input", "target"):
        folder, other = (tmp_path / root / "train" / side for root in ("photos", "else"))
        if what == "file":
            (folder / "link.png").symlink_to(other / "e0.png")
        elif what in ("folder", "outside"):
            end = Path("../../../else/train", side) if what == "folder" else other
            (folder / "more").symlink_to(end, target_is_directory=True)
            (folder / "nore").symlink_to(end, target_is_directory=True)  # once is enough
        elif what == "side":
            folder.rename(tmp_path / f"real_{side}")
            folder.symlink_to(tmp_path / f"real_{side}", target_is_directory=True)
        else:
            end = {"loop": folder, "up": tmp_path, "root": Path("/")}[what]
            (folder / "round").symlink_to(end, target_is_directory=True)
    listing = find_pairs(Source("photos"), "train")
    assert len(listing.pairs) == count, listing.where
    cli.train(*PHOTOS, "--batchSize", "1")


@pytest.mark.risk(13)
@pytest.mark.parametrize("what", ["dangling", "itself", "a pair of links", "folder called x.png"])
def test_links_to_nothing_are_refused(cli: InProcess, trained: Path, what: str) -> None:
    (trained / "empty").mkdir()
    folder = what == "folder called x.png"
    for split in ("train", "test"):
        path = trained / f"{split}/input/{split}1.png"
        ends = {
            "dangling": trained / f"gone_{split}.png",
            "itself": path,
            "a pair of links": path.with_name("back"),
        }
        path.unlink()
        path.symlink_to(ends.get(what, trained / "empty"), target_is_directory=folder)
        if what == "a pair of links":
            path.with_name("back").symlink_to(path)
    assert cli.train(*PHOTOS, name="other", code=2).refused("train1.png")
    ended = cli.test(code=2 if folder else 3)
    assert ended.refused("test1.png") if folder else "test1.png cannot be read" in ended.err


@pytest.mark.risk(13)
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_hides_no_training_image(cli: InProcess, trained: Path, what: str) -> None:
    for side in ("input", "target"):
        source, folder = trained / "train" / side, trained / "test" / side
        if what == "file":
            (folder / "other.png").symlink_to(source / "train0.png")
        else:
            (folder / "more").symlink_to(source, target_is_directory=True)
    assert cli.test(code=2).refused("what the run was trained on", "--split train")


@pytest.mark.risk(13)
def test_a_root_that_is_a_link(cli: InProcess, trained: Path) -> None:
    for name, end, code in (("alias", "photos", 0), ("round", "round", 2), ("gone", "nothing", 2)):
        Path(name).symlink_to(end, target_is_directory=True)
        flags = ("--dataroot", name)
        # without --name: the run is called after the folder
        for ended in (cli.train(*PHOTOS, *flags, name="", code=code), cli.test(*flags, code=code)):
            assert not code or ended.refused(f"no such folder [--dataroot {name}]")


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
def test_nothing_to_read_is_one_message(cases: Cases, cli: InProcess, trained: Path, tmp_path: Path) -> None:
    before = files_below(tmp_path)
    for kind, paths in EMPTY.items():
        root = tmp_path / kind
        for path in paths:
            lay_out(root / path)
        data = ("--dataroot", str(root))
        for flags in (data, (*data, "--degrade", "noise:25")):
            for ended in (cli.train(*PHOTOS, *flags, name="new", code=None), cli.test(*flags, code=None)):
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
    made = {
        picture(folder / f"{height}x{width}.png", height, width).name: (height, width)
        for height, width in SIZES
    }
    save(image(21, 34).astype(np.uint16) * 257, folder / "deep.png")
    Image.fromarray(image(22, 35)).convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
    return made | {"deep.png": (21, 34), "palette.png": (22, 35)}


@pytest.mark.risk(15)
@pytest.mark.parametrize(("model", "tile"), [("resunet", 0), ("resnet", 0), ("dncnn", 0), ("resunet", 48)])
def test_outputs_have_the_size_of_their_inputs(
    cases: Cases, cli: InProcess, photos: Path, model: str, tile: int
) -> None:
    cli.train("--dataroot", "photos", *tiny_flags(model), *STEP)
    made = odd_sizes(Path("odd"))
    ended = cli.test("--dataroot", "odd", *(("--tile", str(tile), "--tile_overlap", "8") if tile else ()))
    for name, size in made.items():
        output = ended.results / "outputs" / name
        cases.check(output.is_file() and pixels(output).shape[:2] == size, f"{name} {ended.err}")


@pytest.mark.risk(15)
@pytest.mark.parametrize("smallest", SIZES)
def test_training_names_the_image_that_is_smaller_than_the_crop(
    cli: InProcess, photos: Path, smallest: tuple[int, int]
) -> None:
    for side in ("input", "target"):
        picture(photos / "train" / side / "small.png", *smallest)
    too_small = min(smallest) < 32
    ended = cli.train(*PHOTOS, code=2 if too_small else 0)
    assert not too_small or ended.refused("--crop_size 32", "small.png", f"{min(smallest)} pixels")
