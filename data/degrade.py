"""Degradations, which make the input from a clean image: `noise:25`, `sr:4`, chains such as `blur:2+noise:5`.

A step is a function `(image, rng) -> image` on float32 `(H, W, C)` arrays, C 1 or 3, in [0, 1]. It draws from
`rng` only and does not change its argument. Steps are applied from left to right. Noise is not clamped, so
later steps may get values outside [0, 1].
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from utils.system.errors import UserError, did_you_mean
from utils.system.pixels import to_bytes, to_float

Array = np.ndarray
Action = Callable[[Array, np.random.Generator], Array]
LUMA = 0.299, 0.587, 0.114  # ITU-R BT.601, full range


@dataclass(frozen=True)
class Step:
    """One step of a chain.

    Args:
        action: its function.
        scale: the factor by which it reduces the size.
        gray: whether it makes gray.
        on_device: whether `data.device_degrade` has it, too.
    """

    action: Action
    scale: int = 1
    gray: bool = False
    on_device: bool = True


@dataclass(frozen=True)
class Degradation:
    """A chain of steps; call it with an image and a generator.

    Args:
        spec: the string it was parsed from.
        steps: in order of application.
        scale: target size / input size, the product of the `sr` factors.
        gray: the result has one channel, whatever the image has.
        on_device: `data.device_degrade` has all of its steps.
    """

    spec: str
    steps: tuple[Action, ...]
    scale: int
    gray: bool
    on_device: bool

    def __call__(self, image: Array, rng: np.random.Generator) -> Array:
        """Degrade a float32 `(H, W, C)` image in [0, 1] to float32 `(H / scale, W / scale, C or 1)`.

        Raises:
            ValueError: a side is not a multiple of `scale`.
        """
        for step in self.steps:
            image = step(image, rng)
        return image


def noise(value: str) -> Step:
    """White Gaussian noise: `noise:S` of sigma S / 255; `noise:A-B` draws one sigma per image from [A, B]."""
    return Step(partial(add_noise, sigma=parse_range(value, 0, 1e6)))


def add_noise(image: Array, rng: np.random.Generator, sigma: tuple[float, float]) -> Array:
    """Add noise of a sigma drawn from a range, in 1/255; neither clamped nor quantized."""
    drawn_sigma = rng.uniform(*sigma) / 255
    noisy = rng.standard_normal(image.shape, dtype=np.float32)
    noisy *= np.float32(drawn_sigma)
    noisy += image
    return noisy


def poisson(value: str) -> Step:
    """Photon noise: `poisson:PEAK` photons at full brightness (default 100); `poisson:A-B` draws the peak."""
    return Step(partial(count_photons, peak=parse_range(value or "100", 1e-3, 1e9)))


def count_photons(image: Array, rng: np.random.Generator, peak: tuple[float, float]) -> Array:
    """Poisson(image * peak) / peak, of mean `image` and variance `image / peak`; not clamped.

    Values below 0 count as 0.
    """
    drawn_peak = rng.uniform(*peak)
    return (rng.poisson(np.maximum(image, 0) * np.float64(drawn_peak)) / drawn_peak).astype(np.float32)


def blur(value: str) -> Step:
    """Gaussian blur: `blur:S` of sigma S pixels (default 1.6); `blur:A-B` draws one sigma per image."""
    return Step(partial(random_blur, sigma=parse_range(value or "1.6", 0.1, 100)))


def random_blur(image: Array, rng: np.random.Generator, sigma: tuple[float, float]) -> Array:
    """Blur with a sigma drawn from a range, in pixels."""
    return gaussian(image, rng.uniform(*sigma))


def gaussian(image: Array, sigma: float) -> Array:
    """Filter `(H, W, C)` by a Gaussian of `sigma` pixels, truncated at 4 sigma, with symmetric padding."""
    kernel = gaussian_kernel(sigma)
    return convolve(convolve(image, kernel, axis=0), kernel, axis=1)


def gaussian_kernel(sigma: float) -> Array:
    """The weights of a Gaussian from its centre outwards, to 4 sigma; float32."""
    radius = int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    return (kernel / (kernel[0] + 2 * kernel[1:].sum())).astype(np.float32)


def convolve(image: Array, kernel: Array, axis: int) -> Array:
    """Convolve along an axis with a symmetric kernel, given from its centre outwards."""
    length, radius = image.shape[axis], len(kernel) - 1
    padded = np.pad(image, [(radius, radius) if i == axis else (0, 0) for i in range(3)], mode="symmetric")

    def shifted(by: int) -> Array:
        part = slice(radius + by, radius + by + length)
        return padded[part] if axis == 0 else padded[:, part]

    result = kernel[0] * image
    term = np.empty_like(result)
    for by in range(1, radius + 1):
        np.add(shifted(-by), shifted(by), out=term)
        term *= kernel[by]
        result += term
    return result


def jpeg(value: str) -> Step:
    """JPEG compression: `jpeg:Q` of quality 1 to 100; `jpeg:A-B` draws one quality per image."""
    return Step(partial(compress, quality=parse_integers(value, 1, 100)), on_device=False)


def compress(image: Array, rng: np.random.Generator, quality: tuple[int, int]) -> Array:
    """Convert to 8 bits, encode and decode with Pillow: colour as 4:2:0 (its default), gray as L."""
    drawn_quality = int(rng.integers(quality[0], quality[1] + 1))
    levels = to_bytes(image)
    file = io.BytesIO()
    Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels).save(
        file, "JPEG", quality=drawn_quality
    )
    with Image.open(file) as decoded:
        return to_float(np.asarray(decoded).reshape(image.shape))


def gray(value: str) -> Step:
    """Colour to gray, one channel: the input for colourisation."""
    refuse_value(value)
    return Step(to_gray, gray=True)


def to_gray(image: Array, rng: np.random.Generator) -> Array:
    """Return the BT.601 luma `(H, W, 1)`, not rounded; gray images are copied."""
    if image.shape[2] == 1:
        return image.copy()
    red, green, blue = (np.float32(weight) * image[:, :, c] for c, weight in enumerate(LUMA))
    return (red + green + blue)[:, :, None]


def sr(value: str) -> Step:
    """Reduction of both sides by an integer factor: `sr:K`, K 2 to 8; the input for super-resolution."""
    if value not in [str(factor) for factor in range(2, 9)]:
        raise ValueError("takes one whole number from 2 to 8")
    return Step(partial(reduce, factor=int(value)), scale=int(value))


def reduce(image: Array, rng: np.random.Generator, factor: int) -> Array:
    """Reduce an image `factor` times by Pillow's antialiased BICUBIC; in [0, 1], not rounded.

    Clamped after the rows and after the columns, as Pillow does with 8-bit images, so that the result differs
    from Pillow's by rounding only.

    Raises:
        ValueError: a side is not a multiple of `factor`.
    """
    height, width = image.shape[:2]
    check_multiple(height, width, factor)
    narrow = resize(image, (width // factor, height))
    return resize(narrow, (width // factor, height // factor))


def check_multiple(height: int, width: int, factor: int) -> None:
    """Raise ValueError unless both sides are multiples of `factor`."""
    if height % factor or width % factor:
        raise ValueError(f"sr:{factor} needs sides that are multiples of {factor}, not {width}x{height}")


def resize(image: Array, size: tuple[int, int]) -> Array:
    """Resize float `(H, W, C)` to `(width, height)` by Pillow's BICUBIC in mode F, and clamp to [0, 1]."""
    channels = [Image.fromarray(np.ascontiguousarray(image[:, :, c])) for c in range(image.shape[2])]
    resized = [np.asarray(channel.resize(size, Image.Resampling.BICUBIC)) for channel in channels]
    return np.clip(np.stack(resized, axis=2), 0, 1)


