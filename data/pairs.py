"""Pairs of images: Source (where they come from), Pair, PairList, and the functions that read one pair."""

import functools
import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.folders import links_in
from data.images import MAX_PIXELS, decode, in_full_range, read_image
from utils.system.errors import UserError

Array = np.ndarray
MAX_SCALE = 16  # target size / input size


class Source(NamedTuple):
    """Where pairs come from; the fields are named after their flags.

    Args:
        root: a folder, one image, a manifest (`.csv`), or `demo`.
        degraded: inputs are made from clean images.
        scale: target size / input size.
        max_pixels: images with more pixels are refused.
        max_value: full scale of inputs and targets; None: of the file's type.
    """

    root: str
    layout: str = "auto"
    direction: str = "AtoB"
    degraded: bool = False
    input_dir: str | None = None
    target_dir: str | None = None
    pair_by: str | None = None
    scale: int = 1
    max_pixels: int = MAX_PIXELS
    max_value: tuple[float | None, float | None] = (None, None)


def parse_full_scales(text: str | None) -> tuple[float | None, float | None]:
    """Return the full scales of inputs and targets from the text of --max_value; None: of the file's type.

    >>> parse_full_scales("4095"), parse_full_scales("auto,1"), parse_full_scales(None)
    ((4095.0, 4095.0), (None, 1.0), (None, None))

    Raises:
        ValueError: not one or two positive numbers, or `auto`.
    """
    parts = ("auto" if text is None else text).split(",")
    scales = [None if part.strip() == "auto" else float(part) for part in parts]
    if len(parts) > 2 or not all(scale is None or (scale > 0 and math.isfinite(scale)) for scale in scales):
        raise ValueError(text)
    return scales[0], scales[-1]


class Pair(NamedTuple):
    """The files of one sample."""

    name: str  # of the output file
    input: Path | None
    target: Path | None
    group: str  # the same for all inputs of one target


class PairList(NamedTuple):
    """The pairs of one split.

    Args:
        layout: a name in `data.layouts.LAYOUTS`.
        where: folder or file, for messages.
        read: returns (input, target) of a pair as arrays of `data.images`; can be pickled.
        scale: target size / input size.
        remarks: what was found but is not read, a line each.
        seen: "trained on" or "validated on" where a run has seen these images, else empty.
        others: of images without pairs, those of the other set, listed and read as inputs of the way back.
    """

    layout: str
    split: str
    where: str
    pairs: list[Pair]
    read: Callable[[Pair], tuple[Array, Array | None]]
    scale: int = 1
    max_pixels: int = MAX_PIXELS
    remarks: tuple[str, ...] = ()
    seen: str = ""
    others: "PairList | None" = None

    def describe(self) -> str:
        """Such as "train: 12 images of 4 targets, pairs (data/train/A -> B)"."""
        images = counted(len(self.pairs), "image")
        if self.others:
            images += f" and {len(self.others.pairs)} of the other set"
            return f"{self.split}: {images}, no pairs, {self.layout} ({self.where})"
        targets = counted(len({pair.group for pair in self.pairs}), "target")
        measured = self.layout == "demo" or any(pair.target for pair in self.pairs)
        of = f"of {targets}" if measured else "without targets"
        return f"{self.split}: {images} {of}, {self.layout} ({self.where})"

    @property
    def everything(self) -> list[Pair]:
        """The pairs, and those of the other set."""
        return [*self.pairs, *(self.others.pairs if self.others else ())]

    @property
    def has_targets(self) -> bool:
        """Whether every image has a target."""
        rendered = self.layout == "demo" and self.others is None
        return rendered or all(pair.target for pair in self.pairs)

    def files(self) -> set[str]:
        """Return the real paths of all files of the pairs."""
        folder, links = functools.cache(os.path.realpath), functools.cache(links_in)
        paths = (path for pair in self.everything for path in (pair.input, pair.target) if path)
        return {
            os.path.realpath(path)
            if path.name in links(path.parent)
            else f"{folder(path.parent)}/{path.name}"
            for path in paths
        }


def counted(count: int, noun: str) -> str:
    """
    >>> counted(1, "image"), counted(2, "image")
    ('1 image', '2 images')
    """
    return f"{count} {noun}{'s' * (count != 1)}"


def group_by_file(pairs: list[Pair]) -> list[Pair]:
    """Give the pairs whose targets are one file, under any path or link, the group of the first of them."""
    groups: dict[str, str] = {}  # by path
    first: dict[object, str] = {}  # by file
    grouped = []
    for pair in pairs:
        if file := pair.target or pair.input:
            path = str(file)
            if path not in groups:
                groups[path] = first.setdefault(file_key(file), pair.group)
            pair = pair if groups[path] == pair.group else pair._replace(group=groups[path])
        grouped.append(pair)
    return grouped


