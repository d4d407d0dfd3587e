"""Scan image headers: channels, depths and sizes of a list of pairs, without decoding pixels."""

from collections import Counter
from typing import NamedTuple

from data.images import Header, header
from data.pairs import Pair, PairList, check_sizes, half_width


class HeaderScan(NamedTuple):
    """What image headers say about a list of pairs."""

    input_nc: int  # the most channels of an input
    target_nc: int
    depth: int  # the most bits per channel: 8, 16 or 32
    sizes: list[tuple[int, int]]  # (width, height) of the targets
    kinds: Counter[str]  # such as "RGB 8 bit": number of pairs that have it

    def describe(self) -> str:
        """Such as "headers of 3 pairs: 32 x 24 to 40 x 24; 3 RGB 8 bit"."""
        small, large = min(self.sizes), max(self.sizes)
        size = "{} x {}".format(*small) + ("" if small == large else " to {} x {}".format(*large))
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common(4))
        return f"headers of {len(self.sizes)} pairs: {size}; {kinds}"


def scan_headers(pairs: PairList, limit: int | None = 1000) -> HeaderScan:
    """Read at most `limit` headers.

    Raises:
        UserError: an unreadable header, or a pair of images whose sizes do not fit.
    """
    if pairs.layout == "demo":
        image, _ = pairs.read(pairs.pairs[0])
        return HeaderScan(
            3, 3, 8, [(image.shape[1], image.shape[0])], Counter({"rendered": len(pairs.pairs)})
        )
    input_nc = target_nc = depth = 1
    sizes = []
    kinds: Counter[str] = Counter()
    read = 0
    for pair in pairs.pairs:
        read += len({pair.input, pair.target} - {None})
        if limit is not None and read > limit:
            break
        input, target = pair_headers(pair, pairs)
        input_nc, target_nc = max(input_nc, input.channels), max(target_nc, target.channels)
        depth = max(depth, input.depth, target.depth)
        sizes.append((target.width, target.height))
        kinds.update({input.kind, target.kind})
    return HeaderScan(input_nc, target_nc, depth, sizes, kinds)


def pair_headers(pair: Pair, pairs: PairList) -> tuple[Header, Header]:
    """Return the headers of the input and the target of a pair; raises as `scan_headers` does."""
    assert pair.input is not None
    input = header(pair.input, pairs.max_pixels)
    if pairs.layout == "aligned":
        input = input._replace(width=half_width(pair.input, input.width))
    if pair.target is None or pair.target == pair.input:
        return input, input
    target = header(pair.target, pairs.max_pixels)
    check_sizes(pair, input[:2], target[:2], pairs.scale)
    return input, target