def haze(value: str) -> Step:
    """Haze of random strength over a random smooth depth, near at the bottom and far at the top."""
    refuse_value(value)
    return Step(add_haze)


def add_haze(image: Array, rng: np.random.Generator) -> Array:
    """Draw depth, strength and airlight, and apply `scatter`; not clamped."""
    return scatter(image, *draw_haze(image.shape[:2], rng))


def draw_haze(shape: tuple[int, int], rng: np.random.Generator) -> tuple[Array, float, float]:
    """(depth `(H, W)`, beta, airlight) of `scatter` for an image of this height and width."""
    depth = np.linspace(1, 0.4, shape[0], dtype=np.float32)[:, None] + 0.4 * smooth_field(shape, 4, rng)
    return depth, rng.uniform(0.6, 1.8), rng.uniform(0.7, 1.0)


def scatter(clear: Array, depth: Array, beta: float, airlight: float | Array) -> Array:
    """The atmospheric scattering model I = J t + A (1 - t), t = exp(-beta d) (He et al. 2009, eq. 1).

    Args:
        clear: J, float `(H, W, C)` in [0, 1].
        depth: d >= 0, `(H, W)`.
        beta: scattering coefficient.
        airlight: A in [0, 1], a number or one per channel.
    """
    transmission = np.exp(-beta * depth)[:, :, None].astype(np.float32)
    return clear * transmission + np.asarray(airlight, np.float32) * (1 - transmission)


def smooth_field(shape: tuple[int, int], cells: int, rng: np.random.Generator) -> Array:
    """Return a random field in [0, 1], bilinear between `cells` + 1 random values along each side."""
    grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
    rows, cols = (np.linspace(0, cells, n, endpoint=False, dtype=np.float32) for n in shape)
    top, left = rows.astype(int), cols.astype(int)
    down, right = (rows - top)[:, None], (cols - left)[None, :]
    above = grid[top][:, left] * (1 - right) + grid[top][:, left + 1] * right
    below = grid[top + 1][:, left] * (1 - right) + grid[top + 1][:, left + 1] * right
    return above * (1 - down) + below * down


