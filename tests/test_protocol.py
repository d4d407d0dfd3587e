"""test.py from end to end: every figure that it prints or writes, recomputed from the files beside it."""

import math
import re
import shutil
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models import build_network, network_defaults
from tests import builders
from tests.builders import FAST, TINY, applied, figures, image, pixels, planes, psnr, save, words, write_set
from tests.cli import InProcess, Workplace, options, step_of, weights
from utils.eval.lpips import BACKBONE

ONE = (*FAST, "--gpu_ids", "-1", "--n_epochs", "1")
SIZES = ((40, 52), (33, 47), (64, 48))
SET = ("--dataroot", "set")
photo = partial(image, smooth=True)
Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept") / "run"


@pytest.fixture
def run(cli: InProcess, kept: Path) -> Path:
    """A tiny run named `run`, trained once for all, with weights far from those that it began with."""
    if not kept.exists():
        shutil.copytree(cli.train(*TINY, *ONE).run, kept)
        draw, best = torch.Generator().manual_seed(0), weights(kept, "best")
        moved = {key: value + 0.03 * torch.randn(value.shape, generator=draw) for key, value in best.items()}
        torch.save(moved, kept / "best_net.pth")
    shutil.copytree(kept, cli.run(), dirs_exist_ok=True)
    return cli.run()


def write_pairs(folder: str | Path = "set", sizes: Any = SIZES) -> Pairs:
    """Pairs `folder/test/{input,target}/N.png`, by their names."""
    files = write_set(Path(folder), count=len(sizes), size=sizes, splits=["test"])
    return {each.input.name: each.pair for each in files}


def write_clean(folder: str, count: int, side: int = 48, seed: int = 50) -> None:
    sizes = [(side, side), (side, side + 8)]
    write_set(Path(folder), "clean", count, size=sizes, splits=[""], seed=seed)


def predictor(run: Path, tag: str = "best") -> Callable[[np.ndarray], np.ndarray]:
    """The run's network from its weights, on `(H, W, C)` in [0, 1]; neither clamped nor rounded."""
    found = options(run)
    own = {flag: found[flag] for flag in (*network_defaults(found["model"]), "input_nc", "output_nc")}
    net = build_network(found["model"], **own).eval()
    net.load_state_dict(weights(run, tag))

    return lambda image: (applied(net, image * 2 - 1) + 1) / 2


# ----------------------------------------------------------------------------------------------- the figures


