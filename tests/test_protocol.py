"""test.py from end to end: every figure that it prints or writes, recomputed from the files beside it."""

import json
import math
import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import test as script
from models import build_network, network_defaults
from tests.builders import Outline, strict_json
from tests.conftest import FAST, TINY, Workplace, dataset, pixels
from utils.eval.lpips import BACKBONE
from utils.eval.results import read_csv
from utils.options.flags import parse_test
from utils.system.errors import UserError

Trained = Callable[..., Path]
CPU = ("--visdom", "off", "--gpu_ids", "-1")
ONE = (*FAST, "--gpu_ids", "-1", "--n_epochs", "1")
SIZES = ((40, 52), (33, 47), (64, 48))


class Outcome(NamedTuple):
    """What test.py left behind and said."""

    folder: Path
    out: list[str]
    err: str
    rows: list[dict[str, str]]
    summary: dict[str, Any]
    page: str

    @property
    def data(self) -> Any:
        return strict_json(Outline(self.page).texts["data"])

    @property
    def facts(self) -> str:
        return "\n".join(f"{label} {text}" for label, text in self.data["facts"])

    @property
    def comment(self) -> str:
        return (self.folder / "metrics.csv").read_text().splitlines()[0]

    def output(self, name: str) -> np.ndarray:
        return pixels((self.folder / "outputs" / name).with_suffix(".png"))

    def numbers(self, column: str) -> np.ndarray:
        return np.array([float(row[column]) for row in self.rows])


