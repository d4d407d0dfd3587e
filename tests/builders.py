"""What tests build and compare: images, data sets on disk, small networks, files of weights."""

import hashlib
import html
import json
import os
import pickle
import re
import shlex
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from data.save import encode
from models import NETWORKS, build_network, network_defaults, own_arguments
from utils.options import parse_train
from utils.system.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
DATASETS = ROOT / "datasets"
Array = np.ndarray
Colour = tuple[int, int, int]
RED, BLUE = (255, 0, 0), (0, 0, 255)

OURS = [name for name in NETWORKS if name != "spandrel"]  # networks that need no file of weights
DEMO = ("--dataroot", "demo:6:48")
TINY_NET = ("--model", "resunet", "--width", "8", "--depth", "1", "--levels", "2")
TINY = (*DEMO, *TINY_NET)
FAST = ("--crop_size", "32", "--batchSize", "4", "--log_freq", "1", "--visdom", "off", "--seed", "3")
CPU = ("--visdom", "off", "--gpu_ids", "-1")
SMALL: dict[str, dict[str, Any]] = {  # arguments of a small version of each network
    "resnet": {"width": 8, "depth": 2},
    "unet": {"width": 8, "depth": 3},
    "dncnn": {"width": 16, "depth": 5},
    "resunet": {"width": 16, "depth": 1, "levels": 2},
}


def words(text: str) -> tuple[str, ...]:
    """A command line as the shell splits it."""
    return tuple(shlex.split(text))


def flags(**options: Any) -> tuple[str, ...]:
    """A command line: `flags(lr=0.1, residual=True, seed=None)` is `("--lr", "0.1", "--residual")`."""
    found: list[str] = []
    for name, value in options.items():
        if value is not None and value is not False:
            found += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return tuple(found)


def tiny_flags(model: str) -> tuple[str, ...]:
    """Flags of a small version of a network."""
    return flags(model=model, **SMALL[model])


def dataset(name: str) -> Path:
    """The folder of a real data set; skips the test where it is absent."""
    if not (DATASETS / name).exists():
        pytest.skip(f"datasets/{name} is absent")
    return DATASETS / name


# ----------------------------------------------------------------------------------------------------- images


def image(
    height: int, width: int, channels: int = 3, dtype: Any = np.uint8, seed: int = 0, smooth: bool = False
) -> Array:
    """A random image `(height, width, channels)`: integers of full range, or floats in [0, 1).

    `smooth` (8 bits only): a coarse pattern enlarged, with a little noise, as a photograph has.
    """
    rng, shape = np.random.default_rng(seed), (height, width, channels)
    if smooth:
        coarse = rng.integers(0, 256, (6, 7, channels), dtype=np.uint8)
        enlarged = Image.fromarray(_plain(coarse)).resize((width, height), Image.Resampling.BICUBIC)
        values = np.asarray(enlarged).reshape(shape)
        return np.clip(values + rng.normal(0, 4, shape), 0, 255).astype(np.uint8)
    if np.dtype(dtype).kind == "f":
        return rng.random(shape, dtype=dtype)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def worsened(target: Array, seed: int = 0, sigma: float = 5) -> Array:
    """An 8-bit image, darker and with noise of `sigma` of 255."""
    noise = np.random.default_rng(seed).normal(0, sigma, target.shape)
    return np.clip(0.9 * target + noise, 0, 255).astype(np.uint8)


def _plain(image: Array) -> Array:
    return image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image


def save(image: Array, path: Path, **options: Any) -> Path:
    """Write `(H, W)`, `(H, W, 1)` or `(H, W, 3)` of any depth to a file; makes the folder.

    `options` are Pillow's, for 8 bits and gray.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if image.dtype == np.uint8 or _plain(image).ndim == 2:
        Image.fromarray(_plain(image)).save(path, **options)
    else:
        path.write_bytes(encode(image, path.suffix))
    return path


def pixels(path: Path) -> Array:
    """An image file as Pillow reads it: `(H, W)` or `(H, W, 3)`."""
    with Image.open(path) as file:
        return np.asarray(file)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_file(width: int, height: int, bits: int, kind: int, rows: bytes = b"") -> bytes:
    """A PNG of packed rows, each after its filter; `kind` is 0 for gray and 2 for RGB."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + head + body + png_chunk(b"IEND", b"")


