"""Demo data without files: objects at several depths in front of a wall, rendered and hazed from a seed.

Haze follows the scattering model over the depth map, so it differs from object to object, and no change of
colour or contrast of the whole image removes it.
"""

import functools

import numpy as np

from data.degrade import scatter, smooth_field
from utils.system.pixels import to_bytes

Array = np.ndarray
FAR = 1.0  # depth of the back wall; the camera is at 0
HAZY_VERSIONS = 3  # of each scene, as in RESIDE
MAX_SCENES, MAX_SIZE = 100_000, 2048


@functools.lru_cache(maxsize=512)
def render_scene(number: int, size: int) -> tuple[Array, Array]:
    """Return (clear image, float32 `(size, size, 3)` in [0, 1]; depth, `(size, size)` in (0, FAR])."""
    rng = np.random.default_rng([20_260_101, number])
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    horizon = rng.uniform(0.3, 0.5)

    # the wall, and a floor in perspective: depth falls from FAR at the horizon to the camera
    floor = y > horizon
    depth = np.where(floor, FAR * 0.12 / (0.12 + np.maximum(y - horizon, 0)), FAR).astype(np.float32)
    u = np.where(floor, (x - 0.5) * depth * 4, x)
    v = np.where(floor, depth * 4, y)
    image = np.where(floor[:, :, None], texture(u, v, rng), texture(x, y, rng))

    # objects from far to near, each with a soft shadow on what lies behind it
    for distance in np.sort(rng.uniform(0.12, 0.92, rng.integers(14, 22)))[::-1]:
        radius = rng.uniform(0.03, 0.075) / (distance + 0.2)
        foot = horizon + 0.12 * (FAR / distance - 1)  # where the floor has this depth
        cx, cy = rng.uniform(0, 1), min(foot - radius * rng.uniform(0.2, 2.5), 0.95)
        near = tuple(
            slice(max(0, int((c - 2.5 * radius) * size)), int((c + 2.5 * radius) * size) + 1)
            for c in (cy, cx)
        )
        if image[near].size:
            draw_object(
                image[near], depth[near], (x[near] - cx) / radius, (y[near] - cy) / radius, distance, rng
            )
    grain = rng.normal(0, 0.01, image.shape)
    return np.clip(image + grain, 0, 1).astype(np.float32), depth.astype(np.float32)


def draw_object(
    image: Array, depth: Array, dx: Array, dy: Array, distance: float, rng: np.random.Generator
) -> None:
    """Draw a box or an ellipse and its shadow, in place.

    Args:
        image, depth: views of the scene around the object.
        dx, dy: coordinates relative to the object's centre, in radii.
    """
    shadow = np.clip(1.5 - np.hypot(dx - 0.5, dy - 0.4), 0, 1)
    image *= (1 - 0.5 * shadow * (depth >= distance))[:, :, None]
    turn = rng.uniform(0, np.pi)
    dx, dy = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    dy = dy * rng.uniform(0.6, 1.6)
    if rng.random() < 0.5:
        inside, shade = np.maximum(np.abs(dx), np.abs(dy)) < 1, 1 - 0.45 * np.clip(dx, -1, 1)
    else:
        reach = np.hypot(dx, dy)
        inside, shade = reach < 1, 1 - 0.45 * np.clip(reach, 0, 1) ** 2
    image[inside] = (texture(dx, dy, rng) * shade[:, :, None])[inside]
    depth[inside] = distance


def texture(u: Array, v: Array, rng: np.random.Generator) -> Array:
    """Return two colours mixed by a pattern over the coordinates (u, v), `(H, W, 3)` in [0, 1]."""
    one, two = rng.uniform(0.02, 0.95, (2, 3))
    scale, kind = rng.uniform(2, 9), rng.integers(4)
    if kind == 0:
        pattern = (np.floor(u * scale) + np.floor(v * scale)) % 2
    elif kind == 1:
        pattern = 0.5 + 0.5 * np.sin(2 * np.pi * scale * (u * rng.uniform(-1, 1) + v))
    elif kind == 2:
        pattern = 0.5 + 0.25 * (
            np.sin(scale * 3 * u + rng.uniform(0, 6)) + np.cos(scale * 3 * v * rng.uniform(0.5, 1.5))
        )
    else:
        pattern = smooth_field(u.shape, int(rng.integers(8, 40)), rng)
    return one + (two - one) * pattern[:, :, None]


def render_pair(number: int, level: int, size: int) -> tuple[Array, Array]:
    """Return (hazy, clear), uint8 `(size, size, 3)`; `level` is the hazy version of scene `number`."""
    clear, depth = render_scene(number, size)
    rng = np.random.default_rng([20_260_102, number, level])
    airlight = rng.uniform(0.8, 0.95) + rng.uniform(-0.03, 0.03, 3)
    hazy = scatter(clear, depth, beta=rng.uniform(0.8, 2.0), airlight=airlight)
    return to_bytes(hazy), to_bytes(clear)
