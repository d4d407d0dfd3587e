"""A discriminator in training: the generator's term, the discriminator's turn, the image pool."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.discriminator import GanLoss, Logits
from models.losses import over_images
from models.terms import GanSettings
from utils.system.distributed import Ranks
from utils.system.rng import stream


class ImagePool:
    """Earlier outputs of a generator, shown to its discriminator now and then (Shrivastava et al. 2017).

    A new image is returned itself with probability 1/2; else an earlier one, whose place it takes. All
    processes hold the same pool, of the images of the whole batch.

    Args:
        size: images that are kept; 0: none, every image is returned itself.
        number: of the pool in its run: no two draw from the same streams.

    Attributes:
        seen: images so far, over all processes: the position in the pool's random stream.
    """

    def __init__(self, size: int, seed: int, number: int, ranks: Ranks):
        self.size, self.seed, self.number, self.ranks = size, seed, number, ranks
        self.images: list[Tensor] = []
        self.seen = 0

    def exchange(self, images: Tensor) -> Tensor:
        """Return as many images as `images`, `(N, C, H, W)` without gradients, has."""
        if not self.size:
            return images
        count = len(images)
        everywhere = gather(images, self.ranks)
        found = torch.stack([self._one(image) for image in everywhere])
        return found[self.ranks.rank * count : (self.ranks.rank + 1) * count]

    def _one(self, image: Tensor) -> Tensor:
        rng = stream(self.seed, "pool", self.number, self.seen)
        self.seen += 1
        kept = image.nan_to_num(0, 1, -1)  # an image of a step that --nan_policy skips
        if len(self.images) < self.size:
            self.images.append(kept)
            return image
        at = int(rng.integers(2 * self.size))
        if at >= self.size or self.images[at].shape != image.shape:
            return image
        earlier, self.images[at] = self.images[at], kept
        return earlier

    def state_dict(self) -> dict[str, Any]:
        return {"images": list(self.images), "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self.images = [image.to(device) for image in state["images"]]
        self.seen = state["seen"]


def gather(images: Tensor, ranks: Ranks) -> Tensor:
    """The images of all processes in the order of the batch."""
    if ranks.world == 1:
        return images
    parts = [torch.empty_like(images) for _ in range(ranks.world)]
    dist.all_gather(parts, images.contiguous())
    return torch.cat(parts)


class Adversary:
    """A discriminator, its loss and its pool.

    The generator's term runs the bare discriminator, frozen; the discriminator's turn runs its wrapped module
    once, on real and fake images together. Losses are computed in float32.

    Args:
        net: the bare discriminator.
        gan: its settings.
        autocast: returns the context in which the network runs.
    """

    def __init__(
        self,
        net: nn.Module,
        gan: GanSettings,
        pool: ImagePool,
        reduction: str,
        autocast: Callable[[], AbstractContextManager[Any]],
    ):
        self.net, self.pool, self.reduction, self.autocast = net, pool, reduction, autocast
        self.gan, self.loss = gan, GanLoss(gan.mode)

    def generator_term(self, fake: Tensor) -> Tensor:
        """Return the adversarial loss of the generator for its images `fake`, `(N, C, H, W)`."""
        self.gan.check_side(min(fake.shape[-2:]))
        self.net.requires_grad_(False)
        with self.autocast():
            logits = self.net(fake)
        return over_images(self.loss.generator(as_float(logits)), self.reduction)

    def pair(self, real: Tensor, fake: Tensor) -> Tensor:
        """Real images and those that stand for the fake ones, `(2 N, C, H, W)`; the network learns again."""
        self.net.requires_grad_(True)
        return torch.cat([real, self.pool.exchange(fake.detach())])

    def discriminator_term(self, logits: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss for the logits of `pair`, and what is watched of them."""
        halves = [each.chunk(2) for each in as_float(logits)]
        real, fake = ([half[i] for half in halves] for i in range(2))
        return over_images(self.loss.discriminator(real, fake), self.reduction), self.loss.watched(real, fake)

    def state_dict(self) -> dict[str, Any]:
        return {"net": self.net.state_dict(), "pool": self.pool.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.pool.load_state_dict(state["pool"], next(self.net.parameters()).device)


def as_float(logits: Sequence[Tensor]) -> Logits:
    return [each.float() for each in logits]
