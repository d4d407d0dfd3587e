"""PSNR, SSIM and MAE against scikit-image and NumPy; in bands, with x8, and where nothing can be measured."""

import csv
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from data.datasets import Whole
from models import build_network, network_defaults
from models.layers import SizeRequirements
from utils.eval import evaluator as evaluate
from utils.eval import metrics
from utils.eval.ensemble import dihedral_mean, turned, turned_back
from utils.eval.evaluator import Evaluator, input_baseline, save_rows, tensor_of
from utils.eval.metrics import Protocol, Score
from utils.eval.results import Results, read_csv
from utils.eval.summary import facts_in_words, headline, remarks
from utils.eval.tiling import Tiling

CPU = torch.device("cpu")
Array = np.ndarray
KINDS = [(1, np.uint8), (3, np.uint8), (1, np.uint16), (3, np.uint16), (1, np.float32), (3, np.float32)]
IDS = ["gray8", "rgb8", "gray16", "rgb16", "gray_float", "rgb_float"]
FACTS: dict[str, Any] = {"protocol": "how", "degrade": None, "weights": "net.pth"}


def smooth(seed: int, channels: int, height: int = 47, width: int = 38) -> Array:
    """Values in [0, 1] with structure at several scales, float64 `(H, W, C)`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 9.0
    waves = np.stack([np.sin(x * (i + 1) + y) + np.cos(y * 2 - i * x) for i in range(channels)], 2)
    return np.clip(0.5 + 0.25 * waves + rng.normal(0, 0.05, (height, width, channels)), 0, 1)


def stored(image: Array, kind: Any) -> Array:
    """Values in [0, 1] as the array that a file of this depth holds."""
    if np.dtype(kind).kind == "f":
        return image.astype(kind)
    return np.rint(image * np.iinfo(kind).max).astype(kind)


def pair_of(channels: int, kind: Any, seed: int = 0, **size: int) -> tuple[Array, Array]:
    """(image, target) that differ by noise."""
    target = smooth(seed, channels, **size)
    noise = np.random.default_rng(seed + 99).normal(0, 0.07, target.shape)
    return stored(np.clip(target + noise, 0, 1), kind), stored(target, kind)


def unit(image: Array) -> Array:
    """Full scale 1, float64."""
    return image / np.float64(np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1)


def planes(image: Array) -> Tensor:
    """`(H, W, C)` float64 to `(1, C, H, W)`."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


def referee(image: Array, target: Array, protocol: Protocol) -> dict[str, float]:
    """scikit-image on arrays of full scale 1, after MATLAB's rgb2ycbcr: T = [65.481 128.553 24.966], 16."""
    if protocol.channel == "y" and target.shape[2] == 3:
        image, target = (
            ((16 + picture @ np.array([65.481, 128.553, 24.966])) / 255)[:, :, None]
            for picture in (image, target)
        )
    cut = slice(protocol.border, -protocol.border or None)
    image, target = image[cut, cut], target[cut, cut]
    similarity = structural_similarity(
        target,
        image,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
        channel_axis=2,
    )
    return {
        "psnr": float(peak_signal_noise_ratio(target, image, data_range=1.0)),
        "ssim": float(similarity),
        "mae": float(np.abs(image - target).mean()),
    }


def judged(given: Array, target: Array | None, net: nn.Module | None = None, **options: Any) -> Any:
    options.setdefault("metrics", ("psnr", "ssim"))
    options.setdefault("say", lambda text: None)
    judge = Evaluator(net or nn.Identity(), CPU, options.pop("amp", False), **options)
    (image,) = judge([Whole("a.png", given, target, given.dtype)])
    return image


# ------------------------------------------------------------------------------------------- scikit-image


