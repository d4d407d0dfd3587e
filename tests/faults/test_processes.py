"""Several processes, and signals at bad moments: all stop together, nothing is lost, nothing stays behind."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import utils.system.distributed
from data.sampler import EpochSampler
from tests.conftest import FAST, ROOT, TINY, records
from tests.harness import Cases
from utils.eval.evaluator import Prediction, mean_psnr
from utils.system import tensorfile
from utils.system.distributed import Ranks
from utils.system.errors import UserError

Trained = Callable[..., Path]
TRAIN = str(ROOT / "train.py")
CPU = torch.device("cpu")
PLAIN = (*TINY, *FAST, "--amp", "off", "--gpu_ids", "-1", "--n_epochs", "8")  # 24 steps
RUN = (*PLAIN, "--optimizer", "sgd", "--lr", "0.05", "--accum", "2")
PARTS = 2  # of a batch of RUN

# train.py with something wrong in it: WRAP HOW train.py flags. "here" appears when it goes wrong.
WRAP = """
import atexit, os, runpy, signal, sys, time
from pathlib import Path
how, *sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
rank, calls = os.environ.get("RANK", "0"), []
import torch, data.datasets, data.splits, models, utils.run.checkpoint
find, save = data.splits.find_pairs, utils.run.tensorfile.save

def here(seconds):
    Path("here").touch()
    time.sleep(seconds)

def slow_find(*given, **named):
    here(1)
    return find(*given, **named)

def slow_save(value, path):
    here(0.5)
    save(value, path)

cut = data.datasets.TrainDataset.__getitems__

def noted(self, keys):
    batch = cut(self, keys)
    if isinstance(batch, dict):
        with Path("names" + rank).open("a") as file:
            print(", ".join(batch["name"]), file=file)
    return batch

class Loss(torch.nn.L1Loss):
    def forward(self, output, target):
        calls.append(1)
        value = super().forward(output, target)
        if how == "first step" and len(calls) == 1:
            here(1)
        if how == "slow":
            time.sleep(0.05)
        if rank == "1" and len(calls) == 9:
            if how in ("raise", "kill", "exit", "hang", "nan"):
                here(0)
            if how == "raise":
                raise ValueError("a fault of process 1")
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "exit":
                os._exit(0)
            if how == "hang":
                time.sleep(3600)
            if how == "nan":
                return value * float("nan")
        return value

models.LOSSES["l1"] = Loss
if how == "start":
    data.splits.find_pairs = slow_find
if how == "save":
    utils.run.tensorfile.save = slow_save
