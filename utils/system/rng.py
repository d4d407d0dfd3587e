"""Random streams: one for each purpose and position, so that no draw depends on another."""

from typing import Literal

import numpy as np

Purpose = Literal["order", "sample", "whole", "holdout", "test_holdout", "pool"]
PURPOSES: dict[Purpose, int] = {  # the positions of a purpose have one length: numpy ignores zeros at the end
    "whole": 0,  # (image, from 1): degradation of a full-size image
    "holdout": 2,  # (): targets held out of the training split for validation
    "order": 3,  # (epoch): order of the samples
    "test_holdout": 5,  # (): targets held out of the training split for testing
    "pool": 6,  # (number of the pool, images before): which earlier output a discriminator sees
    "sample": 4,  # (epoch, index): crop, augmentation and degradation of a training sample
}


def stream(seed: int, purpose: Purpose, *position: int) -> np.random.Generator:
    """The generator for one purpose at one position; counts start at 0.

    >>> first, again = (stream(0, "sample", 1, 2).random() for _ in range(2))
    >>> first == again, first == stream(0, "order", 1).random()
    (True, False)
    """
    return np.random.default_rng([seed, PURPOSES[purpose], *position])
