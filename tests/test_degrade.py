"""Degradations against independent referees: theory, scipy, Pillow on bytes, recorded figures."""

import hashlib
import io
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from data.degrade import DEGRADATIONS, parse_degradation
from tests.builders import ROOT, dataset, pixels
from tests.builders import image as random_values
from utils.system.errors import UserError

Array = np.ndarray
WHOLE = [
    "noise:25",
    "poisson",
    "poisson:30",
    "blur",
    "blur:0.5-3",
    "jpeg:10",
    "jpeg:30-90",
    "gray",
    "haze",
    "rain",
]
RANDOM = ["noise:25", "poisson:30", "blur:0.5-3", "jpeg:10-90", "haze", "rain"]


def degraded(spec: str, image: Array, seed: int = 0) -> Array:
    return parse_degradation(spec)(image, np.random.default_rng(seed))


def random_image(height: int, width: int, channels: int = 3) -> Array:
    return random_values(height, width, channels, np.float32)


def unit(levels: Array) -> Array:
    return levels.astype(np.float32) / 255


def flat(value: float, side: int = 512) -> Array:
    return np.full((side, side, 1), value, np.float32)


def smooth_bytes(height: int, width: int) -> Array:
    """Colours that change slowly, and sharp edges."""
    y, x = np.mgrid[0:height, 0:width] / 16
    colours = np.stack([np.sin(x), np.cos(y), np.sin(x + y) > 0], axis=2)
    return np.uint8(np.round(127.5 + 127.5 * np.clip(colours, -1, 1)))


# ------------------------------------------------------------------------------------------------ all of them


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spec", WHOLE)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (40, 1), (33, 20)])
def test_any_size_keeps_its_shape_and_the_image_is_left_alone(
    spec: str, size: tuple[int, int], channels: int
) -> None:
    image = random_image(*size, channels)
    before = image.copy()
    image.flags.writeable = False
    result = degraded(spec, image)
    assert result.shape == (*size, 1 if spec == "gray" else channels) and result.dtype == np.float32
    assert np.isfinite(result).all()
    assert np.array_equal(image, before) and not np.shares_memory(result, image)


@pytest.mark.parametrize("spec", ["sr:2", *WHOLE])
def test_views_give_what_their_copies_give(spec: str) -> None:
    image = random_image(24, 36)
    turned = image[::-1].transpose(1, 0, 2)
    assert np.array_equal(degraded(spec, turned), degraded(spec, turned.copy()))


@pytest.mark.parametrize("spec", RANDOM)
def test_draws_come_from_the_generator_alone(spec: str) -> None:
    image = unit(smooth_bytes(48, 48))
    np.random.seed(1)
    first = degraded(spec, image, 3)
    np.random.seed(2)
    assert np.array_equal(degraded(spec, image, 3), first)
    assert not np.array_equal(degraded(spec, image, 4), first)


@pytest.mark.parametrize("spec", ["sr:4", *(spec for spec in WHOLE if "poisson" not in spec)])
def test_draws_do_not_depend_on_what_the_image_shows(spec: str) -> None:
    """So that what follows in a chain is the same for any image; photons need more where it is bright."""
    after = []
    for image in (np.zeros((16, 16, 3), np.float32), random_image(16, 16)):
        rng = np.random.default_rng(5)
        parse_degradation(spec)(image, rng)
        after.append(rng.random())
    assert after[0] == after[1]


def test_two_fresh_processes_draw_the_same_bytes() -> None:
    code = """
import hashlib, numpy as np
from data.degrade import parse_degradation
image = np.random.default_rng(1).random((48, 64, 3), dtype=np.float32)
degrade = parse_degradation("rain+haze+blur:1-2+sr:2+noise:5-10+poisson:50-90+jpeg:50-90+gray")
print(hashlib.sha256(degrade(image, np.random.default_rng([1, 2, 3])).tobytes()).hexdigest())
"""

    def once(hashseed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hashseed}
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        ).stdout

    first = once("1")
    assert len(first.strip()) == 64 and first == once("2")


def test_a_degradation_can_be_sent_to_a_worker() -> None:
    degrade = parse_degradation("haze+rain+blur+sr:2+gray+jpeg:50+poisson+noise:3")
    sent = pickle.loads(pickle.dumps(degrade))
    image = random_image(16, 16)
    assert np.array_equal(sent(image, np.random.default_rng(0)), degrade(image, np.random.default_rng(0)))
    assert (sent.spec, sent.scale, sent.gray) == (degrade.spec, 2, True)


