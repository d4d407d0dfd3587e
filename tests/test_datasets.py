"""Samples as pure functions of (seed, epoch, index), and the values that enter a network."""

import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data import cache
from data.augment import AUGMENTATIONS, parse_augment, random_crop, textures
from data.cache import DeviceImages, SharedImages, plan_cache
from data.datasets import ImageSpec, TrainDataset, Whole, WholeDataset, check_training_sizes
from data.degrade import DEGRADATIONS, parse_degradation
from data.demo import render_pair, render_scene
from data.loader import default_workers, train_loader, whole_loader
from data.pairs import Pair, PairList, Source
from data.sampler import EpochSampler
from data.scan import HeaderScan
from data.splits import find_pairs
from tests.builders import ROOT, assert_same_state, error_of, image, planes
from utils.eval.evaluator import input_baseline
from utils.eval.metrics import Protocol
from utils.system.batch import denormalize
from utils.system.errors import UserError
from utils.system.pixels import max_value

Array = np.ndarray
CPU = torch.device("cpu")
NOISE_OF_25_DB = 20.1720  # 20 log10(255 / 25)
MUCH = 2**18  # bytes: more than all pairs here take
SPEC = ImageSpec(3, 3)
HAZY = ImageSpec(3, 3, degrade=parse_degradation("haze+noise:0-55"), seed=4)


def colours(number: int, height: int = 24, width: int = 20) -> Array:
    return image(height, width, seed=70 + number)


def negative_pair(pair: Pair) -> tuple[Array, Array]:
    return colours(int(pair.name)), 255 - colours(int(pair.name))


def clean_pair(pair: Pair) -> tuple[Array, Array]:
    return (colours(int(pair.name)),) * 2


def pairs_of(count: int = 10, read: Callable[[Pair], Any] = negative_pair) -> PairList:
    return PairList("test", "train", "memory", [Pair(str(i), None, None, str(i)) for i in range(count)], read)


def of_arrays(*arrays: Array) -> PairList:
    """One pair, of images that may be `(H, W)`."""
    return pairs_of(1, lambda pair: tuple(np.atleast_3d(array) for array in arrays))


def cut(spec: ImageSpec = SPEC, pairs: PairList | None = None, **options: Any) -> TrainDataset:
    """A training set with crops and turns, of clean images if they are to be degraded."""
    pairs = pairs or pairs_of(read=clean_pair if spec.degrade else negative_pair)
    return TrainDataset(pairs, spec, **{"crop_size": 12, "augment": "flip_rot90", **options})


def batch_of(dataset: TrainDataset, *keys: tuple[int, int]) -> dict[str, Any]:
    batch = dataset.__getitems__(keys)
    assert isinstance(batch, dict), batch
    return batch


def sample_of(pairs: PairList, spec: ImageSpec) -> dict[str, Any]:
    """The first pair, neither cropped nor turned."""
    return batch_of(TrainDataset(pairs, spec), (0, 0))


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    tensors = all(torch.equal(one[side].cpu(), two[side].cpu()) for side in ("input", "target"))
    return bool(one["name"] == two["name"] and tensors)


def as_bytes(batch: torch.Tensor) -> Array:
    """The first image of a batch of `Normalize(0.5, 0.5)`, `(H, W, C)`."""
    return denormalize(batch[0], 0.5, 0.5).mul(255).round().byte().permute(1, 2, 0).numpy()


# ------------------------------------------------------------------------- a function of (seed, epoch, index)


@pytest.mark.parametrize("max_bytes", [MUCH, 0])
def test_a_sample_is_the_same_twice_and_in_any_order(max_bytes: int) -> None:
    keys = list(itertools.product(range(3), range(10)))
    one, two = cut(HAZY, store=SharedImages(10, max_bytes)), cut(HAZY)
    first = {key: batch_of(one, key) for key in keys}
    assert all(same(batch_of(two, key), first[key]) for key in keys[::-1])
    assert all(same(batch_of(one, key), first[key]) for key in keys)  # again, from the store


