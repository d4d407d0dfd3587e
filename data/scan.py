"""Scan image headers: channels, depths, sizes and orientations of pairs, without decoding pixels."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from data.folders import first_five
from data.images import Header, header
from data.pairs import Pair, PairList, check_sizes, counted, half_width
from utils.system.errors import UserError

MAX_HEADERS = 4000  # read at the start of a run, in about 0.3 s


class HeaderScan(NamedTuple):
    """What image headers say about a list of pairs, or a sample of it."""

    input_nc: int  # the most channels of an input
    target_nc: int
    depth: int  # the most bits per channel: 8, 16 or 32
    sizes: Sequence[tuple[int, int]]  # (width, height) of the targets
    kinds: Counter[str]  # such as "RGB 8 bit": number of pairs that have it
    names: Sequence[str] = ()  # of the pairs, in the order of `sizes`
    turned: Sequence[str] = ()  # pairs of which EXIF turns one image, or both differently
    listed: int = 0  # pairs in the list; more than were read for a sample

    def describe(self) -> str:
        """Such as "headers of 3 pairs: 32 x 24 to 40 x 24; 3 RGB 8 bit"."""
        small, large = min(self.sizes), max(self.sizes)
        size = "{} x {}".format(*small) + ("" if small == large else " to {} x {}".format(*large))
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common(4))
        read = len(self.sizes)
        which = f"{read} of {self.listed} pairs" if self.listed > read else counted(read, "pair")
        return f"headers of {which}: {size}; {kinds}"

    def remarks(self) -> list[str]:
        """What may make the pairs other than they look, a line each."""
        if not self.turned:
            return []
        which = f"{len(self.turned)} pairs: {first_five(self.turned)}"
        return [f"the EXIF orientation of input and target differs in {which}; save both upright without it"]


def summarize(headers: Iterable[tuple[str, Header, Header]], listed: int = 0) -> HeaderScan:
    """Summarize (name, header of the input, header of the target) of pairs, at least one."""
    rows = list(headers)
    return HeaderScan(
        max(input.channels for _, input, _ in rows),
        max(target.channels for _, _, target in rows),
        max(max(input.depth, target.depth) for _, input, target in rows),
        [(target.width, target.height) for _, _, target in rows],
        Counter(kind for _, input, target in rows for kind in {input.kind, target.kind}),
        [name for name, _, _ in rows],
        [name for name, input, target in rows if input.orientation != target.orientation],
        listed,
    )


def scan_headers(pairs: PairList) -> HeaderScan:
    """Read the headers of all pairs; of more than MAX_HEADERS files, of a sample spread over the list.

    Raises:
        UserError: an unreadable header, or a pair of images whose sizes do not fit.
    """
    count = len(pairs.pairs)
    if pairs.layout == "demo":
        image, _ = pairs.read(pairs.pairs[0])
        return HeaderScan(3, 3, 8, [(image.shape[1], image.shape[0])], Counter({"rendered": count}))
    if pairs.others:
        return merge(scan_headers(pairs._replace(others=None)), scan_headers(pairs.others))
    files = 1 + any(pair.target not in (None, pair.input) for pair in pairs.pairs)
    read = (pairs.pairs[i] for i in spread(count, MAX_HEADERS // files))
    return summarize(((pair.name, *pair_headers(pair, pairs)) for pair in read), count)


def merge(first: HeaderScan, second: HeaderScan) -> HeaderScan:
    """The scan of two sets without pairs; `sizes` and `names` are those of both."""
    return HeaderScan(
        first.input_nc,
        second.input_nc,
        max(first.depth, second.depth),
        [*first.sizes, *second.sizes],
        first.kinds + second.kinds,
        [*first.names, *second.names],
        listed=first.listed + second.listed,
    )


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` indices of `count`, evenly spaced, with the first and the last.

    >>> spread(3, 5), spread(10, 4)
    ([0, 1, 2], [0, 3, 6, 9])
    """
    return list(range(count)) if count <= most else [i * (count - 1) // (most - 1) for i in range(most)]


def pair_headers(pair: Pair, pairs: PairList) -> tuple[Header, Header]:
    """Return the headers of the input and the target of a pair; raises as `scan_headers` does."""
    assert pair.input is not None
    input = header(pair.input, pairs.max_pixels)
    if pairs.layout == "aligned":
        input = input._replace(width=half_width(pair.input, input.width))
    if pair.target is None or pair.target == pair.input:
        return input, input
    target = header(pair.target, pairs.max_pixels)
    try:
        check_sizes(pair, input[:2], target[:2], pairs.scale)
    except UserError as error:
        if input.orientation == target.orientation:
            raise
        fix = "save both upright, without an EXIF orientation"
        raise UserError(error.what, f"{error.why}, once turned as their EXIF orientation says", fix) from None
    return input, target
