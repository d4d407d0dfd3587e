"""`data.check` and `train.py --check_data`: they find bad files before a run and write nothing."""

import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

import data.scan
import data.splits
from data.check import check_data
from data.degrade import parse_degradation
from data.images import Header
from data.pairs import Source
from tests.builders import (
    CPU,
    ROOT,
    flags,
    image,
    network,
    pixels,
    save,
    tiny_flags,
    tree,
    truncate,
    write_weights,
)
from tests.cli import InProcess, Workplace

SIZE = (32, 24)
MODULE = (sys.executable, "-W", "error", "-m", "data.check")


def picture(seed: int, size: tuple[int, int] = SIZE, gray: bool = False) -> np.ndarray:
    """A random 8-bit image `(H, W, C)` unlike that of any other seed."""
    return image(size[1], size[0], 1 if gray else 3, seed=seed)


def pairs_set(root: Path, splits: tuple[str, ...] = ("train", "test"), count: int = 3) -> Source:
    """Sound pairs, every file of other content."""
    for i, split in enumerate(splits):
        for j in range(count):
            for k, side in enumerate(("input", "target")):
                save(picture(100 * i + 2 * j + k), root / split / side / f"{j}.png")
    return Source(str(root))


def clean_set(root: Path, count: int = 3, gray: bool = False) -> Source:
    for i, split in enumerate(("train", "test")):
        for j in range(count):
            save(picture(50 * i + j, gray=gray), root / split / f"{j}.png")
    return Source(str(root), degraded=True)


def check(source: Source, spec: str | None = None, seed: int = 0) -> tuple[int, list[str]]:
    """(exit code, the lines of the report)."""
    said: list[str] = []
    return check_data(source, parse_degradation(spec) if spec else None, seed, said.append), said


def lines_with(text: str, said: list[str]) -> list[str]:
    return [line for line in said if text in line]


def problem(source: Source, spec: str | None = None) -> str:
    """The one problem that is found."""
    code, said = check(source, spec)
    (line,) = lines_with("problem:", said)
    assert code == 2 and said[-1] == "1 problem found"
    return line.removeprefix("problem: ")


# ------------------------------------------------------------------------------------------------ a sound set


def test_a_sound_set_has_nothing_wrong(tmp_path: Path) -> None:
    code, said = check(pairs_set(tmp_path, ("train", "val", "test")))
    assert code == 0 and said[-1] == "no problems found"
    assert [line.split(":")[0] for line in said if " images of " in line] == ["train", "val", "test"]
    assert "3 images of 3 targets, pairs" in said[0]
    assert len(lines_with("headers of 3 pairs: 32 x 24; 3 RGB 8 bit", said)) == 3
    assert not lines_with("note", said) and not lines_with("problem:", said)


def input_psnr(split: Path, i: int) -> float:
    """Of a pair, by scikit-image."""
    return float(peak_signal_noise_ratio(*(pixels(split / f"{s}/{i}.png") for s in ("target", "input"))))


def test_the_input_psnr_is_the_mean_over_the_images(tmp_path: Path) -> None:
    source = pairs_set(tmp_path, ("train",), count=5)
    values = [input_psnr(tmp_path / "train", i) for i in range(5)]
    _, said = check(source)
    expected = f"PSNR {np.mean(values):.2f} dB, {min(values):.2f} to {max(values):.2f}"
    assert lines_with("input PSNR", said) == [f"  input {expected}"]


def test_psnr_of_16_bits_is_of_their_full_scale(tmp_path: Path) -> None:
    given, target = (image(24, 32, 1, np.uint16, seed=seed)[:, :, 0] for seed in range(2))
    save(given, tmp_path / "train/input/1.png")
    save(target, tmp_path / "train/target/1.png")
    expected = peak_signal_noise_ratio(target, given, data_range=65535)
    assert lines_with(f"PSNR {expected:.2f} dB", check(Source(str(tmp_path)))[1])


def test_sizes_modes_and_depths_are_counted(tmp_path: Path) -> None:
    for seed, side in enumerate(("input", "target")):
        (tmp_path / "train" / side).mkdir(parents=True)
        for name, channels, dtype, width in (
            ("1.png", 1, np.uint8, 32),
            ("2.png", 1, np.uint16, 32),
            ("3.tif", 1, np.float32, 32),
            ("4.png", 3, np.uint8, 40),
        ):
            save(image(24, width, channels, dtype, seed), tmp_path / "train" / side / name)
    code, said = check(Source(str(tmp_path)))
    (line,) = lines_with("headers of", said)
    assert code == 0 and "headers of 4 pairs: 32 x 24 to 40 x 24;" in line
    for kind in ("1 L 8 bit", "1 I;16 16 bit", "1 F float", "1 RGB 8 bit"):
        assert kind in line


