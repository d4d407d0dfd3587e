"""Networks of any size, their layers as in the papers, wrappers, losses against closed forms, objectives."""

import copy
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from models import ACTIVATIONS, INITS, LOSSES, NETWORKS, NORMS, OBJECTIVES, build_network, network_defaults
from models.ema import EMA
from models.layers import ResidualBlock, SizeRequirements, init_weights, pad_to, residual_base, sync_batchnorm
from models.objectives import Task
from models.wrappers import bare
from tests.builders import OURS, ROOT, SMALL, assert_same_state, network, shaken
from utils.optim.optimizers import freeze
from utils.system.distributed import Ranks
from utils.system.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = ((1, 1), (1, 7), (7, 1), (2, 1), (2, 2), (3, 5), (15, 17), (16, 16), (33, 64))
CHANNELS = ((1, 1), (1, 3), (3, 1), (3, 3))


def default(model: str, channels: int = 3) -> nn.Module:
    """The network as it is built without any flag."""
    return build_network(model, input_nc=channels, output_nc=channels)


def batch(channels: int = 3, height: int = 16, width: int = 16, count: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# ------------------------------------------------------------------------------------------- sizes and shapes


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("model", OURS)
def test_output_is_as_large_as_the_input(model: str, norm: str) -> None:
    net = network(model, norm=norm).eval()
    with torch.inference_mode():
        for size in SIZES:
            output = net(batch(3, *size))
            assert output.shape == (1, 3, *size) and output.isfinite().all()


@pytest.mark.parametrize(("input_nc", "output_nc"), CHANNELS)
@pytest.mark.parametrize("model", OURS)
def test_channels_are_those_asked_for(model: str, input_nc: int, output_nc: int) -> None:
    output = network(model, input_nc, output_nc)(batch(input_nc, 9, 11, count=2))
    assert output.shape == (2, output_nc, 9, 11) and output.isfinite().all()


@pytest.mark.parametrize("model", OURS)
def test_images_of_a_batch_do_not_touch_each_other(model: str) -> None:
    net, images = shaken(network(model), scale=0.1).eval(), batch(3, 16, 24, count=3)
    with torch.inference_mode():
        together, alone = net(images), torch.cat([net(one[None]) for one in images])
    assert together.std() > 0.01 and torch.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("model", OURS)
def test_the_stated_multiple_needs_no_padding(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net: Any = network(model)
    assert net.size.minimum % net.size.multiple == 0
    monkeypatch.setattr(F, "pad", lambda *args, **named: pytest.fail("padded"))
    for side in (net.size.minimum, net.size.minimum + net.size.multiple):
        assert pad_to(torch.zeros(1, 3, side, side), net.size).shape[-2:] == (side, side)


@pytest.mark.parametrize("model", ["resnet", "unet", "resunet"])
def test_an_odd_size_is_the_padded_image_cropped(model: str) -> None:
    """Cropped at the right and the bottom: where the padding was put, and nowhere else."""
    net: Any = shaken(network(model)).eval()
    x = batch(3, 35, 37)
    with torch.inference_mode():
        padded = pad_to(x, net.size)
        assert padded.shape[-2:] != x.shape[-2:] and torch.equal(net(x), net(padded)[..., :35, :37])


PADDED = (  # height and width, multiple, minimum, padded height and width
    *((8, 8, 4, 4, 8, 8), (7, 9, 4, 4, 8, 12), (8, 3, 4, 16, 16, 16), (1, 1, 1, 1, 1, 1)),
    (33, 64, 32, 64, 64, 64),
)


def test_padding_is_at_the_right_and_the_bottom() -> None:
    """It reflects where it can, and repeats where not."""
    for height, width, multiple, minimum, *padded in PADDED:
        x = batch(2, height, width)
        output = pad_to(x, SizeRequirements(multiple, minimum))
        assert [*output.shape[-2:]] == padded and torch.equal(output[..., :height, :width], x)
    size, rows = SizeRequirements(8, 8), torch.arange(5.0)[:, None].expand(5, 5)[None, None]
    assert pad_to(rows, size)[0, 0, :, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    rows = torch.arange(4.0)[:, None].expand(4, 8)[None, None]
    assert pad_to(rows, size)[0, 0, :, 0].tolist() == [0, 1, 2, 3, 3, 3, 3, 3]
    assert pad_to(rows.mT, size)[0, 0, 0].tolist() == [0, 1, 2, 3, 3, 3, 3, 3]
    assert pad_to(torch.full((1, 1, 1, 1), 7.0), SizeRequirements(4, 4)).eq(7).all()


def test_what_a_residual_is_added_to() -> None:
    gray, color = batch(1), batch(3)
    assert residual_base(color, 3) is color and residual_base(gray, 1) is gray
    repeated = residual_base(gray, 3)
    assert isinstance(repeated, Tensor) and torch.equal(repeated, torch.cat([gray] * 3, dim=1))
    assert residual_base(color, 1) == 0


# ------------------------------------------------------------------------- norms, activations, initialisation


NORM_LAYERS = {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d, "group": nn.GroupNorm}
ACT_LAYERS = {"relu": nn.ReLU, "leaky": nn.LeakyReLU, "silu": nn.SiLU}


def count(net: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(isinstance(module, kinds) for module in net.modules())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("model", OURS)
def test_every_norm_activation_and_init_is_there_and_learns(model: str, norm: str, act: str) -> None:
    decoder = 2 if model == "unet" and act != "relu" else 0  # pix2pix: always ReLU
    for init in INITS:
        net = network(model, norm=norm, act=act, init=init)
        assert {name for name, kind in NORM_LAYERS.items() if count(net, kind)} == {norm} - {"none"}
        assert count(net, ACT_LAYERS[act]) > 0
        assert count(net, *[kind for name, kind in ACT_LAYERS.items() if name != act]) == decoder
        output = net(batch(3, 32, 32, count=2))
        assert output.isfinite().all()
        (output - batch(3, 32, 32, count=2, seed=1)).square().mean().backward()
        gradients = [parameter.grad for parameter in net.parameters()]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.abs().max() > 0 for gradient in gradients if gradient is not None)


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("model", OURS)
def test_gradients_are_those_of_finite_differences(model: str, act: str) -> None:
    """Activations work in place: a gradient that used an overwritten value would be off."""
    net = shaken(network(model, act=act)).double()
    x = batch(3, 16, 16).double().requires_grad_()
    direction = batch(3, 16, 16, seed=2).double()
    (gradient,) = torch.autograd.grad(net(x).square().sum(), x)
    step = 1e-6
    with torch.no_grad():
        ahead, behind = (net(x + sign * step * direction).square().sum() for sign in (1, -1))
    slope = ((ahead - behind) / (2 * step)).item()
    assert abs(slope) > 1e-3 and (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-3)


def test_group_norm_takes_as_many_groups_as_fit() -> None:
    for channels, groups in ((64, 8), (12, 4), (6, 2), (5, 1)):
        block = ResidualBlock(channels, "group", "relu")
        assert [m.num_groups for m in block.modules() if isinstance(m, nn.GroupNorm)] == [groups, groups]


def initialised(init: str, conv: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    """The weight after `init`; the bias is checked to be 0."""
    assert conv.bias is not None
    nn.init.constant_(conv.bias, 5.0)
    torch.manual_seed(0)
    init_weights(nn.Sequential(conv), init)
    assert torch.equal(conv.bias, torch.zeros_like(conv.bias))
    return conv.weight.detach()


@pytest.mark.parametrize(
    ("init", "conv", "std"),
    [  # 36,864 values or more: the spread is known to 0.4 %
        ("normal", nn.Conv2d(64, 128, 3), 0.02),
        ("normal", nn.ConvTranspose2d(64, 64, 3), 0.02),
        ("xavier", nn.Conv2d(64, 128, 3), (2 / (64 * 9 + 128 * 9)) ** 0.5),
        ("kaiming", nn.Conv2d(64, 128, 3), (2 / (64 * 9)) ** 0.5),
    ],
)
def test_weights_have_the_spread_of_their_init(init: str, conv: Any, std: float) -> None:
    weight = initialised(init, conv)
    assert weight.std().item() == pytest.approx(std, rel=0.02)
    assert abs(weight.mean().item()) < 0.02 * std
    kurtosis = ((weight / weight.std()) ** 4).mean().item()
    assert kurtosis == pytest.approx(3, abs=0.1)  # of a normal distribution


@pytest.mark.parametrize("conv", [nn.Conv2d(16, 24, 3), nn.Conv2d(2, 64, 3), nn.ConvTranspose2d(24, 16, 3)])
def test_orthogonal_weights_are_orthogonal(conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
    matrix = initialised("orthogonal", conv).flatten(1)
    product = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    assert torch.allclose(product, torch.eye(len(product)), atol=1e-5)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("model", OURS)
def test_a_network_is_built_from_the_seed_and_with_its_init(model: str, init: str) -> None:
    one, two = (network(model, init=init).state_dict() for _ in range(2))
    assert_same_state(one, two)
    other = network(model, init="normal" if init != "normal" else "kaiming").state_dict()
    assert any(not torch.equal(one[key], other[key]) for key in one)


# ------------------------------------------------------------------------------------ the networks one by one


def test_resnet_is_the_generator_of_cyclegan() -> None:
    net = default("resnet")
    assert count(net, nn.ConvTranspose2d) == 2 and count(net, nn.InstanceNorm2d) == 23
    assert count(net, nn.ReflectionPad2d) == 20 and count(net, ResidualBlock) == 9
    assert count(net, nn.Conv2d) == 22 and count(net, nn.Tanh) == 1
    assert sum(parameter.numel() for parameter in net.parameters()) == 11_378_179  # as printed by CycleGAN
    paddings = [m.padding for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert paddings.count((1, 1)) == 2  # the strided ones; all others follow a ReflectionPad2d
    assert not any(isinstance(m, nn.InstanceNorm2d) and m.affine for m in net.modules())
    resized = network("resnet", upsample="resize")
    assert count(resized, nn.ConvTranspose2d) == 0 and count(resized, nn.Upsample) == 2
    assert resized(batch(3, 17, 18)).shape == (1, 3, 17, 18)


@pytest.mark.parametrize("model", ["resnet", "unet"])
def test_generators_stay_within_the_range_of_images(model: str) -> None:
    output = shaken(network(model))(batch() * 100)
    assert 0.01 < output.abs().max() <= 1


def test_dncnn_is_that_of_the_paper() -> None:
    net = default("dncnn", 1)
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 17 and count(net, nn.BatchNorm2d) == 15 and count(net, nn.ReLU) == 16
    assert {module.kernel_size for module in convolutions} == {(3, 3)}
    assert [module.out_channels for module in convolutions] == [64] * 16 + [1]
    assert [module.bias is not None for module in convolutions] == [True] + [False] * 15 + [True]


@pytest.mark.parametrize("input_nc", [3, 1])
def test_dncnn_subtracts_what_it_predicts(input_nc: int) -> None:
    net: Any = shaken(network("dncnn", input_nc, 3)).eval()
    x = batch(input_nc)
    assert torch.allclose(net(x), x.expand(-1, 3, -1, -1) - net.body(x), atol=1e-6)


@pytest.mark.parametrize("size", [(16, 16), (15, 17), (1, 1)])
@pytest.mark.parametrize(("input_nc", "output_nc"), CHANNELS)
def test_resunet_starts_as_the_identity(input_nc: int, output_nc: int, size: tuple[int, int]) -> None:
    x, net = batch(input_nc, *size), network("resunet", input_nc, output_nc)
    expected = x.expand(-1, output_nc, -1, -1) if input_nc <= output_nc else torch.zeros(1, 1, *size)
    assert torch.equal(net(x), expected)
    assert not torch.allclose(shaken(net)(x), expected, atol=1e-3)


@pytest.mark.parametrize(("levels", "depth", "stem"), [(1, 2, 1), (2, 1, 2), (3, 2, 4)])
def test_resunet_has_blocks_by_depth_and_an_unshuffled_input(levels: int, depth: int, stem: int) -> None:
    net: Any = network("resunet", levels=levels, depth=depth, stem=stem)
    assert count(net, ResidualBlock) == depth * (2 * levels - 1)
    assert net.stem[1].in_channels == 3 * stem**2 and net.size.multiple == stem * 2 ** (levels - 1)
    assert net(batch(3, 13, 21)).shape == (1, 3, 13, 21)
    assert count(default("resunet"), *NORM_LAYERS.values()) == 0


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_unet_halves_as_often_as_it_is_deep(depth: int) -> None:
    net: Any = network("unet", depth=depth)
    assert isinstance(net.downs, nn.ModuleList) and isinstance(net.ups, nn.ModuleList)
    assert len(net.downs) == depth and len(net.ups) == depth - 1
    shapes: list[tuple[int, int]] = []
    for down in net.downs:
        down.register_forward_hook(lambda module, args, output: shapes.append(output.shape[-2:]))
    assert net.eval()(batch(3, 64, 128)).shape == (1, 3, 64, 128)
    assert shapes == [(64 >> level, 128 >> level) for level in range(1, depth + 1)]


def test_unet_grows_to_eight_times_its_width_and_ends_as_pix2pix() -> None:
    net: Any = default("unet")
    assert [down[0].out_channels for down in net.downs] == [64, 128, 256, 512, 512]
    assert [up[0].in_channels for up in net.ups] == [512, 1024, 512, 256]
    assert isinstance(net.downs[0][1], nn.Identity)  # no norm after the first convolution
    assert {down[0].kernel_size for down in net.downs} == {(4, 4)} and count(net, nn.Tanh) == 1
    resized: Any = network("unet", upsample="resize")
    assert count(resized, nn.ConvTranspose2d) == 0 and count(resized, nn.Upsample) == len(resized.downs)
    assert resized(batch(3, 33, 70)).shape == (1, 3, 33, 70)


@pytest.mark.parametrize(("model", "own"), [("unet", {}), ("resunet", {"levels": 3})])
def test_every_skip_reaches_the_output(model: str, own: dict[str, int]) -> None:
    """All below a level is silenced; the output still changes when that of the level is set to 0."""
    net: Any = shaken(network(model, norm="none", **own)).eval()
    levels, below = (net.downs, net.downs[1:]) if model == "unet" else (net.encoders, net.downs)
    assert len(below) == 2
    for level, deeper in zip(levels, below, strict=False):
        silence = deeper.register_forward_hook(lambda module, args, output: output * 0)
        with torch.inference_mode():
            whole = net(batch(3, 32, 32))
            hook = level.register_forward_hook(lambda module, args, output: output * 0)
            assert not torch.allclose(whole, net(batch(3, 32, 32)), atol=1e-4)
        hook.remove()
        silence.remove()


# --------------------------------------------------------------------------------------------------- wrappers

WRAPPED = ({"scale": 2}, {"residual": True}, {"scale": 3, "residual": True})


@pytest.mark.parametrize("options", WRAPPED, ids=str)
def test_a_wrapped_network_computes_what_its_parts_do(options: dict[str, Any]) -> None:
    net = shaken(network("resnet", norm="batch", **options)).eval()
    scale, x = options.get("scale", 1), batch(3, 9, 11)
    enlarged = F.interpolate(x, (9 * scale, 11 * scale), mode="bicubic", antialias=True) if scale > 1 else x
    inner = bare(net)(enlarged)
    assert torch.equal(net(x), enlarged - inner if "residual" in options else inner)
    assert type(bare(net)).__name__ == "ResNet" and net.size == SizeRequirements(4, 16, scale)
    shown = {"scale": "Upscale(" in repr(net), "residual": "Residual(" in repr(net)}
    assert {name for name in shown if shown[name]} == options.keys()
    assert torch.equal(torch.export.export(net, (x,)).module()(x), net(x))


@pytest.mark.parametrize(
    ("outer", "prefix"),
    [
        (copy.deepcopy, ""),
        (lambda net: AveragedModel(net, use_buffers=True), "module."),
        (lambda net: torch.compile(net, backend="eager"), "_orig_mod."),
        (lambda net: nn.ModuleDict({"a": net, "b": nn.Conv2d(3, 3, 1)}), "a."),
    ],
    ids=["copied", "averaged", "compiled", "in_a_dict"],
)
@pytest.mark.parametrize("options", WRAPPED, ids=str)
def test_wrappers_leave_no_trace_in_the_names_of_weights(
    options: dict[str, Any], outer: Callable[[nn.Module], nn.Module], prefix: str
) -> None:
    wrapped = outer(network("resnet", norm="batch", **options))
    state = {key: value for key, value in wrapped.state_dict().items() if not key.startswith(prefix)}
    plain = network("resnet", norm="batch", seed=1).state_dict()
    state |= {prefix + key: value for key, value in plain.items()}
    assert set(wrapped.state_dict()) == state.keys()
    wrapped.load_state_dict(state)
    assert_same_state(dict(wrapped.state_dict()), state)
    del state[f"{prefix}body.1.weight"]
    state[f"{prefix}body.1.more"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=r"(?s)Missing key.*body.1.weight.*Unexpected key.*body.1.more"):
        wrapped.load_state_dict(state)


def test_the_average_of_a_wrapped_network_is_that_of_a_bare_one_and_copies_counts() -> None:
    averages = []
    for options in ({}, {"scale": 2}):
        net = network("dncnn", **options)
        ema = EMA(net, 0.9)
        for _ in range(3):
            bare(net)(shaken(net) and batch())
            ema.update()
        assert bare(ema.net).get_buffer("body.3.num_batches_tracked") == 3
        averages.append(ema)
    assert averages[1].state_dict()["n_averaged"] == 3
    averages[1].load_state_dict(averages[0].state_dict())
    assert_same_state(dict(averages[1].state_dict()), dict(averages[0].state_dict()))


@pytest.mark.parametrize(
    ("norm", "device", "world", "note"),
    [
        ("batch", "cpu", 1, ""),
        ("group", "cpu", 2, ""),
        ("batch", "cpu", 2, "batch-norm statistics are per process"),
        ("batch", "cuda", 2, ""),
    ],
)
def test_batch_norm_is_synchronised_on_gpus_only(norm: str, device: str, world: int, note: str) -> None:
    net = network("dncnn", norm=norm, scale=2)
    before = dict(net.state_dict())
    said = sync_batchnorm(net, Ranks(torch.device(device), 0, world, ""))
    assert said.startswith(note) and bool(said) == bool(note)
    assert (count(net, nn.SyncBatchNorm) > 0) == (device == "cuda")
    assert_same_state(dict(net.state_dict()), before)


# --------------------------------------------------------------------------------------- losses, objectives


CLOSED_FORMS = {"l1": torch.abs, "mse": torch.square, "charbonnier": lambda d: (d**2 + 1e-6).sqrt()}


@pytest.mark.parametrize("loss", CLOSED_FORMS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_pixel_losses_are_their_closed_forms(loss: str, reduction: str) -> None:
    output, target = batch(count=2).double(), batch(count=2, seed=1).double()
    value = LOSSES[loss](reduction=reduction)(output, target)
    assert value.shape == ()
    assert torch.allclose(value, getattr(CLOSED_FORMS[loss](output - target), reduction)(), rtol=1e-12)
    perfect = batch().requires_grad_()
    value = LOSSES[loss]()(perfect, batch())
    value.backward()
    assert 0 <= value.item() <= 1.001e-3 and perfect.grad is not None and perfect.grad.isfinite().all()


@pytest.mark.parametrize("amp", [False, True])
def test_the_paired_objective_is_one_turn_with_the_loss_by_its_name(amp: bool) -> None:
    net = network("resnet")
    parameters = list(net.parameters())[2:]
    context = (lambda: torch.autocast("cpu", torch.bfloat16)) if amp else nullcontext
    alone = Ranks(torch.device("cpu"), 0, 1, "")
    objective = OBJECTIVES["paired"](Task({"net": net}, parameters, {"mse": 1.0}, alone, "sum", context))
    (turn,) = objective.turns()
    assert turn.name == "G" and turn.module is net
    assert [id(parameter) for parameter in turn.parameters] == [id(parameter) for parameter in parameters]
    pair = {"input": batch(), "target": batch(seed=1)}
    terms = turn.losses(pair)
    with context():
        output = net(pair["input"])
    assert output.dtype == (torch.bfloat16 if amp else torch.float32)
    assert torch.equal(pair["output"], output)
    assert_same_state(terms, {"mse": (output.float() - pair["target"]).square().sum()})
    assert objective.state_dict() == {}
    objective.load_state_dict({})


# ---------------------------------------------------------------------------------------- lists without torch


def test_listing_the_names_imports_no_torch() -> None:
    code = (
        "import sys; from models import *; import models; from data.augment import AUGMENTATIONS;"
        "from data.layouts import LAYOUTS; from utils.optim.schedules import SCHEDULES;"
        "from utils.optim.optimizers import OPTIMIZERS; from utils.options.resolve import train_parser;"
        "train_parser();"
        "names = [*models.NETWORKS, *models.LOSSES]; [models.network_defaults(n) for n in models.NETWORKS];"
        "print(len(names), sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'torchvision'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split(maxsplit=1) == [str(len(NETWORKS) + len(LOSSES)), "[]\n"]


def test_a_network_has_its_own_flags_and_no_other() -> None:
    assert list(SMALL) == OURS  # each is tested here
    for model in OURS:
        assert {*SMALL[model], "norm", "act", "init"} <= network_defaults(model).keys()
        with pytest.raises(TypeError, match="nonsense"):
            network(model, nonsense=1)


# --------------------------------------------------------------------------------------------------- freezing


@pytest.mark.parametrize("options", [{}, {"scale": 2}])
def test_frozen_parameters_neither_train_nor_are_returned(options: dict[str, Any]) -> None:
    net = network("dncnn", **options)
    names = {id(parameter): name for name, parameter in bare(net).named_parameters()}
    trained = freeze(bare(net), r"^body\.0\.")
    frozen = {names[id(parameter)] for parameter in net.parameters() if not parameter.requires_grad}
    assert frozen == {"body.0.weight", "body.0.bias"}
    assert {names[id(parameter)] for parameter in trained} == {*names.values()} - frozen
    before = copy.deepcopy(net.state_dict())
    net(batch()).square().mean().backward()
    torch.optim.SGD(trained, 0.1).step()
    changed = {name for name in names.values() if not torch.equal(net.state_dict()[name], before[name])}
    assert changed.isdisjoint(frozen) and "body.2.weight" in changed


def test_a_pattern_that_matches_nothing_or_all_is_an_error() -> None:
    net = network("dncnn")
    freeze(net, "weight")
    assert len(freeze(net, None)) == len(list(net.parameters()))
    for pattern, which in ((None, ""), ("head", "no parameter"), (".", "every parameter")):
        if pattern:
            with pytest.raises(UserError, match=which) as caught:
                freeze(net, pattern)
            assert "body.0.weight" in caught.value.why
        assert all(parameter.requires_grad for parameter in net.parameters())