# ------------------------------------------------------------------------------------------------------ noise


@pytest.mark.parametrize(
    ("spec", "channels", "digest"),
    [
        ("noise:25", 3, "f6407427d6b9d8ba"),
        ("noise:25", 1, "d94ad04eb3efc26a"),
        ("noise:0-55", 3, "27f0f7cbf0570de3"),
        ("noise:0-55", 1, "22602b3d2d5d09fc"),
        ("noise:0", 3, "ce21271bb8a62d8f"),
    ],
)
def test_noise_is_bit_for_bit_what_figures_were_measured_with(spec: str, channels: int, digest: str) -> None:
    image = np.ascontiguousarray(random_image(24, 20)[:, :, :channels])
    assert hashlib.sha256(degraded(spec, image, 7).tobytes()).hexdigest()[:16] == digest


def test_noise_has_its_sigma_and_is_neither_clamped_nor_quantised() -> None:
    image = np.broadcast_to(np.linspace(0, 1, 512, dtype=np.float32)[:, None, None], (512, 512, 3))
    noisy = degraded("noise:25", image)
    added = noisy.astype(np.float64) - image
    assert noisy.dtype == np.float32
    assert added.std() == pytest.approx(25 / 255, rel=0.005) and abs(added.mean()) < 1e-3
    assert noisy.min() < -0.2 and noisy.max() > 1.2
    assert 4 < np.abs(added).max() * 255 / 25 < 6  # the tails of a normal distribution, of 786,432 values
    assert np.abs(noisy * 255 - np.round(noisy * 255)).mean() == pytest.approx(0.25, abs=0.01)
    correlation = (
        np.corrcoef([added[:-1].ravel(), added[1:].ravel()])[0, 1],
        np.corrcoef(added.reshape(-1, 3).T),
    )
    assert abs(correlation[0]) < 0.01 and np.abs(correlation[1] - np.eye(3)).max() < 0.01  # white


def test_a_range_of_noise_is_drawn_image_by_image() -> None:
    dark = flat(0, 64)
    sigmas = np.array([degraded("noise:10-50", dark, seed).std() * 255 for seed in range(200)])
    assert 9.4 < sigmas.min() < 12 and 48 < sigmas.max() < 53  # 64 x 64 values give sigma to 1 %
    assert sigmas.mean() == pytest.approx(30, abs=3) and sigmas.std() == pytest.approx(40 / 12**0.5, abs=1.5)
    assert np.array_equal(degraded("noise:0", dark), dark)


# ---------------------------------------------------------------------------------------------------- poisson


@pytest.mark.parametrize(("spec", "peak"), [("poisson", 100), ("poisson:7", 7), ("poisson:2000", 2000)])
@pytest.mark.parametrize("value", [0.02, 0.5, 1.0])
def test_photons_have_the_mean_and_the_variance_of_theory(spec: str, peak: float, value: float) -> None:
    counted = degraded(spec, flat(value)).astype(np.float64)
    n, lam = counted.size, value * peak
    assert abs(counted.mean() - value) < 5 * np.sqrt(value / peak / n)
    relative = 5 * np.sqrt((2 + 1 / lam) / n)  # Var(s^2) = (mu4 - s^4) / n, mu4 = lam + 3 lam^2
    assert counted.var() == pytest.approx(value / peak, rel=relative)
    assert np.abs(counted * peak - np.round(counted * peak)).max() < 1e-3  # whole photons, of any number
    assert value < 1 or counted.max() > 1


def test_photons_of_nothing_and_of_less_than_nothing() -> None:
    image = np.linspace(-1, 0, 300, dtype=np.float32).reshape(10, 10, 3)
    assert not degraded("poisson:50", image).any()


def test_a_range_of_peaks_is_drawn_image_by_image() -> None:
    peaks = np.array([0.5 / degraded("poisson:20-200", flat(0.5, 96), seed).var() for seed in range(100)])
    assert 18 < peaks.min() < 30 and 185 < peaks.max() < 220  # 9216 values give a variance to 1.5 %


# ------------------------------------------------------------------------------------------------------- blur


