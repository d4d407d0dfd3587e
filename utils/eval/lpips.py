"""LPIPS (Zhang et al. 2018) by torchmetrics, the extra `[metrics]`, if its weights are on this machine."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from utils.system.errors import first_sentence
from utils.system.pixels import to_float

if TYPE_CHECKING:
    from utils.eval.evaluator import Prediction

BACKBONE = "alexnet-owt-7be5be79.pth"  # torchvision's; torchmetrics brings the rest
FETCH = "python -c \"import torchvision; torchvision.models.alexnet(weights='DEFAULT')\""
MIN_LPIPS_SIDE = 32  # pixels; AlexNet's last layer is empty below
MAX_PIXELS = 2**23  # the activations of AlexNet, Lite0 and VGG19 take several GiB above


def open_lpips(
    device: torch.device, say: Callable[[str], None]
) -> "Callable[[Prediction], dict[str, float]] | None":
    """Return a function from a prediction to `lpips` and `lpips_input`; or None, and say why.

    Downloads nothing. The values are NaN for images that are too small or too large.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE
    if not file.is_file():
        say(f"LPIPS left out: no weights in {file}; fetch them once: {FETCH}")
        return None
    try:
        from utils.system.compat import transforms  # noqa: F401 - imports torchvision with the shims it needs

        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity  # isort: skip

        metric = LearnedPerceptualImagePatchSimilarity("alex", normalize=True).to(device)
    except Exception as error:  # a missing library, or weights that do not fit
        say(f'LPIPS left out: {first_sentence(error)}; pip install -e ".[metrics]"')
        return None

    return by_image("lpips", metric, device, MIN_LPIPS_SIDE)


def by_image(
    name: str, metric: Callable[[Tensor, Tensor], Tensor], device: torch.device, min_side: int
) -> "Callable[[Prediction], dict[str, float]]":
    """Return a function from a prediction to a distance of output and target, and of input and target.

    Args:
        name: of the distance.
        metric: of two batches `(1, 3, H, W)` in [0, 1].
        min_side: in pixels; smaller images have the value NaN.
    """

    def distance(image: np.ndarray, target: np.ndarray) -> float:
        height, width, channels = target.shape
        if min(height, width) < min_side or height * width > MAX_PIXELS:
            return math.nan
        if image.shape[2] not in (1, channels):
            return math.nan
        x, y = (as_batch(each).to(device) for each in (image, target))
        if x.shape[2:] != y.shape[2:]:
            x = F.interpolate(x, y.shape[2:], mode="bicubic", antialias=True).clamp(0, 1)
        with torch.inference_mode():
            return metric(x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1)).item()

    def measure(image: "Prediction") -> dict[str, float]:
        if image.target is None:
            return {}
        sides = {name: image.output, f"{name}_input": image.input}
        return {key: distance(side, image.target) for key, side in sides.items()}

    return measure


def as_batch(image: np.ndarray) -> Tensor:
    """Convert `(H, W, C)` of any depth to `(1, C, H, W)` in [0, 1]."""
    return torch.from_numpy(to_float(image)).permute(2, 0, 1)[None].clamp(0, 1)
