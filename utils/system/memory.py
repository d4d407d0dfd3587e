"""Tune glibc malloc to reuse large blocks across steps; explain running out of memory."""

import contextlib
import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from utils.system.errors import UserError, first_sentence

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # parameters of mallopt(3)


def keep_freed_memory() -> None:
    """Let glibc's malloc reuse the memory of large tensors; no effect with another malloc.

    By default free memory at the end of the heap returns to the system, and tensors of over 32 MiB are mapped
    at each allocation, so that every step makes the system clear the same pages.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(MMAP_THRESHOLD, 2**30)  # bytes: only larger blocks are mapped one by one
        mallopt(TRIM_THRESHOLD, 2**31 - 1)  # the maximum: nothing is returned
        mallopt(TOP_PAD, 64 * 2**20)


@contextmanager
def oom_errors(where: Callable[[], str]) -> Iterator[None]:
    """Turn an out-of-memory error of torch or Python in this block into a UserError.

    Args:
        where: what was being done, such as "at step 7".

    Raises:
        UserError: instead of that error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "allocate memory" not in str(
            error
        ):
            raise
        size = re.search(r"allocate (\d[\d.]* ?\w*)", str(error))
        asked = f"{size[1]} asked for" if size else first_sentence(error)
        raise UserError(
            f"out of memory {where()}",
            asked,
            "lower --batchSize or --crop_size, split the batch by --accum 2, or add --amp on",
            code=1,
        ) from None
