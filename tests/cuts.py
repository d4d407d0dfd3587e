"""A run cut after each of its steps, as a kill would leave it."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli import InProcess, state, step_of
from tests.seams import wrap

EVERY_STEP = ("--save_minutes", "0.00001")


def content(run: Path) -> dict[str, Any]:
    """All parts of the state, and the best weights."""
    best = {path.name: torch.load(path, weights_only=True) for path in sorted(run.glob("best*.pth"))}
    return state(run) | {"best files": best}


def cut_everywhere(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, command: Sequence[str], steps: int
) -> tuple[Path, list[Path]]:
    """An unbroken run, and for each of its steps the run's files as a kill after it leaves them."""
    cuts: list[Path] = []

    def save(honest: Any, value: Any, path: Path) -> None:
        honest(value, path)
        if path.name == "latest_state.pth":
            assert value["horizon"]["step"] == len(cuts)
            cuts.append(path.parent.with_name(f"cut{len(cuts)}"))
            shutil.copytree(path.parent, cuts[-1])

    with monkeypatch.context() as patch:
        wrap("save", save, patch)
        whole = cli.train(*command, *EVERY_STEP, name="whole").run
    assert len(cuts) == steps + 1 and step_of(whole) == steps
    return whole, [cut.resolve() for cut in cuts]
