"""Several processes, and signals at bad moments: all stop together, nothing is lost, nothing stays behind."""

import math
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from data.sampler import EpochSampler
from tests.builders import FAST, TINY, finite, largest_difference, same_state, tree, words
from tests.cli import (
    TORCHRUN,
    Ended,
    InProcess,
    Job,
    Workplace,
    free_port,
    log,
    processes_in,
    records,
    state,
    status,
    step_of,
    weights,
)
from tests.harness import Cases
from tests.preloaded import Preloaded
from tests.seams import wrap
from utils.eval.evaluator import Prediction, mean_psnr
from utils.system.distributed import Ranks
from utils.system.errors import UserError

CPU = torch.device("cpu")
PLAIN = (*TINY, *FAST, "--amp", "off", "--gpu_ids", "-1", "--n_epochs", "8")  # 24 steps
RUN = (*PLAIN, "--optimizer", "sgd", "--lr", "0.05", "--accum", "2")
PARTS = 2  # of a batch of RUN
BAD_CALL = 9  # of the loss, in process 1
BAD_STEP = (BAD_CALL - 1) // PARTS
FAULTS = {  # what happens at BAD_CALL
    "raise": "raise ValueError('a fault of process 1')",
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
    "exit": "os._exit(0)",
    "hang": "time.sleep(3600)",
    "nan": "loss = loss * float('nan')",
}
FAULTY = """
import atexit, os, signal, time
from pathlib import Path
from tests.seams import replace_loss, wrap

how, rank, calls = {how!r}, os.environ.get("RANK", "0"), [0]

def here(seconds):  # "here" appears when it goes wrong
    Path("here").touch()
    time.sleep(seconds)

def late(honest, *given, **named):
    here(0.5)
    return honest(*given, **named)

def batch(honest, self, keys):
    found = honest(self, keys)
    if isinstance(found, dict):
        with Path("names" + rank).open("a") as file:
            print(", ".join(found["name"]), file=file)
    return found

def change(call, loss, output):
    calls[0] = call
    if how == "first step" and call == 1:
        here(1)
    if how == "slow":
        time.sleep(0.05)
    if {fault!r} and rank == "1" and call == {bad_call}:
        here(0)
        {fault}
    return loss

replace_loss(change)
wrap("batch", batch)
if how in ("find_pairs", "save"):
    wrap(how, late)
atexit.register(lambda: Path("calls" + rank).write_text(str(calls[0])))
"""


def faulty(how: str) -> str:
    """Code that puts a fault into train.py."""
    return FAULTY.format(how=how, fault=FAULTS.get(how, ""), bad_call=BAD_CALL)


def calls(job: Job) -> set[str]:
    """How often each process called the loss."""
    return {(job.folder / f"calls{rank}").read_text() for rank in (0, 1)}


def is_sound(run: Path) -> bool:
    """Whether no half-written file lies beside the latest state."""
    return not list(run.glob(".*.part"))


def difference(one: Path, two: Path) -> float:
    """The largest between two weights of the same name."""
    return largest_difference(weights(one), weights(two))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, preloaded: Preloaded) -> Iterator[Ended]:
    """An uninterrupted run of two processes."""
    place = Workplace(tmp_path_factory.mktemp("whole"), preloaded)
    yield place.train_by_two(*RUN)
    place.close()


# ------------------------------------------------------------------------------------ equal to one process


@pytest.mark.dist
@pytest.mark.risk(17)
def test_parts_of_batches_in_two_processes_train_like_one(whole: Ended, cli: InProcess, cases: Cases) -> None:
    one = cli.train(*RUN, "--accum", "1").run
    moved = max(value.abs().max().item() for value in weights(one).values())
    cases.check(difference(one, whole.run) < 1e-5 < 1e-3 * moved, f"{difference(one, whole.run)}")
    for key in ("loss", "val_psnr"):
        cases.check(records(whole.run, key) == pytest.approx(records(one, key), rel=1e-4), key)
    said, steps = whole.out + whole.err, [r["step"] for r in log(whole.run) if "loss" in r]
    cases.check(said.count("epoch 1: val PSNR") == 1 and said.count("weights ") == 1, said)
    cases.check(steps == list(range(1, 25)), f"{steps}")
    cases.check(tree(whole.run).keys() == tree(one).keys(), "files")


