"""Where a process runs: its device, and its place among the processes of the run (one by default)."""

import os
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.system.errors import UserError, first_sentence

CONTAINER = Path("/sys/fs/cgroup")  # what Linux allows this process's container, if it is in one
MEETING_S = 600.0  # how long the processes wait for the last one to start


@dataclass(frozen=True)
class Ranks:
    """Device, and rank among `world` processes; `note` is the line that says so.

    `store` holds what they tell each other outside of collective operations, which need all of them alive.
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
        """Return when every process has come here."""
        if self.world > 1:
            dist.barrier()

    def all_gather_text(self, text: str) -> list[str]:
        """What every process says here, by rank; all of them must come."""
        if self.store is None:
            return [text]
        self.store.set(f"said/{self.rank}", text)
        self.barrier()
        said = [self.store.get(f"said/{rank}").decode() for rank in range(self.world)]
        self.barrier()  # nobody says the next thing before all have heard this one
        return said


def init(gpu_ids: str, timeout_s: float = 600) -> Ranks:
    """Choose the device and, under torchrun, join the process group (nccl on GPUs, gloo on CPUs).

    Args:
        gpu_ids: `0`, `0,1`, `-1` (CPU) or `mps`; ids count inside CUDA_VISIBLE_DEVICES.
        timeout_s: after which a process that does not answer is given up.

    Raises:
        UserError: an id that does not exist.
    """
    local, rank, world = (int(os.environ.get(key, default)) for key, default in _RANKS)
    ids = [] if gpu_ids in ("-1", "mps") else [int(part) for part in gpu_ids.split(",")]
    count = torch.cuda.device_count()
    if gpu_ids == "mps":
        device, note = torch.device("mps"), "mps"
    elif not ids:
        device, note = torch.device("cpu"), "CPU"
    elif count == 0:
        device, note = torch.device("cpu"), f"CPU, since no GPU was found for --gpu_ids {gpu_ids}"
    else:
        chosen = ids[local] if len(ids) > 1 else ids[0] + local
        if chosen >= count:
            raise UserError(
                f"no GPU {chosen} [--gpu_ids {gpu_ids}]", f"{count} found", f"ids are 0 to {count - 1}"
            )
        torch.cuda.set_device(chosen)
        device, note = torch.device("cuda", chosen), torch.cuda.get_device_name(chosen)
    if device.type == "cpu":
        torch.set_num_threads(max(1, available_cores() // processes_here()))
        note += f", {torch.get_num_threads()} threads"
    if world == 1:
        return Ranks(device, rank, world, note)
    store, _, _ = next(dist.rendezvous("env://"))
    store.set(f"here/{rank}", "")  # they start at different times: that is no missing answer
    store.wait([f"here/{each}" for each in range(world)], timedelta(seconds=max(MEETING_S, timeout_s)))
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        timeout=timedelta(seconds=timeout_s),
        store=dist.PrefixStore("group", store),
        rank=rank,
        world_size=world,
    )
    return Ranks(device, rank, world, f"{note}, {world} processes", store)


_RANKS = (("LOCAL_RANK", 0), ("RANK", 0), ("WORLD_SIZE", 1))


def shutdown() -> None:
    """End the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


class PeerFailed(UserError):
    """Another process of the run failed first."""


@contextmanager
def report_peer_failure(ranks: Ranks) -> Iterator[None]:
    """Leave word for the others when this process fails, and say theirs where one of them did.

    Raises:
        PeerFailed: instead of what the collective operation raised that missed a process.
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
            with suppress(RuntimeError):  # the store is gone: nobody is left to be told
                ranks.store.compare_set("failure", "", f"process {ranks.rank} failed: {what}\n{why}")
            raise
        what, why = "a process of the run ended, or does not answer [--dist_timeout]", first_sentence(error)
        with suppress(RuntimeError):
            if ranks.store.check(["failure"]):
                what, _, why = ranks.store.get("failure").decode().partition("\n")
        raise PeerFailed(what, why, "see the messages above; go on with --resume", code=1) from None


def ddp_sync(model: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Around forward and backward of one part of a batch: average over the processes only after the last."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()


def available_cores() -> int:
    """CPU cores this process may use, also by its container's share of time; more threads would wait."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # "max": no limit
        quota, period = (CONTAINER / "cpu.max").read_text().split()
        cores = max(1, min(cores, int(quota) // int(period)))
    return cores


def processes_here() -> int:
    """Processes of the run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def free_memory(device: torch.device) -> float:
    """Bytes free on the device, or on the machine and in the container that this process runs in."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, KeyError, ValueError):
        lines = dict(
            line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        )
        free = int(lines["MemAvailable"].split()[0]) * 1024  # caches, too, can be had
    with suppress(OSError, ValueError):  # "max": no limit
        limit, used = (int((CONTAINER / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used)
    return free


def peak_memory_mib(device: torch.device) -> float:
    """Most memory that tensors took on the GPU so far, or that this process took on a CPU, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss would begin with the peak of the process that started this one
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss: bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def relaunch_if_many(gpu_ids: str) -> None:
    """For `--gpu_ids 0,1`: become torch's own launcher with one process a GPU (does not return)."""
    count = gpu_ids.count(",") + 1
    if count == 1 or "RANK" in os.environ or not torch.cuda.is_available():
        return
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}", *sys.argv]
    os.execv(sys.executable, [sys.executable, *command])


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device computes bfloat16 in hardware (what `--amp auto` asks)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        able: Mapping[str, Any] = getattr(
            torch.cpu, "get_capabilities", dict
        )()  # older torch does not tell: float32
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return False


def seed(device: torch.device, number: int) -> None:
    """Seed what layers such as dropout draw from on this device.

    The same draws as after `torch.manual_seed`, which takes 0.3 ms where there is another kind of device
    that is not in use.
    """
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


def set_float32(device: torch.device, tf32: bool) -> None:
    """Let float32 convolutions and products on a GPU round their factors to TF32 (10 bits of mantissa), as
    training may, or not, as a figure must that should not depend on the machine."""
    if device.type == "cuda":
        precision = "tf32" if tf32 else "ieee"
        torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.fp32_precision = precision


def amp_enabled(amp: str, device: torch.device) -> bool:
    """`--amp auto|on|off` as a yes or no."""
    return amp == "on" or (amp == "auto" and has_native_bf16(device))