def test_a_sample_differs_over_epochs_seeds_and_repeats() -> None:
    sets = [cut(replace(HAZY, seed=seed), repeat=2) for seed in range(3)]
    samples = [batch_of(dataset, (epoch, 3)) for dataset in sets for epoch in range(3)]
    samples.append(batch_of(sets[0], (0, 13)))  # the same image again within the epoch
    assert {name for sample in samples for name in sample["name"]} == {"3"}
    assert len({sample["input"].numpy().tobytes() for sample in samples}) == len(samples)


def test_noise_of_a_whole_image_depends_on_seed_and_index_alone() -> None:
    pairs = pairs_of(read=clean_pair)
    whole = WholeDataset(pairs, HAZY).whole(3)
    assert whole.name == "3" and whole.depth == np.uint8 and np.array_equal(whole.target, colours(3))
    stored = WholeDataset(pairs, HAZY, SharedImages(10, MUCH))
    for _ in range(2):
        assert np.array_equal(stored.whole(3).input, whole.input)
    other = WholeDataset(pairs, replace(HAZY, seed=5)).whole(3)
    assert whole.input.shape == other.input.shape == (24, 20, 3)
    assert not np.array_equal(whole.input, other.input)


def load(dataset: TrainDataset, sampler: EpochSampler, batch: int, workers: int = 0) -> list[Any]:
    options: dict[str, Any] = {"batch_size": batch, "workers": workers, "batch_bytes": 10_000}
    options |= {"timeout_s": 60, "pin": False}
    return list(train_loader(dataset, sampler, device=CPU, **options))


