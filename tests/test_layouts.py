"""Which files make a pair, which split they belong to, and which errors come before a mistake can."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.matching import match_names
from data.pairs import PairList, Source
from data.scan import scan_headers
from data.splits import Holdout, detect, divide, find_pairs, hold_out
from tests.builders import BLUE, RED, Colour, error_of, image, put, save
from utils.system.errors import UserError


def find(root: Path | str, split: str = "train", *more: Any, **options: Any) -> PairList:
    return find_pairs(Source(str(root), **options), split, *more)


def names_of(listing: PairList) -> list[tuple[str, str]]:
    """(input file, target file) of every pair, each behind the name of its folder."""
    both = [(pair.input, pair.target) for pair in listing.pairs]
    return [(f"{a.parent.name}/{a.name}", f"{b.parent.name}/{b.name}") for a, b in both if a and b]


# --------------------------------------------------------------------------------------------- matching names


@pytest.mark.parametrize(
    "names",  # input=target
    [
        "a.jpg=a.png b.png=b.bmp",
        "s/a.png=s/a.png t/a.png=t/a.png",
        "x_1.png=x_1.png x_2.png=x_2.png",
        "1400_1.png=1400.png",
        "1_1_0.90179.png=1.png",
        "0005_0.8_0.04.jpg=0005.jpg",
        "2_1.png=2.png 1_1.png=1.png 1_2_0.8.png=1.png 1_3.png=1.png",
        "a_b_1.png=a_b.png a_1.png=a.png a_b_c_1.png=a_b_c.png",  # the longest prefix wins
        "s/1_1.png=s/1.png t/1_1.png=t/1.png",
    ],
)
def test_names_that_match(names: str) -> None:
    expected = dict(pair.split("=") for pair in names.split())
    inputs, targets = sorted(expected), sorted(set(expected.values()))
    assert match_names(inputs, targets) == expected
    assert match_names(inputs[::-1], targets) == match_names(inputs, targets[::-1]) == expected


def test_matching_ignores_the_order_of_the_lists() -> None:
    inputs = [f"{scene}_{level}.png" for scene in (2, 10, 1, 21) for level in range(3)]
    targets = [f"{scene}.png" for scene in (21, 1, 10, 2)]
    expected = {name: f"{name.split('_')[0]}.png" for name in inputs}
    for seed in range(5):
        random.Random(seed).shuffle(inputs)
        random.Random(seed + 9).shuffle(targets)
        assert match_names(inputs, targets) == expected


@pytest.mark.parametrize(
    "names",  # inputs = targets
    [
        "a.png b.png=c.png d.png",  # as many on each side, but other names
        "a.png b.png c.png=b.png c.png d.png",  # one gap on each side
        *("a.png b.png=a.png", "a.png=a.png b.png", "=a.png", "a.png="),
        "s/a.png=t/a.png",  # a sub-folder belongs to the name
        "s_1.png s_2.png s_3.png=s_1.png s_2.png s_4.png",
        "1_1.png 3_1.png=1.png 2.png",  # RESIDE names with a gap on each side
        *("11_1.png=1.png", "1-1.png=1.png"),  # a prefix ends before a `_`
        "1.png=1_1.png",  # the input's name is the longer one
        "scene_1/x.png scene_2/x.png=scene.png",  # a prefix ends inside the file name
        # one rule for the whole set: an input named as its target stands for equal stems, and so must all
        *("a.png a_1.png=a.png", "a_1.png a_2.png=a.png a_1.png", "a.png a_2.png b.png=a.png b.png"),
    ],
)
def test_a_missing_file_is_an_error(names: str) -> None:
    inputs, targets = map(str.split, names.split("="))
    assert "have no partner" in error_of(match_names, inputs, targets).what


def test_unmatched_files_are_counted_and_the_first_five_listed() -> None:
    inputs = ["both.png", *(f"in{i}.png" for i in (6, 3, 5, 0, 2, 1, 4))]
    error = error_of(match_names, inputs, ["both.png", *(f"out{i}.png" for i in range(3))])
    assert error.what == "7 inputs and 3 targets have no partner" and error.code == 2
    assert "inputs: in0.png, in1.png, in2.png, in3.png, in4.png and 2 more;" in error.why
    assert "targets: out0.png, out1.png, out2.png" in error.why
    assert "in5" not in error.why and "both" not in error.why


@pytest.mark.parametrize(
    ("inputs", "targets", "side"),
    [
        ("a.png a.jpg", "a.png", "input"),
        ("a.png", "a.png a.bmp", "target"),
        ("a_1.png a_1.jpg", "a.png", "input"),
    ],
)
def test_two_files_of_one_stem_are_an_error(inputs: str, targets: str, side: str) -> None:
    error = error_of(match_names, inputs.split(), targets.split())
    assert f"several {side} files share one name" in error.what
    assert error.why.count("a") >= 2  # both are named


# ------------------------------------------------------------------------------------------------ the layouts


def test_pairs_in_folders_named_as_cyclegan_does(tmp_path: Path) -> None:
    for split in ("train", "test"):
        put(tmp_path, f"{split}A/{split}.png", f"{split}B/{split}.png")
    for split in ("train", "test"):
        assert detect(Source(str(tmp_path)), split) == "pairs"
        assert names_of(find(tmp_path, split)) == [(f"{split}A/{split}.png", f"{split}B/{split}.png")]
    assert error_of(find, tmp_path, "val").why == "it has train, test"


@pytest.mark.parametrize(("direction", "first"), [("AtoB", RED), ("BtoA", BLUE)])
@pytest.mark.parametrize("layout", ["pairs", "aligned"])
def test_direction_says_which_is_the_input(
    tmp_path: Path, layout: str, direction: str, first: Colour
) -> None:
    if layout == "pairs":
        put(tmp_path / "train/A", "1.png", colour=RED, size=(6, 6))
        put(tmp_path / "train/B", "1.png", colour=BLUE, size=(6, 6))
    else:
        both = np.repeat(np.array([[RED, BLUE]], np.uint8), 6, axis=1)
        save(both.repeat(6, axis=0), tmp_path / "train/1.png")
    listing = find(tmp_path, direction=direction)
    given, target = listing.read(listing.pairs[0])
    assert listing.layout == layout
    assert target is not None and given.shape == target.shape == (6, 6, 3)
    assert (given == first).all() and (target == (BLUE if first == RED else RED)).all()


def test_prefix_names_stay_matched_on_disk(tmp_path: Path) -> None:
    put(tmp_path / "train/hazy", "1_1_0.9.png", "1_2_0.8.png", "10_1_0.9.png")
    put(tmp_path / "train/clear", "1.png", "10.png")
    listing = find(tmp_path)
    expected = [("10_1_0.9.png", "10.png"), ("1_1_0.9.png", "1.png"), ("1_2_0.8.png", "1.png")]
    assert [(pair.name, pair.group) for pair in listing.pairs] == expected
    assert "3 images of 2 targets" in listing.describe()


def test_an_aligned_image_of_odd_width_is_an_error_also_before_the_first_step(tmp_path: Path) -> None:
    put(tmp_path / "train", "1.png", size=(16, 6))
    put(tmp_path / "train", "2.png", size=(15, 6))
    listing = find(tmp_path, layout="aligned")
    listing.read(listing.pairs[0])
    for error in (error_of(listing.read, listing.pairs[1]), error_of(scan_headers, listing)):
        assert "odd width" in error.what and "2.png" in error.what and "15" in error.why


@pytest.mark.parametrize("folder", ["", "train"], ids=["flat", "split"])
def test_clean_images_are_both_input_and_target(tmp_path: Path, folder: str) -> None:
    put(tmp_path / folder, "1.png", "sub/2.png", colour=RED)
    assert detect(Source(str(tmp_path), degraded=True), "train") == "clean"
    listing = find(tmp_path, degraded=True)
    assert [pair.name for pair in listing.pairs] == ["1.png", "sub/2.png"]
    given, target = listing.read(listing.pairs[1])
    assert target is not None and given.tobytes() == target.tobytes()


@pytest.mark.parametrize(("layout", "degraded"), [("clean", False), ("pairs", True), ("aligned", True)])
def test_layout_and_degrade_that_contradict_each_other(tmp_path: Path, layout: str, degraded: bool) -> None:
    put(tmp_path, "1.png")
    with pytest.raises(UserError, match=f"--layout {layout}"):
        find(tmp_path, layout=layout, degraded=degraded)


@pytest.mark.parametrize("name", ["1.png", "sub/1.png"])
def test_a_flat_folder_is_inputs_without_targets_which_cannot_be_trained_on(
    tmp_path: Path, name: str
) -> None:
    put(tmp_path, name, colour=RED)
    listing = find(tmp_path, "test")
    assert listing.layout == "inputs" and listing.pairs[0].target is None
    given, target = listing.read(listing.pairs[0])
    assert (given == RED).all() and target is None
    error = error_of(find, tmp_path, "train", True)
    assert "no targets found" in error.what and name.split("/")[0] in error.why and "--degrade" in error.fix
    assert find(tmp_path, "train", True, degraded=True).layout == "clean"


@pytest.mark.parametrize(("root", "scenes", "size"), [("demo:16:32", 16, 32), ("demo:1:16", 1, 16)])
def test_demo_needs_no_files(root: str, scenes: int, size: int) -> None:
    train, test = find(root), find(root, "test")
    assert train.layout == test.layout == "demo"
    assert len({pair.group for pair in train.pairs}) == scenes
    assert 1 <= len({pair.group for pair in test.pairs}) <= max(1, scenes // 4)
    assert len(train.pairs) == 3 * scenes and len({pair.name for pair in train.pairs}) == 3 * scenes
    given, target = train.read(train.pairs[0])
    assert target is not None and given.shape == target.shape == (size, size, 3)
    assert scan_headers(train)[:4] == (3, 3, 8, [(size, size)])


def test_demo_without_numbers_is_one_of_them() -> None:
    listing = find("demo")
    scenes = len({pair.group for pair in listing.pairs})
    (size, _), *_ = scan_headers(listing).sizes
    assert find(f"demo:{scenes}:{size}").pairs == listing.pairs
    assert f"{size} x {size} pixels" in listing.describe()


@pytest.mark.parametrize(
    "root", ["demo:", "demo:4", "demo:4:", "demo:x:32", "demo:0:32", "demo:4:8", "demo:4:32:1"]
)
def test_a_bad_demo_is_an_error(root: str) -> None:
    error = error_of(find, root)
    assert "invalid demo data" in error.what
    assert root in error.what and "demo:SCENES:SIZE" in error.fix


@pytest.mark.parametrize("layout", ["auto", "pairs", "aligned", "demo"])
def test_a_missing_split_lists_those_that_exist(tmp_path: Path, layout: str) -> None:
    for split in ("train", "test"):
        put(tmp_path / split, "input/1.png", "target/1.png")
    error = error_of(lambda: find("demo" if layout == "demo" else tmp_path, "val", layout=layout))
    assert "has no split 'val'" in error.what and error.why == "it has train, test" and error.code == 2


def test_folders_without_pairs_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "train/foggy").mkdir(parents=True)
    error = error_of(find, tmp_path)
    assert "foggy" in error.why and "train/input" in error.fix
    assert "hazy/clear" in error_of(lambda: find(tmp_path, layout="pairs")).fix
    (tmp_path / "train/hazy").mkdir()
    (tmp_path / "train/clear").mkdir()
    assert "no images in" in error_of(find, tmp_path).what
    error = error_of(find, tmp_path / "trian")
    assert "no such folder" in error.what and "holds train" in error.fix


def test_hidden_files_and_foreign_ones_are_ignored(tmp_path: Path) -> None:
    for side in ("input", "target"):
        put(tmp_path / "train" / side, "1.png", "2.PNG", f".{side}.png", ".trash/3.png")
        for name, content in ((f"._{side}.jpg", b"\0\5\26\7"), ("readme.txt", b"text"), ("Thumbs.db", b"")):
            (tmp_path / "train" / side / name).write_bytes(content)
    assert [pair.name for pair in find(tmp_path).pairs] == ["1.png", "2.PNG"]


# ------------------------------------------------------------------------------------------------- validation


def reside(root: Path, split: str, scenes: range) -> None:
    put(root / split / "hazy", *(f"{scene}_{level}.png" for scene in scenes for level in range(3)))
    put(root / split / "clear", *(f"{scene}.png" for scene in scenes))


def split_off(root: Path | str, share: float | None = 0.1, seed: int = 0) -> tuple[PairList, PairList]:
    parts = divide(find(root), Source(str(root)), Holdout(share, seed=seed)).parts
    return parts["train"], parts["val"]


@pytest.mark.parametrize(("scenes", "share", "said"), [(11, 0.1, True), (20, 0.1, True), (30, 0.1, False)])
def test_a_choice_by_few_validation_images_is_called_chance(
    tmp_path: Path, scenes: int, share: float, said: bool
) -> None:
    reside(tmp_path, "train", range(scenes))
    division = divide(find(tmp_path), Source(str(tmp_path)), Holdout(share))
    count = len(division.held_out["val"])
    notes = [note for note in division.notes if f"note    {count} validation image" in note]
    assert bool(notes) == said == (count <= 2)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.9])
def test_all_inputs_of_one_target_are_held_out_together(tmp_path: Path, share: float) -> None:
    reside(tmp_path, "train", range(20))
    train, val = split_off(tmp_path, share=share)
    kept, held = ({pair.target for pair in part.pairs} for part in (train, val))
    assert len(held) == round(20 * share) and len(val.pairs) == 3 * len(held)
    assert not kept & held and len(kept | held) == 20
    assert {pair.input for pair in train.pairs}.isdisjoint(pair.input for pair in val.pairs)


def test_what_is_held_out_depends_on_the_seed_alone(tmp_path: Path) -> None:
    reside(tmp_path, "train", range(20))
    chosen = [{pair.group for pair in split_off(tmp_path, seed=seed)[1].pairs} for seed in (0, 0, 1, 2, 3)]
    assert chosen[0] == chosen[1]
    assert len({frozenset(part) for part in chosen}) > 1
    listing = find(tmp_path)
    backwards = listing._replace(pairs=listing.pairs[::-1])
    assert {pair.group for pair in hold_out(backwards, 0.1, 0)[1].pairs} == chosen[0]


@pytest.mark.parametrize(("scenes", "share", "held"), [(4, 0.01, 1), (2, 0.9, 1), (1, 0.5, 0), (4, 0, 0)])
def test_a_small_set_keeps_some_on_both_sides(tmp_path: Path, scenes: int, share: float, held: int) -> None:
    reside(tmp_path, "train", range(scenes))
    train, val = split_off(tmp_path, share=share)
    assert (len(train.pairs), len(val.pairs)) == (3 * (scenes - held), 3 * held)


@pytest.mark.parametrize("other", ["val", "test"])
@pytest.mark.parametrize("share", [None, 0.1])
def test_a_val_folder_is_used_or_left_alone_and_a_test_folder_never_used(
    tmp_path: Path, share: float | None, other: str
) -> None:
    reside(tmp_path, "train", range(10))
    reside(tmp_path, other, range(100, 102))
    train, val = split_off(tmp_path, share)
    if (share, other) == (None, "val"):
        assert len(train.pairs) == 30
        assert {pair.target for pair in val.pairs} == {tmp_path / f"val/clear/{i}.png" for i in (100, 101)}
        return
    assert (len(train.pairs), len(val.pairs)) == (27, 3)
    assert all(Path(path).is_relative_to(tmp_path / "train") for path in train.files() | val.files())


def test_demo_is_validated_on_scenes_of_its_own() -> None:
    train, val = split_off("demo:10:16", 0.2)
    assert len({pair.group for pair in val.pairs}) == 2
    assert {pair.group for pair in train.pairs}.isdisjoint(pair.group for pair in val.pairs)


# ---------------------------------------------------------------------------------------------- scan_headers


@pytest.mark.parametrize(
    ("inputs", "targets", "channels"),
    [
        ("L L", "L L", (1, 1)),
        ("L L", "RGB RGB", (1, 3)),
        ("L RGB", "L L", (3, 1)),
        ("LA 1", "RGBA P", (1, 3)),
    ],
)
def test_a_scan_finds_channels_and_sizes(
    tmp_path: Path, inputs: str, targets: str, channels: tuple[int, int]
) -> None:
    sizes = [(8, 6), (9, 5)]
    for side, modes in (("input", inputs), ("target", targets)):
        for i, (size, mode) in enumerate(zip(sizes, modes.split(), strict=True)):
            put(tmp_path / "train" / side, f"{i}.png", size=size, mode=mode)
    assert scan_headers(find(tmp_path))[:4] == (*channels, 8, sizes)
    put(tmp_path / "halves/train", "1.png", size=(16, 8), mode="L")
    assert scan_headers(find(tmp_path / "halves"))[:4] == (1, 1, 8, [(8, 8)])


def test_a_pair_of_unequal_sizes_is_an_error_with_both_files(tmp_path: Path) -> None:
    put(tmp_path / "train", "input/1.png", "input/2.png", "target/1.png", size=(8, 6))
    put(tmp_path / "train", "target/2.png", size=(6, 8))
    listing = find(tmp_path)
    for error in (error_of(scan_headers, listing), error_of(listing.read, listing.pairs[1])):
        assert "differ in size" in error.what
        assert f"{tmp_path}/train/input/2.png is 8 x 6" in error.why
        assert f"{tmp_path}/train/target/2.png is 6 x 8" in error.why


def test_an_unreadable_header_is_an_error_with_its_file(tmp_path: Path) -> None:
    put(tmp_path, "train/input/1.png", "train/target/1.png")
    (tmp_path / "train/target/1.png").write_bytes(b"not a picture")
    assert "target/1.png cannot be read" in error_of(scan_headers, find(tmp_path)).what


def test_a_rotated_input_fits_its_upright_target(tmp_path: Path) -> None:
    stored, exif = image(48, 64), Image.Exif()
    exif[0x0112] = 6
    save(stored, tmp_path / "train/input/1.png", exif=exif)
    save(np.rot90(stored, -1), tmp_path / "train/target/1.png")
    listing = find(tmp_path)
    given, target = listing.read(listing.pairs[0])
    assert target is not None and given.tobytes() == target.tobytes()
    assert scan_headers(listing)[:4] == (3, 3, 8, [(48, 64)])
