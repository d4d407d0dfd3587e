"""Freed memory is kept, as the system's count of page faults tells."""

import os
import platform
import subprocess
import sys

import pytest

from tests.builders import ROOT

COUNT = """
import resource, sys
import numpy as np
from utils.system.memory import keep_freed_memory

def faults():  # of a block of 64 MiB that is allocated, written to and freed, after the first time
    before = None
    for _ in range(5):
        np.full(2**23, 1.0)
        before = before or resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "kept":
    keep_freed_memory()
print(faults())
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", COUNT, how]
    environment = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}  # its pages would be 512 times larger
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc only")
def test_the_pages_of_freed_tensors_are_not_cleared_again() -> None:
    assert faults("kept") < 100
    assert faults("given back") > 10_000  # of 4 KiB each


def test_another_malloc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    from utils.system.memory import keep_freed_memory

    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # without mallopt
    keep_freed_memory()
