"""A 12,000 x 8,000 image through test.py: peak memory, time, and what the tiles change.

python -m tests.benchmarks.large_image demo_resunet            # any run of hazy to clear images
python -m tests.benchmarks.large_image demo_resunet --width 3000 --height 2000

The images are a mosaic of rendered scenes. Nothing else should run meanwhile.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from data.demo import render_pair

ROOT = Path(__file__).resolve().parents[2]
SCENE = 400  # pixels of one scene of the mosaic
LEVELS = 255


def mosaic(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """(hazy, clear) uint8 `(height, width, 3)`: a dozen rendered scenes, again and again."""
    scenes = [render_pair(2_000_000 + number, 1, SCENE) for number in range(12)]
    pair = np.empty((2, height, width, 3), np.uint8)
    for i, top in enumerate(range(0, height, SCENE)):
        for j, left in enumerate(range(0, width, SCENE)):
            part = pair[:, top : top + SCENE, left : left + SCENE]
            for side, image in zip(part, scenes[(5 * i + j) % 12], strict=True):
                side[:] = image[: part.shape[1], : part.shape[2]]
    return pair[0], pair[1]


def test_run(name: str, root: Path, *flags: str) -> tuple[float, float, dict, np.ndarray]:
    """(seconds, peak MiB, summary, output) of test.py on the pair below `root`."""
    results = root / "results"
    command = [sys.executable, str(ROOT / "test.py"), "--name", name, "--dataroot", str(root / "large")]
    command += ["--visdom", "off", "--results_dir", str(results), "--channels_last", *flags]
    began = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # of the largest child so far
    folder = results / name / "large"
    with Image.open(folder / "outputs" / "mosaic.png") as file:
        output = np.asarray(file)
    return seconds, peak, json.loads((folder / "summary.json").read_text()), output


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="the run, under checkpoints/")
    parser.add_argument("--width", type=int, default=12_000)
    parser.add_argument("--height", type=int, default=8_000)
    parser.add_argument(
        "--part", type=int, nargs=2, default=(3000, 2000), help="size compared with the whole"
    )
    opt = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)

        def lay_out(width: int, height: int) -> None:
            for side, image in zip(("input", "target"), mosaic(width, height), strict=True):
                path = root / "large" / "test" / side / "mosaic.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path, compress_level=1)

        lay_out(*opt.part)
        *_, whole = test_run(opt.name, root, "--tile", str(max(opt.part)))
        *_, tiled = test_run(opt.name, root, "--tile", "512")
        difference = np.abs(whole.astype(int) - tiled)
        lay_out(opt.width, opt.height)
        seconds, peak, summary, _ = test_run(opt.name, root, "--tile", "512", "--amp", "auto")
    size = f"{opt.width} x {opt.height}"
    print(
        f"{size}: {seconds:.0f} s in all, {summary['seconds']:.0f} s of them predicting; peak {peak:.0f} MiB"
    )
    print(f"PSNR {summary['psnr']['mean']:.2f} dB, doing nothing {summary['psnr_input']['mean']:.2f}")
    print("{} x {}, 8 bit, tiles of 512 against the whole: ".format(*opt.part), end="")
    print(f"at most {difference.max()} of 255, {np.mean(difference > 0):.2%} of the values differ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