def batches(epoch: int, offset: int, workers: int = 0, rank: int = 0, world: int = 1) -> list[dict[str, Any]]:
    dataset = cut(HAZY)
    sampler = EpochSampler(len(dataset), 4, 4, rank, world)
    sampler.start_at(epoch, offset)
    return load(dataset, sampler, 4 // world, workers)


def test_batches_do_not_depend_on_workers_nor_on_where_the_epoch_is_entered() -> None:
    whole = batches(1, 0)
    assert len(whole) == 2
    for wanted, other in ((whole, batches(1, 0, workers=2)), (whole[1:], batches(1, 1))):
        assert all(same(one, two) for one, two in zip(wanted, other, strict=True))


def test_a_batch_over_two_processes_is_the_batch_of_one() -> None:
    parts = [batches(1, 0, rank=rank, world=2) for rank in range(2)]
    for whole, *shares in zip(batches(1, 0), *parts, strict=True):
        assert torch.equal(whole["input"], torch.cat([share["input"] for share in shares]))


def test_the_global_generator_is_left_alone() -> None:
    def after(work: Callable[[], object]) -> tuple[list[float], list[float]]:
        torch.manual_seed(1)
        np.random.seed(1)
        work()
        return torch.rand(3).tolist(), np.random.rand(3).tolist()

    assert after(lambda: batches(0, 0)) == after(lambda: None)
    wholes = whole_loader(WholeDataset(pairs_of(2), SPEC))
    assert after(lambda: list(wholes)) == after(lambda: None)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_smaller_than_the_crop_is_named_whatever_process_finds_it(workers: int) -> None:
    first = next(iter(EpochSampler(2, 1, 0)))[1]
    error = error_of(load, cut(pairs=pairs_of(2), crop_size=21), EpochSampler(2, 1, 0), 1, workers)
    assert error.code == 1 and "lower --crop_size" in error.fix
    assert error.what == f"{first} is smaller than --crop_size"
    assert error.why == "20 x 24 pixels are less than --crop_size 21"


def test_a_loader_of_whole_images_takes_indices_and_skips_what_fails() -> None:
    def read(pair: Pair) -> tuple[Array, Array]:
        if pair.name == "2":
            raise UserError("2 cannot be read")
        return negative_pair(pair)

    failed: list[UserError] = []
    dataset = WholeDataset(pairs_of(6, read), SPEC)
    found: list[Whole] = list(whole_loader(dataset, range(0, 6, 2), skip=failed.append))
    assert [whole.name for whole in found] == ["0", "4"] and [error.code for error in failed] == [1]
    assert [whole.name for whole in whole_loader(dataset, workers=1, skip=failed.append)] == list("01345")
    assert "2 cannot be read" in error_of(lambda: list(whole_loader(dataset))).what


@pytest.mark.parametrize(
    ("device", "on_device", "workers"), [("cpu", False, 0), ("cuda", False, 4), ("cuda", True, 0)]
)
def test_workers_decode_for_a_gpu_alone(device: str, on_device: bool, workers: int) -> None:
    assert default_workers(torch.device(device), on_device) == workers


# ----------------------------------------------------------------------------------- one draw for both images

TEXTURED = "flip_rot90+texture:3"


@pytest.mark.parametrize("augment", [*AUGMENTATIONS, TEXTURED])
@pytest.mark.parametrize("crop_size", [None, 1, 12, 20])
def test_both_images_of_a_pair_share_every_draw(augment: str, crop_size: int | None) -> None:
    dataset = cut(crop_size=crop_size, augment=augment)
    for key in itertools.product(range(4), range(10)):
        sample = batch_of(dataset, key)
        assert sample["input"].shape == sample["target"].shape
        assert torch.allclose(sample["input"], -sample["target"], atol=1e-6)  # target = 255 - input
        assert sample["input"].dtype == torch.float32 and sample["input"].is_contiguous()


ORIENTATIONS = {
    "none": {(False, 0)},
    "flip": {(False, 0), (True, 0)},
    "flip_rot90": set(itertools.product((False, True), range(4))),
}


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_orientations_are_all_drawn_and_about_equally_often(augment: str) -> None:
    """Each of the 8 elements of the square's group, counted by what it makes of an image without symmetry."""
    image = colours(0, 8, 8)
    generators = map(np.random.default_rng, range(800))
    seen = Counter(AUGMENTATIONS[augment]([image], generator)[0].tobytes() for generator in generators)
    possible = {np.rot90(image[:, :: -1 if flip else 1], n).tobytes() for flip, n in ORIENTATIONS[augment]}
    assert seen.keys() == possible
    assert min(seen.values()) > 0.7 * 800 / len(possible)
    dataset = TrainDataset(of_arrays(image, image), SPEC, augment=augment)
    entered = {batch_of(dataset, (epoch, 0))["input"].numpy().tobytes() for epoch in range(60)}
    assert len(entered) == len(possible)


def test_every_window_of_an_image_is_drawn() -> None:
    image = np.arange(5 * 7).reshape(5, 7, 1)
    crops = [random_crop([image], 4, np.random.default_rng(seed))[0] for seed in range(200)]
    windows = {image[row : row + 4, column : column + 4].tobytes() for row in range(2) for column in range(4)}
    assert {crop.tobytes() for crop in crops} == windows


@pytest.mark.parametrize(("size", "scale"), [(8, 1), (40, 1), (8, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_of_several_windows_the_one_with_the_most_texture_is_kept(size: int, scale: int, dtype: Any) -> None:
    target = image(60, 72) * (np.arange(72) > 40)[:, None]  # nothing to see at the left
    pair = [target[::scale, ::scale].astype(dtype), target.astype(dtype)]
    for seed in range(40):
        one_by_one, at_once = np.random.default_rng(seed), np.random.default_rng(seed)
        crops = [random_crop(pair, size, one_by_one, scale) for _ in range(5)]
        scores = [np.var(crop[1].astype(float), axis=(0, 1)).sum() for crop in crops]
        kept = random_crop(pair, size, at_once, scale, windows=5)
        assert one_by_one.random() == at_once.random()  # the draws that follow are not moved
        if size == 8:  # every pixel counts
            assert all(np.array_equal(a, b) for a, b in zip(kept, crops[int(np.argmax(scores))], strict=True))
        chosen = textures([kept[1]])[0]
        assert chosen == max(textures([crop[1] for crop in crops]))
        assert chosen >= 0.6 * max(scores)


def test_equal_texture_keeps_the_first_window() -> None:
    flat = np.arange(20 * 20).reshape(20, 20, 1) * 0 + 7
    flat[0, 0] = 7
    place = np.dstack(np.mgrid[:20, :20]).astype(np.float32)  # the input tells where the window is
    for seed in range(20):
        first = random_crop([place, flat], 8, np.random.default_rng(seed))[0]
        assert np.array_equal(random_crop([place, flat], 8, np.random.default_rng(seed), windows=4)[0], first)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flp", "did you mean flip"),
        ("texture", "such as texture:4"),
        ("flip+texture:1", "2 to 64"),
        ("flip+texture:65", "2 to 64"),
        ("flip+texture:\u00b2", "2 to 64"),
        ("flip+texture:-2", "2 to 64"),
        ("flip:2", "unknown augmentation"),
        ("flip+flip_rot90", "two of a kind"),
        ("texture:2+texture:2", "two of a kind"),
        ("", "unknown augmentation"),
    ],
)
def test_augmentations_that_do_not_exist(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_augment(text)


def test_images_of_two_sizes_in_a_batch_are_named() -> None:
    """Where nobody asked for a crop, and the headers that were read all agreed."""
    unequal = pairs_of(3, lambda pair: (colours(1, 24 if pair.name == "2" else 20),) * 2)
    batch = TrainDataset(unequal, SPEC).__getitems__([(0, 0), (0, 1), (0, 2)])
    assert isinstance(batch, UserError) and batch.code == 1
    assert (batch.why, batch.fix) == ("1: 20 x 20, 2: 20 x 24", "add --crop_size or --size")
    assert batch_of(TrainDataset(unequal, SPEC, crop_size=20), (0, 0), (0, 2))


# ---------------------------------------------------------------------------------------------------- sampler


def epoch_of(sampler: EpochSampler, epoch: int, offset: int = 0) -> list[tuple[int, int]]:
    sampler.start_at(epoch, offset)
    assert len(sampler) == len(list(sampler))
    return list(sampler)


@pytest.mark.parametrize(("size", "batch", "steps"), [(12, 4, 3), (14, 4, 3), (4, 4, 1), (7, 1, 7)])
def test_an_epoch_takes_each_index_once_and_drops_the_rest(size: int, batch: int, steps: int) -> None:
    sampler = EpochSampler(size, batch, seed=3)
    order = epoch_of(sampler, 5)
    assert sampler.steps_per_epoch == steps and len(set(order)) == len(order) == steps * batch
    assert set(order) <= {(5, index) for index in range(size)}


def test_repeat_passes_over_every_image_as_often() -> None:
    dataset = cut(repeat=3)
    order = epoch_of(EpochSampler(len(dataset), 5, seed=3), 0)
    assert len(dataset) == 30
    assert Counter(index % 10 for _, index in order) == dict.fromkeys(range(10), 3)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(sampler: EpochSampler, epoch: int) -> tuple[int, ...]:
        return tuple(index for _, index in epoch_of(sampler, epoch))

    orders = {(seed, n): order(EpochSampler(20, 4, seed), n) for seed in range(3) for n in range(3)}
    assert len(set(orders.values())) == 9
    sampler = EpochSampler(20, 4, seed=2)
    epoch_of(sampler, 7)
    assert order(sampler, 1) == orders[2, 1]


def test_what_an_incomplete_batch_drops_differs_over_epochs() -> None:
    sampler = EpochSampler(5, 4, seed=0)
    dropped = {10 - sum(index for _, index in epoch_of(sampler, epoch)) for epoch in range(40)}
    assert dropped == set(range(5))


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_an_epoch_can_be_entered_at_any_batch(offset: int) -> None:
    sampler = EpochSampler(14, 4, seed=3)
    assert epoch_of(sampler, 2, offset) == epoch_of(sampler, 2)[4 * offset :]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_samples_of_a_step_do_not_depend_on_the_number_of_processes(world: int) -> None:
    whole = epoch_of(EpochSampler(27, 8, seed=3), 6, 1)
    parts = [epoch_of(EpochSampler(27, 8, 3, rank, world), 6, 1) for rank in range(world)]
    share = 8 // world
    for step in range(2):
        together = [key for part in parts for key in part[step * share : (step + 1) * share]]
        assert together == whole[8 * step : 8 * step + 8]


@pytest.mark.parametrize(
    ("size", "batch", "world", "fix"),
    [(3, 4, 1, "raise --repeat"), (20, 10, 4, "use a multiple of 4"), (20, 1, 2, "use a multiple of 2")],
)
def test_a_batch_that_cannot_be_made_is_an_error(size: int, batch: int, world: int, fix: str) -> None:
    error = error_of(EpochSampler, size, batch, 0, 0, world)
    assert f"--batchSize {batch}" in error.what and error.fix == fix and error.code == 2


# ------------------------------------------------------------------------------------------------- transforms


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.5), (0.0, 1.0), (0.45, 0.2)])
@pytest.mark.parametrize("size", [None, 9, 40])
@pytest.mark.parametrize(("input_nc", "target_nc"), [(3, 3), (1, 3), (3, 1), (1, 1)])
def test_values_are_those_of_the_classic_recipe(
    input_nc: int, target_nc: int, size: int | None, mean: float, std: float
) -> None:
    """Resize BICUBIC, Grayscale, ToTensor, Normalize against Pillow and closed forms."""
    pair, spec = (colours(0), colours(1)), ImageSpec(input_nc, target_nc, size, mean=mean, std=std)
    sample = sample_of(of_arrays(*pair), spec)
    for key, array, channels in zip(("input", "target"), pair, (input_nc, target_nc), strict=True):
        file = Image.fromarray(array)
        resized = file.resize((size, size), Image.Resampling.BICUBIC) if size else file
        wanted = planes(np.atleast_3d(resized.convert("L" if channels == 1 else "RGB")) / 255)[0]
        tensor = sample[key][0]
        assert tensor.dtype == torch.float32
        for values, expected in ((tensor, (wanted - mean) / std), (denormalize(tensor, mean, std), wanted)):
            assert values.shape == expected.shape
            assert torch.allclose(values.double(), expected, rtol=0, atol=1e-5)


