"""What is on the disk: runs that resume bit-exactly, atomic files, damaged and hostile files."""

import argparse
import errno
import io
import math
import os
import pickle
import random
import shutil
import signal
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.builders import ROOT, Payload, assert_same_state, damaged, same_state, small_net, tree, words
from tests.cli import InProcess, Workplace, reached, state, step_of, weights
from tests.cuts import EVERY_STEP, content, cut_everywhere
from tests.harness import Cases
from tests.seams import replace_loss, wrap
from utils.optim.schedules import SCHEDULES
from utils.run import checkpoint
from utils.run.run import Run
from utils.system import tensorfile
from utils.system.errors import UserError

STEPS = 18
NET = words("--model dncnn --depth 3 --width 4 --lr 0.01 --gpu_ids -1")
RUN = (  # BatchNorm, EMA, warm-up, augmentation, validations; epochs of 5 steps
    *("--dataroot", "demo:8:40", *NET),
    *words("--crop_size 24 --batchSize 4 --augment flip_rot90 --ema 0.9 --warmup 0.5 --schedule cosine"),
    *words("--n_epochs 18 --val_freq 2 --log_freq 1 --visdom off --seed 5 --amp off --max_steps"),
    str(STEPS),
)
THREE = (*RUN, "--max_steps", "3")


# ----------------------------------------------------------------------------------------- a run that resumes


@pytest.mark.risk(1)
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_cut_after_any_step_ends_with_the_same_bits(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, cases: Cases, workers: str
) -> None:
    """Unless a part of the state is that of another step: what is compared depends on each of them."""
    whole, cuts = cut_everywhere(cli, monkeypatch, (*RUN, "--num_workers", workers), STEPS)
    for part in ("net", "ema", "optimizer_G"):
        cut = Path(shutil.copytree(cuts[7], whole.with_name(f"other_{part}")))
        tensorfile.save(state(cut) | {part: state(cuts[1])[part]}, cut / "latest_state.pth")
        cli.train("--resume", name=cut.name)
        cases.check(step_of(cut) == STEPS and not same_state(content(cut), content(whole)), part)
    for cut in cuts[:-1]:
        cli.train("--resume", "--save_minutes", "5", name=cut.name)
        cases.check(same_state(content(cut), content(whole)), cut.name)


@pytest.mark.risk(1)
@pytest.mark.parametrize("flags", [("--accum", "2"), ("--amp", "on")])
def test_split_batches_and_half_precision_resume_exactly(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, cases: Cases, flags: tuple[str, ...]
) -> None:
    whole, cuts = cut_everywhere(cli, monkeypatch, (*RUN, *flags), STEPS)
    assert not same_state(content(cli.train(*RUN, name="plain").run), content(whole))  # it has an effect
    for step in (2, 5, 13):
        cli.train("--resume", "--save_minutes", "5", name=cuts[step].name)
        cases.check(same_state(content(cuts[step]), content(whole)), f"{flags} cut after step {step}")


