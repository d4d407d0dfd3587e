"""Layouts taken without evidence, files left out in silence, and images that a run has seen."""

import os
import re
import shlex
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data.folders
import data.splits
from data.check import check_data
from data.pairs import Source
from data.splits import Holdout, detect, divide, find_pairs, splits_present
from tests.builders import (
    CPU,
    FAST,
    TINY_NET,
    error_of,
    image,
    pixels,
    psnr,
    put,
    save,
    words,
    write_set,
)
from tests.cli import Ended, InProcess, options

STEP = (*TINY_NET, *FAST, *CPU, "--batchSize", "1", "--max_steps", "1")
PAIRS = [f"{side}/{i}.png" for side in ("input", "target") for i in range(4)]


@pytest.fixture
def run(cli: InProcess) -> Path:
    """A run on a set of pairs that lies in `base`."""
    write_set(Path("base"), splits=["train"])
    return cli.train("--dataroot", "base", *STEP).run


def check(root: str, **more: Any) -> tuple[int, str]:
    """(exit code, report) of --check_data."""
    said: list[str] = []
    return check_data(Source(root, **more), None, 0, said.append), "\n".join(said)


def pasted(cli: InProcess, fix: str, *flags: str, **more: Any) -> Ended:
    """Train with the flags of a command in an error's fix; `more` as in `cli.train`."""
    python, script, *given = shlex.split(re.split(r", or |; ", fix)[0])
    assert (python, script) == ("python", "train.py")
    return cli.train(*given, *flags, **more)


# ---------------------------------------------------------------------------------- 30: two halves of a photo


@pytest.mark.risk(30)
@pytest.mark.parametrize(
    "sizes", [[(48, 64)], [(64, 48), (48, 64)], [(32, 64), (32, 62)], [(31, 63), (32, 64)]]
)
def test_photos_in_a_split_folder_stay_whole(run: Path, cli: InProcess, sizes: list[tuple[int, int]]) -> None:
    write_set(Path("photos"), "inputs", size=sizes, splits=["test"])
    ended = cli.test("--dataroot", "photos")
    assert "outputs only, no figures" in ended.out
    for i in range(3):
        assert ended.output(f"{i}.png").shape == (*sizes[i % len(sizes)], 3)
    Path("photos/test").rename("photos/train")
    assert cli.train("--dataroot", "photos", *STEP, name="x", code=2).refused(
        "no targets", "--layout aligned"
    )