@pytest.mark.parametrize(("channels", "kind"), KINDS, ids=IDS)
@pytest.mark.parametrize("border", [0, 4])
@pytest.mark.parametrize("channel", ["rgb", "y"])
def test_metrics_are_those_of_scikit_image(channels: int, kind: Any, border: int, channel: str) -> None:
    image, target = pair_of(channels, kind)
    protocol = Protocol(channel, border)
    wanted = referee(unit(image), unit(target), protocol)

    tensors = [planes(unit(picture)) for picture in (image, target)]
    if channel == "y":
        tensors = [metrics.luma(tensor) for tensor in tensors]
    if border:
        tensors = [tensor[..., border:-border, border:-border] for tensor in tensors]
    for name in ("psnr", "ssim", "mae"):
        assert getattr(metrics, name)(*tensors).item() == pytest.approx(wanted[name], abs=1e-6, rel=0)

    found = judged(image, target, protocol=protocol)
    for name, value in wanted.items():
        assert found.scores[name] == pytest.approx(value, abs=1e-6, rel=0)
        assert found.scores[f"{name}_input"] == pytest.approx(value, abs=1e-6, rel=0)
    if image.dtype.kind == "u":
        assert np.array_equal(found.output, image)


class Scaled(nn.Module):
    """`factor` times the input about the middle of [-1, 1]: leaves the range and every grid."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.37


@pytest.mark.parametrize(("channels", "kind"), KINDS, ids=IDS)
def test_the_output_is_measured_as_the_file_that_is_saved(channels: int, kind: Any) -> None:
    image, target = pair_of(channels, kind)
    found = judged(image, target, Scaled())
    assert found.output.dtype == kind
    wanted = referee(unit(found.output), unit(target), Protocol())
    for name, value in wanted.items():
        assert found.scores[name] == pytest.approx(value, abs=1e-6, rel=0)


def test_without_quantisation_the_output_is_clamped_only() -> None:
    image, target = pair_of(3, np.uint8)
    exact = np.clip((unit(image) - 0.5) * 1.37 + 0.5, 0, 1)
    protocol = Protocol(quantize=False)
    found = judged(image, target, Scaled(), protocol=protocol)
    wanted = referee(exact, unit(target), protocol)
    for name, value in wanted.items():
        assert found.scores[name] == pytest.approx(value, abs=1e-5, rel=0)
    rounded = judged(image, target, Scaled())
    assert abs(rounded.scores["psnr"] - found.scores["psnr"]) > 1e-4
    assert np.array_equal(rounded.output, found.output)  # the file is rounded in any case


def test_sixteen_bits_are_not_measured_in_eight() -> None:
    image, target = pair_of(1, np.uint16)
    eight = referee(unit(stored(unit(image), np.uint8)), unit(stored(unit(target), np.uint8)), Protocol())
    assert abs(judged(image, target).scores["psnr"] - eight["psnr"]) > 1e-5


# -------------------------------------------------------------------------------------------------- bands


def score_in(bands: list[int], image: Tensor, target: Tensor, protocol: Protocol) -> dict[str, float]:
    score = Score(protocol, image.shape[1], 255, with_ssim=True)
    row = 0
    for height in bands:
        score.add(image[:, row : row + height], target[:, row : row + height])
        row += height
    return score.result()


def cut(height: int, step: int) -> list[int]:
    return [min(step, height - row) for row in range(0, height, step)]


@pytest.mark.parametrize("border", [0, 4, 30])
@pytest.mark.parametrize("channel", ["rgb", "y"])
def test_bands_of_any_height_give_what_the_whole_gives(border: int, channel: str) -> None:
    image, target = pair_of(3, np.uint8, height=215, width=71)
    protocol = Protocol(channel, border)
    wanted = referee(unit(image), unit(target), protocol)
    given, goal = planes(unit(image))[0], planes(unit(target))[0]
    uneven = [1, 2, 10, 0, 11, 64, 65, 62]
    for bands in (cut(215, 1), cut(215, 7), cut(215, 64), cut(215, 200), [215], uneven):
        assert sum(bands) == 215
        found = score_in(bands, given, goal, protocol)
        assert found == {name: pytest.approx(value, abs=1e-9, rel=0) for name, value in wanted.items()}


@pytest.mark.parametrize("size", [(12, 40), (40, 12), (9, 9)])
@pytest.mark.parametrize("border", [6, 7, 100])
def test_a_border_that_leaves_nothing_gives_nan(size: tuple[int, int], border: int) -> None:
    image, target = pair_of(3, np.uint8, height=size[0], width=size[1])
    given, goal = planes(unit(image))[0], planes(unit(target))[0]
    for step in (1, 5, 64):
        found = score_in(cut(size[0], step), given, goal, Protocol(border=border))
        assert found.keys() == {"psnr", "mae", "ssim"} and all(math.isnan(value) for value in found.values())
    assert all(math.isnan(v) for v in judged(image, target, protocol=Protocol(border=border)).scores.values())


@pytest.mark.parametrize("size", [(10, 40), (40, 10), (1, 1), (18, 18)])
def test_under_eleven_pixels_there_is_no_ssim(size: tuple[int, int]) -> None:
    image, target = pair_of(3, np.uint8, height=size[0], width=size[1])
    protocol = Protocol(border=4 if size == (18, 18) else 0)
    for found in (
        judged(image, target, protocol=protocol).scores,
        score_in(cut(size[0], 1), planes(unit(image))[0], planes(unit(target))[0], protocol),
    ):
        assert math.isnan(found["ssim"]) and math.isfinite(found["psnr"]) and math.isfinite(found["mae"])


# ----------------------------------------------------------------------------------------- inf, NaN, files


def strict(path: Path) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} in {path}")

    return json.loads(path.read_text(), parse_constant=refuse)


def results_of(tmp_path: Path, rows: dict[str, dict[str, float]]) -> Results:
    results = Results(tmp_path, "set")
    for name, scores in rows.items():
        results.add(name, scores, 0.5)
    results.write(FACTS)
    return results


def cells(results: Results) -> dict[str, dict[str, str]]:
    return {row["name"]: row for row in csv.DictReader(results.csv.read_text().splitlines()[1:])}


def test_identical_images_are_counted_and_leave_the_mean(tmp_path: Path) -> None:
    noisy, clear = pair_of(3, np.uint8)
    scores = {"a": judged(clear, clear).scores, "b": judged(noisy, clear).scores}
    scores["c"] = judged(noisy[::-1], clear).scores
    assert scores["a"]["psnr"] == math.inf
    results = results_of(tmp_path, scores)
    assert cells(results)["a"]["psnr"] == "inf" and cells(results)["a"]["ssim"] == "1.000000"
    assert cells(results)["a"]["gain"] == ""  # nothing to gain, as the input was the target
    found = strict(results.summary)
    assert found["psnr"]["mean"] == pytest.approx((scores["b"]["psnr"] + scores["c"]["psnr"]) / 2)
    assert found["psnr"]["identical"] == 1 and found["psnr"]["empty"] == 0
    assert found["psnr"]["worst_name"] == "c" and found["images"] == 3
    assert found["ssim"]["mean"] == pytest.approx(np.mean([s["ssim"] for s in scores.values()]))
    lines = headline(results, Protocol())
    assert "PSNR: 1 identical images (inf) are left out of the mean" in lines
    assert "PSNR of doing nothing: 1 identical images (inf) are left out of the mean" in lines
    assert "3 images" in lines[0] and f"{found['psnr']['mean']:.2f} dB" in lines[0]


def test_a_set_of_identical_images(tmp_path: Path) -> None:
    image = pair_of(1, np.uint8)[0]
    results = results_of(tmp_path, {name: judged(image, image).scores for name in "ab"})
    found = strict(results.summary)
    assert found["psnr"] == {"mean": None, "identical": 2, "empty": 0}
    assert found["ssim"]["mean"] == 1 and found["mae"]["mean"] == 0
    lines = headline(results, Protocol())
    assert lines[0].startswith("PSNR inf dB: every output equals its target (2 images")
    assert not any("nan" in line for line in lines)


class Broken(nn.Module):
    """NaN at one pixel."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[0, 0, 1, 1] = math.nan
        return y


