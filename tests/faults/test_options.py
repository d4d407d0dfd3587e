"""What the user says, and where it is said: options, run folders, live pages, locales, streams."""

import csv
import errno
import json
import os
import pty
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch

import models
from tests.conftest import ROOT, records
from tests.faults.test_running import photo_set
from tests.harness import Cases
from tests.visdom_server import free_port, visdom_server
from utils.eval.evaluator import Evaluator
from utils.options.flags import parse_or_exit, parse_test, parse_train
from utils.system.errors import UserError, run_script
from utils.system.signals import STOPPING
from utils.vis import visdom as visdom_plot

TINY = shlex.split(
    "--dataroot demo:2:32 --model resunet --width 4 --depth 1 --levels 1 --gpu_ids -1 --visdom off "
    "--n_epochs 2 --max_steps 2 --crop_size 16 --batchSize 2 --amp off --log_freq 1"
)
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Call]:
    """`call(script, *flags)`: a script as its last lines run it, in this process: (code, stdout, stderr)."""
    import test
    import train

    scripts = {"train.py": (train.main, parse_train), "test.py": (test.main, parse_test)}
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (*STOPPING, signal.SIGUSR1)}

    def called(script: str, *flags: str) -> tuple[int, str, str]:
        main, parse = scripts[script]
        monkeypatch.setattr(sys, "argv", [script, *flags])
        capsys.readouterr()
        try:
            code = run_script(main, parse_or_exit(parse))
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, *capsys.readouterr()

    yield called
    for number, handler in handlers.items():
        signal.signal(number, handler)


def refused(answer: tuple[int, str, str], *words: str, code: int = 2) -> bool:
    """Whether a script ended as it should: the code, a short error with these words and what helps."""
    ended, _, err = answer
    error = err[err.find("error:") :]
    short = error.startswith("error:") and len(error.strip().splitlines()) <= 6 and len(error) < 1000
    helps = "  fix: " in error or "  why: " in error
    return ended == code and "Traceback" not in err and short and helps and all(w in error for w in words)


