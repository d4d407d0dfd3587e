"""What the user says, and where it is said: options, run folders, live pages, locales, streams."""

import errno
import json
import os
import pty
import re
import shlex
import shutil
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch

from tests.builders import ROOT, tree, words, write_set
from tests.cli import Ended, InProcess, Workplace, free_port, records
from tests.harness import Cases
from tests.seams import replace_loss, wrap
from tests.visdom_server import visdom_server
from utils.eval.results import read_csv
from utils.run.log import Logger
from utils.run.run import Run
from utils.vis import visdom as visdom_plot

MINI = words(
    "--dataroot demo:2:32 --model resunet --width 4 --depth 1 --levels 1 --gpu_ids -1 --visdom off "
    "--n_epochs 2 --max_steps 2 --crop_size 16 --batchSize 2 --amp off --log_freq 1"
)


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


RESUME = ["--width 8", "--batchSize 1", "--epoch 2", "--dataroot demo:3:32", "--seed 4", "--lr nan"]


@pytest.mark.risk(23)
@pytest.mark.parametrize("kind", ["train", "test", "resume"])
def test_wrong_options_are_refused(cli: InProcess, cases: Cases, tmp_path: Path, kind: str) -> None:
    cli.train(*MINI, name="base")
    before = tree(tmp_path)
    for text, *wanted in {"train": TRAIN, "test": TEST, "resume": [(text,) for text in RESUME]}[kind]:
        flags = words(text)
        if kind == "train":
            ended = cli.train(*MINI, *flags, name="wrong", code=None)
        elif kind == "test":
            ended = cli.test("--name", "base", *flags, code=None)
        else:
            ended = cli.train("--resume", *flags, name="base", code=None)
        flag = flags[0].replace("--manifest", "--dataroot").partition("=")[0]
        complaint = ended.complaint(flag, *wanted)
        cases.check(not complaint, f"{text[:40]}: {complaint}")
        assert tree(tmp_path) == before, text