@pytest.mark.risk(30)
@pytest.mark.parametrize("size", [(40, 80), (32, 64), (33, 66)])
def test_images_of_two_squares_are_still_found(cli: InProcess, size: tuple[int, int]) -> None:
    files = write_set(Path("facades"), "aligned", size=(size[0], size[1] // 2))
    assert pixels(files[0].input).shape[:2] == size
    cli.train("--dataroot", "facades", *STEP)
    ended = cli.test()
    left, right = np.split(pixels(Path("facades/test/0.png")), 2, axis=1)
    assert ended.numbers("psnr_input")[0] == pytest.approx(psnr(left, right), abs=1e-5)


@pytest.mark.risk(30)
@pytest.mark.parametrize("late", [(30, 64), (64, 32), (32, 66)])
def test_an_image_of_another_shape_that_detection_did_not_see_stops_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, late: tuple[int, int]
) -> None:
    write_set(tmp_path, "aligned", size=(32, 32), count=6, splits=["train"])
    save(image(*late), tmp_path / "train/5.png")
    assert detect(Source(str(tmp_path)), "train") == "inputs"
    monkeypatch.setattr(data.splits, "MAX_HEADERS", 2)  # the first and the fourth
    listing = find_pairs(Source(str(tmp_path)), "train")
    assert listing.layout == "aligned"
    error = error_of(listing.read, listing.pairs[5])
    assert "5.png is not twice as wide" in error.what and "--layout aligned" in error.fix
    assert (
        find_pairs(Source(str(tmp_path), "aligned"), "train").read(listing.pairs[5])[0].shape[1]
        == late[1] // 2
    )


# -------------------------------------------------------------------------------- 30: names that may mean two


@pytest.mark.risk(30)
@pytest.mark.parametrize("names", ["x_a y_a x_b y_b", "1_low 1_high 2_low 2_high", "s/HOUSE_A s/HOUSE_B"])
def test_vague_ends_of_names_are_refused_with_a_flag_for_each_reading(
    run: Path, cli: InProcess, names: str
) -> None:
    put(Path("set"), *(f"{name}.png" for name in names.split()), size=(48, 40))
    assert cli.train("--dataroot", "set", *STEP, name="x", code=2).refused(
        "--layout suffix", "--layout inputs"
    )
    assert cli.test("--dataroot", "set", code=2).refused("--layout suffix", "--layout inputs", "--degrade")
    count = len(names.split())
    assert len(cli.test("--dataroot", "set", "--layout", "inputs").rows) == count
    assert len(cli.test("--dataroot", "set", "--layout", "suffix").rows) == count // 2
    assert len(cli.test("--dataroot", "set", "--degrade", "noise:9").rows) == count


@pytest.mark.risk(30)
@pytest.mark.parametrize("names", [("hazy", "clear", "GT"), ("LQ", "GT", "hazy"), ("A", "B", "low", "high")])
@pytest.mark.parametrize("place", ["", "train/"])
def test_several_pairs_of_folders_are_refused(tmp_path: Path, names: tuple[str, ...], place: str) -> None:
    put(tmp_path, *(f"{place}{name}/1.png" for name in names))
    error = error_of(find_pairs, Source(str(tmp_path)), "train")
    assert "several pairs of folders" in error.what and "--input_dir" in error.fix
    named = find_pairs(Source(str(tmp_path), input_dir=names[0], target_dir=names[1]), "train")
    assert [(pair.input, pair.target) for pair in named.pairs] == [
        (tmp_path / place / names[0] / "1.png", tmp_path / place / names[1] / "1.png")
    ]


@pytest.mark.risk(30)
@pytest.mark.parametrize("folders", [("foggy", "sunny"), ("cam 1", "cam 2"), ("clean_A", "sharp_B")])
@pytest.mark.parametrize("place", ["", "train/"])
def test_two_folders_of_unknown_roles_are_refused_with_a_command_that_works(
    cli: InProcess, folders: tuple[str, str], place: str
) -> None:
    write_set(Path("my set"), splits=[place], folders=folders, count=5)
    ended = cli.train("--dataroot", "my set", *STEP, code=2)
    assert ended.refused(*folders, "--layout inputs")
    pasted(cli, ended.fix, *STEP)
    (trained,) = {Path(text.split("(")[1].split(" -> ")[0]).name for text in options(cli.run())["data"]}
    assert trained == folders[0]
    assert len(cli.test().rows) == 1


@pytest.mark.risk(30)
@pytest.mark.parametrize(
    "folders", [("A", "GTr_A"), ("raw", "clean images"), ("degraded", "Ground-Truth"), ("x", "HQ")]
)
@pytest.mark.parametrize("place", ["{folder}", "train/{folder}", "{folder}/Train"])
def test_the_target_of_two_folders_is_told_by_its_name(
    tmp_path: Path, folders: tuple[str, str], place: str
) -> None:
    put(tmp_path, *(f"{place.format(folder=folder)}/{i}.png" for folder in folders for i in range(2)))
    listing = find_pairs(Source(str(tmp_path)), "train", need_targets=True)
    first, second = (tmp_path / place.format(folder=folder) for folder in folders)
    assert [(pair.input, pair.target) for pair in listing.pairs] == [
        (first / f"{i}.png", second / f"{i}.png") for i in range(2)
    ]
    error = error_of(find_pairs, Source(str(tmp_path), degraded=True), "train")
    assert "these are pairs" in error.what


@pytest.mark.risk(30)
@pytest.mark.parametrize("albums", [("beach", "city"), ("city", "B"), ("office", "gta")])  # b, gt*: targets
def test_albums_without_names_in_common_are_photos(tmp_path: Path, albums: tuple[str, str]) -> None:
    put(tmp_path, *(f"{album}/{album}{i}.png" for album in albums for i in range(2)))
    assert detect(Source(str(tmp_path)), "test") == "inputs"
    error = error_of(find_pairs, Source(str(tmp_path)), "train", True)
    assert f"--input_dir {albums[0]} --target_dir {albums[1]}" in error.fix


# ------------------------------------------------------------------------------------------------- 30: scenes


def scenes(root: Path, split: str, names: str, folders: tuple[str, str], seed: int = 0) -> None:
    for i, name in enumerate(names.split()):
        write_set(root, splits=[str(Path(split, name))], folders=folders, count=2, seed=seed + 10 * i)


@pytest.mark.risk(30)
@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (("blur", "sharp"), "GOPR1 GOPR2 GOPR3"),
        (("noisy", "GT_clean"), "s/1 s/2"),
        (("Hazy", "gt"), "in out"),
    ],
)
def test_scenes_of_a_split_are_pairs(cli: InProcess, folders: tuple[str, str], names: str) -> None:
    scenes(Path("set"), "Train", names, folders)
    scenes(Path("set"), "test", names, folders, seed=500)
    put(Path("set/Train"), f"{names.split()[0]}/blur_gamma/0.png" if "blur" in folders else "more.png")
    ended = cli.train("--dataroot", "set", *STEP, "--val_share", "0")
    assert ("1 images" in ended.err and "more.png" in ended.err) == ("blur" not in folders)
    listing = find_pairs(Source("set"), "train")
    expected = sorted(f"{name}/{i}.png" for name in names.split() for i in range(2))
    assert [pair.name for pair in listing.pairs] == [pair.group for pair in listing.pairs] == expected
    assert all(pair.input and pair.input.parent.name == folders[0] for pair in listing.pairs)
    assert [row["name"] for row in cli.test().rows] == expected
    ended = cli.train("--dataroot", "set", *STEP, "--degrade", "noise:9", name="x", code=2)
    assert ended.refused("these are pairs", "drop --degrade")


