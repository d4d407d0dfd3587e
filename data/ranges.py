"""The range of values that images use, and the full scale that --max_value gives them."""

from typing import NamedTuple

import numpy as np

from data.datasets import Whole
from data.images import OutOfRange
from data.pairs import PairList
from data.scan import spread
from utils.system.errors import UserError
from utils.system.pixels import max_value

Array = np.ndarray
SIDES = ("inputs", "targets")
SAMPLED_PAIRS, SAMPLED_VALUES = 8, 2**24  # decoded at the start of a run, at most


class Use(NamedTuple):
    """The largest value of images of one side and one depth."""

    highest: float  # as stored in the files
    full: float  # the value of full brightness
    depth: str  # such as "8 bit"

    @property
    def is_low(self) -> bool:
        """Whether at least two bits are unused, as of 12 bits in 16 or of masks of 0 and 1."""
        return 4 * self.highest < self.full + (self.depth != "float")

    def guess(self) -> str:
        """A full scale that fits: the largest value of as many bits."""
        if self.depth == "float":
            return f"{self.highest:.3g}"
        return f"{2 ** max(1, int(self.highest).bit_length()) - 1}"


class Ranges:
    """The largest values of inputs and of targets, by the depth of their files.

    Args:
        full_scales: of inputs and targets, as --max_value gives them; None: of the file's type.
        clean: inputs are made from the targets, and have no range of their own.
    """

    def __init__(self, full_scales: tuple[float | None, float | None], clean: bool = False):
        self.full_scales, self.clean = full_scales, clean
        self.uses: dict[tuple[int, str], Use] = {}

    def add(self, input: Array, target: Array | None) -> None:
        """Add a pair of images, as `read_image` returns them."""
        for side, image in enumerate((None if self.clean else input, target)):
            if image is not None:
                top, is_float = max_value(image.dtype), image.dtype.kind == "f"
                full = self.full_scales[side] or top
                highest = float(image.max()) / top * full
                depth = "float" if is_float else f"{8 * image.dtype.itemsize} bit"
                self._add(side, Use(highest if is_float else round(highest), full, depth))

    def watch(self, image: Whole) -> Whole:
        """Add a sample, and return it."""
        self.add(image.input, image.target)
        return image

    def _add(self, side: int, found: Use) -> None:
        known = self.uses.get((side, found.depth))
        if known is None or found.highest > known.highest:
            self.uses[side, found.depth] = found

    def merge(self, other: "Ranges") -> None:
        for (side, _), use in other.uses.items():
            self._add(side, use)

    def remarks(self) -> list[str]:
        """One line if images use a small part of their range; none if not."""
        low = {key: use for key, use in sorted(self.uses.items()) if use.is_low}
        if not low:
            return []
        found = ", ".join(
            f"{SIDES[side]} reach {use.highest:g} of {use.full:g} ({use.depth})"
            for (side, _), use in low.items()
        )
        guesses = {side: use.guess() for (side, _), use in low.items()}
        first, second = (guesses.get(side, "auto") for side in range(2))
        flag = first if first == second else f"{first},{second}"
        return [f"{found}; where full brightness is less, give it: --max_value {flag}"]


def sample_ranges(pairs: PairList, ranges: Ranges, stop: bool) -> Ranges:
    """Add a few pairs that are spread over the list; returns `ranges`.

    Args:
        stop: raise OutOfRange for values outside 0 to full scale; other files that cannot be used are left
            to whoever reads them all.
    """
    values = 0
    for i in spread(len(pairs.pairs), SAMPLED_PAIRS):
        try:
            input, target = pairs.read(pairs.pairs[i])
            if pairs.others:
                target, _ = pairs.others.read(pairs.others.pairs[i % len(pairs.others.pairs)])
        except OutOfRange:
            if stop:
                raise
            continue
        except UserError:
            continue
        ranges.add(input, target)
        values += input.size
        if values > SAMPLED_VALUES:
            break
    return ranges
