"""PSNR, SSIM and MAE against scikit-image and NumPy; in bands, with x8, and where nothing can be measured."""

import csv
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from data.datasets import Whole
from models.ensemble import DIHEDRAL, dihedral_mean, transform, undo_transform
from models.layers import SizeRequirements
from models.tiling import Tiling
from tests.builders import applied, figures, mean_of_eight, network, planes, psnr, shaken, strict_json, unit
from utils.eval.evaluator import Evaluator
from utils.eval.metrics import Protocol, Score
from utils.eval.results import Results, read_csv
from utils.eval.scoring import ScoredOutput, input_baseline, to_tensor
from utils.eval.summary import facts_in_words, headline, remarks

CPU = torch.device("cpu")
Array = np.ndarray
KINDS = [(1, np.uint8), (3, np.uint8), (1, np.uint16), (3, np.uint16), (1, np.float32), (3, np.float32)]
IDS = ["gray8", "rgb8", "gray16", "rgb16", "gray_float", "rgb_float"]
PLAIN, EXACT = Protocol(), Protocol(quantize=False)
FACTS: dict[str, Any] = {"protocol": "how", "degrade": None, "weights": "net.pth"}


def stored(image: Array, kind: Any) -> Array:
    """Values in [0, 1] as the array that a file of this depth holds."""
    if np.dtype(kind).kind == "f":
        return image.astype(kind)
    return np.rint(image * np.iinfo(kind).max).astype(kind)


