"""Networks of any size, their layers as the papers have them, losses against closed forms, initialisation."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import ACTIVATIONS, INITS, LOSSES, NETWORKS, NORMS, build_network, network_defaults
from models.layers import ResidualBlock, SizeRequirements, init_weights, pad_to, residual_base
from tests.conftest import OURS, ROOT
from utils.optim.optimizers import freeze
from utils.system.errors import UserError

TINY: dict[str, dict[str, Any]] = {
    "resnet": {"width": 4, "depth": 1},
    "unet": {"width": 4, "depth": 3},
    "dncnn": {"width": 16, "depth": 3},
    "resunet": {"width": 8, "depth": 1, "levels": 2},
}
SIZES = ((1, 1), (1, 7), (7, 1), (2, 2), (3, 5), (15, 17), (16, 16), (33, 64))
CHANNELS = ((1, 1), (1, 3), (3, 1), (3, 3))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """More threads only get into each other's way in networks as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(model: str, input_nc: int = 3, output_nc: int = 3, **arguments: Any) -> nn.Module:
    """A small network with its own defaults for all that is not told."""
    torch.manual_seed(0)
    arguments = {**network_defaults(model), **TINY[model], **arguments}
    return build_network(model, input_nc=input_nc, output_nc=output_nc, **arguments)


def default(model: str, input_nc: int = 3, output_nc: int = 3) -> nn.Module:
    """The network as it is built without any flag."""
    return build_network(model, input_nc=input_nc, output_nc=output_nc, **network_defaults(model))


