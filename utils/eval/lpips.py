"""LPIPS (Zhang et al. 2018) by torchmetrics, the extra `[metrics]`, where its weights are at hand."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from data.images import to_float
from utils.system.errors import first_sentence

if TYPE_CHECKING:
    from utils.eval.evaluator import Prediction

BACKBONE = "alexnet-owt-7be5be79.pth"  # torchvision's; torchmetrics brings the rest
SMALLEST = 32  # pixels of a side below which AlexNet has nothing left
LARGEST = 2**23  # pixels above which its activations take several GiB


def open_lpips(
    device: torch.device, say: Callable[[str], None]
) -> "Callable[[Prediction], dict[str, float]] | None":
    """A function from a judged image to `lpips` and `lpips_input`; or None, and one line that says why.

    Nothing is downloaded. The values are NaN for images too small or too large.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE
    fetch = "python -c \"import torchvision; torchvision.models.alexnet(weights='DEFAULT')\""
    if not file.is_file():
        say(f"LPIPS left out: no weights in {file}; fetch them once: {fetch}")
        return None
    try:
        from utils.system.compat import transforms  # noqa: F401 - lets torchvision load where it would not by itself

        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity  # isort: skip

        metric = LearnedPerceptualImagePatchSimilarity("alex", normalize=True).to(device)
    except Exception as error:  # a missing library, or weights that do not fit
        say(f'LPIPS left out: {first_sentence(error)}; pip install -e ".[metrics]"')
        return None

    def compare(image: np.ndarray, target: np.ndarray) -> float:
        small = min(target.shape[:2]) < SMALLEST or target.shape[0] * target.shape[1] > LARGEST
        if small or image.shape[2] not in (1, target.shape[2]):
            return math.nan
        first, second = (
            torch.from_numpy(to_float(picture)).permute(2, 0, 1)[None].clamp(0, 1).to(device)
            for picture in (image, target)
        )
        if first.shape[2:] != second.shape[2:]:
            first = F.interpolate(first, second.shape[2:], mode="bicubic", antialias=True).clamp(0, 1)
        with torch.inference_mode():
            return metric(first.expand(-1, 3, -1, -1), second.expand(-1, 3, -1, -1)).item()

    def measure(image: "Prediction") -> dict[str, float]:
        if image.target is None:
            return {}
        return {
            "lpips": compare(image.output, image.target),
            "lpips_input": compare(image.input, image.target),
        }

    return measure
