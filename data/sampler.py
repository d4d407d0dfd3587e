"""The order of training as a pure function of (seed, epoch), startable at any position."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from utils.system.errors import UserError


class EpochSampler(Sampler[tuple[int, int]]):
    """Yield (epoch, index) for every sample of one epoch, for this process's share of each batch.

    Indices are permuted by (seed, epoch) over the whole set; batch `b` of the epoch is the same set of
    samples whatever the number of processes, each of which takes one consecutive part. The last incomplete
    batch is dropped.

    Args:
        size: number of samples in an epoch, `--repeat` included.
        batch_size: samples in one optimizer step over all processes.

    Raises:
        UserError: a batch that cannot be filled, or split over the processes.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        if batch_size % world:
            raise UserError(
                f"--batchSize {batch_size} cannot be split over {world} processes",
                fix=f"use a multiple of {world}",
            )
        if size < batch_size:
            raise UserError(
                f"one epoch of {size} samples is smaller than --batchSize {batch_size}", fix="raise --repeat"
            )
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world = rank, world
        self.epoch = self.offset = 0

    @property
    def steps_per_epoch(self) -> int:
        return self.size // self.batch_size

    def start_at(self, epoch: int, offset: int) -> None:
        """Let the next iteration be that of `epoch`, from its batch `offset` on."""
        self.epoch, self.offset = epoch, offset

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch, 1]).permutation(self.size)
        share = self.batch_size // self.world
        for batch in range(self.offset, self.steps_per_epoch):
            first = batch * self.batch_size + self.rank * share
            yield from ((self.epoch, int(index)) for index in order[first : first + share])

    def __len__(self) -> int:
        return (self.steps_per_epoch - self.offset) * (self.batch_size // self.world)
