"""Tiles against the whole image: what they cover, what they change, and how much memory either takes."""

import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.datasets import Whole
from models import build_network, network_defaults
from models.layers import SizeRequirements, size_of
from tests.conftest import ROOT
from utils.eval import evaluator as evaluate
from utils.eval.evaluator import Evaluator, Prediction
from utils.eval.tiling import Tiling, bands, blending, fitting_tile, memory_per_pixel, smaller_tile, starts
from utils.system.errors import UserError

CPU = torch.device("cpu")
Array = np.ndarray


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The images here are too small for more to pay."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> Array:
    """Float32 noise in [0, 1]."""
    return np.random.default_rng(seed).random((height, width, channels), dtype=np.float32)


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


def test_only_the_middle_of_what_two_tiles_share_is_blended() -> None:
    """Of 64 shared pixels the outer 24 on each side count for one of the two only."""
    first, second = blending([0, 64], 192, 128, 64, 1)
    assert (first[:88] == 1).all() and (first[104:] == 0).all()
    assert (second[:24] == 0).all() and (second[40:] == 1).all()
    assert (np.diff(first[87:105]) < 0).all()


def test_bands_put_every_pixel_back_where_it_was() -> None:
    """In any cut, also where three tiles overlap; no part is larger than a tile."""
    for case in cuts(60):
        height, tile, overlap, multiple, scale = case
        image = picture(min(height, 150), 1 + height % 97, 1 + height % 2, seed=height)

        def forward(part: Array, tile: int = tile, scale: int = scale) -> Tensor:
            assert part.shape[0] <= tile and part.shape[1] <= tile
            large = torch.from_numpy(part.repeat(scale, 0).repeat(scale, 1)).permute(2, 0, 1)[None]
            return torch.cat([large, -large])

        found = torch.cat(list(bands(forward, image, tile, overlap, multiple, scale)), 2)
        wanted = image.repeat(scale, 0).repeat(scale, 1).transpose(2, 0, 1)
        assert found.shape == (2, *wanted.shape), case
        assert np.abs(found[0].numpy() - wanted).max() < 1e-6, case
        assert np.abs(found[1].numpy() + wanted).max() < 1e-6, case


def test_bands_come_as_soon_as_they_are_done() -> None:
    calls: list[tuple[int, ...]] = []

    def forward(part: Array) -> Tensor:
        calls.append(part.shape)
        return torch.from_numpy(part).permute(2, 0, 1)[None]

    seen = [(band.shape[2], len(calls)) for band in bands(forward, picture(100, 40, 1), 40, 8, 4, 1)]
    assert seen == [(32, 1), (28, 2), (40, 3)]


@pytest.mark.parametrize(("tile", "overlap", "multiple"), [(9, 8, 4), (8, 8, 1), (4, 0, 8), (64, 48, 32)])
def test_tiles_that_do_not_advance_are_refused(tile: int, overlap: int, multiple: int) -> None:
    with pytest.raises(UserError, match=f"--tile {tile} with --tile_overlap {overlap}") as refusal:
        starts(1000, tile, overlap, multiple)
    enough = int(refusal.value.fix.split()[1])
    assert starts(1000, enough, overlap, multiple)
    net = nn.Identity()
    net.size = SizeRequirements(multiple=multiple)  # type: ignore[assignment]
    with pytest.raises(UserError) as refusal:
        Evaluator(net, CPU, False, tiling=Tiling(tile, overlap))
    assert refusal.value.code == 2


# -------------------------------------------------------------------------------------- tiles are the whole

SMALL: dict[str, dict[str, Any]] = {
    "resunet": {"width": 8, "depth": 1, "levels": 2, "init": "kaiming"},
    "dncnn": {"width": 8, "depth": 5, "init": "kaiming"},
    "resnet": {"width": 4, "depth": 1, "init": "kaiming"},
    "unet": {"width": 8, "depth": 2, "init": "kaiming"},
}
LOCAL = [
    ("resunet", "none"),
    *[(name, norm) for name in ("dncnn", "resnet", "unet") for norm in ("none", "batch")],
]


def network(name: str, norm: str, scale: int = 1, seed: int = 0) -> nn.Module:
    """A small network in eval mode, none of whose weights or statistics is 0 or 1."""
    torch.manual_seed(seed)
    arguments = network_defaults(name) | SMALL[name] | {"norm": norm}
    net = build_network(name, scale=scale, input_nc=3, output_nc=3, **arguments)
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.any():  # those that start at 0
            nn.init.normal_(module.weight, 0, 0.02)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    return net.eval()


def facts_of(net: nn.Module) -> tuple[int, int]:
    """(multiple, scale)."""
    return size_of(net).multiple, size_of(net).scale


