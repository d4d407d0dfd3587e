"""What this machine and a device offer: cores, memory, bfloat16; and how to seed and set up a device."""

import os
import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from utils.system.memory import keep_freed_memory

CONTAINER = Path("/sys/fs/cgroup")  # limits of this process's container on Linux, if it is in one


def available_cores() -> int:
    """CPU cores that this process may use, its container's share of time included."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # "max": no limit
        quota, period = (CONTAINER / "cpu.max").read_text().split()
        cores = max(1, min(cores, int(quota) // int(period)))
    return cores


def free_memory(device: torch.device) -> float:
    """Bytes free on the device, or on the machine and in the container that this process runs in."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, KeyError, ValueError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        lines = dict(line.split(":") for line in text.splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024  # caches can be reclaimed
    with suppress(OSError, ValueError):  # "max": no limit
        limit, used = (int((CONTAINER / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used)
    return free


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory of tensors on the GPU, or of this process on a CPU, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss would begin with the peak of the process that started this one
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss: bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device computes bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older torch
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return False


def seed(device: torch.device, number: int) -> None:
    """Seed the generators of the CPU and of this device, for layers that draw, such as dropout.

    The same draws as after `torch.manual_seed`, which takes 0.3 ms where another kind of device is present.
    """
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


def set_float32(device: torch.device, tf32: bool) -> None:
    """Let float32 convolutions and products on a GPU use TF32 (10 bits of mantissa), or not.

    Training may; figures should not depend on the machine.
    """
    if device.type == "cuda":
        precision = "tf32" if tf32 else "ieee"
        torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.fp32_precision = precision


def amp_enabled(amp: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16, by `--amp auto|on|off`."""
    return amp == "on" or (amp == "auto" and has_native_bf16(device))


def set_up_device(device: torch.device, amp: str, deterministic: bool) -> bool:
    """Set what training wants of torch and of the C library; returns whether to compute in bfloat16."""
    torch.use_deterministic_algorithms(deterministic)
    set_float32(device, tf32=not deterministic)
    keep_freed_memory()
    return amp_enabled(amp, device)
