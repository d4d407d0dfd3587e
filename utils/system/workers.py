"""Loader processes: they ignore signals that stop the script, and never outlive it."""

import ctypes
import multiprocessing
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from utils.system.signals import STOPPING

PR_SET_PDEATHSIG = 1  # of prctl(2)
SHARED_MEMORY = "/dev/shm"


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold stopping signals back while processes are started: they inherit this, until `begin_worker`.

    A signal to the whole process group would otherwise end a process that does not ignore it yet.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_worker(number: int) -> None:
    """Set up a loader process: the script decides when it ends, and takes it along however itself ends."""
    for each in STOPPING:
        signal.signal(each, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_workers() -> None:
    """Kill all processes that multiprocessing started here, also those that hang."""
    workers = multiprocessing.active_children()
    if not workers:
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler calls their end an error
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
    signal.signal(signal.SIGCHLD, before)


def shared_memory_free() -> float:
    """Bytes that loader processes can put into shared memory; infinite where it has no limit of its own."""
    try:
        multiprocessing.Lock()  # a semaphore, which takes some of it
        return shutil.disk_usage(SHARED_MEMORY).free
    except FileNotFoundError:
        return 0.0 if sys.platform == "linux" else float("inf")
    except (OSError, ImportError):
        return 0.0
