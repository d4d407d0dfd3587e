"""Where pairs may lie: any folders, both in one folder, a CSV file, targets of another size, single files."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.datasets import ImageSpec, TrainDataset, WholeDataset
from data.degrade import parse_degradation
from data.folders import FOLDERS
from data.matching import WORDS, match_names, match_words
from data.pairs import PairList, Source
from data.scan import scan_headers
from data.splits import Holdout, detect, divide, find_pairs, hold_out, images_to_test, splits_present
from tests.builders import BLUE, RED, Colour, error_of, image, put, save
from utils.system.errors import UserError

SPLITS = ["train", "val", "test"]


def files_of(source: Source, split: str) -> list[tuple[str, str | None]]:
    """(input, target) of every pair, as paths relative to the root where they lie below it."""
    root = Path(source.root) if Path(source.root).is_dir() else Path(source.root).parent

    def short(path: Path) -> str:
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)

    pairs = find_pairs(source, split).pairs
    return [(short(p.input), short(p.target) if p.target else None) for p in pairs if p.input]


def assert_colours(listing: PairList, first: Colour, second: Colour | None) -> None:
    """The images of the first pair are of one colour each; None: no target."""
    given, target = listing.read(listing.pairs[0])
    assert (given == first).all()
    assert target is None if second is None else target is not None and (target == second).all()


def train_and_val(source: Source) -> tuple[PairList, PairList]:
    parts = divide(find_pairs(source, "train"), source, Holdout()).parts
    return parts["train"], parts["val"]


def error_in(source: Source, split: str = "train", need_targets: bool = False) -> UserError:
    return error_of(find_pairs, source, split, need_targets)


# ------------------------------------------------------------------------------------- folders of known names


@pytest.mark.parametrize("place", ["train/", ""], ids=["split", "flat"])
@pytest.mark.parametrize("change", [str, str.upper, str.lower, str.title])
@pytest.mark.parametrize("folders", FOLDERS, ids="-".join)
def test_known_names_in_any_capitals(
    tmp_path: Path, folders: tuple[str, str], change: Callable[[str], str], place: str
) -> None:
    first, second = (place + change(folder) for folder in folders)
    put(tmp_path, *(f"{first}/{i}.png" for i in (1, 2)), *(f"{second}/{i}.jpg" for i in (1, 2)))
    source = Source(str(tmp_path))
    assert detect(source, "train") == "pairs"
    assert files_of(source, "train") == [(f"{first}/{i}.png", f"{second}/{i}.jpg") for i in (1, 2)]


@pytest.mark.parametrize("folders", [("A", "B"), ("hazy", "GT"), ("Input", "TARGET")], ids="-".join)
def test_folders_above_the_splits(tmp_path: Path, folders: tuple[str, str]) -> None:
    put(tmp_path, *(f"{folder}/{split}/{split}.png" for folder in folders for split in SPLITS))
    source = Source(str(tmp_path))
    assert splits_present(source) == SPLITS
    for split in SPLITS:
        pair = tuple(f"{folder}/{split}/{split}.png" for folder in folders)
        assert files_of(source, split) == [pair]
        assert files_of(source._replace(direction="BtoA"), split) == [pair[::-1]]


def test_folders_above_the_splits_need_the_split_on_both_sides(tmp_path: Path) -> None:
    put(tmp_path, "A/train/1.png", "A/val/1.png", "A/test/1.png", "B/train/1.png")
    assert splits_present(Source(str(tmp_path))) == ["train"]
    assert error_in(Source(str(tmp_path)), "test").why == "it has train"


def test_split_folders_in_pairs_are_never_one_folder_of_clean_images(tmp_path: Path) -> None:
    """Otherwise `--degrade` would train on the test images too."""
    put(tmp_path, *(f"{folder}/1.png" for folder in ("trainA", "trainB", "testA", "testB")))
    for layout in ("clean", "auto"):
        assert "trainB" in str(error_in(Source(str(tmp_path), layout, degraded=True)))
    assert error_in(Source(str(tmp_path), "suffix")).what.endswith("in two folders")
    assert files_of(Source(str(tmp_path / "trainB"), degraded=True), "train") == [("1.png", "1.png")]


def test_a_degradation_takes_both_sides_of_pairs_only_if_told(tmp_path: Path) -> None:
    put(tmp_path, "train/hazy/1.png", "train/clear/1.png")
    error = error_in(Source(str(tmp_path), degraded=True))
    assert str(tmp_path / "train/clear") in error.fix and "--layout clean" in error.fix
    assert len(files_of(Source(str(tmp_path), "clean", degraded=True), "train")) == 2


# ------------------------------------------------------------------------------- --input_dir and --target_dir


def named(root: Path, first: str | None = "foggy", second: str | None = "sunny", **more: object) -> Source:
    return Source(str(root), input_dir=first, target_dir=second, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("place", ["{split}/{folder}", "{folder}/{split}"], ids=["within", "above"])
def test_named_folders_within_and_above_the_split(tmp_path: Path, place: str) -> None:
    def files(split: str, *folders: str) -> tuple[str, ...]:
        return tuple(f"{place.format(split=split, folder=folder)}/{split}.png" for folder in folders)

    put(tmp_path, *(file for split in SPLITS for file in files(split, "foggy", "sunny", "other")))
    source = named(tmp_path)
    assert splits_present(source) == SPLITS and detect(source, "train") == "pairs"
    for split in SPLITS:
        assert files_of(source, split) == [files(split, "foggy", "sunny")]


def test_a_named_folder_of_several_parts_keeps_its_sub_folders(tmp_path: Path) -> None:
    for folder in ("foggy", "sunny"):
        put(tmp_path / "train/set" / folder, "s/1.png", "t/1.png")
    pairs = find_pairs(named(tmp_path, "set/foggy", "set/sunny"), "train").pairs
    assert [(pair.name, pair.group) for pair in pairs] == [("s/1.png", "s/1.png"), ("t/1.png", "t/1.png")]


def test_named_folders_of_a_root_without_splits_and_with_one(tmp_path: Path) -> None:
    put(tmp_path, "flat/foggy/1.png", "flat/sunny/1.png", "one/foggy/train/1.png", "one/sunny/train/1.png")
    flat, one = named(tmp_path / "flat"), named(tmp_path / "one")
    assert (splits_present(flat), splits_present(one)) == ([], ["train"])
    assert files_of(flat, "train") == [("foggy/1.png", "sunny/1.png")]
    assert error_in(one, "test").what == "no such folder [--input_dir foggy]"  # not the whole of it


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("with_splits", [True, False])
def test_named_folders_as_paths_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absolute: bool, with_splits: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "root/train", "unused.png")
    inner = ("train/", "test/") if with_splits else ("",)
    names = [str(tmp_path / "far" / n) if absolute else f"far/{n}" for n in ("foggy", "sunny")]
    put(tmp_path, *(f"{name}/{split}1.png" for name in names for split in inner))
    source = named(tmp_path / "root", *names)
    expected = [tuple(f"{name}/{inner[0]}1.png" for name in names)]
    assert [(str(p.input), str(p.target)) for p in find_pairs(source, "train").pairs] == expected
    assert splits_present(source) == (["train", "test"] if with_splits else [])


@pytest.mark.parametrize("absolute", [True, False])
def test_the_same_own_paths_are_never_train_and_val(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absolute: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path, "root/val/unused.png", *(f"{n}/{i}.png" for n in ("foggy", "sunny") for i in range(10)))
    source = named(tmp_path / "root", *(str(tmp_path / n) if absolute else n for n in ("foggy", "sunny")))
    train, val = train_and_val(source)
    assert (len(train.pairs), len(val.pairs)) == (9, 1)
    assert not train.files() & val.files()


def test_input_dir_alone_is_a_folder_of_inputs(tmp_path: Path) -> None:
    put(tmp_path, "test/foggy/1.png", "test/sunny/1.png")
    source = named(tmp_path, second=None)
    assert detect(source, "test") == "inputs"
    assert files_of(source, "test") == [("test/foggy/1.png", None)]
    assert "no targets found" in error_in(source, "test", need_targets=True).what
    assert "--target_dir" in error_in(source._replace(layout="pairs"), "test").what
    assert error_in(named(tmp_path, first=None), "test").what == "--target_dir needs --input_dir"


def test_a_missing_named_folder_is_an_error_with_what_was_looked_for(tmp_path: Path) -> None:
    put(tmp_path / "train/foggy", "1.png")
    error = error_in(named(tmp_path))
    assert error.what == "no such folder [--target_dir sunny]" and error.code == 2 and "train" in error.fix
    for place in (tmp_path / "train/sunny", tmp_path / "sunny/train", "sunny"):
        assert str(place) in error.why


@pytest.mark.parametrize("flag", ["input_dir", "pair_by"])
@pytest.mark.parametrize("layout", ["aligned", "suffix", "demo"])
def test_a_flag_without_a_meaning_is_an_error(tmp_path: Path, layout: str, flag: str) -> None:
    put(tmp_path / "train", "1_LR.png", "1_HR.png")
    given: dict[str, Any] = {flag: "x"}
    error = error_in(Source("demo:2:16" if layout == "demo" else str(tmp_path), layout, **given))
    assert error.what == f"--{flag} has no effect with --layout {layout}"


# ------------------------------------------------------------------------------------------------- --pair_by


@pytest.mark.parametrize(
    ("pair_by", "names"),  # input=target
    [
        (r"\d+", "haze7x.png=gt7.png"),
        (r"^([a-z]+)\d*", "a1.png=a9.png b2.png=b.png"),
        # both groups count
        (
            r"s(\d)/f(\d+)",
            " ".join(f"s{x}/f{y}_in.png=s{x}/f{y}_gt.png" for x, y in ((1, 1), (2, 1), (1, 2))),
        ),
        (r"^\d+", "7-a.png=7.png 7-b.png=7.png 8-a.png=8.png"),
        (r"^(?:in|gt)(\d+)(x)?", "in1.png=gt1.png"),  # a group that is absent
    ],
)
def test_names_that_pair_by_matches(pair_by: str, names: str) -> None:
    expected = dict(pair.split("=") for pair in names.split())
    inputs, targets = list(expected), sorted(set(expected.values()))
    assert match_names(inputs, targets, pair_by) == expected
    assert match_names(inputs[::-1], targets[::-1], pair_by) == expected


@pytest.mark.parametrize(
    ("pair_by", "inputs", "targets", "what", "why"),
    [
        (  # groups are not joined: (1, 23) is not (12, 3)
            *(r"(\d+)-(\d+)", "1-23.png", "12-3.png"),
            *("1 inputs and 1 targets have no partner", "inputs: 1-23.png; targets: 12-3.png"),
        ),
        (
            *(r"\d+", "n1.png n_g.png n_f.png n_e.png n_d.png n_c.png n_b.png n_a.png", "n1.png"),
            r"[--pair_by \d+] does not match 7 names",
            "n_a.png, n_b.png, n_c.png, n_d.png, n_e.png and 2 more",
        ),
        (r"^\d", "1.png", "1_a.png 1_b.png", "several target files share one name", "1_a.png, 1_b.png"),
        (
            *(r"\d", "i1.png i2.png i3.png", "t2.png t4.png"),
            *("2 inputs and 1 targets have no partner", "inputs: i1.png, i3.png; targets: t4.png"),
        ),
    ],
)
def test_names_that_pair_by_cannot_match_are_listed(
    pair_by: str, inputs: str, targets: str, what: str, why: str
) -> None:
    error = error_of(match_names, inputs.split(), targets.split(), pair_by)
    assert (error.what, error.why) == (what, why)


def test_pair_by_on_disk_groups_the_inputs_of_a_target(tmp_path: Path) -> None:
    put(tmp_path / "train", *(f"input/noisy-{name}.png" for name in ("1-a", "1-b", "2-a")))
    put(tmp_path / "train", "target/clean-1.png", "target/clean-2.png")
    pairs = find_pairs(Source(str(tmp_path), pair_by=r"-(\d+)"), "train").pairs
    assert [pair.group for pair in pairs] == ["clean-1.png", "clean-1.png", "clean-2.png"]
    assert error_in(Source(str(tmp_path))).fix.count("--pair_by")


# ------------------------------------------------------------------------------------ both images in a folder


@pytest.mark.parametrize("change", [str.upper, str.lower], ids=["UPPER", "lower"])
@pytest.mark.parametrize("words", WORDS, ids="-".join)
@pytest.mark.parametrize("form", ["1_{}", "1_{}_010", "{}_SRGB_1"])
def test_pairs_told_apart_by_a_word_in_their_names(
    tmp_path: Path, words: tuple[str, str], change: Callable[[str], str], form: str
) -> None:
    first, second = (form.format(change(word)) for word in words)
    stems = ("train/", "train/s/")
    expected = [(f"{stem}{first}.png", f"{stem}{second}.jpg") for stem in stems]
    put(tmp_path, *expected[0], *expected[1])
    source = Source(str(tmp_path))
    assert find_pairs(source, "train", need_targets=True).layout == "suffix"
    assert files_of(source, "train") == expected
    swapped = files_of(source._replace(direction="BtoA"), "train")
    assert sorted(swapped) == sorted(pair[::-1] for pair in expected)


def test_the_suffix_layout_in_a_flat_folder_is_held_out_by_target(tmp_path: Path) -> None:
    put(tmp_path, *(f"{i}_{side}.png" for i in range(10) for side in ("LR", "HR")))
    listing = find_pairs(Source(str(tmp_path)), "train")
    train, val = hold_out(listing, 0.2, seed=1)
    assert (len(train.pairs), len(val.pairs)) == (8, 2) and not train.files() & val.files()


@pytest.mark.parametrize(
    ("names", "inputs", "targets"),
    [
        ("1_LR.png 1_HR.png 2_LR.png", "2_LR.png", "none"),
        ("1_LR.png 1_HR.png 2_HR.png", "none", "2_HR.png"),
        ("s/1_LR.png t/1_HR.png", "s/1_LR.png", "t/1_HR.png"),
        # one input a target: the other rule of prefixes is for two folders
        ("1_HR.png 1_a_LR.png 1_b_LR.png", "1_a_LR.png, 1_b_LR.png", "1_HR.png"),
    ],
)
@pytest.mark.parametrize("layout", ["auto", "suffix"])
def test_a_lone_file_in_one_folder_is_an_error(
    tmp_path: Path, layout: str, names: str, inputs: str, targets: str
) -> None:
    put(tmp_path / "train", *names.split())
    error = error_in(Source(str(tmp_path), layout))
    assert "have no partner" in error.what and error.why == f"inputs: {inputs}; targets: {targets}"


def test_two_files_of_one_end_and_stem_are_an_error() -> None:
    error = error_of(match_words, ["1_LR.png", "1_HR.png", "1_HR.jpg"])
    assert "several target files share one name" in error.what


@pytest.mark.parametrize(
    "names",
    [
        *("x_a.png y_a.png z_a.png", "1_HR.png 2_HR.png"),  # one of the two ends alone
        "1_LR.png 1_HR.png cover.png",
        "1_LR.png 1_GT.png",  # of two rules
        *("1LR.png 1HR.png", ""),
    ],
)
def test_names_that_are_no_pairs_of_ends(tmp_path: Path, names: str) -> None:
    assert match_words(names.split()) is None
    if names:
        put(tmp_path, *names.split())
        assert detect(Source(str(tmp_path)), "test") == "inputs"
        put(tmp_path / "split/train", *names.split())
        assert detect(Source(str(tmp_path / "split")), "train") == "inputs"
        put(tmp_path / "halves/train", *names.split(), size=(16, 8))
        assert detect(Source(str(tmp_path / "halves")), "train") == "aligned"
        assert error_in(Source(str(tmp_path), "suffix"), "test").what.startswith("no pairs such as")


def test_the_order_in_which_layouts_are_tried(tmp_path: Path) -> None:
    source = Source(str(tmp_path))
    put(tmp_path / "train", "1_LR.png", "1_HR.png")
    assert detect(source, "train") == "suffix"  # before aligned
    assert detect(source._replace(degraded=True), "train") == "clean"
    put(tmp_path, "train/A/1.png", "train/B/1.png")
    assert detect(source, "train") == "pairs"  # before suffix
    put(tmp_path / "halves/train", "1_LR.png", "1_HR.png", size=(16, 8))
    assert detect(Source(str(tmp_path / "halves")), "train") == "suffix"
    assert detect(source._replace(input_dir="A"), "train") == "inputs"
    assert detect(source._replace(root="demo"), "train") == "demo"
    assert detect(source._replace(root="x.CSV", input_dir="A"), "train") == "manifest"


@pytest.mark.parametrize("name", ["demo_set", "demos", "demonstration"])
def test_a_folder_whose_name_begins_with_demo_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    put(tmp_path / name, *(f"{split}/{side}/1.png" for split in SPLITS for side in "AB"))
    monkeypatch.chdir(tmp_path)
    assert splits_present(Source(name)) == SPLITS
    assert splits_present(Source("demo:4:32")) == ["train", "test"]


# ------------------------------------------------------------------------------------------------- a CSV file


def table(path: Path, *lines: str, encoding: str = "utf-8") -> Source:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return Source(str(path))


def test_a_manifest_of_relative_and_absolute_paths(tmp_path: Path) -> None:
    put(tmp_path / "lists/in", "1.png", colour=RED)
    put(tmp_path / "far", "in/2.png", "gt/1.png", "gt/2.png", colour=BLUE)
    absolute = f"{tmp_path}/far/in/2.png,{tmp_path}/far/gt/2.png"
    rows = ("in/1.png,../far/gt/1.png", absolute, "../far/in/2.png,../far/gt/2.png")
    source = table(tmp_path / "lists/pairs.csv", "input,target", *rows)
    listing = find_pairs(source, "train", need_targets=True)
    assert listing.layout == "manifest" and splits_present(source) == []
    assert [pair.name for pair in listing.pairs] == ["in/1.png", "2.png", "2.png"]  # never out of results/
    targets = [tmp_path / "far/gt" / name for name in ("1.png", "2.png", "2.png")]
    assert [p.target.resolve() for p in listing.pairs if p.target] == targets
    assert_colours(listing, RED, BLUE)
    assert len(scan_headers(listing).sizes) == 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"], ids=["plain", "BOM"])
def test_a_manifest_with_splits(tmp_path: Path, encoding: str) -> None:
    train = ('train,gt/1.png,"a,b/1.png",of "no" use', "train,gt/3.png,in/3.png,x")
    rows = ("split,target,input,comment", train[0], "test,gt/2.png,in/ü.png,", train[1])
    source = table(tmp_path / "pairs.csv", *rows, encoding=encoding)
    assert splits_present(source) == ["train", "test"]
    assert files_of(source, "train") == [("a,b/1.png", "gt/1.png"), ("in/3.png", "gt/3.png")]
    assert files_of(source, "test") == [("in/ü.png", "gt/2.png")]
    error = error_in(source, "val")
    assert "has no split 'val'" in error.what and error.why == "it has train, test"


def test_a_manifest_is_validated_on_its_val_split_or_held_out_by_target(tmp_path: Path) -> None:
    def split_of(*rows: str) -> tuple[PairList, PairList]:
        source = table(tmp_path / "pairs.csv", *rows)
        return train_and_val(source)

    rows = [f"{split},in/{i}.png,gt/{i}.png" for i, split in enumerate(["train"] * 9 + ["val"])]
    train, val = split_of("split,input,target", *rows)
    assert len(train.pairs) == 9 and [pair.name for pair in val.pairs] == ["in/9.png"]
    rows = [f"in/{scene}_{i}.png,gt/{scene}.png" for scene in range(10) for i in range(3)]
    train, val = split_of("input,target", *rows)
    assert (len(train.pairs), len(val.pairs)) == (27, 3) and not train.files() & val.files()


def test_a_manifest_of_clean_images(tmp_path: Path) -> None:
    put(tmp_path / "gt", "1.png", colour=RED)
    source = table(tmp_path / "pairs.csv", "target", "gt/1.png")._replace(degraded=True)
    listing = find_pairs(source, "train", need_targets=True)
    assert [pair.name for pair in listing.pairs] == ["gt/1.png"]
    assert_colours(listing, RED, RED)


@pytest.mark.parametrize("header", ["input", "input,target"], ids=["no column", "empty column"])
def test_rows_without_targets_are_inputs(tmp_path: Path, header: str) -> None:
    put(tmp_path / "in", "1.png", "2.png", colour=RED)
    comma = "," if "target" in header else ""
    source = table(tmp_path / "pairs.csv", header, f"in/1.png{comma}", f"in/2.png{comma}")
    listing = find_pairs(source, "test")
    assert_colours(listing, RED, None)
    assert scan_headers(listing).sizes == [(8, 6)] * 2
    assert len({pair.group for pair in listing.pairs}) == 2
    assert "has rows without a target" in error_in(source, need_targets=True).what


@pytest.mark.parametrize(
    ("lines", "degraded", "what", "why"),
    [
        (["a,b", "1,2"], False, "is not a manifest", "its columns are a, b"),
        ([""], False, "is not a manifest", "its columns are none"),
        (["target", "gt/1.png"], False, "lacks values of 'input'", "lines 2"),
        (["input", "in/1.png"], True, "lacks values of 'target'", "lines 2"),
        (["input,target", "1,2", ",2", "1,2", ",4"], False, "lacks values of 'input'", "lines 3, 5"),
        (["input,target", "1,2", "", "a,b,c"], False, "has rows of different lengths", "lines 4"),
        (["input,target", "a,b,c", "1,2"], False, "has rows of different lengths", "lines 2"),
        (["input,target", "1,2", "1"], False, "has rows of different lengths", "lines 3"),
        (["input,target", *["1"] * 12], False, "different lengths", "lines 2, 3, 4, 5, 6 and 7 more"),
        (["input,target", '"1,2'], False, "cannot be read", ""),
        (["input,target"], False, "no images in", ""),
    ],
)
def test_a_bad_manifest(tmp_path: Path, lines: list[str], degraded: bool, what: str, why: str) -> None:
    error = error_in(table(tmp_path / "pairs.csv", *lines)._replace(degraded=degraded))
    assert what in error.what and (error.why == why or not why) and error.code == 2


def test_files_that_cannot_be_read_as_a_manifest_or_from_it(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    (tmp_path / "1.png").rename(tmp_path / "1.csv")
    assert "cannot be read" in error_in(Source(str(tmp_path / "1.csv"))).what
    assert "cannot be read" in error_in(Source(str(tmp_path / "absent.csv"))).what
    listing = find_pairs(table(tmp_path / "pairs.csv", "input,target", "1.png,2.png"), "train")
    assert "1.png cannot be read" in error_of(scan_headers, listing).what


# ---------------------------------------------------------------------------------------------- a single file


def test_a_single_image(tmp_path: Path) -> None:
    put(tmp_path / "train", "1.png", "2.png", colour=RED)
    source = Source(str(tmp_path / "train/1.png"))
    listing = find_pairs(source, "test")
    assert (listing.layout, [pair.name for pair in listing.pairs]) == ("inputs", ["1.png"])
    assert_colours(listing, RED, None)
    assert splits_present(source) == []
    assert "one image is no set of pairs" in error_in(source, need_targets=True).what
    degraded = find_pairs(source._replace(degraded=True), "train", need_targets=True)
    assert (degraded.layout, [pair.name for pair in degraded.pairs]) == ("clean", ["1.png"])
    assert_colours(degraded, RED, RED)


# ------------------------------------------------------------------------------------------- super-resolution


def block_mean(values: np.ndarray, factor: int) -> np.ndarray:
    height, width, channels = values.shape
    return values.reshape(height // factor, factor, width // factor, factor, channels).mean((1, 3))


def sr_set(root: Path, factor: int = 2, size: tuple[int, int] = (20, 14)) -> Source:
    """HR images whose every block of pixels has exactly its LR pixel as its mean."""
    rng = np.random.default_rng(factor)
    for name in ("1.png", "2.png"):
        low = rng.integers(2, 62, (size[1], size[0], 3)) * 4
        high = low.repeat(factor, 0).repeat(factor, 1)
        high[::factor, ::factor] += 4  # the block is not flat: two pixels cancel out
        high[factor - 1 :: factor, factor - 1 :: factor] -= 4
        for folder, values in (("LR", low), ("HR", high)):
            save(values.astype(np.uint8), root / "train" / folder / name)
    return Source(str(root), scale=factor)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_pairs_of_a_scale_are_cropped_and_turned_alike(tmp_path: Path, factor: int) -> None:
    listing = find_pairs(sr_set(tmp_path, factor), "train")
    assert scan_headers(listing).sizes == [(20 * factor, 14 * factor)] * 2
    crop = 4 * factor
    spec = ImageSpec(3, 3, mean=0.0, std=1.0)
    dataset = TrainDataset(listing, spec, crop_size=crop, augment="flip_rot90")
    assert dataset.scale == factor
    places = set()
    for epoch in range(50):
        batch = dataset.__getitems__([(epoch, epoch % 2)])
        assert isinstance(batch, dict)
        given, target = (batch[key][0].numpy().transpose(1, 2, 0) for key in ("input", "target"))
        assert given.shape == (4, 4, 3) and target.shape == (crop, crop, 3)
        assert np.allclose(block_mean(target, factor), given, atol=1e-6)
        places.add(given.tobytes())
    assert len(places) > 40  # it is not one window again and again
    whole = WholeDataset(listing, spec).whole(1)
    assert whole.target is not None and np.array_equal(block_mean(whole.target, factor), whole.input)


@pytest.mark.parametrize(
    ("small", "large", "scale", "hint"),
    [
        *(((8, 6), (16, 12), 1, "--scale 2"), ((8, 6), (24, 18), 2, "--scale 3")),
        *(((8, 6), (17, 12), 1, None), ((8, 6), (17, 12), 2, None)),
        ((8, 6), (16, 18), 1, None),  # another factor on each side
        ((8, 6), (12, 9), 1, None),  # not whole
        *(((16, 12), (8, 6), 1, None), ((16, 12), (8, 6), 2, None)),
    ],
)
def test_a_wrong_scale_is_an_error(
    tmp_path: Path, small: tuple[int, int], large: tuple[int, int], scale: int, hint: str | None
) -> None:
    put(tmp_path / "train/LR", "1.png", size=small)
    put(tmp_path / "train/HR", "1.png", size=large)
    listing = find_pairs(Source(str(tmp_path), scale=scale), "train")
    for error in (error_of(scan_headers, listing), error_of(listing.read, listing.pairs[0])):
        assert "{} x {}".format(*small) in error.why and "{} x {}".format(*large) in error.why
        assert (hint or "crop, resize") in error.fix
        assert ("--scale" in error.fix) == (hint is not None)


def test_a_scale_where_layouts_hold_none(tmp_path: Path) -> None:
    put(tmp_path / "train", "1.png", size=(16, 8))
    for root in (str(tmp_path), "demo"):
        assert "--scale 2" in error_in(Source(root, scale=2)).what


@pytest.mark.parametrize(("spec", "scale"), [("sr:2", 2), ("sr:4", 4), ("sr:2+noise:5", 2), ("sr:2+sr:3", 6)])
def test_reducing_cuts_targets_to_whole_blocks(tmp_path: Path, spec: str, scale: int) -> None:
    values = image(27, 31)
    save(values, tmp_path / "1.png")
    listing = find_pairs(Source(str(tmp_path), degraded=True), "train")
    image_spec = ImageSpec(3, 3, degrade=parse_degradation(spec))
    whole = WholeDataset(listing, image_spec).whole(0)
    height, width = 27 // scale, 31 // scale
    assert whole.target is not None and whole.input.shape == (height, width, 3)
    assert np.array_equal(whole.target, values[: height * scale, : width * scale])
    batch = TrainDataset(listing, image_spec, crop_size=24).__getitems__([(0, 0)])
    assert isinstance(batch, dict) and batch["target"].shape == (1, 3, 24, 24)
    assert batch["input"].shape == (1, 3, 24 // scale, 24 // scale)


def test_gray_inputs_have_one_channel_and_coloured_targets(tmp_path: Path) -> None:
    put(tmp_path, "1.png", colour=(250, 10, 90))
    listing = find_pairs(Source(str(tmp_path), degraded=True), "train")
    whole = WholeDataset(listing, ImageSpec(1, 3, degrade=parse_degradation("gray"))).whole(0)
    assert whole.target is not None and whole.input.shape == (6, 8, 1) and whole.target.shape == (6, 8, 3)
    luma = (0.299 * 250 + 0.587 * 10 + 0.114 * 90) / 255
    assert np.allclose(whole.input, luma, atol=1e-6)


# ---------------------------------------------------------------------------------------------- shared files


@pytest.mark.parametrize(("root", "count"), [("alias", 6), ("set/train", 6), ("other", 0), ("photos", 0)])
def test_files_of_training_are_recognised_whatever_the_folder_is_called(
    tmp_path: Path, root: str, count: int
) -> None:
    for folder in ("set/train", "other"):
        put(tmp_path / folder, *(f"{side}/{i}.png" for side in "AB" for i in range(3)))
    (tmp_path / "alias").symlink_to(tmp_path / "set/train", target_is_directory=True)
    (tmp_path / "photos").symlink_to(tmp_path / "set/train/A", target_is_directory=True)  # not measured
    run, source = Source(str(tmp_path / "set")), Source(str(tmp_path / root))
    all_of_it, held_out = Holdout(0.0), Holdout(None)
    if count:
        error = error_of(images_to_test, source, "test", run, all_of_it, {})
        assert error.what == f"{count} of these files are what the run was trained on"
        error = error_of(images_to_test, source, "test", run, held_out, {})
        assert error.what == f"{count - 2} of these files are what the run was trained on"
    else:
        assert images_to_test(source, "test", run, all_of_it, {}).seen == ""
    assert images_to_test(source, "train", run, held_out, {}).seen == "trained on" * bool(count)


def test_what_is_gone_or_has_no_files_shares_none(tmp_path: Path) -> None:
    put(tmp_path, "set/A/1.png", "set/B/1.png")
    demo, found, gone = (
        Source(root) for root in ("demo:2:16", str(tmp_path / "set"), str(tmp_path / "gone"))
    )
    for tested, trained in ((found, gone), (found, demo), (demo, demo), (found, None)):
        assert images_to_test(tested, "test", trained, Holdout(), {}).seen == ""


# ----------------------------------------------------------------------------------------- a hundred thousand


@pytest.mark.slow
def test_a_hundred_thousand_pairs_are_found_in_three_seconds(tmp_path: Path) -> None:
    """By equal names in two folders, by prefixes, and in one folder; empty files are enough."""
    for folder in ("train/hazy", "train/clear"):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(100_000):
        os.close(os.open(tmp_path / f"train/hazy/{i:06d}_0.8.png", os.O_CREAT | os.O_WRONLY))
        os.close(os.open(tmp_path / f"train/clear/{i:06d}.png", os.O_CREAT | os.O_WRONLY))
    source = Source(str(tmp_path))
    for pair_by in (None, r"^\d+"):
        began = time.process_time()  # other processes on the machine do not count
        pairs = find_pairs(source._replace(pair_by=pair_by), "train", need_targets=True).pairs
        took = time.process_time() - began
        print(f"{pair_by or 'prefixes'}: {took:.2f} s")
        assert len(pairs) == 100_000 and took < 3
