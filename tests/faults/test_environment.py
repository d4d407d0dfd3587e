"""Where the scripts are started: signals of the group, missing programs, odd file systems, edited files."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.builders import FAST, TINY, TINY_NET, assert_same_state, image, save, words, write_trained
from tests.cli import InProcess, Workplace, children, options, step_of, wait_until, weights
from utils.run.checkpoint import find_state
from utils.run.log import read_log
from utils.run.run import Run
from utils.system.errors import printable

LONG = (*TINY, *FAST, "--n_epochs", "4000", "--repeat", "100", "--save_minutes", "60", "--val_share", "0")


# ----------------------------------------------------------------------------------------- signals to a group


@pytest.mark.risk(27)
@pytest.mark.parametrize("ignored", [(signal.SIGHUP,), (signal.SIGINT,), (signal.SIGHUP, signal.SIGINT)])
def test_what_was_ignored_at_the_start_stays_ignored(work: Workplace, ignored: tuple[int, ...]) -> None:
    """SIGHUP by nohup, SIGINT by a shell that starts it in the background; other signals still stop it."""
    before = "import signal; " + "; ".join(f"signal.signal({int(n)}, signal.SIG_IGN)" for n in ignored)
    job = work.start("train.py", *LONG, before=before)
    job.until_step(3)
    for number in ignored:
        job.signal(number)
    job.until_step(step_of_log(job.run) + 20)
    assert job.running()
    job.signal(signal.SIGTERM)
    assert job.wait(143).code == 143


def step_of_log(run: Path) -> int:
    return max(record["step"] for record in read_log(run / "log.jsonl"))


GROUP = "import os; os.setsid()\n"
SPAWN = "import multiprocessing; multiprocessing.set_start_method('spawn')\n"


@pytest.mark.risk(27)
@pytest.mark.parametrize(
    ("number", "start"), [(signal.SIGTERM, ""), (signal.SIGHUP, ""), (signal.SIGINT, SPAWN)]
)
def test_a_signal_to_the_group_stops_the_script_not_its_loaders(
    work: Workplace, number: int, start: str
) -> None:
    """From timeout(1), Slurm, systemd, a terminal: loader processes get it, too, and must not end first."""
    job = work.start("train.py", *LONG, "--num_workers", "2", "--log_freq", "1", before=GROUP + start)
    job.until_step(3)
    loaders = children(job.pid)
    os.killpg(job.pid, number)
    assert job.wait(128 + number).code == 128 + number
    assert step_of(job.run) >= 3
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in loaders))


@pytest.mark.risk(27)
def test_no_loader_outlives_a_script_that_is_killed(work: Workplace) -> None:
    job = work.start("train.py", *LONG, "--num_workers", "2")
    job.until_step(3)
    loaders = children(job.pid)
    job.signal(signal.SIGKILL)
    job.wait(-signal.SIGKILL)
    assert loaders
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in loaders), seconds=2)


@pytest.mark.slow
@pytest.mark.risk(27)
@pytest.mark.parametrize(
    ("workers", "start", "times", "group"),
    [("1", "", 1, True), ("2", SPAWN, 1, True), ("1", "", 1, False), ("1", "", 2, True)],
    ids=["fork", "spawn", "the script alone", "twice"],
)
def test_the_time_of_ctrl_z_is_no_silence_of_a_loader(
    work: Workplace, workers: str, start: str, times: int, group: bool
) -> None:
    limit_s = 12 if start else 3  # a spawned process imports torch before it answers
    slow = ("--degrade", "blur:60", "--num_workers", workers, "--timeout", f"{limit_s}", "--log_freq", "1")
    job = work.start("train.py", *LONG, *slow, before=GROUP + start)
    job.until_step(3)
    send = os.killpg if group else os.kill
    for _ in range(times):
        send(job.pid, signal.SIGSTOP)
        time.sleep(limit_s + 2)
        send(job.pid, signal.SIGCONT)
        job.until_step(step_of_log(job.run) + 3)
    job.signal(signal.SIGTERM)
    assert job.wait(143).code == 143


SLOW_TEST = """
import time
from pathlib import Path
from tests.seams import wrap
calls = []
def slow(honest, *given):
    calls.append(1)
    if len(calls) == 3:
        Path("testing").touch()
    time.sleep(0.3)
    return honest(*given)
