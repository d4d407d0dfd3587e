"""What is on the disk: runs that go on exactly, whole files, damaged and hostile files that are seen."""

import argparse
import errno
import hashlib
import importlib
import io
import json
import math
import os
import pickle
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import utils.system.signals
from tests.conftest import ROOT, STRICT, Workplace
from tests.harness import Cases
from tests.test_checkpoint import Payload, small_net
from tests.test_resume import same
from utils.optim.schedules import SCHEDULES
from utils.options.flags import parse_or_exit, parse_test, parse_train
from utils.run import checkpoint
from utils.run.run import Run
from utils.system import tensorfile
from utils.system.errors import UserError, run_script

Trained = Callable[..., Path]
STEPS = 18
NET = ("--model", "dncnn", "--depth", "3", "--width", "4", "--lr", "0.01", "--gpu_ids", "-1")
RUN = (  # BatchNorm, EMA, warm-up, augmentation, validations; epochs of 5 steps
    *("--dataroot", "demo:8:40", *NET, "--crop_size", "24", "--batchSize", "4", "--augment", "flip_rot90"),
    *("--ema", "0.9", "--warmup", "0.5", "--schedule", "cosine", "--n_epochs", "18", "--val_freq", "2"),
    *("--max_steps", str(STEPS), "--log_freq", "1", "--visdom", "off", "--seed", "5"),
    *("--amp", "off"),
)
EVERY_STEP = ("--save_minutes", "0.00001")


# -------------------------------------------------------------- processes without the cost of importing torch


def serve() -> None:
    """For each line of stdin fork a process, or wait for one; imports are paid once, nothing is computed."""
    sys.path.insert(0, str(ROOT))
    for package in ("utils", "data", "models"):
        for path in sorted((ROOT / package).glob("[a-y]*.py")):  # zoo.py needs more than this
            importlib.import_module(f"{package}.{path.stem}")
    scripts = {"train": parse_train, "test": parse_test}
    modules = {name: importlib.import_module(name) for name in scripts}
    ends: dict[int, int] = {}
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            with os.fdopen(ends.pop(job["wait"]), errors="replace") as pipe:
                said = pipe.read()
            _, status = os.waitpid(job["wait"], 0)
            print(json.dumps([os.waitstatus_to_exitcode(status), said]), flush=True)
            continue
        end, start = os.pipe()
        pid = os.fork()
        if pid:
            os.close(start)
            ends[pid] = end
            print(pid, flush=True)
            continue
        os.dup2(start, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.close(start)
        os.chdir(job["folder"])
        os.environ.update(job["env"])
        if job["limit"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))  # Python ignores SIGXFSZ
        sys.argv = [f"{job['script']}.py", *job["flags"]]
        if job["script"] == "save":
            save_for_ever(Path("net.pth"), int(job["flags"][0]))
        sys.exit(run_script(modules[job["script"]].main, parse_or_exit(scripts[job["script"]])))


def save_for_ever(path: Path, number: int) -> None:
    while True:
        tensorfile.save({"n": number, "x": [torch.full((50_000,), float(number))] * 3}, path)
        number += 1