@pytest.mark.risk(30)
@pytest.mark.parametrize("names", ["our485 eval15", "indoor outdoor", "x y z"])
def test_scenes_of_no_split_are_refused_with_the_flags_for_each_reading(cli: InProcess, names: str) -> None:
    scenes(Path("set"), "", names, ("low", "high"))
    ended = cli.train("--dataroot", "set", *STEP, code=2)
    one, both, _ = ended.fix.split("; ")
    count = len(names.split())
    for fix, expected in ((one, 2), (both, 2 * count)):
        flags = shlex.split(fix.split(": ")[1])
        root = () if "--dataroot" in flags else ("--dataroot", "set")
        cli.train(*root, *flags, *STEP, "--val_share", "0", name=f"run{expected}")
        assert f"train: {expected} images" in options(cli.run(f"run{expected}"))["data"][0]


@pytest.mark.risk(30)
@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (("1/1_GT_SRGB_010.PNG", "1/1_NOISY_SRGB_010.PNG"), "suffix"),
        (("7/NOISY_1.png", "7/GT_1.png"), "suffix"),
        (("a/input.png", "a/target.png"), "suffix"),
        (("input.png", "target.png"), "inputs"),  # two photos
    ],
)
def test_words_within_names(tmp_path: Path, names: tuple[str, ...], layout: str) -> None:
    put(tmp_path, *names)
    assert detect(Source(str(tmp_path)), "train") == layout


@pytest.mark.risk(30)
@pytest.mark.parametrize(
    "paths",
    ["train/1.png Train/2.png", "valid/1.png validation/1.png", "A/train/1.png B/train/1.png train/2.png"],
)
def test_a_split_in_two_places_is_refused(tmp_path: Path, paths: str) -> None:
    put(tmp_path, *paths.split())
    for split in ("train", "val"):
        error = error_of(find_pairs, Source(str(tmp_path)), split)
        assert "in several places" in error.what and error.why.count(str(tmp_path)) >= 2


# ---------------------------------------------------------------------------------------- 31: left in silence


