"""Self-ensemble (Timofte et al. 2016, "x8"): average over eight flips and rotations of the input."""

from collections.abc import Callable

import torch
from torch import Tensor

DIHEDRAL = [(quarters, flip) for quarters in range(4) for flip in (False, True)]


def dihedral_mean(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the mean of the eight outputs and the plain output: `(1, C, H, W)` to `(2, C', H', W')`.

    >>> x = torch.rand(1, 1, 4, 6)
    >>> bool((dihedral_mean(lambda x: x, x) - x).abs().max() < 1e-6)
    True
    """
    plain = net(x).float()
    total = plain.clone()
    for quarters, flip in DIHEDRAL[1:]:
        total += undo_transform(net(transform(x, quarters, flip)).float(), quarters, flip)
    return torch.cat([total / 8, plain])


def transform(x: Tensor, quarters: int, flip: bool) -> Tensor:
    """Mirror left to right if `flip`, then rotate by `quarters` quarter turns."""
    return torch.rot90(x.flip(3) if flip else x, quarters, (2, 3))


def undo_transform(x: Tensor, quarters: int, flip: bool) -> Tensor:
    """Invert `transform`."""
    x = torch.rot90(x, -quarters, (2, 3))
    return x.flip(3) if flip else x
