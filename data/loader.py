"""Build DataLoaders, raise the errors of their datasets, and measure the time spent waiting for data."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from data.datasets import TrainDataset, WholeDataset
from data.sampler import EpochSampler
from utils.system.errors import UserError, first_sentence
from utils.system.workers import (
    SHARED_MEMORY,
    begin_worker,
    end_workers,
    shared_memory_free,
    signals_held,
)

DEFAULT_GPU_WORKERS = 4
PREFETCH = 2  # batches that a loader process prepares ahead
WAITS = 10  # a loader process that does not answer is waited for so many times a tenth of --timeout


def no_collate(sample: Any) -> Any:
    """Return the sample as it is: our datasets return a batch, one full-size image, or a UserError."""
    return sample


class LoaderIterator:
    """Iterate over a DataLoader, any number of times.

    Raises the UserErrors that a dataset returned, and the death of a loader process as one.

    Args:
        skip: called with each UserError of the dataset instead of raising it.
        note: a line about how it loads, if there is something to say.

    Attributes:
        waited_s: total seconds spent waiting for batches.
    """

    def __init__(
        self, loader: Iterable[Any], skip: Callable[[UserError], object] | None = None, note: str = ""
    ):
        self.loader, self.skip, self.note = loader, skip, note
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[Any]:
        with signals_held():
            source = iter(self.loader)
        while True:
            started = time.perf_counter()
            try:
                batch = next_batch(source)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:  # a worker died or timed out
                end_workers()  # kills those that hang
                raise UserError(
                    "a loader process died, or did not answer in time",
                    f"{type(error).__name__}: {first_sentence(error)}",
                    "lower --num_workers, raise --timeout, or give more shared memory",
                    code=1,
                ) from None
            self.waited_s += time.perf_counter() - started
            if isinstance(batch, UserError):
                if self.skip is None:
                    raise batch
                self.skip(batch)
                continue
            last = [batch]
            del batch
            yield last.pop()  # keeps no reference to what may be a large image


def next_batch(source: Iterator[Any]) -> Any:
    """The next batch; a loader process may take WAITS times the timeout of the DataLoader.

    However long the script itself is suspended (Ctrl-Z), it counts as one of these waits.
    """
    for _ in range(WAITS - 1):
        try:
            return next(source)
        except RuntimeError as error:
            if "timed out" not in str(error):
                raise
    return next(source)


def default_workers(device: torch.device, on_device: bool) -> int:
    """Number of loader processes: 0 on a CPU, or where decoded images are kept on the device."""
    return 0 if device.type == "cpu" or on_device else DEFAULT_GPU_WORKERS


def usable_workers(workers: int, batch_bytes: float) -> tuple[int, str]:
    """(`workers`, "") if their batches fit into shared memory; else (0, a line that says why).

    Args:
        batch_bytes: of one batch; each loader process prepares PREFETCH of them ahead, and one is in use.
    """
    needed, free = (workers * PREFETCH + 1) * batch_bytes, shared_memory_free() if workers else 0.0
    if not workers or needed < free:
        return workers, ""
    sizes = f"{free / 2**20:.1f} MiB free, {workers} processes need {needed / 2**20:.1f}"
    return 0, f"loaders none but the main process: {SHARED_MEMORY} is too small ({sizes}) [--num_workers]"


def train_loader(
    dataset: TrainDataset,
    sampler: EpochSampler,
    *,
    batch_size: int,
    workers: int,
    batch_bytes: int,
    device: torch.device,
    timeout_s: float,
    pin: bool,
) -> LoaderIterator:
    """Iterate over training batches.

    Args:
        batch_size: samples per batch of this process.
        workers, batch_bytes: see `usable_workers`.
        timeout_s: seconds after which a loader process that does not answer is an error.
        pin: put batches into pinned memory, if `device` is a GPU.
    """
    workers, note = usable_workers(workers, batch_bytes)
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        drop_last=True,
        collate_fn=no_collate,
        pin_memory=pin and device.type == "cuda",
        persistent_workers=workers > 0,
        timeout=timeout_s / WAITS if workers else 0,  # by default torch waits forever
        worker_init_fn=begin_worker,
        generator=torch.Generator(),  # by default iterating draws from the global generator
    )
    return LoaderIterator(loader, note=note)


def whole_loader(
    dataset: WholeDataset,
    indices: Iterable[int] | None = None,
    *,
    workers: int = 0,
    skip: Callable[[UserError], object] | None = None,
) -> LoaderIterator:
    """Iterate over full-size samples, one at a time; of all pairs by default."""
    workers, note = usable_workers(workers, 0)  # arrays come through a pipe
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        collate_fn=no_collate,
        worker_init_fn=begin_worker,
        generator=torch.Generator(),
    )
    return LoaderIterator(loader, skip, note)