@pytest.mark.risk(31)
@pytest.mark.parametrize("names", ["4.npy", "4.HEIC 5.heic sub/6.exr", "4", "notes.txt movie.mp4"])
@pytest.mark.parametrize("layout", ["pairs", "inputs"])
def test_files_of_other_kinds_are_named(run: Path, cli: InProcess, names: str, layout: str) -> None:
    sides = ["input", "target"] if layout == "pairs" else [""]
    for split in ("train", "test"):
        for side in sides:
            put(Path("set", split, side), *(f"{split}{i}.png" for i in range(3)), size=(48, 40))
            for name in names.split():
                file = Path("set", split, side, name)
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(b"something")
    remark = f"{len(names.split())} files in set/test{'/input' * (layout == 'pairs')} are not read: "
    said = cli.test("--dataroot", "set").err
    assert remark in said and all(Path(name).suffix.lower() in said for name in names.split())
    if layout == "pairs":
        assert remark.replace("test", "train") in cli.train("--dataroot", "set", *STEP, name="x").err
    code, report = check("set")
    assert code == 2 and f"problem: test: {remark}" in report


@pytest.mark.risk(31)
@pytest.mark.parametrize("kind", [".npy", ".dng", ".webm"])
def test_a_side_of_another_kind_is_named_in_the_error(tmp_path: Path, kind: str) -> None:
    put(tmp_path / "train/input", "0.png", "1.png")
    (tmp_path / "train/target").mkdir()
    for i in range(2):
        (tmp_path / f"train/target/{i}{kind}").write_bytes(b"something")
    error = error_of(find_pairs, Source(str(tmp_path)), "train")
    assert f"2 files in {tmp_path}/train/target are not read: 2 {kind}" in error.why


