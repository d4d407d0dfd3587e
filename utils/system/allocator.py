"""The C library's memory: what a step of training frees is kept for the next one."""

import contextlib
import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # the numbers of mallopt(3)


def keep_freed_memory() -> None:
    """Let glibc's malloc reuse the memory of large tensors; does nothing where there is another malloc.

    By default what lies free at the end of the heap goes back to the system, and tensors of over 32 MiB are
    mapped anew each time, so that every step makes the system clear the same pages again.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(MMAP_THRESHOLD, 2**30)  # bytes: only larger blocks are mapped one by one
        mallopt(TRIM_THRESHOLD, 2**31 - 1)  # the largest that it takes: nothing goes back
        mallopt(TOP_PAD, 64 * 2**20)