def test_gray_files_become_three_equal_channels() -> None:
    gray = colours(0)[:, :, :1]
    image = sample_of(of_arrays(gray, gray), SPEC)["input"][0]
    assert image.shape[0] == 3 and torch.equal(image, image[:1].expand(3, -1, -1))


def test_inputs_without_targets_have_no_target() -> None:
    pairs = pairs_of(read=lambda pair: (colours(0), None))
    assert sample_of(pairs, SPEC).keys() == {"name", "input"}
    assert WholeDataset(pairs, SPEC).whole(2).target is None


# ----------------------------------------------------------------------------------------------- degradations


@pytest.mark.parametrize("channels", [1, 3])
def test_the_input_psnr_of_noise_of_25(channels: int) -> None:
    def half_black(pair: Pair) -> tuple[Array, Array]:
        image = colours(int(pair.name), 128, 128)
        image[:64] = 0  # clamping the noise would show here
        return image, image

    spec = ImageSpec(channels, channels, degrade=parse_degradation("noise:25"))
    dataset = WholeDataset(pairs_of(12, half_black), spec)
    wholes = [dataset.whole(i) for i in range(len(dataset))]
    each = [input_baseline(w.input, w.target, Protocol())["psnr"] for w in wholes if w.target is not None]
    assert np.mean(each) == pytest.approx(NOISE_OF_25_DB, abs=0.05)
    assert len(set(each)) == 12


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_only_the_input_is_degraded(name: str) -> None:
    degrade = parse_degradation({"noise": "noise:25", "jpeg": "jpeg:10", "sr": "sr:2"}.get(name, name))
    sample = sample_of(pairs_of(read=clean_pair), ImageSpec(3, 3, degrade=degrade))
    assert np.array_equal(as_bytes(sample["target"]), colours(0))
    shape = (1 if name == "gray" else 3, 12 if name == "sr" else 24, 10 if name == "sr" else 20)
    assert sample["input"].shape == (1, *shape)
    if shape == (3, 24, 20):
        assert not torch.allclose(sample["input"], sample["target"], atol=0.05)


