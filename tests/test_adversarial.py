"""Loss terms, discriminators, and training with two turns."""

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models import LOSSES
from models.adversary import ImagePool
from models.discriminator import GanLoss, PatchDiscriminator, build_discriminator
from models.losses import ColorLoss, SSIMLoss, build_terms
from models.objectives import Paired, Task
from models.terms import GanSettings, parse_gan, parse_loss
from tests.builders import (
    FAST,
    TINY,
    TINY_NET,
    assert_same_state,
    error_of,
    figures,
    finite,
    image,
    largest_difference,
    network,
    planes,
    same_state,
    words,
    write_set,
)
from tests.cli import InProcess, Workplace, log, options, records, state, step_of, weights
from tests.cuts import EVERY_STEP, content, cut_everywhere
from tests.seams import replace_loss
from utils.options import parse_train
from utils.run.checkpoint import Best
from utils.system import tensorfile
from utils.system.distributed import Ranks
from utils.vis.console import describe_step
from utils.vis.sinks import training_points
from utils.vis.training_log import LONG_STEPS, DiscriminatorWatch
from utils.vis.visdom import TRAINING

ALONE = Ranks(torch.device("cpu"), 0, 1, "")
GAN = ("--loss", "l1:10+gan:1", "--gan", "ndf=8,n_layers=2", "--best", "psnr")
RUN = (*TINY, *FAST, *GAN, *words("--gpu_ids -1 --amp off --n_epochs 9"))  # 3 steps an epoch
SGD = words("--optimizer sgd --momentum 0 --schedule step --step_size 99")
MODES = ("lsgan", "vanilla", "hinge")


# ------------------------------------------------------------------------------------------------ the grammar


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("l1", {"l1": 1}),
        ("l1:100+gan:1", {"l1": 100, "gan": 1}),
        ("l1+lite0:0.5+gan:.1", {"l1": 1, "lite0": 0.5, "gan": 0.1}),
        (" gan:1 + cycle:10 + identity:5", {"gan": 1, "cycle": 10, "identity": 5}),
    ],
)
def test_terms_and_their_weights(text: str, terms: dict[str, float]) -> None:
    assert parse_loss(text) == terms and list(parse_loss(text)) == list(terms)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--loss l2", "unknown term 'l2'; the terms are l1, mse,"),
        ("--loss charbonier:3", "did you mean charbonnier?"),
        ("--loss l1+", "unknown term ''"),
        ("--loss l1:", "has no weight after the colon; use l1:1"),
        ("--loss l1:nan", "no positive, finite weight"),
        ("--loss l1:0", "no positive, finite weight"),
        ("--loss l1:-1", "no positive, finite weight"),
        ("--loss l1:inf", "no positive, finite weight"),
        ("--loss l1:ten", "no positive, finite weight; use such as l1:1"),
        ("--loss l1+l1", "stands twice"),
        ("--loss gan", "use such as --loss l1:100+gan:1"),
        ("--loss l1+cycle", "add --objective cycle"),
        ("--objective cycle --loss l1+gan+cycle", "use --loss gan:1+cycle:10+identity:5"),
        ("--objective cycle --loss gan", "needs the terms gan and cycle"),
        ("--gan mode=hinge", "use such as --loss l1+gan:1"),
        ("--loss l1+gan --gan mod=hinge", "did you mean mode=...?"),
        ("--loss l1+gan --gan mode=wgan", "use one of lsgan, vanilla, hinge"),
        ("--loss l1+gan --gan norm=batch", "use one of instance, spectral"),
        ("--loss l1+gan --gan n_layers=0", "whole number of 1 to 6"),
        ("--loss l1+gan --gan lr=nan", "a positive number"),
        ("--loss l1+gan --gan lr=0", "a positive number"),
        ("--gan_mode hinge", "did you mean --gan mode=lsgan?"),
        ("--lambda_cycle 5", "did you mean --loss gan:1+cycle:10+identity:5?"),
        ("--preset sharp", "give --weights checkpoints/RUN/best_net.pth"),
    ],
)
def test_nonsense_is_refused_with_the_fix(cli: InProcess, flags: str, said: str) -> None:
    assert said in str(error_of(parse_train, ["--dataroot", "demo", *flags.split()]))


def test_settings_add_to_those_of_a_preset() -> None:
    opt = parse_train(["--dataroot", "demo", *words("--preset pix2pix --gan ndf=32,lr=1e-4")])
    assert parse_gan(opt.gan) == GanSettings(mode="vanilla", ndf=32, lr=1e-4)
    assert (opt.loss, opt.model, opt.n_epochs, opt.batchSize) == ("l1:100+gan:1", "unet", 200, 1)


def test_another_loss_than_that_of_a_preset_drops_its_discriminator() -> None:
    flags = ["--dataroot", "demo", *words("--preset pix2pix --loss l1")]
    assert parse_train(flags).gan is None
    assert "no effect on --loss l1" in error_of(parse_train, [*flags, "--gan", "ndf=32"]).what