@pytest.mark.parametrize("sigma", [0.1, 0.3, 1, 1.6, 4, 11])
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (5, 3), (40, 61)])
def test_blur_is_scipys(sigma: float, size: tuple[int, int]) -> None:
    image = random_image(*size) * 3 - 1  # the noise before it may leave [0, 1]
    wanted = gaussian_filter(image.astype(np.float64), (sigma, sigma, 0), mode="reflect", truncate=4.0)
    assert np.abs(degraded(f"blur:{sigma}", image) - wanted).max() < 1e-5


def test_blur_without_a_value_and_with_a_range() -> None:
    image = random_image(32, 32)
    assert np.array_equal(degraded("blur", image), degraded("blur:1.6", image))
    point = np.zeros((65, 65, 1), np.float32)
    point[32, 32] = 1
    offsets = np.arange(-32, 33)
    sigmas = []
    for seed in range(60):
        profile = degraded("blur:1-5", point, seed)[:, :, 0].sum(axis=1)
        sigmas.append(np.sqrt((profile * offsets**2).sum()))
    assert 0.99 < min(sigmas) < 1.4 and 4.6 < max(sigmas) < 5.01


# ------------------------------------------------------------------------------------------------------- jpeg


def round_trip(levels: Array, quality: int) -> Array:
    """What Pillow makes of 8-bit `(H, W)` or `(H, W, 3)`."""
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("quality", [1, 10, 75, 100])
@pytest.mark.parametrize("size", [(1, 1), (17, 31), (64, 48)])
def test_jpeg_is_pillows_round_trip(quality: int, size: tuple[int, int]) -> None:
    levels = random_values(*size)
    assert np.array_equal(degraded(f"jpeg:{quality}", unit(levels)), unit(round_trip(levels, quality)))
    gray = levels[:, :, :1]
    wanted = unit(round_trip(gray[:, :, 0], quality))[:, :, None]
    assert np.array_equal(degraded(f"jpeg:{quality}", unit(gray)), wanted)


def test_jpeg_halves_the_resolution_of_colour_not_of_gray() -> None:
    columns = np.uint8(np.arange(32) % 2 * 255)
    gray = np.broadcast_to(columns[None, :, None], (32, 32, 1))
    red_and_cyan = np.stack(np.broadcast_arrays(columns, 255 - columns, 255 - columns), 1)[None].repeat(32, 0)
    assert np.abs(degraded("jpeg:100", unit(gray)) - unit(gray)).max() < 0.02
    red, green, _ = np.moveaxis(degraded("jpeg:100", unit(red_and_cyan)), 2, 0)
    assert np.abs(red - green).max() < 0.05  # columns of opposite hues have become gray


def test_jpeg_rounds_and_clamps_what_it_gets() -> None:
    wild = random_image(40, 40) * 3 - 1
    levels = np.array([min(max(round(float(v) * 255), 0), 255) for v in wild.flat], np.uint8).reshape(
        wild.shape
    )
    assert np.array_equal(degraded("jpeg:80", wild), unit(round_trip(levels, 80)))


def test_a_range_of_qualities_takes_both_ends() -> None:
    levels = smooth_bytes(48, 48)
    results = [unit(round_trip(levels, quality)) for quality in (40, 41, 42)]
    seen = set()
    for seed in range(40):
        result = degraded("jpeg:40-42", unit(levels), seed)
        seen |= {i for i, wanted in enumerate(results) if np.array_equal(result, wanted)}
    assert seen == {0, 1, 2}
    assert len({wanted.tobytes() for wanted in results}) == 3


# ------------------------------------------------------------------------------------------------------- gray


def test_gray_is_pillows_l() -> None:
    levels = np.concatenate([random_values(64, 64), smooth_bytes(64, 64)])
    wanted = np.asarray(Image.fromarray(levels).convert("L")).astype(np.float64)
    result = degraded("gray", unit(levels))
    assert result.shape == (128, 64, 1)
    assert np.abs(result[:, :, 0] * 255.0 - wanted).max() < 0.501  # Pillow rounds


def test_gray_leaves_gray_alone() -> None:
    image = random_image(9, 8, 1) * 3 - 1
    assert np.array_equal(degraded("gray", image), image)
    same = np.repeat(image, 3, axis=2)
    assert np.abs(degraded("gray", same) - image).max() < 1e-6


# --------------------------------------------------------------------------------------------------------- sr