# ------------------------------------------------------------------------------------------------------- demo


def pairs_of_demo(split: str, size: int = 48) -> list[tuple[Array, Array]]:
    """(hazy, clear) of all pairs, in [0, 1]."""
    scenes = find_pairs(Source(f"demo:16:{size}"), split)
    images = [scenes.read(pair) for pair in scenes.pairs]
    return [(np.asarray(hazy) / 255, np.asarray(clear) / 255) for hazy, clear in images if clear is not None]


def test_demo_is_the_same_in_every_process() -> None:
    keys = list(itertools.product((0, 1_000_000), range(3)))
    first = [render_pair(scene, level, 32) for scene, level in keys]
    render_scene.cache_clear()
    assert_same_state([render_pair(scene, level, 32) for scene, level in keys], first)


@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize("scene", [0, 5, 1_000_000])
def test_demo_is_hazed_over_its_depth(scene: int, level: int) -> None:
    """Some beta and A explain every pixel by I = J t + A (1 - t), to within rounding to 8 bit."""
    clear, depth = (image.astype(np.float64) for image in render_scene(scene, 48))
    hazy, saved = render_pair(scene, level, 48)
    assert np.array_equal(saved, np.round(clear * 255))
    assert 0 < depth.min() < 0.4 < 0.9 < depth.max() <= 1
    residuals = {}
    for beta in np.linspace(0.75, 2.05, 1301):
        t = np.exp(-beta * depth)[:, :, None]
        airlight = ((hazy / 255 - clear * t) * (1 - t)).sum((0, 1)) / ((1 - t) ** 2).sum((0, 1))
        residuals[np.abs(clear * t + airlight * (1 - t) - hazy / 255).max()] = beta, airlight
    beta, airlight = residuals[min(residuals)]
    assert min(residuals) < 0.75 / 255
    assert 0.8 <= beta <= 2 and airlight.min() > 0.65 and airlight.max() < 1


