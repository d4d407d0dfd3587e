"""How often a run validates: about ten times, in at most a tenth of its time."""

import math
from argparse import Namespace
from collections.abc import Sequence

SHARE = 0.1  # of the run between two validations, and of its time for all of them
BACKWARD = 3  # a training step computes about three times what a prediction of the same pixels does
SHORT_EPOCHS, LONG_EPOCH = 10, 100  # a run of fewer epochs of at least so many steps validates within them


def interval(total: float, cost: float) -> int:
    """Steps between two validations of a run of `total` steps.

    A tenth of the run, or more where validations would take more than a tenth of the time.

    Args:
        cost: of a validation, in steps.

    >>> interval(300, 0.5), interval(300, 8)
    (30, 72)
    """
    return max(1, math.ceil(SHARE * total - 1e-9), math.ceil(cost * (1 / SHARE - 1) - 1e-9))


def validation_cost(images: int, sizes: Sequence[tuple[int, int]], opt: Namespace) -> float:
    """Estimate how many training steps compute as long as one validation: by the pixels of both.

    A function of data and options alone: an interrupted run validates where an uninterrupted one does.

    Args:
        images: validation images.
        sizes: (width, height) of images in pixels.
        opt: with `size` and `crop_size` (None: whole images, as they are) and `batchSize`.

    >>> opt = Namespace(size=None, crop_size=50, batchSize=8)
    >>> round(validation_cost(10, [(200, 100)], opt), 2)
    3.33
    """
    pixels = opt.size**2 if opt.size else sum(width * height for width, height in sizes) / len(sizes)
    cropped = min(pixels, opt.crop_size**2) if opt.crop_size else pixels
    return images * pixels / (BACKWARD * opt.batchSize * cropped)