def test_every_figure_is_that_of_the_files(run: Path, cli: InProcess) -> None:
    pairs = write_pairs()
    found = cli.test(*SET, "--seed", "7")
    assert [row["name"] for row in found.rows] == list(pairs)
    expected: dict[str, list[float]] = {}
    for name, (given, target) in pairs.items():
        output = found.output(name)
        assert output.shape == target.shape and output.dtype == np.uint8
        for ending, shown in (("", output), ("_input", given)):
            for metric, value in figures(shown, target).items():
                expected.setdefault(metric + ending, []).append(value)
    expected["gain"] = [a - b for a, b in zip(expected["psnr"], expected["psnr_input"], strict=True)]
    for column, values in expected.items():
        assert found.numbers(column) == pytest.approx(values, abs=2e-6), column
        stats = found.summary[column]
        worst = (np.argmax if column.startswith("mae") else np.argmin)(values)
        assert stats["worst_name"] == list(pairs)[worst] and stats["worst"] == pytest.approx(values[worst])
        numbers = {"mean": np.mean(values), "median": np.median(values), "std": np.std(values)}
        assert {key: stats[key] for key in numbers} == pytest.approx(numbers, abs=2e-6)
        assert (stats["identical"], stats["empty"]) == (0, 0)
    columns = ["name", "psnr", "psnr_input", "gain", "ssim", "ssim_input", "mae", "mae_input", "seconds"]
    assert list(found.rows[0]) == columns

    mean = {column: np.mean(values) for column, values in expected.items()}
    lines = [
        f"PSNR {mean['psnr']:.2f} dB (input {mean['psnr_input']:.2f}, {mean['gain']:+.2f})"
        "; 3 images; per image, all channels, clamped, rounded to the bit depth",
        f"SSIM {mean['ssim']:.4f} (input {mean['ssim_input']:.4f}, {mean['ssim'] - mean['ssim_input']:+.4f})",
        f"MAE {mean['mae']:.5f} (input {mean['mae_input']:.5f}, {mean['mae'] - mean['mae_input']:+.5f})",
        f"worse than the input by {-mean['gain']:.2f} dB: "
        "the outputs are further from the targets than the inputs",
        f"PSNR median {np.median(expected['psnr']):.2f}, std {np.std(expected['psnr']):.2f}, "
        f"worst {min(expected['psnr']):.2f} dB ({found.summary['psnr']['worst_name']})",
    ]
    assert found.lines[-5:] == lines
    assert all(line.partition("; 3 images")[0] in found.facts for line in lines)
    assert found.comment.startswith("# per image, all channels, clamped, rounded to the bit depth")
    assert all(text in found.comment for text in ("input as given", "checkpoints/run/best_net.pth"))
    summary = {key: found.summary[key] for key in ("run", "model", "dataset", "split", "degrade", "seed")}
    assert list(summary.values()) == ["run", "resunet", "set", "test", None, 7]
    assert found.summary["weights"] == "checkpoints/run/best_net.pth" and found.summary["images"] == 3
    assert set(found.summary["versions"]) == {"python", "torch", "git"}
    assert found.summary["versions"]["torch"] == str(torch.__version__)

    assert not re.search(r"https?:", found.page)
    columns = [column["key"] for column in found.data["columns"]]
    for shown in found.data["rows"]:
        values = dict(zip(columns, shown["values"], strict=True))
        row = next(row for row in found.rows if row["name"] == shown["name"])
        assert values["psnr"] == pytest.approx(float(row["psnr"]), abs=1e-6)
        assert values["gain"] == pytest.approx(float(row["gain"]), abs=2e-6)
    assert sorted(row["name"] for row in found.data["rows"]) == sorted(pairs)
    assert pixels(found.results / "grid.png").ndim == 3


@pytest.mark.parametrize(
    ("flags", "protocol", "text"),
    [
        ("--psnr_channel y", {"channel": "y"}, "Y of BT.601 (16..235), clamped, rounded to the bit depth"),
        (
            "--crop_border 5",
            {"border": 5},
            "all channels, clamped, rounded to the bit depth, border of 5 left out",
        ),
        ("--psnr_channel y --crop_border 11", {"channel": "y", "border": 11}, "border of 11 left out"),
        ("--no_quantize", {}, "all channels, clamped, not rounded"),
    ],
)
def test_the_protocol_is_what_its_flags_say(
    run: Path, cli: InProcess, flags: str, protocol: dict[str, Any], text: str
) -> None:
    pairs, predict = write_pairs(), predictor(run)
    plain = cli.test(*SET, "--results_dir", "plain")
    found = cli.test(*SET, *words(flags))
    for (name, (given, target)), row in zip(pairs.items(), found.rows, strict=True):
        output = found.output(name)
        assert np.array_equal(output, plain.output(name))  # the files stay 8 bit
        scored = predict(given / 255).clip(0, 1) if flags == "--no_quantize" else output
        for ending, shown in (("", scored), ("_input", given)):
            expected = figures(shown, target, **protocol)
            assert {key: float(row[key + ending]) for key in expected} == pytest.approx(expected, abs=2e-5)
    assert not np.allclose(found.numbers("psnr"), plain.numbers("psnr"), atol=1e-5)
    assert all(text in each for each in (found.comment, found.summary["protocol"], found.out, found.facts))