def test_hazes_and_scenes_differ_and_test_scenes_are_others() -> None:
    train, test = pairs_of_demo("train"), pairs_of_demo("test")
    scenes = np.stack([clear for _, clear in train[::3] + test[::3]])
    apart = [np.abs(scenes[i] - scenes[j]).mean() for i in range(len(scenes)) for j in range(i)]
    assert len(train) == 48 and len(scenes) > 16
    assert min(apart) > 0.05
    for first in range(0, len(train), 3):
        hazes = [hazy for hazy, _ in train[first : first + 3]]
        assert all(np.array_equal(clear, train[first][1]) for _, clear in train[first : first + 3])
        assert min(np.abs(hazes[i] - hazes[i - 1]).mean() for i in range(3)) > 0.002


def test_no_change_of_colour_undoes_the_haze_of_demo() -> None:
    """The best gain and offset a channel, fitted to each image's own target, stays below 25 dB on average."""
    reached, baseline = [], []
    for hazy, clear in pairs_of_demo("train"):
        channels = [(hazy[:, :, c], clear[:, :, c]) for c in range(3)]
        fitted = [np.polyval(np.polyfit(x.ravel(), y.ravel(), 1), x) for x, y in channels]
        reached.append(-10 * np.log10(((np.dstack(fitted) - clear) ** 2).mean()))
        baseline.append(-10 * np.log10(((hazy - clear) ** 2).mean()))
    assert len(reached) == 48 and np.mean(baseline) < np.mean(reached) < 25 - 4