data.datasets.TrainDataset.__getitems__ = noted
atexit.register(lambda: Path("calls" + rank).write_text(str(len(calls))))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Job:
    """A command in a folder of its own, in which nothing else runs; what it says is in the file `said`."""

    def __init__(self, folder: Path, *command: str):
        folder.mkdir(exist_ok=True)
        (folder / "wrap.py").write_text(WRAP)
        self.folder = folder
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (folder / "said").open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=folder, env=environment, stdout=said, stderr=said
            )

    def end(self, seconds: float = 90) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(self.said()) from None

    def kill(self) -> None:
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def pids(self) -> list[int]:
        """Every process that works in the folder."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "cwd").readlink() == self.folder.resolve() and int(entry.name) != os.getpid():
                    found.append(int(entry.name))
            except OSError:  # ended meanwhile, or not ours
                continue
        return found

    def wait_for(self, found: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not found():
            assert self.process.poll() is None and time.monotonic() < end, self.said()
            time.sleep(0.01)

    def wait_for_step(self, step: int) -> None:
        log = self.run / "log.jsonl"
        self.wait_for(lambda: log.is_file() and f'"step": {step},' in log.read_text())

    def said(self) -> str:
        return (self.folder / "said").read_text()

    @property
    def run(self) -> Path:
        return self.folder / "checkpoints" / "run"

    def status(self) -> dict[str, Any]:
        return json.loads((self.run / "status.json").read_text())

    def state(self) -> dict[str, Any]:
        """The latest state, if it is sound and no half-written file lies beside it."""
        assert not list(self.run.glob(".*.part"))
        return tensorfile.load(self.run / "latest_state.pth")


def several(folder: Path, *script: str, how: tuple[str, ...] = ("--standalone", "--nproc_per_node=2")) -> Job:
    return Job(folder, "-m", "torch.distributed.run", *how, *script, "--name", "run")


def weights(run: Path) -> dict[str, Tensor]:
    return torch.load(run / "latest_net.pth", weights_only=True)


def difference(one: Path, two: Path) -> float:
    """The largest between two weights of the same name."""
    first, second = weights(one), weights(two)
    return max((first[key] - second[key]).abs().max().item() for key in first)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """An unbroken run of two processes."""
    job = several(tmp_path_factory.mktemp("whole"), TRAIN, *RUN)
    assert job.end() == 0, job.said()
    return job


@pytest.fixture
def jobs() -> Iterator[list[Job]]:
    """Those that a test starts; none outlives it."""
    started: list[Job] = []
    yield started
    for job in started:
        job.kill()


# ------------------------------------------------------------------------------------ equal to one process


@pytest.mark.dist
@pytest.mark.risk(17)
def test_parts_of_batches_in_two_processes_train_like_one(whole: Job, trained: Trained, cases: Cases) -> None:
    one = trained(*RUN, "--accum", "1")
    moved = max(value.abs().max().item() for value in weights(one).values())
    cases.check(difference(one, whole.run) < 1e-5 < 1e-3 * moved, f"{difference(one, whole.run)}")
    for key in ("loss", "val_psnr"):
        expected = pytest.approx(records(one, key), rel=1e-4)
        cases.check(records(whole.run, key) == expected, key)
    said, steps = whole.said(), [r["step"] for r in map(json.loads, open_log(whole)) if "loss" in r]
    cases.check(said.count("epoch 1: validation") == 1 and said.count("weights ") == 1, said)
    cases.check(steps == list(range(1, 25)), f"{steps}")
    cases.check({path.name for path in whole.run.iterdir()} == {path.name for path in one.iterdir()}, "files")


def open_log(job: Job) -> list[str]:
    return (job.run / "log.jsonl").read_text().splitlines()


@pytest.mark.dist
@pytest.mark.risk(17)
def test_two_machines_train_like_one(whole: Job, tmp_path: Path, jobs: list[Job]) -> None:
    """Two launchers; each has a folder of its own, as without shared storage."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for rank in ("0", "1"):
        how = ("--nnodes", "2", "--node_rank", rank, "--nproc_per_node", "1")
        where = ("--master_addr", "127.0.0.1", "--master_port", port)
        jobs.append(several(tmp_path / rank, TRAIN, *RUN, how=(*how, *where)))
    assert [job.end() for job in jobs] == [0, 0], jobs[0].said() + jobs[1].said()
    assert difference(jobs[0].run, whole.run) < 1e-5
    assert not jobs[1].run.exists()  # only the first process writes


@pytest.mark.dist
@pytest.mark.risk(17)
@pytest.mark.parametrize(("norm", "tolerance_db"), [("group", 0.02), ("batch", 1.0)])
def test_adam_and_norms_reach_the_same_psnr(
    trained: Trained, tmp_path: Path, jobs: list[Job], norm: str, tolerance_db: float
) -> None:
    """Batch-norm statistics are per process on a CPU: a similar PSNR, and one line that says so."""
    flags = ("--dataroot", "demo:8:48", "--model", "dncnn", "--depth", "4", "--width", "8", *FAST)
    flags = (*flags, "--norm", norm, "--amp", "off", "--gpu_ids", "-1", "--max_steps", "24")
    flags = (*flags, "--val_freq", "99")
    jobs.append(several(tmp_path / "two", TRAIN, *flags))
    one = records(trained(*flags), "val_psnr")
    assert jobs[0].end() == 0, jobs[0].said()
    assert one == pytest.approx(records(jobs[0].run, "val_psnr"), abs=tolerance_db)
    assert jobs[0].said().count("batch-norm statistics are per process") == (norm == "batch")


# -------------------------------------------------------------------------------------- a process that fails


@pytest.mark.dist
@pytest.mark.risk(17)
@pytest.mark.parametrize("kinds", [("raise", "kill"), ("exit", "hang")])
def test_a_process_that_fails_ends_the_job(
    cases: Cases, tmp_path: Path, jobs: list[Job], kinds: tuple[str, ...]
) -> None:
    flags = (*RUN, "--save_minutes", "0.00001", "--dist_timeout", "5")
    for how in kinds:
        jobs.append(several(tmp_path / how, "wrap.py", how, TRAIN, *flags))
    for how, job in zip(kinds, jobs, strict=True):
        code, said = job.end(), job.said()
        took = time.time() - (job.folder / "here").stat().st_mtime
        status, left = job.status(), job.pids()
        step = (9 - 1) // PARTS
        cases.check(code != 0 and took < 5 + 10, f"{how}: {code} after {took:.1f} s: {said}")
        cases.check(not left and job.state()["step"] == step, f"{how}: {left}, {job.state()['step']}")
        cases.check((status["state"], status["code"]) == ("failed", 1), f"{how}: {status}")
        wanted = "process 1 failed: ValueError" if how == "raise" else "a process of the run ended"
        cases.check(wanted in status["reason"] and wanted in said, f"{how}: {status} {said}")