def test_x8_is_the_mean_over_eight_flips_and_turns(run: Path, cli: InProcess) -> None:
    pairs = write_pairs()
    plain = cli.test(*SET, "--results_dir", "plain")
    found = cli.test(*SET, "--x8")
    for name, (given, _) in pairs.items():
        mean = builders.mean_of_eight(predictor(run), given / 255)
        error = np.abs(found.output(name) - mean.clip(0, 1) * 255)
        assert error.max() < 0.501  # the rounding, of float32
        assert not np.array_equal(found.output(name), plain.output(name))
    expected = [psnr(found.output(name), target) for name, (_, target) in pairs.items()]
    assert found.numbers("psnr") == pytest.approx(expected, abs=2e-6)
    assert found.numbers("psnr_single") == pytest.approx(plain.numbers("psnr"), abs=2e-5)
    gain, single = np.mean(expected) - plain.numbers("psnr").mean(), plain.numbers("psnr").mean()
    assert f"x8 changes PSNR by {gain:+.2f} dB (single prediction {single:.2f} dB)" in found.out
    assert "self-ensemble x8" in found.facts and found.summary["x8"] is True
    assert "psnr_single" in found.rows[0] and "psnr_single" not in plain.rows[0]


def test_tiles_without_overlap_are_separate_images(run: Path, cli: InProcess) -> None:
    given, target = write_pairs(sizes=[(48, 32)])["0.png"]
    found = cli.test(*SET, "--tile", "16", "--tile_overlap", "0")
    cut = np.empty(given.shape)
    for top, left in product(range(0, 48, 16), range(0, 32, 16)):
        part = slice(top, top + 16), slice(left, left + 16)
        cut[part] = predictor(run)(given[part] / 255)
    assert np.abs(found.output("0.png") - cut.clip(0, 1) * 255).max() < 0.501
    assert found.numbers("psnr")[0] == pytest.approx(psnr(found.output("0.png"), target), abs=1e-6)
    note = next(note for note in found.summary["notes"] if "tiles of 16, overlap 0" in note)
    assert note in found.err and note in found.facts
    # the network sees 37 pixels across at most: with overlap enough, tiles change nothing
    write_pairs("large", [(160, 130)])
    whole = cli.test("--dataroot", "large")
    tiled = cli.test("--dataroot", "large", "--tile", "96", "--tile_overlap", "64")
    assert tiled.numbers("psnr") == pytest.approx(whole.numbers("psnr"), abs=1e-4)
    assert "tiles of 96" in tiled.facts and not whole.summary["notes"]


def test_the_first_line_of_the_csv_says_how_it_came_about(run: Path, cli: InProcess) -> None:
    write_clean("clean", 1, 64)
    flags = ("--dataroot", "clean", "--degrade", "noise:25", "--seed", "7", "--split", "val")
    found = cli.test(*flags, "--x8", "--tile", "48", "--tile_overlap", "8")
    words = ["noise:25", "seed 7", "val", "best_net.pth", "x8", "tile", str(torch.__version__)]
    assert [word for word in words if word not in found.comment] == []
    assert "noise:25" in found.facts and "seed 7" in found.facts


def test_noise_on_set12_is_not_clamped(cli: InProcess) -> None:
    folder = builders.dataset("set12")
    cli.train(*TINY, *ONE, "--input_nc", "1", "--output_nc", "1", "--levels", "1", "--width", "2")
    flags = ("--dataroot", str(folder), "--degrade", "noise:25", "--no_quantize", "--metrics", "psnr")
    found = cli.test(*flags)
    assert found.numbers("psnr_input").mean() == pytest.approx(20.17, abs=0.03)
    rng, clamped, free = np.random.default_rng(0), [], []
    for row in found.rows:
        clean = pixels(folder / row["name"]) / 255
        noisy = clean + rng.normal(0, 25 / 255, clean.shape)
        free.append(psnr(noisy, clean))
        clamped.append(psnr(noisy.clip(0, 1), clean))
    assert np.mean(free) == pytest.approx(20.17, abs=0.03)
    assert np.mean(clamped) == pytest.approx(20.34, abs=0.05)
    # an image of 256 x 256 varies by 4.34 dB * sqrt(2 / 256^2) = 0.024 from draw to draw
    assert found.numbers("psnr_input") == pytest.approx(free, abs=0.024 * 2**0.5 * 4)
    assert "degraded by noise:25 (seed 0)" in found.facts and "noise:25" in found.comment


