"""Tiles against the whole image: what they cover, what they change, and how much memory either takes."""

import math
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.datasets import Whole
from models import build_network, network_defaults
from models import predictor as module
from models.layers import SizeRequirements, size_of
from models.tiling import Tiling, bands, blending, bytes_per_pixel, first_tile, smaller_tile, starts
from tests import builders
from tests.builders import OURS, ROOT
from utils.eval.evaluator import Evaluator, Prediction
from utils.system.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
Array = np.ndarray


def image(height: int, width: int, channels: int = 3, seed: int = 0) -> Array:
    """Float32 noise in [0, 1]."""
    return builders.image(height, width, channels, np.float32, seed)


# ----------------------------------------------------------------------------------- covering and blending


def cuts(count: int) -> list[tuple[int, int, int, int, int]]:
    """Random (length, tile, overlap, multiple, scale) that advance."""
    rng = np.random.default_rng(0)
    found: list[tuple[int, int, int, int, int]] = []
    while len(found) < count:
        multiple, scale = int(rng.choice([1, 2, 3, 4, 8, 32])), int(rng.choice([1, 2, 3, 4]))
        tile, length = int(rng.integers(1, 200)), int(rng.integers(1, 700))
        overlap = int(rng.integers(0, tile))
        if tile // multiple * multiple - overlap >= multiple:
            found.append((length, tile, overlap, multiple, scale))
    return found


def test_tiles_cover_a_side_and_their_weights_add_up_to_one() -> None:
    for case in cuts(500):
        length, tile, overlap, multiple, scale = case
        begin = starts(length, tile, overlap, multiple)
        ends = [min(start + tile, length) for start in begin]
        assert begin[0] == 0 and ends[-1] == length, case
        assert all(start % multiple == 0 for start in begin), case
        for start, end, following in zip(begin, ends, begin[1:], strict=False):
            assert start < following < length and end - following >= overlap, case
        total = np.zeros(length * scale)
        weights = blending(begin, length, tile, overlap, scale)
        for start, end, weight in zip(begin, ends, weights, strict=True):
            assert len(weight) == (end - start) * scale and weight.dtype == np.float32, case
            assert weight.min() >= 0 and weight.max() <= 1, case
            total[start * scale : end * scale] += weight
        assert np.abs(total - 1).max() < 1e-6, case


def test_only_the_middle_of_an_overlap_is_blended() -> None:
    """Of 64 shared pixels the outer 24 on each side count for one of the two only."""
    first, second = blending([0, 64], 192, 128, 64, 1)
    assert (first[:88] == 1).all() and (first[104:] == 0).all()
    assert (second[:24] == 0).all() and (second[40:] == 1).all()
    assert (np.diff(first[87:105]) < 0).all()


def test_bands_put_every_pixel_back_where_it_was() -> None:
    """In any cut, also where three tiles overlap; no part is larger than a tile."""
    for case in cuts(60):
        height, tile, overlap, multiple, scale = case
        noise = image(min(height, 150), 1 + height % 97, 1 + height % 2, seed=height)

        def forward(part: Array, tile: int = tile, scale: int = scale) -> Tensor:
            assert part.shape[0] <= tile and part.shape[1] <= tile
            large = torch.from_numpy(part.repeat(scale, 0).repeat(scale, 1)).permute(2, 0, 1)[None]
            return torch.cat([large, -large])

        found = torch.cat(list(bands(forward, noise, tile, overlap, multiple, scale)), 2)
        wanted = noise.repeat(scale, 0).repeat(scale, 1).transpose(2, 0, 1)
        assert found.shape == (2, *wanted.shape), case
        assert np.abs(found.numpy() - np.stack([wanted, -wanted])).max() < 1e-6, case


def test_bands_come_as_soon_as_they_are_done() -> None:
    calls: list[tuple[int, ...]] = []

    def forward(part: Array) -> Tensor:
        calls.append(part.shape)
        return torch.from_numpy(part).permute(2, 0, 1)[None]

    seen = [(band.shape[2], len(calls)) for band in bands(forward, image(100, 40, 1), 40, 8, 4, 1)]
    assert seen == [(32, 1), (28, 2), (40, 3)]


