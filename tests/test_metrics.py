"""PSNR of training logs against scikit-image, image by image, and the mean of a network over a set."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from data.datasets import Whole
from tests import builders
from utils.eval.evaluator import Evaluator, Prediction, eval_mode, mean_psnr
from utils.eval.metrics import psnr, quantize
from utils.system.distributed import Ranks

CPU = torch.device("cpu")
ALONE = Ranks(CPU, 0, 1, "CPU")
Array = np.ndarray


def near(image: Array, seed: int, spread: int) -> Array:
    """`image` with every value moved by at most `spread`."""
    moved = image + np.random.default_rng(seed).integers(-spread, spread + 1, image.shape)
    return np.clip(moved, 0, 255).astype(np.uint8)


def batch(*images: Array) -> Tensor:
    """`(H, W, C)` bytes to float32 `(N, C, H, W)` in [0, 1]."""
    return torch.cat([builders.planes(builders.unit(image)) for image in images]).float()


# -------------------------------------------------------------------------------------------------- one image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spread", [1, 10, 255])
def test_psnr_is_that_of_scikit_image(channels: int, spread: int) -> None:
    targets = [builders.image(13, 17, channels, seed=seed) for seed in range(5)]
    images = [near(target, seed, spread) for seed, target in enumerate(targets)]
    values = psnr(batch(*images), batch(*targets))
    assert values.shape == (5,) and values.dtype == torch.float32
    wanted = [builders.psnr(image, target) for image, target in zip(images, targets, strict=True)]
    assert values.tolist() == pytest.approx(wanted, abs=1e-4, rel=0)


def test_psnr_needs_no_float64() -> None:
    """As not every device has it: neither in the result nor on the way."""
    image = torch.rand(2, 3, 4, 4, dtype=torch.bfloat16)
    graph = make_fx(psnr)(image, image.float())
    made = [node.meta["tensor_meta"].dtype for node in graph.graph.nodes if "tensor_meta" in node.meta]
    assert made and torch.float64 not in made


def test_psnr_of_equal_images_is_infinite_and_a_single_gray_level_counts() -> None:
    image = batch(builders.image(13, 17))
    assert psnr(torch.cat([image, image]), torch.cat([image, 1 - image])).isinf().tolist() == [True, False]
    target = np.full((1024, 1024, 3), 255, np.uint8)
    near_by = target.copy()
    near_by[5, 6, 0] = 254
    assert psnr(batch(near_by), batch(target)).item() == pytest.approx(
        builders.psnr(near_by, target), abs=1e-4
    )


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


# -------------------------------------------------------------------------------------------------- a network


class Identity(nn.Module):
    """With a batch norm and a dropout, which must not act in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm2d(3, affine=False, eps=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.drop(x)) if x.shape[1] == 3 else self.drop(x)


def noisy_set(count: int = 4, channels: int = 3) -> list[Whole]:
    """Pairs of several sizes and of very different quality."""
    targets = [builders.image(11 + seed, 14, channels, seed=seed) for seed in range(count)]
    inputs = [near(target, 50 + seed, 4 ** (seed + 1)) for seed, target in enumerate(targets)]
    return [Whole(f"{i}.png", *pair, np.uint8) for i, pair in enumerate(zip(inputs, targets, strict=True))]


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.5), (0.0, 1.0), (0.4, 0.25)])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_identity_network_gains_nothing_and_needs_no_target(
    channels: int, mean: float, std: float
) -> None:
    images = noisy_set(channels=channels)
    found = list(Evaluator(Identity(), CPU, False, mean, std)(images))
    wanted = [builders.psnr(image.input, image.target) for image in images if image.target is not None]
    assert [image.name for image in found] == [f"{i}.png" for i in range(4)]
    for key in ("psnr", "psnr_input"):
        assert [image.scores[key] for image in found] == pytest.approx(wanted, abs=1e-6)
    for image, given in zip(found, images, strict=True):
        assert image.target is given.target and image.input is given.input and image.seconds > 0
        assert np.array_equal(image.output, given.input) and image.output.dtype == np.uint8
    means = mean_psnr(found, ALONE, set())
    assert [means.psnr, means.psnr_input] == pytest.approx([np.mean(wanted)] * 2, abs=1e-6)
    (alone,) = Evaluator(Identity(), CPU, False, mean, std)([images[0]._replace(target=None)])
    assert alone.target is None and alone.scores == {} and np.array_equal(alone.output, images[0].input)


def result(value: float, baseline: float | None) -> Prediction:
    blank = np.zeros((2, 2, 3), np.uint8)
    scores = {"psnr": value} | ({} if baseline is None else {"psnr_input": baseline})
    return Prediction("a", blank, blank, blank, scores, 0.1, None)


def test_every_image_counts_once_and_those_asked_for_are_kept() -> None:
    found = mean_psnr(iter([result(10.0 * i, i) for i in range(5)]), ALONE, {0, 3})
    assert found[:2] == (20, 2)
    assert [image.scores["psnr"] for image in found.shown] == [0, 30]


def test_identical_images_leave_the_mean_and_a_broken_one_does_not() -> None:
    assert mean_psnr([result(math.inf, 1)], ALONE, set()).psnr == math.inf
    assert mean_psnr([result(math.inf, 1), result(30, 2)], ALONE, set())[:2] == (30, 1.5)
    assert math.isnan(mean_psnr([result(math.nan, 1), result(30, 1)], ALONE, set()).psnr)
    without = mean_psnr([result(10, None), result(20, None)], ALONE, set())
    assert without.psnr == 15 and math.isnan(without.psnr_input)


# -------------------------------------------------------------------------------------------------- eval mode


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_leaves_the_network_as_it_was(training: bool) -> None:
    net = Identity().train(training)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    list(Evaluator(net, CPU, False)(noisy_set()))
    assert [module.training for module in net.modules()] == [training] * 3
    builders.assert_same_state(net.state_dict(), before)


def test_the_mode_comes_back_when_evaluating_is_broken_off() -> None:
    net = Identity().train()
    images = Evaluator(net, CPU, False)(noisy_set())
    next(images)
    assert not net.training
    images.close()  # type: ignore[attr-defined]
    assert net.training and not torch.is_inference_mode_enabled()
    net.norm.eval()  # a layer that was in eval mode stays there
    with pytest.raises(RuntimeError, match="broken"), eval_mode(net):
        assert not net.drop.training
        raise RuntimeError("broken")
    assert net.training and net.drop.training and not net.norm.training