def pair_of(
    channels: int, kind: Any, seed: int = 0, height: int = 47, width: int = 38
) -> tuple[Array, Array]:
    """(image, target): structure at several scales, and noise between the two."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 9.0
    waves = np.stack([np.sin(x * (i + 1) + y) + np.cos(y * 2 - i * x) for i in range(channels)], 2)
    target = np.clip(0.5 + 0.25 * waves + rng.normal(0, 0.05, waves.shape), 0, 1)
    image = np.clip(target + rng.normal(0, 0.07, waves.shape), 0, 1)
    return stored(image, kind), stored(target, kind)


def near(
    image: Array, target: Array, protocol: Protocol = PLAIN, suffix: str = "", tolerance: float = 1e-6
) -> dict[str, Any]:
    """What scikit-image measures, to be met within `tolerance`."""
    wanted = figures(image, target, protocol.channel, protocol.border)
    return {name + suffix: pytest.approx(value, abs=tolerance, rel=0) for name, value in wanted.items()}


class Apply(nn.Module):
    """Any function as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor], scale: int = 1):
        super().__init__()
        self.function, self.size = function, SizeRequirements(scale=scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def predict(image: Array, target: Array | None, net: nn.Module | None = None, **options: Any) -> Any:
    options = {"metrics": ("psnr", "ssim"), "say": lambda text: None, "amp": False, **options}
    (found,) = Evaluator(net or nn.Identity(), CPU, **options)([Whole("a.png", image, target, image.dtype)])
    return found


# ------------------------------------------------------------------------------------------- scikit-image


@pytest.mark.parametrize(("channels", "kind"), KINDS, ids=IDS)
@pytest.mark.parametrize("border", [0, 4])
@pytest.mark.parametrize("channel", ["rgb", "y"])
def test_metrics_are_those_of_scikit_image(channels: int, kind: Any, border: int, channel: str) -> None:
    image, target = pair_of(channels, kind)
    protocol = Protocol(channel, border)
    found = predict(image, target, protocol=protocol)
    assert found.scores == near(image, target, protocol) | near(image, target, protocol, "_input")
    if image.dtype.kind == "u":
        assert np.array_equal(found.output, image)


@pytest.mark.parametrize(("channels", "kind"), KINDS, ids=IDS)
def test_the_output_is_measured_as_the_file_that_is_saved(channels: int, kind: Any) -> None:
    image, target = pair_of(channels, kind)
    exact = np.clip((unit(image) - 0.5) * 1.37 + 0.5, 0, 1)
    found = predict(image, target, Apply(lambda x: x * 1.37))
    assert found.output.dtype == kind
    assert np.abs(found.output - stored(exact, kind).astype(float)).max() <= 1  # a tie may round either way
    assert found.scores.items() >= near(found.output, target).items()

    unrounded = predict(image, target, Apply(lambda x: x * 1.37), protocol=EXACT)
    assert unrounded.scores.items() >= near(exact, target, EXACT, tolerance=1e-5).items()
    assert np.array_equal(unrounded.output, found.output)  # the file is rounded in any case
    if kind == np.uint8:
        assert abs(unrounded.scores["psnr"] - found.scores["psnr"]) > 1e-5


# -------------------------------------------------------------------------------------------------- bands


def score_in(bands: list[int], image: Array, target: Array, protocol: Protocol) -> dict[str, float]:
    score = Score(protocol, len(image), 255, with_ssim=True)
    for row, height in zip(np.cumsum([0, *bands]), bands, strict=False):
        score.update(*(planes(unit(each[row : row + height]))[0] for each in (image, target)))
    return score.compute()


def cut(height: int, step: int) -> list[int]:
    return [min(step, height - row) for row in range(0, height, step)]


@pytest.mark.parametrize("border", [0, 4, 30])
@pytest.mark.parametrize("channel", ["rgb", "y"])
def test_bands_of_any_height_give_what_the_whole_gives(border: int, channel: str) -> None:
    image, target = pair_of(3, np.uint8, height=215, width=71)
    protocol = Protocol(channel, border)
    wanted = near(image, target, protocol, tolerance=1e-9)
    uneven = [1, 2, 10, 0, 11, 64, 65, 62]
    for bands in (cut(215, 1), cut(215, 7), cut(215, 64), cut(215, 200), [215], uneven):
        assert sum(bands) == 215
        assert score_in(bands, image, target, protocol) == wanted


@pytest.mark.parametrize(
    ("size", "border", "missing"),
    [
        *[(size, border, "all") for size in ((12, 40), (40, 12), (9, 9)) for border in (6, 7, 100)],
        *[(size, 0, "ssim") for size in ((10, 40), (40, 10), (1, 1))],
        ((18, 18), 4, "ssim"),
    ],
)
def test_what_cannot_be_measured_is_nan(size: tuple[int, int], border: int, missing: str) -> None:
    """All, where the border leaves no pixel; SSIM under 11 pixels."""
    image, target = pair_of(3, np.uint8, height=size[0], width=size[1])
    protocol = Protocol(border=border)
    for scores in (
        predict(image, target, protocol=protocol).scores,
        *(score_in(cut(size[0], step), image, target, protocol) for step in (1, 5, 64)),
    ):
        assert scores.keys() >= {"psnr", "mae", "ssim"}
        for name, value in scores.items():
            assert math.isnan(value) == (missing == "all" or "ssim" in name)


# ----------------------------------------------------------------------------------------- inf, NaN, files


def results_of(tmp_path: Path, rows: dict[str, dict[str, float]]) -> Results:
    tmp_path.mkdir(exist_ok=True)
    results = Results()
    for name, scores in rows.items():
        results.add(name, scores, 0.5)
    results.write(tmp_path, FACTS)
    return results


def summary(folder: Path) -> dict[str, Any]:
    return strict_json((folder / "summary.json").read_text())


def cells(folder: Path) -> dict[str, dict[str, str]]:
    lines = (folder / "metrics.csv").read_text().splitlines()[1:]
    return {row["name"]: row for row in csv.DictReader(lines)}


def test_identical_images_are_counted_and_leave_the_mean(tmp_path: Path) -> None:
    noisy, clear = pair_of(3, np.uint8)
    images = {"a": clear, "b": noisy, "c": noisy[::-1]}
    scores = {name: predict(image, clear).scores for name, image in images.items()}
    assert scores["a"]["psnr"] == math.inf
    results = results_of(tmp_path, scores)
    row = cells(tmp_path)["a"]
    assert (row["psnr"], row["ssim"], row["gain"]) == ("inf", "1.000000", "")  # the input was the target
    found = summary(tmp_path)
    assert found["psnr"]["mean"] == pytest.approx((scores["b"]["psnr"] + scores["c"]["psnr"]) / 2)
    assert found["psnr"]["identical"] == 1 and found["psnr"]["empty"] == 0
    assert found["psnr"]["worst_name"] == "c" and found["images"] == 3
    assert found["ssim"]["mean"] == pytest.approx(np.mean([s["ssim"] for s in scores.values()]))
    lines = headline(results, Protocol())
    assert "PSNR: 1 identical images (inf) are left out of the mean" in lines
    assert "input PSNR: 1 identical images (inf) are left out of the mean" in lines
    assert "3 images" in lines[0] and f"{found['psnr']['mean']:.2f} dB" in lines[0]


def nan_at_one_pixel(x: Tensor) -> Tensor:
    y = x.clone()
    y[0, 0, 1, 1] = math.nan
    return y


BROKEN = Apply(nan_at_one_pixel)


@pytest.mark.parametrize(
    ("net", "identical", "ssim", "first", "more"),
    [
        (nn.Identity(), 2, 1, "PSNR inf dB: every output equals its target", "2 identical images (inf)"),
        (BROKEN, 0, None, "nothing measured", "PSNR: no value for 2 images (NaN in the output; first: a)"),
    ],
)
def test_a_set_without_a_mean(
    tmp_path: Path, net: nn.Module, identical: int, ssim: float | None, first: str, more: str
) -> None:
    image = pair_of(1, np.uint8)[0]
    scores = predict(image, image, net).scores
    results = results_of(tmp_path, {"a": scores, "b": scores})
    found = summary(tmp_path)
    assert found["psnr"] == {"mean": None, "identical": identical, "empty": 2 - identical}
    assert found["ssim"]["mean"] == ssim and found["mae"]["mean"] == (0 if identical else None)
    lines = headline(results, Protocol())
    assert lines[0].startswith(f"{first}; 2 images; ") and more in "\n".join(lines)
    assert not any("nan" in line for line in lines)
    if not identical:
        mixed = results_of(tmp_path / "mixed", {"a": scores, "b": predict(image, image).scores})
        assert "every output that can be measured equals its target" in headline(mixed, Protocol())[0]


def test_an_output_of_nan_is_counted(tmp_path: Path) -> None:
    noisy, clear = pair_of(3, np.uint8)
    broken, sound = predict(noisy, clear, BROKEN), predict(noisy, clear).scores
    assert all(math.isnan(broken.scores[name]) for name in ("psnr", "ssim", "mae"))
    assert broken.output[1, 1, 0] == 0 and np.array_equal(broken.output[2:], noisy[2:])
    results = results_of(tmp_path, {"bad": broken.scores, "good": sound})
    row = cells(tmp_path)["bad"]
    assert row["psnr"] == row["ssim"] == row["mae"] == row["gain"] == ""
    assert float(row["psnr_input"]) == pytest.approx(sound["psnr_input"], abs=1e-5)
    found = summary(tmp_path)
    assert found["psnr"]["mean"] == pytest.approx(sound["psnr"])
    assert [found[name]["empty"] for name in ("psnr", "ssim", "mae", "psnr_input")] == [1, 1, 1, 0]
    lines = headline(results, Protocol())
    for metric in ("PSNR", "SSIM", "MAE"):
        assert f"{metric}: no value for 1 images (NaN in the output; first: bad)" in lines
    more = {"x8": False, "data": "d", "model": "m", "scale": 1, "device": "CPU", "peak_mib": 1, "notes": []}
    on_page = facts_in_words(FACTS | more | {"seed": 0}, results)
    assert ("note", "PSNR: no value for 1 images (NaN in the output; first: bad)") in on_page


def test_the_reason_for_an_empty_cell_is_the_right_one(tmp_path: Path) -> None:
    image, target = pair_of(3, np.uint8, height=9, width=30)
    rows = {
        "border": predict(image, target, protocol=Protocol(border=5)).scores,
        "narrow": predict(image, target).scores,
        "unknown": dict.fromkeys(("psnr", "mae"), math.nan),
        "none": {},  # without a target no value is missing
    }
    lines = remarks(results_of(tmp_path, rows))
    assert "PSNR: no value for 1 images (no pixels left after --crop_border; first: border)" in lines
    assert "SSIM: no value for 1 images (too small; first: narrow)" in lines
    either = "PSNR: no value for 1 images (NaN in the output, or no pixels left after --crop_border"
    assert f"{either}; first: unknown)" in lines
    assert not any("none)" in line for line in lines)


# ----------------------------------------------------------------------------------------------- the input


@pytest.mark.parametrize("channels", [1, 3])
def test_the_input_is_enlarged_as_pillow_does(channels: int) -> None:
    target = pair_of(channels, np.uint8, height=42, width=58)[1]
    small = np.ascontiguousarray(target[::2, ::2])
    picture = Image.fromarray(small[:, :, 0] if channels == 1 else small)
    large = np.asarray(picture.resize((58, 42), Image.Resampling.BICUBIC)).reshape(42, 58, channels)
    twice = small.repeat(2, 0).repeat(2, 1)
    enlarging = Apply(lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3), scale=2)
    for protocol in (Protocol(), Protocol("y", 4)):
        found = predict(small, target, enlarging, protocol=protocol).scores
        assert found == near(large, target, protocol, "_input") | near(twice, target, protocol)


