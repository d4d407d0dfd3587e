"""Networks for other programs: images in [0, 1] in and out, as ONNX or as a program of torch.export."""

import copy
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from models.spandrel import merge_convolutions
from models.wrappers import bare
from utils.system.errors import UserError, first_sentence

Array = np.ndarray
OPSET = 20
EXAMPLE_SIDES = 61, 83  # pixels of the traced image, before rounding to what the network needs


class Portable(nn.Module):
    """`(N, input_nc, H, W)` in [0, 1] to `(N, output_nc, scale * H, scale * W)` in [0, 1], float32.

    Args:
        net: a network that pads its own input; a copy is taken.
        mean, std: of the Normalize that it was trained with.
        half: compute in float16, instance and group norms excepted.
    """

    def __init__(self, net: nn.Module, mean: float, std: float, half: bool = False):
        super().__init__()
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        merge_convolutions(self.net)
        self.mean, self.std, self.half_precision = mean, std, half
        if half:
            self.net = in_float32(self.net.half())

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.std
        output = self.net(x.half()).float() if self.half_precision else self.net(x)
        return (output * self.std + self.mean).clamp(0, 1)


class InFloat32(nn.Module):
    """A layer that computes in float32, inside a network in float16."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer.float()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x.float())
        return output.to(x.dtype)


def in_float32(net: nn.Module) -> nn.Module:
    """Wrap instance and group norms of `net`, in place: their sums over an image overflow float16."""
    for module in [*net.modules()]:
        for name, child in module.named_children():
            if isinstance(child, (nn.InstanceNorm2d, nn.GroupNorm)):
                setattr(module, name, InFloat32(child))
    return net


def trace(net: Portable, channels: int, size: tuple[int, int] | None) -> ExportedProgram:
    """Trace a network for any number of images and any height and width, or for one image of `size`.

    Raises:
        UserError: the network cannot be traced, or not for any size.
    """
    height, width = size or EXAMPLE_SIDES
    example = torch.rand(1 if size else 2, channels, height, width)
    shapes = None if size else ({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    try:
        with torch.no_grad(), quiet_log():
            return torch.export.export(net, (example,), dynamic_shapes=shapes)
    except Exception as error:  # torch.export raises many kinds
        raise cannot(net, error, size) from None


@contextmanager
def quiet_log() -> Iterator[None]:
    """Without torch's log of errors, which are raised, too."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def cannot(net: Portable, error: BaseException, size: tuple[int, int] | None) -> UserError:
    """The error for a network that cannot be exported, with the first cause as its reason."""
    name = type(bare(net.net)).__name__
    fix = "export --to safetensors" if size else "fix the size by --size H W, or export --to safetensors"
    fix = "leave out --half" if net.half_precision else fix
    where = "" if size else " for images of any size"
    while error.__cause__ is not None:
        error = error.__cause__
    return UserError(
        f"{name} cannot be exported{where}", f"{type(error).__name__}: {first_sentence(error)}", fix
    )


def save_onnx(
    net: Portable, channels: int, size: tuple[int, int] | None, metadata: Mapping[str, str], path: Path
) -> None:
    """Write an ONNX file of one input "input" and one output "output".

    Raises:
        UserError: the network cannot be exported.
    """
    traced = trace(net, channels, size)
    try:
        with warnings.catch_warnings(), quiet_log():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                traced,
                dynamo=True,
                input_names=["input"],
                output_names=["output"],
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        raise cannot(net, error, size) from None
    assert program is not None
    program.model.metadata_props.update(metadata)
    program.save(str(path), external_data=False)


def save_program(
    net: Portable, channels: int, size: tuple[int, int] | None, metadata: Mapping[str, str], path: Path
) -> None:
    """Write a `.pt2` file for torch.export.load; UserError where the network cannot be exported."""
    traced = trace(net, channels, size)
    with path.open("wb") as file:
        torch.export.save(traced, file, extra_files={"metadata.json": json.dumps(dict(metadata))})


def open_onnx(path: Path) -> Callable[[Array], Array]:
    """The function of an ONNX file, computed by onnxruntime on the CPU; float32 `(N, C, H, W)`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"input": image})[0]


def open_program(path: Path) -> Callable[[Array], Array]:
    """The function of a `.pt2` file; float32 `(N, C, H, W)`."""
    with path.open("rb") as file:
        net = torch.export.load(file).module()

    def call(image: Array) -> Array:
        with torch.no_grad():
            return net(torch.from_numpy(image)).numpy()

    return call


def require(*packages: str) -> None:
    """Raise UserError where a package of the extra [export] is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{missing[0]} is not installed [--to]", fix='pip install -e ".[export]"')