def test_the_real_command_prints_the_same(work: Workplace) -> None:
    work.train(*TINY, *FAST, "--n_epochs", "1")
    write_pairs(work.folder / "set")
    flags = words("--psnr_channel y --crop_border 4 --x8 --no_quantize --tile 32 --tile_overlap 16")
    done = work.test(*SET, *flags)
    protocol = "per image, Y of BT.601 (16..235), clamped, not rounded, border of 4 left out"
    assert f"3 images; {protocol}" in done.out
    assert "x8 changes PSNR by" in done.out and "tiles of 32, overlap 16" in done.err


# -------------------------------------------------------------------------------- more pixels, more channels


SR = ("--degrade", "sr:2", "--model", "resunet", "--width", "4", "--depth", "1", "--levels", "2")


def halved(image: np.ndarray) -> np.ndarray:
    """float `(H, W, C)` in [0, 1] by Pillow's bicubic to half the size, and back to the full size."""
    height, width = image.shape[:2]
    planes = []
    for c in range(image.shape[2]):
        plane = Image.fromarray(image[..., c].astype(np.float32))
        for size in ((width // 2, height), (width // 2, height // 2)):
            plane = Image.fromarray(np.asarray(plane.resize(size, Image.Resampling.BICUBIC)).clip(0, 1))
        planes.append(np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC)))
    return np.stack(planes, axis=2)