@pytest.mark.risk(23)
def test_a_gpu_that_is_not_there(cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.train(*MINI)
    wrap("count_gpus", lambda honest: 1, monkeypatch)
    assert cli.train(*MINI, "--gpu_ids", "7", name="gpu", code=2).refused("--gpu_ids 7", "1 found")
    assert cli.test("--gpu_ids", "7", code=2).refused("--gpu_ids 7", "1 found")


# ----------------------------------------------------------------------------------------------- run folders


def folder_of_a_run(run: Path) -> None:
    run.mkdir(parents=True)
    (run / "latest_net.pth").write_bytes(b"years of work")


def file_for_a_folder(run: Path) -> None:
    run.parent.mkdir()
    run.write_text("a note")


def link_to_nowhere(run: Path) -> None:
    run.parent.mkdir()
    run.symlink_to("nowhere/at/all")


@pytest.mark.risk(24)
@pytest.mark.parametrize(
    "there",
    [
        folder_of_a_run,
        file_for_a_folder,
        link_to_nowhere,
        lambda run: run.parent.write_text("a file for all runs"),
        lambda run: (run / ".lock").mkdir(parents=True),
        lambda run: (run / "options.json").mkdir(parents=True),
    ],
)
def test_a_folder_that_cannot_be_the_runs(
    cli: InProcess, tmp_path: Path, there: Callable[[Path], object]
) -> None:
    there(cli.run())
    before = tree(tmp_path)
    assert cli.train(*MINI, code=2).refused("checkpoints/run", "--name")
    assert before.items() <= tree(tmp_path).items() and not list(tmp_path.rglob("*_state.pth"))


@pytest.mark.risk(24)
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["mkdir", "fsync"])
def test_a_disk_that_takes_nothing(
    cli: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, where: str
) -> None:
    """Faked, since nothing is read-only to root."""
    (tmp_path / "checkpoints").mkdir()

    def fail(*given: Any, **named: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        wrap(where, fail, patch)
        ended = cli.train(*MINI, code=2)
    assert ended.refused("checkpoints/run", "--name", os.strerror(number))
    cli.train(*MINI)  # nothing was begun: the name is still free


# ------------------------------------------------------------------------------------------------- live pages


def about(kind: str, ended: Ended) -> list[str]:
    """The lines of stderr that begin with a word."""
    return [line for line in ended.err.splitlines() if line.lower().startswith(kind)]


def live(port: int) -> tuple[str, ...]:
    flags = ("--visdom", "auto", "--visdom_server", "http://127.0.0.1", "--visdom_port", str(port))
    return (*MINI, "--max_steps", "4", "--n_epochs", "4", *flags)


@pytest.mark.risk(22)
def test_visdom_is_not_installed(cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "visdom", None)
    done = cli.train(*live(free_port()))
    assert len(about("visdom", done)) == 1 and len(records(done.run, "loss")) == 4
    assert len(about("visdom", cli.test("--visdom", "start"))) == 1


@pytest.mark.risk(22)
def test_a_port_that_refuses(cli: InProcess) -> None:
    done = cli.train(*live(free_port()))
    assert len(about("visdom", done)) == 1 and "no server" in done.err
    assert len(records(done.run, "loss")) == 4


@pytest.mark.risk(22)
def test_a_page_that_dies_in_mid_run(cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visdom_plot, "PAUSE_S", 0.02)
    monkeypatch.setattr(visdom_plot, "MAX_PAUSE_S", 0.1)
    with visdom_server() as server:

        def die(call: int, loss: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            if call == 3:
                time.sleep(1)  # until the page has had something
                server.kill()
            return loss

        replace_loss(die, monkeypatch)
        began = time.monotonic()
        done = cli.train(*live(server.port))
        assert time.monotonic() - began < 10
    first, second = about("visdom", done)
    assert "/env/run" in first and "lost" in second
    assert len(records(done.run, "loss")) == 4


@pytest.mark.risk(22)
def test_a_page_that_never_answers(cli: InProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = cli.train(*live(silent.getsockname()[1]))
        ended = time.time()
    trained = (done.run / "status.json").stat().st_mtime  # written when training was over
    assert ended - trained < 6 and len(about("visdom", done)) == 1
    assert len(records(done.run, "loss")) == 4


@pytest.mark.risk(22)
def test_a_full_disk_for_tensorboard(cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer")

    def full(self: Any, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # put back at the end
    monkeypatch.setattr(writer.RecordWriter, "write", full)
    done = cli.train(*MINI, "--max_steps", "12", "--n_epochs", "12", "--tensorboard")
    (said,) = about("tensorboard", done)
    assert "No space left" in said and "Traceback" not in done.err
    assert len(records(done.run, "loss")) == 12


def test_a_sink_that_breaks_leaves_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    assert capsys.readouterr().err.count("sink: no further output (OSError: gone)") == 1


# ---------------------------------------------------------------------------------------------------- locales

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
def test_files_do_not_depend_on_the_locale(work: Workplace, name: str) -> None:
    env = {key: None for key in os.environ if key.startswith(("LC_", "LANG"))}
    env |= LOCALES[name] | (make_turkish(work.folder) if name == "Turkish" else {})
    photos, names = work.folder / "фото", [f"{word}.png" for word in NAMES]
    write_set(photos, splits=["train"], size=(24, 24))
    write_set(photos, splits=["test"], size=(24, 24), names=names, seed=9)
    before = 'import locale; locale.setlocale(locale.LC_ALL, "")'
    flags = ("--dataroot", str(photos), *MINI[2:])
    done = work.both(*flags, before=before, **env)
    assert "Traceback" not in done.err
    (results,) = (work.folder / "results/run").iterdir()
    for path in (done.run / "options.json", done.run / "status.json", results / "summary.json"):
        json.loads(path.read_bytes().decode("utf-8"))
    assert len(records(done.run, "loss")) == 2
    rows = read_csv(results / "metrics.csv")
    assert sorted(row["name"] for row in rows) == sorted(names)
    assert all(re.fullmatch(r"\d+\.\d{6}", row["psnr"]) for row in rows)
    assert {path.name for path in (results / "outputs").iterdir()} == {*names}
    page = (results / "index.html").read_bytes().decode("utf-8")
    for word in NAMES:
        assert any(form in page for form in (word, quote(word), json.dumps(word)[1:-1]))


# ---------------------------------------------------------------------------------------------------- streams

TEST_PY = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'test.py'))} --name run --visdom off"
TRAIN_PY = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'train.py'))} {' '.join(MINI)}"
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
def test_streams_that_break(cli: InProcess, work: Workplace, cases: Cases) -> None:
    cli.train(*MINI)

    def run(name: str) -> Ended:
        place = work.at(name.replace(" ", "_"))
        shutil.copytree(work.folder / "checkpoints", place.folder / "checkpoints")
        return place.process("bash", "-c", STREAMS[name][0]).wait(None)

    with ThreadPoolExecutor(2) as pool:
        answers = dict(zip(STREAMS, pool.map(run, STREAMS), strict=True))
    made = {"training into head": "checkpoints/a/best_net.pth", "training without": "checkpoints/b"}
    made |= {"help": ".", "training refused": "."}
    for name, ended in answers.items():
        quiet = "Traceback" not in ended.err and "Exception ignored" not in ended.err
        quiet &= bool(PLAIN.fullmatch(ended.out + ended.err))
        wanted = ended.run.parents[1] / made.get(name, "results/run/demo/metrics.csv")
        cases.check(ended.code == STREAMS[name][1] and quiet and wanted.exists(), f"{name}: {ended}")
    out = answers["no stderr"].out
    assert out.startswith("outputs ") and "device" not in out  # what was for stderr went nowhere
    assert "cannot write to stdout" in answers["stdout full"].err