@pytest.mark.parametrize("factor", [2, 3])
def test_targets_of_another_size_with_their_scale(tmp_path: Path, factor: int) -> None:
    save(picture(1), tmp_path / "train/LR/1.png")
    save(picture(2, (32 * factor, 24 * factor)), tmp_path / "train/HR/1.png")
    code, said = check(Source(str(tmp_path), scale=factor))
    assert code == 0 and lines_with(f"{32 * factor} x {24 * factor}; 1 RGB 8 bit", said)
    assert lines_with("input PSNR", said)
    found = problem(Source(str(tmp_path)))
    assert found.startswith("train: 1 pairs cannot be used") and "32 x 24" in found


# --------------------------------------------------------------------------------------------------- problems


def test_names_without_a_partner(tmp_path: Path) -> None:
    source = pairs_set(tmp_path)
    (tmp_path / "train/target/1.png").unlink()
    assert problem(source).startswith("train: 1 inputs and 0 targets have no partner: inputs: 1.png")
    assert lines_with("test: 3 images", check(source)[1])  # an error of one split leaves the other's report


def test_pairs_of_unequal_size_are_counted_and_five_of_them_listed(tmp_path: Path) -> None:
    source = pairs_set(tmp_path, count=8)
    for i in range(7):
        save(picture(900 + i, (24, 32)), tmp_path / f"train/target/{i}.png")
    line = problem(source)
    assert line.startswith("train: 7 pairs cannot be used")
    assert "differ in size" in line and "24 x 32" in line and "and 2 more" in line
    said = check(source)[1]
    assert lines_with("headers of 1 pair", said) and lines_with("headers of 8 pairs", said)


