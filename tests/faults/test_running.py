"""What goes wrong while a run is under way: numbers, signals, other processes."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

import models
from data.datasets import ImageSpec, TrainDataset, WholeDataset
from data.images import to_float
from data.loader import LoaderIterator, no_collate
from data.pairs import Pair, PairList, Source
from data.splits import find_pairs
from tests.conftest import FAST, ROOT, TINY, Workplace, records
from utils.eval.results import read_csv
from utils.system.errors import UserError

Trained = Callable[..., Path]
TRAIN = str(ROOT / "train.py")
SHORT = (*TINY, *FAST, "--amp", "off", "--gpu_ids", "-1", "--max_steps", "12")


def weights(run: Path, tag: str = "latest") -> dict[str, torch.Tensor]:
    return torch.load(run / f"{tag}_net.pth", weights_only=True)


def finite(state: dict[str, torch.Tensor]) -> bool:
    return all(bool(value.isfinite().all()) for value in state.values())


# ----------------------------------------------------------------------------------------- numbers gone wrong


def broken_loss(at: set[int], how: str) -> Callable[..., Any]:
    """A loss whose value, or only whose gradient, is no number at the steps `at`."""

    class Broken(nn.L1Loss):
        calls = 0

        def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            step, self.calls = self.calls, self.calls + 1
            loss = super().forward(output, target)
            if step not in at:
                return loss
            if how == "gradient":  # finite value: sqrt has no slope at 0
                return loss + torch.sqrt((output - output.detach()).square().sum())
            return loss * (float("nan") if how == "nan" else float("inf"))

    return Broken


@pytest.mark.risk(6)
@pytest.mark.parametrize("how", ["nan", "inf", "gradient"])
def test_a_number_gone_wrong_stops_before_it_does_harm(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    monkeypatch.setitem(models.LOSSES, "l1", broken_loss({7}, how))
    with pytest.raises(UserError, match="not finite at step 7") as caught:
        trained(*SHORT, "--save_minutes", "0.00001")
    assert caught.value.code == 1 and ".png" in caught.value.why
    run = tmp_path / "checkpoints" / "run"
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["code"]) == ("failed", 1)
    state = torch.load(run / "latest_state.pth", weights_only=True)
    assert finite(weights(run)) and finite(state["net"]) and state["step"] == 7


@pytest.mark.risk(6)
@pytest.mark.parametrize("how", ["nan", "inf", "gradient"])
def test_skipping_leaves_weights_finite_and_goes_on(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    monkeypatch.setitem(models.LOSSES, "l1", broken_loss({3, 7, 8}, how))
    run = trained(*SHORT, "--nan_policy", "skip")
    assert finite(weights(run)) and len(records(run, "loss")) == 12
    said = capsys.readouterr().err
    assert [f"not finite at step {step}" in said for step in (3, 7, 8, 4)] == [True, True, True, False]


@pytest.mark.risk(6)
def test_a_skipped_step_moves_nothing(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = (*SHORT, "--optimizer", "adamw", "--weight_decay", "0.1", "--save_freq", "1")
    monkeypatch.setitem(models.LOSSES, "l1", broken_loss({3, 4, 5}, "nan"))  # all steps of the second epoch
    run = trained(*flags, "--nan_policy", "skip")
    one, two, three = (weights(run, f"epoch_000{i}") for i in (1, 2, 3))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(two[key], three[key]) for key in one)


@pytest.mark.risk(6)
def test_skipping_ends_after_ten_in_a_row(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.LOSSES, "l1", broken_loss(set(range(1, 100)), "nan"))
    with pytest.raises(UserError, match="not finite at step 11"):
        trained(*SHORT, "--nan_policy", "skip", "--max_steps", "24")


@pytest.mark.risk(6)
def test_validation_without_a_number_never_becomes_the_best(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    import utils.eval.evaluator

    honest = utils.eval.evaluator.mean_psnr
    calls: list[int] = []

    def broken(*given: Any) -> Any:
        calls.append(1)
        reached, nothing, shown = honest(*given)
        return (reached if len(calls) == 2 else float("nan")), nothing, shown

    monkeypatch.setattr(utils.eval.evaluator, "mean_psnr", broken)
    run = trained(*SHORT, "--save_freq", "1")
    assert len(calls) == 4 and [value is None for value in records(run, "val_psnr")] == [
        True,
        False,
        True,
        True,
    ]
    best, second = weights(run, "best"), weights(run, "epoch_0002")
    assert all(torch.equal(best[key], second[key]) for key in best)


# ------------------------------------------------------------------------------------------- parts of a batch


def test_a_split_batch_gives_the_gradient_of_the_whole(trained: Trained) -> None:
    flags = (*SHORT, "--optimizer", "sgd", "--lr", "0.02")
    for reduction, lr in (("mean", "0.02"), ("sum", "2e-6")):
        same = (*flags, "--reduction", reduction, "--lr", lr)
        whole = weights(trained(*same, name=f"whole_{reduction}"))
        start = weights(trained(*same, "--max_steps", "1", "--lr", "1e-12", name=f"start_{reduction}"))
        moved = max((whole[key] - start[key]).abs().max().item() for key in whole)
        for parts in ("2", "3"):  # 3 do not divide the batch of 4
            split = trained(*same, "--accum", parts, name=f"{reduction}_{parts}")
            differ = max((whole[key] - value).abs().max().item() for key, value in weights(split).items())
            assert differ < 1e-5 < 1e-2 * moved
            whole_loss = records(split.parent / f"whole_{reduction}", "loss")
            assert records(split, "loss") == pytest.approx(whole_loss, rel=1e-4)


# ------------------------------------------------------------------------------------------ signals and locks


def wait_for(found: Callable[[], bool], process: Any) -> None:
    end = time.monotonic() + 60
    while not found():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


SLOW_VALIDATION = """
import os, sys, time
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
import utils.eval.evaluator
honest = utils.eval.evaluator.Evaluator.predict
def slow(self, image):
    open("validating", "w").close()
    time.sleep(0.2)
    return honest(self, image)
