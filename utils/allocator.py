"""The C library's memory: what a step of training frees is kept for the next one."""

import contextlib
import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # the numbers of mallopt(3)


def keep_freed_memory() -> None:
    """Let glibc's malloc reuse the memory of large tensors; does nothing where there is another malloc.

    By default each tensor of over 32 MiB at most is mapped anew and given back when it is freed, so that
    every step makes the system clear the same pages again (measured in `tests.benchmarks.step`).
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(MMAP_THRESHOLD, 2**30)  # bytes: only larger blocks are mapped one by one
        mallopt(TRIM_THRESHOLD, 2**31 - 1)  # the largest that it takes: nothing goes back
        mallopt(TOP_PAD, 64 * 2**20)
