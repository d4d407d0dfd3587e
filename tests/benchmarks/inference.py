"""test.py: images/s, peak memory, bfloat16 against float32, and what tiles change.

A network (preset fine) is trained for a few hundred steps on the demo; then test.py runs on mosaics of hazy
scenes of three sizes with PSNR and SSIM. Seconds are those of the forward passes; `in all` is the whole
command, start, reading, measuring and writing included. Peak memory is that of the process.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from data.demo import render_pair
from tests.benchmarks.common import Timed, table, test, train, workplace
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


def on(work: Workplace, root: Path, *flags: str) -> Timed:
    """test.py on the pairs in `root`."""
    return test(work, "--dataroot", str(root), *flags)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.parse_args(argv)
    Image.MAX_IMAGE_PIXELS = None
    scenes = [render_pair(2_000_000 + number, 1, SCENE) for number in range(12)]
    with workplace() as work:
        train(work, *TRAINING)

        def rows() -> Iterator[tuple[object, ...]]:
            for width, height, count in SIZES:
                root = work.folder / f"{width}x{height}"
                lay_out(root, width, height, count, scenes)
                mean: dict[str, float] = {}
                for precision in ("float32", "bfloat16"):
                    amp = ("--amp", "on" if precision == "bfloat16" else "off")
                    done = on(work, root, "--channels_last", *amp)
                    summary = done.ended.summary
                    mean[precision] = summary["psnr"]["mean"]
                    size, rate = f"{width} x {height}", f"{count / summary['seconds']:.3g}"
                    megapixels = width * height * count / 1e6 / summary["seconds"]
                    change = mean[precision] - mean["float32"]
                    in_all, peak = f"{done.seconds:.1f} s for {count}", f"{summary['peak_mib']}"
                    yield size, precision, rate, f"{megapixels:.2f}", in_all, peak, f"{change:+.4f}"

        columns = (
            "image",
            "precision",
            "images/s",
            "megapixels/s",
            "in all",
            "peak MiB",
            "PSNR against float32",
        )
        table("Inference", columns, rows())

        def tiled() -> Iterator[tuple[object, ...]]:
            root = work.folder / "part"
            lay_out(root, *PART, 1, scenes)
            whole = on(work, root, "--tile", str(max(PART))).ended.output("mosaic0.png")
            for overlap in (64, 192):
                tiles = on(work, root, "--tile", "512", "--tile_overlap", str(overlap))
                difference = np.abs(whole.astype(int) - tiles.ended.output("mosaic0.png"))
                yield overlap, f"{difference.max()} of 255", f"{np.mean(difference > 0):.3%}"

        columns = ("--tile_overlap", "largest difference", "values that differ")
        table("Tiles of 512 against the whole, {} x {}, float32".format(*PART), columns, tiled())


if __name__ == "__main__":
    main()