utils.eval.evaluator.Evaluator.predict = slow
import runpy
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.risk(5)
def test_a_signal_while_validating_ends_it_at_the_step_boundary(work: Workplace, trained: Trained) -> None:
    """And a resumed run begins with the validation that was broken off: it ends as the unbroken one."""
    flags = (*TINY, *FAST, "--gpu_ids", "-1", "--n_epochs", "3", "--val_share", "0.5", "--amp", "off")
    (work.folder / "slow.py").write_text(SLOW_VALIDATION)
    process = work.start(str(work.folder / "slow.py"), TRAIN, *flags, "--name", "cut")
    wait_for((work.folder / "validating").exists, process)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 143 and time.monotonic() - began < 5, err
    assert work.log("cut", "val_psnr") == []
    work.train("--resume", "--name", "cut")
    work.train(*flags, "--name", "whole")
    assert work.log("cut", "val_psnr") == work.log("whole", "val_psnr")
    one, two = (torch.load(work.file(name, "latest_net.pth")) for name in ("cut", "whole"))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.risk(5)
def test_a_second_interrupt_ends_at_once(work: Workplace) -> None:
    (work.folder / "slow.py").write_text(SLOW_VALIDATION.replace("0.2", "60"))
    flags = (*TINY, *FAST, "--gpu_ids", "-1", "--n_epochs", "3", "--name", "cut")
    process = work.start(str(work.folder / "slow.py"), TRAIN, *flags)
    wait_for((work.folder / "validating").exists, process)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None  # the first one waits for the image to end
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=5)
    assert process.returncode == -signal.SIGINT


@pytest.mark.risk(5)
def test_usr1_saves_and_goes_on(work: Workplace) -> None:
    flags = (*TINY, *FAST, "--gpu_ids", "-1", "--n_epochs", "4000", "--repeat", "50", "--name", "run")
    process = work.start("train.py", *flags, "--save_minutes", "60")
    log, status = work.file("run", "log.jsonl"), work.file("run", "status.json")
    wait_for(lambda: log.is_file() and '"step": 3,' in log.read_text(), process)
    os.kill(process.pid, signal.SIGUSR1)
    wait_for(lambda: json.loads(status.read_text())["step"] >= 3, process)
    saved = torch.load(work.file("run", "latest_state.pth"), weights_only=True)["step"]
    wait_for(lambda: f'"step": {saved + 5},' in log.read_text(), process)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 143


