"""PSNR against scikit-image, image by image, and the mean of a network over a set."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor, nn

from data.datasets import Whole
from utils.eval.evaluator import Evaluator, Prediction, eval_mode, input_baseline, mean_psnr
from utils.eval.metrics import Protocol, psnr, quantize
from utils.system.distributed import Ranks

CPU = torch.device("cpu")
ALONE = Ranks(CPU, 0, 1, "CPU")
Array = np.ndarray


def bytes_of(seed: int, channels: int, height: int = 13, width: int = 17) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def near(image: Array, seed: int, spread: int) -> Array:
    """`image` with every value moved by at most `spread`."""
    moved = image + np.random.default_rng(seed).integers(-spread, spread + 1, image.shape)
    return np.clip(moved, 0, 255).astype(np.uint8)


def unit(image: Array) -> Tensor:
    """`(H, W, C)` bytes to `(1, C, H, W)` in [0, 1]."""
    return torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float() / 255


def referee(image: Array, target: Array) -> float:
    return float(peak_signal_noise_ratio(target, image, data_range=255))


# -------------------------------------------------------------------------------------------------- one image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spread", [1, 10, 255])
def test_psnr_is_that_of_scikit_image(channels: int, spread: int) -> None:
    targets = [bytes_of(seed, channels) for seed in range(5)]
    images = [near(target, seed, spread) for seed, target in enumerate(targets)]
    values = psnr(torch.cat([unit(i) for i in images]), torch.cat([unit(t) for t in targets]))
    assert values.shape == (5,) and values.dtype == torch.float64
    wanted = [referee(image, target) for image, target in zip(images, targets, strict=True)]
    assert values.tolist() == pytest.approx(wanted, abs=1e-6, rel=0)


def test_a_single_gray_level_in_a_large_image_counts() -> None:
    """float32 sums would lose it."""
    target = np.full((1024, 1024, 3), 255, np.uint8)
    image = target.copy()
    image[5, 6, 0] = 254
    assert psnr(unit(image), unit(target)).item() == pytest.approx(referee(image, target), abs=1e-4)


def test_psnr_of_equal_images_is_infinite() -> None:
    image = unit(bytes_of(0, 3))
    assert psnr(image, image.clone()).tolist() == [math.inf]
    assert psnr(torch.cat([image, image]), torch.cat([image, 1 - image])).isinf().tolist() == [True, False]


def test_the_mean_over_images_is_no_psnr_of_a_mean() -> None:
    target = torch.zeros(2, 3, 8, 8)
    image = target + torch.tensor([0.1, 0.01])[:, None, None, None]
    assert psnr(image, target).tolist() == pytest.approx([20, 40], abs=1e-4)
    assert psnr(image, target).mean().item() == pytest.approx(30, abs=1e-4)
    of_mean_mse = psnr(image.reshape(1, 6, 8, 8), target.reshape(1, 6, 8, 8)).item()
    assert of_mean_mse == pytest.approx(-10 * math.log10((0.01 + 0.0001) / 2), abs=1e-4)
    assert of_mean_mse < 23.1


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (1, 3, 4, 5), (2, 3, 4, 4), (3, 4, 4)])
def test_psnr_never_broadcasts(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        psnr(torch.zeros(shape), torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("levels", [1, 255, 65535])
def test_quantize_is_what_saving_to_integers_does(levels: int) -> None:
    image = torch.linspace(-0.2, 1.2, 20_001, dtype=torch.float64)
    saved = np.rint(np.clip(image.numpy(), 0, 1) * levels)
    assert np.allclose(quantize(image, levels).numpy(), saved / levels, rtol=0, atol=1e-12)
    assert torch.equal(quantize(quantize(image, levels), levels), quantize(image, levels))
    assert quantize(image, levels).min() == 0 and quantize(image, levels).max() == 1


def test_quantize_keeps_every_byte() -> None:
    every = torch.arange(256, dtype=torch.float32) / 255
    assert torch.equal(quantize(every), every)
    assert torch.equal(quantize((every - 0.5) / 0.5 * 0.5 + 0.5), every)  # through Normalize and back


def test_an_output_is_clamped_and_rounded_before_it_is_measured() -> None:
    target = unit(bytes_of(0, 3))
    wild = target + torch.where(target > 0.5, 0.6, -0.6)
    saved = (wild.clamp(0, 1) * 255).round().byte()[0].permute(1, 2, 0).numpy()
    assert psnr(quantize(wild), target).item() == pytest.approx(referee(saved, bytes_of(0, 3)), abs=1e-5)


# -------------------------------------------------------------------------------------------------- a network


class Affine(nn.Module):
    """`factor` times the input; with a batch norm and a dropout, which must not act in eval mode."""

    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.factor, self.drop, self.norm = factor, nn.Dropout(0.5), nn.BatchNorm2d(3, affine=False, eps=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.drop(x)) * self.factor if x.shape[1] == 3 else self.drop(x) * self.factor


Pairs = list[tuple[Array, Array | None]]


def set_of(pairs: Pairs) -> list[Whole]:
    return [Whole(f"{i}.png", given, target, given.dtype) for i, (given, target) in enumerate(pairs)]


def noisy_pairs(count: int = 4, channels: int = 3) -> Pairs:
    """Pairs of several sizes and of very different quality."""
    targets = [bytes_of(seed, channels, 11 + seed, 14) for seed in range(count)]
    return [(near(target, 50 + seed, 4 ** (seed + 1)), target) for seed, target in enumerate(targets)]


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.5), (0.0, 1.0), (0.4, 0.25)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_that_does_nothing_gains_nothing(channels: int, mean: float, std: float) -> None:
    pairs = noisy_pairs(channels=channels)
    judged = list(Evaluator(Affine(), CPU, False, mean, std)(set_of(pairs)))
    wanted = [referee(given, target) for given, target in pairs if target is not None]
    assert [image.name for image in judged] == [f"{i}.png" for i in range(4)]
    assert [image.scores["psnr"] for image in judged] == pytest.approx(wanted, abs=1e-6)
    assert [image.scores["psnr_input"] for image in judged] == pytest.approx(wanted, abs=1e-6)
    for image, (given, target) in zip(judged, pairs, strict=True):
        assert target is not None and image.target is not None and image.seconds > 0
        assert np.array_equal(image.output, given) and image.output.dtype == np.uint8
        assert np.array_equal(image.target, target) and np.array_equal(image.input, given)
    reached, nothing, _ = mean_psnr(judged, ALONE, set())
    assert reached == pytest.approx(np.mean(wanted), abs=1e-6)
    assert nothing == pytest.approx(np.mean(wanted), abs=1e-6)


def test_outputs_are_measured_as_they_would_be_saved() -> None:
    pairs = noisy_pairs()
    for image, (given, target) in zip(Evaluator(Affine(1.7), CPU, False)(set_of(pairs)), pairs, strict=True):
        assert target is not None
        exact = (given.astype(np.float64) / 255 - 0.5) * 1.7 + 0.5
        saved = np.rint(np.clip(exact, 0, 1) * 255).astype(np.uint8)
        assert np.abs(image.output.astype(int) - saved).max() <= 1  # a tie may round either way
        assert image.scores["psnr"] == pytest.approx(referee(image.output, target), abs=1e-6)


def test_noise_that_leaves_the_range_counts_in_full_for_doing_nothing() -> None:
    """The input is measured as it is given: neither clamped nor rounded."""
    target = np.zeros((32, 32, 3), np.uint8)
    given = np.full((32, 32, 3), -0.25, np.float32)
    wanted = -20 * math.log10(0.25)
    assert input_baseline(given, target, Protocol())["psnr"] == pytest.approx(wanted)
    (image,) = Evaluator(nn.Identity(), CPU, False)([Whole("a", given, target, np.uint8)])
    assert image.scores["psnr_input"] == pytest.approx(wanted, abs=1e-5)
    assert image.scores["psnr"] == math.inf


def test_doing_nothing_repeats_gray_for_a_colour_target() -> None:
    gray, target = bytes_of(0, 1), bytes_of(1, 3)
    repeated = referee(np.repeat(gray, 3, axis=2), target)
    assert input_baseline(gray, target, Protocol())["psnr"] == pytest.approx(repeated, abs=1e-6)
    assert input_baseline(target, gray, Protocol()) == {}  # there is no such thing for colour to gray


def test_inputs_without_targets_are_not_measured() -> None:
    (image,) = Evaluator(Affine(), CPU, False)(set_of([(bytes_of(0, 3), None)]))
    assert image.target is None and image.scores == {}
    assert np.array_equal(image.output, bytes_of(0, 3))


def result(reached: float, nothing: float | None) -> Prediction:
    blank = np.zeros((2, 2, 3), np.uint8)
    scores = {"psnr": reached} | ({} if nothing is None else {"psnr_input": nothing})
    return Prediction("a", blank, blank, blank, scores, 0.1, None)


def test_every_image_counts_once_and_those_asked_for_are_kept() -> None:
    images = [result(10.0 * i, i) for i in range(5)]
    reached, nothing, shown = mean_psnr(iter(images), ALONE, {0, 3})
    assert (reached, nothing) == (20, 2)
    assert [image.scores["psnr"] for image in shown] == [0, 30]


def test_a_mean_without_anything_to_compare_with_is_no_number() -> None:
    reached, nothing, _ = mean_psnr([result(10, None), result(20, None)], ALONE, set())
    assert reached == 15 and math.isnan(nothing)


def test_identical_images_leave_the_mean_and_a_broken_one_does_not() -> None:
    assert mean_psnr([result(math.inf, 1)], ALONE, set())[0] == math.inf
    assert mean_psnr([result(math.inf, 1), result(30, 2)], ALONE, set())[:2] == (30, 1.5)
    assert math.isnan(mean_psnr([result(math.nan, 1), result(30, 1)], ALONE, set())[0])


# -------------------------------------------------------------------------------------------------- eval mode


@pytest.mark.parametrize("training", [True, False])
def test_judging_leaves_the_network_as_it_was(training: bool) -> None:
    net = Affine().train(training)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    list(Evaluator(net, CPU, False)(set_of(noisy_pairs())))
    assert [module.training for module in net.modules()] == [training] * 3
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_the_mode_comes_back_when_judging_is_broken_off() -> None:
    net = Affine().train()
    images = Evaluator(net, CPU, False)(set_of(noisy_pairs()))
    next(images)
    assert not net.training
    images.close()  # type: ignore[attr-defined]
    assert net.training and not torch.is_inference_mode_enabled()
    with pytest.raises(RuntimeError, match="broken"), eval_mode(net):
        raise RuntimeError("broken")
    assert net.training


def test_a_layer_that_was_in_eval_mode_stays_there() -> None:
    net = Affine().train()
    net.norm.eval()
    with eval_mode(net):
        assert not net.drop.training
    assert net.training and net.drop.training and not net.norm.training
