"""Datasets: random crops for training, whole images for evaluation.

A sample is a pure function of (seed, epoch, index), so it does not depend on workers, processes or resuming.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch.utils.data import Dataset

from data.augment import parse_augment, random_crop
from data.degrade import Degradation
from data.device_degrade import on_device
from data.pairs import Pair, PairList
from data.settings import CHANNELS
from data.transforms import Array, preparation
from utils.system.batch import to_batch
from utils.system.errors import UserError
from utils.system.pixels import to_float
from utils.system.rng import stream

FLOAT_BYTES = 4


@dataclass(frozen=True)
class ImageSpec:
    """What every image of a run is converted to.

    Args:
        input_nc, target_nc: channels, 1 or 3.
        size: resize both images to `size` x `size` pixels, bicubic.
        degrade: makes the input from the target.
        mean, std: of Normalize; 0.5 and 0.5 map [0, 1] to [-1, 1].
        seed: of crops, augmentation and degradations.
        strict: whether a colour input, or target, is an error where one channel is wanted; else it becomes
            gray.
    """

    input_nc: int
    target_nc: int
    size: int | None = None
    degrade: Degradation | None = None
    mean: float = 0.5
    std: float = 0.5
    seed: int = 0
    strict: tuple[bool, bool] = (False, False)

    def mirrored(self) -> "ImageSpec":
        """The same for the way back, where targets are the inputs."""
        strict = self.strict[1], self.strict[0]
        return replace(self, input_nc=self.target_nc, target_nc=self.input_nc, strict=strict)


class ImageStore(Protocol):
    """Decoded images of pairs by index, see `data.cache`."""

    def get(self, index: int) -> list[Any] | None:
        """Return the images of a pair, read-only; None if they are not stored."""

    def put(self, index: int, images: list[Array]) -> list[Any]:
        """Store the images of a pair if there is room; return them as `get` would."""


class Whole(NamedTuple):
    """One full-size sample: arrays `(H, W, C)` of any depth, as in `data.images`."""

    name: str
    input: Array
    target: Array | None
    depth: Any  # dtype of the input's file, and so of the output's


class DecodedPairs:
    """Pairs as lists of arrays `(H, W, C)`, resized and converted to their numbers of channels.

    Args:
        store: keeps what was decoded; a store on a device returns tensors.
    """

    def __init__(self, pairs: PairList, spec: ImageSpec, store: ImageStore | None = None):
        self.pairs, self.spec, self.store = pairs, spec, store
        self.block = spec.degrade.scale if spec.degrade else 1
        self.scale = pairs.scale * self.block
        to_gray = spec.degrade and spec.degrade.gray  # by the degradation, after decoding in colour
        self.prepare = (
            preparation(spec.size, spec.target_nc if to_gray else spec.input_nc),
            preparation(spec.size and spec.size * pairs.scale, spec.target_nc),
        )

    def __len__(self) -> int:
        return len(self.pairs.pairs)

    def __getitem__(self, index: int) -> list[Any]:
        """Return [input, target] of a pair, or [input] if it has no target."""
        if self.store is None:
            return self._decode(index)
        return self.store.get(index) or self.store.put(index, self._decode(index))

    def _decode(self, index: int) -> list[Array]:
        pair = self.pairs.pairs[index]
        images = self.pairs.read(pair)
        self._refuse_colour(pair, images)
        prepared = [
            prepare(image) for prepare, image in zip(self.prepare, images, strict=True) if image is not None
        ]
        return [_whole_blocks(image, self.block) for image in prepared] if self.block > 1 else prepared

    def _refuse_colour(self, pair: Pair, images: Sequence[Array | None]) -> None:
        """Raise UserError for a colour image where the files that were looked at at the start are gray."""
        wanted = self.spec.input_nc, self.spec.target_nc
        for side, (image, path) in enumerate(zip(images, (pair.input, pair.target), strict=True)):
            if self.spec.strict[side] and image is not None and image.shape[2] > wanted[side]:
                why = "the files that were looked at when the run was started are gray"
                flag = f"--{CHANNELS[side]}"
                fix = f"convert it to gray; or start a run with {flag} 3, or {flag} 1 to convert all to gray"
                raise UserError(f"{path or pair.name} is a colour image", why, fix, code=1)


class TrainDataset(Dataset[dict[str, Any]]):
    """Batches `{"input", "target", "name"}`: float32 tensors `(N, C, H, W)`, normalized, and a list of names.

    Args:
        crop_size: side of the random crop in pixels of the target; the whole image by default.
        augment: as `data.augment.parse_augment` takes it.
        repeat: passes over the pairs in one epoch.
        store: of decoded images. With one on a device, images are cropped and normalized there.
        replace_unreadable: use the next readable pair instead of one that cannot be read.
        other_store: of the images of the other set, where there are no pairs: "target" is then a random one.
    """

    def __init__(
        self,
        pairs: PairList,
        spec: ImageSpec,
        *,
        crop_size: int | None = None,
        augment: str = "none",
        repeat: int = 1,
        store: ImageStore | None = None,
        replace_unreadable: bool = False,
        other_store: ImageStore | None = None,
    ):
        self.pairs, self.spec, self.decoded = pairs, spec, DecodedPairs(pairs, spec, store)
        self.others = DecodedPairs(pairs.others, spec.mirrored(), other_store) if pairs.others else None
        self.scale = self.decoded.scale
        self.crop_size, self.augment, self.repeat = crop_size, parse_augment(augment), repeat
        self.replace_unreadable = replace_unreadable
        self.unreadable: set[str] = set()

    def __len__(self) -> int:
        return len(self.decoded) * self.repeat

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> "dict[str, Any] | UserError":
        """Return the batch of the samples (epoch, index), or the error of the first that fails.

        Errors are returned because one raised in a loader process loses its type and message.
        """
        samples = []
        for epoch, index in keys:
            try:
                samples.append(self._sample(epoch, index))
            except Exception as error:
                return as_user_error(error, self.pairs.pairs[index % len(self.decoded)])
        shapes = {tuple(images[-1].shape): name for name, images in samples}
        if self.others:
            shapes |= {tuple(images[0].shape[:2]) + tuple(images[1].shape[2:]): n for n, images in samples}
        if len(shapes) > 1:  # possible where not all headers were read at the start
            sizes = ", ".join(f"{name}: {shape[1]} x {shape[0]}" for shape, name in shapes.items())
            return UserError(
                "the images of a batch differ in size", sizes, "add --crop_size or --size", code=1
            )
        names, images = zip(*samples, strict=True)
        sides = [to_batch(side, self.spec.mean, self.spec.std) for side in zip(*images, strict=True)]
        return {"name": list(names), **dict(zip(("input", "target"), sides, strict=False))}

    def sample_bytes(self, sizes: Sequence[tuple[int, int]]) -> int:
        """Bytes of the largest sample in a batch; `sizes`: (width, height) of the targets."""
        side = self.crop_size or self.spec.size
        pixels = side * side if side else max(width * height for width, height in sizes)
        return FLOAT_BYTES * pixels * (self.spec.input_nc + self.spec.target_nc)

    def _sample(self, epoch: int, index: int) -> tuple[str, list[Any]]:
        """(name, images `(H, W, C)` of any depth), cropped, augmented and degraded."""
        rng = stream(self.spec.seed, "sample", epoch, index)
        name, images = self._readable(self.decoded, index % len(self.decoded))
        if not self.others:
            return name, self._varied(name, images, rng)
        other_name, other = self._readable(self.others, int(rng.integers(len(self.others))))
        return name, [*self._varied(name, images, rng), *self._varied(other_name, other, rng)]

    def _varied(self, name: str, images: list[Any], rng: np.random.Generator) -> list[Any]:
        """The images cropped, augmented and degraded by the draws of one stream."""
        if self.crop_size:
            try:
                images = random_crop(images, self.crop_size, rng, self.scale, self.augment.windows)
            except ValueError as error:
                fix = "enlarge or remove it, or lower --crop_size; --check_data lists all such images"
                raise UserError(f"{name} is smaller than --crop_size", str(error), fix, code=1) from None
        images = self.augment.turn(images, rng)
        if self.spec.degrade:
            images[0] = self._degraded(images[0], rng)
        return images

    def _degraded(self, image: Any, rng: np.random.Generator) -> Any:
        """The degraded image `(H, W, C)`, where the image lies."""
        assert self.spec.degrade
        if isinstance(image, np.ndarray):
            return self.spec.degrade(to_float(image), rng)
        return on_device(self.spec.degrade)(image, rng)

    def _readable(self, decoded: DecodedPairs, first: int) -> tuple[str, list[Any]]:
        """(name, images) of a pair, or with `replace_unreadable` of the next readable one in the list.

        The replacement depends on the files alone, so a resumed run uses the same one.
        """
        pairs = decoded.pairs.pairs
        for index in (i % len(pairs) for i in range(first, first + len(pairs))):
            try:
                return pairs[index].name, decoded[index]
            except UserError as error:
                if not self.replace_unreadable:
                    raise
                if error.what not in self.unreadable:
                    self.unreadable.add(error.what)
                    print(f"skipped from now on: {error.what}: {error.why}", file=sys.stderr)
        raise UserError("none of the pairs can be read", decoded.pairs.where, code=1)


class WholeDataset(Dataset["Whole | UserError"]):
    """Full-size samples for evaluation, one by one; use a loader with `batch_size=None`."""

    def __init__(self, pairs: PairList, spec: ImageSpec, store: ImageStore | None = None):
        self.pairs, self.spec, self.decoded = pairs, spec, DecodedPairs(pairs, spec, store)
        self.scale = self.decoded.scale

    def __len__(self) -> int:
        return len(self.decoded)

    def __getitem__(self, index: int) -> "Whole | UserError":
        """Return a sample, or its error (see `TrainDataset.__getitems__`)."""
        try:
            return self.whole(index)
        except Exception as error:
            return as_user_error(error, self.pairs.pairs[index])

    def whole(self, index: int) -> Whole:
        """Return a sample; its degradation depends on (seed, index) only.

        Raises:
            UserError: a file cannot be read, or its image cannot be used.
        """
        image, *target = self.decoded[index]
        depth = image.dtype
        if self.spec.degrade:
            image = self.spec.degrade(to_float(image), stream(self.spec.seed, "whole", index + 1))
        return Whole(self.pairs.pairs[index].name, image, target[0] if target else None, depth)


def as_user_error(error: Exception, pair: Pair) -> UserError:
    """Convert an error while reading a pair to a UserError with exit code 1, which can be pickled."""
    if isinstance(error, UserError):
        return UserError(error.what, error.why, error.fix, code=1)
    return UserError(
        f"{pair.input or pair.name}: {type(error).__name__}", str(error), "replace or remove it", code=1
    )


def _whole_blocks(image: Array, scale: int) -> Array:
    """Crop the last rows and columns that do not fill a block of `scale` x `scale`, as SR papers do."""
    height, width = image.shape[:2]
    if height < scale or width < scale:
        raise UserError(f"an image of {width} x {height} pixels cannot be made {scale} times smaller")
    return image[: height - height % scale, : width - width % scale]


def too_small(sizes: Sequence[tuple[int, int]], crop_size: int, scale: int) -> list[int]:
    """Return the indices of target sizes (width, height) that a crop does not fit into.

    >>> too_small([(64, 33), (31, 64)], 32, 1), too_small([(64, 33), (31, 64)], 33, 2)
    ([1], [0, 1])
    """
    return [i for i, pair in enumerate(sizes) if min(pair) - min(pair) % scale < crop_size]


def check_training_sizes(
    sizes: Sequence[tuple[int, int]],
    batch_size: int,
    size: int | None,
    crop_size: int | None,
    scale: int = 1,
    names: Sequence[str] = (),
) -> None:
    """Refuse target sizes that cannot be trained on.

    Args:
        sizes: (width, height) of the targets.
        scale: target size over input size.
        names: of the same targets, for messages.

    Raises:
        UserError: an image smaller than the crop, full-size images of several sizes in one batch, or a
            `size` or `crop_size` that is not a multiple of `scale`.
    """
    for flag, side in (("crop_size", crop_size), ("size", size)):
        if side and side % scale:
            what = f"--{flag} {side} is not a multiple of the scale {scale}"
            raise UserError(what, fix=f"use {side - side % scale or scale}")
    if size:
        return
    if crop_size and (found := too_small(sizes, crop_size, scale)):
        smallest, at = min((min(sizes[i]), i) for i in found)
        which = f" of {names[at]}" if at < len(names) else ""
        why = f"one side{which} has {smallest} pixels"
        fix = f"--crop_size {smallest - smallest % scale}, or leave out the small images"
        raise UserError(f"--crop_size {crop_size} is larger than an image", why, fix)
    if not crop_size and batch_size > 1 and len(set(sizes)) > 1:
        raise UserError(
            f"--batchSize {batch_size} needs images of one size",
            f"{len(set(sizes))} sizes found",
            "add --crop_size or --size",
        )
