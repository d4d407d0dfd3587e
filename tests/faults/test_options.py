"""What the user says, and where: options, run folders, live pages, locales, streams."""

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
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import quote

import pytest
import torch

from tests.builders import FAST, ROOT, TINY, tree, words, write_set
from tests.cli import Ended, InProcess, Workplace, free_port, options, records
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

# a line: what the error must hold beside the first flag, in parts joined by "&": wrong flags; others

TRAIN = f"""
above 0: --lr -1; --lr 0; --std 0
above 0 & nan: --lr nan
at most: --lr inf; --seed 99999999999999999999; --width 99999999
float: --lr x; --lr 0,1
expected one argument: --lr
at least 1: --batchSize 0; --batchSize -1; --n_epochs 0; --scale 0; --accum 0
at least 0: --epoch -1; --warmup nan; --decay_epoch nan
int: --batchSize 1.5; --batchSize x
at most 2147483647: --batchSize {"9" * 400}
at most 0.99999: --ema 1
at most 0.9: --val_share 2
--repeat: --batchSize 1000
--batchSize 2: --accum 3
larger than an image & 32: --crop_size 33
does not fit: --size 8
has no --levels: --model resnet
resunet: --model transformer
charbonnier: --loss l3
did you mean --crop_size?: --crop_sise 8
did you mean --batch: --batch 2
did you mean --n_epochs?: --n_epoch 2
did you mean resunet?: --model resunnet
did you mean resnet?: --model resent
did you mean adam?: --optimizer adan
did you mean cosine?: --schedule cosin
did you mean aligned?: --layout alignd
did you mean batch?: --norm bach
did you mean flip?: --augment flp
such as texture:4: --augment flip+texture; --augment texture:1
did you mean noise?: --degrade nois:25
noise:-5: --degrade noise:-5
noise:x: --degrade noise:x
+: --degrade +
empty: --degrade ''; --name ''; --manifest ''
contradict: --scale 3 --degrade sr:2
--cache ram: --cache device --degrade blur+jpeg:40; --cache device --num_workers 2
0,1: --gpu_ids x; --gpu_ids 0,x
stem & no parameter: --freeze nothing
regular expression: --freeze (
train longer: --warmup 5
such as 20,30: --milestones a; --milestones ,
no such file & missing.pth: --weights missing.pth
no such file: --weights .
letters, digits: --name ../x; --name a/b
takes no value: --resume False
False: --deterministic=False
AtoB: --direction CtoD
65535: --visdom_port 70000
http://localhost: --visdom_server ftp://here
--visdom_port: --visdom_server http://localhost:8097
no such folder & --dataroot nowhere: --dataroot nowhere
demo:0:9 & demo:SCENES:SIZE: --dataroot demo:0:9
no run: --name none --resume; --name none --epoch 2 --n_epochs 3
"""
TEST = """
rgb: --psnr_channel z
at least 1: --tile 0
at least 0: --tile_overlap -1; --crop_border -1
--tile_overlap 8: --tile 8 --tile_overlap 8
ssim: --metrics x; --metrics ''
did you mean --metrics?: --met psnr
did you mean test?: --split tset
did you mean --no_quantize?: --no_quantise
epoch_0007_net.pth & --load best or --load latest: --load 7
best, latest: --load bestt
comes from the run: --width 8
takes no value: --x8 True
no such folder: --dataroot nowhere
AtoB: --direction CtoD
no such file: --weights missing.pth
--weights and --dataroot: --model dncnn
letters, digits: --name ../base
base: --name nope
empty: --results_dir ''
"""
RESUME = ": --width 8; --batchSize 1; --epoch 2; --dataroot demo:3:32; --seed 4; --lr nan"


@pytest.mark.risk(23)
@pytest.mark.parametrize(
    ("script", "name", "flags", "table"),
    [
        ("train.py", "wrong", MINI, TRAIN),
        ("test.py", "", ("--name", "base"), TEST),
        ("train.py", "base", ("--resume",), RESUME),
    ],
)
def test_wrong_options_are_answered(
    cli: InProcess, cases: Cases, tmp_path: Path, script: str, name: str, flags: tuple[str, ...], table: str
) -> None:
    cli.train(*MINI, name="base")
    before = tree(tmp_path)
    for line in table.strip().splitlines():
        wanted, _, wrong = line.partition(": ")
        for text in wrong.split("; "):
            first, *more = words(text)
            ended = cli.call(script, *flags, first, *more, name=name, code=None)
            flag = first.replace("--manifest", "--dataroot").partition("=")[0]
            complaint = ended.complaint(flag, *wanted.split(" & "))
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
    run.mkdir()
    (run / "latest_net.pth").write_bytes(b"years of work")


def file_for_all_runs(run: Path) -> None:
    run.parent.rmdir()
    run.parent.write_text("a file")


@pytest.mark.risk(24)
@pytest.mark.parametrize(
    "there",
    [
        folder_of_a_run,
        file_for_all_runs,
        lambda run: run.write_text("a note"),
        lambda run: run.symlink_to("nowhere/at/all"),
        lambda run: (run / ".lock").mkdir(parents=True),
        lambda run: (run / "options.json").mkdir(parents=True),
    ],
)
def test_a_folder_that_cannot_be_the_runs(
    cli: InProcess, tmp_path: Path, there: Callable[[Path], Any]
) -> None:
    cli.run().parent.mkdir()
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


def about_visdom(cli: InProcess, port: int) -> list[str]:
    """What a training with a page at `port` says about visdom; fails unless all steps were taken."""
    page = words(f"--visdom auto --visdom_server http://127.0.0.1 --visdom_port {port}")
    done = cli.train(*MINI, *page, "--max_steps", "4", "--n_epochs", "4")
    assert len(records(done.run, "loss")) == 4
    return about("visdom", done)