def stop_after(calls: int) -> Any:
    """Send a signal in a step of this process."""

    def change(call: int, loss: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        if call == calls:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    return change


@pytest.mark.risk(1)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_all_schedules_resume_exactly(cli: InProcess, monkeypatch: pytest.MonkeyPatch, schedule: str) -> None:
    """Stopped twice by a signal, so that the plan for all steps stays the same."""
    flags = (*RUN, *words("--step_size 1 --milestones 1,3 --gamma 0.7 --schedule"), schedule)
    whole = cli.train(*flags, name="whole").run
    for calls, start in ((4, flags), (6, ("--resume",))):
        with monkeypatch.context() as patch:
            replace_loss(stop_after(calls), patch)
            cut = cli.train(*start, name="cut", code=143).run
    assert step_of(cut) == 10
    cli.train("--resume", name="cut")
    assert_same_state(content(cut), content(whole))


@pytest.mark.risk(1)
def test_a_run_killed_ten_times_ends_with_the_same_bits(work: Workplace) -> None:
    """At a moment of its start or its steps; its steps last 1 s more than the ten parts."""
    flags, rng = (*RUN, *EVERY_STEP, "--n_epochs", "60", "--max_steps", "300"), random.Random()
    whole, cut = work.train(*flags, name="whole").run, work.run("cut")
    for kill in range(10):
        job = work.start("train.py", *(flags if not kill else ("--resume",)), name="cut")
        moment = time.monotonic() + (rng.uniform(0, 0.6) if kill % 3 else 60)
        job.until(lambda at=moment, step=16 * kill + 3: time.monotonic() > at or reached(cut, step))
        time.sleep(0 if kill % 3 else rng.uniform(0, 0.02))
        job.kill()
        job.wait(-signal.SIGKILL)
    work.train("--resume", name="cut")
    assert_same_state(content(cut), content(whole))


@pytest.mark.risk(1)
@pytest.mark.dist
def test_two_processes_resume_exactly(work: Workplace) -> None:
    flags = (*RUN, *EVERY_STEP)
    whole = work.train_by_two(*flags, name="whole").run
    for start, step in ((flags, 3), (("--resume",), 9)):
        jobs = work.start_two(*start, name="cut")
        jobs[0].until_step(step)
        jobs[1].signal(signal.SIGTERM)  # to one; both stop after the same step
        assert [job.wait(None).code for job in jobs] == [143, 143]
        assert step <= step_of(jobs[0].run) < STEPS
    assert_same_state(content(work.train_by_two("--resume", name="cut").run), content(whole))


# ---------------------------------------------------------------------------------------------- atomic writes


SAVE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.seams import save_for_ever
save_for_ever(sys.argv[1])
"""


@pytest.mark.risk(2)
def test_a_kill_while_saving_leaves_a_whole_file(work: Workplace, tmp_path: Path, cases: Cases) -> None:
    program = tmp_path / "save.py"
    program.write_text(SAVE)
    path, part, rng = tmp_path / "net.pth", tmp_path / ".net.pth.part", random.Random()
    newest = halves = 0
    for _ in range(25):
        job = work.python([str(program), str(newest + 1)])
        before = path.stat().st_mtime_ns if path.is_file() else 0
        job.until(lambda before=before: path.is_file() and path.stat().st_mtime_ns != before)
        time.sleep(rng.uniform(0, 0.02))
        job.kill()
        job.wait(-signal.SIGKILL)
        halves += part.is_file()
        held = tensorfile.load(path)
        whole = all(bool((x == held["n"]).all()) for x in held["x"])
        cases.check(whole and held["n"] > newest, f"{held['n']} after {newest}")
        newest = held["n"]
    assert halves, "no kill came while a file was being written"


@pytest.mark.risk(2)
def test_what_a_killed_process_was_writing_is_swept(cli: InProcess) -> None:
    run = cli.train(*THREE).run
    for name in ("latest_state.pth", "best_net.pth", "options.json"):
        (run / f".{name}.part").write_bytes(b"half")
    cli.train("--resume", "--max_steps", "4")
    assert not [*run.glob(".*.part")]


@pytest.mark.risk(2)
def test_a_run_has_one_name_for_each_state(tmp_path: Path) -> None:
    """What was set aside is no state to resume from."""
    run = Run(tmp_path)
    for _ in range(2):
        tensorfile.save({"format": checkpoint.FORMAT}, run.state("latest"))
        with ExitStack() as cleanup:
            run.open(cleanup, {}, 0, resumed_from=run.state("previous"))
    assert run.states() == [] and (tmp_path / "latest_state.pth.damaged").is_file()


# ---------------------------------------------------------------------------------------------- the full disk

WRITTEN_BEFORE = {*words("status.json log.jsonl options.json .lock latest_net.pth previous_state.pth")}


@pytest.mark.risk(3)
def test_a_size_limit_ends_the_run_and_leaves_older_files(
    work: Workplace, cli: InProcess, cases: Cases
) -> None:
    run = cli.train(*RUN, "--max_steps", "8").run
    size, log = (run / "latest_state.pth").stat().st_size, run / "log.jsonl"
    for what, limit in (
        ("options.json", 100),
        ("_net.pth", (run / "latest_net.pth").stat().st_size // 2),
        ("latest_state.pth", size // 2),
        ("latest_state.pth", size - 1),
        ("checkpoints/run", 0),  # the log, which only grows
    ):
        before, may_change = tree(run), WRITTEN_BEFORE
        if not limit:
            first = log.read_text().splitlines()[0]
            with log.open("a") as file:
                file.write(f"{first}\n" * (1 + 2 * size // 100))
            limit, may_change = log.stat().st_size + 10, {*before}
        code = 1 + (what == "options.json")
        before_it = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
        ended = work.train("--resume", "--max_steps", "18", *EVERY_STEP, before=before_it, code=None)
        wrong, after = ended.complaint("fix:", "File too large", what, code=code), tree(run)
        changed = [name for name in before.keys() - may_change if before[name] != after[name]]
        wrong += f"; {changed} changed" if changed else ""
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
@pytest.mark.parametrize(
    "name", words("latest_net.pth latest_state.pth best_net.pth status.json options.json")
)
def test_a_full_disk_ends_the_run_and_leaves_the_older_files(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, cases: Cases, name: str
) -> None:
    run = cli.train(*RUN, "--max_steps", "8").run
    size, before = (run / "latest_state.pth").stat().st_size, tree(run)
    code = 1 + (name == "options.json")  # before the first step
    for room in (0, 500, size // 2, size - 1):
        if room >= (run / name).stat().st_size:
            continue

        def open_full(honest: Any, path: Path, *given: Any, left: int = room, **named: Any) -> Any:
            if path.name != f".{name}.part":
                return honest(path, *given, **named)
            file = Full(path, "w")
            file.room = left
            return file

        shutil.copytree(run, twin := run.with_name("twin"))
        with monkeypatch.context() as patch:
            wrap("open", open_full, patch)
            ended = cli.train("--resume", "--max_steps", "10", name="twin", code=None)
        wrong = ended.complaint("fix:", "No space left", f"checkpoints/twin/{name}", code=code)
        wrong += "; changed" if tree(twin)[name] != before[name] else ""
        wrong += "; a part is left" if list(twin.glob(".*.part")) else ""
        tensorfile.load(twin / "latest_state.pth")
        cases.check(not wrong, f"{name} with room for {room}: {wrong}")
        shutil.rmtree(twin)


# ----------------------------------------------------------------------------------------------------- damage


@pytest.mark.risk(4)
def test_a_damaged_state_is_skipped_for_the_one_before(cli: InProcess, tmp_path: Path, cases: Cases) -> None:
    run = cli.train(*RUN, "--max_steps", "8", "--save_freq", "1").run  # epoch 1 ends with step 5
    assert step_of(run, "previous") == 5
    other = io.BytesIO()
    torch.save({"weights": torch.ones(3), "step": 4}, other)
    forms = damaged((run / "latest_state.pth").read_bytes()) | {"another dict": other.getvalue()}
    for form, bad in forms.items():
        twin = Path(shutil.copytree(run, run.with_name("twin")))
        for tag in ("latest", "epoch_0001"):
            (twin / f"{tag}_state.pth").write_bytes(bad)
        with pytest.raises(UserError):
            checkpoint.read_state(twin / "latest_state.pth")
        assert cli.train("--epoch", "1", name="twin", code=2).refused("epoch_0001_state")
        said = cli.train("--resume", "--max_steps", "6", name="twin").err
        told = "skipped: " in said and "latest_state.pth" in said and "steps 5 to 6" in said
        steps = [step_of(twin, tag) for tag in ("latest", "previous")]
        aside = (twin / "latest_state.pth.damaged").read_bytes()
        cases.check(told and steps == [6, 5] and aside == bad, f"{form}: {steps} {said[-300:]}")
        shutil.rmtree(twin)


@pytest.mark.risk(4)
def test_one_flipped_bit_anywhere_is_seen(cli: InProcess, cases: Cases) -> None:
    path = cli.train(*THREE, "--width", "16").run / "latest_state.pth"
    whole, sound = path.read_bytes(), tensorfile.load(path)
    bits, harmless = 8 * len(whole), 0
    for flip in range(200):
        bit = (flip * bits) // 200 + random.Random(flip).randrange(bits // 200)
        bad = bytearray(whole)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        try:
            read = tensorfile.load(path)
        except UserError as error:
            cases.check(str(path) in error.what and "\n" not in error.why, f"bit {bit}: {error}")
        else:
            harmless += 1
            cases.check(same_state(read, sound), f"bit {bit} gives other values")
    assert harmless < 50


@pytest.mark.risk(4)
def test_every_flipped_bit_of_the_directory_of_a_file_is_seen_or_harmless(tmp_path: Path) -> None:
    """The directory at the end of the zip has no checksum: names, sizes, attributes, places of tensors."""
    path = tmp_path / "state.pth"
    torch.save({f"{i}": torch.arange(4) + i for i in range(3)}, path)
    whole, sound = path.read_bytes(), tensorfile.load(path)
    wrong = []
    for bit in range(8 * whole.index(b"PK\1\2"), 8 * len(whole)):
        bad = bytearray(whole)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with suppress(UserError):
            wrong += [bit] * (not same_state(tensorfile.load(path), sound))
    assert not wrong


@pytest.mark.risk(4)
def test_the_state_of_another_run_is_named(cli: InProcess) -> None:
    run = cli.train(*THREE).run
    for change in (("--width", "6"), ("--depth", "4")):
        shutil.copy(cli.train(*THREE, *change, name=f"other{change[0]}").run / "latest_state.pth", run)
        assert cli.train("--resume", "--max_steps", "5", code=2).refused("fix:", "run/latest_state.pth")


@pytest.mark.risk(24)
def test_options_that_cannot_be_read_are_named(cli: InProcess, cases: Cases) -> None:
    file = cli.train(*THREE).run / "options.json"
    sound = file.read_bytes()
    for bad in (b"", sound[: len(sound) // 2], sound[:-1], b"[1]", b"\xff\xfe{}", b"[" * 100_000):
        file.write_bytes(bad)
        for ended in (cli.train("--resume", code=None), cli.test(code=None)):
            wrong = ended.complaint("fix:", "checkpoints/run/options.json")
            cases.check(not wrong, f"{bad[:20]!r}: {wrong}")
    file.write_bytes(sound)
    cli.train("--resume", "--max_steps", "4")


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
            data = pickle.dumps(payload if name == "pickle" else 0, protocol=2)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def torchscript(path: Path, payload: Any) -> None:
    """A scripted module with a pickle of the payload as one of its members."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is deprecated; its files are still about
        torch.jit.save(torch.jit.script(nn.Conv2d(3, 3, 3)), path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{path.stem}/extra/data.pkl", pickle.dumps(payload))


def module(path: Path, payload: Any) -> None:
    net = small_net()
    net.extra = payload
    torch.save(net, path)


def as_dict(value: Callable[[Any], Any]) -> Callable[[Path, Any], None]:
    return lambda path, payload: torch.save({"net": small_net().state_dict(), "x": value(payload)}, path)


HOSTILE: dict[str, Callable[[Path, Any], None]] = {  # write a file that holds a payload
    "plain": as_dict(lambda payload: payload),
    "Namespace": as_dict(lambda payload: argparse.Namespace(lr=payload)),
    "numpy": as_dict(lambda payload: np.array([payload], dtype=object)),
    "module": module,
    "torchscript": torchscript,
    "legacy tar": legacy_tar,
    "protocol 0": lambda path, payload: path.write_bytes(pickle.dumps({"x": payload}, protocol=0)),
}
PAYLOADS = [("plain", Evaluated), *[(form, Payload) for form in HOSTILE]]


@pytest.mark.risk(19)
@pytest.mark.parametrize(("form", "payload"), PAYLOADS)
def test_a_file_that_wants_to_run_code_never_does(
    cli: InProcess, tmp_path: Path, cases: Cases, form: str, payload: Callable[[Path], Any]
) -> None:
    run, marker, file = cli.train(*THREE).run, tmp_path / "ran", tmp_path / "hostile.pth"
    (run / "previous_state.pth").unlink()
    HOSTILE[form](file, payload(marker))
    shutil.copy(file, run / "latest_state.pth")
    shutil.copy(file, run / "best_net.pth")
    new = ("--dataroot", "demo:8:40", *NET, "--visdom", "off", "--weights", "hostile.pth")
    for named, ended in (
        ("latest_state.pth", cli.train("--resume", code=None)),
        ("hostile.pth", cli.train(*new, name="new", code=None)),
        ("best_net.pth", cli.test(code=None)),
    ):
        wrong = ended.complaint("fix:", named) + "; it ran" * marker.exists()
        wrong += "; a run was begun" * (tmp_path / "checkpoints" / "new").exists()
        cases.check(not wrong, f"{form} as {named}: {wrong}")
    if form == "protocol 0":  # the payload is a real one
        pickle.loads(file.read_bytes())
    elif form not in ("torchscript", "legacy tar"):
        torch.load(file, weights_only=False)
    assert marker.exists() or form in ("torchscript", "legacy tar")


# -------------------------------------------------------------------------------------------- foreign weights


def changes_of(net: dict[str, torch.Tensor]) -> list[tuple[dict[str, torch.Tensor], str, int]]:
    """Weights in third-party forms, the line that describes them, and the exit code."""
    first = next(iter(net))
    others = {key: value for key, value in net.items() if key != first}
    ddp, bent = {f"module.{k}": v for k, v in net.items()}, {first: net[first].flatten()[:-1]}
    return [
        (ddp, "stripped module.", 0),
        ({f"_orig_mod.{k}": v for k, v in ddp.items()}, "stripped _orig_mod.module.", 0),
        ({"n_averaged": torch.tensor(3), **ddp}, "left out n_averaged", 0),
        (others, f"1 missing: {first}", 2),
        ({**net, "head.bias": torch.ones(2)}, "1 unexpected: head.bias", 2),
        (bent | others, f"1 of another shape: {first}", 2),
    ]


@pytest.mark.risk(20)
def test_weights_under_other_names_load_or_are_listed(cli: InProcess, tmp_path: Path, cases: Cases) -> None:
    run = cli.train(*THREE).run
    for number, (net, said_of_it, code) in enumerate(changes_of(weights(run, "best"))):
        torch.save(net, run / "best_net.pth")
        shutil.copy(run / "best_net.pth", tmp_path / "best_net.pth")
        flags = (*THREE, "--weights", "best_net.pth")
        for ended in (cli.train(*flags, name=f"new{number}", code=code), cli.test(code=code)):
            fine = ended.refused("fix:", "best_net.pth", said_of_it) if code else said_of_it in ended.err
            cases.check(fine, f"{said_of_it}: {ended.err[-400:]}")


# ---------------------------------------------------------------------------------------------- other devices


def move_to(path: Path, device: str) -> None:
    """Rewrite a file as one that was saved on another device."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            if name.endswith("/data.pkl"):
                assert data.count(b"X\3\0\0\0cpu") == 1
                tag = b"X" + len(device).to_bytes(4, "little") + device.encode()
                data = data.replace(b"X\3\0\0\0cpu", tag)
            archive.writestr(name, data)


@pytest.mark.risk(21)
def test_files_of_another_device_resume_here(cli: InProcess) -> None:
    # no validation: the shorter run has one more, at its end, which may be the best
    flags = (*RUN, "--schedule", "step", "--warmup", "0.2", "--val_share", "0")
    whole = cli.train(*flags, "--max_steps", "6", name="whole").run
    three = cli.train(*flags, "--max_steps", "3").run
    for device in ("cuda:7", "cuda", "mps", "xpu:0"):
        run = Path(shutil.copytree(three, three.with_name(device.replace(":", ""))))
        for name in ("latest_state.pth", "best_net.pth"):
            move_to(run / name, device)
            if device == "cuda:7":  # torch follows the tag unless a device is given
                with pytest.raises(RuntimeError, match="CUDA"):
                    torch.load(run / name, weights_only=True)
        loaded = tensorfile.load(run / "best_net.pth")
        assert all(value.device.type == "cpu" for value in loaded.values())
        cli.train("--resume", "--max_steps", "6", name=run.name)
        assert_same_state(content(run), content(whole), device)


@pytest.mark.risk(21)
def test_every_file_is_read_onto_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "net.pth", []
    tensorfile.save({"x": torch.ones(2), "y": math.pi}, path)

    def load(honest: Any, *given: Any, **named: Any) -> Any:
        seen.append((named["map_location"], named["weights_only"]))
        return honest(*given, **named)

    wrap("load", load, monkeypatch)
    tensorfile.load(path)
    tensorfile.load(path, older=True)
    assert seen == [("cpu", True)] * 2