@pytest.mark.risk(24)
def test_two_processes_never_train_in_one_run(work: Workplace) -> None:
    flags = (*TINY, *FAST, "--gpu_ids", "-1", "--n_epochs", "4000", "--name", "run")
    process = work.start("train.py", *flags, "--save_minutes", "60")
    log = work.file("run", "log.jsonl")
    wait_for(lambda: log.is_file() and '"step": 3,' in log.read_text(), process)
    said = work.train("--resume", "--name", "run", code=2).stderr
    assert "is in use" in said and str(process.pid) in said and "Traceback" not in said
    process.kill()
    process.communicate()
    step = torch.load(work.file("run", "latest_state.pth"), weights_only=True)["step"]
    work.train("--resume", "--name", "run", "--max_steps", str(step + 2))  # a lock ends with its process


# ------------------------------------------------------------------------------------------------- bad images


def photo_set(root: Path, count: int = 8, side: int = 40) -> list[Path]:
    """Pairs in `root`/{train,test}; returns the training inputs."""
    rng = np.random.default_rng(1)
    for split, number in (("train", count), ("test", 3)):
        for folder in ("input", "target"):
            (root / split / folder).mkdir(parents=True)
            for i in range(number):
                image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(image).save(root / split / folder / f"{split}{i}.png")
    return sorted((root / "train" / "input").iterdir())


def cut_short(path: Path) -> None:
    """Sound header, no end."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


PHOTOS = ("--dataroot", "photos", *TINY[2:], *FAST, "--gpu_ids", "-1", "--amp", "off", "--val_share", "0")


@pytest.mark.risk(8)
@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("damage", [cut_short, Path.unlink])
def test_an_image_that_goes_bad_is_named(
    trained: Trained,
    tmp_path: Path,
    workers: str,
    damage: Callable[[Path], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a sound header the start sees nothing, and a file may vanish after it."""
    import data.scan

    bad = photo_set(tmp_path / "photos")[3]
    monkeypatch.setattr(data.scan, "pair_headers", after(data.scan.pair_headers, lambda: damage(bad)))
    with pytest.raises(UserError, match=r"train3\.png") as caught:
        trained(*PHOTOS, "--n_epochs", "3", "--num_workers", workers)
    assert caught.value.code == 1 and caught.value.why


def after(function: Callable[..., Any], once: Callable[[], object]) -> Callable[..., Any]:
    """`function`, which does `once` after its last of 8 calls."""
    calls: list[int] = []

    def called(*given: Any) -> Any:
        result = function(*given)
        calls.append(1)
        if len(calls) == 8:
            once()
        return result

    return called


