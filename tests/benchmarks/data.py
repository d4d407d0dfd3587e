"""Reading pairs: pairs/s on one core, of clearpair and of plain Pillow with torchvision's transforms.

Both read a pair of 480p files (854 x 480), crop 256 x 256 alike from both, flip them half of the time, and
give two normalised float tensors. `plain` is the usual way: Image.open, RGB, ToTensor of the whole image,
crop, flip, Normalize. `decoded` is clearpair from its second epoch on, with the pixels in memory.
"""

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.cache import SharedImages
from data.datasets import ImageSpec, TrainDataset
from data.demo import render_pair
from data.pairs import Source
from data.splits import find_pairs
from tests.benchmarks.common import flag_parser, seconds_of, table
from tests.builders import save
from utils.system.compat import transforms

PAIRS, CROP, ROUNDS, WIDTH, HEIGHT = 16, 256, 9, 854, 480
functional = transforms.functional


def write(root: Path, kind: str) -> None:
    for number in range(PAIRS):
        for side, image in zip(("input", "target"), render_pair(number, 1, WIDTH), strict=True):
            save(image[:HEIGHT], root / "train" / side / f"{number:03d}.{kind}", quality=95)


def plain(root: Path) -> Callable[[int], object]:
    """A dataset as it stands in many repositories."""
    files = [sorted((root / "train" / side).iterdir()) for side in ("input", "target")]
    convert, normalize = transforms.ToTensor(), transforms.Normalize(0.5, 0.5)

    def read(index: int) -> list[torch.Tensor]:
        pair = [convert(Image.open(side[index]).convert("RGB")) for side in files]
        top, left = random.randrange(HEIGHT - CROP), random.randrange(WIDTH - CROP)
        pair = [functional.crop(image, top, left, CROP, CROP) for image in pair]
        if random.random() < 0.5:
            pair = [functional.hflip(image) for image in pair]
        return [normalize(image) for image in pair]

    return read


def ours(root: Path, cached: bool) -> Callable[[int], object]:
    pairs = find_pairs(Source(str(root)), "train", need_targets=True)
    store = SharedImages(PAIRS, 6 * WIDTH * HEIGHT * PAIRS) if cached else None
    data = TrainDataset(pairs, ImageSpec(3, 3), crop_size=CROP, augment="flip", store=store)
    return lambda index: data.__getitems__([(0, index)])


def rows() -> Iterator[tuple[object, ...]]:
    torch.set_num_threads(1)
    for kind in ("png", "jpg"):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write(root, kind)
            ways = {"plain": plain(root), "clearpair": ours(root, False), "decoded": ours(root, True)}
            rates: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(ROUNDS + 1):  # in turns; the first round warms up
                for way, read in ways.items():
                    rates[way].append(PAIRS / seconds_of(lambda read=read: [*map(read, range(PAIRS))]))
        against = np.divide(rates["clearpair"][1:], rates["plain"][1:])
        yield kind, *(f"{np.median(rate[1:]):.0f}" for rate in rates.values()), f"{np.median(against):.2f}"


def main(argv: list[str]) -> None:
    flag_parser(__doc__).parse_args(argv)
    columns = ("480p", "plain, pairs/s", "clearpair", "decoded", "clearpair / plain")
    table("Data: pairs/s of one core", columns, rows())
