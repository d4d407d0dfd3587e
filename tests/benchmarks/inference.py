"""test.py: images/s, peak memory, bfloat16 against float32, and what tiles change.

A network (preset fine) is trained for a few hundred steps on the demo; then test.py runs on mosaics of hazy
scenes of three sizes with PSNR and SSIM. Seconds are those of the forward passes; `in all` is the whole
command, start, reading, measuring and writing included. Peak memory is that of the process.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from data.demo import render_pair
from tests.benchmarks.common import flag_parser, table, test, train, workplace
from tests.builders import save
from tests.cli import Workplace

SCENE = 400  # pixels of one scene of a mosaic
SIZES = (481, 321, 24), (2048, 1080, 6), (12_000, 8_000, 1)  # width, height, images
PART = 3000, 2000  # on which tiles are compared with the whole
TRAINING = ("--dataroot", "demo", "--preset", "fine", "--max_steps", "300", "--visdom", "off")
Pair = tuple[np.ndarray, np.ndarray]


def mosaic(width: int, height: int, scenes: list[Pair], first: int) -> np.ndarray:
    """uint8 `(2, height, width, 3)`: input and target, a dozen scenes again and again."""
    pair = np.empty((2, height, width, 3), np.uint8)
    for i, top in enumerate(range(0, height, SCENE)):
        for j, left in enumerate(range(0, width, SCENE)):
            part = pair[:, top : top + SCENE, left : left + SCENE]
            for side, image in zip(part, scenes[(first + 5 * i + j) % 12], strict=True):
                side[:] = image[: part.shape[1], : part.shape[2]]
    return pair


def lay_out(root: Path, width: int, height: int, count: int, scenes: list[Pair]) -> None:
    for number in range(count):
        for side, image in zip(("input", "target"), mosaic(width, height, scenes, number), strict=True):
            save(image, root / "test" / side / f"mosaic{number}.png", compress_level=1)


def precisions(work: Workplace, scenes: list[Pair]) -> Iterator[tuple[object, ...]]:
    for width, height, count in SIZES:
        root, base = work.folder / f"{width}x{height}", 0.0
        lay_out(root, width, height, count, scenes)
        for precision, amp in (("float32", "off"), ("bfloat16", "on")):
            done = test(work, "--dataroot", str(root), "--channels_last", "--amp", amp)
            summary = done.ended.summary
            seconds, psnr = summary["seconds"], summary["psnr"]["mean"]
            base = psnr if precision == "float32" else base
            rates = f"{count / seconds:.3g}", f"{width * height * count / 1e6 / seconds:.2f}"
            in_all, peak = f"{done.seconds:.1f} s for {count}", summary["peak_mib"]
            yield f"{width} x {height}", precision, *rates, in_all, peak, f"{psnr - base:+.4f}"


def tiles(work: Workplace, scenes: list[Pair]) -> Iterator[tuple[object, ...]]:
    root = work.folder / "part"
    lay_out(root, *PART, 1, scenes)

    def output(tile: int, *flags: str) -> np.ndarray:
        done = test(work, "--dataroot", str(root), "--tile", str(tile), *flags)
        return done.ended.output("mosaic0.png").astype(int)

    whole = output(max(PART))
    for overlap in (64, 192):
        difference = np.abs(whole - output(512, "--tile_overlap", str(overlap)))
        yield overlap, f"{difference.max()} of 255", f"{np.mean(difference > 0):.3%}"


def main(argv: list[str]) -> None:
    flag_parser(__doc__).parse_args(argv)
    Image.MAX_IMAGE_PIXELS = None
    scenes = [render_pair(2_000_000 + number, 1, SCENE) for number in range(12)]
    with workplace() as work:
        train(work, *TRAINING)
        columns = (
            "image",
            "precision",
            "images/s",
            "megapixels/s",
            "in all",
            "peak MiB",
            "PSNR against float32",
        )
        table("Inference", columns, precisions(work, scenes))
        title = "Tiles of 512 against the whole, {} x {}, float32".format(*PART)
        table(title, ("--tile_overlap", "largest difference", "values that differ"), tiles(work, scenes))