def plain(net: nn.Module) -> Callable[[Array], Tensor]:
    def forward(part: Array) -> Tensor:
        with torch.inference_mode():
            return net(torch.from_numpy(np.ascontiguousarray(part.transpose(2, 0, 1)))[None])

    return forward


def receptive_field(net: nn.Module) -> int:
    """How wide one input pixel reaches, at most, from any place of the strided grid; in input pixels."""
    multiple, scale = facts_of(net)
    net.double()
    side, reach = 160, 0
    x = torch.rand(1, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = net(x)
        for phase in range(multiple):
            at = side // 2 + phase
            moved = x.clone()
            moved[..., at, at] += 0.5
            changed = (net(moved) - before).abs().amax((0, 1)) > 1e-12
            places = changed.nonzero() / scale
            reach = max(reach, math.ceil((places - at).abs().max().item()))
    net.float()
    assert 0 < reach < side // 2 - multiple, "the image was too small to tell"
    return 2 * reach + 1


def tiled(net: nn.Module, image: Array, tile: int, overlap: int) -> Tensor:
    return torch.cat(list(bands(plain(net), image, tile, overlap, *facts_of(net))), 2)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize(("name", "norm"), LOCAL)
def test_tiles_give_what_the_whole_gives(name: str, norm: str, scale: int) -> None:
    net = network(name, norm, scale)
    multiple = facts_of(net)[0]
    overlap = receptive_field(net) + 16
    tile = overlap + 4 * multiple + 3  # of no multiple but 1
    sizes = [(tile + 41, 2 * tile + 13), (tile - 5, tile - 9), (11, 2 * tile + 7), (tile + 1, 3), (1, 2)]
    for height, width in sizes:
        image = picture(height, width)
        whole = plain(net)(image)
        assert whole.shape == (1, 3, height * scale, width * scale)
        found = tiled(net, image, tile, overlap)
        assert (found - whole).abs().max() < 1e-5, (height, width)
    image = picture(*sizes[0])
    assert (tiled(net, image, tile, 0) - plain(net)(image)).abs().max() > 1e-3  # what overlap is for


def judge_one(net: nn.Module, image: Array, **options: Any) -> tuple[Prediction, list[str]]:
    said: list[str] = []
    judge = Evaluator(net, CPU, False, say=said.append, **options)
    (found,) = judge([Whole("a.png", image, None, image.dtype)])
    return found, said


@pytest.mark.parametrize(("name", "height", "width"), [("dncnn", 173, 211), ("resunet", 172, 212)])
def test_the_ensemble_goes_in_tiles_too(name: str, height: int, width: int) -> None:
    net = network(name, "none")
    overlap = receptive_field(net) + 16
    tile = overlap + 40
    image, target = picture(height, width), picture(height, width, seed=1)
    whole, in_tiles = (
        next(
            Evaluator(net, CPU, False, tiling=Tiling(size, overlap), x8=True, say=lambda text: None)(
                [Whole("a", image, target, np.float32)]
            )
        )
        for size in (1000, tile)
    )
    assert (whole.tile, in_tiles.tile) == (1000, tile)
    assert np.abs(whole.output - in_tiles.output).max() < 1e-5
    assert whole.scores.keys() >= {"psnr", "psnr_single"}
    assert in_tiles.scores == pytest.approx(whole.scores, abs=1e-4)
    assert whole.scores["psnr"] != whole.scores["psnr_single"]


def test_the_note_says_how_much_instance_norm_changes_in_tiles() -> None:
    net = network("resunet", "instance")
    image = 0.3 + 0.4 * picture(144, 144)
    with torch.no_grad():
        net.head[0].weight.mul_(0.05)  # type: ignore[index, union-attr]
    found, said = judge_one(net, image, tiling=Tiling(96, 64))
    whole = plain(net)((image - 0.5) / 0.5)[0].permute(1, 2, 0).numpy() * 0.5 + 0.5
    assert whole.min() > 0 and whole.max() < 1, "clamping would hide a difference"
    most = float(np.abs(found.output - whole).max())
    decibel = -10 * math.log10(np.square(found.output.astype(np.float64) - whole).mean())
    (note,) = said
    numbers = re.search(r"at most (\S+) \(PSNR between the two: (\S+) dB\), on 144 x 144 pixels", note)
    assert numbers and note.startswith("tiles of 96, overlap 64, differ from the whole")
    assert float(numbers[1]) == pytest.approx(most, rel=0.06) and most > 1e-3
    assert float(numbers[2]) == pytest.approx(decibel, abs=0.06)


def test_the_note_of_an_exact_network_and_only_one_of_it() -> None:
    net = nn.Conv2d(3, 3, 3, padding=1)
    said: list[str] = []
    judge = Evaluator(net, CPU, False, tiling=Tiling(48, 20), say=said.append)
    images = [Whole(str(i), picture(90, 100, seed=i), None, np.float32) for i in range(3)]
    assert len(list(judge([Whole("s", picture(48, 40), None, np.float32), *images]))) == 4
    assert len(said) == 1 and judge.notes == said
    assert float(re.findall(r"at most (\S+)", said[0])[0]) < 1e-6


# --------------------------------------------------------------------------------------------- out of memory


class Limited(nn.Module):
    """A convolution that runs out of memory for more pixels than it can take."""

    def __init__(self, pixels: float):
        super().__init__()
        torch.manual_seed(0)
        self.pixels, self.sizes = pixels, list[int]()
        self.conv = nn.Conv2d(3, 3, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(x.shape[2] * x.shape[3])
        if self.sizes[-1] > self.pixels:
            raise torch.OutOfMemoryError("no more")
        return self.conv(x) * 0.2


@pytest.mark.parametrize(
    ("limit", "asked", "tile"),
    [
        (150 * 150, None, 150),
        (149 * 149, None, 75),
        (74 * 74, None, 64),  # the smallest
        (150 * 150, 299, 149),
        (150 * 150, 5000, 150),
        (10**6, None, None),
    ],
)
def test_out_of_memory_goes_on_in_tiles(limit: int, asked: int | None, tile: int | None) -> None:
    image = picture(300, 200)
    whole, none_said = judge_one(Limited(math.inf), image)
    net = Limited(limit)
    found, said = judge_one(net, image, tiling=Tiling(asked, 32))
    assert found.tile == tile and not none_said
    assert found.output.shape == whole.output.shape
    assert np.abs(found.output - whole.output).max() < 1e-5
    about_memory = [line for line in said if "memory" in line]
    assert about_memory == ([] if tile is None else [f"out of memory: going on with tiles of {tile}"])


def test_where_the_smallest_tile_fails_the_error_comes_out() -> None:
    net = Limited(64 * 64)
    judged: list[Prediction] = []
    with pytest.raises(torch.OutOfMemoryError):
        judged.extend(
            Evaluator(net, CPU, False, say=print)([Whole("a", picture(300, 200), None, np.float32)])
        )
    assert not judged and net.sizes[-1] == 65 * 65
    with pytest.raises(torch.OutOfMemoryError):  # there are no tiles of a small image
        judge_one(Limited(100), picture(30, 20))


class Failing(Limited):
    """Out of memory at some calls only, as beside another program on the same device."""

    def __init__(self, at: set[int]):
        super().__init__(math.inf)
        self.at = at

    def forward(self, x: Tensor) -> Tensor:
        if len(self.sizes) in self.at:
            self.sizes.append(0)
            raise torch.OutOfMemoryError("no more")
        return super().forward(x)


def test_nothing_is_counted_twice_when_memory_runs_out_within_a_row_of_tiles() -> None:
    image = picture(300, 300)
    whole, _ = judge_one(Limited(math.inf), image)
    for at in ({0}, {1}):
        found, said = judge_one(Failing(at), image, tiling=Tiling(200, 64))
        assert found.tile == 100 and sum("memory" in line for line in said) == 1
        assert np.abs(found.output - whole.output).max() < 1e-5


def test_memory_that_runs_out_after_the_first_row_of_tiles_ends_the_image() -> None:
    """Its upper rows are measured already: they must not be measured again."""
    with pytest.raises(torch.OutOfMemoryError):
        judge_one(Failing({1}), picture(300, 200), tiling=Tiling(200, 64))


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
    """Doubles the input; keeps what it was given."""

    size = SizeRequirements(multiple=8)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        return x * 2


def test_an_image_beyond_the_free_memory_goes_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "free_memory", lambda device: 2**20)
    image = np.full((900, 800, 1), 0.5, np.float32)
    net = Counting()
    found, said = judge_one(net, image)
    assert found.tile == 512 and [size[2:] for size in net.seen[2:6]] == [(512, 512)] * 2 + [(508, 512)] * 2
    (line,) = [line for line in said if "memory" in line or "GiB" in line]
    assert line.startswith("800 x 900 pixels go in tiles of 512: about") and "\n" not in line

    monkeypatch.setattr(evaluate, "free_memory", lambda device: 2**40)
    net = Counting()
    found, said = judge_one(net, image)
    assert found.tile is None and not said and net.seen[-1] == (1, 1, 900, 800)


def test_with_a_tile_given_memory_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*given: object) -> float:
        raise AssertionError("asked")

    monkeypatch.setattr(evaluate, "free_memory", asked)
    monkeypatch.setattr(evaluate, "memory_per_pixel", asked)
    net = Counting()
    found, said = judge_one(net, np.full((900, 800, 1), 0.5, np.float32), tiling=Tiling(256, 64))
    assert found.tile == 256 and not any("GiB" in line for line in said)
    judge_one(net, np.full((30, 20, 1), 0.5, np.float32))  # a small image fits anywhere