@pytest.mark.risk(8)
def test_skipping_a_bad_image_keeps_pairs_and_exactness(
    trained: Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in photo_set(tmp_path / "photos")[3:5]:
        cut_short(path)
    flags = (*PHOTOS, "--on_bad_image", "skip", "--save_freq", "1")
    whole = trained(*flags, "--n_epochs", "6", name="whole")
    assert capfd.readouterr().err.count("skipped from now on") == 2
    cut = trained(*flags, "--n_epochs", "3", "--num_workers", "2", "--schedule", "step", name="cut")
    long = trained(*flags, "--n_epochs", "6", "--schedule", "step", name="long")
    trained("--resume", "--n_epochs", "6", name="cut")
    one, two = weights(cut), weights(long)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert finite(weights(whole))


def test_the_next_pair_stands_in(tmp_path: Path) -> None:
    for path in photo_set(tmp_path / "photos")[6:8]:
        cut_short(path)
    listing = find_pairs(Source(str(tmp_path / "photos")), "train")
    data = TrainDataset(listing, ImageSpec(3, 3), replace_unreadable=True)
    for index, stands_in in ((5, 5), (6, 0), (7, 0)):
        batch, other = (
            data.__getitems__([(2, index)]),
            WholeDataset(listing, ImageSpec(3, 3)).whole(stands_in),
        )
        assert isinstance(batch, dict) and batch["name"] == [other.name] == [f"train{stands_in}.png"]
        for side, image in (("input", other.input), ("target", other.target)):
            assert image is not None
            assert np.allclose(batch[side][0].permute(1, 2, 0) * 0.5 + 0.5, to_float(image), atol=1e-6)


@pytest.mark.risk(8)
def test_test_goes_on_and_ends_with_3(work: Workplace) -> None:
    photo_set(work.folder / "photos")
    work.train(*PHOTOS, "--max_steps", "2", "--name", "run")
    cut_short(work.folder / "photos/test/input/test1.png")
    done = work.test("--name", "run", "--visdom", "off", code=3)
    assert "1 of 3 images failed" in done.stdout and "test1.png" in done.stderr
    assert "Traceback" not in done.stderr
    rows = read_csv(work.folder / "results/run/photos/metrics.csv")
    assert [row["name"] for row in rows] == ["test0.png", "test2.png"]
    summary = json.loads((work.folder / "results/run/photos/summary.json").read_text())
    assert summary["failed"] == 1 and any("test1.png" in note for note in summary["notes"])
    for path in (work.folder / "photos/test/input").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    assert "no image could be read" in work.test("--name", "run", "--visdom", "off", code=3).stderr


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
        os.kill(os.getpid(), signal.SIGKILL if self.how == "kill" else signal.SIGSEGV)
        return None


@pytest.mark.risk(7)
@pytest.mark.parametrize("how", ["kill", "segv", "exit", "hang"])
def test_the_death_of_a_loader_process_is_said(how: str) -> None:
    loader = DataLoader(Deadly(how), num_workers=1, timeout=3, generator=torch.Generator())
    began = time.monotonic()
    with pytest.raises(UserError, match="loader process") as caught:
        list(LoaderIterator(loader))
    assert caught.value.code == 1 and "--num_workers" in caught.value.fix
    assert time.monotonic() - began < 8
    assert len(list(LoaderIterator(DataLoader(Deadly("none"), num_workers=1, timeout=3)))) == 8


class Unpicklable(Exception):
    def __init__(self, one: int, two: int):
        super().__init__("cannot be made again from its text")


@pytest.mark.risk(7)
def test_an_exception_that_cannot_be_pickled_comes_back_with_its_file() -> None:
    def read(pair: Pair) -> Any:
        raise Unpicklable(1, 2)

    listing = PairList("pairs", "train", "here", [Pair("a.png", Path("x/a.png"), Path("y/a.png"), "a")], read)
    data = TrainDataset(listing, ImageSpec(3, 3))
    loader = DataLoader(
        data, num_workers=1, timeout=20, collate_fn=no_collate, sampler=[(0, 0)], generator=torch.Generator()
    )
    with pytest.raises(UserError, match=r"x/a\.png: Unpicklable") as caught:
        list(LoaderIterator(loader))
    assert caught.value.code == 1 and "cannot be made again" in caught.value.why


# ------------------------------------------------------------------------------------------------ full memory


@pytest.mark.risk(16)
@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has"), "2.50 GiB"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
            "99",
        ),
        (MemoryError(), "no details"),
    ],
)
def test_a_full_memory_names_the_step_and_what_helps(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, asked: str
) -> None:
    class Greedy(nn.L1Loss):
        calls = 0

        def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls == 6:
                raise error
            return super().forward(output, target)

    monkeypatch.setitem(models.LOSSES, "l1", Greedy)
    with pytest.raises(UserError, match="out of memory at step 5") as caught:
        trained(*SHORT)
    assert caught.value.code == 1 and asked in caught.value.why
    assert all(flag in caught.value.fix for flag in ("--batchSize", "--crop_size", "--accum", "--amp"))
    status = json.loads((tmp_path / "checkpoints/run/status.json").read_text())
    assert status["state"] == "failed" and "out of memory" in status["reason"]


def test_another_error_stays_what_it_is(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(nn.L1Loss):
        def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("something else")

    monkeypatch.setitem(models.LOSSES, "l1", Wrong)
    with pytest.raises(RuntimeError, match="something else"):
        trained(*SHORT)