def repeated(pairs: list[Pair]) -> list[str]:
    """Return the names of the pairs whose files are those of an earlier pair; `pairs` by `group_by_file`."""
    count = Counter(pair.group for pair in pairs)
    seen, again = set(), []
    for pair in pairs:
        if pair.input and count[pair.group] > 1:
            key = pair.group, file_key(pair.input)
            again += [pair.name] if key in seen else []
            seen.add(key)
    return again


def file_key(path: Path) -> object:
    """Return what is equal for all paths and links of one file; of one that does not exist, its path."""
    try:
        found = path.stat()
    except OSError:
        return os.path.normpath(path)
    return found.st_dev, found.st_ino


# --------------------------------------------------------------------------------------------- reading a pair


def one_file(source: Source, pair: Pair) -> tuple[Array, Array | None]:
    """Read a clean image as both input and target; the input is degraded later."""
    assert pair.target is not None
    image = read_image(pair.target, source.max_pixels, source.max_value[1])
    return image, image


def two_files(source: Source, pair: Pair) -> tuple[Array, Array | None]:
    """Read input and target from one file each; the target is `scale` times as large."""
    input, _ = input_alone(source, pair)
    if pair.target is None:  # a manifest may have no target in a row
        return input, None
    target = read_image(pair.target, source.max_pixels, source.max_value[1])
    check_sizes(pair, input.shape[1::-1], target.shape[1::-1], source.scale)
    return input, target


def two_halves(source: Source, pair: Pair) -> tuple[Array, Array | None]:
    """Read input and target from the two halves of one file.

    Raises:
        UserError: an odd width; of a layout that was detected, a file that is not twice as wide as high.
    """
    assert pair.input is not None
    both = decode(pair.input, source.max_pixels)
    half = half_width(pair.input, both.shape[1])
    if source.layout == "auto" and half != both.shape[0]:
        raise UserError(
            f"{pair.input} is not twice as wide as high, as other images beside it are",
            f"{both.shape[1]} x {both.shape[0]} pixels",
            "--layout aligned cuts every image in halves; or remove it",
        )
    input, target = both[:, :half], both[:, half:]
    if source.direction == "BtoA":
        input, target = target, input
    scales = source.max_value
    return in_full_range(input, pair.input, scales[0]), in_full_range(target, pair.input, scales[1])


def input_alone(source: Source, pair: Pair) -> tuple[Array, None]:
    """Read an input without a target."""
    assert pair.input is not None
    return read_image(pair.input, source.max_pixels, source.max_value[0]), None


def rendered(source: Source, first: int, size: int, pair: Pair) -> tuple[Array, Array | None]:
    """Render a scene of the demo; `first` is the number of the first scene of the split."""
    from data.demo import render_pair

    scene, level = Path(pair.name).stem.split("_")
    hazy, clear = render_pair(first + int(scene), int(level), size)
    if source.root.startswith("demo:unpaired") and source.direction == "BtoA":
        hazy, clear = clear, hazy
    given = clear if source.degraded else hazy
    scales, name = source.max_value, Path(pair.name)
    return in_full_range(given, name, scales[0]), in_full_range(clear, name, scales[1])


def rendered_alone(
    source: Source, first: int, size: int, clear: bool, pair: Pair
) -> tuple[Array, Array | None]:
    """Render one image of a scene of the demo, the hazy or the clear one."""
    images = rendered(source._replace(direction="AtoB"), first, size, pair)
    return (images[1] if clear else images[0]), None  # type: ignore[return-value]


def check_sizes(pair: Pair, input: tuple[int, ...], target: tuple[int, ...], scale: int) -> None:
    """Refuse a pair of sizes (width, height) unless the target is exactly `scale` times as large."""
    if (input[0] * scale, input[1] * scale) == tuple(target):
        return
    factor, rest = divmod(target[0], input[0])
    fits = not rest and input[1] * factor == target[1]
    hint = f"add --scale {factor}" if fits and 1 < factor <= MAX_SCALE else ""
    what = "the two images of a pair differ in size"
    if scale > 1:
        what = f"a target is not {scale} times the size of its input"
        hint = "drop --scale" if fits and factor == 1 else hint
    sizes = "{} is {} x {}, {} is {} x {}".format(pair.input, *input, pair.target, *target)
    fix = "crop, resize or remove them"
    raise UserError(what, sizes, f"{hint} if all pairs are like this one; else {fix}" if hint else fix)


def half_width(path: Path, width: int) -> int:
    """Return the width of one of two images side by side; UserError if `width` is odd."""
    half, odd = divmod(width, 2)
    if odd:
        raise UserError(f"{path} has an odd width", f"{width} pixels cannot be halved")
    return half
