"""The order of training samples: a pure function of (seed, epoch) that can start at any batch."""

from collections.abc import Iterator

from torch.utils.data import Sampler

from utils.system.errors import UserError
from utils.system.rng import stream


class EpochSampler(Sampler[tuple[int, int]]):
    """Yield (epoch, index) for this process's samples of each batch of an epoch.

    Indices are permuted by (seed, epoch). A batch holds the same samples for any number of processes, each of
    which takes one consecutive part of it. An incomplete last batch is dropped.

    Args:
        size: samples per epoch, including `--repeat`.
        batch_size: samples per optimizer step over all processes.

    Raises:
        UserError: `batch_size` is larger than the epoch, or not a multiple of `world`.
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
        """Set the epoch of the next iteration, and the batch it starts at."""
        self.epoch, self.offset = epoch, offset

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = stream(self.seed, "order", self.epoch).permutation(self.size)
        rank_size = self.batch_size // self.world
        for batch in range(self.offset, self.steps_per_epoch):
            first = batch * self.batch_size + self.rank * rank_size
            yield from ((self.epoch, int(index)) for index in order[first : first + rank_size])

    def __len__(self) -> int:
        return (self.steps_per_epoch - self.offset) * (self.batch_size // self.world)