@pytest.fixture
def tested(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Call test.py's main in this process."""

    def call(*flags: str) -> Outcome:
        capsys.readouterr()
        with ExitStack() as cleanup:
            assert script.main(parse_test([*flags, *CPU]), cleanup) == 0
        said = capsys.readouterr()
        line = next(line for line in said.out.splitlines() if line.startswith("outputs "))
        folder = Path(line.removeprefix("outputs ").split(", page ")[0])
        summary = json.loads((folder / "summary.json").read_text())
        page = (folder / "index.html").read_text("utf-8")
        return Outcome(
            folder, said.out.splitlines(), said.err, read_csv(folder / "metrics.csv"), summary, page
        )

    return call


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept") / "run"


@pytest.fixture
def run(trained: Trained, kept: Path, tmp_path: Path) -> Path:
    """A tiny run named `run` below `tmp_path`, trained once for all; the working directory is `tmp_path`."""
    own = tmp_path / "checkpoints" / "run"
    if kept.exists():
        shutil.copytree(kept, own)
    else:
        shutil.copytree(shaken(trained(*TINY, *ONE)), kept)
    return own


def refusal(*flags: str) -> UserError:
    """The refusal that these flags of test.py end with."""
    with pytest.raises(UserError) as caught, ExitStack() as cleanup:
        script.main(parse_test([*flags, *CPU]), cleanup)
    return caught.value


def picture(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """A smooth random 8-bit image `(H, W, C)`, or `(H, W)` of one channel."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 7, channels), dtype=np.uint8)
    smooth = Image.fromarray(coarse.squeeze()).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(smooth) + rng.normal(0, 4, np.asarray(smooth).shape), 0, 255).astype(np.uint8)


def save(image: np.ndarray, path: Path) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return image


def write_pairs(root: Path, sizes: Any = SIZES) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs `root/test/{input,target}/N.png`: a picture, and the same darkened and noisy."""
    pairs = {}
    for i, (height, width) in enumerate(sizes):
        target = picture(i, height, width)
        noisy = 0.9 * target + np.random.default_rng(99 + i).normal(0, 5 + 5 * i, target.shape)
        given = np.clip(noisy, 0, 255).astype(np.uint8)
        save(given, root / "test" / "input" / f"{i}.png")
        save(target, root / "test" / "target" / f"{i}.png")
        pairs[f"{i}.png"] = given, target
    return pairs


def write_clean(folder: Path, count: int, side: int = 48, channels: int = 3, seed: int = 50) -> None:
    for i in range(count):
        save(picture(seed + i, side, side + 8 * (i % 2), channels), folder / f"{i}.png")


def shaken(run: Path) -> Path:
    """The run with other weights, far from those that it began with, which hardly change an image."""
    state = torch.load(run / "best_net.pth", weights_only=True)
    draw = torch.Generator().manual_seed(0)
    torch.save(
        {key: value + 0.03 * torch.randn(value.shape, generator=draw) for key, value in state.items()},
        run / "best_net.pth",
    )
    return run


def network(run: Path, tag: str = "best") -> Callable[[np.ndarray], np.ndarray]:
    """The run's network from its weights, on `(H, W, C)` in [0, 1]; neither clamped nor rounded."""
    options = json.loads((run / "options.json").read_text())
    own = {flag: options[flag] for flag in network_defaults(options["model"])}
    channels = {"input_nc": options["input_nc"], "output_nc": options["output_nc"]}
    net = build_network(options["model"], **own, **channels).eval()
    net.load_state_dict(torch.load(run / f"{tag}_net.pth", weights_only=True))

    def predict(image: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(np.ascontiguousarray(image)).float().permute(2, 0, 1)[None] * 2 - 1
        with torch.inference_mode():
            return ((net(x)[0].permute(1, 2, 0) + 1) / 2).double().numpy()

    return predict


def psnr(image: np.ndarray, target: np.ndarray) -> float:
    """Of two float arrays in [0, 1]."""
    return float(-10 * np.log10(np.mean((np.float64(image) - np.float64(target)) ** 2)))


def similarity(image: np.ndarray, target: np.ndarray) -> float:
    """SSIM with the settings of Wang et al., by scikit-image, of arrays `(H, W, C)` in [0, 1]."""
    return float(
        structural_similarity(
            image.astype(np.float64),
            target.astype(np.float64),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=2,
        )
    )


def luma(image: np.ndarray) -> np.ndarray:
    return (16 / 255 + image @ (np.array([65.481, 128.553, 24.966]) / 255))[..., None]


# ----------------------------------------------------------------------------------------------- the figures


def test_every_figure_is_that_of_the_files(tmp_path: Path, run: Path, tested: Callable[..., Outcome]) -> None:
    pairs = write_pairs(tmp_path / "set")
    found = tested("--name", "run", "--dataroot", "set", "--seed", "7")
    assert [row["name"] for row in found.rows] == list(pairs)
    expected: dict[str, list[float]] = {}
    for name, (given, target) in pairs.items():
        output = found.output(name)
        assert output.shape == target.shape and output.dtype == np.uint8
        for ending, image in (("", output), ("_input", given)):
            a, b = image / 255, target / 255
            values = {"psnr": peak_signal_noise_ratio(target, image), "ssim": similarity(a, b)}
            for metric, value in (values | {"mae": np.abs(a - b).mean()}).items():
                expected.setdefault(metric + ending, []).append(float(value))
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
        f"PSNR median {np.median(expected['psnr']):.2f}, std {np.std(expected['psnr']):.2f}, "
        f"worst {min(expected['psnr']):.2f} dB ({found.summary['psnr']['worst_name']})",
    ]
    assert found.out[-4:] == lines
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
    assert pixels(found.folder / "grid.png").ndim == 3


def protocol_figures(
    output: np.ndarray, target: np.ndarray, flags: tuple[str, ...]
) -> tuple[float, float, float]:
    """PSNR, SSIM and MAE of arrays in [0, 1], as the flags say."""
    if "y" in flags:
        output, target = luma(output), luma(target)
    if "--crop_border" in flags:
        n = int(flags[flags.index("--crop_border") + 1])
        output, target = output[n:-n, n:-n], target[n:-n, n:-n]
    return psnr(output, target), similarity(output, target), float(np.abs(output - target).mean())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--psnr_channel", "y"), "Y of BT.601 (16..235), clamped, rounded to the bit depth"),
        (("--crop_border", "5"), "all channels, clamped, rounded to the bit depth, border of 5 left out"),
        (("--psnr_channel", "y", "--crop_border", "11"), "border of 11 left out"),
        (("--no_quantize",), "all channels, clamped, not rounded"),
    ],
)
def test_the_protocol_is_what_its_flags_say(
    tmp_path: Path,
    run: Path,
    tested: Callable[..., Outcome],
    flags: tuple[str, ...],
    words: str,
) -> None:
    predict = network(run)
    pairs = write_pairs(tmp_path / "set")
    plain = tested("--name", "run", "--dataroot", "set", "--results_dir", "plain")
    found = tested("--name", "run", "--dataroot", "set", *flags)
    for name, row in zip(pairs, found.rows, strict=True):
        given, target = (image / 255 for image in pairs[name])
        assert np.array_equal(found.output(name), plain.output(name))  # the files stay 8 bit
        output = found.output(name) / 255
        if "--no_quantize" in flags:
            output = predict(given).clip(0, 1)
        for ending, image in (("", output), ("_input", given)):
            figures = protocol_figures(image, target, flags)
            seen = [float(row[metric + ending]) for metric in ("psnr", "ssim", "mae")]
            assert seen == pytest.approx(figures, abs=2e-5)
    assert not np.allclose(found.numbers("psnr"), plain.numbers("psnr"), atol=1e-5)
    for text in (found.comment, found.summary["protocol"], "\n".join(found.out), found.facts):
        assert words in text


