"""A bar on a terminal, plain lines elsewhere, and the figures that they show."""

import math
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from data.loader import LoaderIterator
from utils.system.distributed import Ranks

QUIET_S = 10.0  # between two plain lines


class Progress:
    """One bar an epoch on stderr, or a line now and then where stderr is no terminal.

    Args:
        title: what stands before the bar.
        done, total: steps of it.
    """

    def __init__(self, title: str, done: int, total: int, quiet: bool = False):
        self.title, self.done, self.total, self.quiet = title, done, total, quiet
        self.terminal = sys.stderr.isatty()
        self.spoke = time.monotonic()
        self.bar = tqdm(
            desc=title,
            initial=done,
            total=total,
            disable=quiet or not self.terminal,
            leave=True,
            dynamic_ncols=True,
        )

    def step(self) -> None:
        self.done += 1
        self.bar.update()

    def rename(self, title: str) -> None:
        self.title = title
        self.bar.set_description_str(title, refresh=False)

    def show(self, text: str) -> None:
        """Show the latest figures."""
        self.bar.set_postfix_str(text, refresh=False)
        due = time.monotonic() - self.spoke >= QUIET_S or self.done == self.total
        if not self.terminal and not self.quiet and due:
            self.spoke = time.monotonic()
            print(f"{self.title} {self.done}/{self.total} {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self.bar.close()


def millions(parameters: Iterable[Tensor]) -> str:
    """The number of values in all tensors, as `1.05 M`."""
    return f"{sum(parameter.numel() for parameter in parameters) / 1e6:.2f} M"


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`.

    >>> clock(3723), clock(123.4)
    ('1:02:03', '2:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Meter:
    """What a printed line says of the steps since the last one; summed on the device and read only then."""

    def __init__(self, batch_size: int, batches: LoaderIterator, ranks: Ranks):
        self.batch_size, self.batches, self.ranks = batch_size, batches, ranks
        self.restart()

    def restart(self) -> None:
        self.sums = torch.zeros(3, device=self.ranks.device)
        self.steps = 0
        self.since, self.waited_s = time.perf_counter(), self.batches.waited_s

    def add(self, loss: Tensor, psnr: Tensor, skipped: bool = False) -> None:
        """Add the loss of a step and the `(N,)` PSNR of its images; of a skipped one only the time counts."""
        self.steps += 1
        if skipped:
            return
        self.sums += torch.stack([loss.detach().float(), psnr.mean().float(), torch.ones_like(self.sums[0])])

    def read(self) -> dict[str, float]:
        """Mean loss and PSNR over all processes, images/s, and the share of time spent waiting for data."""
        loss, psnr, steps = self.ranks.reduce(self.sums).tolist()
        counted = steps or math.nan  # every step may have been skipped
        seconds = max(time.perf_counter() - self.since, 1e-9)
        waited = self.batches.waited_s - self.waited_s
        images = self.steps * self.batch_size
        self.restart()
        return {
            "loss": loss / counted,
            "train_psnr": psnr / counted,
            "images_s": round(images / seconds, 2),
            "wait": round(waited / seconds, 4),
        }


def say_on(first: bool) -> Callable[[str], None]:
    """A function that prints a line on stderr, above a progress bar; silent but on the first process."""
    return partial(tqdm.write, file=sys.stderr) if first else lambda text: None