def test_super_resolution_of_clean_images(cli: InProcess) -> None:
    write_clean("clean", 6)
    run = cli.train("--dataroot", "clean", *SR, "--stem", "2", *ONE).run
    assert options(run)["scale"] == 2
    images = [photo(47 + i, 60, seed=200 + i) for i in range(3)]  # also odd sides
    for i, clean in enumerate(images):
        save(clean, Path("other", f"{i}.png"))
    found = cli.test("--dataroot", "other", "--degrade", "sr:2")
    assert found.summary["scale"] == 2 and "x2" in found.facts
    for clean, row in zip(images, found.rows, strict=True):
        target, output = clean[: len(clean) // 2 * 2], found.output(row["name"])
        assert output.shape == target.shape
        assert float(row["psnr_input"]) == pytest.approx(psnr(halved(target / 255), target / 255), abs=2e-3)
        assert float(row["psnr"]) == pytest.approx(psnr(output, target), abs=1e-6)
    # small files as they are: twice as large
    save(photo(21, 30, seed=300), Path("small/a.png"))
    bare = cli.test("--dataroot", "small")
    assert bare.output("a.png").shape == (42, 60, 3) and bare.rows[0].keys() == {"name", "seconds"}


def test_super_resolution_of_pairs(cli: InProcess) -> None:
    files = write_set(Path("set"), count=5, size=(48, 64))
    for each in files:
        small = Image.fromarray(pixels(each.target)).resize((32, 24), Image.Resampling.BICUBIC)
        small.save(each.input)
    cli.train(*SET, "--scale", "2", *SR[2:], "--stem", "2", *ONE)
    found = cli.test()
    for row, each in zip(found.rows, files[5:], strict=True):
        (given, target), output = each.pair, found.output(row["name"])
        large = np.asarray(Image.fromarray(given).resize((64, 48), Image.Resampling.BICUBIC))
        assert output.shape == target.shape
        assert float(row["psnr_input"]) == pytest.approx(psnr(large, target), abs=1e-6)
        assert float(row["psnr"]) == pytest.approx(psnr(output, target), abs=1e-6)
        assert float(row["ssim_input"]) == pytest.approx(figures(large, target)["ssim"], abs=2e-6)


def test_a_run_of_another_scale_is_an_error(cli: InProcess) -> None:
    write_clean("clean", 6)
    write_clean("other", 1)
    write_pairs("pairs")
    cli.train("--dataroot", "clean", *SR, *ONE)
    for text in ("demo:2:32", "other --degrade noise:5", "other --degrade sr:4"):
        assert cli.test("--dataroot", *words(text), code=2).refused("--degrade sr:2"), text
    assert cli.test("--dataroot", "pairs", code=3).refused("a target is not 2 times the size", code=3)
    cli.train(*TINY, *ONE, name="plain")
    done = cli.test("--dataroot", "other", "--degrade", "sr:2", name="plain", code=2)
    assert "2 times" in done.why


def test_a_resumed_run_of_super_resolution_is_the_unbroken_one(cli: InProcess) -> None:
    write_clean("clean", 6)
    flags = ("--dataroot", "clean", *SR, *ONE, "--repeat", "4", "--decay_epoch", "9")
    whole = cli.train(*flags, "--max_steps", "5", name="whole").run
    cli.train(*flags, "--max_steps", "3", name="parts")
    parts = cli.train("--resume", "--max_steps", "5", name="parts").run
    builders.assert_same_state(weights(whole), weights(parts))
    assert step_of(parts) == 5


def test_colours_out_of_gray(cli: InProcess) -> None:
    write_clean("clean", 5)
    write_clean("other", 2, seed=90)
    run = cli.train("--dataroot", "clean", "--degrade", "gray", *SR[2:], *ONE).run
    assert (options(run)["input_nc"], options(run)["output_nc"]) == (1, 3)
    found = cli.test("--dataroot", "other", "--degrade", "gray")
    for row in found.rows:
        target = pixels(Path("other", row["name"])) / 255
        gray = np.repeat((target @ [0.299, 0.587, 0.114])[..., None], 3, axis=2)
        assert float(row["psnr_input"]) == pytest.approx(psnr(gray, target), abs=1e-4)
        assert found.output(row["name"]).shape == target.shape
    save(photo(30, 40, 1, seed=5), Path("old/photo.png"))
    bare = cli.test("--dataroot", "old")
    assert bare.output("photo.png").shape == (30, 40, 3) and "outputs only, no figures" in bare.lines[-1]


def test_a_residual_network_gives_what_to_subtract(cli: InProcess) -> None:
    flags = words("--model unet --width 4 --depth 3 --norm batch --residual")
    run = cli.train(*TINY[:2], *flags, *ONE).run
    plain = builders.network("unet", width=4, depth=3, norm="batch").eval()
    assert plain.state_dict().keys() == weights(run, "best").keys()
    plain.load_state_dict(weights(run, "best"))
    given, _ = write_pairs(sizes=[(40, 48)])["0.png"]
    found = cli.test(*SET)
    x = given / 127.5 - 1
    wanted = ((x - applied(plain, x) + 1) / 2).clip(0, 1)
    assert np.abs(found.output("0.png") - wanted * 255).max() < 0.501


# ------------------------------------------------------------------------------------------ names and folders

NAMES = (
    "<img src=x onerror=alert(1)>.png",
    "</script><b>.png".replace("/", "\u2215"),
    "a, \"b\" & 'c'.png",
    "#1 \u05d0\u2028.png",
    "-rf.png",
    "sub folder/dots..png",
)


def test_hostile_names_and_one_that_is_no_text(run: Path, cli: InProcess) -> None:
    write_set(Path("set"), names=NAMES, size=(20, 24), splits=["test"])
    found = cli.test(*SET)
    for rows in (found.rows, found.data["rows"]):
        assert sorted(row["name"] for row in rows) == sorted(NAMES)
    assert all((found.results / "outputs" / name).is_file() for name in NAMES)
    assert "<img src=x onerror" not in found.page
    for path in write_set(Path("bytes"), count=1, splits=["test"])[0]:
        path.rename(path.with_name("caf\udce9.png"))
    found = cli.test("--dataroot", "bytes")
    assert len(found.rows) == 1 and len(list((found.results / "outputs").iterdir())) == 1


def test_two_images_of_one_output(run: Path, cli: InProcess) -> None:
    write_set(Path("photos"), "clean", names=["a.png", "a.jpg"], splits=[""])
    error = cli.test("--dataroot", "photos", "--degrade", "noise:25", code=2)
    assert "several images would be written" in error.what and "a.png" in error.why


def test_results_elsewhere_a_folder_without_targets_and_one_file(
    tmp_path: Path, run: Path, cli: InProcess
) -> None:
    predict = predictor(run)
    first, second = photo(20, 24, seed=1), photo(30, 20, seed=2)
    save(first, Path("photos/deep/a.png"))
    save(second, Path("photos/b.png"))
    elsewhere = tmp_path / "else" / "where"
    found = cli.test("--dataroot", "photos", "--results_dir", str(elsewhere))
    assert found.results == elsewhere / "run" / "photos" and not (tmp_path / "results").exists()
    assert np.abs(found.output("deep/a.png") - predict(first / 255).clip(0, 1) * 255).max() < 0.501
    assert all(row.keys() == {"name", "seconds"} for row in found.rows) and len(found.rows) == 2
    assert not {"psnr", "ssim", "mae"} & found.summary.keys()
    assert [column["key"] for column in found.data["columns"]] == ["seconds"]
    assert all(set(row["thumbs"]) == {"input", "output"} for row in found.data["rows"])
    assert "PSNR" not in found.facts and "PSNR" not in found.out

    one = cli.test("--dataroot", "photos/b.png")
    assert [row["name"] for row in one.rows] == ["b.png"]
    assert np.array_equal(one.output("b.png"), found.output("b.png"))
    save(second, Path("clean/c.png"))
    degraded = cli.test("--dataroot", "clean/c.png", "--degrade", "noise:25")
    assert 18 < degraded.numbers("psnr_input")[0] < 23


def test_the_own_images_of_a_run_are_degraded_as_in_training(cli: InProcess) -> None:
    """And no others, unless --degrade says so."""
    write_clean("clean", 12)
    cli.train("--dataroot", "clean", "--degrade", "noise:25", "--test_share", "0.3", *SR[2:], *ONE)
    own, *same = (cli.test(*more) for more in ((), ("--dataroot", "clean"), ("--degrade", "noise:25")))
    for said in same:
        assert list(own.numbers("psnr")) == list(said.numbers("psnr")) and own.results == said.results
    assert all(18 < value < 23 for value in own.numbers("psnr_input"))
    assert cli.test("--degrade", "noise:5").numbers("psnr_input")[0] > 30
    save(photo(20, 24, seed=1), Path("photos/a.png"))
    for photos in (("--dataroot", "photos"), ("--layout", "inputs")):
        assert "psnr" not in cli.test(*photos).summary


def test_the_training_images_are_an_error(tmp_path: Path, cli: InProcess) -> None:
    write_clean("clean", 6)
    noise = ("--degrade", "noise:25")
    trained = cli.train("--dataroot", "clean", *noise, *SR[2:], *ONE)
    save(photo(20, 24, seed=1), Path("one/a.png"))
    shutil.copy("one/a.png", "clean/late.png")
    (held_out,) = options(trained.run)["held_out"]["val"]
    used = next(path for path in sorted((tmp_path / "clean").iterdir()) if path.name != held_out)
    (tmp_path / "alias").symlink_to(tmp_path / "clean")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/other.png").symlink_to(used)
    for root in ("more", f"clean/{used.name}", f"alias/{used.name}", "more/other.png"):
        error = cli.test("--dataroot", root, *noise, code=2)
        assert "1 of these files are what the run was trained on" in error.what
        assert "--split train" in error.fix
    assert not (tmp_path / "results").exists()
    allowed = cli.test(*noise, "--split", "train")
    assert allowed.summary["split"] == "train" and len(allowed.rows) == 6
    for root in ("clean", "alias", str(tmp_path / "clean"), f"clean/{held_out}"):
        allowed = cli.test("--dataroot", root, *noise)
        assert [row["name"] for row in allowed.rows] == [held_out]
        assert allowed.summary["seen"] == "validated on"
    assert len(cli.test(*noise, "--dataroot", "one").rows) == 1


# ---------------------------------------------------------------------------------------------- other metrics


def test_ssim_of_small_images_is_empty_and_counted(run: Path, cli: InProcess) -> None:
    pairs = write_pairs(sizes=[(10, 30), (30, 10), (30, 31)])
    found = cli.test(*SET)
    assert [row["ssim"] == "" for row in found.rows] == [True, True, False]
    wanted = figures(found.output("2.png"), pairs["2.png"][1])["ssim"]
    assert found.summary["ssim"]["mean"] == pytest.approx(wanted, abs=2e-6)
    for text in (found.out, found.facts):
        assert "SSIM: no value for 2 images (too small; first: 0.png)" in text


@pytest.fixture
def backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the weights for LPIPS would be; asking the network for them fails the test."""

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", no_network)
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub" / "checkpoints" / BACKBONE


@pytest.mark.parametrize("content", [None, b"half a file"])
def test_lpips_without_sound_weights_is_left_out(
    run: Path, cli: InProcess, backbone: Path, content: bytes | None
) -> None:
    if content:
        backbone.parent.mkdir(parents=True)
        backbone.write_bytes(content)
    write_pairs()
    found = cli.test(*SET, "--metrics", "psnr,lpips")
    (line,) = [line for line in found.err.splitlines() if "LPIPS" in line]
    assert "LPIPS left out" in line and (content or BACKBONE in line)
    assert "psnr" in found.rows[0] and not [key for key in found.rows[0] if "lpips" in key or "ssim" in key]
    assert "SSIM" not in found.out + found.facts and "ssim" not in found.summary
    assert backbone.exists() or not backbone.parents[2].exists()


def test_lpips_with_weights(run: Path, cli: InProcess, backbone: Path) -> None:
    pytest.importorskip("torchmetrics")
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as referee
    from torchvision.models import alexnet

    torch.manual_seed(0)
    builders.write_weights(alexnet(), backbone)
    pairs = write_pairs(sizes=[(40, 52), (31, 64), (64, 48)])
    save(pairs["2.png"][1], Path("set/test/input/2.png"))  # the input is identical
    found = cli.test(*SET, "--metrics", "psnr,lpips")
    assert found.rows[1]["lpips"] == "" and float(found.rows[2]["lpips_input"]) == 0
    for at, name in ((0, "0.png"), (2, "2.png")):
        images = [planes(image / 255).float() for image in (found.output(name), pairs[name][1])]
        wanted = referee(*images, net_type="alex", normalize=True).item()
        assert wanted > 0 and float(found.rows[at]["lpips"]) == pytest.approx(wanted, abs=2e-6)
    mean = np.mean([float(found.rows[at]["lpips"]) for at in (0, 2)])
    assert found.summary["lpips"]["mean"] == pytest.approx(mean, abs=2e-6)
    assert f"\nLPIPS {mean:.4f} (input " in found.out
    assert "LPIPS: no value for 1 images (too small; first: 1.png)" in found.out


# ----------------------------------------------------------------------------------------- errors


BAD_VALUES = words(  # each with `--name run`
    "--width=8 --residual --mean=0 --tile=0 --metrics=psnr,fid --metrics=, --psnr_channel=x --layout=folders "
    "--load=newest --split=all"
)


@pytest.mark.parametrize(
    ("flags", "word"),  # what the error names
    [
        *[(f"--name run {flag}", flag.partition("=")[0]) for flag in BAD_VALUES],
        ("", "--name"),
        ("--model dncnn", "--weights"),
        ("--model dncnn --dataroot set", "--weights"),
        ("--model dncnn --weights w.pth", "--dataroot"),
        ("--model dncnn --weights w.pth --dataroot set --stem 2", "--stem"),
        ("--model spandrel --weights w.pth --dataroot set --width 2", "--width"),
        ("--model dncnn --weights absent.pth --dataroot set", "absent.pth"),
        ("--name run --tile 64 --tile_overlap 64", "--tile_overlap 64"),
        ("--name run --tile 32", "--tile 32"),
        ("--name run --crop_border -1", "--crop_border"),
        ("--name run --dataroot set --layout clean", "--degrade"),
        ("--name run --dataroot set --target_dir t", "--target_dir"),
        ("--name run --dataroot set --pair_by (", "--pair_by"),
        ("--name run --degrade sr:9 --dataroot set", "sr:9"),
        ("--name absent", "--name"),
        ("--name run --dataroot nowhere", "--dataroot nowhere"),
        ("--name run --metric psnr", "--metrics"),
    ],
)
def test_wrong_options_are_errors(tmp_path: Path, run: Path, cli: InProcess, flags: str, word: str) -> None:
    write_pairs()
    assert cli.test(*words(flags), name="", code=2).refused(word)
    assert not (tmp_path / "results").exists()


def test_tiles_that_do_not_advance_are_an_error(run: Path, cli: InProcess) -> None:
    write_pairs()
    error = cli.test(*SET, "--tile", "9", "--tile_overlap", "8", code=2)
    assert "--tile" in error.what and "--tile 12" in error.fix


def test_a_border_that_leaves_nothing_is_reported(run: Path, cli: InProcess) -> None:
    pairs = write_pairs(sizes=[(33, 47), (32, 47), (48, 20)])
    found = cli.test(*SET, "--crop_border", "16")
    output, target = (image[16:-16, 16:-16] / 255 for image in (found.output("0.png"), pairs["0.png"][1]))
    assert output.shape == (1, 15, 3)
    assert float(found.rows[0]["psnr"]) == pytest.approx(psnr(output, target), abs=1e-5)
    assert found.summary["psnr"]["mean"] == pytest.approx(psnr(output, target), abs=1e-5)
    for row in found.rows[1:]:
        assert (row["psnr"], row["psnr_input"], row["mae"]) == ("", "", "")
    assert found.summary["psnr"]["empty"] == 2
    for text in (found.out, found.facts):
        assert "PSNR: no value for 2 images (no pixels left after --crop_border; first: 1.png)" in text


# ------------------------------------------------------------------------------------- the page in a browser


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["pairs", "one", "photos"])
def test_the_page_of_a_test(
    tmp_path: Path, run: Path, cli: InProcess, visit: Callable[..., Any], kind: str
) -> None:
    sizes = [(200, 300), (240, 200), (180, 260)][: 1 if kind == "one" else 3]
    write_pairs(sizes=sizes)
    found = cli.test("--dataroot", "set/test/input" if kind == "photos" else "set")
    page = visit(found.results.resolve() / "index.html")
    names = page.locator("tbody td.name").all_text_contents()
    if kind == "photos":
        assert names == [row["name"] for row in found.rows]
        assert page.locator("th", has_text="PSNR").count() == 0
    else:
        assert names == [found.rows[i]["name"] for i in np.argsort(found.numbers("psnr"))]
        shown = page.locator("tbody tr").first.text_content()
        assert f"{found.numbers('psnr').min():.2f}" in shown
    page.locator("tbody .shot").first.scroll_into_view_if_needed()
    page.evaluate("Promise.all([...document.querySelectorAll('tbody img[src]')].map((i) => i.decode()))")
    page.screenshot(path=tmp_path / "page.png")
    assert not page.locator("dialog").is_visible()
    page.locator("tbody tr").first.locator(".shot").first.click()
    assert page.locator("dialog").is_visible() and page.locator("#shown").text_content() == names[0]
    page.screenshot(path=tmp_path / "slider.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200
    assert len({tuple(p) for p in pixels(tmp_path / "page.png").reshape(-1, 3)[::97].tolist()}) > 50
    assert math.isfinite(page.locator("#stage").bounding_box()["width"])
