"""Pairs of images: where they come from, what one is, and how to read it as two arrays."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.folders import links_in
from data.images import MAX_PIXELS, read_image
from utils.system.errors import UserError

Array = np.ndarray


class Source(NamedTuple):
    """Where pairs come from, as the flags of these names say.

    Args:
        root: a folder, one image, a manifest (`.csv`), or `demo`.
        degraded: inputs are made from clean images.
        scale: targets are so many times the size of the inputs.
        max_pixels: larger images are refused by their headers.
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


class Pair(NamedTuple):
    """One sample. `name` is where its output goes; `group` is equal for all inputs of one target."""

    name: str
    input: Path | None
    target: Path | None
    group: str


class PairList(NamedTuple):
    """The pairs of one split, and how to read one of them as two arrays (see `data.images`).

    `read` can be pickled: loader processes that are not forked get it so, and what it is bound to.
    """

    layout: str
    split: str
    where: str
    pairs: list[Pair]
    read: Callable[[Pair], tuple[Array, Array | None]]
    scale: int = 1
    max_pixels: int = MAX_PIXELS

    def describe(self) -> str:
        targets = len({pair.group for pair in self.pairs})
        return f"{self.split}: {len(self.pairs)} images of {targets} targets, {self.layout} ({self.where})"

    def files(self) -> set[str]:
        """Every file that it reads, by one name each."""
        folder, links = functools.cache(os.path.realpath), functools.cache(links_in)
        paths = (path for pair in self.pairs for path in (pair.input, pair.target) if path)
        return {
            os.path.realpath(path)
            if path.name in links(path.parent)
            else f"{folder(path.parent)}/{path.name}"
            for path in paths
        }


# --------------------------------------------------------------------------------------------- reading a pair


def one_file(source: Source, pair: Pair) -> tuple[Array, Array | None]:
    """A clean image as both; a degradation makes the input out of it."""
    assert pair.target is not None
    image = read_image(pair.target, source.max_pixels)
    return image, image


def two_files(source: Source, pair: Pair) -> tuple[Array, Array | None]:
    """Input and target from a file each, the target `scale` times the input's size."""
    given, _ = input_alone(source, pair)
    if pair.target is None:  # a row of a manifest may have none
        return given, None
    target = read_image(pair.target, source.max_pixels)
    check_sizes(pair, given.shape[1::-1], target.shape[1::-1], source.scale)
    return given, target


def two_halves(source: Source, pair: Pair) -> tuple[Array, Array | None]:
    """Input and target side by side in one file."""
    assert pair.input is not None
    both = read_image(pair.input, source.max_pixels)
    half = half_width(pair.input, both.shape[1])
    left, right = both[:, :half], both[:, half:]
    return (left, right) if source.direction == "AtoB" else (right, left)


def input_alone(source: Source, pair: Pair) -> tuple[Array, None]:
    """An input without a target."""
    assert pair.input is not None
    return read_image(pair.input, source.max_pixels), None


def rendered(source: Source, first: int, size: int, pair: Pair) -> tuple[Array, Array | None]:
    """A scene of the demo; `first` is the number of the split's first one."""
    from data.demo import render_pair

    scene, level = Path(pair.name).stem.split("_")
    hazy, clear = render_pair(first + int(scene), int(level), size)
    return (clear, clear) if source.degraded else (hazy, clear)


def check_sizes(pair: Pair, given: tuple[int, ...], target: tuple[int, ...], scale: int) -> None:
    """Refuse a pair whose target is not exactly `scale` times its input, (width, height) each."""
    if (given[0] * scale, given[1] * scale) == tuple(target):
        return
    factor, rest = divmod(target[0], given[0])
    hint = f"add --scale {factor}" if not rest and given[1] * factor == target[1] else ""
    what = "the two images of a pair differ in size"
    if scale > 1:
        what = f"a target is not {scale} times the size of its input"
        hint = f"--degrade sr:{scale} makes inputs from clean images" if factor == 1 else hint
    sizes = "{} is {} x {}, {} is {} x {}".format(pair.input, *given, pair.target, *target)
    raise UserError(what, sizes, hint or "crop, resize or remove them")


def half_width(path: Path, width: int) -> int:
    half, odd = divmod(width, 2)
    if odd:
        raise UserError(f"{path} has an odd width", f"{width} pixels cannot be halved")
    return half
