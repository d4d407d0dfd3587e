"""Discriminators: PatchGAN at one or two scales, and their losses (lsgan, vanilla, hinge).

They hold no dropout and no batch norm, so an output does not depend on the other images of a batch.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from models.layers import init_weights
from models.terms import GanSettings

MAX_FACTOR = 8  # of the channels, over those of the first layer
SCALES = 2  # of the multi-scale discriminator (pix2pixHD has 2 or 3)
Logits = list[Tensor]  # one map `(N, 1, h, w)` for each scale


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017): `(N, input_nc, H, W)` to one logit for each patch, `(N, 1, h, w)`.

    Convolutions of 4 x 4: `n_layers` of stride 2, then two of stride 1. With 3 layers a logit sees 70 x 70
    pixels (with 1, 2, 4: 16, 34, 142).

    Args:
        ndf: channels of the first layer, doubled at each further one up to 8 * ndf.
        norm: `instance`, between the first and the last convolution; or `spectral`, of every convolution.
    """

    def __init__(self, input_nc: int, ndf: int, n_layers: int, norm: str):
        super().__init__()
        widths = [ndf * min(2**level, MAX_FACTOR) for level in range(n_layers + 1)]
        layers: list[nn.Module] = []
        for level, width in enumerate(widths):
            stride = 2 if level < n_layers else 1
            layers.append(nn.Conv2d(widths[level - 1] if level else input_nc, width, 4, stride, padding=1))
            if level and norm == "instance":
                layers.append(nn.InstanceNorm2d(width))
            layers.append(nn.LeakyReLU(0.2))
        layers.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)
        init_weights(self, "normal")
        if norm == "spectral":
            for layer in self.layers:
                if isinstance(layer, nn.Conv2d):
                    spectral_norm(layer)

    def forward(self, x: Tensor) -> Logits:
        return [self.layers(x)]


class MultiscaleDiscriminator(nn.Module):
    """Two PatchGANs (pix2pixHD, Wang et al. 2018); the second sees the image at half size."""

    def __init__(self, input_nc: int, ndf: int, n_layers: int, norm: str):
        super().__init__()
        scales = [PatchDiscriminator(input_nc, ndf, n_layers, norm) for _ in range(SCALES)]
        self.scales = nn.ModuleList(scales)

    def forward(self, x: Tensor) -> Logits:
        logits: Logits = []
        for scale in self.scales:
            logits += scale(x)
            x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
        return logits


DISCRIMINATORS: dict[str, Callable[..., nn.Module]] = {
    "patch": PatchDiscriminator,
    "multiscale": MultiscaleDiscriminator,
}


def build_discriminator(input_nc: int, gan: GanSettings, seed: int) -> nn.Module:
    """A discriminator of images with `input_nc` channels; its weights depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DISCRIMINATORS[gan.netD](input_nc, gan.ndf, gan.n_layers, gan.norm)


# ----------------------------------------------------------------------------------------------------- losses


def mean_by_image(maps: Sequence[Tensor]) -> Tensor:
    """The mean of each image over the patches, then over the scales, `(N,)`."""
    return torch.stack([each.flatten(1).mean(1) for each in maps]).mean(0)


def cross_entropy(logits: Tensor, label: float) -> Tensor:
    """Binary cross entropy of each logit, in float32."""
    target = torch.full_like(logits, label)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


class GanLoss:
    """The losses of generator and discriminator for one mode, a value for each image, `(N,)`.

    With D(x) a logit: lsgan (D - 1)^2 and D^2 (Mao et al. 2017, eq. 9, a = 0, b = c = 1); vanilla the binary
    cross entropy of sigmoid(D); hinge max(0, 1 - D) and max(0, 1 + D), for the generator -D (Lim, Ye 2017).
    The discriminator's loss is the mean of those of real and fake images: half of their sum, as in pix2pix.
    """

    def __init__(self, mode: str):
        self.mode = mode
        self.threshold = 0.5 if mode == "lsgan" else 0.0  # a logit above is a verdict of "real"

    def generator(self, fake: Logits) -> Tensor:
        """Return the loss of the generator for the logits of its images."""
        return mean_by_image([-each if self.mode == "hinge" else self._each(each, True) for each in fake])

    def discriminator(self, real: Logits, fake: Logits) -> Tensor:
        """Return the loss of the discriminator for the logits of real and of fake images."""
        reals, fakes = (
            mean_by_image([self._each(each, label) for each in maps])
            for maps, label in ((real, True), (fake, False))
        )
        return (reals + fakes) / 2

    def _each(self, logits: Tensor, real: bool) -> Tensor:
        if self.mode == "lsgan":
            return (logits - float(real)).square()
        if self.mode == "vanilla":
            return cross_entropy(logits, float(real))
        return F.relu(1 - logits if real else 1 + logits)

    def watched(self, real: Logits, fake: Logits) -> dict[str, Tensor]:
        """D(real) and D(fake), for vanilla as probabilities, and the share of patches judged right."""
        score = torch.sigmoid if self.mode == "vanilla" else torch.detach
        scores = [mean_by_image([score(each.detach()) for each in maps]).mean() for maps in (real, fake)]
        right = [
            mean_by_image([((each > self.threshold) == expected).float() for each in maps]).mean()
            for maps, expected in ((real, True), (fake, False))
        ]
        return {"D_real": scores[0], "D_fake": scores[1], "D_right": (right[0] + right[1]) / 2}
