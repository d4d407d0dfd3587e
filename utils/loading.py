"""Between a loader and the loop: whose fault it was, and how long the loop waited."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import default_collate

from utils.errors import Refusal


def collate(samples: Any) -> Any:
    """torch's default, but hands on a Refusal, which would lose its words if a worker raised it."""
    return samples if isinstance(samples, Refusal) else default_collate(samples)


def as_it_is(sample: Any) -> Any:
    """Collate nothing: for loaders of whole images, one by one (`batch_size=None`)."""
    return sample


class Batches:
    """Iterate over a loader with `collate`, any number of times.

    Raises here, in the main process, what a dataset refused, and counts in `waited_s` the seconds that the
    loop waited for data.
    """

    def __init__(self, loader: Iterable[Any]):
        self.loader = loader
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[Any]:
        source = iter(self.loader)
        while True:
            started = time.perf_counter()
            try:
                batch = next(source)
            except StopIteration:
                return
            self.waited_s += time.perf_counter() - started
            if isinstance(batch, Refusal):
                raise batch
            yield batch
            del batch  # before the next one is made: it may be a large image
