"""Pairs for training as tensors, and whole for judging as arrays: pure functions of (seed, epoch, index)."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from data.augment import AUGMENTATIONS, random_crop
from data.cache import keep_decoded
from data.degrade import Degradation
from data.images import to_float
from data.pairs import Pair, PairList
from data.transforms import Array, preparation, to_batch
from utils.system.errors import UserError


class Whole(NamedTuple):
    """One whole image to be judged; arrays `(H, W, C)` of any depth, full scale as in `data.images`."""

    name: str
    input: Array
    target: Array | None
    depth: Any  # dtype of the input's file, and so of the output's


class PairDataset(Dataset[dict[str, Any]]):
    """`{'input', 'target', 'name'}`: two float32 `(C, H, W)` tensors, normalised, and the sample's name.

    Indexed by (epoch, index) a sample is cropped and turned at random; indexed by a plain number it is whole.
    `target` is missing where the layout has none, and `scale` times the size of the input.

    Args:
        listing: the pairs of a split.
        input_nc, target_nc: 1 or 3 channels.
        size: resize both images to `size` x `size`, bicubic.
        crop_size, augment: training only, see `data.augment`; the crop is measured on the target.
        degrade: makes the input, see `data.degrade`.
        mean, std: of Normalize; 0.5 and 0.5 give [-1, 1].
        repeat: passes over the set that make one epoch.
        cache: bytes of memory for the decoded images of each pair, see `data.cache`; 0: none are kept.
        device: where they are kept, and so cropped, turned and normalised, for training without `degrade`; by
            default in the memory of the machine.
        replace_unreadable: let the next pair stand in, in training, for one that cannot be read.
    """

    def __init__(
        self,
        listing: PairList,
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
        cache: int = 0,
        device: torch.device | None = None,
        replace_unreadable: bool = False,
    ):
        self.listing, self.crop_size, self.degrade = listing, crop_size, degrade
        self.seed, self.repeat, self.replace_unreadable = seed, repeat, replace_unreadable
        self.unreadable: set[int] = set()
        self.scale = listing.scale * (degrade.scale if degrade else 1)
        self.augment = AUGMENTATIONS[augment]
        given_nc = target_nc if degrade and degrade.gray else input_nc  # made gray by the degradation itself
        self.prepare = preparation(size, given_nc), preparation(size and size * listing.scale, target_nc)
        self.mean, self.std = mean, std
        self.decoded = keep_decoded(len(listing.pairs), cache * len(listing.pairs), device)

    def __len__(self) -> int:
        return len(self.listing.pairs) * self.repeat

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> "dict[str, Any] | UserError":
        """The batch of these samples (torch asks for it so), or what is wrong with one of them."""
        samples = []
        for key in keys:
            try:
                samples.append(self._sample(key))
            except Exception as error:  # whatever it is: a worker's exception may not survive the way back
                return as_user_error(error, self.listing.pairs[self.position(key)])
        shapes = {tuple(images[-1].shape): name for name, images in samples}
        if len(shapes) > 1:  # of files whose headers were not all read before
            sizes = ", ".join(f"{name}: {shape[1]} x {shape[0]}" for shape, name in shapes.items())
            return UserError(
                "the images of a batch need one size", sizes, "add --crop_size or --size", code=1
            )
        return self._batch(samples)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        return {name: batch[0] for name, batch in self._batch([self._sample(key)]).items()}

    def _sample(self, key: int | tuple[int, int]) -> tuple[str, list[Any]]:
        """(name, images `(H, W, C)` of any depth): what has to be done one by one."""
        if isinstance(key, int):
            whole = self.whole(key)
            return whole.name, [image for image in (whole.input, whole.target) if image is not None]
        epoch, index = key
        rng = self._generator(epoch, index)
        name, images = self.readable(self.position(key))
        if self.crop_size:
            try:
                images = random_crop(images, self.crop_size, rng, self.scale)
            except ValueError as error:
                raise UserError(f"{name}: {error}", fix="lower --crop_size", code=1) from None
        images = self.augment(images, rng)
        if self.degrade:
            images[0] = self.degrade(to_float(images[0]), rng)
        return name, images

    def _batch(self, samples: Sequence[tuple[str, Sequence[Any]]]) -> dict[str, Any]:
        names, pairs = zip(*samples, strict=True)
        sides = (to_batch(images, self.mean, self.std) for images in zip(*pairs, strict=True))
        return {"name": list(names), **dict(zip(("input", "target"), sides, strict=False))}

    def whole(self, index: int) -> Whole:
        """The pair `index` uncropped, its input degraded as in every run with this seed."""
        given, *target = self.read(index)
        depth = given.dtype
        if self.degrade:
            given = self.degrade(to_float(given), self._generator(-1, index))
        return Whole(self.listing.pairs[index].name, given, target[0] if target else None, depth)

    def position(self, key: int | tuple[int, int]) -> int:
        """Which pair a key means."""
        return (key if isinstance(key, int) else key[1]) % len(self.listing.pairs)

    def readable(self, which: int) -> tuple[str, list[Any]]:
        """(name, images) of a pair, or with `replace_unreadable` of the next readable one in the list.

        Which one that is depends on the files alone, so a resumed run sees the same.
        """
        pairs = self.listing.pairs
        for at in (i % len(pairs) for i in range(which, which + len(pairs))):
            try:
                return pairs[at].name, self.read(at)
            except UserError as refusal:
                if not self.replace_unreadable:
                    raise
                if at not in self.unreadable:
                    self.unreadable.add(at)
                    print(f"skipped from now on: {refusal.what}: {refusal.why}", file=sys.stderr)
        raise UserError("no pair can be read any more", self.listing.where, code=1)

    def read(self, which: int) -> list[Any]:
        """The decoded images `(H, W, C)` of one pair, from where they are kept; with `device` tensors."""
        if self.decoded is None:
            return self._decode(which)
        return self.decoded.get(which) or self.decoded.put(which, self._decode(which))

    def _decode(self, which: int) -> list[Array]:
        read = self.listing.read(self.listing.pairs[which])
        images = [
            prepare(image) for prepare, image in zip(self.prepare, read, strict=True) if image is not None
        ]
        if self.degrade and self.degrade.scale > 1:
            images = [_whole_blocks(image, self.degrade.scale) for image in images]
        return images

    def _generator(self, epoch: int, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch + 1, index + 1])


class WholeDataset(Dataset["Whole | UserError"]):
    """The pairs of a PairDataset one by one and whole, for judging; its loader takes `batch_size=None`."""

    def __init__(self, pairs: PairDataset):
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs.listing.pairs)

    def __getitem__(self, index: int) -> "Whole | UserError":
        try:
            return self.pairs.whole(index)
        except Exception as error:  # see PairDataset.__getitems__
            return as_user_error(error, self.pairs.listing.pairs[index])


def as_user_error(error: Exception, pair: Pair) -> UserError:
    """What went wrong with one pair while the run is under way, in a form that survives pickling."""
    if isinstance(error, UserError):
        return UserError(error.what, error.why, error.fix, code=1)
    return UserError(
        f"{pair.input or pair.name}: {type(error).__name__}", str(error), "replace or remove it", code=1
    )


def _whole_blocks(image: Array, scale: int) -> Array:
    """The image without the last rows and columns that do not fill a block of `scale` (as SR papers crop)."""
    height, width = image.shape[:2]
    if height < scale or width < scale:
        raise UserError(f"an image of {width} x {height} pixels cannot be made {scale} times smaller")
    return image[: height - height % scale, : width - width % scale]


def check_training_sizes(
    sizes: Sequence[tuple[int, int]],
    batch_size: int,
    size: int | None,
    crop_size: int | None,
    scale: int = 1,
    names: Sequence[str] = (),
) -> None:
    """Refuse sizes `(W, H)` of targets, that have these names, that cannot be trained on: before the first
    step.

    Raises:
        UserError: an image smaller than the crop, whole images of several sizes in one batch, or a
            square that is no multiple of the scale.
    """
    for flag, side in (("crop_size", crop_size), ("size", size)):
        if side and side % scale:
            raise UserError(f"--{flag} {side} is no multiple of the scale {scale}", fix="raise or lower it")
    if size:
        return
    smallest, at = min((min(pair), i) for i, pair in enumerate(sizes))
    if crop_size and smallest - smallest % scale < crop_size:
        which = f" of {names[at]}" if at < len(names) else ""
        why = f"one side{which} has {smallest} pixels"
        raise UserError(f"--crop_size {crop_size} is larger than an image", why, "lower it")
    if not crop_size and batch_size > 1 and len(set(sizes)) > 1:
        raise UserError(
            f"--batchSize {batch_size} needs images of one size",
            f"{len(set(sizes))} sizes found",
            "add --crop_size or --size",
        )