def test_papers_recipes() -> None:
    opt = parse_train(["--dataroot", "demo:unpaired", "--preset", "cyclegan"])
    assert (opt.objective, opt.model, opt.depth, opt.norm) == ("cycle", "resnet", 9, "instance")
    assert parse_loss(opt.loss) == {"gan": 1, "cycle": 10, "identity": 5}
    assert parse_gan(opt.gan) == GanSettings(mode="lsgan", pool=50)
    assert (opt.lr, opt.beta1, opt.beta2, opt.n_epochs) == (0.0002, 0.5, 0.999, 200)


def test_the_recipe_for_restoration_without_pairs() -> None:
    opt = parse_train(["--dataroot", "demo:unpaired", "--preset", "unpaired", "--gan", "pool=0"])
    assert (opt.objective, opt.model, opt.norm, opt.name) == ("cycle", "resunet", "instance", "demo_resunet")
    assert parse_loss(opt.loss) == {"gan": 1, "cycle": 3, "identity": 1}
    assert parse_gan(opt.gan) == GanSettings("vanilla", ndf=32, norm="spectral", lr=2e-4, pool=0)


# -------------------------------------------------------------------------------------------------- the terms


@pytest.mark.parametrize("side", [32, 40])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_color_compares_means_of_boxes(side: int, reduction: str) -> None:
    output, target = (torch.rand(2, 3, side, side, dtype=torch.float64) for _ in range(2))
    d = (output - target).numpy()
    edges = range(0, side, 16)
    means = [d[:, :, y : y + 16, x : x + 16].mean((2, 3)) for y in edges for x in edges]
    expected = getattr(np.abs(np.stack(means)), reduction)()
    assert ColorLoss(reduction)(output, target).item() == pytest.approx(expected, rel=1e-12)


def test_color_sees_a_cast_and_no_fine_structure() -> None:
    plain = torch.zeros(1, 3, 32, 32)
    checkers = plain + torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(16, 16)
    assert ColorLoss()(checkers, plain).item() == 0
    assert ColorLoss()(plain + 0.25, plain).item() == 0.25


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ssim_is_one_minus_that_of_the_figures(reduction: str) -> None:
    targets = [image(40, 48, seed=i, smooth=True) for i in range(2)]
    outputs = [image(40, 48, seed=9 + i, smooth=True) for i in range(2)]
    x, y = (torch.cat([planes(each) for each in side]) / 255 for side in (outputs, targets))
    each = [1 - figures(a, b)["ssim"] for a, b in zip(outputs, targets, strict=True)]
    expected = np.mean(each) if reduction == "mean" else np.sum(each)
    assert SSIMLoss(reduction)(x.double(), y.double()).item() == pytest.approx(expected, rel=1e-5)
    terms = build_terms({"ssim": 2.0}, reduction, 0.5, 0.5, torch.device("cpu"))  # images in [-1, 1]
    weight, loss = terms["ssim"]
    assert weight == 2 and loss(2 * x - 1, 2 * y - 1).item() == pytest.approx(expected, rel=1e-4)


def test_ssim_refuses_images_smaller_than_its_window() -> None:
    assert "raise --crop_size" in str(
        error_of(SSIMLoss(), torch.zeros(1, 3, 10, 16), torch.zeros(1, 3, 10, 16))
    )


@pytest.mark.parametrize("loss", ["color", "ssim"])
def test_equal_images_have_no_loss_and_a_finite_gradient(loss: str) -> None:
    output = torch.rand(2, 3, 32, 32).requires_grad_()
    value = LOSSES[loss]()(output, output.detach().clone())
    value.backward()
    assert abs(value.item()) < 1e-6 and output.grad is not None and output.grad.isfinite().all()


# ------------------------------------------------------------------------------------------- discriminators


