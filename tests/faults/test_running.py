"""What goes wrong while a run is under way: NaN and Inf, signals, bad images, loader processes, memory."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from data.datasets import ImageSpec, TrainDataset, WholeDataset
from data.loader import WAITS, LoaderIterator, no_collate
from data.pairs import Pair, PairList, Source
from data.splits import find_pairs
from tests.builders import (
    FAST,
    TINY,
    TINY_NET,
    assert_same_state,
    finite,
    largest_difference,
    same_state,
    truncate,
    words,
    write_set,
)
from tests.cli import InProcess, Job, Workplace, records, state, status, step_of, weights
from tests.seams import replace_loss, wrap
from utils.system.errors import UserError
from utils.system.pixels import to_float
from utils.system.workers import begin_worker

SHORT = (*TINY, *FAST, "--amp", "off", "--gpu_ids", "-1", "--max_steps", "12")
THREE = (*TINY, *FAST, "--amp", "off", "--gpu_ids", "-1", "--n_epochs", "3")
LONG = (*THREE, "--n_epochs", "4000", "--save_minutes", "60")

# ------------------------------------------------------------------------------------------------ NaN and Inf


def broken(at: set[int], how: str) -> Callable[..., Any]:
    """A loss whose value, or only whose gradient, is not finite at the steps `at`."""

    def change(call: int, loss: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        if call - 1 not in at:
            return loss
        if how == "gradient":  # finite value: sqrt has no slope at 0
            return loss + torch.sqrt((output - output.detach()).square().sum())
        return loss * (float("nan") if how == "nan" else float("inf"))

    return change


@pytest.mark.risk(6)
@pytest.mark.parametrize("how", ["nan", "inf", "gradient"])
def test_a_step_that_is_not_finite_stops_or_is_skipped(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    replace_loss(broken({3, 7, 8}, how), monkeypatch)
    done = cli.train(*SHORT, "--save_minutes", "0.00001", name="stopped", code=1)
    assert done.refused("not finite at step 3", code=1) and ".png" in done.why
    assert (status(done.run)["state"], status(done.run)["code"]) == ("failed", 1)
    assert finite(weights(done.run)) and finite(state(done.run)["net"]) and step_of(done.run) == 3
    done = cli.train(*SHORT, "--nan_policy", "skip")
    assert finite(weights(done.run)) and len(records(done.run, "loss")) == 12
    assert [step for step in range(12) if f"not finite at step {step}" in done.err] == [3, 7, 8]


@pytest.mark.risk(6)
def test_a_skipped_step_moves_nothing(cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_loss(broken({3, 4, 5}, "nan"), monkeypatch)  # all steps of the second epoch
    flags = words("--optimizer adamw --weight_decay 0.1 --save_freq 1 --nan_policy skip")
    run = cli.train(*SHORT, *flags).run
    one, two, three = (weights(run, f"epoch_000{i}") for i in (1, 2, 3))
    assert_same_state(one, two)
    assert not same_state(two, three)


@pytest.mark.risk(6)
def test_skipping_ends_after_ten_in_a_row(cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_loss(broken(set(range(1, 100)), "nan"), monkeypatch)
    done = cli.train(*SHORT, "--nan_policy", "skip", "--max_steps", "24", code=1)
    assert done.refused("not finite at step 11", code=1)


@pytest.mark.risk(6)
def test_a_validation_of_nan_never_becomes_the_best(cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def mean_psnr(honest: Any, *given: Any) -> Any:
        calls.append(1)
        found = honest(*given)
        return found if len(calls) == 2 else found._replace(psnr=float("nan"))

    wrap("mean_psnr", mean_psnr, monkeypatch)
    run = cli.train(*SHORT, "--save_freq", "1", "--val_freq", "1").run
    assert len(calls) == 4
    assert [value is None for value in records(run, "val_psnr")] == [True, False, True, True]
    assert_same_state(weights(run, "best"), weights(run, "epoch_0002"))


# ------------------------------------------------------------------------------------------- parts of a batch


@pytest.mark.parametrize(("reduction", "lr"), [("mean", "0.02"), ("sum", "2e-6")])
def test_a_split_batch_gives_the_gradient_of_the_whole(cli: InProcess, reduction: str, lr: str) -> None:
    flags = (*SHORT, "--optimizer", "sgd", "--reduction", reduction, "--lr", lr)
    whole = cli.train(*flags, name="whole").run
    start = cli.train(*flags, "--max_steps", "1", "--lr", "1e-12", name="start").run
    moved = largest_difference(weights(whole), weights(start))
    for parts in ("2", "3"):  # 3 do not divide the batch of 4
        split = cli.train(*flags, "--accum", parts, name=f"split{parts}").run
        assert largest_difference(weights(whole), weights(split)) < 1e-5 < 1e-2 * moved
        assert records(split, "loss") == pytest.approx(records(whole, "loss"), rel=1e-4)


# ------------------------------------------------------------------------------------------ signals and locks


SLOW_VALIDATION = """
import time
from pathlib import Path
from tests.seams import wrap
def slow(honest, *given):
    Path("validating").touch()
    time.sleep({seconds})
    return honest(*given)
