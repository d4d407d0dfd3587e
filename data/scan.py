"""Scan image headers: channels, depths and sizes of a list of pairs, without decoding pixels."""

from collections import Counter
from typing import NamedTuple

from data.images import Header, header
from data.pairs import Pair, PairList, check_sizes, half_width


class HeaderScan(NamedTuple):
    """What the headers of a listing say: channels, and how often each size and each kind of input occurs."""

    input_nc: int
    target_nc: int
    depth: int  # the deepest, of 8, 16 and 32 bits
    sizes: list[tuple[int, int]]  # (width, height) of the targets
    kinds: Counter[str]  # such as "RGB 8 bit", with the number of pairs that have it

    def describe(self) -> str:
        """One line: how many sizes from which to which, and the kinds of files."""
        small, large = min(self.sizes), max(self.sizes)
        size = "{} x {}".format(*small) + ("" if small == large else " to {} x {}".format(*large))
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common(4))
        return f"headers of {len(self.sizes)} pairs: {size}; {kinds}"


def scan_headers(listing: PairList, limit: int | None = 1000) -> HeaderScan:
    """Read at most `limit` headers of a listing.

    Raises:
        UserError: an unreadable header, or the two images of a pair do not fit in size.
    """
    if listing.layout == "demo":
        image, _ = listing.read(listing.pairs[0])
        return HeaderScan(
            3, 3, 8, [(image.shape[1], image.shape[0])], Counter({"rendered": len(listing.pairs)})
        )
    input_nc = target_nc = depth = 1
    sizes = []
    kinds: Counter[str] = Counter()
    read = 0
    for pair in listing.pairs:
        read += len({pair.input, pair.target} - {None})
        if limit is not None and read > limit:
            break
        given, target = pair_headers(pair, listing)
        input_nc, target_nc = max(input_nc, given.channels), max(target_nc, target.channels)
        depth = max(depth, given.depth, target.depth)
        sizes.append((target.width, target.height))
        kinds.update({given.kind, target.kind})
    return HeaderScan(input_nc, target_nc, depth, sizes, kinds)


def pair_headers(pair: Pair, listing: PairList) -> tuple[Header, Header]:
    """(input's header, target's header) of a pair of files, checked; see `scan_headers`."""
    assert pair.input is not None
    given = header(pair.input, listing.max_pixels)
    if listing.layout == "aligned":
        given = given._replace(width=half_width(pair.input, given.width))
    if pair.target is None or pair.target == pair.input:
        return given, given
    target = header(pair.target, listing.max_pixels)
    check_sizes(pair, given[:2], target[:2], listing.scale)
    return given, target
