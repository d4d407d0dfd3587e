"""Perceptual figures: sharpness, distances on Lite0 or VGG19 features of each image, and KID of two sets."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.perceptual import MIN_SIDE, FeatureDistance, VGGDistance, lite0_features, vgg_features
from utils.eval.lpips import as_batch, by_image
from utils.system.distributed import Ranks

if TYPE_CHECKING:
    from data.datasets import WholeDataset
    from utils.eval.evaluator import Prediction

Comparison = Callable[[Tensor, Tensor], Tensor]  # of two batches `(1, 3, H, W)` in [0, 1]
COMPARISONS: dict[str, Callable[[torch.device], Comparison]] = {
    "sharpness": lambda device: sharpness,
    "lite0": lambda device: FeatureDistance(lite0_features()).to(device),
    "vgg": lambda device: VGGDistance(vgg_features()).to(device),
}
MAX_KID_PIXELS = 2**20  # larger images are shrunk before their features are pooled
MIN_KID_IMAGES = 2  # of each set


def open_comparisons(
    names: Iterable[str], device: torch.device
) -> "list[Callable[[Prediction], dict[str, float]]]":
    """A function from a prediction to `<name>` and `<name>_input` for each of COMPARISONS among `names`.

    Raises:
        UserError: the weights of a network are not on this machine.
    """
    metrics = {name: COMPARISONS[name](device) for name in names if name in COMPARISONS}
    return [by_image(name, metric, device, MIN_SIDE) for name, metric in metrics.items()]


def measure_all(
    comparisons: "Iterable[Callable[[Prediction], dict[str, float]]]", image: "Prediction"
) -> dict[str, float]:
    """The values of all comparisons for one prediction, by name."""
    return {key: value for compare in comparisons for key, value in compare(image).items()}


def sharpness(image: Tensor, target: Tensor) -> Tensor:
    """Mean absolute Laplacian of `image` over that of `target`; below 1: softer, above: sharper or noisier.

    The Laplacian is that of four neighbours, of each channel, without the outermost pixels.

    Args:
        image, target: `(N, C, H, W)` with H and W of at least 3, of the same range.

    Returns:
        `(N,)`; NaN where the target is flat.

    >>> edge = torch.eye(4)[None, None]
    >>> sharpness(edge / 2, edge).tolist(), sharpness(edge, torch.zeros(1, 1, 4, 4)).tolist()
    ([0.5], [nan])
    """
    found, wanted = (laplacian(each).abs().flatten(1).mean(1) for each in (image, target))
    return torch.where(wanted > 0, found / wanted, math.nan)


def laplacian(image: Tensor) -> Tensor:
    """Sum of the four neighbours less four times the pixel, `(N, C, H - 2, W - 2)`."""
    across = image[..., 1:-1, :-2] + image[..., 1:-1, 2:]
    down = image[..., :-2, 1:-1] + image[..., 2:, 1:-1]
    return across + down - 4 * image[..., 1:-1, 1:-1]


def kid(one: Tensor, other: Tensor, paired: bool = False) -> float:
    """Kernel inception distance of two sets of features, `(N, d)` and `(M, d)`; NaN for sets of one image.

    The unbiased estimate of the squared maximum mean discrepancy for the kernel (x y / d + 1)^3 (Binkowski et
    al. 2018, section 4), over all images; it may be slightly negative.

    Args:
        paired: row i of both shows one scene. Such pairs are alike whatever the sets are: they are left out
            of the mean between the sets (Gretton et al. 2012, eq. 4), so it is unbiased for pairs, too.

    >>> same = torch.eye(4)
    >>> round(kid(same, same), 4), kid(same, same, paired=True)
    (-0.4766, 0.0)
    """
    if min(len(one), len(other)) < MIN_KID_IMAGES:
        return math.nan
    one, other = one.double(), other.double()
    between = kernel(one, other)
    mean = off_diagonal_mean(between) if paired else between.mean()
    return (off_diagonal_mean(kernel(one, one)) + off_diagonal_mean(kernel(other, other)) - 2 * mean).item()


def off_diagonal_mean(matrix: Tensor) -> Tensor:
    """Mean of a square matrix without its diagonal."""
    n = len(matrix)
    return (matrix.sum() - matrix.trace()) / (n * (n - 1))


def kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


class KID:
    """Collects pooled Lite0 features of sets of images, by name, and compares two sets.

    Args:
        device: where the features are computed.

    Raises:
        UserError: the package with Lite0's weights is not installed.
    """

    def __init__(self, device: torch.device):
        self.device, self.net = device, lite0_features().to(device)
        self.sets: dict[str, list[Tensor]] = {}
        self.paired = False  # the references are the targets of the images

    def add(self, name: str, image: np.ndarray) -> None:
        """Add an image `(H, W, C)` of any depth to the set `name`."""
        self.sets.setdefault(name, []).append(self.features(image))

    def features(self, image: np.ndarray) -> Tensor:
        """The features of an image, `(1280,)`, float32 on the CPU."""
        x = as_batch(image).to(self.device)
        pixels = x.shape[-2] * x.shape[-1]
        if pixels > MAX_KID_PIXELS:
            factor = math.sqrt(MAX_KID_PIXELS / pixels)
            x = F.interpolate(x, scale_factor=factor, mode="bilinear", antialias=True)
        with torch.inference_mode():
            return self.net.pooled(x)[0].float().cpu()

    def take(self, image: "Prediction", again: bool = False) -> None:
        """Add an output, and unless the same images came before (`again`), its input and target."""
        self.add("output", image.output)
        if not again:
            self.add("input", image.input)
            if image.target is not None:
                self.add("reference", image.target)
                self.paired = True

    def take_references(self, others: "WholeDataset", ranks: Ranks) -> None:
        """Add this process's share of the images of the other set, instead of targets."""
        for i in range(ranks.rank, len(others), ranks.world):
            self.add("reference", others.whole(i).input)

    def figures(self, ranks: Ranks) -> dict[str, float]:
        """`kid` of the outputs and `kid_input` of the inputs, over all processes; NaN for single images."""
        sets = {name: all_rows(self.sets.get(name, []), ranks) for name in ("output", "input", "reference")}
        paired = self.paired and len({len(rows) for rows in sets.values()}) == 1
        return {
            "kid": kid(sets["output"], sets["reference"], paired),
            "kid_input": kid(sets["input"], sets["reference"], paired),
        }


def all_rows(rows: Sequence[Tensor], ranks: Ranks) -> Tensor:
    """The rows `(d,)` of all processes as one matrix; every process must call it."""
    if ranks.world == 1:
        return torch.stack(list(rows)) if rows else torch.empty(0, 1)
    counts = torch.zeros(ranks.world, dtype=torch.long, device=ranks.device)
    width = torch.tensor(len(rows[0]) if rows else 0, device=ranks.device)
    counts[ranks.rank] = len(rows)
    counts, width = ranks.reduce(counts), ranks.reduce(width, torch.distributed.ReduceOp.MAX)
    found = torch.zeros(int(counts.sum()), max(1, int(width)), device=ranks.device)
    first = int(counts[: ranks.rank].sum())
    if rows:
        found[first : first + len(rows)] = torch.stack(list(rows)).to(ranks.device)
    return ranks.reduce(found).cpu()
