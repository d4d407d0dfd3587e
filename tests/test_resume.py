"""A run that was killed and resumed ends with the bits of one that was not."""

import itertools
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.builders import FAST, TINY, assert_same_state, same_state, words
from tests.cli import InProcess, Workplace, records, state, status, step_of, weights
from tests.seams import wrap

# 12 epochs of 5 steps: EMA, BatchNorm, warm-up, augmentation, noise, validations, and a save after every step
RUN = words(
    "--dataroot demo:8:64 --model dncnn --depth 4 --width 8 --crop_size 48 --batchSize 4 "
    "--augment flip_rot90+texture:3 --ema 0.9 --warmup 0.5 --schedule cosine --n_epochs 12 --val_freq 2 "
    "--save_freq 4 --save_minutes 0.0001 --log_freq 1 --visdom off --gpu_ids -1 --seed 5 --lr 0.01"
)
STEPS = 60


def kill_after(work: Workplace, step: int, *flags: str) -> None:
    """Start train.py and kill -9 it once its log holds `step`, a random moment later."""
    job = work.start("train.py", *flags, name="cut")
    job.until_step(step)
    time.sleep(random.Random(step).uniform(0, 0.03))
    job.signal(signal.SIGKILL)
    job.wait(-signal.SIGKILL)


def assert_equal_runs(work: Workplace) -> None:
    whole, cut = work.run("whole"), work.run("cut")
    assert step_of(whole) == STEPS
    assert_same_state(state(whole), state(cut))
    for tag in ("latest", "best", "epoch_0004"):
        assert_same_state(weights(whole, tag), weights(cut, tag), tag)
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
    work.train(*flags, name="whole")
    kill_after(work, kills[0], *flags)
    for step in kills[1:]:
        kill_after(work, step, "--resume")
    said = work.train("--resume", name="cut").err
    assert "options as saved" in said and "steps " in said
    assert_equal_runs(work)


def test_control_without_the_position_in_the_epoch_differs(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The equality above can fail: a sampler that begins the epoch again gives other weights."""
    whole = cli.train(*RUN, "--max_steps", "20", "--schedule", "step", name="whole").run
    cut = cli.train(*RUN, "--max_steps", "12", "--schedule", "step", name="cut").run
    wrap("start_at", lambda honest, sampler, epoch, offset: honest(sampler, epoch, 0), monkeypatch)
    cli.train("--resume", "--max_steps", "20", name="cut")
    assert step_of(whole) == step_of(cut) == 20
    assert not same_state(weights(whole), weights(cut))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_saves_and_prints_the_command_that_resumes(
    work: Workplace, number: signal.Signals, code: int
) -> None:
    job = work.start("train.py", *RUN, "--n_epochs", "2000", "--save_minutes", "60", name="cut")
    job.until_step(7)
    job.signal(number)
    err = job.wait(code, seconds=20).err
    assert "--resume --name cut" in err and "Traceback" not in err
    found = status(job.run)
    assert (found["state"], found["code"]) == ("stopped", code)
    assert found["step"] == step_of(job.run) >= 7


def test_a_torn_log_line_and_later_records_are_cut_on_resume(cli: InProcess) -> None:
    run = cli.train(*RUN, "--max_steps", "7", "--schedule", "step").run
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 8, "epoch": 1.6, "loss": 1.0}\n{"step": 9, "lo')
    cli.train("--resume", "--max_steps", "9")
    steps = records(run, "step")
    assert steps == sorted(steps) and steps.count(8) == 1 and steps[-1] == 9


@pytest.mark.parametrize("at", ["last step", "last validation"])
def test_a_signal_at_the_very_end_leaves_the_last_validation_to_the_resumed_run(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """All steps are taken then, but the run is not finished."""
    flags = (*TINY, *FAST, *words("--n_epochs 1 --max_steps 3 --val_freq 1"))
    whole = cli.train(*flags, name="whole").run
    calls = itertools.count(1)

    def interrupt(honest: Callable[..., Any], *given: Any, **named: Any) -> Any:
        if at == "last validation" or next(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return honest(*given, **named)

    with monkeypatch.context() as patch:
        wrap("predict" if at == "last validation" else "batch", interrupt, patch)
        cut = cli.train(*flags, name="cut", code=143).run
    assert step_of(cut) == 3 and not records(cut, "val_psnr")
    cli.train("--resume", "--visdom", "off", name="cut")
    assert records(cut, "val_psnr") == records(whole, "val_psnr")
    assert_same_state(weights(cut, "best"), weights(whole, "best"))
    assert cli.train("--resume", name="cut", code=2).refused("is finished")


def test_an_epoch_to_resume_from_leaves_the_latest_state_alone(cli: InProcess) -> None:
    run = cli.train(*TINY, *FAST, "--n_epochs", "3", "--save_freq", "1").run
    cli.train("--resume", "--epoch", "1", "--n_epochs", "4", "--visdom", "off")
    assert step_of(run) == 4 * 3 and not list(run.glob("*.damaged"))


def test_the_same_minutes_again_are_more_minutes(cli: InProcess) -> None:
    run = cli.train(*TINY, *FAST, "--minutes", "0.05", "--repeat", "20").run
    total = state(run)["horizon"]["total"]
    cli.train("--resume", "--minutes", "0.05", "--visdom", "off")
    assert state(run)["horizon"]["total"] > total