def unit(image: Array) -> Array:
    """Values of full scale 1, float64."""
    return image / np.float64(np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1)


def planes(image: Array) -> Tensor:
    """`(H, W, C)` to `(1, C, H, W)`."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


def psnr(image: Array, target: Array) -> float:
    """By scikit-image, of two images of any depth."""
    from skimage.metrics import peak_signal_noise_ratio  # here, as it is slow to import

    return float(peak_signal_noise_ratio(unit(target), unit(image), data_range=1))


def figures(image: Array, target: Array, channel: str = "rgb", border: int = 0) -> dict[str, float]:
    """PSNR, SSIM and MAE of two images `(H, W, C)` of any depth, by scikit-image and NumPy.

    SSIM with the settings of Wang et al.; "y": after MATLAB's rgb2ycbcr, T = [65.481 128.553 24.966], 16.
    """
    from skimage.metrics import structural_similarity

    image, target = unit(image), unit(target)
    if channel == "y" and target.shape[2] == 3:
        weights = np.array([65.481, 128.553, 24.966])
        image, target = (((16 + each @ weights) / 255)[:, :, None] for each in (image, target))
    cut = slice(border, -border or None)
    image, target = image[cut, cut], target[cut, cut]
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    similarity = structural_similarity(target, image, data_range=1.0, channel_axis=2, **gaussian)
    return {
        "psnr": psnr(image, target),
        "ssim": float(similarity),
        "mae": float(np.abs(image - target).mean()),
    }


def mean_of_eight(function: Callable[[Array], Array], image: Array) -> Array:
    """The mean output for the flips and turns of `(H, W, C)`, each turned back by NumPy."""
    outputs = []
    for turns, flip in product(range(4), (1, -1)):
        output = function(np.rot90(image[:, ::flip], turns))
        outputs.append(np.rot90(output, -turns)[:, ::flip])
    return np.mean(outputs, axis=0)


# ------------------------------------------------------------------------------------------ data sets on disk


class Files(NamedTuple):
    """The files of one pair; `target` is the input itself where there is only one."""

    input: Path
    target: Path

    @property
    def pair(self) -> tuple[Array, Array]:
        return pixels(self.input), pixels(self.target)


def write_set(
    root: Path,
    layout: str = "pairs",
    count: int = 3,
    size: tuple[int, int] | Sequence[tuple[int, int]] = (40, 40),
    splits: Sequence[str] = ("train", "test"),
    names: Sequence[str] = (),
    channels: int = 3,
    seed: int = 0,
    folders: tuple[str, str] = ("input", "target"),
) -> list[Files]:
    """Write a data set of smooth random images, the inputs darker and noisy; no two files are equal.

    Args:
        root: the folder; for "manifest", that of `pairs.csv`.
        layout: "pairs" (split/input/N.png, split/target/N.png), "suffix" (split/N_input.png,
            split/N_target.png), "reside" (split/hazy/N_1_0.9.png and N_2_0.9.png for split/clear/N.png),
            "manifest", "aligned" (split/N.png, both side by side), "clean" and "inputs" (split/N.png).
        count: of pairs in each split.
        size: (height, width) of all images, or a list of which each in turn has one.
        splits: "" stands for the root itself.
        names: file names, instead of N.png.
        channels: 1 or 3.
        folders: names of the folders of "pairs".
    """
    sizes = [size] if isinstance(size[0], int) else list(size)  # type: ignore[list-item]
    found, rows = [], ["split,input,target"]
    for split in splits:
        for number, name in enumerate(names or [f"{i}.png" for i in range(count)]):
            height, width = sizes[number % len(sizes)]  # type: ignore[misc]
            place = root / split
            target = image(height, width, channels, seed=seed + len(found), smooth=True)  # type: ignore[has-type]
            given = worsened(target, 99 + seed + len(found), 5 + 5 * (number % 3))
            if layout in ("clean", "inputs"):
                found.append(Files(*[save(target, place / name)] * 2))
            elif layout == "aligned":
                found.append(Files(*[save(np.hstack([given, target]), place / name)] * 2))
            elif layout == "reside":
                clear = save(target, place / "clear" / name)
                for level in (1, 2):
                    hazy = place / "hazy" / f"{Path(name).stem}_{level}_0.9.png"
                    found.append(Files(save(worsened(target, seed + len(found), 9 * level), hazy), clear))
            else:
                stem, _, end = name.rpartition(".")
                first, second = (
                    (f"{stem}_input.{end}", f"{stem}_target.{end}")
                    if layout == "suffix"
                    else (f"{folders[0]}/{name}", f"{folders[1]}/{name}")
                )
                found.append(Files(save(given, place / first), save(target, place / second)))
                rows.append(f"{split},{Path(split, first)},{Path(split, second)}")
    if layout == "manifest":
        (root / "pairs.csv").write_text("\n".join([*rows, ""]))
    return found


def put(
    folder: Path, *names: str, size: tuple[int, int] = (8, 6), mode: str = "RGB", colour: Colour | None = None
) -> None:
    """Write images of one colour, black unless told; `size` is (width, height)."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, colour or 0).save(folder / name)


