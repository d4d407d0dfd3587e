"""The processes of a run: device and rank of this one, collective operations, failures of the others."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
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
REFUSED_TIMEOUT_S = 60.0  # how long one that was refused waits for the others to start, to tell them
POLL_S, LINGER_S = 0.02, 0.5  # between two looks for texts; how long a store stays after its last text
RANK_VARIABLES = (("LOCAL_RANK", 0), ("RANK", 0), ("WORLD_SIZE", 1))  # set by torchrun


@dataclass(frozen=True)
class Ranks:
    """Device and rank of this process among `world` processes; `note` describes them in one line.

    `store` exchanges texts outside of collective operations, which need every process alive; `timeout_s` is
    how long one waits for the others.
    """

    device: torch.device
    rank: int
    world: int
    note: str
    store: dist.Store | None = None
    timeout_s: float = 600

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
        """The texts of all processes, by rank; every process must call it.

        Raises:
            DistError: a process failed meanwhile, or does not come.
        """
        if self.store is None:
            return [text]
        call = self.store.add(f"calls/{self.rank}", 1)
        self.store.set(f"text/{call}/{self.rank}", text)
        self._wait_for(f"text/{call}")
        texts = [self.store.get(f"text/{call}/{rank}").decode() for rank in range(self.world)]
        self.store.set(f"read/{call}/{self.rank}", "")
        if self.rank == 0:  # it holds the store, and may end after this; the others ask nothing more
            self._wait_for(f"read/{call}")
        return texts

    def _wait_for(self, key: str) -> None:
        """Wait until every process has set its part of a key."""
        assert self.store is not None
        keys, end = [f"{key}/{rank}" for rank in range(self.world)], time.monotonic() + self.timeout_s
        while not self.store.check(keys):
            if self.store.check(["failure"]) or time.monotonic() > end:
                raise dist.DistError(f"no {key} of a process")
            time.sleep(POLL_S)


def init(gpu_ids: str, timeout_s: float = 600, flags: Mapping[str, str] | None = None) -> Ranks:
    """Choose the device and, under torchrun, join the process group (nccl on GPUs, gloo on CPUs).

    Args:
        gpu_ids: `0`, `0,1`, `-1` (CPU) or `mps`; ids count inside CUDA_VISIBLE_DEVICES.
        timeout_s: of collective operations.
        flags: must be the same in all processes.

    Raises:
        UserError: an id that does not exist, processes with other flags, or another one that was refused.
    """
    local, rank, world = ranks_of_environment()
    if world == 1:  # a RANK that another tool left in the environment means nothing
        local = rank = 0
    try:
        device, note = choose_device(gpu_ids, local)
    except UserError as error:
        report_refusal(error)
        raise
    if device.type == "cpu":
        torch.set_num_threads(max(1, available_cores() // processes_here()))
        note += f", {torch.get_num_threads()} threads"
    if world == 1:
        return Ranks(device, rank, world, note)
    store, _, _ = next(dist.rendezvous("env://"))
    store.set(f"here/{rank}", "")  # processes start at different times: not yet a timeout
    keys = [f"here/{each}" for each in range(world)]
    store.wait(keys, timedelta(seconds=max(START_TIMEOUT_S, timeout_s)))
    for each, key in enumerate(keys):
        if text := store.get(key).decode():
            what, _, why = text.partition("\n")
            raise PeerFailed(f"process {each} was refused: {what}", why, "see its own message")
    ranks = Ranks(device, rank, world, f"{note}, {world} processes", store, timeout_s)
    check_same(ranks, flags or {})
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        timeout=timedelta(seconds=timeout_s),
        store=dist.PrefixStore("group", store),
        rank=rank,
        world_size=world,
    )
    return ranks


def ranks_of_environment() -> tuple[int, int, int]:
    """(rank on this machine, rank, number of processes) as torchrun sets them."""
    local, rank, world = (int(os.environ.get(key, default)) for key, default in RANK_VARIABLES)
    return local, rank, world


def report_refusal(error: UserError) -> None:
    """Tell the other processes, which wait in `init`, that this one was refused and will not come."""
    with suppress(Exception):  # there are no others, or nobody answers; the error itself was printed
        _, rank, world = ranks_of_environment()
        if world > 1:
            store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=REFUSED_TIMEOUT_S)))
            store.set(f"here/{rank}", f"{error.what}\n{error.why}")
            time.sleep(LINGER_S)


def check_same(ranks: Ranks, facts: Mapping[str, str]) -> None:
    """Compare texts over all processes; every process must call it. Texts may be lists, an entry a line.

    Raises:
        UserError: on every process, with the first difference of each text that differs.
    """
    digests = {
        key: hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest() for key, text in facts.items()
    }
    found = [json.loads(text) for text in ranks.all_gather_text(json.dumps(digests))]
    differ = sorted(key for key in digests if len({other.get(key) for other in found}) > 1)
    if not differ:
        return
    own = {key: facts.get(key, "") for key in differ}
    texts = [json.loads(text) for text in ranks.all_gather_text(json.dumps(own))]
    why = "; ".join(f"{key}: {first_difference([text[key] for text in texts])}" for key in differ[:5])
    fix = "start all processes with the same flags, on the same data"
    raise UserError(f"the processes of the run differ in {', '.join(differ[:5])}", why, fix)


def first_difference(texts: Sequence[str]) -> str:
    """How the text of some process differs from that of process 0.

    >>> first_difference(["3", "3", "4"]), first_difference([f"a{chr(10)}b", "a"])
    ("'3' on process 0, '4' on process 2", "'b' on process 0 only, not on process 1")
    """
    rank = next(rank for rank, text in enumerate(texts) if text != texts[0])
    first, other = (texts[each].split("\n") for each in (0, rank))
    only = [sorted(set(one) - set(two)) for one, two in ((first, other), (other, first))]
    if len(first) == len(other) == 1:
        return f"{first[0]!r} on process 0, {other[0]!r} on process {rank}"
    if only[0]:
        return f"{only[0][0]!r} on process 0 only, not on process {rank}"
    return f"{only[1][0]!r} on process {rank} only" if only[1] else "the order"


def choose_device(gpu_ids: str, local_rank: int) -> tuple[torch.device, str]:
    """(device, its description) of the process with this rank on this machine; UserError as in `init`."""
    if gpu_ids == "mps":
        return torch.device("mps"), "mps"
    if gpu_ids == "-1":
        return torch.device("cpu"), "CPU"
    ids = [int(part) for part in gpu_ids.split(",")]
    count = torch.cuda.device_count()
    if count == 0:
        return torch.device("cpu"), f"CPU, since no GPU was found [--gpu_ids {gpu_ids}]"
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
                time.sleep(LINGER_S)  # for those that look for it while this one may hold the store
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
        UserError: the processes have different networks; or `compile`, and torch.compile does not work here.
    """
    check_same(ranks, {"the network": repr(net)})
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