wrap("predict", slow)
"""


@pytest.mark.risk(27)
@pytest.mark.parametrize(
    ("number", "start"),
    [
        (signal.SIGTERM, ""),
        pytest.param(signal.SIGHUP, "", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, SPAWN, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_the_group_of_a_test_leaves_what_was_measured(
    work: Workplace, number: int, start: str
) -> None:
    write_trained(work.folder, *TINY_NET)
    flags = ("--dataroot", "demo:80:32", "--num_workers", "2")
    job = work.start("test.py", *flags, before=GROUP + start + SLOW_TEST)
    job.until((work.folder / "testing").exists)
    loaders = children(job.pid)
    os.killpg(job.pid, number)
    ended = job.wait(128 + number)
    assert loaders and "Traceback" not in ended.err and "of 30 images" in ended.err
    assert ended.summary["complete"] is False and 1 <= ended.summary["images"] == len(ended.rows) < 30
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in loaders))


AT_IMPORT = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
"""


@pytest.mark.risk(27)
@pytest.mark.parametrize("script", ["train.py", "test.py"])
@pytest.mark.parametrize("module", ["utils.options", "utils.options.flags", "torch", "models"])
def test_ctrl_c_at_an_import_ends_the_script_without_a_word(
    work: Workplace, script: str, module: str
) -> None:
    """Of the first module of all, in the first tenth of a second; while torch is imported; after it."""
    write_trained(work.folder, *TINY_NET)
    flags = (*TINY, *FAST, "--name", "new") if script == "train.py" else ("--dataroot", "demo:8:32")
    job = work.start(script, *flags, before=AT_IMPORT.format(module=module), fresh=True)
    ended = job.wait(-signal.SIGINT)
    assert ended.out + ended.err == "" and not (work.folder / "results").exists()


@pytest.mark.risk(27)
@pytest.mark.parametrize("script", ["train.py", "test.py"])
def test_ctrl_c_while_modules_are_imported_shows_no_traceback(work: Workplace, script: str) -> None:
    for delay in (0.15, 0.4, 0.8):
        job = work.start(script, *(TINY + FAST if script == "train.py" else ()), fresh=True)
        time.sleep(delay)
        if job.running():
            job.signal(signal.SIGINT)
        assert "Traceback" not in job.wait(None).err


# ------------------------------------------------------------------------------------------- what is missing


def failing(function: str, errno_name: str, only: str = "True") -> str:
    """Code that lets a function of a module raise an OSError where the expression `only` is true."""
    module, _, name = function.rpartition(".")
    return (
        f"import errno, os, stat, {module}\nhonest = {function}\n"
        f"def fail(*given, **named):\n"
        f"    if {only}: raise OSError(errno.{errno_name}, os.strerror(errno.{errno_name}))\n"
        f"    return honest(*given, **named)\n"
        f"{module}.{name} = fail\n"
    )


A_FOLDER = "stat.S_ISDIR(os.fstat(given[0]).st_mode)"
OPENS_A_FOLDER = "given[1] == os.O_RDONLY and os.path.isdir(given[0])"


@pytest.mark.risk(28)
@pytest.mark.parametrize(
    "before",
    [
        failing("fcntl.flock", "ENOSYS"),
        failing("fcntl.flock", "ENOTSUP"),
        failing("fcntl.flock", "ENOLCK"),
        failing("os.fsync", "EINVAL", A_FOLDER),
        failing("os.fsync", "ENOTSUP", A_FOLDER),
        failing("os.fsync", "ENOSYS", A_FOLDER),
        failing("os.open", "EACCES", OPENS_A_FOLDER),
        failing("os.open", "EISDIR", OPENS_A_FOLDER),
    ],
    ids=[
        *("flock ENOSYS", "flock ENOTSUP", "flock ENOLCK", "fsync EINVAL", "fsync ENOTSUP", "fsync ENOSYS"),
        *("open EACCES", "open EISDIR"),
    ],
)
def test_file_systems_without_locks_or_synced_folders_do(work: Workplace, before: str) -> None:
    ended = work.train(*TINY, *FAST, "--n_epochs", "1", before=before)
    assert (ended.run / "best_net.pth").is_file()


@pytest.mark.risk(28)
def test_an_error_of_the_disk_is_still_one(work: Workplace) -> None:
    before = failing("os.fsync", "EIO", A_FOLDER)
    ended = work.train(*TINY, *FAST, "--n_epochs", "1", before=before, code=None)
    assert ended.code != 0 and "cannot write" in ended.err