wrap("predict", slow)
"""


def validating(work: Workplace, seconds: float, *flags: str) -> Job:
    """A training that is at the first image of a validation, which takes so long."""
    job = work.start("train.py", *flags, before=SLOW_VALIDATION.format(seconds=seconds))
    job.until((work.folder / "validating").exists)
    return job


@pytest.mark.risk(5)
def test_a_signal_while_validating_ends_it_at_the_next_image(work: Workplace, cli: InProcess) -> None:
    """And a resumed run begins with the interrupted validation: it ends as the uninterrupted one."""
    flags = (*THREE, "--val_share", "0.5")
    job = validating(work, 0.2, *flags)
    job.signal(signal.SIGTERM)
    job.wait(143, seconds=5)
    assert records(job.run, "val_psnr") == []
    cli.train("--resume")
    whole = cli.train(*flags, name="whole").run
    assert records(job.run, "val_psnr") == records(whole, "val_psnr")
    assert_same_state(weights(job.run), weights(whole))


@pytest.mark.risk(5)
def test_a_second_interrupt_ends_at_once(work: Workplace) -> None:
    job = validating(work, 60, *THREE)
    job.signal(signal.SIGINT)
    time.sleep(0.3)
    assert job.running()  # the first one waits for the image to end
    job.signal(signal.SIGINT)
    job.wait(-signal.SIGINT, seconds=5)


@pytest.mark.risk(5)
def test_usr1_saves_without_stopping(work: Workplace) -> None:
    job = work.start("train.py", *LONG, "--repeat", "50")
    job.until_step(3)
    job.signal(signal.SIGUSR1)
    job.until(lambda: status(job.run)["step"] >= 3)
    job.until_step(step_of(job.run) + 5)
    job.signal(signal.SIGTERM)
    job.wait(143, seconds=10)


@pytest.mark.risk(24)
def test_two_processes_never_train_in_one_run(work: Workplace, cli: InProcess) -> None:
    job = work.start("train.py", *LONG)
    job.until_step(3)
    assert cli.train("--resume", code=2).refused("is in use", str(job.pid))
    job.kill()
    cli.train("--resume", "--max_steps", str(step_of(job.run) + 2))  # a lock ends with its process


# ------------------------------------------------------------------------------------------------- bad images


PHOTOS = (*FAST, *TINY_NET, *words("--dataroot photos --gpu_ids -1 --amp off --val_share 0"))


def photos(root: Path) -> list[Path]:
    """Pairs in `root`/photos/{train,test}; returns the training inputs."""
    write_set(root / "photos", count=3, splits=["test"], seed=50)
    return [files.input for files in write_set(root / "photos", count=8, splits=["train"])]


@pytest.mark.risk(8)
@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_an_image_that_goes_bad_is_named(
    cli: InProcess, tmp_path: Path, workers: str, damage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a sound header the start sees nothing, and a file may vanish after it."""
    bad, headers = photos(tmp_path)[3], []

    def pair_headers(honest: Any, *given: Any) -> Any:
        headers.append(honest(*given))
        if len(headers) == 8:
            damage(bad)
        return headers[-1]

    wrap("pair_headers", pair_headers, monkeypatch)
    done = cli.train(*PHOTOS, "--n_epochs", "3", "--num_workers", workers, code=1)
    assert done.refused("train/input/3.png", code=1) and done.why


@pytest.mark.risk(8)
def test_skipping_a_bad_image_keeps_pairs_and_exactness(cli: InProcess, tmp_path: Path) -> None:
    for path in photos(tmp_path)[3:5]:
        truncate(path)
    flags = (*PHOTOS, "--on_bad_image", "skip", "--schedule", "step")
    whole = cli.train(*flags, "--n_epochs", "6", name="whole")
    assert whole.err.count("skipped from now on") == 2 and finite(weights(whole.run))
    cut = cli.train(*flags, "--n_epochs", "3", "--num_workers", "2").run
    cli.train("--resume", "--n_epochs", "6")
    assert_same_state(weights(cut), weights(whole.run))