# ---------------------------------------------------------------------------------------------- sizes, memory


@pytest.mark.parametrize(
    ("sizes", "batch", "size", "crop", "message"),  # with a scale of 2
    [
        ([(40, 40)], 1, None, 15, "--crop_size 15 is not a multiple of the scale 2"),
        ([(40, 40)], 1, None, 5, "--crop_size 5 is not a multiple of the scale 2"),
        ([(40, 40)], 1, 9, None, "--size 9 is not a multiple of the scale 2"),
        ([(100, 64), (100, 63)], 1, None, 64, "--crop_size 64 is larger than an image"),
        ([(63, 100)], 1, None, 64, "--crop_size 64 is larger than an image"),
        ([(100, 64), (64, 100)], 2, None, None, "--batchSize 2 needs images of one size"),
        ([(100, 64), (64, 100)], 8, None, 64, None),
        ([(100, 64), (64, 100)], 1, None, None, None),
        ([(100, 64), (100, 64)], 8, None, None, None),
        ([(10, 20), (30, 40)], 8, 64, 32, None),
    ],
)
def test_sizes_that_cannot_be_trained_on_are_an_error(
    sizes: list[tuple[int, int]], batch: int, size: int | None, crop: int | None, message: str | None
) -> None:
    if message is None:
        check_training_sizes(sizes, batch, size, crop, 2)
        return
    error = error_of(check_training_sizes, sizes, batch, size, crop, 2)
    assert message in error.what and error.fix and error.code == 2
    assert error.why or "not a multiple" in message
    assert "larger" not in message or "--crop_size 62" in error.fix


@pytest.mark.parametrize(
    ("mode", "size", "depth", "free", "stored", "said"),
    [
        ("auto", None, 8, 10**7, (66_000, 66_000), "up to 0.6 MiB in memory"),
        ("auto", None, 8, 10**6, (0, 0), "not cached"),
        ("auto", 10, 8, 10**6, (661, 661), "up to 0.0 MiB in memory"),
        ("ram", None, 16, 10**7, (132_000, 132_000), "up to 1.3 MiB in memory"),
        ("ram", None, 8, 10**6, (50_000, 50_000), "up to 0.5 MiB in memory"),
        ("none", None, 8, 10**9, (0, 0), "not cached"),
        ("device", None, 16, 10**8, (264_000, 132_000), "up to 2.3 MiB on the device"),
        ("device", None, 8, 10**6, (50_000, 0), "up to 0.4 MiB on the device"),
    ],
)
def test_a_plan_for_the_cache(
    monkeypatch: Any, mode: str, size: int | None, depth: int, free: int, stored: tuple[int, int], said: str
) -> None:
    """Images of 100 x 100 pixels, 6 values each, and a tenth more; a quarter or half of the free memory."""
    trained, validated = stored  # bytes of a pair
    monkeypatch.setattr(cache, "free_memory", lambda device: free)
    scan = HeaderScan(3, 3, depth, [(100, 100)], Counter())
    plan = plan_cache(mode, CPU, scan, ImageSpec(3, 3, size), train_pairs=8, val_pairs=2)
    assert (plan.train_bytes, plan.val_bytes) == (8 * trained, 2 * validated) and plan.describe() == said
    kinds = DeviceImages if mode == "device" else SharedImages if trained else type(None)
    assert isinstance(plan.train_store(), kinds)
    assert isinstance(plan.val_store(), SharedImages if validated else type(None))


def test_a_cache_that_the_system_does_not_allow_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int) -> None:
        raise OSError("no")

    monkeypatch.setattr(cache, "SharedBytes", refuse)
    scan = HeaderScan(3, 3, 8, [(4, 4)], Counter())
    plan = plan_cache("ram", CPU, scan, SPEC, train_pairs=1, val_pairs=1)
    assert plan.train_store() is None and plan.val_store() is None and plan.describe() == "not cached"


