"""Self-ensemble (Timofte et al. 2016, "x8"): the mean over eight flips and quarter turns of the input."""

from collections.abc import Callable

import torch
from torch import Tensor


def dihedral_mean(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`(1, C, H, W)` to `(2, C', H', W')`: the mean over the eight outputs turned back, and the plain output.

    >>> x = torch.rand(1, 1, 4, 6)
    >>> bool((dihedral_mean(lambda x: x, x) - x).abs().max() < 1e-6)
    True
    """
    plain = net(x).float()
    total = plain.clone()
    for turns in range(4):
        for flip in (False, True):
            if turns or flip:
                total += turned_back(net(turned(x, turns, flip)).float(), turns, flip)
    return torch.cat([total / 8, plain])


def turned(x: Tensor, turns: int, flip: bool) -> Tensor:
    """`x` mirrored left to right if `flip`, then turned by `turns` quarters."""
    return torch.rot90(x.flip(3) if flip else x, turns, (2, 3))


def turned_back(x: Tensor, turns: int, flip: bool) -> Tensor:
    """Undo `turned`."""
    x = torch.rot90(x, -turns, (2, 3))
    return x.flip(3) if flip else x