class Nursery:
    """A process that imported everything, and forks the scripts."""

    def __init__(self) -> None:
        command = [sys.executable, *STRICT, "-c"]
        self.process = subprocess.Popen(
            [*command, "from tests.faults.test_checkpoints import serve; serve()"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **job: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        print(json.dumps(job), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def start(self, folder: Path, script: str, *flags: str, limit: int = 0, **env: str) -> int:
        """Start a script in `folder`; `limit` is the largest file it may write. Returns the process id."""
        return self.ask(folder=str(folder), script=script, flags=flags, limit=limit, env=env)

    def wait(self, pid: int) -> tuple[int, str]:
        """The exit code, and what was said on stderr."""
        code, said = self.ask(wait=pid)
        return code, said

    def call(self, folder: Path, script: str, *flags: str, limit: int = 0) -> tuple[int, str]:
        return self.wait(self.start(folder, script, *flags, limit=limit))

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(20)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    forking = Nursery()
    yield forking
    forking.close()


def complaints(code: int, said: str, wanted: int, *named: str) -> str:
    """What is wrong with the way a script refused; "" if nothing is."""
    at = said.find("error:")
    message = said[at:] if at >= 0 else ""
    wrong = [f"code {code}"] * (code != wanted) + ["no message"] * (not message)
    wrong += ["traceback"] * ("Traceback" in said) + ["too long"] * (message.count("\n") > 6)
    wrong += ["no fix"] * ("fix:" not in message)
    wrong += [f"{name} not named" for name in named if name not in message]
    return f"{', '.join(wrong)}: {said[-600:]}" if wrong else ""


def files(folder: Path) -> dict[str, str]:
    """sha256 of every file."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


# ----------------------------------------------------------------------------------------- a run that goes on


def digest(run: Path) -> tuple[int, str]:
    """The step, and one sha256 of weights, EMA, optimizer and the best weights."""
    state = torch.load(run / "latest_state.pth", weights_only=True)
    parts = [state[part] for part in ("net", "ema", "optimizer", "best")]
    found = hashlib.sha256()

    def feed(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.update(f"{value.dtype} {tuple(value.shape)}".encode())
            found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            feed([part for item in value.items() for part in item])
        elif isinstance(value, (list, tuple)):
            found.update(f"{len(value)} parts".encode())
            for part in value:
                feed(part)
        else:
            found.update(repr(value).encode())

    best = run / "best_net.pth"
    feed([*parts, torch.load(best, weights_only=True) if best.is_file() else None])
    return state["step"], found.hexdigest()


def cut_everywhere(trained: Trained, monkeypatch: pytest.MonkeyPatch, *flags: str) -> tuple[Path, list[Path]]:
    """An unbroken run, and for each of its steps the run's files as a kill after it would leave them."""
    cuts: list[Path] = []
    honest = tensorfile.save

    def save(value: Any, path: Path) -> None:
        honest(value, path)
        if path.name == "latest_state.pth":
            assert value["step"] == len(cuts)
            cuts.append(path.parent.with_name(f"cut{value['step']}"))
            shutil.copytree(path.parent, cuts[-1])

    with monkeypatch.context() as patch:
        patch.setattr(tensorfile, "save", save)
        whole = trained(*RUN, *EVERY_STEP, *flags, name="whole")
    return whole, cuts


@pytest.mark.risk(1)
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_cut_after_any_step_ends_with_the_same_bits(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, cases: Cases, workers: str
) -> None:
    whole, cuts = cut_everywhere(trained, monkeypatch, "--num_workers", workers)
    assert len(cuts) == STEPS + 1 and digest(whole)[0] == STEPS
    for cut in cuts[:-1]:
        trained("--resume", "--save_minutes", "5", name=cut.name)
        cases.check(digest(cut) == digest(whole), cut.name)


@pytest.mark.risk(1)
@pytest.mark.parametrize("flags", [("--accum", "2"), ("--amp", "on")])
def test_split_batches_and_half_precision_go_on_exactly(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, cases: Cases, flags: tuple[str, ...]
) -> None:
    whole, cuts = cut_everywhere(trained, monkeypatch, *flags)
    plain = trained(*RUN, name="plain")
    assert digest(plain) != digest(whole)  # the flag does something
    for step in (2, 5, 13):
        trained("--resume", "--save_minutes", "5", name=cuts[step].name)
        cases.check(digest(cuts[step]) == digest(whole), f"{flags} cut after step {step}")


def stopped(monkeypatch: pytest.MonkeyPatch, after: int, *flags: str) -> int:
    """train.py's exit code when a signal comes in the step that is the `after`th of this process."""
    import train

    honest, calls = utils.system.signals.read_flags, []

    def read_flags(loss: torch.Tensor, norm: torch.Tensor, stop: int, ranks: Any) -> tuple[bool, int]:
        calls.append(1)
        if len(calls) == after:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.001)  # the handler runs
            stop = signal.SIGTERM
        return honest(loss, norm, stop, ranks)

    with monkeypatch.context() as patch, ExitStack() as cleanup:
        patch.setattr(utils.system.signals, "read_flags", read_flags)
        return train.main(parse_train(flags), cleanup)


@pytest.mark.risk(1)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_goes_on_exactly(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, cases: Cases, schedule: str
) -> None:
    """Stopped twice by a signal, so that the plan for all steps stays the same."""
    flags = (*RUN, "--schedule", schedule, "--step_size", "1", "--milestones", "1,3", "--gamma", "0.7")
    whole = trained(*flags, name="whole")
    assert stopped(monkeypatch, 4, *flags, "--name", "cut") == 143
    assert stopped(monkeypatch, 6, "--resume", "--name", "cut") == 143
    assert digest(whole.with_name("cut"))[0] == 10
    cases.check(digest(trained("--resume", name="cut")) == digest(whole), schedule)


@pytest.mark.risk(1)
def test_a_state_with_a_part_left_out_differs(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, cases: Cases
) -> None:
    """The control: what the equalities above compare depends on each part of the file."""
    whole, cuts = cut_everywhere(trained, monkeypatch)
    honest = checkpoint.restore
    for part in ("net", "ema", "optimizer"):

        def restore(state: Any, left_out: str = part, **parts: Any) -> None:
            honest(state, **{name: held for name, held in parts.items() if name != left_out})

        cut = Path(shutil.copytree(cuts[7], whole.with_name(f"without_{part}")))
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "restore", restore)
            trained("--resume", name=cut.name)
        step, found = digest(cut)
        cases.check(step == STEPS and found != digest(whole)[1], part)


def wait_for_step(run: Path, step: int) -> None:
    log, end = run / "log.jsonl", time.monotonic() + 60
    while not (log.is_file() and f'"step": {step},' in log.read_text()):
        assert time.monotonic() < end, f"step {step} was not reached"
        time.sleep(0.001)


@pytest.mark.risk(1)
def test_a_run_killed_ten_times_ends_with_the_same_bits(
    nursery: Nursery, tmp_path: Path, cases: Cases
) -> None:
    flags = (*RUN, *EVERY_STEP, "--max_steps", "60")
    code, said = nursery.call(tmp_path, "train", *flags, "--name", "whole")
    assert code == 0, said
    run, rng = tmp_path / "checkpoints" / "cut", random.Random()
    for kill in range(10):
        pid = nursery.start(tmp_path, "train", *(flags if not kill else ("--resume",)), "--name", "cut")
        if kill % 3:
            time.sleep(rng.uniform(0, 0.3))  # while it starts, often
        else:
            wait_for_step(run, 4 * kill + 3)
            time.sleep(rng.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)
        code, said = nursery.wait(pid)
        cases.check(code == -signal.SIGKILL, f"kill {kill}: ended with {code}: {said[-300:]}")
    code, said = nursery.call(tmp_path, "train", "--resume", "--name", "cut")
    assert code == 0, said
    assert digest(run) == digest(tmp_path / "checkpoints" / "whole")


def free_port() -> str:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


def two_processes(nursery: Nursery, folder: Path, *flags: str) -> list[int]:
    """What torchrun starts, without the time that torchrun takes."""
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [
        nursery.start(folder, "train", *flags, **env, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in (0, 1)
    ]


@pytest.mark.risk(1)
@pytest.mark.dist
def test_two_processes_go_on_exactly(nursery: Nursery, work: Workplace, cases: Cases) -> None:
    flags = (*RUN, *EVERY_STEP)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(ROOT / "train.py"), *flags, "--name", "whole"],
        cwd=work.folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    run = work.folder / "checkpoints" / "cut"
    for start, step in ((flags, 3), (("--resume",), 9)):
        processes = two_processes(nursery, work.folder, *start, "--name", "cut")
        wait_for_step(run, step)
        os.kill(processes[1], signal.SIGTERM)  # one is told, both stop after the same step
        ends = [nursery.wait(pid) for pid in processes]
        assert [code for code, _ in ends] == [143, 143], ends
        assert step <= digest(run)[0] < STEPS
    ends = [nursery.wait(pid) for pid in two_processes(nursery, work.folder, "--resume", "--name", "cut")]
    assert [code for code, _ in ends] == [0, 0], ends
    cases.check(digest(run) == digest(work.folder / "checkpoints" / "whole"))


# ----------------------------------------------------------------------------------------- whole or not there


@pytest.mark.risk(2)
def test_a_kill_while_saving_leaves_a_whole_file(nursery: Nursery, tmp_path: Path, cases: Cases) -> None:
    path, part, rng = tmp_path / "net.pth", tmp_path / ".net.pth.part", random.Random()
    newest = halves = 0
    for _ in range(25):
        pid = nursery.start(tmp_path, "save", str(newest + 1))
        before = path.stat().st_mtime_ns if path.is_file() else 0
        while not path.is_file() or path.stat().st_mtime_ns == before:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)
        nursery.wait(pid)
        halves += part.is_file()
        held = tensorfile.load(path)
        whole = all(bool((x == held["n"]).all()) for x in held["x"])
        cases.check(whole and held["n"] > newest, f"{held['n']} after {newest}")
        newest = held["n"]
    assert halves, "no kill came while a file was being written"