def rain(value: str) -> Step:
    """Rain: bright streaks in one direction, of random density, length and angle."""
    refuse_value(value)
    return Step(add_rain)


def add_rain(image: Array, rng: np.random.Generator) -> Array:
    """Apply the additive model O = min(B + S, 1) with streaks S (Yang et al. 2017, Rain100L)."""
    return np.minimum(image + rain_streaks(image.shape[:2], rng)[:, :, None], np.float32(1))


def rain_streaks(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Return the light added by rain, float32 `(H, W)` >= 0.

    All streaks of an image have one direction, within 30 degrees of vertical, one width and about one length.
    They are uniform over the image and a margin around it, and differ in brightness.
    """
    height, width = shape
    angle = math.radians(rng.uniform(-30, 30))
    length = rng.uniform(12, 45) * math.cos(angle)  # in rows
    sigma = rng.uniform(0.5, 0.9) / math.cos(angle)  # of the cross-section, in columns
    reach = math.ceil(0.65 * length)  # half the longest streak, in rows
    margin = math.ceil(reach * abs(math.tan(angle))) + 2
    drops = rng.poisson(rng.uniform(0.001, 0.004) * (height + 2 * reach) * (width + 2 * margin))
    middle_row = rng.integers(-reach, height + reach, (drops, 1))
    middle_column = rng.uniform(-margin, width + margin, (drops, 1))
    half = 0.5 * length * rng.uniform(0.7, 1.3, (drops, 1))
    bright = 0.05 + 0.7 * rng.random((drops, 1)) ** 2  # most are faint

    along = np.arange(-reach, reach + 1)
    rows = middle_row + along
    exact = middle_column + math.tan(angle) * along
    fade = bright * np.clip(1 - (along / half) ** 2, 0, 1)
    nearest = np.round(exact).astype(int)
    light = np.zeros(height * width)
    for side in range(-2, 3):
        columns = nearest + side
        inside = (fade > 0) & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        share = np.exp(-0.5 * ((columns[inside] - exact[inside]) / sigma) ** 2)
        places = rows[inside] * width + columns[inside]
        light += np.bincount(places, weights=fade[inside] * share, minlength=light.size)
    return light.reshape(shape).astype(np.float32)


DEGRADATIONS: dict[str, Callable[[str], Step]] = {
    "noise": noise,
    "poisson": poisson,
    "blur": blur,
    "jpeg": jpeg,
    "gray": gray,
    "sr": sr,
    "haze": haze,
    "rain": rain,
}


def parse_degradation(spec: str) -> Degradation:
    """Parse a chain such as `haze+noise:15`.

    Raises:
        UserError: an unknown name or an invalid value.
    """
    steps = [parse_step(part, spec) for part in spec.split("+")]
    return Degradation(
        spec,
        tuple(step.action for step in steps),
        scale=math.prod(step.scale for step in steps),
        gray=any(step.gray for step in steps),
        on_device=all(step.on_device for step in steps),
    )


def parse_step(part: str, spec: str) -> Step:
    """Parse one part of `spec`, which is named in errors."""
    name, colon, value = part.partition(":")
    known = f"one of {', '.join(DEGRADATIONS)}"
    if not name:
        raise UserError(f"a step without a name [--degrade {spec}]", f"{part!r} between two +", known)
    if name not in DEGRADATIONS:
        fix = f"{did_you_mean(name.lower(), DEGRADATIONS)} {known}".lstrip()
        raise UserError(f"unknown degradation {name!r} [--degrade {spec}]", fix=fix)
    try:
        if colon and not value:
            raise ValueError("no value after the colon")
        return DEGRADATIONS[name](value)
    except ValueError as error:
        raise UserError(f"invalid value [--degrade {spec}]", f"{part}: {error}") from None


def parse_range(value: str, least: float, most: float) -> tuple[float, float]:
    """Parse `S` to (S, S), and `A-B` to (A, B).

    Raises:
        ValueError: not numbers, or not `least <= A <= B <= most`.
    """
    low, dash, high = value.partition("-")
    try:
        ends = float(low), float(high if dash else low)
    except ValueError:
        ends = math.nan, math.nan
    if not least <= ends[0] <= ends[1] <= most:
        raise ValueError(f"takes a number from {least:g} to {most:g}, or a range A-B with A <= B")
    return ends


def parse_integers(value: str, least: int, most: int) -> tuple[int, int]:
    """Like `parse_range`, for whole numbers.

    Raises:
        ValueError: as `parse_range`, or not whole numbers.
    """
    low, high = parse_range(value, least, most)
    if low % 1 or high % 1:
        raise ValueError("takes whole numbers")
    return int(low), int(high)


def refuse_value(value: str) -> None:
    """Raise ValueError if a degradation that takes no value got one."""
    if value:
        raise ValueError("takes no value")