def test_the_tile_to_begin_with() -> None:
    assert fitting_tile(Tiling(), 10, 10, 8) is None and fitting_tile(Tiling(), 11, 10, 8) == 512
    assert fitting_tile(Tiling(100), 11, 10, 8) == 100 and fitting_tile(Tiling(100), 1, 10, 8) == 100
    assert fitting_tile(Tiling(), 11, 10, 48) == 480 and fitting_tile(Tiling(), 11, 10, 1024) == 1024
    assert fitting_tile(Tiling(None, 600), 11, 10, 8) == 1200  # 512 would not advance


class Chain(nn.Module):
    """Three tensors of one size alive at once; its weights are larger than the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2**20))

    def forward(self, x: Tensor) -> Tensor:
        first = x + 1
        second = first * self.weight.to(torch.float64).float()[:1]  # a cast that does not grow
        del first
        return second.relu_()


def test_memory_per_pixel_counts_what_is_alive() -> None:
    # input, sum, product at once, 4 bytes each, and the operands of the product once more
    assert memory_per_pixel(Chain(), torch.zeros(1, 1, 64, 64)) == pytest.approx(12 + 8)
    conv = nn.Conv2d(3, 10, 3, padding=1)
    assert memory_per_pixel(conv, torch.zeros(1, 3, 64, 64)) == pytest.approx(2 * 13 * 4)
    for net in (network(name, norm) for name, norm in LOCAL):
        double = memory_per_pixel(net, torch.zeros(1, 3, 128, 128))
        assert memory_per_pixel(net, torch.zeros(1, 3, 64, 64)) == pytest.approx(double, rel=0.1)


# bytes; ru_maxrss would be that of the process which started this one, where that was the larger
PEAK_OF_RSS = """
from pathlib import Path
def peak():
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024
"""

PEAK = (
    PEAK_OF_RSS
    + """