@pytest.mark.risk(26)
def test_into_a_file_there_is_no_bar(cli: InProcess) -> None:
    def figures(err: str) -> int:
        assert PLAIN.fullmatch(err)
        return len([line for line in err.splitlines() if "images/s" in line])

    # a line an epoch of one step, which is the interval, and none besides
    assert figures(cli.train(*MINI, "--max_steps", "9", "--n_epochs", "60").err) <= 9
    long = ("--repeat", "40", "--max_steps", "40", "--n_epochs", "1")
    assert figures(cli.train(*MINI, *long, name="long").err) <= 1


@pytest.mark.risk(26)
def test_a_terminal_of_forty_columns(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (20, 40)) if hasattr(termios, "tcsetwinsize") else None
    command = [sys.executable, str(ROOT / "train.py"), *MINI, "--name", "run"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=follower, stderr=follower)
    os.close(follower)
    said = b""
    try:
        while part := os.read(leader, 4096):
            said += part
    except OSError:  # the other end is closed
        pass
    os.close(leader)
    text = said.decode()
    assert process.wait() == 0 and "Traceback" not in text
    bars = [part for part in re.split(r"[\r\n]", text) if part.startswith("epoch 1/") and "it" in part]
    assert bars and max(map(len, bars)) <= 40


# ------------------------------------------------------------------------------------------------ full memory


@pytest.mark.risk(16)
def test_testing_falls_back_to_tiles(cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.train(*MINI)
    limit = [150]

    def greedy(honest: Any, evaluator: Any, part: Any) -> torch.Tensor:
        if max(part.shape[:2]) > limit[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has")
        return honest(evaluator, part)

    wrap("forward", greedy, monkeypatch)
    done = cli.test("--dataroot", "demo:2:200", "--tile_overlap", "16")
    assert done.err.count("out of memory: using tiles of") == 1 and "PSNR" in done.out
    limit[0] = 3
    assert cli.test("--dataroot", "demo:2:200", code=1).refused("out of memory", "--tile", code=1)