def test_x8_is_the_mean_over_eight_flips_and_turns(
    tmp_path: Path, run: Path, tested: Callable[..., Outcome]
) -> None:
    predict = network(run)
    pairs = write_pairs(tmp_path / "set")
    plain = tested("--name", "run", "--dataroot", "set", "--results_dir", "plain")
    found = tested("--name", "run", "--dataroot", "set", "--x8")
    for name, (given, _) in pairs.items():
        views = [
            lambda a, k=k, flip=flip: np.rot90(a[:, ::-1] if flip else a, k)
            for k in range(4)
            for flip in (0, 1)
        ]
        back = [
            lambda a, k=k, flip=flip: np.rot90(a, -k)[:, ::-1] if flip else np.rot90(a, -k)
            for k in range(4)
            for flip in (0, 1)
        ]
        mean = np.mean(
            [undo(predict(view(given / 255))) for view, undo in zip(views, back, strict=True)], axis=0
        )
        error = np.abs(found.output(name) - mean.clip(0, 1) * 255)
        assert error.max() < 0.501  # the rounding, of float32
        assert not np.array_equal(found.output(name), plain.output(name))
    targets = [target for _, target in pairs.values()]
    figures = [peak_signal_noise_ratio(t, found.output(name)) for name, t in zip(pairs, targets, strict=True)]
    assert found.numbers("psnr") == pytest.approx(figures, abs=2e-6)
    assert found.numbers("psnr_single") == pytest.approx(plain.numbers("psnr"), abs=2e-5)
    gain, single = np.mean(figures) - plain.numbers("psnr").mean(), plain.numbers("psnr").mean()
    assert f"x8 changes PSNR by {gain:+.2f} dB (single prediction {single:.2f} dB)" in found.out
    assert "self-ensemble x8" in found.facts and found.summary["x8"] is True
    assert "psnr_single" in found.rows[0] and "psnr_single" not in plain.rows[0]


def test_tiles_without_overlap_are_separate_images(
    tmp_path: Path, run: Path, tested: Callable[..., Outcome]
) -> None:
    predict = network(run)
    pairs = write_pairs(tmp_path / "set", [(48, 32)])
    given, target = pairs["0.png"]
    found = tested("--name", "run", "--dataroot", "set", "--tile", "16", "--tile_overlap", "0")
    cut = np.empty(given.shape)
    for top in range(0, 48, 16):
        for left in range(0, 32, 16):
            part = slice(top, top + 16), slice(left, left + 16)
            cut[part] = predict(given[part] / 255)
    assert np.abs(found.output("0.png") - cut.clip(0, 1) * 255).max() < 0.501
    assert found.numbers("psnr")[0] == pytest.approx(
        peak_signal_noise_ratio(target, found.output("0.png")), abs=1e-6
    )
    note = next(note for note in found.summary["notes"] if "tiles of 16, overlap 0" in note)
    assert note in found.err and note in found.facts
    # the network sees 37 pixels across at most: with overlap enough, tiles change nothing
    pairs = write_pairs(tmp_path / "large", [(160, 130)])
    whole = tested("--name", "run", "--dataroot", "large")
    tiled = tested("--name", "run", "--dataroot", "large", "--tile", "96", "--tile_overlap", "64")
    assert tiled.numbers("psnr") == pytest.approx(whole.numbers("psnr"), abs=1e-4)
    assert "tiles of 96" in tiled.facts and not whole.summary["notes"]