def truncate(path: Path, part: float = 0.5) -> Path:
    """Cut a file to a share of its length: the header stays sound, the end is gone."""
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    return path


def damaged(whole: bytes) -> dict[str, bytes]:
    """Ways in which a file of weights goes bad, by name; none is a checkpoint any more."""
    middle = len(whole) // 2 - 2048
    cuts = {f"cut at {part:.2%}": whole[: int(part * len(whole))] for part in (0.001, 0.1, 0.5, 0.9, 0.99)}
    return {
        "empty": b"",
        "1 byte": whole[:1],
        **cuts,
        "last byte cut": whole[:-1],
        "zeros": bytes(len(whole)),
        "random": np.random.default_rng(1).bytes(len(whole)),
        "zip magic": b"PK\3\4",
        "pickle": pickle.dumps({"a": 1}),
        "text": b"epoch 3, loss 0.01\n" * 99,
        "html": b"<!DOCTYPE html><html><body>404: not found</body></html>\n",
        "leading junk": b"HTTP/1.1 200 OK\r\n\r\n" + whole,
        "tail zeroed": whole[:-4096] + bytes(4096),
        "middle zeroed": whole[:middle] + bytes(4096) + whole[middle + 4096 :],  # as after a power failure
    }


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with its sha256, every folder with ""."""
    return {
        path.relative_to(folder).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        )
        for path in sorted(folder.rglob("*"))
    }


def error_of(call: Callable[..., object], *given: Any) -> UserError:
    """The user error that a call must end with."""
    with pytest.raises(UserError) as caught:
        call(*given)
    return caught.value


# --------------------------------------------------------------------------------------- networks and weights


def network(model: str, input_nc: int = 3, output_nc: int = 3, seed: int = 0, **arguments: Any) -> nn.Module:
    """A small network; what `arguments` and SMALL leave open is the network's default."""
    torch.manual_seed(seed)
    own = {**network_defaults(model), **SMALL[model], **arguments}
    return build_network(model, input_nc=input_nc, output_nc=output_nc, **own)


def small_net(seed: int = 0) -> nn.Sequential:
    """Convolutions and a batch norm, `(N, 3, H, W)` to `(N, 3, H - 6, W - 6)`; a file of about 60 KB."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40), nn.Conv2d(40, 40, 3), nn.Conv2d(40, 3, 3))


def applied(net: nn.Module, image: Array) -> Array:
    """The output of a network, `(H, W, C)` as its input, in float64."""
    with torch.inference_mode():
        return net(planes(image).float())[0].permute(1, 2, 0).double().numpy()


def shaken(net: nn.Module, seed: int = 1, scale: float = 0.2) -> nn.Module:
    """`net` with random weights, so that layers that start at 0 count, too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return net


