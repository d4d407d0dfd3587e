"""Decoded images, kept in memory once for all loader processes of a run, or on the device that trains."""

import math
import mmap
import multiprocessing
import os
import tempfile
import weakref
from collections.abc import Sequence
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
import torch

from data.images import DTYPES, to_float

Array = np.ndarray
SHARE = 0.25, 0.5  # of the free memory that `--cache auto` may take, and the others
DESCRIPTION = 5  # numbers for one image: offset, height, width, channels, bits
ROW = 1 + 2 * DESCRIPTION  # of a pair: how many images are here, and what they are
ALIGNED = 8  # bytes


class SharedBytes:
    """Zeros in memory that processes share: they may be forked, or get it pickled when they are started.

    A file without a name, in memory where the system has such (Linux). /dev/shm, which is often small and
    which loaders need, is left alone. Only pages that are written to are taken.

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


class DecodedImages:
    """Images `(H, W, C)` of pairs, up to a number of bytes, in memory that processes share.

    Whichever process decodes a pair keeps it for all of them; what does not fit any more is not kept.

    Args:
        pairs: how many there are.
        room: bytes for all images; only what is used is taken from the system.

    Raises:
        OSError: as SharedBytes.
    """

    def __init__(self, pairs: int, room: int):
        self.room = room
        self._pixels = SharedBytes(max(1, room))
        self._table = SharedBytes(8 * (1 + pairs * ROW))
        self._lock = multiprocessing.Lock()

    def get(self, which: int) -> list[Array] | None:
        """The images of a pair, not to be written to; None where they are not here."""
        row = self._row(which)
        if not row[0]:
            return None
        pixels = self._pixels.bytes
        images = []
        for offset, *shape, bits in row[1:].reshape(2, DESCRIPTION)[: row[0]].tolist():
            image: Array = np.ndarray(shape, DTYPES[bits], pixels, offset)
            image.flags.writeable = False
            images.append(image)
        return images

    def put(self, which: int, images: list[Array]) -> list[Array]:
        """The images of a pair, kept if there is room; two that are the same array are kept once."""
        distinct = {id(image): image for image in images}
        sizes = {key: -(-image.nbytes // ALIGNED) * ALIGNED for key, image in distinct.items()}
        with self._lock:
            used = self._numbers()[:1]
            offset = int(used[0])
            if offset + sum(sizes.values()) > self.room:
                return images
            used[0] += sum(sizes.values())
        pixels, offsets = self._pixels.bytes, {}
        for key, image in distinct.items():
            np.ndarray(image.shape, image.dtype, pixels, offset)[:] = image
            offsets[key], offset = offset, offset + sizes[key]
        row = self._row(which)
        row[1 : 1 + len(images) * DESCRIPTION] = [
            number
            for image in images
            for number in (offsets[id(image)], *image.shape, 8 * image.dtype.itemsize)
        ]
        row[0] = len(images)  # last: from here on others read it
        return images

    def _numbers(self) -> Array:
        return np.frombuffer(self._table.bytes, np.int64)

    def _row(self, which: int) -> Array:
        return self._numbers()[1 + which * ROW : 1 + (which + 1) * ROW]


class DeviceImages:
    """Images `(H, W, C)` of pairs as tensors on a device: uint8, or float32 of full scale 1 if deeper.

    For one process; what does not fit any more is sent there each time.

    Args:
        room: bytes for all images.
    """

    def __init__(self, device: torch.device, room: int):
        self.device, self.room = device, room
        self._kept: dict[int, list[torch.Tensor]] = {}

    def get(self, which: int) -> list[torch.Tensor] | None:
        """The images of a pair, not to be written to; None where they are not here."""
        return self._kept.get(which)

    def put(self, which: int, images: list[Array]) -> list[torch.Tensor]:
        """The images of a pair on the device, kept if there is room."""
        sent = [torch.from_numpy(_in_order(image)).to(self.device) for image in images]
        size = sum(image.nbytes for image in sent)
        if size <= self.room:
            self.room -= size
            self._kept[which] = sent
        return sent


def _in_order(image: Array) -> Array:
    """Of a type and of strides that tensors may have; a copy, as a decoder's memory may be read-only."""
    return np.array(image if image.dtype == np.uint8 else to_float(image), order="C")


def keep_decoded(pairs: int, room: int, device: torch.device | None) -> DecodedImages | DeviceImages | None:
    """Memory for decoded images, on `device` if given; None without room, or where the system allows none."""
    if device:
        return DeviceImages(device, room)
    try:
        return DecodedImages(pairs, room) if room else None
    except OSError:  # it is slower without, and that is said
        return None


def room_for_pair(
    cache: str, sizes: Sequence[tuple[int, int]], values: int, depth: int, pairs: int, free: float
) -> int:
    """Bytes to set aside for each decoded pair: for all pairs or none (`auto`), or as many as may be.

    Args:
        cache: `auto`, `ram`, `device` or `none`.
        sizes: `(width, height)` of the targets, or of some of them.
        values: of a pair for each pixel of its target, such as 6 for two of 3 channels.
        depth: bits of a value.
        pairs: how many there are.
        free: bytes of free memory, there where the images are kept.

    >>> [room_for_pair("auto", [(100, 100)], 6, 8, 10, free) for free in (10**7, 10**6)]
    [66000, 0]
    >>> [room_for_pair("ram", [(100, 100)], 6, 8, 10, free) for free in (10**7, 10**6)]
    [66000, 50000]
    """
    pixels = sum(width * height for width, height in sizes) / len(sizes)
    depth = 32 if depth > 8 and cache == "device" else depth
    wanted = math.ceil(1.1 * pixels * values * depth / 8)  # headers may not have told of the largest
    all_of_it, part = (int(share * free / pairs) for share in SHARE)
    if cache == "auto":
        return wanted if wanted <= all_of_it else 0
    return min(wanted, part) if cache != "none" else 0
