"""Running means since the last log record, accumulated on the device."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from data.loader import LoaderIterator
from utils.system.distributed import Ranks

Found = TypeVar("Found")


class Meter:
    """Sums values of steps on the device; only `read` waits for it.

    Args:
        batch_size: images per step over all processes.
        batches: its wait for data is measured.

    Attributes:
        fastest_step_s: seconds of the fastest step between `begin_step` and `add`.
    """

    def __init__(self, batch_size: int, batches: LoaderIterator, ranks: Ranks):
        self.batch_size, self.batches, self.ranks = batch_size, batches, ranks
        self.step_began, self.fastest_step_s = time.perf_counter(), math.inf
        self.names: tuple[str, ...] = ()
        self.restart()

    def restart(self) -> None:
        """Forget all, and start the clock."""
        self.sums: dict[str, Tensor] = {}
        self.steps = self.counted = 0
        self.since, self.waited_s = time.perf_counter(), self.batches.waited_s

    def begin_step(self, new_epoch: bool) -> None:
        """Start the clock of a step; a new epoch forgets what was not read in the last one."""
        if new_epoch:
            self.restart()
        self.step_began = time.perf_counter()

    def paused(self, work: Callable[..., Found], *given: Any) -> Found:
        """Do work while the clock stands, as for a validation within an epoch; sums are kept."""
        began = time.perf_counter()
        found = work(*given)
        self.since += time.perf_counter() - began
        return found

    def add(self, values: Mapping[str, Tensor], skipped: bool = False) -> None:
        """Add the values of a step, always of the same names; of a skipped one only the time counts."""
        self.names = tuple(values)
        self.steps += 1
        self.fastest_step_s = min(self.fastest_step_s, time.perf_counter() - self.step_began)
        if skipped:
            return
        self.counted += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().float()

    def read(self) -> dict[str, float]:
        """Means over all steps and processes, images/s, and the share of time spent waiting for data."""
        means = dict.fromkeys(self.names, math.nan)  # every step may have been skipped
        if self.counted:
            total = self.ranks.reduce(torch.stack(list(self.sums.values())))
            means |= zip(self.sums, (total / (self.counted * self.ranks.world)).tolist(), strict=True)
        seconds = max(time.perf_counter() - self.since, 1e-9)
        waited = self.batches.waited_s - self.waited_s
        images = self.steps * self.batch_size
        self.restart()
        return means | {"images_s": round(images / seconds, 2), "wait": round(waited / seconds, 4)}