def test_an_output_of_nan_is_counted_and_not_passed_over(tmp_path: Path) -> None:
    noisy, clear = pair_of(3, np.uint8)
    broken = judged(noisy, clear, Broken())
    assert all(math.isnan(broken.scores[name]) for name in ("psnr", "ssim", "mae"))
    assert broken.output[1, 1, 0] == 0 and np.array_equal(broken.output[2:], noisy[2:])
    sound = judged(noisy, clear).scores
    results = results_of(tmp_path, {"bad": broken.scores, "good": sound})
    row = cells(results)["bad"]
    assert row["psnr"] == row["ssim"] == row["mae"] == row["gain"] == ""
    assert float(row["psnr_input"]) == pytest.approx(sound["psnr_input"], abs=1e-5)
    found = strict(results.summary)
    assert found["psnr"]["mean"] == pytest.approx(sound["psnr"])
    assert [found[name]["empty"] for name in ("psnr", "ssim", "mae", "psnr_input")] == [1, 1, 1, 0]
    for line in ("PSNR", "SSIM", "MAE"):
        assert f"{line}: 1 images whose output holds NaN, left empty (bad)" in headline(results, Protocol())


def test_a_network_that_gives_nothing_but_nan(tmp_path: Path) -> None:
    noisy, clear = pair_of(3, np.uint8)
    results = results_of(tmp_path, {name: judged(noisy, clear, Broken()).scores for name in "ab"})
    assert strict(results.summary)["psnr"] == {"mean": None, "identical": 0, "empty": 2}
    lines = headline(results, Protocol())
    assert lines[0].startswith("nothing measured (2 images")
    assert "PSNR: 2 images whose output holds NaN, left empty (a)" in lines
    same = judged(clear, clear).scores
    (tmp_path / "mixed").mkdir()
    mixed = results_of(tmp_path / "mixed", {"a": judged(noisy, clear, Broken()).scores, "b": same})
    assert "every output that can be measured equals its target" in headline(mixed, Protocol())[0]


