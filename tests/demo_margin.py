"""How far a demo run is above its input and above the best change of color.

`python -m tests.demo_margin NAME` exits with 1 unless run NAME is 6 dB above its input and 3 dB above the
best per-image affine fit: each color channel of the input mapped by the a x + b nearest to the target. A
network that only learned to stretch contrast cannot beat that.
"""

import sys
from pathlib import Path

import numpy as np

from data.pairs import Source
from data.splits import find_pairs
from utils.eval.results import read_csv


def affine_psnr(given: np.ndarray, target: np.ndarray) -> float:
    """PSNR in dB of the least-squares fit of each channel; both `(H, W, C)` uint8."""
    errors = []
    for channel in range(target.shape[2]):
        x, y = given[:, :, channel].ravel() / 255, target[:, :, channel].ravel() / 255
        design = np.stack([x, np.ones_like(x)], axis=1)
        solution, *_ = np.linalg.lstsq(design, y, rcond=None)
        errors.append(np.mean((np.clip(design @ solution, 0, 1) - y) ** 2))
    return float(-10 * np.log10(np.mean(errors)))


def main(name: str) -> int:
    rows = read_csv(Path("results") / name / "demo" / "metrics.csv")
    listing = find_pairs(Source("demo"), "test")
    fits = [affine_psnr(*(np.asarray(image) for image in listing.read(pair))) for pair in listing.pairs]
    reached, baseline = (float(np.mean([float(row[key]) for row in rows])) for key in ("psnr", "psnr_input"))
    fit = float(np.mean(fits))
    print(f"PSNR {reached:.2f} dB (input {baseline:.2f}, best per-image affine fit {fit:.2f})")
    return 0 if reached >= baseline + 6 and reached >= fit + 3 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