@pytest.mark.dist
@pytest.mark.risk(17)
def test_two_machines_train_like_one(whole: Ended, work: Workplace) -> None:
    """Two launchers; each has a folder of its own, as without shared storage."""
    common = words(f"--nnodes=2 --nproc_per_node=1 --master_addr=127.0.0.1 --master_port={free_port()}")
    launcher = (*TORCHRUN[:2], *common, "--node_rank")
    jobs = [work.at(rank).start("train.py", *RUN, launcher=(*launcher, rank)) for rank in ("0", "1")]
    for job in jobs:
        job.wait()
    assert difference(jobs[0].run, whole.run) < 1e-5
    assert not jobs[1].run.exists()  # only the first process writes


@pytest.mark.dist
@pytest.mark.risk(17)
@pytest.mark.parametrize(("norm", "tolerance_db"), [("group", 0.02), ("batch", 1.0)])
def test_adam_and_norms_reach_the_same_psnr(
    cli: InProcess, work: Workplace, norm: str, tolerance_db: float
) -> None:
    """Batch-norm statistics are per process on a CPU: a similar PSNR, and one line that says so."""
    net = f"--dataroot demo:8:48 --model dncnn --depth 4 --width 8 --norm {norm}"
    flags = (*words(net), *FAST, *words("--amp off --gpu_ids -1 --max_steps 24 --val_freq 99"))
    two = work.at("two").train_by_two(*flags)
    one = records(cli.train(*flags).run, "val_psnr")
    assert one == pytest.approx(records(two.run, "val_psnr"), abs=tolerance_db)
    assert two.err.count("batch-norm statistics are per process") == (norm == "batch")


# -------------------------------------------------------------------------------------- a process that fails


@pytest.mark.dist
@pytest.mark.risk(17)
@pytest.mark.parametrize("kinds", [("raise", "kill"), ("exit", "hang")])
def test_a_process_that_fails_ends_the_job(cases: Cases, work: Workplace, kinds: tuple[str, ...]) -> None:
    flags = (*RUN, "--save_minutes", "0.00001", "--dist_timeout", "5")
    jobs = {
        how: work.at(how).start("train.py", *flags, before=faulty(how), launcher=TORCHRUN) for how in kinds
    }
    for how, job in jobs.items():
        code = job.wait(None, seconds=90).code
        took = time.time() - (job.folder / "here").stat().st_mtime
        found, left, step = status(job.run), processes_in(job.folder), step_of(job.run)
        cases.check(code != 0 and took < 5 + 10, f"{how}: {code} after {took:.1f} s: {job.said}")
        cases.check(not left and step == BAD_STEP and is_sound(job.run), f"{how}: {left}, {step}")
        cases.check((found["state"], found["code"]) == ("failed", 1), f"{how}: {found}")
        wanted = "process 1 failed: ValueError" if how == "raise" else "a process of the run ended"
        cases.check(wanted in found["reason"] and wanted in job.said, f"{how}: {found} {job.said}")


@pytest.mark.dist
@pytest.mark.risk(6)
def test_nan_in_one_process_stops_both(cases: Cases, work: Workplace) -> None:
    job = work.start("train.py", *RUN, before=faulty("nan"), launcher=TORCHRUN)
    code, said = job.wait(None).code, job.said
    cases.check(code != 0 and said.count(f"not finite at step {BAD_STEP}") >= 2, said)
    cases.check(calls(job) == {str((BAD_STEP + 1) * PARTS)}, f"{calls(job)}")
    why = next(line for line in said.splitlines() if "why: " in line)
    files = (job.folder / "names1").read_text().splitlines()[BAD_STEP]
    cases.check("process 1: loss nan" in why and "process 0" not in why and why.endswith(files), why)
    found = status(job.run)
    cases.check((found["state"], found["code"]) == ("failed", 1), f"{found}")
    cases.check(finite(state(job.run)["net"]) and is_sound(job.run), "weights")


