"""The steps of `data.degrade` for images on a device: `--cache device --degrade noise:25`.

What a step draws once for an image (sigma, depth of the haze, streaks of rain) comes from the same stream as
there, so such steps differ from those of `data.degrade` by rounding only. Noise is drawn on the device, by a
generator that this stream seeds: other values of the same distribution, which depend on the kind of device.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data import degrade
from data.degrade import LUMA, Degradation

DeviceAction = Callable[..., Tensor]


@functools.cache
def on_device(degradation: Degradation) -> Callable[[Tensor, np.random.Generator], Tensor]:
    """The same chain for images `(H, W, C)` on a device, uint8 or float32 in [0, 1]; the result is float32.

    Raises:
        KeyError: a step that is computed on the CPU only, see `Degradation.on_device`.
    """
    steps = [_step_on_device(step) for step in degradation.steps]

    def apply(image: Tensor, rng: np.random.Generator) -> Tensor:
        if image.dtype == torch.uint8:
            image = image / image.new_full((), 255, dtype=torch.float32)  # a GPU would multiply by 1/255
        for step in steps:
            image = step(image, rng)
        return image

    return apply


def _step_on_device(step: Callable[..., Any]) -> DeviceAction:
    if isinstance(step, partial):
        return partial(ACTIONS[step.func], **step.keywords)
    return ACTIONS[step]


def generator(device: torch.device, rng: np.random.Generator) -> torch.Generator:
    """A generator of the device, seeded by a draw of `rng`."""
    return torch.Generator(device).manual_seed(int(rng.integers(2**63)))


def add_noise(image: Tensor, rng: np.random.Generator, sigma: tuple[float, float]) -> Tensor:
    drawn_sigma = rng.uniform(*sigma) / 255
    source = generator(image.device, rng)
    noise = torch.randn(image.shape, generator=source, device=image.device)
    return torch.add(image, noise, alpha=drawn_sigma)


def count_photons(image: Tensor, rng: np.random.Generator, peak: tuple[float, float]) -> Tensor:
    drawn_peak = rng.uniform(*peak)
    return torch.poisson(image.clamp_min(0) * drawn_peak, generator(image.device, rng)) / drawn_peak


def random_blur(image: Tensor, rng: np.random.Generator, sigma: tuple[float, float]) -> Tensor:
    half = torch.from_numpy(degrade.gaussian_kernel(rng.uniform(*sigma))).to(image.device)
    kernel = torch.cat([half.flip(0), half[1:]])
    return _filter(_filter(image, kernel, 0), kernel, 1)


def _filter(image: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """Convolve `(H, W, C)` along an axis by an odd, symmetric kernel, with symmetric padding."""
    length, radius = image.shape[axis], len(kernel) // 2
    places = torch.arange(-radius, length + radius, device=image.device) % (2 * length)
    places = torch.minimum(places, 2 * length - 1 - places)  # ... 1 0 | 0 1 ... n-1 | n-1 n-2 ...
    padded = image.index_select(axis, places).movedim(axis, -1)
    lines = F.conv1d(padded.flatten(0, 1)[:, None], kernel[None, None])
    return lines.view(*padded.shape[:2], length).movedim(-1, axis)


def to_gray(image: Tensor, rng: np.random.Generator) -> Tensor:
    if image.shape[2] == 1:
        return image
    return (image * image.new_tensor(LUMA)).sum(2, keepdim=True)


def reduce(image: Tensor, rng: np.random.Generator, factor: int) -> Tensor:
    height, width = image.shape[:2]
    degrade.check_multiple(height, width, factor)
    planes = image.permute(2, 0, 1)[None]
    for size in ((height, width // factor), (height // factor, width // factor)):
        planes = F.interpolate(planes, size, mode="bicubic", antialias=True).clamp(0, 1)
    return planes[0].permute(1, 2, 0)


def add_haze(image: Tensor, rng: np.random.Generator) -> Tensor:
    depth, beta, airlight = degrade.draw_haze((image.shape[0], image.shape[1]), rng)
    transmission = torch.from_numpy(np.exp(-beta * depth).astype(np.float32)[:, :, None]).to(image.device)
    return image * transmission + airlight * (1 - transmission)


def add_rain(image: Tensor, rng: np.random.Generator) -> Tensor:
    streaks = torch.from_numpy(degrade.rain_streaks((image.shape[0], image.shape[1]), rng)[:, :, None])
    return (image + streaks.to(image.device)).clamp_max(1)


ACTIONS: dict[Callable[..., Any], DeviceAction] = {
    degrade.add_noise: add_noise,
    degrade.count_photons: count_photons,
    degrade.random_blur: random_blur,
    degrade.to_gray: to_gray,
    degrade.reduce: reduce,
    degrade.add_haze: add_haze,
    degrade.add_rain: add_rain,
}