@pytest.mark.parametrize("channel", ["rgb", "y"])
def test_gray_is_repeated_for_a_color_target(channel: str) -> None:
    gray, target = pair_of(1, np.uint8)[0], pair_of(3, np.uint8, seed=1)[1]
    protocol = Protocol(channel)
    wanted = gray.repeat(3, 2), target, protocol
    found = predict(gray, target, Apply(lambda x: x.repeat(1, 3, 1, 1)), protocol=protocol)
    assert found.output.shape == target.shape
    assert found.scores == near(*wanted) | near(*wanted, "_input")
    assert input_baseline(target, gray, protocol) == {}  # color has no counterpart in gray


def test_floats_beyond_the_range_count_in_full() -> None:
    """The input is measured as given: neither clamped nor rounded."""
    target = pair_of(1, np.uint8)[1]
    given = (unit(target) + np.random.default_rng(0).normal(0, 0.4, target.shape)).astype(np.float32)
    assert given.min() < -0.2 and given.max() > 1.2
    exact = psnr(given, target)
    assert input_baseline(given, target, Protocol(), with_ssim=True) == near(given, target)
    assert psnr(given.clip(0, 1), target) > exact + 0.5
    (image,) = Evaluator(nn.Identity(), CPU, False)([Whole("a", given, target, np.uint8)])
    assert image.scores["psnr_input"] == pytest.approx(exact, abs=1e-6, rel=0)
    assert image.scores["psnr"] == pytest.approx(psnr(stored(given.clip(0, 1), np.uint8), target), abs=1e-3)
    assert image.output.dtype == np.uint8


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_an_output_is_stored_as_its_file_stores_it(kind: Any) -> None:
    def saved(band: Tensor) -> Array:
        output = ScoredOutput(*band.shape[1:], np.dtype(kind), None, Protocol(), ssim=False)
        output.add(band[None])
        assert output.array is not None and output.array.dtype == kind and output.compute() == {}
        return output.array

    image = pair_of(3, kind)[0]
    assert np.array_equal(saved(to_tensor(image)), image)
    wild = saved(torch.tensor([[[-1.0, 0.5, 2.0, math.nan, math.inf, -math.inf]]]))
    top = 1.0 if kind == np.float32 else np.iinfo(kind).max
    assert wild[0, [0, 2, 3, 4, 5], 0].tolist() == [0, top, 0, top, 0]


