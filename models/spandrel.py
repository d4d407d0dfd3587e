"""Architectures of the library spandrel: built from arguments, or recognised from published weights."""

import copy
import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import SizeRequirements, crop_to, pad_to
from models.weights import does_not_fit, mismatches, read_weights
from models.wrappers import Wrapper
from models.zoo import AUTO, TLC, parse_arch
from utils.system.errors import UserError, did_you_mean, first_sentence

OWN_PREFIX = "net."  # of every name in weights that a run of spandrel saved until November 2026
INPUTS = "in_nc", "num_in_ch", "in_chans", "in_channels", "inp_channels", "in_ch", "img_channel", "n_colors"
OUTPUTS = "out_nc", "num_out_ch", "out_chans", "out_channels", "out_ch"
SCALES = "scale", "upscale", "up_scale", "upscale_factor", "upscaling_factor"
NOISE_LEVEL = 15 / 255  # of the map that spandrel gives to DRUNet
Arguments = dict[str, Any]


class SpandrelNet(Wrapper):
    """`(N, input_nc, H, W)` to `(N, output_nc, scale * H, scale * W)`; any H and W.

    Input and output are in [0, 1] (mean 0, std 1); the output is not clipped. The `state_dict` has the
    architecture's own names: spandrel, and what uses it, loads it.

    Args:
        weights: file to load; required for an `arch` of "auto".
        architecture: name in spandrel.architectures; "": any, recognised by its weights.
        arch: arguments of its class, such as "width=32, middle_blk_num=1"; "auto": as in `weights`.
        scale: output size / input size, where the architecture has such an argument.

    Attributes:
        size: requirements on the input size, and the scale.
        architecture: its name in spandrel.architectures.
        tags: of its size, such as "64nf"; may be empty.

    Raises:
        UserError: spandrel is not installed, a wrong argument, weights that do not fit or of an unknown
            network, or other channels than `input_nc` and `output_nc`.
    """

    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        weights: str | None = None,
        architecture: str = "",
        arch: str = AUTO,
        scale: int = 1,
    ):
        if arch == AUTO:
            assert weights is not None
            found = recognise(weights, architecture)
            net = found.model
        else:
            given = parse_arch(arch)
            given.pop(TLC, None)  # see build_network
            net, found = build(architecture, given, input_nc, output_nc, scale)
            if weights is not None:
                load_published(net, weights, architecture)
        own = found.input_channels, found.output_channels
        if own != (input_nc, output_nc):
            raise UserError(
                f"{weights or architecture} has other channels [--input_nc, --output_nc]",
                f"the network has {own[0]} to {own[1]}, the options say {input_nc} to {output_nc}",
                f"--input_nc {own[0]} --output_nc {own[1]}",
            )
        super().__init__(trainable(net))
        self.input_nc, self.output_nc = own
        self.architecture, self.tags = found.architecture.id, list(found.tags)
        required = found.size_requirements
        self.size = SizeRequirements(required.multiple_of, max(1, required.minimum), int(found.scale))
        # not forward: some networks return several outputs or need a noise map as input
        self.call = CALLS.get(found.architecture.id, found._call_fn)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_inference_mode_enabled():
            return self.padded(x)
        # SPAN writes into its weights in eval mode: as inference tensors they could not be trained further
        with torch.inference_mode(False), torch.no_grad():
            return self.padded(x)

    def padded(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        output: Tensor = self.call(self.net, pad_to(x, self.size))
        return crop_to(output, self.size.scale * height, self.size.scale * width)


def with_noise_map(net: nn.Module, x: Tensor) -> Tensor:
    """What spandrel computes with DRUNet, for any number of images."""
    output: Tensor = net(torch.cat([x, torch.full_like(x[:, :1], NOISE_LEVEL)], dim=1))
    return output


def with_zeros(net: Any, x: Tensor) -> Tensor:
    """NAFNet, which pads with zeros; while torch.export traces any size, without a branch."""
    height, width = x.shape[-2:]
    if not isinstance(height, torch.SymInt):
        output: Tensor = net(x)
        return output
    x = pad_to(x, SizeRequirements(net.padder_size))
    rows, columns = (
        torch.arange(n, device=x.device) < end for n, end in zip(x.shape[-2:], (height, width), strict=True)
    )
    return crop_to(net(x * (rows[:, None] & columns)), height, width)


CALLS: dict[str, Callable[[Any, Tensor], Tensor]] = {"DRUNet": with_noise_map, "NAFNet": with_zeros}


# -------------------------------------------------------------------------------------------------- recognise


def library() -> Any:
    """The module spandrel; UserError where it is not installed."""
    try:
        import spandrel
    except ImportError as error:
        what = "--model spandrel needs the extra [zoo]"
        raise UserError(what, str(error), "pip install spandrel") from None
    return spandrel


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of an architecture, which its user cannot act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def recognise(file: str, architecture: str = "") -> Any:
    """spandrel's ImageModelDescriptor for the network whose weights are in `file`.

    Raises:
        UserError: no weights, an unknown network, or another one than `architecture`.
    """
    library()
    state = read_weights(Path(file))
    if all(key.startswith(OWN_PREFIX) for key in state):
        state = {key.removeprefix(OWN_PREFIX): value for key, value in state.items()}
    found = described(state, file)
    if architecture and found.architecture.id != architecture:
        fix = "--model spandrel takes any network that it knows"
        raise UserError(f"{file} is of {found.architecture.id}, not of {architecture} [--model]", fix=fix)
    return found


def described(state: Mapping[str, Tensor], whose: str) -> Any:
    """spandrel's ImageModelDescriptor for a state dict; UserError where it has none."""
    spandrel = library()
    try:
        with quiet():
            found = spandrel.ModelLoader().load_from_state_dict(dict(state))
    except Exception as error:  # an architecture may fail in any way on weights that are not its own
        why = f"{len(state)} tensors, such as {next(iter(state))} ({type(error).__name__})"
        raise UserError(f"{whose} is of no network that spandrel knows", why) from None
    one_image = isinstance(found, spandrel.ImageModelDescriptor)
    if not one_image or found.size_requirements.square:
        needs = "square images" if one_image else "a mask besides the image"
        raise UserError(f"{whose} is of a network that needs {needs}", found.architecture.name)
    return found


def load_published(net: nn.Module, file: str, architecture: str) -> None:
    """Load a file into a network; its names may be any that spandrel knows for the architecture."""
    state = recognise(file, architecture).model.state_dict()
    expected = net.state_dict()
    if state.keys() != expected.keys() or mismatches(expected, state):
        raise does_not_fit(Path(file), expected, state)
    net.load_state_dict(state)


# ------------------------------------------------------------------------------------------------------ build


def build(name: str, given: Arguments, input_nc: int, output_nc: int, scale: int) -> tuple[nn.Module, Any]:
    """(a network with initial weights, the ImageModelDescriptor that spandrel makes of its weights).

    Raises:
        UserError: no such architecture or argument, a value that it does not take, or one that spandrel
            cannot read from the weights, so that other programs would compute something else.
    """
    kind = class_of(name)
    signature = inspect.signature(kind)
    if wrong := [key for key in given if key not in signature.parameters]:
        fix = did_you_mean(wrong[0], signature.parameters)
        raise UserError(f"{name} has no argument {wrong[0]} [--arch]", f"{name}{signature}", fix)
    implied = implied_arguments(name, signature, input_nc, output_nc, scale)
    try:
        with quiet():
            net: nn.Module = kind(**implied | given)
    except Exception as error:  # of any kind: the values are the user's
        why = f"{type(error).__name__}: {first_sentence(error)}"
        raise UserError(f"{name} cannot be built [--arch]", why, f"{name}{signature}") from None
    found = described(net.state_dict(), f"a {name} of these arguments [--arch]")
    check_recognised(name, net, found)
    return net, found


def class_of(name: str) -> Any:
    """The class of an architecture; UserError where spandrel has none of this name."""
    path = Path(library().__file__).parent / "architectures"
    names = sorted(each.name for each in path.iterdir() if (each / "__init__.py").is_file())
    kind = None
    if name in names:
        kind = getattr(importlib.import_module(f"spandrel.architectures.{name}"), name, None)
    if kind is None:
        known = ", ".join(each for each in names if not each.startswith("_"))
        fix = did_you_mean(name, (each for each in names if each != name), "spandrel:{}")
        raise UserError(f"spandrel has no architecture {name} [--model]", f"it has {known}", fix)
    return kind


def implied_arguments(
    name: str, signature: inspect.Signature, input_nc: int, output_nc: int, scale: int
) -> Arguments:
    """The arguments of an architecture that follow from the data: channels and scale."""
    values = (
        dict.fromkeys(INPUTS, input_nc) | dict.fromkeys(OUTPUTS, output_nc) | dict.fromkeys(SCALES, scale)
    )
    found: Arguments = {key: value for key, value in values.items() if key in signature.parameters}
    if name == "DRUNet":
        found["in_nc"] += 1  # the noise map
    if name == "SwinIR" and scale > 1:
        found["upsampler"] = "pixelshuffledirect"
    return found


def check_recognised(name: str, net: nn.Module, found: Any) -> None:
    """Raise UserError unless spandrel, given weights of `net`, computes what `net` does.

    Compared with noise on the weights, of which many are 0 at first.
    """
    if found.architecture.id != name:
        why = f"spandrel takes its weights for {found.architecture.id}"
        raise UserError(f"a {name} of these arguments is not recognised [--arch]", why, "choose others")
    generator = torch.Generator().manual_seed(0)
    state = dict(net.state_dict())
    for key, parameter in net.named_parameters():
        state[key] = parameter.detach() + 0.02 * torch.randn(parameter.shape, generator=generator)
    required = found.size_requirements
    side = -(-max(32, required.minimum) // required.multiple_of) * required.multiple_of
    x = torch.rand(1, found.input_channels, side, side, generator=generator)
    outputs = []
    for each in (copy.deepcopy(net), found.model):
        each.load_state_dict(state)
        with torch.no_grad():
            outputs.append(found._call_fn(each.eval(), x))
    ours, theirs = outputs
    if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5, equal_nan=True):
        what = f"spandrel cannot read an argument of {name} from its weights [--arch]"
        raise UserError(what, differences(net, found.model), "leave it as other programs would take it")


def differences(net: Any, other: Any) -> str:
    """The arguments in which two networks of spandrel differ."""
    pairs = [(key, value, other.hyperparameters.get(key)) for key, value in net.hyperparameters.items()]
    return ", ".join(f"{key} is {one!r}, read as {two!r}" for key, one, two in pairs if one != two)[:200]


# ------------------------------------------------------------------------------ repairs that keep the weights


class ChannelNorm(nn.Module):
    """Layer norm over channels at each place of `(N, C, H, W)`, as one operation of torch."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter, eps: float):
        super().__init__()
        self.weight, self.bias, self.eps = weight, bias, eps

    def forward(self, x: Tensor) -> Tensor:
        last = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return last.permute(0, 3, 1, 2)


def trainable(net: nn.Module) -> nn.Module:
    """Repair what hinders training or export, in place; names, values and outputs stay.

    Tensors that are plain attributes become buffers, which move to a device with the network. NAFNet's norm,
    whose backward pass calls a function that torch has deprecated, becomes a ChannelNorm. Weights that SPAN
    computes from others become buffers: they are saved, but not trained.
    """
    from spandrel.architectures.NAFNet.__arch.arch_util import LayerNorm2d
    from spandrel.architectures.SPAN.__arch.span import Conv3XC

    for module in [*net.modules()]:
        for name, value in [*vars(module).items()]:
            if isinstance(value, Tensor):
                delattr(module, name)
                module.register_buffer(name, value, persistent=False)
        for name, child in module.named_children():
            if isinstance(child, LayerNorm2d):
                setattr(module, name, ChannelNorm(child.weight, child.bias, child.eps))
        if isinstance(module, Conv3XC):
            as_buffers(module.eval_conv)
    return net


def as_buffers(layer: nn.Module) -> None:
    """Turn the parameters of a layer into buffers of the same names, in place."""
    for name, value in [*layer.named_parameters(recurse=False)]:
        delattr(layer, name)
        layer.register_buffer(name, value.detach())


def merge_convolutions(net: nn.Module) -> None:
    """Replace each convolution of SPAN, trained as a sum of several, by the one that it equals, in place."""
    if not any(isinstance(module, SpandrelNet) for module in net.modules()):
        return
    from spandrel.architectures.SPAN.__arch.span import Conv3XC

    for module in [*net.modules()]:
        for name, child in module.named_children():
            if isinstance(child, Conv3XC):
                child.update_params()
                act = nn.LeakyReLU(0.05) if child.has_relu else nn.Identity()
                setattr(module, name, nn.Sequential(child.eval_conv, act))