@pytest.mark.parametrize("side", ["input", "target"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_file_cut_in_its_middle_is_found(tmp_path: Path, side: str, suffix: str) -> None:
    """Its header is sound; only decoding all of it shows what is missing."""
    for i, split in enumerate(("train", "test")):
        for j, folder in enumerate(("input", "target")):
            save(picture(10 * i + j), tmp_path / split / folder / f"1{suffix}")
    path = tmp_path / "test" / side / f"1{suffix}"
    truncate(path, 0.6)
    assert data.scan.header(path)[:2] == SIZE
    data.scan.scan_headers(data.splits.find_pairs(Source(str(tmp_path)), "test"))
    line = problem(Source(str(tmp_path)))
    assert line.startswith("test: 1 pairs cannot be used: ")
    assert str(path) in line and "cannot be read" in line


def test_what_is_no_picture_is_found(tmp_path: Path) -> None:
    source = pairs_set(tmp_path)
    (tmp_path / "train/input/0.png").write_bytes(b"")
    (tmp_path / "train/input/1.png").write_text("<html>404</html>")
    (tmp_path / "train/target/2.png").unlink()
    (tmp_path / "train/target/2.png").symlink_to(tmp_path / "gone.png")
    line = problem(source)
    assert line.startswith("train: 3 pairs cannot be used")
    assert all(name in line for name in ("0.png", "1.png", "2.png"))


def test_colour_of_16_bits_without_its_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, side in enumerate(("input", "target")):
        (tmp_path / "train" / side).mkdir(parents=True)
        for j, dtype in enumerate((np.uint8, np.uint16, np.uint16)):
            save(image(24, 32, 3, dtype, 3 * i + j), tmp_path / "train" / side / f"{j}.png")
    source = Source(str(tmp_path))
    assert lines_with("2 RGB 16 bit", check(source)[1])
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    line = problem(source)
    assert line.startswith("train: 2 pairs cannot be used") and "1.png" in line and "2.png" in line
    assert line.count("more than 8 bits a channel in colour") == 2
    assert lines_with("headers of 1 pair: 32 x 24; 1 RGB 8 bit", check(source)[1])


def test_validation_needs_targets_and_a_test_does_not(tmp_path: Path) -> None:
    source = pairs_set(tmp_path, ("train",))
    save(picture(77), tmp_path / "test/input/1.png")
    code, said = check(source)
    assert code == 0 and lines_with("test: 1 image without targets, inputs", said)
    assert len(lines_with("input PSNR", said)) == 1
    rows = ["split,input,target", "test,test/input/1.png,"]
    rows += [f"train,train/input/{i}.png,train/target/{i}.png" for i in range(3)]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    code, said = check(Source(str(tmp_path / "a.csv")))
    assert (
        code == 0
        and lines_with("test: 1 image without targets, manifest", said)
        and len(lines_with("input PSNR", said)) == 1
    )
    (tmp_path / "b.csv").write_text("\n".join(rows).replace("test,", "val,"))
    line = problem(Source(str(tmp_path / "b.csv")))
    assert line.startswith("val:") and "without a target" in line


# --------------------------------------------------------------------------------------------- the same bytes


def test_the_same_bytes_twice_in_a_split_are_a_note(tmp_path: Path) -> None:
    source = pairs_set(tmp_path)
    (tmp_path / "train/input/2.png").write_bytes((tmp_path / "train/input/0.png").read_bytes())
    code, said = check(source)
    (line,) = lines_with("note", said)
    assert code == 0 and "byte-identical" in line
    assert f"{tmp_path}/train/input/0.png = {tmp_path}/train/input/2.png" in line


@pytest.mark.parametrize("other", ["test", "val"])
@pytest.mark.parametrize("side", ["input", "target"])
def test_the_same_bytes_in_two_splits_are_a_problem(tmp_path: Path, other: str, side: str) -> None:
    source = pairs_set(tmp_path, ("train", other))
    for name in ("0.png", "2.png"):
        (tmp_path / other / side / name).write_bytes((tmp_path / "train" / side / name).read_bytes())
    line = problem(source)
    assert line.startswith(f"2 files of train are also in {other}: ")
    assert f"{tmp_path}/train/{side}/0.png = {tmp_path}/{other}/{side}/0.png" in line


def test_several_inputs_of_one_target_are_no_copies(tmp_path: Path) -> None:
    for level in range(3):
        save(picture(level), tmp_path / f"train/hazy/1_{level}.png")
    save(picture(9), tmp_path / "train/clear/1.png")
    code, said = check(Source(str(tmp_path)))
    assert code == 0 and not lines_with("note", said) and "3 images of 1 target, " in said[0]


def test_inputs_that_equal_their_targets_are_noted(tmp_path: Path) -> None:
    source = pairs_set(tmp_path, ("train",))
    save(picture(0), tmp_path / "train/target/0.png")  # the same file
    save(picture(2), tmp_path / "train/target/1.png", compress_level=0)  # other bytes
    code, said = check(source)
    assert code == 0 and lines_with("note: 2 inputs equal their targets", said)
    assert lines_with("note: 1 groups of byte-identical files", said)
    assert lines_with(f"PSNR {input_psnr(tmp_path / 'train', 2):.2f} dB", said)  # of the one that differs


def test_thousands_of_copies_are_one_line(tmp_path: Path) -> None:
    source = pairs_set(tmp_path, ("train",), count=20)
    for i in range(20):
        (tmp_path / f"train/target/{i}.png").write_bytes((tmp_path / f"train/input/{i}.png").read_bytes())
    code, said = check(source)
    assert code == 0 and len(said) < 8 and lines_with("and 15 more", said)
    assert lines_with("20 inputs equal their targets", said)


# ------------------------------------------------------------------------------------------- kinds of sources


def test_a_folder_without_splits(tmp_path: Path) -> None:
    save(picture(1), tmp_path / "A/1.png")
    save(picture(2), tmp_path / "B/1.png")
    code, said = check(Source(str(tmp_path)))
    assert code == 0 and said[0].startswith("train: 1 image of 1 target, ")
    found = problem(Source(str(tmp_path / "A")))  # nothing but inputs
    assert "no targets found" in found and f"{tmp_path / 'A'} holds 1.png" in found


@pytest.mark.parametrize(("inputs", "targets"), [("input", "targets"), ("A", "GTr_A"), ("rainy", "gt")])
def test_folders_whose_files_have_other_names_are_told_with_the_fix(
    tmp_path: Path, inputs: str, targets: str
) -> None:
    for split in ("train", "test"):
        save(picture(1), tmp_path / split / inputs / "a1.png")
        save(picture(2), tmp_path / split / targets / "photo.png")
    code, said = check(Source(str(tmp_path)))
    assert code == 2
    (line,) = lines_with("problem: train: no targets found", said)
    assert f"no file of {inputs} is named as one of {targets}" in line
    assert f"--input_dir {inputs} --target_dir {targets} if these two are pairs" in line


def test_a_manifest_is_checked_as_well(tmp_path: Path) -> None:
    pairs_set(tmp_path)
    rows = ["split,input,target"]
    rows += [f"{s},{s}/input/{i}.png,{s}/target/{i}.png" for s in ("train", "test") for i in range(3)]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    source = Source(str(tmp_path / "pairs.csv"))
    code, said = check(source)
    assert code == 0 and len(lines_with("3 images of 3 targets, manifest", said)) == 2
    (tmp_path / "test/target/1.png").unlink()
    assert "test/target/1.png" in problem(source)


@pytest.mark.parametrize("spec", [None, "noise:25"])
def test_demo_has_nothing_wrong(spec: str | None) -> None:
    code, said = check(Source("demo:2:16", degraded=spec is not None), spec)
    assert code == 0 and said[0].startswith("train: ") and said[1].startswith("test: ")
    assert check(Source("demo:0:0"))[0] == 2


def test_halves_side_by_side(tmp_path: Path) -> None:
    save(picture(1, (64, 24)), tmp_path / "train/1.png")
    save(picture(2, (63, 24)), tmp_path / "train/2.png")
    source = Source(str(tmp_path), layout="aligned")
    assert "2.png has an odd width" in problem(source)
    said = check(source)[1]
    left, right = np.split(picture(1, (64, 24)), 2, axis=1)
    assert lines_with("headers of 1 pair: 32 x 24; 1 RGB 8 bit", said)
    assert lines_with(f"PSNR {peak_signal_noise_ratio(right, left):.2f} dB", said)


# ---------------------------------------------------------------------------------------- degraded on the way


@pytest.mark.parametrize(
    ("spec", "gray"), [("noise:25", False), ("noise:25", True), ("gray", False), ("haze+jpeg:10-90", True)]
)
def test_the_input_psnr_is_that_of_a_test(tmp_path: Path, cli: InProcess, spec: str, gray: bool) -> None:
    """The same draws: test.py on this split with this seed, with a network of these channels."""
    code, said = check(clean_set(tmp_path / "set", gray=gray), spec, seed=7)
    assert code == 0
    channels = {"input_nc": 1 if gray or spec == "gray" else 3, "output_nc": 1 if gray else 3}
    write_weights(network("unet", **channels), tmp_path / "net.pth")
    options = flags(**channels, weights="net.pth", dataroot="set", degrade=spec, seed=7, metrics="psnr")
    values = cli.test(*tiny_flags("unet"), *options).numbers("psnr_input")
    lines = lines_with("input PSNR", said)
    assert len(values) == 3 and len(lines) == 2
    assert f"PSNR {values.mean():.2f} dB, {values.min():.2f} to {values.max():.2f}" in lines[1]


def test_noise_is_that_of_the_seed(tmp_path: Path) -> None:
    source = clean_set(tmp_path)
    one, same, other = (lines_with("PSNR", check(source, "noise:25", seed)[1]) for seed in (1, 1, 2))
    assert one == same != other
    assert all(abs(float(line.split()[2]) - 20.17) < 0.3 for line in one)  # 20 log10(255 / 25)


def test_targets_are_cut_to_whole_blocks_before_they_are_compared(tmp_path: Path) -> None:
    save(picture(1, (33, 25)), tmp_path / "1.png")
    code, said = check(Source(str(tmp_path), degraded=True), "sr:4")
    assert code == 0 and lines_with("input PSNR", said)
    save(picture(2, (3, 25)), tmp_path / "2.png")
    found = problem(Source(str(tmp_path), degraded=True), "sr:4")
    assert "3 x 25 pixels cannot be made 4 times smaller" in found


# ------------------------------------------------------------------------------------------------ the command


@pytest.mark.parametrize("command", ["train.py", "data/check.py"])
def test_the_commands_leave_no_trace_and_say_by_their_code(work: Workplace, command: str) -> None:
    """No --name is needed, and a run of the name that it would get is not in the way."""

    def checked(code: int) -> str:
        before = tree(work.folder)
        if command == "train.py":
            ended = work.train(*flags(dataroot="set", check_data=True), "--gpu_ids", "-1", name="", code=code)
        else:
            ended = work.process(*MODULE, "set", PYTHONPATH=str(ROOT)).wait(code)
        assert tree(work.folder) == before and "Traceback" not in ended.err
        return ended.err

    pairs_set(work.folder / "set")
    run = work.folder / "checkpoints/set_resnet"
    run.mkdir(parents=True)
    (run / "options.json").write_text("{}")
    said = checked(0)
    assert "no problems found" in said and "train: 3 images" in said
    truncate(work.folder / "set/test/input/1.png")
    assert "problem: test: 1 pairs cannot be used" in checked(2)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("--dataroot", "set", "--layout", "pairs"), "3 images of 3 targets"),
        (("set/train/target", "--degrade", "noise:25", "--seed", "1"), "input PSNR 20."),
        (("set", "--direction", "BtoA"), "target -> input"),
        (("set", "--scale", "2"), "not 2 times the size"),
        ((), "error: no data [ROOT]"),
        (("set", "--dataset", "x"), "did you mean --dataroot?"),
        (("set", "--degrade", "fog"), "unknown degradation 'fog'"),
    ],
)
def test_the_module_takes_the_flags_of_data(work: Workplace, command: tuple[str, ...], words: str) -> None:
    pairs_set(work.folder / "set")
    assert words in work.process(*MODULE, *command, PYTHONPATH=str(ROOT)).wait(None).err


