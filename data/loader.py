"""Between a loader and the loop: whose fault it was, and how long the loop waited."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from utils.system.errors import UserError, first_sentence


def no_collate(sample: Any) -> Any:
    """Collate nothing: our datasets return a batch, one whole image, or a UserError (raised in a worker it
    would lose its message)."""
    return sample


class LoaderIterator:
    """Iterate over a loader with `no_collate`, any number of times.

    Raises here, in the main process, what a dataset refused, and counts in `waited_s` the seconds that the
    loop waited for data.

    Args:
        skip: is told of each refusal instead, and the loop goes on.
    """

    def __init__(self, loader: Iterable[Any], skip: Callable[[UserError], object] | None = None):
        self.loader, self.skip = loader, skip
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[Any]:
        source = iter(self.loader)
        while True:
            started = time.perf_counter()
            try:
                batch = next(source)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:  # what a dead or hung worker leaves behind
                raise UserError(
                    "a loader process died, or did not answer in time",
                    f"{type(error).__name__}: {first_sentence(error)}",
                    "lower --num_workers, raise --worker_timeout, or give more shared memory",
                    code=1,
                ) from None
            self.waited_s += time.perf_counter() - started
            if isinstance(batch, UserError):
                if self.skip is None:
                    raise batch
                self.skip(batch)
                continue
            held = [batch]
            del batch
            yield held.pop()  # nothing here keeps what may be a large image