def test_the_reason_for_an_empty_cell_is_the_right_one(tmp_path: Path) -> None:
    image, target = pair_of(3, np.uint8, height=9, width=30)
    border = judged(image, target, protocol=Protocol(border=5)).scores
    narrow = judged(image, target).scores
    no_input = dict.fromkeys(("psnr", "mae"), math.nan)
    results = results_of(tmp_path, {"border": border, "narrow": narrow, "unknown": no_input, "none": {}})
    lines = remarks(results)
    assert "PSNR: 1 images of which the border leaves nothing, left empty (border)" in lines
    assert "SSIM: 1 images too small, left empty (narrow)" in lines
    either = "PSNR: 1 images whose output holds NaN, or of which the border leaves nothing, left empty"
    assert f"{either} (unknown)" in lines
    assert not any("(none)" in line for line in lines)  # without a target there is nothing to miss


def test_the_page_says_it_too(tmp_path: Path) -> None:
    noisy, clear = pair_of(3, np.uint8)
    results = results_of(tmp_path, {"a": judged(noisy, clear, Broken()).scores})
    facts = FACTS | {"x8": False, "data": "d", "model": "m", "scale": 1, "device": "CPU", "peak_mib": 1}
    found = facts_in_words(facts | {"notes": [], "seed": 0}, results)
    assert ("note", "PSNR: 1 images whose output holds NaN, left empty (a)") in found


# ------------------------------------------------------------------------------------------- doing nothing


class Enlarging(nn.Module):
    size = SizeRequirements(scale=2)

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_doing_nothing_enlarges_as_pillow_does(channels: int) -> None:
    target = pair_of(channels, np.uint8, height=42, width=58)[1]
    small = np.ascontiguousarray(target[::2, ::2])
    picture = Image.fromarray(small[:, :, 0] if channels == 1 else small)
    large = np.asarray(picture.resize((58, 42), Image.Resampling.BICUBIC)).reshape(42, 58, channels)
    for protocol in (Protocol(), Protocol("y", 4)):
        wanted = referee(unit(large), unit(target), protocol)
        found = judged(small, target, Enlarging(), protocol=protocol).scores
        for name, value in wanted.items():
            assert found[f"{name}_input"] == pytest.approx(value, abs=1e-6, rel=0)
        twice = small.repeat(2, 0).repeat(2, 1)
        assert found["psnr"] == pytest.approx(
            referee(unit(twice), unit(target), protocol)["psnr"], abs=1e-6, rel=0
        )