def test_the_first_line_of_the_csv_says_how_it_came_about(
    tmp_path: Path, run: Path, tested: Callable[..., Outcome]
) -> None:
    write_clean(tmp_path / "clean", 1, 64)
    flags = ("--dataroot", "clean", "--degrade", "noise:25", "--seed", "7", "--split", "val")
    found = tested("--name", "run", *flags, "--x8", "--tile", "48", "--tile_overlap", "8")
    words = ["noise:25", "seed 7", "val", "best_net.pth", "x8", "tile", str(torch.__version__)]
    assert [word for word in words if word not in found.comment] == []
    assert "noise:25" in found.facts and "seed 7" in found.facts


def test_noise_on_set12_is_not_clamped(trained: Trained, tested: Callable[..., Outcome]) -> None:
    folder = dataset("set12")
    trained(*TINY, *ONE, "--input_nc", "1", "--output_nc", "1", "--levels", "1", "--width", "2")
    flags = ("--dataroot", str(folder), "--degrade", "noise:25", "--no_quantize", "--metrics", "psnr")
    found = tested("--name", "run", *flags)
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
    work.train(*TINY, *FAST, "--n_epochs", "1", "--name", "run")
    write_pairs(work.folder / "set")
    flags = ("--dataroot", "set", "--psnr_channel", "y", "--crop_border", "4", "--x8", "--no_quantize")
    done = work.test("--name", "run", *flags, "--tile", "32", "--tile_overlap", "16", "--visdom", "off")
    words = "3 images; per image, Y of BT.601 (16..235), clamped, not rounded, border of 4 left out"
    assert words in done.stdout and "x8 changes PSNR by" in done.stdout
    assert "tiles of 32, overlap 16" in done.stderr


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