def test_the_next_pair_replaces_an_unreadable_one(tmp_path: Path) -> None:
    for path in photos(tmp_path)[6:8]:
        truncate(path)
    listing = find_pairs(Source(str(tmp_path / "photos")), "train")
    data = TrainDataset(listing, ImageSpec(3, 3), replace_unreadable=True)
    wholes = WholeDataset(listing, ImageSpec(3, 3))
    for index, used in ((5, 5), (6, 0), (7, 0)):
        batch, other = data.__getitems__([(2, index)]), wholes.whole(used)
        assert isinstance(batch, dict) and batch["name"] == [other.name] == [f"{used}.png"]
        for side, image in (("input", other.input), ("target", other.target)):
            assert np.allclose(batch[side][0].permute(1, 2, 0) * 0.5 + 0.5, to_float(image), atol=1e-6)


@pytest.mark.risk(8)
def test_test_skips_bad_images_and_ends_with_3(cli: InProcess, tmp_path: Path) -> None:
    photos(tmp_path)
    cli.train(*PHOTOS, "--max_steps", "2")
    inputs = sorted((tmp_path / "photos/test/input").iterdir())
    truncate(inputs[1])
    done = cli.test(code=3)
    assert "1 of 3 images failed" in done.out and "1.png" in done.err and "Traceback" not in done.err
    assert [row["name"] for row in done.rows] == ["0.png", "2.png"]
    assert done.summary["failed"] == 1 and any("1.png" in note for note in done.summary["notes"])
    for path in inputs:
        path.write_bytes(path.read_bytes()[:200])
    assert "no image could be read" in cli.test(code=3).err


# ------------------------------------------------------------------------------------------- loader processes


class Deadly(Dataset[Any]):
    """A set whose item 5 is the end of the process that makes it."""

    def __init__(self, how: str):
        self.how = how

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        if index != 5 or self.how == "none":
            return {"name": str(index)}
        if self.how == "hang":
            time.sleep(3600)
        if self.how == "exit":
            os._exit(1)
        return signal.raise_signal(signal.SIGKILL if self.how == "kill" else signal.SIGSEGV)


@pytest.mark.risk(7)
@pytest.mark.parametrize("how", ["kill", "segv", "exit", "hang"])
def test_the_death_of_a_loader_process_is_an_error(how: str) -> None:
    workers: dict[str, Any] = {"num_workers": 1, "worker_init_fn": begin_worker}
    loader = DataLoader(Deadly(how), timeout=3 / WAITS, generator=torch.Generator(), **workers)
    began = time.monotonic()
    with pytest.raises(UserError, match="loader process") as caught:
        list(LoaderIterator(loader))
    assert caught.value.code == 1 and "--num_workers" in caught.value.fix
    assert time.monotonic() - began < 8
    assert len(list(LoaderIterator(DataLoader(Deadly("none"), timeout=3, **workers)))) == 8


class Unpicklable(Exception):
    def __init__(self, one: int, two: int):
        super().__init__("cannot be rebuilt from its text")


@pytest.mark.risk(7)
def test_an_exception_that_cannot_be_pickled_comes_back_with_its_file() -> None:
    def read(pair: Pair) -> Any:
        raise Unpicklable(1, 2)

    listing = PairList("pairs", "train", "here", [Pair("a.png", Path("x/a.png"), Path("y/a.png"), "a")], read)
    data = TrainDataset(listing, ImageSpec(3, 3))
    workers: dict[str, Any] = {"num_workers": 1, "timeout": 20, "generator": torch.Generator()}
    workers["worker_init_fn"] = begin_worker
    loader = DataLoader(data, collate_fn=no_collate, sampler=[(0, 0)], **workers)
    with pytest.raises(UserError, match=r"x/a\.png: Unpicklable") as caught:
        list(LoaderIterator(loader))
    assert caught.value.code == 1 and "cannot be rebuilt" in caught.value.why


# ------------------------------------------------------------------------------------------------ full memory


@pytest.mark.risk(16)
@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has"), "2.50 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"), "99"),
        (MemoryError(), "no details"),
        (RuntimeError("something else"), None),
    ],
)
def test_out_of_memory_names_the_step_and_what_helps(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, error: Exception, asked: str | None
) -> None:
    """Any other error stays what it is."""

    def greedy(call: int, loss: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        if call == 6:
            raise error
        return loss

    replace_loss(greedy, monkeypatch)
    done = cli.train(*SHORT, code=1)
    if asked is None:
        assert done.what == "RuntimeError: something else"
        return
    assert done.refused("out of memory at step 5", code=1) and asked in done.why
    assert all(flag in done.fix for flag in ("--batchSize", "--crop_size", "--accum", "--amp"))
    assert status(done.run)["state"] == "failed" and "out of memory" in status(done.run)["reason"]
