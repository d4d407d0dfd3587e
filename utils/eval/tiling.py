"""Whole images in bounded memory: overlapping tiles, blended, handed on in bands of rows."""

import weakref
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from utils.system.errors import UserError

Array = np.ndarray
RAMP = 16  # pixels over which one tile fades into the next, in the middle of what they share
AUTO_TILE, SMALLEST_TILE = 512, 64


class Tiling(NamedTuple):
    """How to cut an image.

    Args:
        size: side of a tile; None: the whole image where it fits into memory, else 512.
        overlap: pixels that neighbours share. Tiles give what the whole image gives where this is at least
            the network's receptive field + 16: only the middle 16 are blended, the rest is thrown away. With
            a self-ensemble the sides of the image have to be multiples of the network's for that as well.
    """

    size: int | None = None
    overlap: int = 64


def bands(
    forward: Callable[[Array], Tensor],
    image: Array,
    tile: int | None,
    overlap: int,
    multiple: int,
    scale: int,
) -> Iterator[Tensor]:
    """Yield what `forward` makes of an image, from top to bottom in bands of rows `(K, C, h, W * scale)`.

    Args:
        forward: `(h, w, C)` part of the image to `(K, C, h * scale, w * scale)`, on the CPU.
        image: `(H, W, C)`.
        tile: largest side of a part, or None for the whole image at once.
        multiple: parts begin at multiples of this, so that strided networks see the grid of the whole image.
    """
    height, width = image.shape[:2]
    if tile is None or (height <= tile and width <= tile):
        yield forward(image)
        return
    tile = tile // multiple * multiple  # so that a part keeps the grid also when it is flipped
    tops, lefts = starts(height, tile, overlap, multiple), starts(width, tile, overlap, multiple)
    across = [torch.from_numpy(w) for w in blending(lefts, width, tile, overlap, scale)]
    down = [torch.from_numpy(w)[:, None] for w in blending(tops, height, tile, overlap, scale)]
    pending = rest = None  # rows in the making; those of them that the next tiles will add to
    done = 0
    for top, following, weight in zip(tops, [*tops[1:], height], down, strict=True):
        bottom = min(top + tile, height) * scale
        for left, share in zip(lefts, across, strict=True):
            part = forward(image[top : top + tile, left : left + tile]) * (weight * share)
            if pending is None:
                pending = part.new_zeros(*part.shape[:2], bottom - done, width * scale)
                if rest is not None:
                    pending[:, :, : rest.shape[2]] = rest
            x, y = left * scale, top * scale - done
            pending[:, :, y : y + part.shape[2], x : x + part.shape[3]] += part
        assert pending is not None
        ready = following * scale - done
        yield pending[:, :, :ready]
        rest, pending, done = pending[:, :, ready:].clone(), None, following * scale


def starts(length: int, tile: int, overlap: int, multiple: int) -> list[int]:
    """Where tiles begin: at multiples of `multiple`, sharing at least `overlap`, the last reaching the end.

    >>> starts(100, 40, 8, 4), starts(30, 40, 8, 4)
    ([0, 32, 60], [0])

    Raises:
        UserError: tiles that would not advance.
    """
    step = (tile // multiple * multiple - overlap) // multiple * multiple
    if step < 1:
        raise UserError(
            f"--tile {tile} with --tile_overlap {overlap} does not advance",
            f"tiles begin at multiples of {multiple}, as the network wants it",
            f"--tile {-(-overlap // multiple) * multiple + multiple} or more",
        )
    last = -(-max(0, length - tile) // multiple) * multiple
    return [*range(0, last, step), last]


def blending(begin: list[int], length: int, tile: int, overlap: int, scale: int) -> list[Array]:
    """Weights `(w * scale,)` float32 of each tile along one side; over all tiles they add up to 1 everywhere.

    Each fades into the next in the middle of what the two share, and is 0 outside.
    """
    position = np.arange(length * scale) + 0.5
    ramp = max(min(RAMP, overlap) * scale, 1e-6)
    middles = [(a + tile + b) / 2 * scale for a, b in pairwise(begin)]
    rising = [np.clip((position - middle) / ramp + 0.5, 0, 1) for middle in middles]
    rising = [np.ones_like(position), *rising, np.zeros_like(position)]
    return [
        (enters - leaves)[a * scale : (a + tile) * scale].astype(np.float32)
        for a, enters, leaves in zip(begin, rising, rising[1:], strict=False)
    ]


# ---------------------------------------------------------------------------------------- the largest tile


def fitting_tile(tiling: Tiling, needed: float, available: float, multiple: int) -> int | None:
    """The tile to begin with: the one asked for; or None (whole) where `needed` bytes are there, else 512.

    More than 512 where the overlap asked for takes more than half of that.
    """
    if tiling.size is not None or needed <= available:
        return tiling.size
    return max(AUTO_TILE, 2 * tiling.overlap) // multiple * multiple or multiple


def smaller_tile(tile: int, overlap: int, multiple: int) -> int | None:
    """Half of `tile`, 1024 at most; None where it is the smallest one that is worth trying already."""
    smallest = -(-max(SMALLEST_TILE, overlap + multiple) // multiple) * multiple
    return None if tile <= smallest else max(smallest, min(tile // 2, 1024) // multiple * multiple)


def memory_per_pixel(net: torch.nn.Module, example: Tensor) -> float:
    """Bytes that a forward pass holds at most for each further input pixel, counted on two small examples.

    Counts the tensors alive at each operation, and once more those it reads and makes, for the copies in
    which libraries rearrange them. On a CPU (float32, 1000 x 1000 and 1500 x 1500) that was 1.2 times the
    measured peak for resnet, 1.5 to 1.9 for unet, 1.3 for dncnn and 1.1 for resunet.

    Args:
        example: `(1, C, H, W)`; the second one is twice as high and wide. What does not grow with the
            image cancels.
    """
    pixels = example.shape[2] * example.shape[3]
    with torch.inference_mode():
        return (_peak_bytes(net, example.repeat(1, 1, 2, 2)) - _peak_bytes(net, example)) / (3 * pixels)


def _peak_bytes(net: torch.nn.Module, example: Tensor) -> int:
    counter = _LiveBytes(example)
    with counter:
        net(example)
    return counter.peak


class _LiveBytes(TorchDispatchMode):
    """Bytes of the storages that are alive while it is on, beside those that were there before."""

    def __init__(self, given: Tensor):
        super().__init__()
        self.now = self.peak = 0
        self.held: set[int] = set()
        self.given = given  # so that its storage lives as long as its number is in use
        self.hold(given.untyped_storage())

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        given = tensors_in((args, kwargs))
        read = [tensor for tensor in given if id(tensor.untyped_storage()) in self.held]
        if given and not read:  # weights, cast to another type
            return output
        made = sum(self.hold(tensor.untyped_storage()) for tensor in tensors_in(output))
        if made:  # neither a view nor in place
            self.peak = max(self.peak, self.now + made + sum(tensor.nbytes for tensor in read))
        return output

    def hold(self, storage: torch.UntypedStorage) -> int:
        """Count a storage until it dies; its bytes if it is a new one."""
        if id(storage) in self.held:
            return 0
        size = storage.nbytes()
        self.held.add(id(storage))
        self.now += size
        weakref.finalize(storage, self.release, id(storage), size)
        return size

    def release(self, key: int, size: int) -> None:
        self.held.discard(key)
        self.now -= size


def tensors_in(values: Any) -> list[Tensor]:
    """The tensors of nested tuples, lists and dicts."""
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]
