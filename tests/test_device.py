"""What a machine, or the container on it, lets a process use."""

import os
from pathlib import Path

import pytest
import torch

from utils.system import device
from utils.system.device import available_cores, free_memory, set_float32

CPU = torch.device("cpu")


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which Linux says what a container may use."""
    monkeypatch.setattr(device, "CONTAINER", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("said", "cores"), [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8)]
)
def test_a_container_bounds_the_threads(
    container: Path, monkeypatch: pytest.MonkeyPatch, said: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert available_cores() == 8  # outside of any
    (container / "cpu.max").write_text(said)
    assert available_cores() == cores


def test_a_container_bounds_the_memory(container: Path) -> None:
    assert free_memory(CPU) > 2**28  # outside of any
    (container / "memory.current").write_text("1000000\n")
    (container / "memory.max").write_text("max\n")
    assert free_memory(CPU) > 2**28
    (container / "memory.max").write_text("5000000\n")
    assert free_memory(CPU) == 4_000_000


def test_float32_on_a_gpu_is_rounded_in_training_only() -> None:
    """The settings as torch keeps them, which needs no GPU; on a CPU they are left alone."""
    places = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [place.fp32_precision for place in places]
    try:
        for tf32, precision in ((True, "tf32"), (False, "ieee")):
            set_float32(torch.device("cuda"), tf32)
            set_float32(CPU, not tf32)
            assert [place.fp32_precision for place in places] == [precision] * 2
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value
