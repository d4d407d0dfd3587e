"""Degradations that make the input out of a clean image: `noise:25`, `haze`, and chains joined by `+`.

Each is a function `(image, rng) -> image` on float32 `(H, W, C)` arrays in [0, 1]; all its draws come from
`rng`. The result is neither clamped nor quantised.
"""

import math
from collections.abc import Callable

import numpy as np

from utils.errors import Refusal

Array = np.ndarray
Degradation = Callable[[Array, np.random.Generator], Array]


def noise(spec: str) -> Degradation:
    """White Gaussian noise: `noise:S`, or `noise:A-B` with one sigma an image drawn from [A, B]; in 1/255."""
    low, to, high = spec.partition("-")
    bounds = float(low), float(high if to else low)
    if not 0 <= bounds[0] <= bounds[1] < math.inf:
        raise ValueError("sigma must be a number, or a range A-B with 0 <= A <= B")

    def degrade(image: Array, rng: np.random.Generator) -> Array:
        sigma = rng.uniform(*bounds) / 255
        return image + np.float32(sigma) * rng.standard_normal(image.shape, dtype=np.float32)

    return degrade


def haze(spec: str) -> Degradation:
    """Haze of random strength over a random smooth depth (bottom near, top far): for images without depth."""
    if spec:
        raise ValueError("haze takes no value")

    def degrade(image: Array, rng: np.random.Generator) -> Array:
        height, width = image.shape[:2]
        depth = np.linspace(1, 0.4, height, dtype=np.float32)[:, None] + 0.4 * smooth_field(
            (height, width), 4, rng
        )
        return scatter(image, depth, beta=rng.uniform(0.6, 1.8), airlight=rng.uniform(0.7, 1.0))

    return degrade


def scatter(clear: Array, depth: Array, beta: float, airlight: float | Array) -> Array:
    """The atmospheric scattering model I = J t + A (1 - t), t = exp(-beta d) (He et al. 2009, eq. 1).

    Args:
        clear: J, float `(H, W, C)` in [0, 1].
        depth: d >= 0, `(H, W)`.
        beta: scattering coefficient.
        airlight: A in [0, 1], a number or one a channel.
    """
    transmission = np.exp(-beta * depth)[:, :, None].astype(np.float32)
    return clear * transmission + np.asarray(airlight, np.float32) * (1 - transmission)


def smooth_field(shape: tuple[int, int], cells: int, rng: np.random.Generator) -> Array:
    """A random field in [0, 1] of `shape`, bilinear between `cells` + 1 random values along each side."""
    grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
    rows, cols = (np.linspace(0, cells, n, endpoint=False, dtype=np.float32) for n in shape)
    top, left = rows.astype(int), cols.astype(int)
    down, right = (rows - top)[:, None], (cols - left)[None, :]
    above = grid[top][:, left] * (1 - right) + grid[top][:, left + 1] * right
    below = grid[top + 1][:, left] * (1 - right) + grid[top + 1][:, left + 1] * right
    return above * (1 - down) + below * down


DEGRADATIONS: dict[str, Callable[[str], Degradation]] = {"noise": noise, "haze": haze}


def parse_degradation(spec: str) -> Degradation:
    """The chain that a spec such as `haze+noise:15` describes.

    Raises:
        Refusal: an unknown name or a bad value.
    """
    chain = []
    for part in spec.split("+"):
        name, _, value = part.partition(":")
        try:
            chain.append(DEGRADATIONS[name](value))
        except KeyError:
            raise Refusal(
                f"unknown degradation {name!r} [--degrade {spec}]", fix=f"one of {', '.join(DEGRADATIONS)}"
            ) from None
        except ValueError as error:
            raise Refusal(f"bad value in [--degrade {spec}]", str(error)) from None

    def degrade(image: Array, rng: np.random.Generator) -> Array:
        for step in chain:
            image = step(image, rng)
        return image

    return degrade
