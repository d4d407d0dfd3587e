"""A 12,000 x 8,000 image through test.py: peak memory, time, and what the tiles change.

python -m tests.benchmarks.large_image demo_resunet                          # a run of hazy to clear images
python -m tests.benchmarks.large_image deblur --degrade blur:1.6+noise:2 --tile_overlap 192

The images are a mosaic of rendered scenes, hazy or degraded. Nothing else should run meanwhile.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.degrade import parse_degradation
from data.demo import render_pair, to_bytes

ROOT = Path(__file__).resolve().parents[2]
SCENE = 400  # pixels of one scene of the mosaic
LEVELS = 255


def mosaic(width: int, height: int, spec: str | None) -> tuple[np.ndarray, np.ndarray]:
    """(input, target) uint8 `(height, width, 3)`: a dozen rendered scenes, again and again."""
    scenes = [render_pair(2_000_000 + number, 1, SCENE) for number in range(12)]
    if spec:
        degrade, rng = parse_degradation(spec), np.random.default_rng(0)
        clean = [clear for _, clear in scenes]
        inputs = [to_bytes(degrade(clear.astype(np.float32) / LEVELS, rng)) for clear in clean]
        scenes = list(zip(inputs, clean, strict=True))
    pair = np.empty((2, height, width, 3), np.uint8)
    for i, top in enumerate(range(0, height, SCENE)):
        for j, left in enumerate(range(0, width, SCENE)):
            part = pair[:, top : top + SCENE, left : left + SCENE]
            for side, image in zip(part, scenes[(5 * i + j) % 12], strict=True):
                side[:] = image[: part.shape[1], : part.shape[2]]
    return pair[0], pair[1]


def lay_out(root: Path, width: int, height: int, spec: str | None) -> None:
    for side, image in zip(("input", "target"), mosaic(width, height, spec), strict=True):
        path = root / "large" / "test" / side / "mosaic.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, compress_level=1)


def run_test(name: str, root: Path, *flags: str) -> tuple[float, dict[str, Any], np.ndarray]:
    """(seconds, summary, output) of test.py on the pair below `root`."""
    results = root / "results"
    command = [sys.executable, str(ROOT / "test.py"), "--name", name, "--dataroot", str(root / "large")]
    command += ["--visdom", "off", "--results_dir", str(results), "--channels_last", *flags]
    began = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - began
    folder = results / name / "large"
    with Image.open(folder / "outputs" / "mosaic.png") as file:
        output = np.asarray(file)
    return seconds, json.loads((folder / "summary.json").read_text()), output


def main() -> int:
    parser = argparse.ArgumentParser(description="A large image through test.py.")
    parser.add_argument("name", help="the run, under checkpoints/")
    parser.add_argument("--degrade", help="what makes the inputs (default: haze of the scenes)")
    parser.add_argument("--size", type=int, nargs=2, default=(12_000, 8_000))
    parser.add_argument("--part", type=int, nargs=2, default=(3000, 2000), help="compared with the whole")
    parser.add_argument("--tile", default="512")
    parser.add_argument("--tile_overlap", default="64")
    opt = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None
    tiles = ("--tile", opt.tile, "--tile_overlap", opt.tile_overlap)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lay_out(root, *opt.part, opt.degrade)
        *_, whole = run_test(opt.name, root, "--tile", str(max(opt.part)))
        *_, tiled = run_test(opt.name, root, *tiles)
        difference = np.abs(whole.astype(int) - tiled)
        lay_out(root, *opt.size, opt.degrade)
        seconds, summary, _ = run_test(opt.name, root, *tiles)
    predicting, peak = f"{summary['seconds']:.0f} s predicting", f"peak {summary['peak_mib']} MiB"
    print("{} x {}: ".format(*opt.size) + f"{seconds:.0f} s in all, {predicting}, {peak}")
    print(f"PSNR {summary['psnr']['mean']:.2f} dB, doing nothing {summary['psnr_input']['mean']:.2f}")
    print("{} x {}, 8 bit, tiles against the whole: ".format(*opt.part), end="")
    print(f"at most {difference.max()} of 255, {np.mean(difference > 0):.2%} of the values differ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