def everything(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with what it holds."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ---------------------------------------------------------------------------------------------- wrong options

# the flags, and what the answer must hold beside the first of them
TRAIN = [
    ("--crop_sise 8", "did you mean --crop_size?"),
    ("--batch 2", "did you mean --batch"),
    ("--n_epoch 2", "did you mean --n_epochs?"),
    ("--lr nan", "above 0"),
    ("--lr -1", "above 0"),
    ("--lr 0", "above 0"),
    ("--lr inf", "at most"),
    ("--lr x", "float"),
    ("--lr 0,1", "float"),
    ("--lr", "expected one argument"),
    ("--batchSize 0", "at least 1"),
    ("--batchSize -1", "at least 1"),
    ("--batchSize 1.5", "int"),
    ("--batchSize x", "int"),
    ("--batchSize 1000", "--repeat"),
    (f"--batchSize {'9' * 400}", "at most 2147483647"),
    ("--crop_size 33", "larger than an image", "32"),
    ("--size 8", "does not fit"),
    ("--model resunnet", "did you mean resunet?"),
    ("--model transformer", "resunet"),
    ("--loss l3", "charbonnier"),
    ("--optimizer adan", "did you mean adam?"),
    ("--schedule cosin", "did you mean cosine?"),
    ("--layout alignd", "did you mean aligned?"),
    ("--norm bach", "did you mean batch?"),
    ("--degrade nois:25", "did you mean noise?"),
    ("--degrade noise:-5", "noise:-5"),
    ("--degrade +", "+"),
    ("--degrade ''", "empty"),
    ("--scale 3 --degrade sr:2", "contradict"),
    ("--cache device --degrade noise:25", "--cache ram"),
    ("--cache device --num_workers 2", "--cache ram"),
    ("--gpu_ids x", "0,1"),
    ("--gpu_ids 0,x", "0,1"),
    ("--freeze nothing", "stem"),
    ("--freeze (", "regular expression"),
    ("--epoch -1", "at least 0"),
    ("--n_epochs 0", "at least 1"),
    ("--warmup 5", "train longer"),
    ("--warmup nan", "at least 0"),
    ("--decay_epoch nan", "at least 0"),
    ("--milestones a", "such as 20,30"),
    ("--milestones ,", "such as 20,30"),
    ("--ema 1", "at most 0.99999"),
    ("--val_share 2", "at most 0.9"),
    ("--weights missing.pth", "no such file", "missing.pth"),
    ("--weights .", "no such file"),
    ("--name ../x", "letters, digits"),
    ("--name a/b", "letters, digits"),
    ("--name ''", "empty"),
    ("--resume False", "takes no value"),
    ("--deterministic=False", "False"),
    ("--std 0", "above 0"),
    ("--scale 0", "at least 1"),
    ("--accum 0", "at least 1"),
    ("--accum 3", "--batchSize 2"),
    ("--direction CtoD", "AtoB"),
    ("--seed 99999999999999999999", "at most"),
    ("--width 99999999", "at most"),
    ("--visdom_port 70000", "65535"),
    ("--visdom_server ftp://here", "http://localhost"),
    ("--visdom_server http://localhost:8097", "--visdom_port"),
    ("--dataroot nowhere", "no such folder"),
    ("--manifest ''", "empty"),
    ("--name none --resume", "no run"),
]
TEST = [
    ("--psnr_channel z", "rgb"),
    ("--tile 0", "at least 1"),
    ("--tile 8 --tile_overlap 8", "--tile_overlap 8"),
    ("--tile_overlap -1", "at least 0"),
    ("--crop_border -1", "at least 0"),
    ("--metrics x", "ssim"),
    ("--metrics ''", "ssim"),
    ("--met psnr", "did you mean --metrics?"),
    ("--load 7", "epoch_0007_net.pth", "best or latest"),
    ("--load bestt", "best, latest"),
    ("--split tset", "did you mean test?"),
    ("--width 8", "comes from the run"),
    ("--x8 True", "takes no value"),
    ("--no_quantise", "did you mean --no_quantize?"),
    ("--dataroot nowhere", "no such folder"),
    ("--direction CtoD", "AtoB"),
    ("--weights missing.pth", "no such file"),
    ("--model dncnn", "--weights and --dataroot"),
    ("--name ../base", "letters, digits"),
    ("--name nope", "base"),
    ("--results_dir ''", "empty"),
]


@pytest.mark.risk(23)
def test_wrong_options_of_training_are_refused(call: Call, cases: Cases, tmp_path: Path) -> None:
    assert call("train.py", *TINY, "--name", "base")[0] == 0
    before = everything(tmp_path)
    for text, *words in TRAIN:
        flags = shlex.split(text)
        name = [] if "--name" in flags else ["--name", "wrong"]
        answer = call("train.py", *TINY, *name, *flags)
        flag = flags[0].replace("--manifest", "--dataroot").partition("=")[0]
        cases.check(refused(answer, flag, *words), f"{text[:40]}: {answer[0]} {answer[2][-300:]}")
        assert everything(tmp_path) == before, text


@pytest.mark.risk(23)
def test_wrong_options_of_testing_are_refused(call: Call, cases: Cases, tmp_path: Path) -> None:
    assert call("train.py", *TINY, "--name", "base")[0] == 0
    before = everything(tmp_path)
    for text, *words in TEST:
        flags = shlex.split(text)
        answer = call("test.py", "--visdom", "off", "--name", "base", *flags)
        cases.check(refused(answer, flags[0], *words), f"{text}: {answer[0]} {answer[2][-300:]}")
        assert everything(tmp_path) == before, text


@pytest.mark.risk(23)
def test_a_gpu_that_is_not_there(call: Call, cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("train.py", *TINY, "--name", "base")[0] == 0
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for script, *flags in (("train.py", *TINY, "--name", "gpu"), ("test.py", "--name", "base")):
        answer = call(script, *flags, "--gpu_ids", "7")
        cases.check(refused(answer, "--gpu_ids 7", "1 found"), f"{script}: {answer}")


@pytest.mark.risk(23)
def test_going_on_refuses_what_cannot_change(call: Call, cases: Cases, tmp_path: Path) -> None:
    assert call("train.py", *TINY, "--name", "base")[0] == 0
    before = everything(tmp_path)
    for text in ("--width 8", "--batchSize 1", "--epoch 2", "--dataroot demo:3:32", "--seed 4", "--lr nan"):
        flags = shlex.split(text)
        answer = call("train.py", "--resume", "--name", "base", *flags)
        cases.check(refused(answer, flags[0]), f"{text}: {answer}")
    assert everything(tmp_path) == before


# ----------------------------------------------------------------------------------------------- run folders


def folder_of_a_run(run: Path) -> None:
    run.mkdir(parents=True)
    (run / "latest_net.pth").write_bytes(b"years of work")


def file_for_a_folder(run: Path) -> None:
    run.parent.mkdir()
    run.write_text("a note")


def file_for_all_runs(run: Path) -> None:
    run.parent.write_text("a note")


def folder_for_the_lock(run: Path) -> None:
    (run / ".lock").mkdir(parents=True)


def folder_for_the_options(run: Path) -> None:
    (run / "options.json").mkdir(parents=True)


def link_to_nowhere(run: Path) -> None:
    run.parent.mkdir()
    run.symlink_to("nowhere/at/all")


@pytest.mark.risk(24)
@pytest.mark.parametrize(
    "there",
    [
        folder_of_a_run,
        file_for_a_folder,
        file_for_all_runs,
        folder_for_the_lock,
        folder_for_the_options,
        link_to_nowhere,
    ],
)
def test_a_folder_that_cannot_be_the_runs(call: Call, tmp_path: Path, there: Callable[[Path], None]) -> None:
    there(tmp_path / "checkpoints" / "run")
    before = everything(tmp_path)
    answer = call("train.py", *TINY, "--name", "run")
    assert refused(answer, "checkpoints/run", "--name"), answer
    after = everything(tmp_path)
    assert {path: after[path] for path in before} == before and not list(tmp_path.rglob("*_state.pth"))


@pytest.mark.risk(24)
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["the folder", "the options"])
def test_a_disk_that_takes_nothing(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, where: str
) -> None:
    """Faked, since nothing is read-only to root."""
    (tmp_path / "checkpoints").mkdir()

    def fail(*given: Any, **named: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        if where == "the folder":
            patch.setattr(Path, "mkdir", fail)
        else:
            patch.setattr(os, "fsync", fail)
        answer = call("train.py", *TINY, "--name", "run")
    assert refused(answer, "checkpoints/run", "--name", os.strerror(number)), answer
    assert call("train.py", *TINY, "--name", "run")[0] == 0  # nothing was begun: the name is still free


# ------------------------------------------------------------------------------------------------- live pages


def about(kind: str, err: str) -> list[str]:
    return [line for line in err.splitlines() if line.lower().startswith(kind)]


class SlowLoss(torch.nn.L1Loss):
    """Calls `at_step` before its third step."""

    calls = 0

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 3:
            self.at_step()
        return super().forward(output, target)

    def at_step(self) -> None:
        pass


def live(port: int) -> tuple[str, ...]:
    flags = ("--visdom", "auto", "--visdom_server", "http://127.0.0.1", "--visdom_port", str(port))
    return (*TINY, "--name", "run", "--max_steps", "4", "--n_epochs", "4", *flags)


@pytest.mark.risk(22)
def test_visdom_is_not_installed(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "visdom", None)
    code, _, err = call("train.py", *live(free_port()))
    assert code == 0 and len(about("visdom", err)) == 1, err
    assert len(records(tmp_path / "checkpoints/run", "loss")) == 4
    code, _, err = call("test.py", "--name", "run", "--visdom", "start")
    assert code == 0 and len(about("visdom", err)) == 1, err


@pytest.mark.risk(22)
def test_a_port_that_refuses(call: Call, tmp_path: Path) -> None:
    code, _, err = call("train.py", *live(free_port()))
    assert code == 0 and len(about("visdom", err)) == 1 and "no server" in err, err
    assert len(records(tmp_path / "checkpoints/run", "loss")) == 4


@pytest.mark.risk(22)
def test_a_page_that_dies_in_mid_run(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(visdom_plot, "PAUSE_S", 0.02)
    monkeypatch.setattr(visdom_plot, "MAX_PAUSE_S", 0.1)
    with visdom_server() as server:

        def die(self: SlowLoss) -> None:
            time.sleep(1)  # until the page has had something
            server.kill()

        monkeypatch.setattr(SlowLoss, "at_step", die)
        monkeypatch.setitem(models.LOSSES, "l1", SlowLoss)
        began = time.monotonic()
        code, _, err = call("train.py", *live(server.port))
        assert time.monotonic() - began < 10
    said = about("visdom", err)
    assert code == 0 and len(said) == 2 and "/env/run" in said[0] and "lost" in said[1], err
    assert len(records(tmp_path / "checkpoints/run", "loss")) == 4


@pytest.mark.risk(22)
def test_a_page_that_never_answers(call: Call, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code, _, err = call("train.py", *live(silent.getsockname()[1]))
        ended = time.time()
    done = (tmp_path / "checkpoints/run/status.json").stat().st_mtime  # written when training was over
    assert code == 0 and ended - done < 6 and len(about("visdom", err)) == 1, err
    assert len(records(tmp_path / "checkpoints/run", "loss")) == 4


@pytest.mark.risk(22)
def test_a_full_disk_for_tensorboard(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer")

    def full(self: Any, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # put back at the end
    monkeypatch.setattr(writer.RecordWriter, "write", full)
    flags = ("--max_steps", "12", "--n_epochs", "12", "--tensorboard")
    code, _, err = call("train.py", *TINY, "--name", "run", *flags)
    said = about("tensorboard", err)
    assert code == 0 and len(said) == 1 and "No space left" in said[0] and "Traceback" not in err, err
    assert len(records(tmp_path / "checkpoints/run", "loss")) == 12


def test_a_sink_that_breaks_leaves_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from utils.run.log import Logger
    from utils.run.run import Run

    class Sink:
        name = "sink"

        def __init__(self, breaks: bool) -> None:
            self.breaks, self.got = breaks, 0

        def record(self, record: dict[str, Any]) -> None:
            if self.breaks:
                raise OSError("gone")
            self.got += 1

        def picture(self, name: str, title: str, image: torch.Tensor, step: int) -> None: ...

        def close(self) -> None:
            if self.breaks:
                raise OSError("gone")

    sinks = [Sink(True), Sink(False)]
    logger = Logger(Run(tmp_path), [*sinks])
    for step in range(3):
        logger.scalars(step, step, loss=1.0)
    logger.close()
    assert sinks[1].got == 3 and len((tmp_path / "log.jsonl").read_text().splitlines()) == 3
    assert capsys.readouterr().err.count("sink: nothing more is written (OSError: gone)") == 1


# ---------------------------------------------------------------------------------------------------- locales

BOTH = """
import locale, os, runpy, sys
if __name__ == "__main__":
    locale.setlocale(locale.LC_ALL, "")
    root, photos, *flags = sys.argv[1:]
    sys.path.insert(0, root)
    common = ["--name", "run", "--visdom", "off", "--gpu_ids", "-1"]
    for script, more in (("train.py", flags), ("test.py", [])):
        sys.argv = [script, "--dataroot", photos, *common, *more]
        try:
            runpy.run_path(os.path.join(root, script), run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                raise
"""
NAMES = ("größe ß", "日本", "İstanbul")
LOCALES = {
    "C, which Python makes UTF-8": {"LC_ALL": "C"},
    "C as ASCII": {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "Turkish": {"LC_ALL": "tr_TR.UTF-8", "PYTHONUTF8": "0"},
}


def make_turkish(folder: Path) -> dict[str, str]:
    """A locale of our own with a decimal comma and the dotless i; a skip where it cannot be made."""
    if not shutil.which("localedef"):
        pytest.skip("no localedef")
    made = subprocess.run(
        ["localedef", "-i", "tr_TR", "-f", "UTF-8", str(folder / "tr_TR.UTF-8")], capture_output=True
    )
    if not (folder / "tr_TR.UTF-8").exists():
        pytest.skip(f"no Turkish locale: {made.stderr.decode(errors='replace').strip()}")
    return {"LOCPATH": str(folder)}


@pytest.mark.risk(25)
@pytest.mark.parametrize("name", LOCALES)
def test_files_do_not_depend_on_the_locale(tmp_path: Path, name: str) -> None:
    extra = make_turkish(tmp_path) if name == "Turkish" else {}
    photos = tmp_path / "фото"
    photo_set(photos, count=3, side=24)
    for i, word in enumerate(NAMES):
        for folder in ("input", "target"):
            (photos / "test" / folder / f"test{i}.png").rename(photos / "test" / folder / f"{word}.png")
    (tmp_path / "both.py").write_text(BOTH)
    flags = [*TINY[2:], "--max_steps", "2"]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG"))}
    done = subprocess.run(
        [sys.executable, "both.py", str(ROOT), str(photos), *flags],
        cwd=tmp_path,
        env={**kept, **LOCALES[name], **extra},
        capture_output=True,
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    run, (results,) = tmp_path / "checkpoints/run", (tmp_path / "results/run").iterdir()
    for path in (run / "options.json", run / "status.json", results / "summary.json"):
        json.loads(path.read_bytes().decode("utf-8"))
    assert len(records(run, "loss")) == 2
    rows = list(csv.DictReader((results / "metrics.csv").read_text(encoding="utf-8").splitlines()[1:]))
    assert {row["name"] for row in rows} == {f"{word}.png" for word in NAMES}
    assert all(re.fullmatch(r"\d+\.\d{6}", row["psnr"]) for row in rows)
    assert {path.name for path in (results / "outputs").iterdir()} == {f"{word}.png" for word in NAMES}
    page = (results / "index.html").read_bytes().decode("utf-8")
    for word in NAMES:
        assert any(form in page for form in (word, quote(word), json.dumps(word)[1:-1]))


# ---------------------------------------------------------------------------------------------------- streams

TEST_PY = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'test.py'))} --name run --visdom off"
TRAIN_PY = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'train.py'))} {' '.join(TINY)}"
STREAMS = {  # a command of bash, and the code that the script must end with
    "head": (f"{TEST_PY} | head -1; exit ${{PIPESTATUS[0]}}", 0),
    "unbuffered": (f"PYTHONUNBUFFERED=1 {TEST_PY} | head -1; exit ${{PIPESTATUS[0]}}", 0),
    "help": (f"{TEST_PY} --help | true; exit ${{PIPESTATUS[0]}}", 0),
    "no stdout": (f"{TEST_PY} >&-", 0),
    "no stderr": (f"{TEST_PY} 2>&-", 0),
    "none at all": (f"{TEST_PY} <&- >&- 2>&-", 0),
    "stdout full": (f"{TEST_PY} >/dev/full", 1),
    "stderr full": (f"{TEST_PY} 2>/dev/full", 0),
    "training into head": (f"{TRAIN_PY} --name a 2>&1 | head -1; exit ${{PIPESTATUS[0]}}", 0),
    "training without": (f"{TRAIN_PY} --name b <&- >&- 2>&-", 0),
    "training refused": (f"{TRAIN_PY} --name c --lr 0 2>&-", 2),
}
PLAIN = re.compile(r"[^\x1b\r\b]*")


@pytest.mark.risk(26)
def test_streams_that_break(call: Call, cases: Cases, tmp_path: Path) -> None:
    assert call("train.py", *TINY, "--name", "run")[0] == 0

    def run(name: str) -> tuple[int, str, str]:
        folder = tmp_path / name.replace(" ", "_")
        shutil.copytree(tmp_path / "checkpoints", folder / "checkpoints")
        done = subprocess.run(["bash", "-c", STREAMS[name][0]], cwd=folder, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    with ThreadPoolExecutor(2) as pool:
        answers = dict(zip(STREAMS, pool.map(run, STREAMS), strict=True))
    for name, (code, out, err) in answers.items():
        quiet = "Traceback" not in err and "Exception ignored" not in err and PLAIN.fullmatch(out + err)
        folder = tmp_path / name.replace(" ", "_")
        made = {"training into head": "checkpoints/a/best_net.pth", "training without": "checkpoints/b"}
        wanted = made.get(
            name, "." if name in ("help", "training refused") else "results/run/demo/metrics.csv"
        )
        there = (folder / wanted).exists()
        cases.check(bool(code == STREAMS[name][1] and quiet and there), f"{name}: {code} {out} {err}")
    out = answers["no stderr"][1]
    assert out.startswith("outputs ") and "device" not in out  # what was for stderr went nowhere
    assert "cannot write to stdout" in answers["stdout full"][2]


@pytest.mark.risk(26)
def test_into_a_file_there_is_no_bar(call: Call, tmp_path: Path) -> None:
    code, _, err = call("train.py", *TINY, "--name", "run", "--max_steps", "9", "--n_epochs", "60")
    lines = err.splitlines()
    figures = [line for line in lines if "images/s" in line]
    assert code == 0 and PLAIN.fullmatch(err)
    assert len(figures) <= 9  # a line an epoch of one step, which is the interval, and none besides
    code, _, err = call(
        "train.py", *TINY, "--name", "long", "--repeat", "40", "--max_steps", "40", "--n_epochs", "1"
    )
    assert code == 0 and len([line for line in err.splitlines() if "images/s" in line]) <= 1


@pytest.mark.risk(26)
def test_a_terminal_of_forty_columns(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (20, 40)) if hasattr(termios, "tcsetwinsize") else None
    command = [sys.executable, str(ROOT / "train.py"), *TINY, "--name", "run"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=follower, stderr=follower)
    os.close(follower)
    said = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        said += part
    os.close(leader)
    text = said.decode()
    assert process.wait() == 0 and "Traceback" not in text
    bars = [part for part in re.split(r"[\r\n]", text) if part.startswith("epoch 1/") and "it" in part]
    assert bars and max(map(len, bars)) <= 40


# ------------------------------------------------------------------------------------------------ full memory


@pytest.mark.risk(16)
def test_testing_falls_back_to_tiles(call: Call, cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("train.py", *TINY, "--name", "run")[0] == 0
    honest = Evaluator.forward
    limit = [150]

    def greedy(self: Evaluator, part: Any) -> torch.Tensor:
        if max(part.shape[:2]) > limit[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has")
        return honest(self, part)

    monkeypatch.setattr(Evaluator, "forward", greedy)
    flags = ("test.py", "--name", "run", "--visdom", "off", "--gpu_ids", "-1", "--dataroot", "demo:2:200")
    code, out, err = call(*flags, "--tile_overlap", "16")
    cases.check(code == 0 and err.count("out of memory: using tiles of") == 1, err)
    assert "PSNR" in out
    limit[0] = 3
    answer = call(*flags)
    cases.check(refused(answer, "out of memory", "--tile", code=1), str(answer))


def test_a_refusal_is_what_the_parser_raises() -> None:
    with pytest.raises(UserError, match="did you mean resunet"):
        try:
            parse_train(["--model", "resunnet"])
        except UserError as refusal:
            raise UserError(refusal.fix) from None
