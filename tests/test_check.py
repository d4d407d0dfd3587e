"""`train.py --check_data`: what it finds before a wrong file costs a night, and that it leaves no trace."""

import csv
import os
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

import data.scan
import data.splits
import test as script
from data.check import check_data, sha256
from data.degrade import parse_degradation
from data.images import Header, save_image
from data.pairs import Source
from models import build_network
from tests.conftest import Workplace
from utils.options.flags import parse_test
from utils.system.errors import UserError

UNET: dict[str, Any] = {"width": 4, "depth": 2}
SIZE = (32, 24)


def picture(seed: int, size: tuple[int, int] = SIZE, gray: bool = False) -> np.ndarray:
    """A random 8-bit image `(H, W, C)` unlike that of any other seed."""
    shape = (size[1], size[0]) if gray else (size[1], size[0], 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(image: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def pairs_set(root: Path, splits: tuple[str, ...] = ("train", "test"), count: int = 3) -> Source:
    """Sound pairs, every file of other content."""
    for i, split in enumerate(splits):
        for j in range(count):
            seed = 100 * i + 2 * j
            save(picture(seed), root / split / "input" / f"{j}.png")
            save(picture(seed + 1), root / split / "target" / f"{j}.png")
    return Source(str(root))


def clean_set(root: Path, count: int = 3, gray: bool = False) -> Source:
    for i, split in enumerate(("train", "test")):
        for j in range(count):
            save(picture(50 * i + j, gray=gray), root / split / f"{j}.png")
    return Source(str(root), degraded=True)


def check(source: Source, spec: str | None = None, seed: int = 0) -> tuple[int, list[str]]:
    """(exit code, the lines that were said)."""
    said: list[str] = []
    return check_data(source, parse_degradation(spec) if spec else None, seed, said.append), said


def lines_with(text: str, said: list[str]) -> list[str]:
    return [line for line in said if text in line]


def cut(path: Path, part: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])


def tree(root: Path) -> dict[str, str]:
    """What lies below a folder, file by file."""
    return {str(p.relative_to(root)): sha256(p) if p.is_file() else "" for p in root.rglob("*")}


# ------------------------------------------------------------------------------------------------ a sound set


def test_a_sound_set_has_nothing_wrong(tmp_path: Path) -> None:
    code, said = check(pairs_set(tmp_path, ("train", "val", "test")))
    assert code == 0 and said[-1] == "no problems found"
    assert [line.split(":")[0] for line in said if " images of " in line] == ["train", "val", "test"]
    assert "3 images of 3 targets, pairs" in said[0]
    assert len(lines_with("headers of 3 pairs: 32 x 24; 3 RGB 8 bit", said)) == 3
    assert not lines_with("note", said) and not lines_with("problem", said)


def test_the_psnr_of_doing_nothing_is_the_mean_over_the_images(tmp_path: Path) -> None:
    source = pairs_set(tmp_path, ("train",), count=5)
    values = []
    for i in range(5):
        given, target = (np.asarray(Image.open(tmp_path / f"train/{s}/{i}.png")) for s in ("input", "target"))
        values.append(peak_signal_noise_ratio(target, given))
    _, said = check(source)
    expected = f"PSNR {np.mean(values):.2f} dB, {min(values):.2f} to {max(values):.2f}"
    assert lines_with("input PSNR", said) == [f"  input {expected}"]


def test_psnr_of_16_bits_is_of_their_full_scale(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    given, target = (rng.integers(0, 65536, (24, 32), dtype=np.uint16) for _ in range(2))
    save(given, tmp_path / "train/input/1.png")
    save(target, tmp_path / "train/target/1.png")
    expected = peak_signal_noise_ratio(target, given, data_range=65535)
    _, said = check(Source(str(tmp_path)))
    assert lines_with(f"PSNR {expected:.2f} dB", said)


def test_sizes_modes_and_depths_are_counted(tmp_path: Path) -> None:
    deep = (picture(1)[:, :, 0].astype(np.uint16) * 257)[:, :, None]
    images = {
        "1.png": picture(1)[:, :, None, 0],
        "2.png": deep,
        "3.tif": np.float32(picture(3)[:, :, :1] / 255),
        "4.png": picture(4, (40, 20)),
    }
    for side, change in (("input", 0), ("target", 1)):
        (tmp_path / "train" / side).mkdir(parents=True)
        for name, image in images.items():
            moved = image if image.dtype == np.float32 else image ^ np.asarray(change, image.dtype)
            moved = moved * np.float32(1 - change / 2) if image.dtype == np.float32 else moved
            save_image(moved, tmp_path / "train" / side / name)
    code, said = check(Source(str(tmp_path)))
    (line,) = lines_with("headers of", said)
    assert code == 0 and "headers of 4 pairs: 32 x 24 to 40 x 20;" in line
    for kind in ("1 L 8 bit", "1 I;16 16 bit", "1 F float", "1 RGB 8 bit"):
        assert kind in line


@pytest.mark.parametrize("factor", [2, 3])
def test_targets_of_another_size_with_their_scale(tmp_path: Path, factor: int) -> None:
    save(picture(1), tmp_path / "train/LR/1.png")
    save(picture(2, (32 * factor, 24 * factor)), tmp_path / "train/HR/1.png")
    code, said = check(Source(str(tmp_path), scale=factor))
    assert code == 0 and lines_with(f"{32 * factor} x {24 * factor}; 1 RGB 8 bit", said)
    assert lines_with("input PSNR", said)
    code, said = check(Source(str(tmp_path)))
    assert code == 2 and lines_with("problem: train: 1 pairs cannot be used", said)
    assert "32 x 24" in lines_with("problem", said)[0]


# --------------------------------------------------------------------------------------------------- problems


def test_names_without_a_partner(tmp_path: Path) -> None:
    source = pairs_set(tmp_path)
    (tmp_path / "train/target/1.png").unlink()
    code, said = check(source)
    assert code == 2 and said[-1] == "1 problems found"
    (line,) = lines_with("problem:", said)
    assert line.startswith("problem: train: 1 inputs and 0 targets have no partner: inputs: 1.png")
    assert lines_with("test: 3 images", said)  # an error of one split leaves the other's report


def test_pairs_of_unequal_size_are_counted_and_five_of_them_listed(tmp_path: Path) -> None:
    source = pairs_set(tmp_path, count=8)
    for i in range(7):
        save(picture(900 + i, (24, 32)), tmp_path / f"train/target/{i}.png")
    code, said = check(source)
    (line,) = lines_with("problem:", said)
    assert code == 2 and line.startswith("problem: train: 7 pairs cannot be used")
    assert "differ in size" in line and "24 x 32" in line and "and 2 more" in line
    assert lines_with("headers of 1 pairs", said) and lines_with("headers of 8 pairs", said)


@pytest.mark.parametrize("side", ["input", "target"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_file_cut_in_its_middle_is_found(tmp_path: Path, side: str, suffix: str) -> None:
    """Its header is sound; only decoding all of it shows what is missing."""
    for i, split in enumerate(("train", "test")):
        for j, folder in enumerate(("input", "target")):
            save(picture(10 * i + j), tmp_path / split / folder / f"1{suffix}")
    path = tmp_path / "test" / side / f"1{suffix}"
    cut(path, 0.6)
    assert data.scan.header(path)[:2] == SIZE
    data.scan.scan_headers(data.splits.find_pairs(Source(str(tmp_path)), "test"))
    code, said = check(Source(str(tmp_path)))
    (line,) = lines_with("problem:", said)
    assert code == 2 and line.startswith("problem: test: 1 pairs cannot be used: ")
    assert str(path) in line and "cannot be read" in line


def test_what_is_no_picture_is_found(tmp_path: Path) -> None:
    source = pairs_set(tmp_path)
    (tmp_path / "train/input/0.png").write_bytes(b"")
    (tmp_path / "train/input/1.png").write_text("<html>404</html>")
    (tmp_path / "train/target/2.png").unlink()
    (tmp_path / "train/target/2.png").symlink_to(tmp_path / "gone.png")
    code, said = check(source)
    assert code == 2 and lines_with("problem: train: 3 pairs cannot be used", said)
    for name in ("0.png", "1.png", "2.png"):
        assert name in lines_with("problem", said)[0]


def test_colour_of_16_bits_without_its_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, side in enumerate(("input", "target")):
        (tmp_path / "train" / side).mkdir(parents=True)
        for j in range(3):
            deep = picture(3 * i + j).astype(np.uint16) * 257
            save_image(deep if j else picture(3 * i), tmp_path / "train" / side / f"{j}.png")
    code, said = check(Source(str(tmp_path)))
    assert code == 0 and lines_with("2 RGB 16 bit", said)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    code, said = check(Source(str(tmp_path)))
    (line,) = lines_with("problem:", said)
    assert code == 2 and line.startswith("problem: train: 2 pairs cannot be used")
    for name in ("1.png", "2.png"):
        assert name in line
    assert line.count("more than 8 bits a channel in colour") == 2
    assert lines_with("headers of 1 pairs: 32 x 24; 1 RGB 8 bit", said)


def test_validation_needs_targets_and_a_test_does_not(tmp_path: Path) -> None:
    source = pairs_set(tmp_path, ("train",))
    save(picture(77), tmp_path / "test/input/1.png")
    code, said = check(source)
    assert code == 0 and lines_with("test: 1 images of 1 targets, inputs", said)
    assert len(lines_with("input PSNR", said)) == 1
    rows = ["split,input,target", "test,test/input/1.png,"]
    rows += [f"train,train/input/{i}.png,train/target/{i}.png" for i in range(3)]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    code, said = check(Source(str(tmp_path / "a.csv")))
    assert code == 0 and lines_with("test: 1 images", said) and len(lines_with("input PSNR", said)) == 1
    (tmp_path / "b.csv").write_text("\n".join(rows).replace("test,", "val,"))
    code, said = check(Source(str(tmp_path / "b.csv")))
    assert code == 2 and lines_with("problem: val:", said) and lines_with("without a target", said)


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
    code, said = check(source)
    (line,) = lines_with("problem:", said)
    assert code == 2 and line.startswith(f"problem: 2 files of train are also in {other}: ")
    assert f"{tmp_path}/train/{side}/0.png = {tmp_path}/{other}/{side}/0.png" in line


def test_several_inputs_of_one_target_are_no_copies(tmp_path: Path) -> None:
    for level in range(3):
        save(picture(level), tmp_path / f"train/hazy/1_{level}.png")
    save(picture(9), tmp_path / "train/clear/1.png")
    code, said = check(Source(str(tmp_path)))
    assert code == 0 and not lines_with("note", said) and "3 images of 1 targets" in said[0]


def test_inputs_that_equal_their_targets_are_noted(tmp_path: Path) -> None:
    source = pairs_set(tmp_path, ("train",))
    save(picture(0), tmp_path / "train/target/0.png")  # the same file
    Image.fromarray(picture(2)).save(tmp_path / "train/target/1.png", compress_level=0)  # other bytes
    given, target = (np.asarray(Image.open(tmp_path / f"train/{s}/2.png")) for s in ("input", "target"))
    code, said = check(source)
    assert code == 0 and lines_with("note: 2 inputs equal their targets", said)
    assert lines_with("note: 1 groups of byte-identical files", said)
    assert lines_with(
        f"PSNR {peak_signal_noise_ratio(target, given):.2f} dB", said
    )  # of the one that differs


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
    assert code == 0 and said[0].startswith("train: 1 images")
    code, said = check(Source(str(tmp_path / "A")))  # nothing but inputs
    assert code == 2 and "no targets found" in lines_with("problem: train", said)[0]


def test_a_manifest_is_checked_as_well(tmp_path: Path) -> None:
    pairs_set(tmp_path)
    rows = ["split,input,target"]
    rows += [f"{s},{s}/input/{i}.png,{s}/target/{i}.png" for s in ("train", "test") for i in range(3)]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    source = Source(str(tmp_path / "pairs.csv"))
    code, said = check(source)
    assert code == 0 and len(lines_with("3 images of 3 targets, manifest", said)) == 2
    (tmp_path / "test/target/1.png").unlink()
    code, said = check(source)
    assert code == 2 and "test/target/1.png" in lines_with("problem: test: 1 pairs", said)[0]


@pytest.mark.parametrize("spec", [None, "noise:25"])
def test_demo_has_nothing_wrong(spec: str | None) -> None:
    code, said = check(Source("demo:2:16", degraded=spec is not None), spec)
    assert code == 0 and said[0].startswith("train: ") and said[1].startswith("test: ")
    assert check(Source("demo:0:0"))[0] == 2


def test_halves_side_by_side(tmp_path: Path) -> None:
    save(picture(1, (64, 24)), tmp_path / "train/1.png")
    save(picture(2, (63, 24)), tmp_path / "train/2.png")
    code, said = check(Source(str(tmp_path)))
    assert code == 2 and "2.png has an odd width" in lines_with("problem: train: 1 pairs", said)[0]
    left, right = np.split(picture(1, (64, 24)), 2, axis=1)
    assert lines_with("headers of 1 pairs: 32 x 24; 1 RGB 8 bit", said)
    assert lines_with(f"PSNR {peak_signal_noise_ratio(right, left):.2f} dB", said)


# ---------------------------------------------------------------------------------------- degraded on the way


@pytest.mark.parametrize(
    ("spec", "gray"), [("noise:25", False), ("noise:25", True), ("gray", False), ("haze+jpeg:10-90", True)]
)
def test_doing_nothing_is_what_a_test_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, gray: bool
) -> None:
    """The same draws: test.py on this split with this seed, with a network of these channels."""
    monkeypatch.chdir(tmp_path)
    code, said = check(clean_set(tmp_path / "set", gray=gray), spec, seed=7)
    assert code == 0
    given, target = (1 if gray or spec == "gray" else 3), 1 if gray else 3
    torch.save(build_network("unet", input_nc=given, output_nc=target, **UNET).state_dict(), "net.pth")
    flags = [f for key, value in UNET.items() for f in (f"--{key}", str(value))]
    flags += ["--model", "unet", "--weights", "net.pth", "--input_nc", str(given), "--output_nc", str(target)]
    flags += ["--dataroot", "set", "--degrade", spec, "--seed", "7", "--metrics", "psnr"]
    with ExitStack() as cleanup:
        assert script.main(parse_test([*flags, "--visdom", "off", "--gpu_ids", "-1"]), cleanup) == 0
    with (tmp_path / "results/net/set/metrics.csv").open() as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        values = [float(row["psnr_input"]) for row in rows]
    lines = lines_with("input PSNR", said)
    assert len(values) == 3 and len(lines) == 2
    assert f"PSNR {np.mean(values):.2f} dB, {min(values):.2f} to {max(values):.2f}" in lines[1]


def test_noise_is_that_of_the_seed(tmp_path: Path) -> None:
    source = clean_set(tmp_path)
    one, same, other = (lines_with("PSNR", check(source, "noise:25", seed)[1]) for seed in (1, 1, 2))
    assert one == same != other
    assert all(abs(float(line.split()[3]) - 20.17) < 0.3 for line in one)  # 20 log10(255 / 25)


def test_targets_are_cut_to_whole_blocks_before_they_are_compared(tmp_path: Path) -> None:
    save(picture(1, (33, 25)), tmp_path / "1.png")
    code, said = check(Source(str(tmp_path), degraded=True), "sr:4")
    assert code == 0 and lines_with("input PSNR", said)
    save(picture(2, (3, 25)), tmp_path / "2.png")
    code, said = check(Source(str(tmp_path), degraded=True), "sr:4")
    assert code == 2 and "3 x 25 pixels cannot be made 4 times smaller" in lines_with("problem", said)[0]


# ------------------------------------------------------------------------------------------------ the command


def test_the_command_leaves_no_trace_and_says_by_its_code(work: Workplace) -> None:
    """No --name is needed, and a run of the name that it would get is not in the way."""
    pairs_set(work.folder / "set")
    run = work.folder / "checkpoints/set_resnet"
    run.mkdir(parents=True)
    (run / "options.json").write_text("{}")
    before = tree(work.folder)
    done = work.train("--dataroot", "set", "--check_data", "--gpu_ids", "-1")
    assert "no problems found" in done.stderr and "train: 3 images" in done.stderr
    assert tree(work.folder) == before
    cut(work.folder / "set/test/input/1.png", 0.5)
    before = tree(work.folder)
    done = work.train("--dataroot", "set", "--check_data", "--gpu_ids", "-1", code=2)
    assert "problem: test: 1 pairs cannot be used" in done.stderr and "Traceback" not in done.stderr
    assert tree(work.folder) == before


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


START: tuple[str, ...] = (
    "--crop_size",
    "16",
    "--model",
    "resunet",
    "--width",
    "8",
    "--depth",
    "1",
    "--levels",
    "1",
)
START += ("--max_steps", "1", "--visdom", "off", "--gpu_ids", "-1", "--val_share", "0")


def test_a_start_says_in_one_line_what_the_headers_hold(
    tmp_path: Path,
    trained: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pairs_set(tmp_path / "set", ("train",))
    save(picture(70, (40, 24)), tmp_path / "set/train/input/0.png")
    save(picture(71, (40, 24)), tmp_path / "set/train/target/0.png")
    count = count_headers(monkeypatch)
    trained("--dataroot", "set", *START)
    said = capsys.readouterr().err.splitlines()
    assert len(lines_with("headers of", said)) == 1
    assert lines_with("headers of 3 pairs: 32 x 24 to 40 x 24; 3 RGB 8 bit", said)
    assert count.total() == 6


@pytest.mark.parametrize(("layout", "pairs"), [("pairs", 500), ("clean", 1000)])
def test_at_most_a_thousand_headers_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, pairs: int
) -> None:
    first = save(picture(1), tmp_path / "train/A/0000.png")
    (tmp_path / "train/B").mkdir()
    for i in range(1, 1100):
        os.link(first, tmp_path / f"train/A/{i:04d}.png")
    for i in range(1100):
        os.link(first, tmp_path / f"train/B/{i:04d}.png")
    count = count_headers(monkeypatch)
    source = Source(str(tmp_path), layout, degraded=layout == "clean")
    found = data.scan.scan_headers(data.splits.find_pairs(source, "train"))
    assert count.total() == 1000 and max(count.values()) == 1
    assert len(found.sizes) == pairs and f"headers of {pairs} pairs" in found.describe()


def test_a_start_refuses_what_the_headers_show(tmp_path: Path, trained: Callable[..., Path]) -> None:
    pairs_set(tmp_path / "set", ("train",))
    save(picture(71, (40, 24)), tmp_path / "set/train/target/0.png")
    with pytest.raises(UserError, match="differ in size"):
        trained("--dataroot", "set", *START)
    assert not (tmp_path / "checkpoints").exists()