GITS = {  # a program of this name: the version that is noted
    "fails": ("#!/bin/sh\necho 'fatal: dubious ownership' >&2; exit 128\n", "none"),
    "is not executable": ("", "none"),
    "is no program": ("\0\0", "none"),
    "is killed": ("#!/bin/sh\nkill -9 $$\n", "none"),
    "hangs": ("#!/bin/sh\nexec /bin/sleep 60\n", "none"),
    "answers in Latin-1": ("#!/bin/sh\nprintf 'r\\351sum\\351-1\\n'\n", "r\ufffdsum\ufffd-1"),
}


@pytest.mark.risk(28)
@pytest.mark.parametrize("path", ["", "/nonexistent", *GITS])
def test_git_need_not_work(cli: InProcess, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    program, version = GITS.get(path, ("", "none"))
    if path in GITS:
        file = cli.folder / "bin" / "git"
        file.parent.mkdir()
        file.write_text(program)
        file.chmod(0o755 if program else 0o644)
    monkeypatch.setenv("PATH", str(cli.folder / "bin") if path in GITS else path)
    monkeypatch.setattr("utils.run.run.GIT_TIMEOUT_S", 0.5)
    ended = cli.train(*TINY, *FAST, "--max_steps", "1")
    assert options(ended.run)["versions"]["git"] == version
    assert cli.test("--visdom", "off").summary["versions"]["git"] == version


def no_lock(errno_name: str) -> str:
    """Code that lets every semaphore of multiprocessing fail."""
    return (
        "import errno, os, multiprocessing.synchronize as module\n"
        f"def fail(*given, **named): raise OSError(errno.{errno_name}, os.strerror(errno.{errno_name}))\n"
        "module.SemLock.__init__ = fail\n"
    )


NO_ROOM = "import shutil\nshutil.disk_usage = lambda path: shutil._ntuple_diskusage(65536, 61440, 4096)\n"


@pytest.mark.risk(28)
@pytest.mark.parametrize(
    "before",
    [NO_ROOM, no_lock("ENOSPC"), no_lock("EACCES")],
    ids=["little room", "no room for a lock", "not mounted"],
)
def test_without_shared_memory_images_are_loaded_in_the_main_process(work: Workplace, before: str) -> None:
    """/dev/shm is 64 MB in a container by default, and may be absent or read-only."""
    flags = (*TINY, *FAST, "--n_epochs", "1", "--num_workers", "2")
    ended, usual = work.train(*flags, before=before), work.at("usual").train(*flags)
    assert "/dev/shm is too small" in ended.err and "/dev/shm" not in usual.err
    assert_same_state(weights(ended.run), weights(usual.run))
    tested = work.test("--visdom", "off", "--num_workers", "2", before=before)
    assert ("/dev/shm is too small" in tested.err) == (before != NO_ROOM)  # whole images do not need its room


BROKEN_COMPILER = """#!/bin/sh
case "$*" in *--version*) echo "g++ 13.2.0"; exit 0;; esac
echo "fatal error: algorithm: No such file or directory" >&2; exit 1
"""


@pytest.mark.risk(28)
@pytest.mark.parametrize("compiler", ["", "#!/bin/sh\nexit 127\n", BROKEN_COMPILER])
def test_compile_without_a_working_compiler_is_refused_before_the_run(work: Workplace, compiler: str) -> None:
    program = work.folder / "g++"
    if compiler:
        program.write_text(compiler)
        program.chmod(0o755)
    variables = {"CXX": str(program), "TORCHINDUCTOR_CACHE_DIR": str(work.folder / "cache")}
    ended = work.train(*TINY, *FAST, "--compile", code=2, **variables)
    assert ended.refused("--compile") and "leave out --compile" in ended.err
    assert not ended.run.exists()


@pytest.mark.risk(28)
@pytest.mark.parametrize("script", ["train.py", "test.py"])
def test_other_systems_are_named_in_one_line(work: Workplace, script: str) -> None:
    """As on Windows, where Python has no fcntl, no resource and fewer signals."""
    before = (
        "import signal, sys\nsys.modules['fcntl'] = sys.modules['resource'] = None\n"
        "for name in ('SIGHUP', 'SIGUSR1', 'SIGALRM'): delattr(signal, name)\n"
    )
    ended = work.start(script, "--help", before=before, fresh=True).wait(2)
    assert "not supported" in ended.err and "WSL" in ended.err and "Traceback" not in ended.err


@pytest.mark.risk(28)
@pytest.mark.parametrize(
    "stray", [{"RANK": "1"}, {"LOCAL_RANK": "3"}, {"RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "1"}]
)
def test_ranks_left_in_the_environment_are_no_ranks(work: Workplace, stray: dict[str, str]) -> None:
    """One process is the first one, whatever another tool has left there."""
    ended = work.train(*TINY, *FAST, "--n_epochs", "1", **stray)
    assert (ended.run / "best_net.pth").is_file() and "best val PSNR" in ended.err


# ---------------------------------------------------------------------------------------------- edited files


@pytest.mark.risk(29)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("batchSize", value) for value in (None, [2], "4", 0, True)],
        *[("accum", [1]), ("dataroot", 5), ("model", {}), ("model", "vgg"), ("lr", "fast"), ("lr", -1)],
        *[("milestones", "20"), ("resume", 1), ("channels_last", "yes"), ("crop_size", -3), ("gpu_ids", 0)],
    ],
)
def test_a_saved_option_of_a_wrong_type_is_named(cli: InProcess, key: str, value: Any) -> None:
    shutil.copytree(Path(__file__).parent.parent / "fixtures" / "old_run", cli.folder / "checkpoints" / "run")
    file = cli.folder / "checkpoints" / "run" / "options.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    for ended in (cli.train("--resume", code=2), cli.test("--visdom", "off", code=2)):
        assert ended.refused(f"bad value of '{key}'") and "options.json" in ended.what


