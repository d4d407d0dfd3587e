"""The processes of a run: device and rank of this one, collective operations, failures of the others."""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.system.device import available_cores
from utils.system.errors import UserError, first_sentence

START_TIMEOUT_S = 600.0  # how long the processes wait for the last one to start
RANK_VARIABLES = (("LOCAL_RANK", 0), ("RANK", 0), ("WORLD_SIZE", 1))  # set by torchrun


@dataclass(frozen=True)
class Ranks:
    """Device and rank of this process among `world` processes; `note` describes them in one line.

    `store` exchanges texts outside of collective operations, which need every process alive.
    """

    device: torch.device
    rank: int
    world: int
    note: str
    store: dist.Store | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def reduce(self, values: Tensor, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
        """Combine a small tensor over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(values, op=op)
        return values

    def barrier(self) -> None:
        """Wait until every process has come here."""
        if self.world > 1:
            dist.barrier()

    def all_gather_text(self, text: str) -> list[str]:
        """The texts of all processes, by rank; every process must call it."""
        if self.store is None:
            return [text]
        self.store.set(f"text/{self.rank}", text)
        self.barrier()
        texts = [self.store.get(f"text/{rank}").decode() for rank in range(self.world)]
        self.barrier()  # no process sets its next text before all have read this one
        return texts


def init(gpu_ids: str, timeout_s: float = 600) -> Ranks:
    """Choose the device and, under torchrun, join the process group (nccl on GPUs, gloo on CPUs).

    Args:
        gpu_ids: `0`, `0,1`, `-1` (CPU) or `mps`; ids count inside CUDA_VISIBLE_DEVICES.
        timeout_s: of collective operations.

    Raises:
        UserError: an id that does not exist.
    """
    local, rank, world = (int(os.environ.get(key, default)) for key, default in RANK_VARIABLES)
    if world == 1:  # a RANK that another tool left in the environment means nothing
        local = rank = 0
    device, note = choose_device(gpu_ids, local)
    if device.type == "cpu":
        torch.set_num_threads(max(1, available_cores() // processes_here()))
        note += f", {torch.get_num_threads()} threads"
    if world == 1:
        return Ranks(device, rank, world, note)
    store, _, _ = next(dist.rendezvous("env://"))
    store.set(f"here/{rank}", "")  # processes start at different times: not yet a timeout
    store.wait([f"here/{each}" for each in range(world)], timedelta(seconds=max(START_TIMEOUT_S, timeout_s)))
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        timeout=timedelta(seconds=timeout_s),
        store=dist.PrefixStore("group", store),
        rank=rank,
        world_size=world,
    )
    return Ranks(device, rank, world, f"{note}, {world} processes", store)


def choose_device(gpu_ids: str, local_rank: int) -> tuple[torch.device, str]:
    """(device, its description) of the process with this rank on this machine; UserError as in `init`."""
    if gpu_ids == "mps":
        return torch.device("mps"), "mps"
    if gpu_ids == "-1":
        return torch.device("cpu"), "CPU"
    ids = [int(part) for part in gpu_ids.split(",")]
    count = torch.cuda.device_count()
    if count == 0:
        return torch.device("cpu"), f"CPU, since no GPU was found for --gpu_ids {gpu_ids}"
    chosen = ids[local_rank] if len(ids) > 1 else ids[0] + local_rank
    if chosen >= count:
        raise UserError(
            f"no GPU {chosen} [--gpu_ids {gpu_ids}]", f"{count} found", f"ids are 0 to {count - 1}"
        )
    torch.cuda.set_device(chosen)
    return torch.device("cuda", chosen), torch.cuda.get_device_name(chosen)


def shutdown() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def relaunch_if_many(gpu_ids: str) -> None:
    """For `--gpu_ids 0,1`: replace this process by torchrun with one process a GPU."""
    count = gpu_ids.count(",") + 1
    if count == 1 or "WORLD_SIZE" in os.environ or not torch.cuda.is_available():
        return
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}", *sys.argv]
    os.execv(sys.executable, [sys.executable, *command])


def processes_here() -> int:
    """Processes of the run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


class PeerFailed(UserError):
    """Another process of the run failed first."""


@contextmanager
def report_peer_failure(ranks: Ranks) -> Iterator[None]:
    """Publish this process's failure; if another process failed first, report that failure instead.

    Raises:
        PeerFailed: instead of the error of the collective operation that missed a process.
    """
    try:
        yield
    except PeerFailed:
        raise
    except Exception as error:
        if ranks.store is None:
            raise
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            what = getattr(error, "what", f"{type(error).__name__}: {first_sentence(error)}")
            why = getattr(error, "why", "")
            with suppress(RuntimeError):  # the store is gone, and with it the other processes
                ranks.store.compare_set("failure", "", f"process {ranks.rank} failed: {what}\n{why}")
            raise
        what, why = "a process of the run ended, or does not answer [--timeout]", first_sentence(error)
        with suppress(RuntimeError):
            if ranks.store.check(["failure"]):
                what, _, why = ranks.store.get("failure").decode().partition("\n")
        raise PeerFailed(what, why, "see the messages above; continue with --resume", code=1) from None


def all_reduce_max(number: int, ranks: Ranks) -> int:
    """The largest number that any process gives, such as the signal to stop that one of them got."""
    return int(ranks.reduce(torch.tensor(int(number), device=ranks.device), dist.ReduceOp.MAX).item())


def wrap(net: nn.Module, ranks: Ranks, compile: bool) -> nn.Module:
    """The module to train: `net`, compiled if asked, averaging gradients over the processes if several.

    Raises:
        UserError: `compile`, and torch.compile does not work on this machine.
    """
    if compile:
        check_compiler(ranks.device)
    model = cast(nn.Module, torch.compile(net)) if compile else net
    if ranks.world == 1:
        return model
    gpus = [ranks.device.index] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=gpus)


def check_compiler(device: torch.device) -> None:
    """Compile something small: raises UserError where a compiler or its headers are missing."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except Exception as error:  # torch raises many kinds
        fix = "install a C++ compiler (g++), or leave out --compile"
        raise UserError("torch.compile does not work here [--compile]", first_sentence(error), fix) from None


def ddp_sync(model: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Around forward and backward of one part of a batch: average over the processes only after the last."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()


def broadcast_buffers(net: nn.Module, ranks: Ranks) -> None:
    """Give every process the buffers of the first one: each has statistics of its own batches."""
    for buffer in net.buffers() if ranks.world > 1 else ():
        dist.broadcast(buffer, 0)