def test_super_resolution_of_clean_images(
    tmp_path: Path, trained: Trained, tested: Callable[..., Outcome]
) -> None:
    write_clean(tmp_path / "clean", 6)
    run = trained("--dataroot", "clean", *SR, "--stem", "2", *ONE)
    assert json.loads((run / "options.json").read_text())["scale"] == 2
    images = {f"{i}.png": picture(200 + i, 47 + i, 60) for i in range(3)}  # also odd sides
    for name, image in images.items():
        save(image, tmp_path / "other" / name)
    found = tested("--name", "run", "--dataroot", "other", "--degrade", "sr:2")
    assert found.summary["scale"] == 2 and "x2" in found.facts
    for (name, image), row in zip(images.items(), found.rows, strict=True):
        target = image[: len(image) // 2 * 2]
        assert found.output(name).shape == target.shape
        assert float(row["psnr_input"]) == pytest.approx(psnr(halved(target / 255), target / 255), abs=2e-3)
        figure = peak_signal_noise_ratio(target, found.output(name))
        assert float(row["psnr"]) == pytest.approx(figure, abs=1e-6)
    # small files as they are: twice as large
    save(picture(300, 21, 30), tmp_path / "small" / "a.png")
    bare = tested("--name", "run", "--dataroot", "small")
    assert bare.output("a.png").shape == (42, 60, 3) and bare.rows[0].keys() == {"name", "seconds"}


def test_super_resolution_of_pairs(tmp_path: Path, trained: Trained, tested: Callable[..., Outcome]) -> None:
    for split, count in (("train", 5), ("test", 2)):
        for i in range(count):
            target = save(picture(i + 10 * count, 48, 64), tmp_path / "set" / split / "target" / f"{i}.png")
            small = np.asarray(Image.fromarray(target).resize((32, 24), Image.Resampling.BICUBIC))
            save(small, tmp_path / "set" / split / "input" / f"{i}.png")
    flags = ("--dataroot", "set", "--scale", "2", *SR[2:], "--stem", "2", *ONE)
    trained(*flags)
    found = tested("--name", "run")
    for row in found.rows:
        folder = tmp_path / "set" / "test"
        given, target = (pixels(folder / side / row["name"]) for side in ("input", "target"))
        large = np.asarray(Image.fromarray(given).resize((64, 48), Image.Resampling.BICUBIC))
        assert float(row["psnr_input"]) == pytest.approx(peak_signal_noise_ratio(target, large), abs=1e-6)
        output = found.output(row["name"])
        assert output.shape == target.shape
        assert float(row["psnr"]) == pytest.approx(peak_signal_noise_ratio(target, output), abs=1e-6)
        assert float(row["ssim_input"]) == pytest.approx(similarity(large / 255, target / 255), abs=2e-6)


def test_a_run_of_another_scale_is_refused(tmp_path: Path, trained: Trained) -> None:
    write_clean(tmp_path / "clean", 6)
    write_clean(tmp_path / "other", 1)
    write_pairs(tmp_path / "pairs")
    trained("--dataroot", "clean", *SR, *ONE)
    for flags in (
        ("--dataroot", "demo:2:32"),
        ("--dataroot", "other", "--degrade", "noise:5"),
        ("--dataroot", "other", "--degrade", "sr:4"),
    ):
        assert "--degrade sr:2" in str(refusal("--name", "run", *flags)), flags
    assert "a target is not 2 times the size" in str(refusal("--name", "run", "--dataroot", "pairs"))
    trained(*TINY, *ONE, name="plain")
    error = refusal("--name", "plain", "--dataroot", "other", "--degrade", "sr:2")
    assert "2 times" in error.why and error.code == 2


def test_a_resumed_run_of_super_resolution_is_the_unbroken_one(tmp_path: Path, trained: Trained) -> None:
    write_clean(tmp_path / "clean", 6)
    flags = ("--dataroot", "clean", *SR, *ONE, "--repeat", "4", "--decay_epoch", "9")
    whole = trained(*flags, "--max_steps", "5", name="whole")
    trained(*flags, "--max_steps", "3", name="parts")
    parts = trained("--resume", "--max_steps", "5", name="parts")
    one, two = (torch.load(run / "latest_net.pth", weights_only=True) for run in (whole, parts))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert json.loads((parts / "status.json").read_text())["step"] == 5


def test_colours_out_of_gray(tmp_path: Path, trained: Trained, tested: Callable[..., Outcome]) -> None:
    write_clean(tmp_path / "clean", 5)
    write_clean(tmp_path / "other", 2, seed=90)
    run = trained("--dataroot", "clean", "--degrade", "gray", *SR[2:], *ONE)
    options = json.loads((run / "options.json").read_text())
    assert (options["input_nc"], options["output_nc"]) == (1, 3)
    found = tested("--name", "run", "--dataroot", "other", "--degrade", "gray")
    for row in found.rows:
        target = pixels(tmp_path / "other" / row["name"]) / 255
        gray = np.repeat((target @ [0.299, 0.587, 0.114])[..., None], 3, axis=2)
        assert float(row["psnr_input"]) == pytest.approx(psnr(gray, target), abs=1e-4)
        assert found.output(row["name"]).shape == target.shape
    save(picture(5, 30, 40, 1), tmp_path / "old" / "photo.png")
    bare = tested("--name", "run", "--dataroot", "old")
    assert bare.output("photo.png").shape == (30, 40, 3) and "nothing to measure" in bare.out[-1]


def test_a_residual_network_gives_what_to_subtract(
    tmp_path: Path, trained: Trained, tested: Callable[..., Outcome]
) -> None:
    flags = ("--model", "unet", "--width", "4", "--depth", "3", "--norm", "batch")
    run = trained("--dataroot", "demo:6:48", *flags, "--residual", *ONE)
    state = torch.load(run / "best_net.pth", weights_only=True)
    own = network_defaults("unet") | {"width": 4, "depth": 3, "norm": "batch"}
    plain = build_network("unet", input_nc=3, output_nc=3, **own).eval()
    assert plain.state_dict().keys() == state.keys()
    plain.load_state_dict(state)
    given, _ = write_pairs(tmp_path / "set", [(40, 48)])["0.png"]
    found = tested("--name", "run", "--dataroot", "set")
    x = torch.from_numpy(given).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        wanted = ((x - plain(x) + 1) / 2).clamp(0, 1)[0].permute(1, 2, 0).numpy()
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


def test_hostile_names(tmp_path: Path, run: Path, tested: Callable[..., Outcome]) -> None:
    for i, name in enumerate(NAMES):
        target = picture(i, 20, 24)
        for side in ("input", "target"):
            save(target // (2 if side == "input" else 1), tmp_path / "set" / "test" / side / name)
    found = tested("--name", "run", "--dataroot", "set")
    assert sorted(row["name"] for row in found.rows) == sorted(NAMES)
    assert sorted(row["name"] for row in found.data["rows"]) == sorted(NAMES)
    for name in NAMES:
        assert (found.folder / "outputs" / name).is_file()
    assert "<img src=x onerror" not in found.page


def test_a_name_that_is_no_text(tmp_path: Path, run: Path, tested: Callable[..., Outcome]) -> None:
    for side in ("input", "target"):
        save(picture(1, 20, 24), tmp_path / "set" / "test" / side / "plain.png")
        folder = tmp_path / "set" / "test" / side
        (folder / "plain.png").rename(folder / "caf\udce9.png")
    found = tested("--name", "run", "--dataroot", "set")
    assert len(found.rows) == 1 and len(list((found.folder / "outputs").iterdir())) == 1


def test_two_images_of_one_output(tmp_path: Path, run: Path) -> None:
    for name in ("a.png", "a.jpg"):
        save(picture(1, 20, 24), tmp_path / "photos" / name)
    error = refusal("--name", "run", "--dataroot", "photos")
    assert "several images would be written" in error.what and "a.png" in error.why


def test_results_elsewhere_a_folder_without_targets_and_one_file(
    tmp_path: Path, run: Path, tested: Callable[..., Outcome]
) -> None:
    predict = network(run)
    image = save(picture(1, 20, 24), tmp_path / "photos" / "deep" / "a.png")
    save(picture(2, 30, 20), tmp_path / "photos" / "b.png")
    elsewhere = tmp_path / "else" / "where"
    found = tested("--name", "run", "--dataroot", "photos", "--results_dir", str(elsewhere))
    assert found.folder == elsewhere / "run" / "photos" and not (tmp_path / "results").exists()
    assert np.abs(found.output("deep/a.png") - predict(image / 255).clip(0, 1) * 255).max() < 0.501
    assert all(row.keys() == {"name", "seconds"} for row in found.rows) and len(found.rows) == 2
    assert not {"psnr", "ssim", "mae"} & found.summary.keys()
    data = found.data
    assert [column["key"] for column in data["columns"]] == ["seconds"]
    assert all(set(row["thumbs"]) == {"input", "output"} for row in data["rows"])
    assert "PSNR" not in found.facts and "PSNR" not in "\n".join(found.out)

    one = tested("--name", "run", "--dataroot", "photos/b.png")
    assert [row["name"] for row in one.rows] == ["b.png"]
    assert np.array_equal(one.output("b.png"), found.output("b.png"))
    save(picture(2, 30, 20), tmp_path / "clean" / "c.png")
    degraded = tested("--name", "run", "--dataroot", "clean/c.png", "--degrade", "noise:25")
    assert 18 < degraded.numbers("psnr_input")[0] < 23


def test_the_training_images_are_refused(
    tmp_path: Path, trained: Trained, tested: Callable[..., Outcome]
) -> None:
    write_clean(tmp_path / "clean", 6)
    trained("--dataroot", "clean", "--degrade", "noise:25", *SR[2:], *ONE)
    (tmp_path / "alias").symlink_to(tmp_path / "clean")
    save(picture(1, 20, 24), tmp_path / "one" / "a.png")
    shutil.copy(tmp_path / "one" / "a.png", tmp_path / "clean" / "late.png")
    for root in ("clean", "alias", "clean/0.png", str(tmp_path / "clean")):
        error = refusal("--name", "run", "--dataroot", root, "--degrade", "noise:25")
        assert "trained on" in error.what and "--split train" in error.fix and error.code == 2
    assert not (tmp_path / "results").exists()
    flags = ("--name", "run", "--degrade", "noise:25")
    allowed = tested(*flags, "--split", "train")
    assert allowed.summary["split"] == "train" and len(allowed.rows) == 7
    assert len(tested(*flags, "--dataroot", "one").rows) == 1


# ---------------------------------------------------------------------------------------------- other metrics


def test_psnr_alone(tmp_path: Path, run: Path, tested: Callable[..., Outcome]) -> None:
    write_pairs(tmp_path / "set")
    found = tested("--name", "run", "--dataroot", "set", "--metrics", "psnr")
    assert not [column for column in found.rows[0] if "ssim" in column]
    assert "SSIM" not in "\n".join(found.out) and "ssim" not in found.summary
    assert "SSIM" not in found.facts


def test_ssim_of_small_images_is_empty_and_counted(
    tmp_path: Path, run: Path, tested: Callable[..., Outcome]
) -> None:
    pairs = write_pairs(tmp_path / "set", [(10, 30), (30, 10), (30, 31)])
    found = tested("--name", "run", "--dataroot", "set")
    assert [row["ssim"] == "" for row in found.rows] == [True, True, False]
    target = pairs["2.png"][1]
    wanted = similarity(found.output("2.png") / 255, target / 255)
    assert found.summary["ssim"]["mean"] == pytest.approx(wanted, abs=2e-6)
    for text in ("\n".join(found.out), found.facts):
        assert "SSIM: no value for 2 images (too small; first: 0.png)" in text


def test_lpips_without_weights_is_left_out(
    tmp_path: Path, run: Path, tested: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("socket.socket.connect", no_network)
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    write_pairs(tmp_path / "set")
    found = tested("--name", "run", "--dataroot", "set", "--metrics", "psnr,lpips")
    lines = [line for line in found.err.splitlines() if "LPIPS" in line]
    assert len(lines) == 1 and "left out" in lines[0] and BACKBONE in lines[0]
    assert "psnr" in found.rows[0] and "lpips" not in found.rows[0]
    assert not (tmp_path / "home").exists()


def test_lpips_with_weights(
    tmp_path: Path, run: Path, tested: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchmetrics")
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as referee
    from torchvision.models import alexnet

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
    (tmp_path / "home" / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(alexnet().state_dict(), tmp_path / "home" / "hub" / "checkpoints" / BACKBONE)
    pairs = write_pairs(tmp_path / "set", [(40, 52), (31, 64), (64, 48)])
    same = pairs["2.png"][1]
    save(same, tmp_path / "set" / "test" / "input" / "2.png")  # the input is identical
    found = tested("--name", "run", "--dataroot", "set", "--metrics", "psnr,lpips")
    assert found.rows[1]["lpips"] == "" and float(found.rows[2]["lpips_input"]) == 0
    for at, name in ((0, "0.png"), (2, "2.png")):
        images = [
            torch.from_numpy(image / 255).float().permute(2, 0, 1)[None]
            for image in (found.output(name), pairs[name][1])
        ]
        wanted = referee(*images, net_type="alex", normalize=True).item()
        assert wanted > 0 and float(found.rows[at]["lpips"]) == pytest.approx(wanted, abs=2e-6)
    mean = np.mean([float(found.rows[at]["lpips"]) for at in (0, 2)])
    assert found.summary["lpips"]["mean"] == pytest.approx(mean, abs=2e-6)
    assert any(line.startswith(f"LPIPS {mean:.4f} (input ") for line in found.out)
    assert "LPIPS: no value for 1 images (too small; first: 1.png)" in found.out


def test_weights_for_lpips_that_do_not_fit_are_no_end(
    tmp_path: Path, run: Path, tested: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "home" / "hub" / "checkpoints" / BACKBONE).write_bytes(b"half a file")
    write_pairs(tmp_path / "set", [(40, 52)])
    found = tested("--name", "run", "--dataroot", "set", "--metrics", "psnr,lpips")
    assert "lpips" not in found.rows[0]
    assert len([line for line in found.err.splitlines() if "LPIPS left out" in line]) == 1


# ----------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--name"),
        (("--model", "dncnn"), "--weights"),
        (("--model", "dncnn", "--dataroot", "set"), "--weights"),
        (("--model", "dncnn", "--weights", "w.pth"), "--dataroot"),
        (("--name", "run", "--width", "8"), "--width"),
        (("--name", "run", "--residual"), "--residual"),
        (("--name", "run", "--mean", "0"), "--mean"),
        (("--model", "dncnn", "--weights", "w.pth", "--dataroot", "set", "--stem", "2"), "--stem"),
        (("--model", "spandrel", "--weights", "w.pth", "--dataroot", "set", "--width", "2"), "--width"),
        (("--model", "dncnn", "--weights", "absent.pth", "--dataroot", "set"), "absent.pth"),
        (("--name", "run", "--tile", "64", "--tile_overlap", "64"), "--tile_overlap 64"),
        (("--name", "run", "--tile", "32"), "--tile 32"),
        (("--name", "run", "--tile", "0"), "--tile"),
        (("--name", "run", "--metrics", "psnr,fid"), "--metrics"),
        (("--name", "run", "--metrics", ","), "--metrics"),
        (("--name", "run", "--psnr_channel", "x"), "--psnr_channel"),
        (("--name", "run", "--crop_border", "-1"), "--crop_border"),
        (("--name", "run", "--layout", "folders"), "--layout"),
        (("--name", "run", "--dataroot", "set", "--layout", "clean"), "--degrade"),
        (("--name", "run", "--dataroot", "set", "--target_dir", "t"), "--target_dir"),
        (("--name", "run", "--dataroot", "set", "--pair_by", "("), "--pair_by"),
        (("--name", "run", "--load", "newest"), "--load"),
        (("--name", "run", "--split", "all"), "--split"),
        (("--name", "run", "--degrade", "sr:9", "--dataroot", "set"), "sr:9"),
        (("--name", "absent"), "--name"),
        (("--name", "run", "--dataroot", "nowhere"), "--dataroot nowhere"),
        (("--name", "run", "--metric", "psnr"), "--metrics"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, run: Path, flags: tuple[str, ...], words: str) -> None:
    write_pairs(tmp_path / "set")
    error = refusal(*flags)
    assert error.code == 2 and words in str(error)
    assert not (tmp_path / "results").exists()


def test_tiles_that_do_not_advance_are_refused(tmp_path: Path, run: Path) -> None:
    write_pairs(tmp_path / "set")
    error = refusal("--name", "run", "--dataroot", "set", "--tile", "9", "--tile_overlap", "8")
    assert "--tile" in error.what and "--tile 12" in error.fix


def test_a_border_that_leaves_nothing_is_said(
    tmp_path: Path, run: Path, tested: Callable[..., Outcome]
) -> None:
    pairs = write_pairs(tmp_path / "set", [(33, 47), (32, 47), (48, 20)])
    found = tested("--name", "run", "--dataroot", "set", "--crop_border", "16")
    output, target = (image[16:-16, 16:-16] / 255 for image in (found.output("0.png"), pairs["0.png"][1]))
    assert output.shape == (1, 15, 3)
    assert float(found.rows[0]["psnr"]) == pytest.approx(psnr(output, target), abs=1e-5)
    assert found.summary["psnr"]["mean"] == pytest.approx(psnr(output, target), abs=1e-5)
    for row in found.rows[1:]:
        assert (row["psnr"], row["psnr_input"], row["mae"]) == ("", "", "")
    assert found.summary["psnr"]["empty"] == 2
    for text in ("\n".join(found.out), found.facts):
        assert re.search(
            r"PSNR: no value for 2 images \(no pixels left after --crop_border; first: 1.png\)", text
        )


# ------------------------------------------------------------------------------------- the page in a browser


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["pairs", "one", "photos"])
def test_the_page_of_a_test(
    tmp_path: Path, run: Path, tested: Callable[..., Outcome], visit: Callable[..., Any], kind: str
) -> None:
    sizes = [(200, 300), (240, 200), (180, 260)][: 1 if kind == "one" else 3]
    write_pairs(tmp_path / "set", sizes)
    found = tested("--name", "run", "--dataroot", "set/test/input" if kind == "photos" else "set")
    page = visit(found.folder.resolve() / "index.html")
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
