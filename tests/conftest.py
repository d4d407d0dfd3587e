"""Fixtures that all tests share."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import browser
from tests.cli import STRICT, InProcess, Workplace
from tests.preloaded import Preloaded
from utils.system.device import available_cores

IDLE = ("tqdm_monitor", "QueueFeederThread")  # that of tqdm, and one of a loader that was not closed


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """The scripts in this process, with `tmp_path` as working directory."""
    monkeypatch.chdir(tmp_path)
    return InProcess()


@pytest.fixture(scope="session")
def preloaded() -> Iterator[Preloaded]:
    server = Preloaded(tuple(STRICT))
    yield server
    server.close()


@pytest.fixture
def work(tmp_path: Path, preloaded: Preloaded) -> Iterator[Workplace]:
    """The scripts as processes in `tmp_path`; none outlives the test."""
    place = Workplace(tmp_path, preloaded)
    yield place
    place.close()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """A test that leaves threads behind, its own or torch's, makes all that follow several times slower."""
    before, of_torch = set(threading.enumerate()), torch.get_num_threads()
    yield
    assert torch.get_num_threads() <= max(of_torch, available_cores())
    for thread in set(threading.enumerate()) - before:
        if thread.name not in IDLE:
            thread.join(5)
            assert not thread.is_alive(), thread


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch on one thread: more only get into each other's way where images and networks are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def visit() -> Iterator[Callable[..., Any]]:
    """Open a page that was written to a file in Chromium."""
    with browser.visiting() as opened:
        yield opened
