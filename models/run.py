"""A trained run as a function of images: its network, range, channels, padding and tiles."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from models import build_network, own_arguments
from models.predictor import Predictor, eval_mode
from models.tiling import Tiling
from models.weights import load_weights
from utils.system.device import set_float32
from utils.system.errors import UserError
from utils.system.jsonfile import read_object
from utils.system.netfile import saved_net
from utils.system.pixels import from_float
from utils.system.tensorfile import is_safetensors, safetensors_metadata

Array = np.ndarray
DTYPES = (np.uint8, np.uint16, np.float16, np.float32, np.float64)


def load_network(options: Mapping[str, Any], weights: Path) -> tuple[nn.Module, str]:
    """(the network that a run's options describe, with these weights, on the CPU; how they were matched).

    Raises:
        UserError: weights that cannot be read or do not fit.
    """
    arguments = own_arguments(options["model"], options)
    if "weights" in arguments:  # spandrel may recognise the architecture by its weights
        return build_network(options["model"], **arguments | {"weights": str(weights)}), ""
    net = build_network(options["model"], **arguments)
    return net, load_weights(net, weights)


class TrainedModel:
    """A trained network, called with an image.

    Attributes:
        net: the `nn.Module`, in eval mode: normalised `(N, input_nc, H, W)` in, any H and W.
        options: of the run, by the names of their flags.
        scale: output size / input size.
    """

    def __init__(self, net: nn.Module, options: Mapping[str, Any], device: torch.device, tiling: Tiling):
        self.net, self.options = net.eval().to(device), dict(options)
        self.input_nc, self.output_nc = options["input_nc"], options["output_nc"]
        self.predictor = Predictor(
            net, device, mean=options["mean"], std=options["std"], tiling=tiling, say=lambda text: None
        )
        self.scale = self.predictor.scale
        set_float32(device, tf32=False)

    def __call__(self, image: Any) -> Any:
        """Return the output for an image, of the same kind and dtype.

        Args:
            image: array `(H, W)` or `(H, W, C)`, or a Pillow image; uint8, uint16, or float in [0, 1]. Or a
                tensor `(C, H, W)` or `(N, C, H, W)`, uint8 or float in [0, 1]. A gray image is repeated over
                the channels of a network for colour.

        Returns:
            A Pillow image, an array, or a tensor on the device of `image`; `scale` times as high and wide,
            clamped to [0, 1], integers rounded.

        Raises:
            UserError: a dtype, shape or number of channels that the network does not take, or floats far
                outside of [0, 1], NaN included.
        """
        if isinstance(image, Tensor):
            return self._tensor(image)
        array = np.asarray(image)
        gray = array.ndim == 2
        output = self._array(array[:, :, None] if gray else array)
        is_pillow = isinstance(image, Image.Image)
        flat = output[:, :, 0] if self.output_nc == 1 and (gray or is_pillow) else output
        return Image.fromarray(flat) if is_pillow else flat

    def _tensor(self, image: Tensor) -> Tensor:
        if image.ndim == 4:
            return torch.stack([self._tensor(each) for each in image])
        if image.ndim != 3:
            raise UserError(f"a tensor of shape {tuple(image.shape)}", "expected (C, H, W) or (N, C, H, W)")
        plain = image.detach().float() if image.is_floating_point() else image
        output = self._array(plain.cpu().permute(1, 2, 0).numpy())
        return torch.from_numpy(output).permute(2, 0, 1).contiguous().to(image.device, image.dtype)

    def _array(self, image: Array) -> Array:
        """Map `(H, W, C)` to `(H * scale, W * scale, output_nc)` of the same dtype."""
        if image.dtype not in DTYPES:
            raise UserError(
                f"an image of {image.dtype}", fix="convert it to uint8, uint16, or float in [0, 1]"
            )
        if image.ndim == 3 and image.shape[2] == 1:
            image = np.repeat(image, self.input_nc, axis=2)
        if image.ndim != 3 or image.shape[2] != self.input_nc or not image.size:
            fix = f"convert it to {'gray' if self.input_nc == 1 else 'RGB'}, (H, W, {self.input_nc})"
            raise UserError(
                f"an image of shape {image.shape}", f"the network takes {self.input_nc} channels", fix
            )
        if image.dtype.kind == "f" and not (image.min() > -0.5 and image.max() < 2):
            found = f"float values from {image.min():.3g} to {image.max():.3g}"
            raise UserError(found, "those of an image are in [0, 1]", "divide those up to 255 by 255")
        with eval_mode(self.net), torch.inference_mode():
            _, bands = self.predictor.bands(image)
            rows = [from_float(band[0].permute(1, 2, 0).numpy(), image.dtype) for band in bands]
        return np.concatenate(rows)


def load_run(
    path: str | Path,
    weights: str = "best",
    *,
    device: str | torch.device = "cpu",
    tile: int | None = None,
    tile_overlap: int = 64,
) -> TrainedModel:
    """Load a trained run for use in any program; see `TrainedModel.__call__`. Computes in float32.

    Args:
        path: the folder of a run, such as `checkpoints/NAME`; or a `.safetensors` file that
            `python -m utils.export` wrote.
        weights: of a folder: `best`, `latest`, or the number of an epoch, as for --load.
        device: on which to compute; on a GPU without TF32, which this switches off for the process.
        tile: side of tiles in pixels; None: the whole image where it fits into memory.
        tile_overlap: pixels that tiles share.

    Raises:
        UserError: no such run or weights.
    """
    options, file = read_exported(Path(path)) if is_safetensors(Path(path)) else read_run(Path(path), weights)
    net, _ = load_network(options, file)
    return TrainedModel(net, options, torch.device(device), Tiling(tile, tile_overlap))


def read_exported(file: Path) -> tuple[dict[str, Any], Path]:
    """(the options in the metadata of an exported file, the file); UserError where it has none."""
    if not file.is_file():
        raise UserError(f"no such file: {file}")
    try:
        options = json.loads(safetensors_metadata(file)["options"])
    except (KeyError, ValueError):
        fix = "test.py --weights FILE --model ... takes it"
        raise UserError(f"{file} does not describe its network", "no options in its metadata", fix) from None
    return options, file


def read_run(folder: Path, weights: str) -> tuple[dict[str, Any], Path]:
    """(the options of a run, the file of its weights); UserError where one of them is missing."""
    if not (folder / "options.json").is_file():
        raise UserError(
            f"no run in {folder}", "options.json is missing", "name a folder such as checkpoints/RUN"
        )
    options = read_object(folder / "options.json", fix="restore a copy of it")
    return options, saved_net(folder, weights)