def write_weights(value: Any, path: Path, **options: Any) -> Path:
    """`torch.save`, returning the path; a network is saved as its state_dict."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value.state_dict() if isinstance(value, nn.Module) else value, path, **options)
    return path


class Payload:
    """What a hostile file holds: unpickled, it runs a command that makes the file `marker`."""

    def __init__(self, marker: Path):
        self.command = f"touch {marker}"

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def same_state(one: Any, two: Any) -> bool:
    """Bit equality of nested containers of tensors, arrays and numbers."""
    for kind, equal in ((Tensor, torch.equal), (np.ndarray, np.array_equal)):
        if isinstance(one, kind):
            return isinstance(two, kind) and one.dtype == two.dtype and bool(equal(one, two))
    if isinstance(one, dict):
        same_keys = isinstance(two, dict) and one.keys() == two.keys()
        return same_keys and all(same_state(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(two) and len(one) == len(two) and all(map(same_state, one, two))
    return bool(one == two)


def assert_same_state(one: Any, two: Any, where: str = "state") -> None:
    """Like `same_state`, but says which part differs."""
    if isinstance(one, dict) and isinstance(two, dict):
        assert one.keys() == two.keys(), f"{where}: {sorted(map(str, one.keys() ^ two.keys()))}"
        for key in one:
            assert_same_state(one[key], two[key], f"{where}[{key!r}]")
    else:
        assert same_state(one, two), f"{where} differs"


def largest_difference(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """Between two tensors of the same name."""
    assert one.keys() == two.keys()
    return max((one[key] - two[key]).abs().max().item() for key in one)


def finite(state: dict[str, Tensor]) -> bool:
    """Whether no tensor holds NaN or Inf."""
    return all(bool(value.isfinite().all()) for value in state.values())


# ------------------------------------------------------------------------------------------ runs, pages, JSON


def write_run(folder: Path, options: dict[str, Any], records: Iterable[dict[str, Any]] = ()) -> Path:
    """A run's folder with options.json and log.jsonl, as a training would leave it; no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "options.json").write_text(json.dumps({"name": folder.name, **options}))
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def strict_json(text: str) -> Any:
    """Parse JSON, without NaN and Infinity, which browsers refuse."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def write_trained(root: Path, *flags: str, name: str = "run", nc: tuple[int, int] = (3, 3)) -> Path:
    """A run's folder in `root`/checkpoints as train.py with these flags leaves it, with random weights.

    Args:
        nc: channels of input and output.
    """
    options = vars(parse_train(["--dataroot", "demo:2:32", "--name", name, *flags]))
    options |= {"input_nc": nc[0], "output_nc": nc[1], "scale": options["scale"] or 1}
    torch.manual_seed(0)
    net = build_network(options["model"], **own_arguments(options["model"], options))
    folder = write_run(root / "checkpoints" / name, options)
    write_weights(perturbed(net), folder / "best_net.pth")
    return folder


def perturbed(net: nn.Module, scale: float = 0.02) -> nn.Module:
    """`net` with noise on its weights and running statistics, so that layers that start at 0 or 1 count."""
    generator = torch.Generator().manual_seed(1)
    for key, value in net.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator) * scale
            value += noise.abs() if key.endswith("running_var") else noise
    return net


def facts_of(page: str) -> list[tuple[str, str]]:
    """(label, text) pairs of the summary of a report's page."""
    pairs = re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", page, re.DOTALL)
    return [(html.unescape(label), html.unescape(text)) for label, text in pairs]


class Outline(HTMLParser):
    """A page's tags, and the texts inside elements by their id or tag."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open = dict(attrs).get("id") or tag

    def handle_data(self, data: str) -> None:
        self.texts[self.open] = self.texts.get(self.open, "") + data

    def handle_endtag(self, tag: str) -> None:
        self.open = ""