@pytest.mark.parametrize(("tile", "overlap", "multiple"), [(9, 8, 4), (8, 8, 1), (4, 0, 8), (64, 48, 32)])
def test_tiles_that_do_not_advance_are_an_error(tile: int, overlap: int, multiple: int) -> None:
    with pytest.raises(UserError, match=f"--tile {tile} with --tile_overlap {overlap}") as error:
        starts(1000, tile, overlap, multiple)
    enough = int(error.value.fix.split()[1])
    assert starts(1000, enough, overlap, multiple)
    net = nn.Identity()
    net.size = SizeRequirements(multiple=multiple)  # type: ignore[assignment]
    with pytest.raises(UserError) as error:
        Evaluator(net, CPU, False, tiling=Tiling(tile, overlap))
    assert error.value.code == 2


# -------------------------------------------------------------------------------------- tiles are the whole

LOCAL = [
    ("resunet", "none"),
    *[(name, norm) for name in ("dncnn", "resnet", "unet") for norm in ("none", "batch")],
]


def network(name: str, norm: str, scale: int = 1) -> nn.Module:
    """A small network in eval mode, none of whose weights or statistics is 0 or 1."""
    net = builders.network(name, norm=norm, scale=scale, init="kaiming")
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and not layer.weight.any():  # those that start at 0
            nn.init.normal_(layer.weight, 0, 0.02)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 2)  # type: ignore[arg-type]
    return net.eval()


def plain(net: nn.Module) -> Callable[[Array], Tensor]:
    def forward(part: Array) -> Tensor:
        with torch.inference_mode():
            return net(builders.planes(part))

    return forward