import sys
import torch
torch.set_num_threads(1)
from models import build_network
from models import network_defaults
from utils.eval.tiling import memory_per_pixel
name, side = sys.argv[1], int(sys.argv[2])
net = build_network(name, input_nc=3, output_nc=3, **network_defaults(name)).eval()
with torch.inference_mode():
    estimate = memory_per_pixel(net, torch.zeros(1, 3, 64, 64)) * side**2
    before = peak()
    image = torch.rand(1, 3, side, side)
    net(image)
print(estimate, peak() - before)
"""
)

slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("resunet", 1200),  # a side at which glibc gives freed tensors back: they are over 32 MiB
        pytest.param("resunet", 1500, marks=slow),
        pytest.param("unet", 1500, marks=slow),
        pytest.param("dncnn", 1200, marks=slow),
        pytest.param("resnet", 1200, marks=slow),
    ],
)
def test_the_estimate_is_near_the_measured_peak(name: str, side: int) -> None:
    estimate, measured = map(float, run(PEAK, name, str(side)).split())
    assert 0.9 * measured <= estimate <= 4 * measured, f"{estimate / measured:.2f} of the measured peak"


LARGE = (
    PEAK_OF_RSS
    + """
import numpy as np
import torch
torch.set_num_threads(1)
from data.datasets import Whole
from utils.eval.evaluator import Evaluator
from utils.eval.tiling import Tiling
net = torch.nn.Conv2d(3, 3, 3, padding=1)
judge = Evaluator(net, torch.device("cpu"), False, tiling=Tiling(512, 64))
image = lambda seed, h, w: np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)
list(judge([Whole("small", image(0, 600, 600), image(1, 600, 600), np.uint8)]))
before = peak()
(found,) = judge([Whole("large", image(0, 3000, 4000), image(1, 3000, 4000), np.uint8)])
assert found.output.shape == (3000, 4000, 3) and found.scores["psnr"] < 20
print(peak() - before)
"""
)


def test_a_large_image_in_tiles_takes_little_more_than_itself() -> None:
    taken = float(run(LARGE).split()[-1])
    image = 3000 * 4000 * 3
    assert taken < 3 * image + 250e6, f"{taken / 1e6:.0f} MB"


def run(script: str, *arguments: str) -> str:
    """What a script prints, in a process of its own with one thread."""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