@pytest.mark.parametrize(("layers", "side", "seen"), [(1, 31, 16), (2, 30, 34), (3, 30, 70), (4, 30, 142)])
def test_patches_and_their_receptive_field(layers: int, side: int, seen: int) -> None:
    """256 x 256 pixels; 70 x 70 is that of pix2pix."""
    net = PatchDiscriminator(6, 4, layers, "spectral").eval()  # instance norm would see the whole image
    x = torch.rand(1, 6, 256, 256).requires_grad_()
    (logits,) = net(x)
    expected = 256 // 2**layers - 2
    assert logits.shape == (1, 1, expected, expected)
    logits[0, 0, expected // 2, expected // 2].backward()
    assert x.grad is not None
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert rows.max() - rows.min() + 1 == seen


def test_widths_double_up_to_eight_times() -> None:
    net = PatchDiscriminator(3, 16, 5, "instance")
    convs = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [16, 32, 64, 128, 128, 128, 1]
    assert [conv.stride[0] for conv in convs] == [2, 2, 2, 2, 2, 1, 1]


@pytest.mark.parametrize("norm", ["instance", "spectral"])
@pytest.mark.parametrize("kind", ["patch", "multiscale"])
def test_an_image_is_judged_alone(kind: str, norm: str) -> None:
    gan = GanSettings(netD=kind, ndf=4, n_layers=2, norm=norm)
    net, x = build_discriminator(3, gan, seed=1).eval(), torch.rand(2, 3, 64, 64)
    together, alone = net(x), net(x[:1])
    assert [each.shape[2] for each in together] == ([14] if kind == "patch" else [14, 6])
    for both, one in zip(together, alone, strict=True):
        assert torch.allclose(both[:1], one, atol=1e-6)
    assert not [m for m in net.modules() if isinstance(m, (nn.Dropout, nn.BatchNorm2d))]
    assert_same_state(
        build_discriminator(3, gan, seed=1).state_dict(), build_discriminator(3, gan, 1).state_dict()
    )
    assert not same_state(
        build_discriminator(3, gan, 2).state_dict(), build_discriminator(3, gan, 1).state_dict()
    )


def test_spectral_norm_bounds_every_convolution() -> None:
    net = build_discriminator(3, GanSettings(ndf=8, n_layers=2, norm="spectral"), seed=0)
    for _ in range(30):
        net(torch.rand(1, 3, 32, 32))
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item()
            assert largest == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("kind", ["patch", "multiscale"])
def test_images_too_small_for_it_are_refused(cli: InProcess, kind: str) -> None:
    flags = (*RUN, "--gan", f"n_layers=4,ndf=4,netD={kind}")
    refused = cli.train(*flags, code=2)
    assert refused.refused("--crop_size", "n_layers=N") and not refused.run.exists()
    write_set(Path("set"), count=4, size=(40, 40))
    whole = ("--dataroot", "set", *TINY_NET, *words("--loss l1+gan --best psnr --visdom off --gpu_ids -1"))
    assert cli.train(*whole, *flags[-2:], name="whole", code=2).refused("these have 40")
    gan = GanSettings(netD=kind, ndf=4, n_layers=2)
    least, net = {"patch": 3, "multiscale": 6}[kind] * 4, build_discriminator(3, gan, 0)
    assert gan.least_side == least and "at least" in str(error_of(gan.check_side, least - 1))
    assert all(map(math.isfinite, [each.sum().item() for each in net(torch.rand(1, 3, least, least))]))


# ------------------------------------------------------------------------------------------------ its losses


def closed_form(mode: str, real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    """(loss of the generator, loss of the discriminator) by NumPy."""
    if mode == "lsgan":
        return ((fake - 1) ** 2).mean(), (((real - 1) ** 2).mean() + (fake**2).mean()) / 2
    if mode == "vanilla":
        log = np.log1p
        return log(np.exp(-fake)).mean(), (log(np.exp(-real)).mean() + log(np.exp(fake)).mean()) / 2
    return -fake.mean(), (np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean()) / 2


@pytest.mark.parametrize("mode", MODES)
def test_gan_losses_are_their_closed_forms(mode: str) -> None:
    rng, loss = np.random.default_rng(0), GanLoss(mode)
    real, fake = rng.normal(0, 2, (2, 3, 1, 5, 5))
    one, other = (torch.from_numpy(each) for each in (real, fake))
    expected = [closed_form(mode, real[i], fake[i]) for i in range(3)]  # of each image
    assert loss.generator([other]).tolist() == pytest.approx([g for g, _ in expected], rel=1e-12)
    assert loss.discriminator([one], [other]).tolist() == pytest.approx([d for _, d in expected], rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_scales_of_any_size_count_equally(mode: str) -> None:
    loss, maps = GanLoss(mode), [torch.randn(2, 1, 8, 8), torch.randn(2, 1, 3, 3)]
    each = torch.stack([loss.generator([one]) for one in maps])
    assert torch.allclose(loss.generator(maps), each.mean(0))


@pytest.mark.parametrize(
    ("mode", "real", "fake", "shown"),
    [
        ("lsgan", [0.6, 0.4], [0.4, 0.2], (0.5, 0.3, 0.75)),
        ("vanilla", [math.log(3), -math.log(3)], [-math.log(3), -math.log(3)], (0.5, 0.25, 0.75)),
        ("hinge", [2.0, -1.0], [-1.0, 3.0], (0.5, 1.0, 0.5)),
    ],
)
def test_what_is_watched(mode: str, real: list[float], fake: list[float], shown: tuple[float, ...]) -> None:
    maps = [torch.tensor(each).reshape(1, 1, 1, 2) for each in (real, fake)]
    watched = GanLoss(mode).watched([maps[0]], [maps[1]])
    assert [watched[key].item() for key in ("D_real", "D_fake", "D_right")] == pytest.approx(shown)


# -------------------------------------------------------------------------------------------------- the pool


def numbered(first: int, count: int) -> Tensor:
    return torch.arange(first, first + count).float().reshape(count, 1, 1, 1)


def pool(size: int, seed: int = 0, number: int = 0) -> ImagePool:
    return ImagePool(size, seed, number, ALONE)


def test_a_pool_returns_earlier_images_half_of_the_time() -> None:
    empty, held = pool(0), pool(5)
    assert torch.equal(empty.exchange(numbered(0, 4)), numbered(0, 4)) and not empty.images
    assert torch.equal(held.exchange(numbered(0, 5)), numbered(0, 5))
    shown = held.exchange(numbered(5, 400)).flatten().tolist()
    own = [value == 5 + i for i, value in enumerate(shown)]
    assert 0.4 < np.mean(own) < 0.6
    earlier = [value for value, is_own in zip(shown, own, strict=True) if not is_own]
    assert all(value < 5 + i for i, value in enumerate(shown) if not own[i])
    assert len(set(earlier)) == len(earlier)  # each leaves the pool when it is shown
    assert len(held.images) == 5 and held.seen == 405


def test_a_restored_pool_continues_with_the_same_draws() -> None:
    whole, first = pool(4), pool(4)
    shown = whole.exchange(numbered(0, 60))
    first.exchange(numbered(0, 30))
    second = pool(4)
    second.load_state_dict(first.state_dict(), torch.device("cpu"))
    assert torch.equal(second.exchange(numbered(30, 30)), shown[30:])
    assert not torch.equal(pool(4, number=1).exchange(numbered(0, 60)), shown)
    assert not torch.equal(pool(4, seed=1).exchange(numbered(0, 60)), shown)


def test_a_pool_keeps_no_nan_and_only_images_of_one_size() -> None:
    held = pool(2)
    held.exchange(torch.full((2, 1, 3, 3), math.nan))
    assert all(each.isfinite().all() for each in held.images)
    other = torch.ones(40, 1, 5, 5)
    assert torch.equal(held.exchange(other), other)


# ------------------------------------------------------------------------------------------------- two turns


def paired(loss: dict[str, float], **gan: Any) -> tuple[Paired, dict[str, Any]]:
    net = network("resunet")
    task = Task(
        {"net": net},
        list(net.parameters()),
        loss,
        ALONE,
        "mean",
        lambda: torch.autocast("cpu", enabled=False),
    )
    task = Task(**{**vars(task), "gan": GanSettings(ndf=4, n_layers=2, **gan)})
    batch = {key: torch.rand(2, 3, 32, 32) * 2 - 1 for key in ("input", "target")}
    return Paired(task), batch


@pytest.mark.parametrize("norm", ["instance", "spectral"])
def test_each_turn_trains_its_own_network_with_one_pass_of_the_discriminator(norm: str) -> None:
    objective, batch = paired({"l1": 10.0, "gan": 2.0}, norm=norm)
    assert objective.adversary
    generator, discriminator = objective.turns()
    assert (generator.name, discriminator.name) == ("G", "D")
    net, passes = objective.adversary.net, list[tuple[int, ...]]()
    net.register_forward_hook(lambda module, given, found: passes.append(tuple(given[0].shape)))

    terms = generator.losses(batch)
    assert list(terms) == ["l1", "gan"] and passes == [(2, 6, 32, 32)]  # the input beside the output
    l1 = (batch["output"] - batch["target"]).abs().mean()
    assert terms["l1"].item() == pytest.approx(10 * l1.item())
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert all(each.grad is None for each in net.parameters())
    assert all(each.grad is not None for each in generator.parameters)

    before = [each.grad.clone() for each in generator.parameters if each.grad is not None]
    loss = discriminator.losses(batch)
    assert list(loss) == ["D"] and passes[1:] == [(4, 6, 32, 32)]  # real and fake at once
    loss["D"].backward()
    assert all(each.grad is not None for each in discriminator.parameters)
    assert all(torch.equal(a, b.grad) for a, b in zip(before, generator.parameters, strict=True))
    assert batch["watched"].keys() == {"D_real", "D_fake", "D_right"}


def test_the_gan_term_has_the_gradient_of_its_closed_form() -> None:
    objective, batch = paired({"l1": 1.0, "gan": 0.5}, mode="hinge")
    assert objective.adversary
    terms = objective.losses(batch)
    (logits,) = objective.adversary.net(torch.cat([batch["input"], batch["output"]], 1))
    assert terms["gan"].item() == pytest.approx(-0.5 * logits.mean().item(), rel=1e-5)


def test_a_smaller_input_is_enlarged_for_the_discriminator(cli: InProcess) -> None:
    write_set(Path("set"), "clean", 8, (48, 48), splits=("train",))
    flags = (*TINY_NET, *FAST, *GAN, *words("--degrade sr:2 --max_steps 4 --gpu_ids -1"))
    run = cli.train("--dataroot", "set", *flags).run
    assert step_of(run) == 4 and finite(weights(run))
    (first, *_) = state(run)["objective"]["D"]["net"].values()
    assert first.shape[1] == 6


# -------------------------------------------------------------------------------------------------- training


def test_every_term_is_logged_by_name_and_adds_up(cli: InProcess) -> None:
    flags = ("--loss", "l1:10+gan:1+color+ssim:.5", "--max_steps", "6")
    run = cli.train(*RUN, *flags).run
    terms = ("l1", "gan", "color", "ssim")
    for record in (each for each in log(run) if "loss" in each):
        assert record["loss"] == pytest.approx(sum(record[f"loss_{name}"] for name in terms), rel=1e-4)
        assert record["loss_D"] > 0 and 0 <= record["D_right"] <= 1
        assert {"D_real", "D_fake"} <= record.keys()
    assert len(records(run, "loss_D")) == 6
    line = describe_step(log(run)[0], 1e-4)
    assert " l1 " in line and " gan " in line and " right " in line


def test_terms_and_distances_have_windows_on_the_page() -> None:
    figures = {"loss_l1": 2.0, "loss_D": 0.5, "D_real": 0.7, "D_fake": 0.2, "D_right": 0.9, "val_kid": 0.1}
    points = training_points({"step": 3, "epoch": 1.5, **figures, "val_kid_input": 0.2, "val_lite0": None})
    assert {window for window, *_ in points} <= TRAINING.keys()
    assert ("terms", "l1", 3, 2.0) in points and ("terms", "D", 3, 0.5) in points
    assert [y for window, _, _, y in points if window == "D"] == [0.7, 0.2, 0.9]
    assert [(x, y) for window, _, x, y in points if window == "kid"] == [(1.5, 0.1), (1.5, 0.2)]


def test_a_plain_run_logs_no_terms(cli: InProcess) -> None:
    run = cli.train(*TINY, *FAST, "--max_steps", "3").run
    assert not [key for record in log(run) for key in record if key.startswith(("loss_", "D_"))]
    assert state(run)["objective"] == {} and not (run / "best_psnr_net.pth").exists()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["patch", "multiscale"])
def test_all_kinds_train(cli: InProcess, mode: str, kind: str) -> None:
    gan = f"mode={mode},netD={kind},ndf=8,n_layers=1,norm={'spectral' if mode == 'hinge' else 'instance'}"
    run = cli.train(*RUN, "--gan", gan, "--max_steps", "5").run
    assert finite(weights(run)) and finite(state(run)["objective"]["D"]["net"])
    assert len(records(run, "loss_D")) == 5


def test_the_discriminator_learns_to_tell(cli: InProcess) -> None:
    run = cli.train(
        *RUN, "--gan", "ndf=16,lr=2e-3", "--max_steps", "60", "--n_epochs", "20", "--lr", "1e-5"
    ).run
    right = records(run, "D_right")
    assert np.mean(right[-10:]) > 0.75 > np.mean(right[:3]) + 0.1
    assert np.mean(records(run, "loss_D")[-10:]) < 0.8 * np.mean(records(run, "loss_D")[:3])


def test_the_discriminator_has_its_own_learning_rate(cli: InProcess) -> None:
    flags = (
        *RUN,
        *words("--gan lr=0.001 --lr 0.0001 --schedule step --step_size 1 --gamma 0.5 --max_steps 4"),
    )
    held = state(cli.train(*flags).run)
    rates = [held[f"optimizer_{name}"]["param_groups"][0]["lr"] for name in "GD"]
    assert rates == pytest.approx([0.00005, 0.0005], rel=1e-9)


def test_parts_of_a_batch_add_up_in_both_turns(cli: InProcess) -> None:
    flags = (*RUN, *SGD, *words("--lr 0.01 --max_steps 6"))
    one, two = (cli.train(*flags, "--accum", n, name=f"accum{n}").run for n in "12")
    for part in (lambda run: state(run)["net"], lambda run: state(run)["objective"]["D"]["net"]):
        assert largest_difference(part(one), part(two)) < 1e-6
        assert max(value.abs().max() for value in part(one).values()) > 0.01


def test_both_turns_are_clipped(cli: InProcess) -> None:
    flags = (*RUN, *SGD, *words("--lr 1 --clip 0.001"))
    first, second = (cli.train(*flags, "--max_steps", n, name=f"run{n}").run for n in "12")
    for part in (lambda run: state(run)["net"], lambda run: state(run)["objective"]["D"]["net"]):
        one, two = part(first), part(second)
        moved = math.sqrt(sum((one[key] - two[key]).square().sum().item() for key in one))
        assert 0.0005 < moved < 0.00101


def test_only_the_generator_is_averaged(cli: InProcess) -> None:
    run = cli.train(*RUN, "--ema", "0.9", "--lr", "1e-3", "--max_steps", "6").run
    held = state(run)
    ema = {key.removeprefix("module."): value for key, value in held["ema"].items() if key != "n_averaged"}
    assert same_state(weights(run), ema) and not same_state(ema, held["net"])
    assert held["objective"].keys() == {"D"} and held["ema"].keys() - {"n_averaged"} == {
        f"module.{key}" for key in held["net"]
    }


def test_a_skipped_step_moves_neither_network(cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(call: int, loss: Tensor, output: Tensor) -> Tensor:
        return loss * math.nan if call in (4, 5, 6) else loss  # all steps of the second epoch

    replace_loss(change, monkeypatch)
    flags = words("--save_freq 1 --nan_policy skip --max_steps 9")
    run = cli.train(*RUN, *flags).run
    one, two, three = (state(run, f"epoch_000{i}") for i in (1, 2, 3))
    for part in (lambda held: held["net"], lambda held: held["objective"]["D"]["net"]):
        assert_same_state(part(one), part(two))
        assert not same_state(part(two), part(three)) and finite(part(three))


def test_a_nan_stops_before_either_network_moves(cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_loss(lambda call, loss, output: loss * math.nan if call == 4 else loss, monkeypatch)
    done = cli.train(*RUN, *EVERY_STEP, code=1)
    assert done.refused("not finite at step 3", code=1)
    assert step_of(done.run) == 3 and finite(state(done.run)["objective"]["D"]["net"])


def test_a_dry_run_leaves_nothing(cli: InProcess, tmp_path: Path) -> None:
    said = cli.train(*RUN, "--dry_run").err
    assert "saved and loaded" in said and list(tmp_path.iterdir()) == []


def test_half_precision_trains_both(cli: InProcess) -> None:
    run = cli.train(*RUN, "--amp", "on", "--max_steps", "6").run
    exact = cli.train(*RUN, "--max_steps", "6", name="exact").run
    assert {value.dtype for value in weights(run).values()} == {torch.float32}
    assert records(run, "loss") == pytest.approx(records(exact, "loss"), rel=0.05)
    assert records(run, "loss_D") == pytest.approx(records(exact, "loss_D"), rel=0.1)
    assert not same_state(weights(run), weights(exact))


@pytest.mark.slow
def test_compiled_training(cli: InProcess) -> None:
    flags = (*RUN, "--gan", "ndf=8,norm=spectral", "--max_steps", "9")
    plain, fast = (
        cli.train(*flags, *more, name=name).run for name, more in (("a", ()), ("b", ("--compile",)))
    )
    for key in ("loss", "loss_D", "D_real"):
        assert records(fast, key) == pytest.approx(records(plain, key), rel=1e-2, abs=1e-3)


def test_a_discriminator_that_has_won_is_named_once() -> None:
    said: list[str] = []
    watch = DiscriminatorWatch(said.append)
    for step in range(0, LONG_STEPS, 20):
        watch.see(step, 0.99)
    assert not said
    watch.see(LONG_STEPS, 0.5)  # it lost in between
    for step in range(LONG_STEPS + 20, 4 * LONG_STEPS, 20):
        watch.see(step, 0.98 if step % 100 else 0.971)
    (line,) = said
    assert (
        "has won" in line and "98%" in line and f"since step {LONG_STEPS + 20}" in line and "--gan lr" in line
    )
    quiet = DiscriminatorWatch(said.append)
    for step in range(0, 4 * LONG_STEPS, 20):
        quiet.see(step, math.nan if step % 200 else 0.97)
    assert len(said) == 1


# ------------------------------------------------------------------------------------------------ checkpoints

RESUMED = (  # validations, EMA, a pool, spectral norm; epochs of 5 steps
    *words("--dataroot demo:8:40 --model dncnn --depth 3 --width 4 --crop_size 24 --batchSize 4 --ema 0.9"),
    *words("--loss l1:10+gan:1 --gan ndf=4,n_layers=2,norm=spectral,pool=6 --best psnr --augment flip_rot90"),
    *words("--n_epochs 18 --val_freq 2 --log_freq 1 --visdom off --seed 5 --amp off --gpu_ids -1 --lr 0.01"),
    *words("--warmup 0.5 --schedule cosine --max_steps 18"),
)


def check_cuts(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    """Resume a run of 18 steps after each of them; with a part of another step it ends with other bits."""
    whole, cuts = cut_everywhere(cli, monkeypatch, command, 18)
    for part in parts:
        cut = Path(shutil.copytree(cuts[7], whole.with_name(f"other_{part}")))
        tensorfile.save(state(cut) | {part: state(cuts[6])[part]}, cut / "latest_state.pth")
        cli.train("--resume", name=cut.name)
        assert not same_state(state(cut), state(whole)), part
    for cut in cuts[:-1]:
        cli.train("--resume", "--save_minutes", "5", name=cut.name)
        assert_same_state(content(cut), content(whole), cut.name)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_cut_after_any_step_ends_with_the_same_bits(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    check_cuts(cli, monkeypatch, (*RESUMED, "--num_workers", workers), ("objective", "optimizer_D", "net"))


def test_a_resume_without_the_discriminators_optimizer_differs(cli: InProcess) -> None:
    """The control: the optimizer of a new run in its place."""
    flags = (*RESUMED, "--schedule", "step", "--warmup", "0", "--max_steps")
    whole = cli.train(*flags, "8", name="whole").run
    fresh = cli.train(*flags, "1", name="fresh").run
    for name, swapped in (("same", False), ("other", True)):
        cut = cli.train(*flags, "4", name=name).run
        held = state(cut)
        if swapped:
            held["optimizer_D"] = state(fresh)["optimizer_D"]
            tensorfile.save(held, cut / "latest_state.pth")
        cli.train("--resume", "--max_steps", "8", name=name)
        assert same_state(state(cut)["objective"], state(whole)["objective"]) != swapped
        assert same_state(state(cut)["net"], state(whole)["net"]) != swapped


@pytest.mark.slow
def test_a_run_killed_and_resumed_is_bit_identical(work: Workplace) -> None:
    flags = (*RESUMED, *EVERY_STEP, "--max_steps", "60")
    whole = work.train(*flags, name="whole").run
    for step, start in ((7, flags), (23, ("--resume",)), (41, ("--resume",))):
        job = work.start("train.py", *start, name="cut")
        job.until_step(step)
        job.signal(signal.SIGKILL)
        job.wait(-signal.SIGKILL)
    cut = work.train("--resume", name="cut").run
    assert step_of(cut) == 60
    assert_same_state(content(cut), content(whole))
    assert work.log("whole", "D_right") == work.log("cut", "D_right")


def test_a_resumed_run_keeps_its_discriminator(cli: InProcess) -> None:
    cli.train(*RUN, "--max_steps", "3", "--schedule", "step")
    for flags, said in (
        ("--loss l1", "--loss cannot change"),
        ("--gan ndf=16", "--gan cannot change"),
        ("--gan netD=multiscale", "--gan cannot change"),
        ("--objective cycle", "--objective cannot change"),
    ):
        assert cli.train("--resume", *flags.split(), code=2).refused(said), flags
    cli.train("--resume", *words("--max_steps 5 --gan lr=1e-3 --loss l1:5+gan:2"))
    run = cli.train("--resume", "--max_steps", "6").run
    held = state(run)
    assert step_of(run) == 6 and held["optimizer_D"]["param_groups"][0]["lr"] == 1e-3
    assert options(run)["gan"] == "ndf=8,n_layers=2,lr=0.001"


def test_a_plain_run_of_an_older_version_resumes(cli: InProcess) -> None:
    run = cli.train(*TINY, *FAST, "--max_steps", "4", "--schedule", "step").run
    held = state(run)
    assert held["objective"] == {} and held["best"].keys() == {
        "psnr",
        "psnr_input",
        "step",
        "weights",
        "images",
    }
    saved = options(run)
    for key in ("objective", "gan", "best"):
        del saved[key]
    (run / "options.json").write_text(json.dumps(saved))
    cli.train("--resume", "--max_steps", "6")
    assert step_of(run) == 6 and options(run)["best"] == "psnr"


# ------------------------------------------------------------------------------------------------------- best


class Found:
    """A validation."""

    def __init__(self, psnr: float, psnr_input: float = 10, **figures: float):
        self.psnr, self.psnr_input, self.figures = psnr, psnr_input, figures


def test_the_best_is_chosen_by_its_figure_and_the_best_psnr_kept_beside() -> None:
    best = Best("images", "lite0", keep_psnr=True)
    found = [Found(20, lite0=0.3), Found(25, lite0=0.4), Found(22, lite0=0.2), Found(math.nan, lite0=0.1)]
    assert [best.update(each, step) for step, each in enumerate(found, 1)] == [True, False, True, False]
    assert best.beside and (best.step, best.value, best.beside.step, best.beside.psnr) == (3, 0.2, 2, 25)
    again = Best("images", "lite0", keep_psnr=True)
    again.load_state_dict(best.state_dict())
    assert again.state_dict() == best.state_dict() and not again.update(Found(30, lite0=0.25), 4)
    assert "Lite0 distance 0.2000" in best.describe() and "22.00 dB" in best.describe()


def test_the_last_is_the_best_and_ssim_is_the_higher() -> None:
    last, ssim = Best("", "last"), Best("", "ssim")
    assert [last.update(Found(value), 1) for value in (20, 10, math.nan)] == [True] * 3
    assert [ssim.update(Found(20, ssim=value), 1) for value in (0.5, 0.6, 0.4)] == [True, True, False]


def test_another_figure_begins_anew_but_keeps_the_best_psnr() -> None:
    plain = Best("images")
    plain.update(Found(21), 5)
    other = Best("images", "lite0", keep_psnr=True)
    other.load_state_dict(plain.state_dict())
    assert other.psnr is None and other.beside and other.beside.psnr == 21
    other.update(Found(20, lite0=0.1), 9)
    again = Best("images")
    again.load_state_dict(other.state_dict())
    assert (again.psnr, again.step) == (21, 5)


@pytest.mark.parametrize(("extra", "paired", "cycle"), [(True, "lite0", "kid"), (False, "psnr", "last")])
def test_the_default_figure_depends_on_the_objective_and_the_extra(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, extra: bool, paired: str, cycle: str
) -> None:
    monkeypatch.setattr("utils.options.objective.has_lite0", lambda: extra)
    demo = ["--dataroot", "demo:unpaired:8:48"]
    for flags, best in ((GAN[:4], paired), (("--objective", "cycle"), cycle), ((), "psnr")):
        opt = parse_train([*(demo if "cycle" in flags else [demo[0], "demo"]), *flags])
        assert opt.best == best
        assert [("[perceptual]" in note) for note in opt.notes] == ([True] if flags and not extra else [])
    for flags in ("--best lite0", "--loss l1+lite0"):
        if not extra:
            assert "[perceptual]" in str(error_of(parse_train, ["--dataroot", "demo", *flags.split()]))


# ------------------------------------------------------------------------------------------------- processes


@pytest.mark.dist
@pytest.mark.parametrize(
    "flags", ["--gan ndf=8,pool=5", "--gan ndf=8,norm=spectral", "--gan ndf=8 --accum 2"]
)
def test_two_processes_train_like_one(work: Workplace, flags: str) -> None:
    command = (*RUN, *SGD, *words("--lr 0.002 --max_steps 15"), *flags.split())
    one = work.train(*command, name="one").run
    two = work.train_by_two(*command, name="two").run
    for part in (lambda run: state(run)["net"], lambda run: state(run)["objective"]["D"]["net"]):
        assert largest_difference(part(one), part(two)) < 1e-5
    for key in ("loss", "loss_D", "D_right"):
        assert work.log("one", key)[-1][1] == pytest.approx(work.log("two", key)[-1][1], rel=1e-3)


@pytest.mark.dist
@pytest.mark.slow
def test_a_run_continues_with_another_number_of_processes(work: Workplace) -> None:
    command = (*RUN, *SGD, *words("--lr 0.002 --gan ndf=8,pool=5"))
    whole = work.train(*command, "--max_steps", "12", name="whole").run
    work.train(*command, "--max_steps", "6", name="cut")
    cut = work.train_by_two("--resume", "--max_steps", "12", name="cut").run
    for part in (lambda run: state(run)["net"], lambda run: state(run)["objective"]["D"]["net"]):
        assert largest_difference(part(whole), part(cut)) < 1e-5


# --------------------------------------- the commands of the pix2pix project's script for tests before a push


def pushed(cli: InProcess, data: Path, *flags: str) -> float:
    """Train and test, as the script does; the PSNR on the test images."""
    small = words("--size 40 --crop_size 32 --gpu_ids -1 --visdom off --max_steps 5 --width 8")
    cli.train("--dataroot", str(data), *small, *flags)
    done = cli.test("--name", "run")
    assert len(done.rows) == 3
    return float(done.summary["psnr"]["mean"])


def test_pix2pix_trains_and_tests(cli: InProcess) -> None:
    write_set(Path("facades"), "aligned", 4, (40, 40), splits=("train", "test"))
    for path in sorted(Path("facades/test").iterdir())[3:]:
        path.unlink()
    flags = words("--preset pix2pix --depth 3 --gan n_layers=2,ndf=8 --direction BtoA --best psnr")
    assert pushed(cli, Path("facades"), *flags) > 5


def test_the_template_is_a_plain_loss(cli: InProcess) -> None:
    write_set(Path("facades"), "aligned", 3, (40, 40))
    assert pushed(cli, Path("facades"), *words("--model unet --depth 3 --loss l1")) > 5


def test_colorization_is_gray_with_pix2pix(cli: InProcess) -> None:
    write_set(Path("photos"), "clean", 3, (40, 40))
    flags = words("--degrade gray --preset pix2pix --depth 3 --gan n_layers=2,ndf=8 --best psnr")
    cli.train(
        "--dataroot",
        "photos",
        *flags,
        *words("--size 40 --crop_size 32 --gpu_ids -1 --visdom off --width 8"),
        "--max_steps",
        "5",
    )
    assert (options(cli.run())["input_nc"], options(cli.run())["output_nc"]) == (1, 3)
    done = cli.test("--name", "run", "--degrade", "gray")
    assert len(done.rows) == 3 and done.output("0.png").shape == (40, 40, 3)


def test_a_trained_generator_takes_a_single_image(cli: InProcess) -> None:
    write_set(Path("facades"), "aligned", 3, (40, 40))
    pushed(cli, Path("facades"), *words("--preset pix2pix --depth 3 --gan n_layers=2,ndf=8 --best psnr"))
    write_set(Path("one"), "inputs", 1, (37, 51), splits=("",))
    cli.test("--name", "run", "--dataroot", "one/0.png", "--output", "out.png")
    assert Path("out.png").is_file()


def test_sharp_continues_from_the_network_of_a_run(cli: InProcess) -> None:
    small = words("--crop_size 32 --batchSize 4 --gpu_ids -1 --visdom off --max_steps 3")
    cli.train("--dataroot", "demo:6:48", *words("--preset fine --depth 2 --width 8"), *small, name="fine")
    sharp = ("--weights", "checkpoints/fine/best_net.pth", "--preset", "sharp", "--best", "psnr")
    terms = ("--loss", "l1+color+gan:0.1", "--gan", "ndf=8,n_layers=2")
    run = cli.train("--dataroot", "demo:6:48", *sharp, *terms, *small, name="sharp").run
    held = options(run)
    assert [held[key] for key in ("model", "depth", "width", "stem", "levels")] == ["resunet", 2, 8, 2, 1]
    assert parse_gan(held["gan"]) == GanSettings("vanilla", ndf=8, n_layers=2, norm="spectral", lr=1e-3)
    assert weights(run).keys() == weights(cli.run("fine")).keys()
