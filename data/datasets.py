"""Pairs as tensors: one sample is a pure function of (seed, epoch, index)."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from data.augment import AUGMENTATIONS, random_crop
from data.degrade import Degradation
from data.layouts import Listing
from data.transforms import Array, normalization, preparation
from utils.errors import Refusal


class PairDataset(Dataset[dict[str, Any]]):
    """`{'input', 'target', 'name'}`: two float32 `(C, H, W)` tensors, normalised, and the sample's name.

    Indexed by (epoch, index) a sample is cropped and turned at random (training); indexed by a plain number
    it is whole (validation, test). `target` is missing where the layout has none.

    Args:
        listing: the pairs of a split.
        input_nc, target_nc: 1 or 3 channels.
        size: resize both images to `size` x `size`, bicubic.
        crop_size, augment: training only, see `data.augment`.
        degrade: makes the input, see `data.degrade`.
        mean, std: of Normalize; 0.5 and 0.5 give [-1, 1].
        repeat: passes over the set that make one epoch.
        cache: keep decoded images (uint8) in memory.
    """

    def __init__(
        self,
        listing: Listing,
        *,
        input_nc: int,
        target_nc: int,
        size: int | None = None,
        crop_size: int | None = None,
        augment: str = "none",
        degrade: Degradation | None = None,
        mean: float = 0.5,
        std: float = 0.5,
        seed: int = 0,
        repeat: int = 1,
        cache: bool = False,
    ):
        self.listing, self.crop_size, self.degrade = listing, crop_size, degrade
        self.seed, self.repeat = seed, repeat
        self.augment = AUGMENTATIONS[augment]
        self.prepare = preparation(size, input_nc), preparation(size, target_nc)
        self.normalize = normalization(mean, std)
        self.decoded: dict[int, list[Array]] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.listing.pairs) * self.repeat

    def __getitems__(self, keys: list[int | tuple[int, int]]) -> "list[dict[str, Any]] | Refusal":
        """The samples of a batch (torch asks for them so), or what is wrong with one: see `utils.loading`."""
        try:
            return [self[key] for key in keys]
        except Refusal as refusal:
            return refusal

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        training = isinstance(key, tuple)
        epoch, index = key if isinstance(key, tuple) else (-1, key)
        rng = np.random.default_rng([self.seed, epoch + 1, index + 1])
        which = index % len(self.listing.pairs)
        name = self.listing.pairs[which].name
        images: Sequence[Array] = self.read(which)
        try:
            if training and self.crop_size:
                images = random_crop(images, self.crop_size, rng)
        except ValueError as error:
            raise Refusal(f"{name}: {error}", fix="lower --crop_size", code=1) from None
        if training:
            images = self.augment(images, rng)
        arrays = [image.astype(np.float32) / 255 for image in images]  # (H, W, C) in [0, 1]
        if self.degrade:
            arrays[0] = self.degrade(arrays[0], rng)
        tensors = [self.normalize(array) for array in arrays]
        return {"name": name, **dict(zip(("input", "target"), tensors, strict=False))}

    def read(self, which: int) -> list[Array]:
        """The decoded images of one pair, uint8 `(H, W, C)`, from memory where they are kept."""
        if self.decoded is not None and which in self.decoded:
            return self.decoded[which]
        read = self.listing.read(self.listing.pairs[which])
        images = [
            prepare(image) for prepare, image in zip(self.prepare, read, strict=True) if image is not None
        ]
        if self.decoded is not None:
            self.decoded[which] = images
        return images


def check_training_sizes(
    sizes: Sequence[tuple[int, int]], batch_size: int, size: int | None, crop_size: int | None
) -> None:
    """Refuse sizes `(W, H)` that cannot be trained on, before the first step.

    Raises:
        Refusal: an image smaller than the crop, or whole images of several sizes in one batch.
    """
    if size:
        return
    smallest = min(min(pair) for pair in sizes)
    if crop_size and smallest < crop_size:
        raise Refusal(
            f"--crop_size {crop_size} is larger than an image", f"one side has {smallest} pixels", "lower it"
        )
    if not crop_size and batch_size > 1 and len(set(sizes)) > 1:
        raise Refusal(
            f"--batchSize {batch_size} needs images of one size",
            f"{len(set(sizes))} sizes found",
            "add --crop_size or --size",
        )


def fits_in_memory(sizes: Sequence[tuple[int, int]], pairs: int, copies: int) -> bool:
    """Whether all pairs, decoded, take at most a quarter of the free memory, kept by `copies` processes."""
    mean = sum(width * height * 6 for width, height in sizes) / len(sizes)  # bytes of a pair of colour images
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return mean * pairs * copies <= free / 4