@pytest.mark.dist
@pytest.mark.risk(6)
def test_a_number_gone_wrong_in_one_process_stops_both(cases: Cases, tmp_path: Path, jobs: list[Job]) -> None:
    jobs.append(several(tmp_path / "nan", "wrap.py", "nan", TRAIN, *RUN))
    code, said = jobs[0].end(), jobs[0].said()
    step, status = (9 - 1) // PARTS, jobs[0].status()
    cases.check(code != 0 and said.count(f"not finite at step {step}") >= 2, said)
    calls = {(jobs[0].folder / f"calls{rank}").read_text() for rank in (0, 1)}
    cases.check(calls == {str((step + 1) * PARTS)}, f"{calls}")
    why = next(line for line in said.splitlines() if "why: " in line)
    files = (jobs[0].folder / "names1").read_text().splitlines()[step]
    cases.check("process 1: loss nan" in why and "process 0" not in why and why.endswith(files), why)
    cases.check((status["state"], status["code"]) == ("failed", 1), f"{status}")
    state = jobs[0].state()["net"]
    cases.check(all(bool(value.isfinite().all()) for value in state.values()), "weights")


# ------------------------------------------------------------------------------------------------ signals


@pytest.mark.dist
@pytest.mark.risk(5)
def test_a_signal_to_the_launcher_stops_all_on_one_step(
    cases: Cases, whole: Job, trained: Trained, tmp_path: Path, jobs: list[Job]
) -> None:
    """And the run goes on exactly, with as many processes or with another number."""
    cut = several(tmp_path / "cut", "wrap.py", "slow", TRAIN, *RUN, "--save_minutes", "60")
    jobs.append(cut)
    cut.wait_for_step(5)
    for pid in sorted(cut.pids()):  # as a scheduler does: the launcher too, which sends it to all again
        os.kill(pid, signal.SIGTERM)
    began = time.monotonic()
    code, status, step = cut.end(), cut.status(), cut.state()["step"]
    cases.check(code != 0 and time.monotonic() - began < 10 and not cut.pids(), f"{code}: {cut.said()}")
    cases.check((status["state"], status["code"], status["step"]) == ("stopped", 143, step), f"{status}")
    cases.check("--resume --name run" in status["resume_command"] and 5 <= step < 24, f"{step}")
    calls = {(cut.folder / f"calls{rank}").read_text() for rank in (0, 1)}
    cases.check(calls == {str(step * PARTS)}, f"{calls}")
    copytree(cut.run, tmp_path / "checkpoints" / "alone")
    jobs.append(several(cut.folder, TRAIN, "--resume"))
    alone = trained("--resume", name="alone")
    cases.check(jobs[1].end() == 0, jobs[1].said())
    one, two = weights(whole.run), weights(cut.run)
    cases.check(all(torch.equal(one[key], two[key]) for key in one), "resumed by two")
    cases.check(difference(alone, whole.run) < 1e-5, "resumed by one")
    for key in ("loss", "val_psnr"):
        cases.check(records(cut.run, key) == records(whole.run, key), key)


@pytest.mark.risk(5)
def test_a_signal_at_a_bad_moment(cases: Cases, trained: Trained, tmp_path: Path, jobs: list[Job]) -> None:
    moments = ("start", "save", "first step")
    flags = (*PLAIN, "--save_minutes", "0.00001", "--name", "run")
    for how in moments:
        jobs.append(Job(tmp_path / how, "wrap.py", how, TRAIN, *flags))
    waiting = list(zip(moments, jobs, strict=True))
    while waiting:
        for how, job in waiting[:]:
            if (job.folder / "here").exists():
                os.kill(job.process.pid, signal.SIGTERM)
                waiting.remove((how, job))
            assert job.process.poll() is None or (how, job) not in waiting, job.said()
        time.sleep(0.01)
    whole = trained(*flags[:-2], name="whole")
    for how, job in zip(moments, jobs, strict=True):
        cases.check(job.end(20) == 143, f"{how}: {job.said()}")
        said, status = job.said(), job.status()
        cases.check("Traceback" not in said and "--resume --name run" in said, f"{how}: {said}")
        cases.check((status["state"], status["code"]) == ("stopped", 143), f"{how}: {status}")
        cases.check(status["step"] == job.state()["step"] == 1, f"{how}: {status}")  # the first that ended
        os.chdir(job.folder)
        trained("--resume", name="run")
        one, two = weights(whole), weights(job.run)
        cases.check(all(torch.equal(one[key], two[key]) for key in one), f"{how}: resumed")


# ------------------------------------------------------------------------------ another number of processes