def image(
    channels: int = 3, height: int = 16, width: int = 16, count: int = 1, seed: int = 0
) -> torch.Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def shaken(net: nn.Module, seed: int = 1) -> nn.Module:
    """`net` with weights that let every layer count, those that start at 0 included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return net


# ------------------------------------------------------------------------------------------- sizes and shapes


def test_every_network_is_covered_here() -> None:
    assert list(TINY) == OURS


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("model", OURS)
def test_output_is_as_large_as_the_input(model: str, size: tuple[int, int]) -> None:
    net = tiny(model).eval()
    with torch.inference_mode():
        output = net(image(3, *size))
    assert output.shape == (1, 3, *size) and output.isfinite().all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("model", OURS)
def test_even_one_pixel_goes_through_with_every_norm(model: str, norm: str) -> None:
    net = tiny(model, norm=norm).eval()
    with torch.inference_mode():
        assert net(image(3, 1, 1)).isfinite().all()
        assert net(image(3, 2, 1)).shape == (1, 3, 2, 1)


@pytest.mark.parametrize(("input_nc", "output_nc"), CHANNELS)
@pytest.mark.parametrize("model", OURS)
def test_channels_are_those_asked_for(model: str, input_nc: int, output_nc: int) -> None:
    output = tiny(model, input_nc, output_nc)(image(input_nc, 9, 11, count=2))
    assert output.shape == (2, output_nc, 9, 11) and output.isfinite().all()


@pytest.mark.parametrize("model", OURS)
def test_images_of_a_batch_do_not_touch_each_other(model: str) -> None:
    net, batch = shaken(tiny(model)).eval(), image(3, 16, 24, count=3)
    with torch.inference_mode():
        together, alone = net(batch), torch.cat([net(one[None]) for one in batch])
    assert together.std() > 0.01 and torch.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("model", OURS)
def test_the_stated_multiple_needs_no_padding(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net: Any = tiny(model).eval()
    assert net.size.minimum % net.size.multiple == 0
    monkeypatch.setattr(F, "pad", lambda *given, **named: pytest.fail("padded"))
    for side in (net.size.minimum, net.size.minimum + net.size.multiple):
        padded = pad_to(torch.zeros(1, 3, side, side), net.size)
        assert padded.shape[-2:] == (side, side)


@pytest.mark.parametrize("model", ["resnet", "unet", "resunet"])
def test_an_odd_size_is_the_padded_image_cropped(model: str) -> None:
    """Cropped at the right and the bottom: where the padding was put, and nowhere else."""
    net: Any = shaken(tiny(model)).eval()
    given = image(3, 35, 37)
    with torch.inference_mode():
        padded = pad_to(given, net.size)
        assert padded.shape[-2:] != given.shape[-2:]
        assert torch.equal(net(given), net(padded)[..., :35, :37])


# ---------------------------------------------------------------------------------------------------- padding


@pytest.mark.parametrize(
    ("size", "multiple", "least", "padded"),
    [
        ((8, 8), 4, 4, (8, 8)),
        ((7, 9), 4, 4, (8, 12)),
        ((8, 3), 4, 16, (16, 16)),
        ((1, 1), 1, 1, (1, 1)),
        ((33, 64), 32, 64, (64, 64)),
    ],
)
def test_padding_is_at_the_right_and_the_bottom(
    size: tuple[int, int], multiple: int, least: int, padded: tuple[int, int]
) -> None:
    given = image(2, *size)
    out = pad_to(given, SizeRequirements(multiple, least))
    assert out.shape[-2:] == padded
    assert torch.equal(out[..., : size[0], : size[1]], given)


def test_padding_reflects_where_it_can_and_repeats_where_not() -> None:
    rows = torch.arange(5.0)[:, None].expand(5, 5)[None, None]
    assert pad_to(rows, SizeRequirements(8, 8))[0, 0, :, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    rows = torch.arange(4.0)[:, None].expand(4, 8)[None, None]
    assert pad_to(rows, SizeRequirements(8, 8))[0, 0, :, 0].tolist() == [
        0,
        1,
        2,
        3,
        3,
        3,
        3,
        3,
    ]
    assert pad_to(rows.mT, SizeRequirements(8, 8))[0, 0, 0].tolist() == [0, 1, 2, 3, 3, 3, 3, 3]
    assert pad_to(torch.full((1, 1, 1, 1), 7.0), SizeRequirements(4, 4)).eq(7).all()


def test_what_a_residual_is_added_to() -> None:
    gray, colour = image(1), image(3)
    assert residual_base(colour, 3) is colour and residual_base(gray, 1) is gray
    repeated = residual_base(gray, 3)
    assert isinstance(repeated, torch.Tensor) and torch.equal(repeated, torch.cat([gray] * 3, dim=1))
    assert residual_base(colour, 1) == 0


# ----------------------------------------------------------------------------------------- norms, acts, inits


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("model", OURS)
def test_every_norm_act_and_init_learns(model: str, norm: str, act: str) -> None:
    given = image(3, 32, 32, count=2)
    for init in INITS:
        net = tiny(model, norm=norm, act=act, init=init)
        output = net(given)
        assert output.isfinite().all()
        (output - image(3, 32, 32, count=2, seed=1)).square().mean().backward()
        gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
        assert any(gradient.abs().max() > 0 for gradient in gradients.values() if gradient is not None)


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("model", OURS)
def test_gradients_are_those_of_finite_differences(model: str, act: str) -> None:
    """Activations work in place: a gradient that used an overwritten value would be off."""
    net = shaken(tiny(model, act=act)).double()
    given = image(3, 16, 16).double().requires_grad_()
    direction = image(3, 16, 16, seed=2).double()
    (gradient,) = torch.autograd.grad(net(given).square().sum(), given)
    step = 1e-6
    with torch.no_grad():
        ahead, behind = (net(given + sign * step * direction).square().sum() for sign in (1, -1))
    slope = ((ahead - behind) / (2 * step)).item()
    assert abs(slope) > 1e-3 and (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-3)


NORM_LAYERS = {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d, "group": nn.GroupNorm}
ACT_LAYERS = {"relu": nn.ReLU, "leaky": nn.LeakyReLU, "silu": nn.SiLU}


def count(net: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(isinstance(module, kinds) for module in net.modules())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("model", OURS)
def test_a_network_has_the_norm_that_was_asked_for_and_no_other(model: str, norm: str) -> None:
    net = tiny(model, norm=norm)
    for name, kind in NORM_LAYERS.items():
        assert (count(net, kind) > 0) == (name == norm)


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("model", OURS)
def test_a_network_has_the_activation_that_was_asked_for(model: str, act: str) -> None:
    net = tiny(model, act=act)
    assert count(net, ACT_LAYERS[act]) > 0
    others = [kind for name, kind in ACT_LAYERS.items() if name != act]
    way_up = 2 if model == "unet" and act != "relu" else 0  # of pix2pix: always ReLU
    assert count(net, *others) == way_up


@pytest.mark.parametrize(("channels", "groups"), [(64, 8), (12, 4), (6, 2), (5, 1)])
def test_group_norm_takes_as_many_groups_as_fit(channels: int, groups: int) -> None:
    norms = [m for m in ResidualBlock(channels, "group", "relu").modules() if isinstance(m, nn.GroupNorm)]
    assert [norm.num_groups for norm in norms] == [groups, groups]


# ------------------------------------------------------------------------------------ the networks one by one


def test_resnet_is_the_generator_of_cyclegan() -> None:
    net = default("resnet")
    assert count(net, nn.ConvTranspose2d) == 2 and count(net, nn.InstanceNorm2d) == 23
    assert count(net, nn.ReflectionPad2d) == 20 and count(net, ResidualBlock) == 9
    assert count(net, nn.Conv2d) == 22 and count(net, nn.Tanh) == 1
    assert sum(parameter.numel() for parameter in net.parameters()) == 11_378_179  # as printed by CycleGAN
    paddings = [m.padding for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert paddings.count((1, 1)) == 2  # the strided ones; all others stand behind a ReflectionPad2d
    assert not any(isinstance(m, nn.InstanceNorm2d) and m.affine for m in net.modules())


def test_resnet_without_transposed_convolutions() -> None:
    net = tiny("resnet", upsample="resize")
    assert count(net, nn.ConvTranspose2d) == 0 and count(net, nn.Upsample) == 2
    assert net(image(3, 17, 18)).shape == (1, 3, 17, 18)


@pytest.mark.parametrize("model", ["resnet", "unet"])
def test_generators_stay_within_the_range_of_images(model: str) -> None:
    output = shaken(tiny(model))(image() * 100)
    assert output.abs().max() <= 1 and output.abs().max() > 0.01


def test_dncnn_is_that_of_the_paper() -> None:
    net = default("dncnn", 1, 1)
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 17 and count(net, nn.BatchNorm2d) == 15 and count(net, nn.ReLU) == 16
    assert {module.kernel_size for module in convolutions} == {(3, 3)}
    assert [module.out_channels for module in convolutions] == [64] * 16 + [1]
    assert [module.bias is not None for module in convolutions] == [True] + [False] * 15 + [True]


def test_dncnn_subtracts_what_it_predicts() -> None:
    net: Any = shaken(tiny("dncnn")).eval()
    given = image()
    assert torch.allclose(net(given), given - net.body(given), atol=1e-6)
    gray: Any = shaken(tiny("dncnn", 1, 3)).eval()
    assert torch.allclose(gray(image(1)), image(1).expand(-1, 3, -1, -1) - gray.body(image(1)), atol=1e-6)


@pytest.mark.parametrize("size", [(16, 16), (15, 17), (1, 1)])
@pytest.mark.parametrize(("input_nc", "output_nc"), CHANNELS)
def test_resunet_starts_as_the_identity(input_nc: int, output_nc: int, size: tuple[int, int]) -> None:
    given = image(input_nc, *size)
    output = tiny("resunet", input_nc, output_nc)(given)
    expected = given.expand(-1, output_nc, -1, -1) if input_nc <= output_nc else torch.zeros(1, 1, *size)
    assert torch.equal(output, expected)
    assert not torch.allclose(shaken(tiny("resunet", input_nc, output_nc))(given), expected, atol=1e-3)


def test_resunet_has_no_norm_and_one_block_more_for_each_depth() -> None:
    assert count(default("resunet"), *NORM_LAYERS.values()) == 0
    for levels, depth in ((1, 2), (2, 1), (3, 2)):
        net: Any = tiny("resunet", levels=levels, depth=depth)
        assert count(net, ResidualBlock) == depth * (2 * levels - 1)
        assert net.size.multiple == 2 * 2 ** (levels - 1)


@pytest.mark.parametrize("stem", [1, 2, 4])
def test_resunet_unshuffles_its_input_by_the_stem(stem: int) -> None:
    net: Any = shaken(tiny("resunet", stem=stem))
    assert net.stem[1].in_channels == 3 * stem**2 and net.size.multiple == 2 * stem
    assert net(image(3, 13, 21)).shape == (1, 3, 13, 21)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_unet_halves_as_often_as_it_is_deep(depth: int) -> None:
    net: Any = tiny("unet", depth=depth)
    assert isinstance(net.downs, nn.ModuleList) and isinstance(net.ups, nn.ModuleList)
    assert len(net.downs) == depth and len(net.ups) == depth - 1
    shapes: list[tuple[int, int]] = []
    for down in net.downs:
        down.register_forward_hook(lambda module, given, output: shapes.append(output.shape[-2:]))
    assert net.eval()(image(3, 64, 128)).shape == (1, 3, 64, 128)
    assert shapes == [(64 >> level, 128 >> level) for level in range(1, depth + 1)]


def test_unet_grows_to_eight_times_its_width_and_ends_as_pix2pix() -> None:
    net: Any = default("unet")
    assert [down[0].out_channels for down in net.downs] == [64, 128, 256, 512, 512]
    assert [up[0].in_channels for up in net.ups] == [512, 1024, 512, 256]
    assert isinstance(net.downs[0][1], nn.Identity)  # no norm on the image itself
    assert {down[0].kernel_size for down in net.downs} == {(4, 4)} and count(net, nn.Tanh) == 1


def reaches_the_output(net: nn.Module, level: nn.Module) -> bool:
    """Whether the output changes when that of `level` is set to 0."""
    outputs = []
    for factor in (1.0, 0.0):
        hook = level.register_forward_hook(lambda module, given, output, factor=factor: output * factor)
        with torch.inference_mode():
            outputs.append(net(image(3, 32, 32)))
        hook.remove()
    return not torch.allclose(outputs[0], outputs[1], atol=1e-4)


@pytest.mark.parametrize("model", ["unet", "resunet"])
def test_every_skip_reaches_the_output(model: str) -> None:
    """All below a level is silenced, so that the level is seen through its skip alone."""
    net: Any = shaken(tiny(model, norm="none", **({"levels": 3} if model == "resunet" else {}))).eval()
    levels, below = (net.downs, net.downs[1:]) if model == "unet" else (net.encoders, net.downs)
    assert len(below) == 2
    for level, deeper in zip(levels, below, strict=False):
        silence = deeper.register_forward_hook(lambda module, given, output: output * 0)
        assert reaches_the_output(net, level)
        silence.remove()


# ----------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize(
    ("loss", "each"),
    [
        ("l1", lambda d: d.abs()),
        ("mse", lambda d: d**2),
        ("charbonnier", lambda d: (d**2 + 1e-6).sqrt()),
    ],
)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_are_their_closed_forms(loss: str, each: Any, reduction: str) -> None:
    output, target = image(count=2).double(), image(count=2, seed=1).double()
    value = LOSSES[loss](reduction=reduction)(output, target)
    assert value.shape == ()
    assert torch.allclose(value, getattr(each(output - target), reduction)(), rtol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_perfect_output_has_almost_no_loss_and_a_finite_gradient(loss: str) -> None:
    output = image().requires_grad_()
    value = LOSSES[loss](reduction="mean")(output, image())
    value.backward()
    assert 0 <= value.item() <= 1.001e-3
    assert output.grad is not None and output.grad.isfinite().all()


# ---------------------------------------------------------------------------------------- lists without torch


def test_listing_the_names_imports_no_torch() -> None:
    code = (
        "import sys; from models import *; import models; from data.augment import AUGMENTATIONS;"
        "from data.layouts import LAYOUTS; from utils.optim.schedules import SCHEDULES;"
        "from utils.optim.optimizers import OPTIMIZERS; from utils.options.flags import train_parser;"
        "train_parser();"
        "names = [*models.NETWORKS, *models.LOSSES]; [models.network_defaults(n) for n in models.NETWORKS];"
        "print(len(names), sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'torchvision'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split(maxsplit=1) == [str(len(NETWORKS) + len(LOSSES)), "[]\n"]


@pytest.mark.parametrize("model", OURS)
def test_a_flag_that_a_network_does_not_have_is_an_error(model: str) -> None:
    with pytest.raises(TypeError, match="nonsense"):
        tiny(model, nonsense=1)


# ---------------------------------------------------------------------------------------------------- weights


def initialised(init: str, conv: nn.Conv2d | nn.ConvTranspose2d) -> torch.Tensor:
    """The weight after `init`; the bias is checked to be 0."""
    assert conv.bias is not None
    nn.init.constant_(conv.bias, 5.0)
    torch.manual_seed(0)
    init_weights(nn.Sequential(conv), init)
    assert torch.equal(conv.bias, torch.zeros_like(conv.bias))
    return conv.weight.detach()


@pytest.mark.parametrize(
    ("init", "std"),
    [
        ("normal", 0.02),
        ("xavier", (2 / (64 * 9 + 128 * 9)) ** 0.5),
        ("kaiming", (2 / (64 * 9)) ** 0.5),
    ],
)
def test_weights_have_the_spread_of_their_init(init: str, std: float) -> None:
    weight = initialised(init, nn.Conv2d(64, 128, 3))  # 73,728 values: the spread is known to 0.3 %
    assert weight.std().item() == pytest.approx(std, rel=0.02)
    assert abs(weight.mean().item()) < 0.02 * std
    kurtosis = ((weight / weight.std()) ** 4).mean().item()
    assert kurtosis == pytest.approx(3, abs=0.1)  # of a normal distribution


@pytest.mark.parametrize("conv", [nn.Conv2d(16, 24, 3), nn.Conv2d(2, 64, 3), nn.ConvTranspose2d(24, 16, 3)])
def test_orthogonal_weights_are_orthogonal(conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
    matrix = initialised("orthogonal", conv).flatten(1)
    product = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    assert torch.allclose(product, torch.eye(len(product)), atol=1e-5)


def test_transposed_convolutions_are_initialised_too() -> None:
    assert initialised("normal", nn.ConvTranspose2d(64, 64, 3)).std().item() == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("model", OURS)
def test_a_network_is_built_from_the_seed_and_with_its_init(model: str, init: str) -> None:
    one, two = (tiny(model, init=init).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    other = tiny(model, init="normal" if init != "normal" else "kaiming").state_dict()
    assert any(not torch.equal(one[key], other[key]) for key in one)


# --------------------------------------------------------------------------------------------------- freezing


def test_frozen_parameters_neither_train_nor_are_returned() -> None:
    net = tiny("dncnn")
    trained = freeze(net, r"^body\.0\.")
    frozen = [name for name, parameter in net.named_parameters() if not parameter.requires_grad]
    assert frozen == ["body.0.weight", "body.0.bias"]
    assert {id(p) for p in trained} == {id(p) for n, p in net.named_parameters() if n not in frozen}
    before = {name: parameter.clone() for name, parameter in net.named_parameters()}
    optimizer = torch.optim.SGD(trained, 0.1)
    net(image()).square().mean().backward()
    optimizer.step()
    changed = {name for name, parameter in net.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed.isdisjoint(frozen) and "body.2.weight" in changed


def test_nothing_is_frozen_without_a_pattern() -> None:
    net = tiny("dncnn")
    freeze(net, r"weight")
    assert len(freeze(net, None)) == len(list(net.parameters()))
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize(("pattern", "which"), [("head", "no parameter"), (".", "every parameter")])
def test_a_pattern_that_freezes_nothing_or_all_is_refused(pattern: str, which: str) -> None:
    net = tiny("dncnn")
    with pytest.raises(UserError, match=which) as caught:
        freeze(net, pattern)
    assert "body.0.weight" in caught.value.why
    assert all(parameter.requires_grad for parameter in net.parameters())