@pytest.mark.risk(29)
@pytest.mark.parametrize("newest", ["previous", "epoch_0002", "epoch_0001"])
def test_the_newest_state_is_that_of_most_steps_not_the_last_written(tmp_path: Path, newest: str) -> None:
    """A copy or a restore from a backup changes the times of files."""
    steps = {"previous": 5, "epoch_0001": 3, "epoch_0002": 4} | {newest: 9}
    run = Run(tmp_path)
    for tag, step in steps.items():
        torch.save({"format": 2, "step": step}, run.state(tag))
        os.utime(run.state(tag), (1000 - step * 10, 1000 - step * 10))
    run.state("latest").write_bytes(b"damaged")
    said: list[str] = []
    assert find_state(run, 0, 3, said.append)["file"] == str(run.state(newest))
    assert len(said) == 1 and "latest" in said[0]


# -------------------------------------------------------------------------------------------- what is printed


NAMES = ["\x1b]0;owned\x07\x1b[31mred", "a\rb", "tab\there", "\x9b2J", "\u202egnp"]


@pytest.mark.risk(12)
@pytest.mark.parametrize("name", NAMES)
def test_control_characters_of_names_do_not_reach_the_terminal(cli: InProcess, name: str) -> None:
    folder = cli.folder / "ds" / "train"
    for number in range(4):
        for side in ("input", "target"):
            save(image(32, 32, seed=number), folder / side / f"{number}.png")
    (folder / "input" / f"{name}.png").write_bytes(b"no image")
    shutil.copy(folder / "target" / "0.png", folder / "target" / f"{name}.png")
    checked = cli.train("--dataroot", "ds", "--check_data", code=2)
    trained = cli.train("--dataroot", "ds", "--model", "dncnn", "--depth", "3", code=None)
    for text in (checked.out + checked.err, trained.out + trained.err):
        assert name not in text and printable(name) in text


@pytest.mark.risk(23)
@pytest.mark.parametrize(
    "flags",
    [
        ("--dataroot", "a" * 300),
        ("--weights", "a" * 300, "--dataroot", "demo"),
        ("--resume", "--name", "a" * 300),
        ("--manifest", "a" * 300 + ".csv"),
        ("--dataroot", "a/" * 3000),
    ],
)
def test_arguments_too_long_for_a_file_name_are_refused(work: Workplace, flags: tuple[str, ...]) -> None:
    ended = work.train(*flags, name="" if "--name" in flags else "run", code=2)
    assert ended.error and "Traceback" not in ended.err


@pytest.mark.risk(23)
@pytest.mark.parametrize("flag", ["--dataroot", "--name", "--weights", "--results_dir", "--output"])
@pytest.mark.parametrize("value", ["a" * 300, "a/" * 3000, "a" * 300 + ".png"])
def test_arguments_of_a_test_too_long_for_a_file_name_are_refused(
    cli: InProcess, flag: str, value: str
) -> None:
    write_trained(cli.folder, *TINY_NET)
    save(image(32, 32), cli.folder / "photo.png")
    ended = cli.test("--dataroot", "photo.png", flag, value, code=None)
    assert ended.refused(code=ended.code) and ended.code in (1, 2) and "--debug" not in ended.fix