def pillow_reduced(levels: Array, factor: int) -> Array:
    height, width = levels.shape[:2]
    resized = Image.fromarray(levels).resize((width // factor, height // factor), Image.Resampling.BICUBIC)
    return np.asarray(resized).astype(np.float64)


def rounding(side: int, factor: int) -> float:
    """How far 8-bit passes can be from exact ones: half a level after the rows, which the columns' weights
    pass on, and half a level after the columns; Pillow's own weights, and 1 % for their fixed point."""
    identity = Image.fromarray(np.eye(side, dtype=np.float32))
    weights = np.asarray(
        identity.resize((side, side // factor), Image.Resampling.BICUBIC, (0, 0, side, side))
    )
    return 0.5 * float(np.abs(weights).sum(axis=1).max()) + 0.5 + 0.01


@pytest.mark.parametrize("factor", range(2, 9))
@pytest.mark.parametrize("kind", ["random", "smooth", "binary"])
def test_sr_is_what_pillow_does_to_bytes(factor: int, kind: str) -> None:
    size = 12 * factor, 9 * factor
    levels = smooth_bytes(*size) if kind == "smooth" else random_values(*size)
    levels = levels // 128 * np.uint8(255) if kind == "binary" else levels
    result = degraded(f"sr:{factor}", unit(levels))
    assert result.shape == (12, 9, 3) and result.min() >= 0 and result.max() <= 1
    difference = np.abs(result * 255.0 - pillow_reduced(levels, factor))
    assert difference.max() < min(rounding(size[0], factor), 1.1)
    assert difference.mean() < 0.35  # of two roundings, each of variance 1 / 12


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_sr_of_a_photograph_is_what_pillow_does_to_bytes(factor: int) -> None:
    levels = pixels(min(dataset("bsds500-color").glob("*.jpg")))
    height, width = (side // factor * factor for side in levels.shape[:2])
    levels = levels[:height, :width]
    difference = np.abs(degraded(f"sr:{factor}", unit(levels)) * 255.0 - pillow_reduced(levels, factor))
    assert difference.max() < 1.01


def test_sr_is_not_rounded_and_takes_gray_and_what_lies_outside() -> None:
    image = random_image(32, 32, 1)
    levels = degraded("sr:2", image) * 255
    assert levels.shape == (16, 16, 1)
    assert np.abs(levels - np.round(levels)).mean() == pytest.approx(0.25, abs=0.05)
    wild = degraded("sr:2", image * 5 - 2)
    assert wild.min() == 0 and wild.max() == 1


@pytest.mark.parametrize(("height", "width"), [(31, 32), (32, 31), (1, 1)])
def test_sr_refuses_sides_that_it_would_have_to_cut(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"{width}x{height}"):
        degraded("sr:2", random_image(height, width))


# ------------------------------------------------------------------------------------------------------- haze


def test_haze_is_what_figures_were_measured_with() -> None:
    """To the last digits only: the exponential function differs from processor to processor there."""
    result = degraded("haze", random_image(24, 20), 7)
    recorded = [0.85120934, 0.8064338, 0.7800656, 0.8428526, 0.808102, 0.64795125, 0.66665936, 0.6926248]
    recorded += [0.6672994, 0.74401695, 0.6449647, 0.6674525, 0.7113992, 0.7492207, 0.6946263, 0.79010326]
    assert np.abs(result[::8, ::7].ravel()[:16] - recorded).max() < 1e-6
    assert result.sum(dtype=np.float64) == pytest.approx(1045.2927092909813, abs=1e-4)
    chained = degraded("haze+noise:15", random_image(24, 20), 7)
    assert chained.sum(dtype=np.float64) == pytest.approx(1040.1061660945415, abs=1e-4)


def test_haze_follows_the_scattering_model() -> None:
    """I = J t + A (1 - t): the same draws on black, white and an image give A and t, and agree on them."""
    image = random_image(40, 30)
    strengths = set()
    for seed in range(10):
        black, white, hazy = (
            degraded("haze", clear, seed).astype(np.float64)
            for clear in (np.zeros_like(image), np.ones_like(image), image)
        )
        t = white - black
        airlight = black / (1 - t)
        assert np.ptp(airlight) < 1e-4 and 0.7 <= airlight.mean() <= 1
        assert np.ptp(t, axis=2).max() < 1e-6 and t.min() > 0 and t.max() < 1
        assert np.abs(hazy - (image * t + airlight * (1 - t))).max() < 1e-5
        depth = -np.log(t[:, :, 0])
        assert np.ptp(depth) > 0.2 * depth.mean()  # an image is not hazed evenly
        assert depth[:10].mean() > depth[-10:].mean()  # far at the top
        strengths.add(round(float(depth.mean()), 4))
    assert len(strengths) == 10


# ------------------------------------------------------------------------------------------------------- rain


def lean(streaks: Array, lag: int = 8) -> float:
    """Columns a row by which the streaks lean: where the rows `lag` further down correlate best."""
    fits = {}
    for shift in range(-lag, lag + 1):
        inner = slice(lag, -lag)
        moved = np.roll(streaks, -shift, axis=1)[lag:, inner]
        fits[shift] = (streaks[:-lag, inner] * moved).mean()
    return max(fits, key=lambda shift: fits[shift]) / lag


@pytest.mark.parametrize("seed", range(12))
def test_rain_is_sparse_bright_and_falls_one_way(seed: int) -> None:
    rain = degraded("rain", np.zeros((200, 300, 3), np.float32), seed)
    assert np.array_equal(rain[:, :, 0], rain[:, :, 1]) and np.array_equal(rain[:, :, 0], rain[:, :, 2])
    streaks = rain[:, :, 0].astype(np.float64)
    assert streaks.min() == 0 and 0.3 < streaks.max() <= 1
    assert 0.003 < (streaks > 0.05).mean() < 0.3 and np.median(streaks) < 0.02
    assert abs(lean(streaks)) <= np.tan(np.radians(30)) + 0.5 / 8
    across = (streaks[:, 8:] * streaks[:, :-8]).mean()
    shift = round(lean(streaks) * 8)
    along = (streaks[:-8] * np.roll(streaks, -shift, axis=1)[8:]).mean()
    assert along > 3 * across  # long one way, thin the other


def test_rain_differs_from_image_to_image() -> None:
    dark = np.zeros((200, 300, 1), np.float32)
    rains = [degraded("rain", dark, seed)[:, :, 0].astype(np.float64) for seed in range(30)]
    leans, amounts = [lean(rain) for rain in rains], [rain.mean() for rain in rains]
    assert min(leans) < -0.2 and max(leans) > 0.2
    assert max(amounts) > 3 * min(amounts)


def test_rain_falls_as_much_at_the_borders_as_within() -> None:
    dark = np.zeros((60, 60, 1), np.float32)
    mean = np.mean([degraded("rain", dark, seed)[:, :, 0] for seed in range(800)], axis=0)
    border = np.mean([mean[0].mean(), mean[-1].mean(), mean[:, 0].mean(), mean[:, -1].mean()])
    assert border == pytest.approx(mean[5:-5, 5:-5].mean(), rel=0.08)


def test_rain_adds_light_up_to_white() -> None:
    image = random_image(50, 40)
    streaks = degraded("rain", np.zeros_like(image), 3)
    assert streaks.max() < 1
    rainy = degraded("rain", image, 3)
    assert np.abs(rainy - np.minimum(image.astype(np.float64) + streaks, 1)).max() < 1e-6
    assert rainy.max() == 1


@pytest.mark.slow
@pytest.mark.timing
def test_what_degrading_costs() -> None:
    def milliseconds(spec: str, size: tuple[int, int]) -> float:
        degrade, image, rng = parse_degradation(spec), random_image(*size), np.random.default_rng(0)
        times = []
        for _ in range(15):
            start = time.perf_counter()
            degrade(image, rng)
            times.append(time.perf_counter() - start)
        return float(np.median(times)) * 1000

    assert milliseconds("rain", (320, 480)) < 30
    assert milliseconds("jpeg:30+blur", (96, 96)) < 1.5


# ----------------------------------------------------------------------------------------------------- chains


@pytest.mark.parametrize(
    ("spec", "scale", "gray"),
    [
        ("noise:25", 1, False),
        ("sr:3", 3, False),
        ("blur+sr:4+noise:5", 4, False),
        ("sr:2+blur+sr:3", 6, False),
        ("gray", 1, True),
        ("noise:5+gray+sr:2", 2, True),
        ("sr:2+gray+sr:2+jpeg:40+gray", 4, True),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_chain_announces_its_result(spec: str, scale: int, gray: bool, channels: int) -> None:
    degrade = parse_degradation(spec)
    assert (degrade.spec, degrade.scale, degrade.gray) == (spec, scale, gray)
    assert len(degrade.steps) == spec.count("+") + 1
    result = degrade(random_image(24, 36, channels), np.random.default_rng(0))
    assert result.shape == (24 // scale, 36 // scale, 1 if gray else channels) and result.dtype == np.float32


def test_a_chain_is_its_parts_one_after_the_other() -> None:
    image, rng = random_image(24, 24), np.random.default_rng(9)
    wanted = image
    for part in ("rain", "blur:1-2", "sr:2", "noise:5-10", "jpeg:40-60"):
        wanted = parse_degradation(part)(wanted, rng)
    assert np.array_equal(degraded("rain+blur:1-2+sr:2+noise:5-10+jpeg:40-60", image, 9), wanted)


def test_order_matters() -> None:
    image = flat(0.5)
    before, after = degraded("noise:25+blur:2", image), degraded("blur:2+noise:25", image)
    assert after.std() * 255 == pytest.approx(25, rel=0.01)
    assert before.std() * 255 == pytest.approx(
        25 / (2 * np.sqrt(np.pi) * 2), rel=0.05
    )  # white noise, blurred
    assert degraded("noise:90+jpeg:90", image).min() == 0 and degraded("jpeg:90+noise:90", image).min() < 0


def test_noise_on_gray_is_one_plane_of_full_strength() -> None:
    image = np.full((256, 256, 3), 0.5, np.float32)
    gray = degraded("gray+noise:25", image)
    assert gray.shape == (256, 256, 1) and gray.std() * 255 == pytest.approx(25, rel=0.015)
    weakened = degraded("noise:25+gray", image)
    factor = np.sqrt(0.299**2 + 0.587**2 + 0.114**2)
    assert weakened.std() * 255 == pytest.approx(25 * factor, rel=0.015)


# ------------------------------------------------------------------------------------------------------ specs


BAD_SPECS = """noise noise: noise:-1 noise:a noise:30-10 noise:1-2-3 noise:nan noise:inf noise:5- noise:0-inf
poisson: poisson:0 poisson:-5 poisson:0-10 poisson:inf poisson:nan poisson:b poisson:1e300 poisson:9-3
blur: blur:0 blur:-1 blur:0-3 blur:nan blur:inf blur:1e9 blur:x blur:3-1
jpeg jpeg: jpeg:0 jpeg:101 jpeg:-1 jpeg:7.5 jpeg:50-40 jpeg:0-50 jpeg:50-101 jpeg:high jpeg:nan jpeg:1-2.5
gray:3 gray: haze:2 haze: rain:heavy rain:1
sr sr: sr:1 sr:0 sr:9 sr:-2 sr:2.5 sr:2-4 sr:x sr:02 sr:1_0
noise:25+ +noise:25 noise:25++blur + : :25 noise:25,haze noise:25+fog Noise:25 nose:25 grey
SR:2 blur+jpeg:101"""


@pytest.mark.parametrize("spec", ["", " ", "noise:25 + blur", *BAD_SPECS.split()])
def test_a_bad_spec_is_refused_by_its_flag(spec: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_degradation(spec)
    assert f"[--degrade {spec}]" in caught.value.what and caught.value.code == 2
    assert caught.value.why or all(name in caught.value.fix for name in DEGRADATIONS)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nose:25", ["did you mean noise?"]),
        ("Noise:25", ["did you mean noise?"]),
        ("grey", ["did you mean gray?"]),
        ("blur+jpg:30", ["did you mean jpeg?"]),
        ("possion", ["did you mean poisson?"]),
        ("blur+jpeg:101", ["jpeg:101", "1 to 100"]),
        ("noise:30-10", ["noise:30-10", "A <= B"]),
        ("sr:2.5", ["sr:2.5", "2 to 8"]),
        ("haze:2", ["haze:2", "no value"]),
        *((spec, []) for spec in ("noise:0", "noise:2.5-7", "poisson:0.5", "blur:0.1", "blur:2-2")),
        *((spec, []) for spec in ("jpeg:1-100", "sr:2", "sr:8")),
    ],
)
def test_a_bad_step_is_named_with_what_would_be_good(spec: str, words: list[str]) -> None:
    if not words:  # the ends of what is allowed
        assert parse_degradation(spec).spec == spec
        return
    with pytest.raises(UserError) as caught:
        parse_degradation(spec)
    assert all(word in f"{caught.value.why} {caught.value.fix}" for word in words)