def receptive_field(net: nn.Module) -> int:
    """How wide one input pixel reaches, at most, from any place of the strided grid; in input pixels."""
    multiple, scale = size_of(net).multiple, size_of(net).scale
    net.double()
    side, reach = 160, 0
    x = torch.rand(1, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = net(x)
        for at in range(side // 2, side // 2 + multiple):
            moved = x.clone()
            moved[..., at, at] += 0.5
            changed = (net(moved) - before).abs().amax((0, 1)) > 1e-12
            places = changed.nonzero() / scale
            reach = max(reach, math.ceil((places - at).abs().max().item()))
    net.float()
    assert 0 < reach < side // 2 - multiple, "the image was too small to tell"
    return 2 * reach + 1


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize(("name", "norm"), LOCAL)
def test_tiles_give_what_the_whole_gives(name: str, norm: str, scale: int) -> None:
    net = network(name, norm, scale)
    multiple = size_of(net).multiple
    overlap = receptive_field(net) + 16
    tile = overlap + 4 * multiple + 3  # of no multiple but 1

    def error(noise: Array, overlap: int) -> float:
        height, width = noise.shape[:2]
        whole = plain(net)(noise)
        assert whole.shape == (1, 3, height * scale, width * scale)
        tiled = torch.cat(list(bands(plain(net), noise, tile, overlap, multiple, scale)), 2)
        return (tiled - whole).abs().max().item()

    sizes = [(tile + 41, 2 * tile + 13), (tile - 5, tile - 9), (11, 2 * tile + 7), (tile + 1, 3), (1, 2)]
    assert all(error(image(*size), overlap) < 1e-5 for size in sizes)
    assert error(image(*sizes[0]), 0) > 1e-3  # what overlap is for


def predict(
    net: nn.Module, image: Array, target: Array | None = None, **options: Any
) -> tuple[Prediction, list[str]]:
    said: list[str] = []
    (found,) = Evaluator(net, CPU, False, say=said.append, **options)(
        [Whole("a.png", image, target, image.dtype)]
    )
    return found, said


@pytest.mark.parametrize(("name", "height", "width"), [("dncnn", 173, 211), ("resunet", 172, 212)])
def test_the_ensemble_goes_in_tiles_too(name: str, height: int, width: int) -> None:
    net = network(name, "none")
    overlap = receptive_field(net) + 16
    pair, tile = (image(height, width), image(height, width, seed=1)), overlap + 40
    whole, tiled = (predict(net, *pair, tiling=Tiling(size, overlap), x8=True)[0] for size in (1000, tile))
    assert (whole.tile, tiled.tile) == (1000, tile)
    assert np.abs(whole.output - tiled.output).max() < 1e-5
    assert whole.scores.keys() >= {"psnr", "psnr_single"}
    assert tiled.scores == pytest.approx(whole.scores, abs=1e-4)
    assert whole.scores["psnr"] != whole.scores["psnr_single"]


def test_the_note_says_how_much_instance_norm_changes_in_tiles() -> None:
    net = network("resunet", "instance")
    noise = 0.3 + 0.4 * image(144, 144)
    with torch.no_grad():
        net.head[0].weight.mul_(0.05)  # type: ignore[index, union-attr]
    found, said = predict(net, noise, tiling=Tiling(96, 64))
    whole = plain(net)((noise - 0.5) / 0.5)[0].permute(1, 2, 0).numpy() * 0.5 + 0.5
    assert whole.min() > 0 and whole.max() < 1, "clamping would hide a difference"
    most = float(np.abs(found.output - whole).max())
    decibel = -10 * math.log10(np.square(found.output.astype(np.float64) - whole).mean())
    (note,) = said
    numbers = re.search(r"at most (\S+) \(PSNR between the two: (\S+) dB\), on 144 x 144 pixels", note)
    assert numbers and note.startswith("tiles of 96, overlap 64, differ from the whole")
    assert float(numbers[1]) == pytest.approx(most, rel=0.06) and most > 1e-3
    assert float(numbers[2]) == pytest.approx(decibel, abs=0.06)


def test_one_evaluator_notes_once_how_little_an_exact_network_changes() -> None:
    said: list[str] = []
    evaluator = Evaluator(nn.Conv2d(3, 3, 3, padding=1), CPU, False, tiling=Tiling(48, 20), say=said.append)
    images = [Whole(str(i), image(90, 100, seed=i), None, np.float32) for i in range(3)]
    assert len(list(evaluator([Whole("s", image(48, 40), None, np.float32), *images]))) == 4
    assert len(list(evaluator(images))) == 3
    assert len(said) == 1 and evaluator.notes == said
    assert float(re.findall(r"at most (\S+)", said[0])[0]) < 1e-6


# --------------------------------------------------------------------------------------------- out of memory


class Limited(nn.Module):
    """A convolution that runs out of memory for more pixels than it can take, or at the calls `fails_at`."""

    def __init__(self, pixels: float = math.inf, fails_at: tuple[int, ...] = ()):
        super().__init__()
        torch.manual_seed(0)
        self.pixels, self.fails_at, self.sizes = pixels, fails_at, list[int]()
        self.conv = nn.Conv2d(3, 3, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(x.shape[2] * x.shape[3])
        if self.sizes[-1] > self.pixels or len(self.sizes) - 1 in self.fails_at:
            raise torch.OutOfMemoryError("no more")
        return self.conv(x) * 0.2


@pytest.mark.parametrize(
    ("net", "asked", "overlap", "tile"),
    [
        (Limited(150 * 150), None, 32, 150),
        (Limited(149 * 149), None, 32, 75),
        (Limited(74 * 74), None, 32, 64),  # the smallest
        (Limited(150 * 150), 299, 32, 149),
        (Limited(150 * 150), 5000, 32, 150),
        (Limited(10**6), None, 32, None),
        # at some calls only, as beside another program on the device: nothing is counted twice
        (Limited(fails_at=(0,)), 200, 64, 100),
        (Limited(fails_at=(1,)), 200, 64, 100),
    ],
)
def test_out_of_memory_continues_in_tiles(
    net: Limited, asked: int | None, overlap: int, tile: int | None
) -> None:
    noise = image(300, 300 if net.fails_at else 200)
    whole, none_said = predict(Limited(), noise)
    found, said = predict(net, noise, tiling=Tiling(asked, overlap))
    assert found.tile == tile and not none_said
    assert found.output.shape == whole.output.shape
    assert np.abs(found.output - whole.output).max() < 1e-5
    about_memory = [line for line in said if "memory" in line]
    assert about_memory == ([] if tile is None else [f"out of memory: using tiles of {tile}"])


@pytest.mark.parametrize(
    ("net", "size", "tile"),
    [
        (Limited(64 * 64), (300, 200), None),  # the smallest tile fails
        (Limited(100), (30, 20), None),  # there are no tiles of a small image
        # after the first row of tiles: its rows are measured already, and must not be measured again
        (Limited(fails_at=(1,)), (300, 200), 200),
    ],
)
def test_out_of_memory_in_the_smallest_tiles_is_an_error(
    net: Limited, size: tuple[int, int], tile: int | None
) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        predict(net, image(*size), tiling=Tiling(tile))
    if size[0] == 300 and not tile:
        assert net.sizes[-1] == 65 * 65


def test_tiles_shrink_down_to_the_smallest_and_no_further() -> None:
    for tile, overlap, multiple in [(5000, 64, 1), (512, 64, 32), (300, 0, 8), (4000, 500, 4), (130, 64, 8)]:
        sizes: list[int] = []
        while smaller := smaller_tile(sizes[-1] if sizes else tile, overlap, multiple):
            sizes.append(smaller)
        assert sizes == sorted(set(sizes), reverse=True) and sizes[0] <= 1024
        assert all(size % multiple == 0 and starts(10**4, size, overlap, multiple) for size in sizes)
        assert 64 <= sizes[-1] < max(64, overlap + multiple) + multiple


# ------------------------------------------------------------------------------------- the memory of a whole


class Counting(nn.Module):
    """Doubles the input; keeps the sizes it was called with."""

    size = SizeRequirements(multiple=8)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        return x * 2


def test_an_image_beyond_the_free_memory_goes_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_memory", lambda device: 2**20)
    gray = np.full((900, 800, 1), 0.5, np.float32)
    net = Counting()
    found, said = predict(net, gray)
    assert found.tile == 512 and [size[2:] for size in net.seen[1:5]] == [(512, 512)] * 2 + [(508, 512)] * 2
    (line,) = [line for line in said if "GiB" in line]
    assert line.startswith("800 x 900 pixels: using tiles of 512 (") and "\n" not in line

    monkeypatch.setattr(module, "free_memory", lambda device: 2**40)
    net = Counting()
    found, said = predict(net, gray)
    assert found.tile is None and not said and net.seen[-1] == (1, 1, 900, 800)


def test_memory_is_not_estimated_for_a_given_tile_or_a_small_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*given: object) -> float:
        raise AssertionError("asked")

    monkeypatch.setattr(module, "free_memory", asked)
    monkeypatch.setattr(module, "bytes_per_pixel", asked)
    found, said = predict(Counting(), np.full((900, 800, 1), 0.5, np.float32), tiling=Tiling(256, 64))
    assert found.tile == 256 and not any("GiB" in line for line in said)
    predict(Counting(), np.full((30, 20, 1), 0.5, np.float32))  # a small image fits anywhere


def test_the_first_tile() -> None:
    assert first_tile(Tiling(), 10, 10, 8) is None and first_tile(Tiling(), 11, 10, 8) == 512
    assert first_tile(Tiling(100), 11, 10, 8) == 100 and first_tile(Tiling(100), 1, 10, 8) == 100
    assert first_tile(Tiling(), 11, 10, 48) == 480 and first_tile(Tiling(), 11, 10, 1024) == 1024
    assert first_tile(Tiling(None, 600), 11, 10, 8) == 1200  # 512 would not advance


@pytest.mark.parametrize("name", OURS)
def test_the_estimate_suits_a_machine_of_24_gib(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """3000 x 2000 go whole through every network as it is by default, 12,000 x 8,000 in tiles."""
    net = build_network(name, input_nc=3, output_nc=3, **network_defaults(name)).eval()
    monkeypatch.setattr(module, "free_memory", lambda device: 24 * 2**30)
    evaluator = Evaluator(net, CPU, False, say=lambda text: None)
    assert evaluator.choose_tile(np.empty((2000, 3000, 3), np.uint8)) is None
    assert evaluator.choose_tile(np.empty((8000, 12_000, 3), np.uint8)) == 512


def test_the_estimate_follows_the_largest_layer() -> None:
    copies = 6 * 4 * 3
    example = torch.zeros(1, 3, 64, 64)
    conv = nn.Conv2d(3, 10, 3, padding=1)
    assert bytes_per_pixel(conv, example) == pytest.approx(4 * (3 + 10) * 4 + 6 * 4 * 10)
    nested = nn.Sequential(conv, nn.Sequential(nn.Conv2d(10, 20, 3, padding=1), nn.Conv2d(20, 3, 1)))
    assert bytes_per_pixel(nested, example) == pytest.approx(4 * (10 + 20) * 4 + copies)
    for net in (network(name, norm) for name, norm in LOCAL):
        double = bytes_per_pixel(net, torch.zeros(1, 3, 128, 128))
        assert bytes_per_pixel(net, example) == pytest.approx(double, rel=0.1)


# VmHWM, as ru_maxrss would be that of the process which started this one, where that was the larger
PEAK_OF_RSS = """
import sys
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(1)
def peak():
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024
"""
PEAK = """
from models import build_network, network_defaults
from models.tiling import bytes_per_pixel
name, side = sys.argv[1], int(sys.argv[2])
net = build_network(name, input_nc=3, output_nc=3, **network_defaults(name)).eval()
with torch.inference_mode():
    estimate = bytes_per_pixel(net, torch.zeros(1, 3, 64, 64)) * side**2
    before = peak()
    image = torch.rand(1, 3, side, side)
    net(image)
print(estimate, peak() - before)
"""
LARGE = """
from data.datasets import Whole
from utils.eval.evaluator import Evaluator
from models.tiling import Tiling
net = torch.nn.Conv2d(3, 3, 3, padding=1)
evaluate = Evaluator(net, torch.device("cpu"), False, tiling=Tiling(512, 64))
image = lambda seed, h, w: np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)
list(evaluate([Whole("small", image(0, 600, 600), image(1, 600, 600), np.uint8)]))
before = peak()
(found,) = evaluate([Whole("large", image(0, 3000, 4000), image(1, 3000, 4000), np.uint8)])
assert found.output.shape == (3000, 4000, 3) and found.scores["psnr"] < 20
print(peak() - before)
"""


def run(script: str, *arguments: str) -> list[float]:
    """The numbers on the last line of a script, in a process of its own with one thread."""
    command = [sys.executable, "-c", PEAK_OF_RSS + script, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [float(word) for word in done.stdout.splitlines()[-1].split()]


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("resunet", 1200),  # a side at which glibc gives freed tensors back: they are over 32 MiB
        pytest.param("resunet", 1500, marks=slow),
        pytest.param("unet", 1500, marks=slow),
        pytest.param("dncnn", 700, marks=slow),
        pytest.param("resnet", 700, marks=slow),
    ],
)
def test_the_estimate_is_above_the_measured_peak_and_near(name: str, side: int) -> None:
    estimate, measured = run(PEAK, name, str(side))
    assert measured <= estimate <= 4 * measured, f"{estimate / measured:.2f} of the measured peak"


def test_a_large_image_in_tiles_takes_little_more_than_itself() -> None:
    (taken,) = run(LARGE)
    assert taken < 3 * (3000 * 4000 * 3) + 250e6, f"{taken / 1e6:.0f} MB"
