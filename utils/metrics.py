"""PSNR as papers quote it: per image, after clamping and quantising the output, then averaged over images."""

from torch import Tensor

CONVENTION = (
    "PSNR per image over all pixels and RGB or gray channels, output clamped to [0, 1] and rounded to 8 bit"
)


def quantize(image: Tensor, levels: int = 255) -> Tensor:
    """Clamp to [0, 1] and round to the grid of an integer image, as saving it would.

    Args:
        image: any shape, nominally in [0, 1].
        levels: the largest integer value of the target's bit depth (255 for 8 bit).

    >>> import torch
    >>> quantize(torch.tensor([-0.5, 0.1, 2.0])).mul(255).tolist()
    [0.0, 26.0, 255.0]
    """
    return image.clamp(0, 1).mul(levels).round().div(levels)


def psnr(image: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image, 10 log10(1 / MSE); inf where the two are equal.

    Args:
        image, target: `(N, C, H, W)` in [0, 1]; `image` is taken as it is (see `quantize`).

    Returns:
        `(N,)` float64. The mean of several images is the mean of these, never the PSNR of a mean MSE.

    >>> import torch
    >>> psnr(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.1)).round(decimals=3).tolist()
    [20.0]
    """
    if image.shape != target.shape:
        raise ValueError(f"image {tuple(image.shape)} and target {tuple(target.shape)} differ in shape")
    mse = (image.double() - target.double()).square().flatten(1).mean(1)  # (N,)
    return -10 * mse.log10()
