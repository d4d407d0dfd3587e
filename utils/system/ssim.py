"""SSIM of batches of images, for figures and for a loss."""

import torch
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # SSIM's Gaussian window (Wang et al. 2004, section III-C)
C1, C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 at full scale L = 1


def ssim_map(image: Tensor, target: Tensor) -> Tensor:
    """Compute the SSIM of each whole window of `(N, C, H, W)`: `(N, C, H - 10, W - 10)`; empty under 11 px.

    Wang et al. 2004, eq. 13: Gaussian window, 11 x 11, sigma 1.5, K1 0.01, K2 0.03, population statistics.
    """
    if min(image.shape[-2:]) < WINDOW:
        return image.new_empty((*image.shape[:2], 0, 0))
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    kernel = torch.exp(-0.5 * (offsets / SIGMA).square())
    weights = (kernel / kernel.sum()).tolist()

    def blur(x: Tensor) -> Tensor:
        rows = sum(w * x[..., i : x.shape[-2] - WINDOW + 1 + i, :] for i, w in enumerate(weights))
        assert isinstance(rows, Tensor)
        columns = sum(w * rows[..., i : x.shape[-1] - WINDOW + 1 + i] for i, w in enumerate(weights))
        assert isinstance(columns, Tensor)
        return columns

    mean_x, mean_y = blur(image), blur(target)
    square_x, square_y, product = mean_x.square(), mean_y.square(), mean_x * mean_y
    variances = blur(image.square()) + blur(target.square()) - square_x - square_y
    covariance = blur(image * target) - product
    numerator = (2 * product + C1) * (2 * covariance + C2)
    return numerator / ((square_x + square_y + C1) * (variances + C2))