@pytest.mark.parametrize("make", [lambda size: SharedImages(4, size), lambda size: DeviceImages(CPU, size)])
def test_what_fits_is_decoded_once_and_the_rest_each_time(make: Callable[[int], Any]) -> None:
    reads: Counter[str] = Counter()

    def counted(pair: Pair) -> tuple[Array, Array]:
        reads[pair.name] += 1
        return negative_pair(pair)

    size = 2 * colours(0).nbytes
    for max_bytes, again in ((2 * size + 8, 3), (4 * size, 1)):
        reads.clear()
        stored, plain = cut(pairs=pairs_of(4, counted), store=make(max_bytes)), cut(pairs=pairs_of(4))
        for epoch in range(3):
            keys = [(epoch, index) for index in range(4)]
            assert same(batch_of(stored, *keys), batch_of(plain, *keys))
        assert reads == {"0": 1, "1": 1, "2": again, "3": again}


def test_one_image_as_both_is_kept_once_and_nobody_can_write_to_it() -> None:
    image = colours(0)
    store = SharedImages(2, 2 * (image.nbytes + 8))
    for index in range(2):
        store.put(index, [image, image])
        given, target = store.get(index) or ()
        assert np.shares_memory(given, target) and np.array_equal(given, image)
        with pytest.raises(ValueError, match="read-only"):
            given[0] = 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_every_depth_comes_back_as_it_was(dtype: Any) -> None:
    images = [image(5, 7, channels, dtype) for channels in (1, 3)]
    store = SharedImages(3, 4096)
    store.put(2, images)
    assert store.get(1) is None
    assert_same_state(list(store.get(2) or ()), images)


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]
DEPTHS = np.uint8, np.uint16, np.float32


def deep_pair(pair: Pair) -> tuple[Array, Array]:
    """Of every depth, also of two in one batch."""
    image = np.random.default_rng(int(pair.name)).random((24, 20, 3))
    dtypes = DEPTHS[int(pair.name) % 3], DEPTHS[int(pair.name) // 3 % 3]
    given, target = ((image * max_value(dtype)).astype(dtype) for dtype in dtypes)
    return given[::-1], target


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("read", [negative_pair, deep_pair])
@pytest.mark.parametrize("augment", [*AUGMENTATIONS, TEXTURED])
def test_batches_cut_on_a_device_are_the_same(device: str, read: Any, augment: str) -> None:
    spec = ImageSpec(3, 3, seed=3, mean=0.4, std=0.3)
    plain = cut(spec, pairs_of(read=read), augment=augment)
    there = cut(spec, pairs_of(read=read), augment=augment, store=DeviceImages(torch.device(device), MUCH))
    for epoch in range(6):
        keys = [(epoch, (epoch + 3 * i) % 10) for i in range(4)]
        batch = batch_of(there, *keys)
        assert batch["input"].device.type == device and same(batch_of(plain, *keys), batch)


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_what_a_loader_process_decodes_is_there_for_all(start: str) -> None:
    """In a script of its own, since the start method is that of the whole process."""
    command = [sys.executable, "-W", "ignore", "-c", SHARING, start]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["6", "6", "0"]


SHARING = """
import multiprocessing, sys
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    from data.cache import SharedImages
    from data.datasets import ImageSpec, WholeDataset
    from data.loader import whole_loader
    from data.pairs import Source
    from data.splits import find_pairs
    pairs = find_pairs(Source("demo:2:32"), "train")
    store = SharedImages(6, 6 * 2 * 32 * 32 * 3)
    stored = lambda: sum(store.get(i) is not None for i in range(6))
    before = stored()
    for _ in whole_loader(WholeDataset(pairs, ImageSpec(3, 3), store), workers=2):
        pass
    print(len(pairs.pairs), stored(), before)
"""