# ------------------------------------------------------------------------------------------ two in one folder


LATE = """
import fcntl, os, time
flock = fcntl.flock
def late(*given):
    open("at_lock", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.02)
    return flock(*given)
fcntl.flock = late
"""


@pytest.mark.risk(24)
@pytest.mark.parametrize(
    "first", ["ended", *(pytest.param(each, marks=pytest.mark.slow) for each in ("stopped", "running"))]
)
def test_a_start_that_is_late_at_the_lock_overwrites_nothing(work: Workplace, first: str) -> None:
    """Another run of the name began after the command line had found the name free."""
    late = work.start("train.py", *TINY, *FAST, "--n_epochs", "1", before=LATE)
    late.until(lambda: (work.folder / "at_lock").exists())
    length = ("--n_epochs", "2") if first == "ended" else ("--n_epochs", "4000", "--repeat", "100")
    job = work.start("train.py", *TINY, *FAST, "--val_share", "0", "--seed", "9", *length)
    if first != "ended":
        job.until_step(3)
    if first == "stopped":
        job.signal(signal.SIGTERM)
    if first != "running":
        job.wait(143 if first == "stopped" else 0)
    kept = (job.run / "latest_state.pth").read_bytes()
    (work.folder / "go").touch()
    assert late.wait(2).refused("is in use" if first == "running" else "exists")
    assert options(job.run)["seed"] == 9 and job.running() == (first == "running")
    assert job.running() or (job.run / "latest_state.pth").read_bytes() == kept


@pytest.mark.risk(24)
@pytest.mark.parametrize(
    ("first", "later", "step"),
    [
        ("--n_epochs 4000", "--resume --n_epochs 9000", None),
        pytest.param("--n_epochs 2 --repeat 40", "--resume --n_epochs 4", None, marks=pytest.mark.slow),
        pytest.param("--n_epochs 4000 --repeat 1 --save_freq 1", "--epoch 1", 4, marks=pytest.mark.slow),
    ],
    ids=["a stopped run", "an ended run", "an epoch"],
)
def test_a_resume_that_waits_for_the_lock_continues_from_what_was_saved_last(
    work: Workplace, first: str, later: str, step: int | None
) -> None:
    job = work.start("train.py", *LONG, *words(first))
    job.until_step(5)
    late = work.start("train.py", *words(later), before=LATE)
    late.until(lambda: (work.folder / "at_lock").exists())
    if "4000" in first:
        job.signal(signal.SIGTERM)
    saved = step_of(job.wait(143 if "4000" in first else 0).run)
    (work.folder / "go").touch()
    late.until(lambda: f"steps {step or saved} to" in late.said)
    late.signal(signal.SIGTERM)
    assert step_of(late.wait(143).run) >= (step or saved)


@pytest.mark.risk(24)
@pytest.mark.parametrize(
    "flags", [("--repeat", "1", "--val_share", "0.3"), ("--repeat", "1"), ("--save_minutes", "0.0001")]
)
def test_a_folder_that_is_moved_away_ends_the_run_at_the_next_file(
    work: Workplace, flags: tuple[str, ...]
) -> None:
    """Which is the grid of a validation, or a state."""
    job = work.start("train.py", *LONG, *flags)
    job.until_step(3)
    job.run.rename(work.folder / "elsewhere")
    assert job.wait(1).refused("was removed or replaced", code=1)
    assert not job.run.exists()


@pytest.mark.risk(24)
@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_was_removed_is_not_written_into(work: Workplace, replaced: bool) -> None:
    job = work.start("train.py", *LONG, "--repeat", "100000", "--seed", "1")  # no epoch ends meanwhile
    job.until_step(3)
    shutil.rmtree(job.run)
    if replaced:
        work.train(*TINY, *FAST, "--n_epochs", "1", "--seed", "2")
        kept = {path.name: path.read_bytes() for path in job.run.iterdir()}
    job.signal(signal.SIGTERM)
    assert job.wait(1).refused("was removed or replaced", code=1)
    assert job.run.exists() == replaced
    if replaced:
        assert {path.name: path.read_bytes() for path in job.run.iterdir()} == kept