# ------------------------------------------------------------------------------------------------------ x8


def convolution(size: int = 3) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(3, 3, size, padding=size // 2)


@pytest.mark.parametrize("size", [(16, 16), (13, 22), (31, 7)])
def test_the_ensemble_is_the_mean_of_eight_by_hand(size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).random((*size, 3), dtype=np.float32)
    for net in (convolution(), shaken(network("resunet", width=8))):
        with torch.no_grad():
            found, plain = dihedral_mean(net, planes(image)), net(planes(image))
        assert found.shape == (2, 3, *size) and torch.equal(found[1:], plain)
        assert (found[:1] - planes(mean_of_eight(partial(applied, net), image))).abs().max() < 1e-5
        assert (found[0] - found[1]).abs().max() > 1e-2


def test_the_eight_transforms_are_all_different_and_undone() -> None:
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    views = [transform(x, *each) for each in DIHEDRAL]
    assert len({(tuple(view.shape), *view.flatten().tolist()) for view in views}) == 8
    assert all(
        torch.equal(undo_transform(view, *each), x) for view, each in zip(views, DIHEDRAL, strict=True)
    )


def test_the_ensemble_is_measured_beside_the_single_pass() -> None:
    image, target = pair_of(3, np.uint8)
    net = convolution()
    with torch.no_grad():
        net.weight.mul_(0.3)
        net.weight[range(3), range(3), 1, 1] += 0.8
    single, ensemble = predict(image, target, net), predict(image, target, net, x8=True)
    assert ensemble.scores["psnr_single"] == single.scores["psnr"]
    assert ensemble.scores.keys() == single.scores.keys() | {"psnr_single"}
    mean = mean_of_eight(lambda part: applied(net, part * 2 - 1) * 0.5 + 0.5, unit(image))
    saved = stored(np.clip(mean, 0, 1), np.uint8)
    assert (saved != ensemble.output).mean() < 1e-3  # ties of rounding
    assert ensemble.scores.items() >= near(ensemble.output, target).items()
    assert abs(ensemble.scores["psnr"] - ensemble.scores["psnr_single"]) > 0.01


@pytest.mark.parametrize(("change", "words"), [(0.5, "+0.50"), (-3.689, "-3.69")])
def test_the_effect_of_the_ensemble_is_printed(tmp_path: Path, change: float, words: str) -> None:
    results = results_of(tmp_path, {"a": {"psnr": 20 + change, "psnr_single": 20.0}})
    (line,) = [line for line in remarks(results) if "x8" in line]
    assert line.startswith(f"x8 changes PSNR by {words} dB (single prediction 20.00 dB)")
    assert ("loss" in line) == (change < 0)


def test_a_network_that_turns_with_its_input_gains_nothing() -> None:
    image, target = pair_of(3, np.uint8)
    scores = predict(image, target, convolution(size=1), x8=True, protocol=EXACT).scores
    assert scores["psnr"] == pytest.approx(scores["psnr_single"], abs=1e-5, rel=0)


# --------------------------------------------------------------------------------------------------- flags


@pytest.mark.parametrize("x8", [False, True])
@pytest.mark.parametrize("tile", [None, 24])
def test_memory_layout_and_precision_change_little(x8: bool, tile: int | None) -> None:
    image, target = pair_of(3, np.uint8)
    options: dict[str, Any] = {"x8": x8, "tiling": Tiling(tile, 16)}
    plain = predict(image, target, convolution(), **options).scores["psnr"]
    last = convolution().to(memory_format=torch.channels_last)
    assert predict(image, target, last, **options).scores["psnr"] == pytest.approx(plain, abs=1e-3)
    half = predict(image, target, convolution(), amp=True, **options)
    assert half.scores["psnr"] == pytest.approx(plain, abs=0.2) and half.output.dtype == np.uint8
    assert half.scores["psnr"] != plain


def test_what_many_images_cost_beyond_their_metrics_is_linear(tmp_path: Path) -> None:
    """The mean is shown after each of 20,000 images: a second; hours, if it went through all of them."""
    results = Results()
    began = time.process_time()
    for number in range(20_000):
        value = math.inf if number % 10 == 0 else float(number % 7)
        results.add(f"{number}.png", {"psnr": value, "psnr_input": 1.0, "mae": 0.1}, 0.01)
        results.mean("psnr")
    results.write(tmp_path, FACTS)
    assert time.process_time() - began < 5
    finite = [float(number % 7) for number in range(20_000) if number % 10]
    assert results.mean("psnr") == pytest.approx(sum(finite) / len(finite))
    assert math.isnan(results.mean("ssim"))
    assert len(read_csv(tmp_path / "metrics.csv")) == 20_000
