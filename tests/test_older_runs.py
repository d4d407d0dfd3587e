"""Runs of the first edition still resume and test: a run folder of commit 05b8b72, seven steps long."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests import cli as scripts
from tests.builders import ROOT, put, tiny_flags, words
from tests.cli import InProcess
from utils.options.resolve import upgrade
from utils.run.checkpoint import upgrade as upgrade_state

FIXTURE = ROOT / "tests" / "fixtures" / "old_run"
PSNR, PSNR_INPUT = 11.379721163685707, 10.769301566879747  # dB, printed by test.py of that commit


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURE, tmp_path / "checkpoints" / "old_run"))


def test_an_older_run_resumes(cli: InProcess, old_run: Path) -> None:
    before = scripts.log(old_run)
    ended = cli.train("--resume", "--max_steps", "12", "--visdom", "off", name="old_run")
    assert "note    the state is of an older version" in ended.err
    assert "steps 7 to 12, 3 an epoch" in ended.err
    assert "val: 3 images of 1 target, " in ended.err  # --val_share 0.2 of 6 targets, as it was
    assert scripts.log(old_run)[: len(before)] == before
    assert [record["step"] for record in scripts.log(old_run)[len(before) :] if "lr" in record] == [
        8,
        9,
        10,
        11,
        12,
    ]
    state = scripts.state(old_run)
    assert state["horizon"]["step"] == 12 and state["format"] == 2 and state["step"] == 12
    old_state = torch.load(FIXTURE / "latest_state.pth", weights_only=True)
    assert state["optimizer_G"]["state"][0]["step"] == old_state["optimizer"]["state"][0]["step"] + 5
    assert state["ema"]["n_averaged"] == 12
    saved = scripts.options(old_run)
    assert saved["val_share"] == 0.2 and saved["timeout"] == 600 and "val_from" not in saved

    again = cli.train("--resume", "--n_epochs", "5", "--max_steps", "14", "--visdom", "off", name="old_run")
    assert "older version" not in again.err and scripts.state(old_run)["horizon"]["step"] == 14


def test_what_an_older_run_was_trained_with_still_cannot_change(cli: InProcess, old_run: Path) -> None:
    refused = cli.train("--resume", "--width", "8", name="old_run", code=2)
    assert refused.refused("--width cannot change within a run")


def test_an_older_run_is_tested(cli: InProcess, old_run: Path) -> None:
    """The PSNR is that which its own version measured."""
    ended = cli.test("--visdom", "off", "--gpu_ids", "-1", name="old_run")
    assert ended.summary["images"] == 3
    assert ended.summary["psnr"]["mean"] == pytest.approx(PSNR, abs=2e-3)
    assert ended.summary["psnr_input"]["mean"] == pytest.approx(PSNR_INPUT, abs=1e-6)


@pytest.mark.parametrize(
    ("val_from", "data", "share"),
    [
        ("auto", "val: 3 images of 1 targets, demo (held out of train)", 0.2),
        ("auto", "val: 5 images of 5 targets, pairs (val/input -> target)", None),
        ("train", "val: 3 images of 1 targets, pairs (held out of train)", 0.2),
    ],
)
def test_the_validation_images_stay(val_from: str, data: str, share: float | None) -> None:
    saved = {"val_from": val_from, "val_share": 0.2, "data": ["train: ...", data]}
    assert upgrade(saved)["val_share"] == share


@pytest.mark.parametrize(
    ("layout", "data", "kept"),
    [
        ("auto", "train: 9 images of 9 targets, aligned (set/train, AtoB)", "aligned"),
        ("auto", "train: 9 images of 9 targets, suffix (set/train)", "suffix"),
        ("auto", "train: 9 images of 9 targets, pairs (aligned (a/A -> B)", "auto"),
        ("clean", "train: 9 images of 9 targets, clean (set/train)", "clean"),
    ],
)
def test_a_layout_that_was_detected_more_freely_stays(layout: str, data: str, kept: str) -> None:
    assert upgrade({"layout": layout, "data": [data, "val: ..."]})["layout"] == kept


@pytest.mark.parametrize("layout", ["aligned", "suffix"])
def test_a_run_of_a_layout_that_is_now_refused_resumes(cli: InProcess, layout: str) -> None:
    names = (
        [f"{i}_{side}.png" for i in range(4) for side in "ab"] if layout == "suffix" else ["1.png", "2.png"]
    )
    put(Path("set/train"), *names, size=(64, 24))
    flags = (*words("--dataroot set --crop_size 16 --visdom off --gpu_ids -1"), *tiny_flags("resunet"))
    run = cli.train(*flags, "--layout", layout, "--max_steps", "1").run
    saved = scripts.options(run) | {"layout": "auto"}
    (run / "options.json").write_text(json.dumps(saved))
    cli.train("--resume", "--max_steps", "2")
    assert scripts.step_of(run) == 2
    assert cli.train(*flags, name="new", code=2).refused("--layout " + layout)


def test_two_timeouts_are_one() -> None:
    options = upgrade({"worker_timeout": 300.0, "dist_timeout": 900.0, "lr": 0.1})
    assert options == {"timeout": 900.0, "lr": 0.1}


def test_a_length_that_was_not_measured_yet_is_unknown() -> None:
    state = {"format": 1, "step": 5, "closed": 0, "total": 10**9, "optimizer": {}}
    assert upgrade_state(state)["horizon"] == {"step": 5, "closed_at": 0, "total": None}