@pytest.mark.risk(22)
def test_visdom_is_not_installed(cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "visdom", None)
    assert len(about_visdom(cli, free_port())) == 1
    assert len(about("visdom", cli.test("--visdom", "start"))) == 1


@pytest.mark.risk(22)
def test_a_port_that_refuses(cli: InProcess) -> None:
    (line,) = about_visdom(cli, free_port())
    assert "no server" in line


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
        first, second = about_visdom(cli, server.port)
        assert time.monotonic() - began < 10
    assert "/env/run" in first and "lost" in second


@pytest.mark.risk(22)
def test_a_page_that_never_answers(cli: InProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        said, ended = about_visdom(cli, silent.getsockname()[1]), time.time()
    trained = (cli.run() / "status.json").stat().st_mtime  # written when training was over
    assert ended - trained < 6 and len(said) == 1


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
    broken, sound = Mock(), Mock()
    broken.name = "sink"
    broken.record.side_effect = broken.close.side_effect = OSError("gone")
    logger = Logger(Run(tmp_path), [broken, sound])
    for step in range(3):
        logger.scalars(step, step, loss=1.0)
    logger.close()
    assert sound.record.call_count == 3 and len((tmp_path / "log.jsonl").read_text().splitlines()) == 3
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
    make = f"localedef -i tr_TR -f UTF-8 {shlex.quote(str(folder / 'tr_TR.UTF-8'))}"
    made = subprocess.run(make, shell=True, capture_output=True, text=True)
    if not (folder / "tr_TR.UTF-8").exists():
        pytest.skip(f"no Turkish locale: {made.stderr.strip()}")
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
    done = work.both("--dataroot", str(photos), *MINI[2:], before=before, **env)
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

TEST_PY = shlex.join([sys.executable, str(ROOT / "test.py"), *words("--name run --visdom off")])
TRAIN_PY = shlex.join([sys.executable, str(ROOT / "train.py"), *MINI])
STATUS, ROWS = "exit ${PIPESTATUS[0]}", "results/run/demo/metrics.csv"
STREAMS = {  # a command of bash, the code that the script must end with, and what it must write
    "head": (f"{TEST_PY} | head -1; {STATUS}", 0, ROWS),
    "unbuffered": (f"PYTHONUNBUFFERED=1 {TEST_PY} | head -1; {STATUS}", 0, ROWS),
    "help": (f"{TEST_PY} --help | true; {STATUS}", 0, "."),
    "no stdout": (f"{TEST_PY} >&-", 0, ROWS),
    "no stderr": (f"{TEST_PY} 2>&-", 0, ROWS),
    "none at all": (f"{TEST_PY} <&- >&- 2>&-", 0, ROWS),
    "stdout full": (f"{TEST_PY} >/dev/full", 1, ROWS),
    "stderr full": (f"{TEST_PY} 2>/dev/full", 0, ROWS),
    "training into head": (f"{TRAIN_PY} --name a 2>&1 | head -1; {STATUS}", 0, "checkpoints/a/best_net.pth"),
    "training without": (f"{TRAIN_PY} --name b <&- >&- 2>&-", 0, "checkpoints/b"),
    "training with a wrong option": (f"{TRAIN_PY} --name c --lr 0 2>&-", 2, "."),
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
    for name, ended in answers.items():
        _, code, made = STREAMS[name]
        quiet = "Traceback" not in ended.err and "Exception ignored" not in ended.err
        quiet &= bool(PLAIN.fullmatch(ended.out + ended.err))
        cases.check(
            ended.code == code and quiet and (ended.run.parents[1] / made).exists(), f"{name}: {ended}"
        )
    out = answers["no stderr"].out
    assert out.startswith("outputs ") and "device" not in out  # what was for stderr went nowhere
    assert "cannot write to stdout" in answers["stdout full"].err


@pytest.mark.risk(26)
def test_into_a_file_there_is_no_bar(cli: InProcess) -> None:
    """But at most a line an epoch."""
    for steps, epochs, repeat, most in ((9, 60, 1, 9), (40, 1, 40, 1)):
        length = words(f"--max_steps {steps} --n_epochs {epochs} --repeat {repeat}")
        err = cli.train(*MINI, *length, name=str(steps)).err
        assert PLAIN.fullmatch(err) and err.count("images/s") <= most


@pytest.mark.risk(26)
def test_a_terminal_of_forty_columns(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (20, 40)) if hasattr(termios, "tcsetwinsize") else None
    command = [sys.executable, str(ROOT / "train.py"), *MINI, "--name", "run"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=follower, stderr=follower)
    os.close(follower)
    said = b""
    with suppress(OSError):  # once the other end is closed
        while part := os.read(leader, 4096):
            said += part
    os.close(leader)
    text = said.decode()
    assert process.wait() == 0 and "Traceback" not in text
    bars = [part for part in re.split(r"[\r\n]", text) if part.startswith("epoch 1/") and "|" in part]
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


@pytest.mark.risk(23)
@pytest.mark.parametrize("crop", [16, 24, 48])
def test_a_resumed_run_may_have_another_crop(cli: InProcess, crop: int) -> None:
    """An image smaller than --crop_size may stop a run on its way; the error says to lower it."""
    cli.train(*TINY, *FAST, "--n_epochs", "1")
    longer = cli.train("--resume", "--n_epochs", "2", "--crop_size", str(crop), "--visdom", "off")
    assert f" crop_size={crop}" in longer.err
    saved = options(longer.run)
    assert (saved["crop_size"], saved["n_epochs"]) == (crop, 2)