# ------------------------------------------------------------------------------------------------ signals


@pytest.mark.dist
@pytest.mark.risk(5)
def test_a_signal_to_the_launcher_stops_all_on_one_step(
    cases: Cases, whole: Ended, cli: InProcess, work: Workplace
) -> None:
    """And the run resumes exactly, with as many processes or with another number."""
    flags = (*RUN, "--save_minutes", "60")
    cut = work.at("cut").start("train.py", *flags, before=faulty("slow"), launcher=TORCHRUN)
    cut.until_step(5)
    for pid in sorted(processes_in(cut.folder)):  # as a scheduler does: the launcher sends it to all again
        os.kill(pid, signal.SIGTERM)
    began = time.monotonic()
    code, found, step = cut.wait(None).code, status(cut.run), step_of(cut.run)
    in_time = time.monotonic() - began < 10 and not processes_in(cut.folder) and is_sound(cut.run)
    cases.check(code != 0 and in_time, f"{code}: {cut.said}")
    cases.check((found["state"], found["code"], found["step"]) == ("stopped", 143, step), f"{found}")
    cases.check("--resume --name run" in found["resume_command"] and 5 <= step < 24, f"{step}")
    cases.check(calls(cut) == {str(step * PARTS)}, f"{calls(cut)}")
    copytree(cut.run, work.run("alone"))
    two = work.at("cut").train_by_two("--resume")
    alone = cli.train("--resume", name="alone").run
    cases.check(same_state(weights(whole.run), weights(two.run)), "resumed by two")
    cases.check(difference(alone, whole.run) < 1e-5, "resumed by one")
    for key in ("loss", "val_psnr"):
        cases.check(records(two.run, key) == records(whole.run, key), key)


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.risk(27)
@pytest.mark.parametrize(
    ("to_all", "number"),
    [(False, signal.SIGTERM), (True, signal.SIGTERM), (True, signal.SIGINT), (True, signal.SIGHUP)],
)
def test_a_signal_to_torchrun_with_loaders_saves(work: Workplace, to_all: bool, number: int) -> None:
    """To the launcher alone, or to its ranks and their loader processes, too, as in a process group."""
    flags = (*RUN, "--num_workers", "2", "--save_minutes", "60")
    job = work.start("train.py", *flags, before=faulty("slow"), launcher=TORCHRUN)
    job.until_step(5)
    pids = processes_in(job.folder)
    assert len(pids) >= 1 + 2 + 4
    for pid in sorted(pids) if to_all else [job.pid]:
        os.kill(pid, number)
    began = time.monotonic()
    assert job.wait(None, seconds=60).code != 0
    found, step = status(job.run), step_of(job.run)
    assert time.monotonic() - began < 20 and not processes_in(job.folder)
    assert (found["state"], found["step"]) == ("stopped", step) and 5 <= step < 24 and is_sound(job.run)
    assert found["code"] in (128 + number, 143)  # the launcher sends SIGTERM after any signal