class Repeating(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(1, 3, 1, 1)


@pytest.mark.parametrize("channel", ["rgb", "y"])
def test_gray_is_repeated_for_a_colour_target(channel: str) -> None:
    gray, target = pair_of(1, np.uint8)[0], pair_of(3, np.uint8, seed=1)[1]
    protocol = Protocol(channel)
    wanted = referee(unit(gray.repeat(3, 2)), unit(target), protocol)
    found = judged(gray, target, Repeating(), protocol=protocol)
    assert found.output.shape == target.shape
    for name, value in wanted.items():
        assert found.scores[f"{name}_input"] == pytest.approx(value, abs=1e-6, rel=0)
        assert found.scores[name] == pytest.approx(value, abs=1e-6, rel=0)


def test_floats_beyond_the_range_count_in_full() -> None:
    target = pair_of(1, np.uint8)[1]
    given = (unit(target) + np.random.default_rng(0).normal(0, 0.4, target.shape)).astype(np.float32)
    assert given.min() < -0.2 and given.max() > 1.2
    exact = referee(given.astype(np.float64), unit(target), Protocol())
    clamped = referee(given.clip(0, 1).astype(np.float64), unit(target), Protocol())
    found = input_baseline(given, target, Protocol(), with_ssim=True)
    assert found == {name: pytest.approx(value, abs=1e-6, rel=0) for name, value in exact.items()}
    assert clamped["psnr"] > exact["psnr"] + 0.5
    (image,) = Evaluator(nn.Identity(), CPU, False)([Whole("a", given, target, np.uint8)])
    assert image.scores["psnr_input"] == pytest.approx(exact["psnr"], abs=1e-6, rel=0)
    saved = stored(given.clip(0, 1), np.uint8)
    assert image.scores["psnr"] == pytest.approx(
        referee(unit(saved), unit(target), Protocol())["psnr"], abs=1e-3
    )
    assert image.output.dtype == np.uint8


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_save_rows_and_tensor_of_are_inverse(kind: Any) -> None:
    image = pair_of(3, kind)[0]
    saved = np.empty_like(image)
    save_rows(tensor_of(image), saved)
    assert np.array_equal(saved, image)
    wild = torch.tensor([-1.0, 0.5, 2.0, math.nan, math.inf, -math.inf]).reshape(1, 1, 6)
    top = 1.0 if kind == np.float32 else np.iinfo(kind).max
    filled = np.empty((1, 6, 1), kind)
    save_rows(wild, filled)
    found = filled[0, :, 0]
    assert found.dtype == kind and found[[0, 2, 3, 4, 5]].tolist() == [0, top, 0, top, 0]


# ------------------------------------------------------------------------------------------------------ x8


def convolution(seed: int = 0, size: int = 3, channels: int = 3) -> nn.Conv2d:
    torch.manual_seed(seed)
    return nn.Conv2d(channels, channels, size, padding=size // 2)


def by_hand(net: Callable[[Tensor], Tensor], image: Array) -> Array:
    """The mean over the eight turns and flips of `(C, H, W)`, turned by NumPy."""
    outputs = []
    for turns in range(4):
        for flip in (False, True):
            given = np.rot90(image[:, :, ::-1] if flip else image, turns, (1, 2))
            output = net(torch.from_numpy(given.copy())[None])[0].detach().numpy()
            back = np.rot90(output, -turns, (1, 2))
            outputs.append(back[:, :, ::-1] if flip else back)
    return np.mean(outputs, axis=0)


@pytest.mark.parametrize("size", [(16, 16), (13, 22), (31, 7)])
def test_the_ensemble_is_the_mean_of_eight_by_hand(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    defaults = network_defaults("resunet") | {"width": 8, "levels": 2, "depth": 1}
    net = build_network("resunet", input_nc=3, output_nc=3, **defaults)
    nn.init.normal_(net.head[0].weight)  # type: ignore[index, union-attr]
    for each in (convolution(), net):
        image = np.random.default_rng(1).random((3, *size), dtype=np.float32)
        with torch.no_grad():
            found = dihedral_mean(each, torch.from_numpy(image)[None])
            plain = each(torch.from_numpy(image)[None])
            assert found.shape == (2, 3, *size)
            assert np.abs(found[0].numpy() - by_hand(each, image)).max() < 1e-5
        assert torch.equal(found[1:], plain)
        assert (found[0] - found[1]).abs().max() > 1e-2


def test_the_eight_turns_are_all_different_and_undone() -> None:
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    all_turned = [turned(x, turns, flip) for turns in range(4) for flip in (False, True)]
    assert len({(tuple(t.shape), *t.flatten().tolist()) for t in all_turned}) == 8
    for turns in range(4):
        for flip in (False, True):
            assert torch.equal(turned_back(turned(x, turns, flip), turns, flip), x)


def test_the_ensemble_is_measured_beside_the_single_pass() -> None:
    image, target = pair_of(3, np.uint8)
    net = convolution()
    with torch.no_grad():
        net.weight.mul_(0.3)
        net.weight[range(3), range(3), 1, 1] += 0.8
    single, ensemble = judged(image, target, net), judged(image, target, net, x8=True)
    assert ensemble.scores["psnr_single"] == single.scores["psnr"]
    assert ensemble.scores.keys() == single.scores.keys() | {"psnr_single"}
    normal = (unit(image).transpose(2, 0, 1).astype(np.float32) - 0.5) / 0.5
    mean = by_hand(net, normal).transpose(1, 2, 0) * 0.5 + 0.5
    saved = stored(np.clip(mean, 0, 1), np.uint8)
    assert (saved != ensemble.output).mean() < 1e-3  # ties of rounding
    assert ensemble.scores["psnr"] == pytest.approx(
        referee(unit(ensemble.output), unit(target), Protocol())["psnr"], abs=1e-6, rel=0
    )
    assert abs(ensemble.scores["psnr"] - ensemble.scores["psnr_single"]) > 0.01


def test_a_network_that_turns_with_its_input_gains_nothing(tmp_path: Path) -> None:
    image, target = pair_of(3, np.uint8)
    exact = Protocol(quantize=False)
    scores = judged(image, target, convolution(size=1), x8=True, protocol=exact).scores
    assert scores["psnr"] == pytest.approx(scores["psnr_single"], abs=1e-5, rel=0)
    lines = remarks(results_of(tmp_path, {"a": scores}))
    assert f"--x8 gains +0.000 dB over {scores['psnr_single']:.2f} dB" in [
        line.replace("-0.000", "+0.000") for line in lines
    ]


# --------------------------------------------------------------------------------------------------- flags


@pytest.mark.parametrize("x8", [False, True])
@pytest.mark.parametrize("tile", [None, 24])
def test_memory_layout_and_precision_change_little(x8: bool, tile: int | None) -> None:
    image, target = pair_of(3, np.uint8)
    options: dict[str, Any] = {"x8": x8, "tiling": Tiling(tile, 16)}
    plain = judged(image, target, convolution(), **options).scores["psnr"]
    last = convolution().to(memory_format=torch.channels_last)
    assert judged(image, target, last, **options).scores["psnr"] == pytest.approx(plain, abs=1e-3)
    half = judged(image, target, convolution(), amp=True, **options)
    assert half.scores["psnr"] == pytest.approx(plain, abs=0.2) and half.output.dtype == np.uint8
    assert half.scores["psnr"] != plain


def test_what_many_images_cost_beyond_their_metrics_is_linear(tmp_path: Path) -> None:
    """The mean is shown after each of 20,000 images: a second; hours, if it went through all of them."""
    results = Results(tmp_path, "set")
    began = time.process_time()
    for number in range(20_000):
        value = math.inf if number % 10 == 0 else float(number % 7)
        results.add(f"{number}.png", {"psnr": value, "psnr_input": 1.0, "mae": 0.1}, 0.01)
        results.mean("psnr")
    results.write(FACTS)
    assert time.process_time() - began < 5
    finite = [float(number % 7) for number in range(20_000) if number % 10]
    assert results.mean("psnr") == pytest.approx(sum(finite) / len(finite))
    assert math.isnan(results.mean("ssim"))
    assert len(read_csv(results.csv)) == 20_000


def test_free_memory_is_a_number_of_bytes() -> None:
    assert 2**20 < evaluate.free_memory(CPU) < 2**50