@pytest.mark.risk(31)
@pytest.mark.parametrize("closed", ["input/night", "target", "."])
def test_folders_that_cannot_be_listed_are_named(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    put(Path("set/train"), *PAIRS, "input/night/9.png", size=(48, 40))
    place = Path("set/train") / closed

    def scandir(path: Any) -> Any:
        if Path(path) == place:
            raise PermissionError(13, "Permission denied", str(path))
        return honest(path)

    honest = os.scandir
    monkeypatch.setattr(data.folders.os, "scandir", scandir)
    ended = cli.train("--dataroot", "set", *STEP, code=0 if "night" in closed else 2)
    code, report = check("set")
    assert code == 2
    for text in (ended.err, report):
        assert f"{place} cannot be listed" in text and "Permission denied" in text


@pytest.mark.risk(31)
@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_files_that_are_not_regular_are_not_read(cli: InProcess, tmp_path: Path, kind: str) -> None:
    put(Path("set/train"), *PAIRS, size=(48, 40))
    for side in ("input", "target"):
        file = Path("set/train", side, "z.png")
        if kind == "fifo":
            os.mkfifo(file)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(str(file))
        else:
            file.symlink_to("/dev/zero")
    remark = "not regular files in set/train/input, not read: z.png"
    assert remark in cli.train("--dataroot", "set", *STEP).err
    code, report = check("set")
    assert code == 2 and f"problem: train: {remark}" in report
    Path("z.csv").symlink_to(tmp_path / "set/train/input/z.png")
    for root in ("set/train/input/z.png", "z.csv"):
        assert cli.train("--dataroot", root, *STEP, name="x", code=2).refused(root)


SYSTEM = "@eaDir/0.png/SYNOPHOTO_THUMB_M.png __MACOSX/._0.png .AppleDouble/0.png Thumbs.db ._0.png .DS_Store"


@pytest.mark.risk(31)
@pytest.mark.parametrize("name", [*SYSTEM.split(), "Desktop.ini", "$RECYCLE.BIN/1.png", "lost+found/x"])
def test_files_of_the_system_are_skipped_silently(tmp_path: Path, name: str) -> None:
    put(tmp_path / "train", *PAIRS)
    put(tmp_path / "photos", "1.png")
    for folder in ("train/input", "train/target", "train", "photos"):
        file = tmp_path / folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            save(image(8, 8), file.with_name("a.png")).rename(file)
    listing = find_pairs(Source(str(tmp_path)), "train")
    assert (len(listing.pairs), listing.remarks) == (4, ())
    photos = find_pairs(Source(str(tmp_path / "photos")), "test")
    assert ([pair.name for pair in photos.pairs], photos.remarks) == (["1.png"], ())


# ------------------------------------------------------------------------------------------------- 31: splits

FORMS = {
    "train": ["Train", "TRAINING", "train"],
    "val": ["valid", "VALIDATION", "Val"],
    "test": ["Testing", "TEST", "test"],
}


@pytest.mark.risk(31)
@pytest.mark.parametrize("form", range(3))
@pytest.mark.parametrize(
    "layout",
    ["{split}/A/1.png", "A/{split}/1.png", "{split}A/1.png", "{split}_A/1.png", "table", "named", "clean"],
)
def test_splits_are_found_in_all_their_forms(tmp_path: Path, layout: str, form: int) -> None:
    names = {split: forms[form] for split, forms in FORMS.items()}  # in this order
    source = Source(str(tmp_path))
    if layout == "table":
        rows = [f"{name}/1.png,gt/{name}.png, {name}" for name in names.values()]
        (tmp_path / "t.csv").write_text("\n".join(["Input, TARGET,Split", *rows]))
        source = Source(str(tmp_path / "t.csv"))
    elif layout == "named":
        put(tmp_path, *(f"{side}/{name}/1.png" for side in ("foggy", "sunny") for name in names.values()))
        source = source._replace(input_dir="foggy", target_dir="sunny")
    elif layout == "clean":
        put(tmp_path, *(f"{name}/1.png" for name in names.values()))
        source = source._replace(degraded=True)
    else:
        both = (layout, layout.replace("A", "B"))
        put(tmp_path, *(side.format(split=name) for side in both for name in names.values()))
    assert splits_present(source) == ["train", "val", "test"]
    for split, name in names.items():
        listing = find_pairs(source, split)
        (pair,) = listing.pairs
        assert listing.split == split and pair.input and name.lower() in str(pair.input).lower()


@pytest.mark.risk(31)
@pytest.mark.parametrize("cell", ["", "  ", "trian", "fold1"])
def test_rows_of_an_unknown_split_are_named(cli: InProcess, cell: str) -> None:
    files = write_set(Path("set"), splits=["train"], count=5)
    rows = [f"{f.input},{f.target},{'Train' if i != 3 else cell}" for i, f in enumerate(files)]
    Path("t.csv").write_text("\n".join(["input,target,split", *rows]))
    remark = f"1 rows of t.csv are of no split ({cell!r}), not read: lines 5"
    ended = cli.train("--manifest", "t.csv", *STEP, "--val_share", "0")
    assert remark in ended.err and "train: 4 images" in options(ended.run)["data"][0]
    code, report = check("t.csv")
    assert code == 2 and remark in report


# -------------------------------------------------------------------------------- 31: a file of several names


def spelled(kind: str, target: Path) -> str:
    """Another path of a file in the working directory."""
    other = Path("again", target.name)
    other.parent.mkdir(exist_ok=True)
    if kind == "hard link":
        os.link(target, other)
    elif kind == "link":
        other.symlink_to(target.absolute())
    elif kind == "linked folder":
        Path("linked").exists() or Path("linked").symlink_to(target.parent, target_is_directory=True)
        return f"linked/{target.name}"
    return {"./": f"./{target}", "..": f"again/../{target}", "absolute": str(target.absolute())}.get(
        kind, str(other)
    )


@pytest.mark.risk(31)
@pytest.mark.parametrize("kind", ["./", "..", "absolute", "hard link", "link", "linked folder"])
def test_one_target_of_two_spellings_is_one_target(cli: InProcess, kind: str) -> None:
    files = write_set(Path("set"), "reside", splits=["train"], count=6)
    held_out = []
    for spell in (False, True):
        targets = [spelled(kind, f.target) if spell and i % 2 else f.target for i, f in enumerate(files)]
        rows = [f"{file.input},{target}" for file, target in zip(files, targets, strict=True)]
        Path("t.csv").write_text("\n".join(["input,target", *rows]))
        ended = cli.train("--manifest", "t.csv", *STEP, "--val_share", "0.3", name=f"run{spell}")
        train, val = options(ended.run)["data"]
        assert "train: 8 images of 4 targets" in train and "val: 4 images of 2 targets" in val
        held_out.append(options(ended.run)["held_out"])
    assert held_out[0] == held_out[1]


@pytest.mark.risk(31)
@pytest.mark.parametrize("layout", ["pairs", "suffix", "clean"])
def test_links_among_the_targets_of_a_folder_are_one_target(tmp_path: Path, layout: str) -> None:
    files = write_set(tmp_path, layout, splits=["train"], count=4)
    a, b = files[0], files[2]
    b.target.unlink()
    b.target.symlink_to(a.target)
    listing = find_pairs(Source(str(tmp_path), degraded=layout == "clean"), "train")
    assert len(listing.pairs) == 4
    assert [pair.group for pair in listing.pairs].count(listing.pairs[0].group) == 2


@pytest.mark.risk(31)
@pytest.mark.parametrize("kind", ["same", "./", "link"])
def test_a_row_twice_is_said(cli: InProcess, kind: str) -> None:
    files = write_set(Path("set"), splits=["train"], count=4)
    rows = [f"{f.input},{f.target}" for f in files]
    target = str(files[1].target) if kind == "same" else spelled(kind, files[1].target)
    Path("t.csv").write_text("\n".join(["input,target", *rows, f"{files[1].input},{target}"]))
    remark = "1 pairs of t.csv hold the files of an earlier one: set/train/input/1.png"
    assert remark in cli.train("--manifest", "t.csv", *STEP).err
    code, report = check("t.csv")
    assert code == 2 and remark in report


# ----------------------------------------------------------------------------- 34: images that a run has seen


@pytest.mark.risk(34)
@pytest.mark.parametrize("layout", ["pairs", "suffix", "manifest", "clean", "demo"])
def test_a_run_is_tested_on_what_it_held_out(cli: InProcess, layout: str) -> None:
    """Without a test split: a share for testing, which the run keeps, else the validation images."""
    root = {"demo": "demo:10:48", "manifest": "set/pairs.csv"}.get(layout, "set")
    if layout != "demo":
        write_set(Path("set"), layout, count=10, splits=["train" if layout == "manifest" else ""])
    degrade = ("--degrade", "noise:25") if layout == "clean" else ()
    if layout == "demo":
        ended = cli.train("--dataroot", root, *STEP, "--test_share", "0.2", code=2)
        assert ended.refused("there is a test split")
    flags = () if layout == "demo" else ("--test_share", "0.3")
    cli.train("--dataroot", root, *STEP, *degrade, "--val_share", "0.2", *flags)
    held_out = options(cli.run())["held_out"]
    listing = find_pairs(Source(root, degraded=bool(degrade)), "train")
    names = {
        split: [p.name for p in listing.pairs if p.group in groups] for split, groups in held_out.items()
    }
    found = {split: cli.test(*degrade, "--split", split) for split in ("train", "val", "test")}
    rows = {split: [row["name"] for row in ended.rows] for split, ended in found.items()}
    assert [len(held_out[split]) for split in sorted(held_out)] == ([2] if layout == "demo" else [3, 2])
    assert not set(rows["train"]) & set(rows["val"]) and rows["val"] == names["val"]
    if layout != "demo":
        assert rows["test"] == names["test"] and not set(rows["test"]) & set(rows["train"] + rows["val"])
        assert len(rows["train"]) == 10 - 3 - 2
    seen = {split: ended.summary["seen"] for split, ended in found.items()}
    assert seen == {"train": "trained on", "val": "validated on", "test": ""}
    for split, ended in found.items():
        for text in (ended.out, ended.comment, ended.facts):
            assert (f"the network was {seen[split]}" in text) == bool(seen[split])


@pytest.mark.risk(34)
@pytest.mark.parametrize(
    ("splits", "flags", "measured", "seen"),
    [
        ([""], "", "1 image;", "validated on"),
        (["train", "valid"], "", "10 images", "validated on"),
        (["train", "val"], "--val_share 0.2", "10 images", ""),
        ([""], "--test_share 0.2 --val_share 0", "2 images", ""),
        (["train", "test"], "", "10 images", ""),
    ],
)
def test_which_images_are_measured_without_asking(
    cli: InProcess, splits: list[str], flags: str, measured: str, seen: str
) -> None:
    write_set(Path("set"), splits=splits, count=10)
    ended = cli.train("--dataroot", "set", *STEP, *words(flags))
    command = next(line for line in ended.err.splitlines() if line.startswith("next"))
    for given in (shlex.split(command)[3:], ["--name", "run", "--dataroot", str(Path("set").absolute())]):
        done = cli.test(*given)
        assert measured in done.out and done.summary["seen"] == seen


@pytest.mark.risk(34)
@pytest.mark.parametrize("flags", ["", "--split val", "--split test"])
def test_a_run_that_held_out_nothing_says_so(cli: InProcess, flags: str) -> None:
    write_set(Path("set"), splits=[""])
    cli.train("--dataroot", "set", *STEP, "--val_share", "0")
    assert cli.test(*words(flags), code=2).refused("the run held out none of set", "--split train")


@pytest.mark.risk(34)
def test_what_a_run_held_out_stays_held_out_when_images_are_added(cli: InProcess) -> None:
    write_set(Path("set"), splits=[""], count=6)
    cli.train("--dataroot", "set", *STEP, "--test_share", "0.4")
    before = options(cli.run())["held_out"]
    new = write_set(Path("more"), splits=[""], names=[f"{i}_new.png" for i in range(6)], seed=90)
    for file in (path for pair in new for path in pair):
        shutil.copy(file, Path("set", *file.parts[1:]))
    assert {row["name"] for row in cli.test().rows} == set(before["test"])
    listing = find_pairs(Source("set"), "train")
    for kept, same in ((before, True), (None, False)):
        division = divide(listing, Source("set"), Holdout(None, 0.4, 3, kept))
        assert (division.held_out == before) == same and len(listing.pairs) == 12


@pytest.mark.risk(34)
@pytest.mark.parametrize("kind", ["moved", "removed", "renamed"])
def test_a_test_that_cannot_tell_whether_its_images_were_trained_on_says_so(
    cli: InProcess, kind: str
) -> None:
    write_set(Path("set"), splits=["train"])
    write_set(Path("other"), splits=[""], seed=50)
    run = cli.train("--dataroot", "set", *STEP).run
    (run / "data.json").unlink()  # as in a run of an older version
    if kind == "removed":
        shutil.rmtree("set")
    else:
        shutil.move("set", "elsewhere" if kind == "moved" else "set2")
    assert (
        "whether the run was trained on these images is unknown: no such folder"
        in cli.test("--dataroot", "other").err
    )


# ------------------------------------------------------------------------------------------------ true advice


@pytest.mark.risk(23)
@pytest.mark.parametrize("factor", [2, 4, 17])
def test_advice_on_a_scale_holds(cli: InProcess, factor: int) -> None:
    put(Path("set/train/LR"), *(f"{i}.png" for i in range(4)), size=(24, 24))
    put(Path("set/train/HR"), *(f"{i}.png" for i in range(4)), size=(24 * factor, 24 * factor))
    ended = cli.train("--dataroot", "set", *STEP, code=2)
    given = re.search(r"--scale \d+", ended.fix)
    assert bool(given) == (factor <= 16)
    if given:
        cli.train("--dataroot", "set", *STEP, "--crop_size", str(8 * factor), *given[0].split())


@pytest.mark.risk(9)
@pytest.mark.parametrize(
    "root", ["demo:99999999999:64", f"demo:{'9' * 5000}:64", "demo:8:99999", "demo:100001:16"]
)
def test_a_demo_is_bounded(cli: InProcess, root: str) -> None:
    assert cli.train("--dataroot", root, *STEP, code=2).refused("invalid demo data", "100000")


def elsewhere(kind: str) -> str:
    """Another place of the set's files; the folder to test."""
    if kind == "copy":
        shutil.copytree("set", "other")
    elif kind == "moved":
        Path("set").rename("other")
    elif kind == "moved, other folder names":
        Path("set").rename("other")
        Path("other/train").rename("other/everything")
        return "other/everything"
    else:
        write_set(Path("other"), splits=[""], names=[f"{i}_new.png" for i in range(3)], seed=70)
        for side in ("input", "target"):
            name = "holiday" if kind == "renamed" else "4"
            shutil.copy(f"set/train/{side}/4.png", f"other/{side}/{name}.png")
    return "other"


@pytest.mark.risk(34)
@pytest.mark.parametrize(
    ("kind", "copies"),
    [
        ("copy", "6 of 6"),
        ("moved", "6 of 6"),
        ("moved, other folder names", "6 of 6"),
        ("some of them", "1 of 4"),
        ("renamed", "1 of 4"),
    ],
)
def test_copies_of_training_images_are_recognised(cli: InProcess, kind: str, copies: str) -> None:
    write_set(Path("set"), splits=["train"], count=6)
    cli.train("--dataroot", "set", *STEP)
    place = elsewhere(kind)
    split = () if place != "other" or kind in ("some of them", "renamed") else ("--split", "train")
    ended = cli.test("--dataroot", place, *split)
    caveat = f"trained or validated on ({copies} are copies of its images)"
    assert ended.summary["seen"] == caveat and "no figure for unseen images" in ended.out
    assert "--test_share" in ended.out


@pytest.mark.risk(34)
@pytest.mark.parametrize("kind", ["other names", "other content", "other size", "held out for testing"])
def test_images_that_a_run_has_not_seen_get_no_caveat(cli: InProcess, kind: str) -> None:
    bitmaps = [f"{i}.bmp" for i in range(6)]  # of one size
    write_set(Path("set"), splits=[""], names=bitmaps)
    cli.train("--dataroot", "set", *STEP, "--test_share", "0.4")
    held_out = options(cli.run())["held_out"]["test"]
    if kind == "held out for testing":
        for side in ("input", "target"):
            for name in held_out:
                Path("other", side).mkdir(parents=True, exist_ok=True)
                shutil.copy(Path("set", side, name), Path("other", side, name))
    else:
        names = [f"new_{name}" for name in bitmaps] if kind == "other names" else bitmaps
        size = (48, 40) if kind == "other size" else (40, 40)
        write_set(Path("other"), splits=[""], seed=90, names=names, size=size)
    ended = cli.test("--dataroot", "other")
    assert ended.summary["seen"] == "" and "unseen images" not in ended.out
    assert len(ended.rows) == (len(held_out) if kind == "held out for testing" else 6)


@pytest.mark.risk(34)
@pytest.mark.parametrize(
    ("names", "shared"),
    [
        (["a/1.png", "a/2.png", "b/1.png", "b/2.png"], "a"),  # frames of a clip on both sides
        (["a/1.png", "b/1.png", "c/1.png", "d/1.png"], ""),  # a folder for each pair
        (["1.png", "2.png", "3.png", "4.png"], ""),
        (["a/1.png", "a/2.png", "a/3.png", "a/4.png"], ""),  # one folder is no scene
    ],
)
@pytest.mark.parametrize("flags", ["--val_share 0.25", "--val_share 0 --test_share 0.25"])
def test_images_held_out_of_scenes_that_are_trained_on_are_named(
    cli: InProcess, names: list[str], shared: str, flags: str
) -> None:
    rows = ["input,target"]
    for i, name in enumerate(names):
        save(image(40, 40, seed=2 * i, smooth=True), Path("t", name))
        save(image(40, 40, seed=2 * i + 1, smooth=True), Path("x", name))
        rows.append(f"x/{name},t/{name}")
    Path("pairs.csv").write_text("\n".join(rows))
    said = cli.train("--dataroot", "pairs.csv", *STEP, *words(flags)).err
    assert ("held out of train are from folders that are trained on" in said) == bool(shared)
    again = cli.train("--resume", "--max_steps", "2").err
    assert "folders that are trained on" not in again and "no test images" not in again


@pytest.mark.risk(23)
def test_one_photo_is_no_training_set(cli: InProcess) -> None:
    photo = save(image(40, 40), Path("photo.png"))
    ended = cli.train("--dataroot", str(photo), *STEP, code=2)
    assert ended.refused("one image is no set of pairs", "test.py --name RUN --dataroot photo.png")