# ------------------------------------------------------------------------------ the short form at every start


def count_headers(monkeypatch: pytest.MonkeyPatch) -> "Counter[Path]":
    """Counts the headers that are read, and fails the test where a file is hashed."""
    count: Counter[Path] = Counter()
    real = data.scan.header

    def header(path: Path, max_pixels: int) -> Header:
        count[path] += 1
        return real(path, max_pixels)

    def no_hash(path: Path) -> str:
        raise AssertionError(f"{path} was hashed")

    monkeypatch.setattr(data.scan, "header", header)
    monkeypatch.setattr("data.check.sha256", no_hash)
    return count


START = (*flags(crop_size=16, model="resunet", width=8, depth=1, levels=1, max_steps=1, val_share=0), *CPU)


def test_a_start_says_in_one_line_what_the_headers_hold(
    tmp_path: Path, cli: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs_set(tmp_path / "set", ("train",))
    for seed, side in enumerate(("input", "target")):
        save(picture(70 + seed, (40, 24)), tmp_path / f"set/train/{side}/0.png")
    count = count_headers(monkeypatch)
    said = cli.train("--dataroot", "set", *START).err.splitlines()
    assert len(lines_with("headers of", said)) == 1
    assert lines_with("headers of 3 pairs: 32 x 24 to 40 x 24; 3 RGB 8 bit", said)
    assert count.total() == 6


@pytest.mark.parametrize(("layout", "pairs"), [("pairs", 500), ("clean", 1000)])
def test_at_most_a_thousand_headers_are_read_all_over_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, pairs: int
) -> None:
    first = save(picture(1), tmp_path / "train/A/0000.png")
    (tmp_path / "train/B").mkdir()
    for i in range(1, 1100):
        os.link(first, tmp_path / f"train/A/{i:04d}.png")
    for i in range(1100):
        os.link(first, tmp_path / f"train/B/{i:04d}.png")
    assert data.scan.MAX_HEADERS <= 4000
    monkeypatch.setattr(data.scan, "MAX_HEADERS", 1000)
    count = count_headers(monkeypatch)
    source = Source(str(tmp_path), layout, degraded=layout == "clean")
    found = data.scan.scan_headers(data.splits.find_pairs(source, "train"))
    assert count.total() == 1000 and max(count.values()) == 1
    listed = 2200 if layout == "clean" else 1100
    assert len(found.sizes) == pairs and f"headers of {pairs} of {listed} pairs" in found.describe()
    at = [int(path.stem) + 1100 * (layout == "clean" and path.parent.name == "B") for path in count]
    steps = np.diff(sorted(set(at)))
    assert (min(at), max(at)) == (0, listed - 1) and set(steps.tolist()) <= {2, 3}


def test_a_start_refuses_what_the_headers_show(tmp_path: Path, cli: InProcess) -> None:
    pairs_set(tmp_path / "set", ("train",))
    save(picture(71, (40, 24)), tmp_path / "set/train/target/0.png")
    assert cli.train("--dataroot", "set", *START, code=2).refused("differ in size")
    assert not (tmp_path / "checkpoints").exists()
