"""Decoded images, kept in memory shared by all loader processes, or on the training device."""

import math
import mmap
import multiprocessing
import os
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
import torch

from data.datasets import ImageSpec, ImageStore
from data.images import DTYPES
from data.scan import HeaderScan
from utils.system.device import free_memory
from utils.system.distributed import processes_here
from utils.system.pixels import to_float

Array = np.ndarray
MAX_FREE_MEMORY_SHARE_AUTO, MAX_FREE_MEMORY_SHARE = 0.25, 0.5  # of the free memory; other modes than auto
INTS_PER_IMAGE = 5  # offset, height, width, channels, bits
INTS_PER_PAIR = 1 + 2 * INTS_PER_IMAGE  # the number of images, and what they are
ALIGNMENT_BYTES = 8


class SharedBytes:
    """Zero-filled memory shared between processes, whether they are forked or get it pickled (spawn).

    It is an anonymous file, in memory where the system has memfd (Linux). /dev/shm is not used: it is often
    small, and the loader needs it. Pages are allocated when they are first written to.

    Raises:
        OSError: the system allows no file of this size.
    """

    def __init__(self, size: int):
        if hasattr(os, "memfd_create"):
            file = os.memfd_create("decoded images")
        else:
            with tempfile.TemporaryFile() as named:
                file = os.dup(named.fileno())
        self._own(file)
        os.ftruncate(file, size)
        self.bytes = mmap.mmap(file, size)

    def _own(self, file: int) -> None:
        self.file = file
        weakref.finalize(self, os.close, file)

    def __getstate__(self) -> dict[str, Any]:
        return {"file": DupFd(self.file), "size": len(self.bytes)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._own(state["file"].detach())
        self.bytes = mmap.mmap(self.file, state["size"])


class SharedImages:
    """Images `(H, W, C)` of pairs in memory that processes share.

    A pair decoded by one process is there for all of them. Pairs that no longer fit are not stored.

    Args:
        pairs: number of pairs.
        max_bytes: for all images; memory is taken from the system as it is used.

    Raises:
        OSError: the system allows no file of this size.
    """

    def __init__(self, pairs: int, max_bytes: int):
        self.max_bytes = max_bytes
        self._pixels = SharedBytes(max(1, max_bytes))
        self._table = SharedBytes(8 * (1 + pairs * INTS_PER_PAIR))
        self._lock = multiprocessing.Lock()

    def get(self, index: int) -> list[Array] | None:
        """Return the images of a pair, read-only; None if they are not stored."""
        row = self._row(index)
        if not row[0]:
            return None
        images = []
        for offset, *shape, bits in row[1:].reshape(2, INTS_PER_IMAGE)[: row[0]].tolist():
            image: Array = np.ndarray(shape, DTYPES[bits], self._pixels.bytes, offset)
            image.flags.writeable = False
            images.append(image)
        return images

    def put(self, index: int, images: list[Array]) -> list[Array]:
        """Store the images of a pair if there is room; an array given twice is stored once."""
        distinct = {id(image): image for image in images}
        sizes = {
            key: -(-image.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES for key, image in distinct.items()
        }
        with self._lock:
            used_bytes = self._ints()[:1]
            offset = int(used_bytes[0])
            if offset + sum(sizes.values()) > self.max_bytes:
                return images
            used_bytes[0] += sum(sizes.values())
        offsets = {}
        for key, image in distinct.items():
            np.ndarray(image.shape, image.dtype, self._pixels.bytes, offset)[:] = image
            offsets[key], offset = offset, offset + sizes[key]
        row = self._row(index)
        row[1 : 1 + len(images) * INTS_PER_IMAGE] = [
            number
            for image in images
            for number in (offsets[id(image)], *image.shape, 8 * image.dtype.itemsize)
        ]
        row[0] = len(images)  # last: other processes read the row from here on
        return images

    def _ints(self) -> Array:
        return np.frombuffer(self._table.bytes, np.int64)

    def _row(self, index: int) -> Array:
        return self._ints()[1 + index * INTS_PER_PAIR : 1 + (index + 1) * INTS_PER_PAIR]


class DeviceImages:
    """Images `(H, W, C)` of pairs as tensors on a device: uint8, or float32 in [0, 1] for deeper files.

    For one process. Pairs that do not fit are sent to the device each time.

    Args:
        max_bytes: for all images.
    """

    def __init__(self, device: torch.device, max_bytes: int):
        self.device, self.free_bytes = device, max_bytes
        self._stored: dict[int, list[torch.Tensor]] = {}

    def get(self, index: int) -> list[torch.Tensor] | None:
        """Return the images of a pair, not to be written to; None if they are not stored."""
        return self._stored.get(index)

    def put(self, index: int, images: list[Array]) -> list[torch.Tensor]:
        """Return the images of a pair on the device, and store them if there is room."""
        distinct = {id(image): image for image in images}  # of a degraded pair both are the clean image
        there = {key: self._send(image) for key, image in distinct.items()}
        sent, size = [there[id(image)] for image in images], sum(image.nbytes for image in there.values())
        if size <= self.free_bytes:
            self.free_bytes -= size
            self._stored[index] = sent
        return sent

    def _send(self, image: Array) -> torch.Tensor:
        return torch.from_numpy(_copy_for_torch(image)).to(self.device)


def _copy_for_torch(image: Array) -> Array:
    """Contiguous and writable copy of a dtype that torch has; a decoder's memory may be read-only."""
    return np.array(image if image.dtype == np.uint8 else to_float(image), order="C")


# ---------------------------------------------------------------------------------------------- what is kept


@dataclass(frozen=True)
class CachePlan:
    """How many bytes of decoded images are kept, and where.

    Args:
        train_bytes, val_bytes: for all training and all validation pairs; 0 keeps none.
        train_pairs, val_pairs: numbers of pairs.
        device: keeps the training pairs; by default the machine's memory does.
    """

    train_bytes: int
    val_bytes: int
    train_pairs: int
    val_pairs: int
    device: torch.device | None = None

    def train_store(self, parts: int = 1) -> ImageStore | None:
        """Allocate the store of the training pairs, or one of `parts` stores; None if they are not cached."""
        if self.device:
            return DeviceImages(self.device, self.train_bytes // parts)
        return _shared_images(self.train_pairs, self.train_bytes // parts)

    def val_store(self) -> ImageStore | None:
        """Allocate the store of the validation pairs; None if they are not cached."""
        return _shared_images(self.val_pairs, self.val_bytes)

    def describe(self) -> str:
        """Such as "up to 12.3 MiB in memory", "up to 12.3 MiB on the device", "not cached"."""
        if not self.device and not self.train_bytes:
            return "not cached"
        where = "on the device" if self.device else "in memory"
        return f"up to {(self.train_bytes + self.val_bytes) / 2**20:.1f} MiB {where}"


def _shared_images(pairs: int, max_bytes: int) -> SharedImages | None:
    return SharedImages(pairs, max_bytes) if max_bytes else None


def plan_cache(
    mode: str, device: torch.device, scan: HeaderScan, spec: ImageSpec, train_pairs: int, val_pairs: int
) -> CachePlan:
    """Decide how many decoded images to keep.

    Args:
        mode: `none`; `ram`, as many as fit into half of the free memory; `auto`, all of them if they fit
            into a quarter of it; `device`, training pairs on `device` as for `ram`, the others as for `auto`.
        scan: sizes and depth of the pairs.
        train_pairs, val_pairs: numbers of pairs.
    """
    on_device = mode == "device"
    sizes = [(spec.size, spec.size)] if spec.size else scan.sizes
    values, pairs = spec.input_nc + spec.target_nc, train_pairs + val_pairs
    free = free_memory(torch.device("cpu")) / processes_here()
    each = bytes_per_pair("auto" if on_device else mode, sizes, values, scan.depth, pairs, free)
    each = each if _allocatable(each * pairs) else 0  # slower without, but works
    train_each = each
    if on_device:
        train_each = bytes_per_pair(mode, sizes, values, scan.depth, pairs, free_memory(device))
    return CachePlan(
        train_each * train_pairs, each * val_pairs, train_pairs, val_pairs, device if on_device else None
    )


def _allocatable(size: int) -> bool:
    """Whether the system allows shared images of `size` bytes, and their lock; takes none of it."""
    try:
        SharedImages(1, size)
    except (OSError, ImportError):
        return False
    return True


def bytes_per_pair(
    mode: str, sizes: Sequence[tuple[int, int]], values: int, depth: int, pairs: int, free: float
) -> int:
    """Return the bytes to reserve per pair; with mode `auto` enough for all pairs or 0.

    Args:
        mode: `auto`, `ram`, `device` or `none`, see `plan_cache`.
        sizes: (width, height) of the targets, or of some of them.
        values: per pixel of the target, such as 6 for two images of 3 channels.
        depth: bits per value.
        pairs: number of pairs.
        free: bytes of free memory where the images are kept.

    >>> [bytes_per_pair("auto", [(100, 100)], 6, 8, 10, free) for free in (10**7, 10**6)]
    [66000, 0]
    >>> [bytes_per_pair("ram", [(100, 100)], 6, 8, 10, free) for free in (10**7, 10**6)]
    [66000, 50000]
    """
    pixels = sum(width * height for width, height in sizes) / len(sizes)
    depth = 32 if depth > 8 and mode == "device" else depth
    needed = math.ceil(1.1 * pixels * values * depth / 8)  # not all headers may have been read
    share = MAX_FREE_MEMORY_SHARE_AUTO if mode == "auto" else MAX_FREE_MEMORY_SHARE
    most = int(share * free / pairs)
    if mode == "auto":
        return needed if needed <= most else 0
    return min(needed, most) if mode != "none" else 0