@pytest.mark.risk(5)
def test_a_signal_at_a_bad_moment(
    cases: Cases, cli: InProcess, work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = (*PLAIN, "--save_minutes", "0.00001")
    kinds = ("find_pairs", "save", "first step")
    jobs = {how: work.at(how).start("train.py", *flags, before=faulty(how)) for how in kinds}

    def interrupt(job: Job) -> None:
        job.until((job.folder / "here").exists)
        job.signal(signal.SIGTERM)

    with ThreadPoolExecutor() as pool:
        list(pool.map(interrupt, jobs.values()))
    whole = cli.train(*flags, name="whole").run
    for how, job in jobs.items():
        said = job.wait(143, seconds=20).err
        found = status(job.run)
        cases.check("Traceback" not in said and "--resume --name run" in said, f"{how}: {said}")
        cases.check((found["state"], found["code"]) == ("stopped", 143), f"{how}: {found}")
        first = found["step"] == step_of(job.run) == 1  # the step that was under way
        cases.check(first and is_sound(job.run), f"{how}: {found}")
        monkeypatch.chdir(job.folder)
        cli.train("--resume")
        cases.check(same_state(weights(whole), weights(job.run)), f"{how}: resumed")


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
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3), (3, 4), (1, 1)])
@pytest.mark.parametrize("size", [60, 67])
def test_each_index_once_whatever_the_number_of_processes(
    cases: Cases, before: int, after: int, size: int
) -> None:
    whole = indices(size, 12, 1, 0)
    assert len({*chain(*whole)}) == len([*chain(*whole)]) == size // 12 * 12
    for offset in range(size // 12 + 1):
        old = indices(size, 12, before, 0)[:offset]
        new = indices(size, 12, after, offset) if offset < size // 12 else []
        cases.check(old + new == whole, f"from batch {offset}")


@pytest.mark.risk(17)
@pytest.mark.parametrize("size", [24, 31, 103])
@pytest.mark.parametrize("batch", [4, 6, 12])
@pytest.mark.parametrize("world", [1, 2, 3, 4, 5])
def test_no_process_gets_more_batches_than_another(size: int, batch: int, world: int) -> None:
    if batch % world:
        with pytest.raises(UserError, match=f"--batchSize {batch} .* {world} processes"):
            EpochSampler(size, batch, 0, 0, world)
    else:
        lengths = {len(list(EpochSampler(size, batch, 0, r, world))) for r in range(world)}
        assert lengths == {size // batch * (batch // world)}


@pytest.mark.risk(18)
def test_three_processes_cannot_share_a_batch_of_four(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = cli.train(*RUN, "--max_steps", "7").run
    before = tree(run)
    wrap("init", lambda *given: Ranks(CPU, 0, 3, "3 processes"), monkeypatch)
    done = cli.train("--resume", "--max_steps", "24", code=2)
    assert done.refused("--batchSize 4 cannot be split over 3 processes") and "multiple of 3" in done.fix
    assert tree(run) == before


@pytest.mark.dist
@pytest.mark.risk(18)
def test_two_processes_resume_the_run_of_one(cases: Cases, cli: InProcess, work: Workplace) -> None:
    cli.train(*RUN, "--max_steps", "7", "--schedule", "step")
    long = cli.train(*RUN, "--schedule", "step", name="long").run
    done = work.train_by_two("--resume", "--max_steps", "24")
    cases.check("steps 7 to 24" in done.err, done.err)
    cases.check(difference(long, done.run) < 1e-5, f"{difference(long, done.run)}")
    cases.check(records(done.run, "loss") == pytest.approx(records(long, "loss"), rel=1e-4), "losses")


# --------------------------------------------------------------------------------------------- validation


@dataclass(frozen=True)
class Counted(Ranks):
    """One of several places in this process: adds what the others would."""

    others: list[Tensor] = field(default_factory=list)

    def reduce(self, values: Tensor, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
        self.others.append(values.clone())
        return torch.stack(self.others).sum(0)


@pytest.mark.risk(17)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 103])
def test_the_validation_mean_is_exact_for_any_number_of_processes(cases: Cases, count: int) -> None:
    pixel, values = np.zeros((1, 1, 3), np.uint8), np.random.default_rng(count).uniform(10, 60, (count, 2))
    scores = [{"psnr": float(one), "psnr_input": float(two)} for one, two in values]
    images = [Prediction(str(i), pixel, pixel, pixel, score, 0.0, None) for i, score in enumerate(scores)]
    expected = [math.fsum(values[:, column]) / count for column in (0, 1)]
    for world in (1, 2, 3, 4):
        others: list[Tensor] = []
        for rank in range(world):  # the last one has everybody's sums
            ranks = Counted(CPU, rank, world, "", others=others)
            found = list(mean_psnr(images[rank:count:world], ranks, set())[:2])
        cases.check(found == pytest.approx(expected, rel=0, abs=1e-12 * 60), f"{world} processes: {found}")