@pytest.mark.risk(2)
def test_the_order_in_which_a_file_becomes_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, events = tmp_path / "net.pth", []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append(("fsync", name.name, os.fstat(descriptor).st_size if name != tmp_path else 0))
        fsync(descriptor)

    def spy_replace(self: Path, target: Path) -> Path:
        events.append(("replace", self.name, Path(target).name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    tensorfile.save(small_net().state_dict(), path)
    size = path.stat().st_size  # all of it had been flushed before the fsync
    assert events == [
        ("fsync", ".net.pth.part", size),
        ("replace", ".net.pth.part", "net.pth"),
        ("fsync", tmp_path.name, 0),
    ]


@pytest.mark.risk(2)
def test_what_a_killed_process_was_writing_is_swept(trained: Trained, cases: Cases) -> None:
    run = trained(*RUN, "--max_steps", "3")
    stale = [run / f".{name}.part" for name in ("latest_state.pth", "best_net.pth", "options.json")]
    for part in stale:
        part.write_bytes(b"half")
    trained("--resume", "--max_steps", "4")
    for part in stale:
        cases.check(not part.exists(), part.name)


# ---------------------------------------------------------------------------------------------- the full disk


@pytest.mark.risk(3)
def test_a_size_limit_ends_the_run_and_leaves_the_older_files(
    nursery: Nursery, trained: Trained, tmp_path: Path, cases: Cases
) -> None:
    run = trained(*RUN, "--max_steps", "8")
    size = (run / "latest_state.pth").stat().st_size
    log = run / "log.jsonl"
    for what, limit in (
        ("options.json", 100),
        ("latest_net.pth", (run / "latest_net.pth").stat().st_size // 2),
        ("latest_state.pth", size // 2),
        ("latest_state.pth", size - 1),
        ("checkpoints/run", 0),  # the log, which only grows
    ):
        before = files(run)
        if not limit:
            first = json.loads(log.read_text().splitlines()[0])
            with log.open("a") as file:
                file.writelines(json.dumps(first) + "\n" for _ in range(1 + 2 * size // 100))
            limit = log.stat().st_size + 10
        flags = ("--resume", "--name", "run", "--max_steps", "18", *EVERY_STEP)
        code, said = nursery.call(tmp_path, "train", *flags, limit=limit)
        wrong = complaints(code, said, 1 + (what == "options.json"), "File too large", what)
        after = files(run)
        written = {
            "status.json",
            "log.jsonl",
            "options.json",
            ".lock",
            "latest_net.pth",
            "previous_state.pth",
        }
        if what != "checkpoints/run":
            wrong += "".join(
                f"; {name} changed" for name in before.keys() - written if before[name] != after[name]
            )
        wrong += "".join(f"; {name} is left" for name in after if name.endswith(".part"))
        tensorfile.load(run / "latest_net.pth")
        tensorfile.load(run / "latest_state.pth")
        cases.check(not wrong, f"{what} at {limit} bytes: {wrong}")


class Full(io.FileIO):
    """A file on a disk that has little room left."""

    room = 0

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


@pytest.mark.risk(3)
def test_a_full_disk_ends_the_run_and_leaves_the_older_files(
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cases: Cases,
) -> None:
    import train

    run = trained(*RUN, "--max_steps", "8")
    size, honest = (run / "latest_state.pth").stat().st_size, Path.open
    before = files(run)
    for name in ("latest_net.pth", "latest_state.pth", "best_net.pth", "status.json", "options.json"):
        for room in (0, 500, size // 2, size - 1):
            if room >= (run / name).stat().st_size:
                continue

            def open_full(self: Path, *given: Any, only: str = name, left: int = room, **named: Any) -> Any:
                if self.name != f".{only}.part":
                    return honest(self, *given, **named)
                file = Full(self, "w")
                file.room = left
                return file

            shutil.copytree(run, twin := run.with_name("twin"))
            with monkeypatch.context() as patch:
                patch.setattr(Path, "open", open_full)
                opt = parse_train(["--resume", "--name", "twin", "--max_steps", "10"])
                code = run_script(train.main, opt)
            wanted = 1 + (name == "options.json")  # before the first step
            said = capsys.readouterr().err
            wrong = complaints(code, said, wanted, "No space left", f"checkpoints/twin/{name}")
            wrong += "; changed" if files(twin)[name] != before[name] else ""
            wrong += "; a part is left" if list(twin.glob(".*.part")) else ""
            tensorfile.load(twin / "latest_state.pth")
            cases.check(not wrong, f"{name} with room for {room}: {wrong}")
            shutil.rmtree(twin)


# ----------------------------------------------------------------------------------------------------- damage


def forms(whole: bytes) -> dict[str, bytes]:
    """Sixteen ways in which a file goes bad."""
    middle = len(whole) // 2 - 2048
    other = io.BytesIO()
    torch.save({"weights": torch.ones(3), "step": 4}, other)
    cuts = {f"cut at {part:.2%}": whole[: int(part * len(whole))] for part in (0.001, 0.1, 0.5, 0.9, 0.99)}
    return {
        "empty": b"",
        "1 byte": whole[:1],
        **cuts,
        "cut at 99.99%": whole[: min(int(0.9999 * len(whole)), len(whole) - 1)],
        "zeros": bytes(len(whole)),
        "random": random.Random(1).randbytes(len(whole)),
        "text": b"epoch 3, loss 0.01\n" * 99,
        "html": b"<!DOCTYPE html><html><body>404: not found</body></html>\n",
        "leading junk": b"HTTP/1.1 200 OK\r\n\r\n" + whole,
        "tail zeroed": whole[:-4096] + bytes(4096),
        "middle zeroed": whole[:middle] + bytes(4096) + whole[middle + 4096 :],
        "wrong dict": other.getvalue(),
    }


@pytest.mark.risk(4)
def test_a_damaged_state_is_seen_and_the_one_before_it_taken(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], cases: Cases
) -> None:
    run = trained(*RUN, "--max_steps", "8", "--save_freq", "1")  # epoch 1 ends with step 5
    whole = (run / "latest_state.pth").read_bytes()
    assert torch.load(run / "previous_state.pth", weights_only=True)["step"] == 5
    damaged = forms(whole)
    assert len(damaged) == 16 and len(set(damaged.values())) == 16
    for form, content in damaged.items():
        twin = Path(shutil.copytree(run, tmp_path / "checkpoints" / "twin"))
        for tag in ("latest", "epoch_0001"):
            (twin / f"{tag}_state.pth").write_bytes(content)
        with pytest.raises(UserError):
            checkpoint.readable(twin / "latest_state.pth")
        with pytest.raises(UserError, match="epoch_0001_state") as caught:
            trained("--epoch", "1", name="twin")
        capsys.readouterr()
        trained("--resume", "--max_steps", "6", name="twin")
        said = capsys.readouterr().err
        told = "skipped: " in said and "latest_state.pth" in said and "steps 5 to 6" in said
        steps = [tensorfile.load(twin / f"{tag}_state.pth")["step"] for tag in ("latest", "previous")]
        aside = twin / "latest_state.pth.damaged"
        good = told and steps == [6, 5] and caught.value.code == 2 and aside.read_bytes() == content
        cases.check(good, f"{form}: {steps} {said[-300:]}")
        shutil.rmtree(twin)


@pytest.mark.risk(4)
def test_one_flipped_bit_anywhere_is_seen(trained: Trained, tmp_path: Path, cases: Cases) -> None:
    path = trained(*RUN, "--max_steps", "3") / "latest_state.pth"
    whole, sound = path.read_bytes(), tensorfile.load(path)
    bits, harmless = 8 * len(whole), 0
    for flip in range(200):
        bit = (flip * bits) // 200 + random.Random(flip).randrange(bits // 200)
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        try:
            read = tensorfile.load(path)
        except UserError as refusal:
            cases.check(str(path) in refusal.what and "\n" not in refusal.why, f"bit {bit}: {refusal}")
            continue
        harmless += 1
        cases.check(same(read, sound), f"bit {bit} gives other values")
    assert harmless < 50


@pytest.mark.risk(4)
def test_the_state_of_another_run_is_named(
    nursery: Nursery, trained: Trained, tmp_path: Path, cases: Cases
) -> None:
    other = trained(*RUN, "--max_steps", "3", "--width", "6", name="other")
    deep = trained(*RUN, "--max_steps", "3", "--depth", "4", name="deep")
    run = trained(*RUN, "--max_steps", "3")
    for wrong_one in (other, deep):
        shutil.copy(wrong_one / "latest_state.pth", run)
        code, said = nursery.call(tmp_path, "train", "--resume", "--name", "run", "--max_steps", "5")
        wrong = complaints(code, said, 2, "run/latest_state.pth")
        cases.check(not wrong, wrong)


@pytest.mark.risk(24)
def test_options_that_cannot_be_read_are_named(
    nursery: Nursery, trained: Trained, tmp_path: Path, cases: Cases
) -> None:
    file = trained(*RUN, "--max_steps", "3") / "options.json"
    sound = file.read_bytes()
    contents = [b"", sound[: len(sound) // 2], sound[:-1], b"[1]", b"\xff\xfe{}", b"[" * 100_000]
    for content in contents:
        file.write_bytes(content)
        for script, *flags in (("train", "--resume"), ("test",)):
            code, said = nursery.call(tmp_path, script, *flags, "--name", "run")
            wrong = complaints(code, said, 2, "checkpoints/run/options.json")
            cases.check(not wrong, f"{content[:20]!r}: {wrong}")
    file.write_bytes(sound)
    code, said = nursery.call(tmp_path, "train", "--resume", "--name", "run", "--max_steps", "4")
    assert code == 0, said


# ---------------------------------------------------------------------------------------------- hostile files


class Evaluated:
    """Unpickled, it evaluates a text."""

    def __init__(self, marker: Path):
        self.text = f"open({str(marker)!r}, 'w').close()"

    def __reduce__(self) -> Any:
        return eval, (self.text,)


def legacy_tar(path: Path, payload: Any) -> None:
    """The format of torch before 0.1.10, which had a way round weights_only."""
    with tarfile.open(path, "w") as tar:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            content = pickle.dumps(payload if name == "pickle" else 0, protocol=2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def torchscript(path: Path, payload: Any) -> None:
    """A scripted module with a pickle of the payload as one of its members."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is deprecated; its files are still about
        torch.jit.save(torch.jit.script(nn.Conv2d(3, 3, 3)), path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{path.stem}/extra/data.pkl", pickle.dumps(payload))


def hostile(name: str, path: Path, marker: Path) -> None:
    """Write a file whose unpickling makes `marker`."""
    payload, weights = Payload(marker), small_net().state_dict()
    if name == "eval":
        torch.save({"net": weights, "x": Evaluated(marker)}, path)
    elif name == "module":
        net = small_net()
        net.extra = payload
        torch.save(net, path)
    elif name == "Namespace":
        torch.save({"net": weights, "opt": argparse.Namespace(lr=payload)}, path)
    elif name == "numpy":
        torch.save({"net": weights, "x": np.array([payload], dtype=object)}, path)
    elif name == "torchscript":
        torchscript(path, payload)
    elif name == "legacy tar":
        legacy_tar(path, payload)
    elif name == "protocol 0":
        path.write_bytes(pickle.dumps({"net": 0, "x": payload}, protocol=0))
    else:
        torch.save({"net": weights, "x": payload}, path)


HOSTILE = ("os.system", "eval", "module", "Namespace", "numpy", "torchscript", "legacy tar", "protocol 0")


@pytest.mark.risk(19)
def test_a_file_that_wants_to_run_code_never_does(
    nursery: Nursery, trained: Trained, tmp_path: Path, cases: Cases
) -> None:
    run, marker, file = trained(*RUN, "--max_steps", "3"), tmp_path / "ran", tmp_path / "hostile.pth"
    (run / "previous_state.pth").unlink()
    for name in HOSTILE:
        hostile(name, file, marker)
        shutil.copy(file, run / "latest_state.pth")
        shutil.copy(file, run / "best_net.pth")
        new = ("--dataroot", "demo:8:40", *NET, "--name", "new", "--visdom", "off")
        for script, named, *flags in (
            ("train", "latest_state.pth", "--resume", "--name", "run"),
            ("train", "hostile.pth", *new, "--weights", "hostile.pth"),
            ("test", "best_net.pth", "--name", "run"),
        ):
            code, said = nursery.call(tmp_path, script, *flags)
            wrong = complaints(code, said, 2, named) + "; it ran" * marker.exists()
            wrong += "; a run was begun" * (tmp_path / "checkpoints" / "new").exists()
            cases.check(not wrong, f"{name} as {named}: {wrong}")


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in ("torchscript", "legacy tar")])
def test_the_hostile_files_are_real_ones(tmp_path: Path, name: str) -> None:
    file, marker = tmp_path / "hostile.pth", tmp_path / "ran"
    hostile(name, file, marker)
    if name == "protocol 0":
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert marker.exists()


# -------------------------------------------------------------------------------------------- foreign weights


def change_of(state: dict[str, torch.Tensor]) -> dict[str, tuple[dict[str, torch.Tensor], str]]:
    """Weights as others save them, and what is said of them; a fault where nothing is loaded."""
    first = next(iter(state))
    others = {key: value for key, value in state.items() if key != first}
    bent = {first: state[first].flatten()[:-1], **others}
    return {
        "ddp": ({f"module.{k}": v for k, v in state.items()}, "stripped module."),
        "compiled": ({f"_orig_mod.module.{k}": v for k, v in state.items()}, "stripped _orig_mod.module."),
        "average": (
            {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in state.items()}},
            "left out n_averaged",
        ),
        "missing": (others, f"1 missing: {first}"),
        "extra": ({**state, "head.bias": torch.ones(2)}, "1 unexpected: head.bias"),
        "shape": (bent, f"1 of another shape: {first}"),
    }


@pytest.mark.risk(20)
def test_weights_under_other_names_load_or_the_names_are_listed(
    nursery: Nursery, trained: Trained, tmp_path: Path, cases: Cases
) -> None:
    run = trained(*RUN, "--max_steps", "3")
    changes = change_of(torch.load(run / "best_net.pth", weights_only=True))
    for name, (state, said_of_it) in changes.items():
        torch.save(state, run / "best_net.pth")
        shutil.copy(run / "best_net.pth", tmp_path / "best_net.pth")
        flags = (*RUN, "--max_steps", "3", "--weights", "best_net.pth", "--name", name)
        bad = "1 " in said_of_it
        for script, *given in (("train", *flags), ("test", "--name", "run", "--visdom", "off")):
            code, said = nursery.call(tmp_path, script, *given)
            wrong = complaints(code, said, 2, "best_net.pth", said_of_it) if bad else ""
            fine = (code == 0 and said_of_it in said) if not bad else not wrong
            cases.check(fine, f"{name} in {script}: {code} {said[-400:]}")


# ---------------------------------------------------------------------------------------------- other devices


def move_to(path: Path, device: str) -> None:
    """Rewrite a file as one that was saved on another device."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if name.endswith("/data.pkl"):
                assert content.count(b"X\3\0\0\0cpu") == 1
                tag = b"X" + len(device).to_bytes(4, "little") + device.encode()
                content = content.replace(b"X\3\0\0\0cpu", tag)
            archive.writestr(name, content)


@pytest.mark.risk(21)
@pytest.mark.parametrize("device", ["cuda:7", "cuda", "mps", "xpu:0"])
def test_files_of_another_device_go_on_here(trained: Trained, device: str) -> None:
    # no validation: the shorter run has one more, at its end, which may be the best
    flags = (*RUN, "--schedule", "step", "--warmup", "0.2", "--val_share", "0")
    whole = trained(*flags, "--max_steps", "6", name="whole")
    run = trained(*flags, "--max_steps", "3")
    for name in ("latest_state.pth", "best_net.pth"):
        move_to(run / name, device)
        if device == "cuda:7":
            with pytest.raises(
                RuntimeError, match="CUDA"
            ):  # the tag is believed where nothing says otherwise
                torch.load(run / name, weights_only=True)
    loaded = tensorfile.load(run / "best_net.pth")
    assert all(value.device.type == "cpu" for value in loaded.values())
    trained("--resume", "--max_steps", "6")
    assert digest(run) == digest(whole)


@pytest.mark.risk(21)
def test_every_file_is_read_onto_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen, honest = tmp_path / "net.pth", [], torch.load
    tensorfile.save({"x": torch.ones(2), "y": math.pi}, path)

    def load(*given: Any, **named: Any) -> Any:
        seen.append((named["map_location"], named["weights_only"]))
        return honest(*given, **named)

    monkeypatch.setattr(torch, "load", load)
    tensorfile.load(path)
    tensorfile.load(path, older=True)
    assert seen == [("cpu", True)] * 2


@pytest.mark.risk(2)
def test_a_run_has_one_name_for_each_state(tmp_path: Path) -> None:
    """What was set aside is no state to go on from."""
    run = Run(tmp_path)
    tensorfile.save({"format": checkpoint.FORMAT, "step": 3}, run.state("latest"))
    run.set_latest_aside()
    run.set_latest_aside()
    assert run.states() == [] and (tmp_path / "latest_state.pth.damaged").is_file()
