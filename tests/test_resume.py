"""A run that was killed and resumed ends with the bits of one that was not."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.sampler import EpochSampler
from tests.conftest import Workplace

# 9 epochs of 5 steps: EMA, BatchNorm, warm-up, augmentation, noise, validations, and a save after every step
RUN = (
    *("--dataroot", "demo:8:64", "--model", "dncnn", "--depth", "4", "--width", "8", "--crop_size", "48"),
    *(
        "--batchSize",
        "4",
        "--augment",
        "flip_rot90",
        "--ema",
        "0.9",
        "--warmup",
        "0.5",
        "--schedule",
        "cosine",
    ),
    *(
        "--n_epochs",
        "9",
        "--val_freq",
        "2",
        "--save_freq",
        "4",
        "--save_minutes",
        "0.0001",
        "--log_freq",
        "1",
    ),
    *("--visdom", "off", "--gpu_ids", "-1", "--seed", "5", "--lr", "0.01"),
)
STEPS = 45


def state_of(work: Workplace, name: str) -> dict[str, object]:
    return torch.load(work.file(name, "latest_state.pth"), weights_only=True)


def same(one: object, two: object) -> bool:
    """Bit equality of nested containers of tensors and numbers."""
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and torch.equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))  # type: ignore[arg-type]
    return one == two


def kill_after(work: Workplace, step: int, *flags: str) -> None:
    """Start train.py and kill -9 it once its log holds `step`, a random moment later."""
    process = work.start("train.py", *flags)
    log = work.file("cut", "log.jsonl")
    end = time.monotonic() + 120
    while not (log.is_file() and f'"step": {step},' in log.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)
    time.sleep(random.Random(step).uniform(0, 0.03))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def assert_equal_runs(work: Workplace) -> None:
    whole, cut = state_of(work, "whole"), state_of(work, "cut")
    assert whole["step"] == cut["step"] == STEPS
    for part in ("net", "ema", "optimizer", "best"):
        assert same(whole[part], cut[part]), part
    for file in ("latest_net.pth", "best_net.pth", "epoch_0004_net.pth"):
        assert same(torch.load(work.file("whole", file)), torch.load(work.file("cut", file))), file
    for key in ("loss", "lr", "val_psnr"):
        assert work.log("whole", key) == work.log("cut", key), key


@pytest.mark.parametrize(
    ("workers", "kills"),
    [
        ("2", (12,)),
        pytest.param("0", (2, 7, 15, 30, 44), marks=pytest.mark.slow),
        pytest.param("2", (1, 13, 25, 36), marks=pytest.mark.slow),
    ],
)
def test_kill_and_resume_is_bit_identical(work: Workplace, workers: str, kills: tuple[int, ...]) -> None:
    flags = (*RUN, "--num_workers", workers)
    work.train(*flags, "--name", "whole")
    kill_after(work, kills[0], *flags, "--name", "cut")
    for step in kills[1:]:
        kill_after(work, step, "--resume", "--name", "cut")
    done = work.train("--resume", "--name", "cut")
    assert "steps " in done.stderr
    assert_equal_runs(work)


def test_control_without_the_position_in_the_epoch_differs(
    trained: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The equality above can fail: a sampler that begins the epoch again gives other weights."""
    whole = trained(*RUN, "--max_steps", "20", "--schedule", "step", name="whole")
    cut = trained(*RUN, "--max_steps", "12", "--schedule", "step", name="cut")
    honest = EpochSampler.start_at
    monkeypatch.setattr(EpochSampler, "start_at", lambda self, epoch, offset: honest(self, epoch, 0))
    trained("--resume", "--max_steps", "20", name="cut")
    states = [torch.load(run / "latest_state.pth", weights_only=True) for run in (whole, cut)]
    assert states[0]["step"] == states[1]["step"] == 20
    assert not same(states[0]["net"], states[1]["net"])
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_saves_and_tells_how_to_go_on(work: Workplace, number: signal.Signals, code: int) -> None:
    process = work.start("train.py", *RUN, "--n_epochs", "2000", "--save_minutes", "60", "--name", "cut")
    log = work.file("cut", "log.jsonl")
    while not (log.is_file() and '"step": 7,' in log.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code, err
    assert "--resume --name cut" in err and "Traceback" not in err
    status = json.loads(work.file("cut", "status.json").read_text())
    assert (status["state"], status["code"]) == ("stopped", code)
    assert status["step"] == state_of(work, "cut")["step"] >= 7


def test_a_torn_log_line_and_later_records_are_cut_on_resume(trained: Callable[..., Path]) -> None:
    run = trained(*RUN, "--max_steps", "7", "--schedule", "step")
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 8, "epoch": 1.6, "loss": 1.0}\n{"step": 9, "lo')
    trained("--resume", "--max_steps", "9")
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps.count(8) == 1 and steps[-1] == 9