def indices(size: int, batch: int, world: int, offset: int) -> list[list[int]]:
    """What `world` processes take in epoch 2 from a batch on: one list for each batch."""
    taken = []
    for rank in range(world):
        sampler = EpochSampler(size, batch, 7, rank, world)
        sampler.start_at(2, offset)
        own = [index for epoch, index in sampler if epoch == 2]
        assert len(own) == len(sampler)
        taken.append(np.array(own).reshape(-1, batch // world))
    return [list(map(int, row)) for row in np.concatenate(taken, axis=1)]


@pytest.mark.risk(18)
def test_each_index_once_whatever_the_number_of_processes(cases: Cases) -> None:
    for before, after in ((1, 2), (2, 1), (2, 3), (3, 4), (1, 1)):
        for size in (60, 67):
            for offset in range(size // 12 + 1):
                old = indices(size, 12, before, 0)[:offset] if offset else []
                new = indices(size, 12, after, offset) if offset < size // 12 else []
                seen = list(chain(*old, *new))
                once = len(set(seen)) == len(seen) == size // 12 * 12
                cases.check(
                    once and old + new == indices(size, 12, 1, 0), f"{before} {after} {size} {offset}"
                )


@pytest.mark.risk(17)
def test_no_process_gets_more_batches_than_another(cases: Cases) -> None:
    for size in (24, 31, 103):
        for batch in (4, 6, 12):
            for world in (1, 2, 3, 4, 5):
                if batch % world:
                    with pytest.raises(UserError, match=f"--batchSize {batch} .* {world} processes"):
                        EpochSampler(size, batch, 0, 0, world)
                    cases.check(True)
                else:
                    lengths = {len(list(EpochSampler(size, batch, 0, r, world))) for r in range(world)}
                    cases.check(lengths == {size // batch * (batch // world)}, f"{size} {batch} {world}")


@pytest.mark.risk(18)
def test_three_processes_cannot_share_a_batch_of_four(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(*RUN, "--max_steps", "7")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    monkeypatch.setattr(utils.system.distributed, "init", lambda *given: Ranks(CPU, 0, 3, "3 processes"))
    with pytest.raises(UserError, match="--batchSize 4 cannot be split over 3 processes") as caught:
        trained("--resume", "--max_steps", "24")
    assert caught.value.code == 2 and "multiple of 3" in caught.value.fix
    assert before == {path.name: path.read_bytes() for path in run.iterdir()}


@pytest.mark.dist
@pytest.mark.risk(18)
def test_two_processes_go_on_with_the_run_of_one(
    cases: Cases, whole: Job, trained: Trained, tmp_path: Path, jobs: list[Job]
) -> None:
    trained(*RUN, "--max_steps", "7", "--schedule", "step")
    long = trained(*RUN, "--schedule", "step", name="long")
    jobs.append(several(tmp_path, TRAIN, "--resume", "--max_steps", "24"))
    cases.check(jobs[0].end() == 0 and "steps 7 to 24" in jobs[0].said(), jobs[0].said())
    cases.check(difference(long, jobs[0].run) < 1e-5, f"{difference(long, jobs[0].run)}")
    losses = pytest.approx(records(long, "loss"), rel=1e-4)
    cases.check(records(jobs[0].run, "loss") == losses, "losses")


# --------------------------------------------------------------------------------------------- validation


@dataclass(frozen=True)
class Counted(Ranks):
    """One of several places in this process: adds what the others would."""

    others: list[Tensor] = field(default_factory=list)

    def reduce(self, values: Tensor, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
        self.others.append(values.clone())
        return torch.stack(self.others).sum(0)


@pytest.mark.risk(17)
def test_the_validation_mean_is_exact_for_any_number_of_images_and_processes(cases: Cases) -> None:
    nothing = np.zeros((1, 1, 3), np.uint8)
    for count in (1, 2, 3, 5, 8, 103):
        rng = np.random.default_rng(count)
        values = rng.uniform(10, 60, (count, 2))
        scores = [{"psnr": float(one), "psnr_input": float(two)} for one, two in values]
        images = [
            Prediction(str(i), nothing, nothing, nothing, score, 0.0, None) for i, score in enumerate(scores)
        ]
        expected = [math.fsum(values[:, column]) / count for column in (0, 1)]
        for world in (1, 2, 3, 4):
            others: list[Tensor] = []
            for rank in range(world):  # the last one has everybody's sums
                ranks = Counted(CPU, rank, world, "", others=others)
                reached, untouched, _ = mean_psnr(images[rank:count:world], ranks, set())
            far = max(abs(reached - expected[0]), abs(untouched - expected[1]))
            cases.check(far < 1e-12 * 60, f"{count} images, {world} processes: {far}")
