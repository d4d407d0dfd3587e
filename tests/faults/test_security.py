"""What must not happen: code out of files, doors that open unasked, files elsewhere, calls abroad."""

import ast
import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import test as test_script
from tests.conftest import ROOT, STRICT
from tests.harness import Cases
from tests.test_visdom import children, listening
from tests.visdom_server import free_port, need_visdom, wait_until
from utils.options.flags import parse_test
from utils.system.errors import UserError
from utils.vis import visdom as visdom_plot
from utils.vis import visdom_client
from utils.vis.visdom import VisdomPlot, Window

Trained = Callable[..., Path]
TINY = (
    *("--dataroot", "demo:2:32", "--model", "resunet", "--width", "4", "--depth", "1", "--levels", "1"),
    *("--gpu_ids", "-1", "--max_steps", "2", "--crop_size", "16", "--amp", "off"),
)
OFF = ("--visdom", "off")

# ------------------------------------------------------------------------------------------ code out of files

FORBIDDEN = {
    "pickle": r"\bpickle\.|\bimport (c?pickle|dill|joblib|shelve|marshal)\b",
    "yaml": r"\byaml\.\w*load",
    "eval": r"(?<![\w.])eval\(",
    "exec": r"(?<![\w.])exec\(",
    "shell": r"shell=True|\bos\.system\(|\bos\.popen\(",
    "a way out": r"weights_only=False|allow_pickle=True",
}


def sources() -> dict[str, str]:
    """The code of the repository but its tests, without comments and documentation."""
    listed = subprocess.run(["git", "ls-files", "-z", "*.py"], cwd=ROOT, capture_output=True, text=True)
    names = [name for name in listed.stdout.split("\0") if name and not name.startswith("tests/")]
    assert {"train.py", "test.py", "utils/run/checkpoint.py"} <= set(names), listed.stderr
    return {name: code_of((ROOT / name).read_text()) for name in names}


def code_of(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    return ast.unparse(tree)


@pytest.mark.risk(19)
def test_no_source_runs_what_it_reads(cases: Cases) -> None:
    found = sources()
    for what, pattern in FORBIDDEN.items():
        where = [name for name, text in found.items() if re.search(pattern, text)]
        cases.check(not where, f"{what} in {where}")
    loads = [(name, line) for name, text in found.items() for line in re.findall(r"torch\.load\(.*", text)]
    one = (
        len(loads) == 1 and loads[0][0] == "utils/system/tensorfile.py" and "weights_only=True" in loads[0][1]
    )
    cases.check(one, f"torch.load: {loads}")
    assert all(re.search(pattern, text) for pattern, text in SAMPLES)


SAMPLES = [  # the patterns find what they are for
    (FORBIDDEN["pickle"], "import pickle"),
    (FORBIDDEN["yaml"], "yaml.unsafe_load(x)"),
    (FORBIDDEN["eval"], "x = eval(text)"),
    (FORBIDDEN["exec"], "exec(open(x).read())"),
    (FORBIDDEN["shell"], "run(x, shell=True)"),
    (FORBIDDEN["a way out"], "load(x, weights_only=False)"),
]


def test_nothing_of_these_names_is_installed() -> None:
    """`data`, `models` and `utils` would take the place of other people's."""
    text = (ROOT / "pyproject.toml").read_text()
    table = text.split("[tool.setuptools]")[1].split("\n[")[0]
    assert re.search(r"^packages = \[\]", table, re.MULTILINE) and "py-modules" not in table
    build = pytest.importorskip("setuptools.discovery")
    assert build  # the finder that `packages = []` keeps from looking


# ------------------------------------------------------------------------------------------------ open doors


@pytest.mark.risk(22)
def test_a_started_page_listens_on_this_machine_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need_visdom()
    monkeypatch.setenv("HOME", str(tmp_path))
    plain = visdom_client.SERVER.replace("download_scripts_and_run", "main")  # nothing is fetched by a test
    monkeypatch.setattr(visdom_client, "SERVER", plain)
    port = free_port()
    process = visdom_client.start_server(port)
    try:
        wait_until(lambda: listening(port))
        assert listening(port) == ["0100007F"]  # 127.0.0.1
    finally:
        with process:
            process.kill()


@pytest.mark.risk(22)
@pytest.mark.parametrize("mode", ["auto", "off"])
def test_no_page_is_started_unasked(trained: Trained, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    started: list[Any] = []
    monkeypatch.setattr(visdom_plot, "start_server", started.append)
    before = set(children(os.getpid()))
    trained(*TINY, "--visdom", mode, "--visdom_port", str(free_port()))
    assert not started and set(children(os.getpid())) <= before


@pytest.mark.risk(22)
def test_no_markup_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[Any, ...]] = []
    evil = '<img src=x onerror="alert(1)">&'

    class Client:
        def __init__(self, *given: Any) -> None:
            pass

        def line(self, window: str, **given: Any) -> None:
            sent.append((window, given["opts"]["title"]))

        def image(self, window: str, pixels: Any, **given: Any) -> None:
            sent.append((window, given["opts"]["title"]))

        def has_window(self, window: str) -> bool:
            return True

        def server_ended(self) -> bool:
            return False

        def close(self) -> None:
            pass

    monkeypatch.setattr(visdom_plot, "visdom_class", lambda trust_env: None)
    monkeypatch.setattr(visdom_plot, "VisdomClient", Client)
    plot = VisdomPlot("run", {"one": Window(evil, "x", "y")}, "http://127.0.0.1", 1, say=lambda text: None)
    plot.add("one", "a", 1, 2)
    plot.picture("grid", evil, torch.zeros(3, 4, 4))
    assert plot.close()
    assert {window for window, _ in sent} == {"one", "grid"}
    assert all(title == html.escape(evil) for _, title in sent)


# ------------------------------------------------------------------------------------------ files elsewhere

EVIL = ["../out.png", "../../out.png", "sub/../../out.png", "/abs/out.png", "./../out.png", "..%2Fout.png"]


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(len(str(path))).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return path


@pytest.mark.risk(12)
def test_names_of_a_manifest_stay_within_the_results(trained: Trained, cases: Cases, tmp_path: Path) -> None:
    trained(*TINY, *OFF)
    for i, name in enumerate(EVIL):
        folder = tmp_path / f"set{i}" / "deep"
        given = folder / name.replace("/abs/", f"{tmp_path}/abs{i}/")
        picture(given)
        picture(folder / "target.png")
        row = str(given) if name.startswith("/") else name
        (folder / "pairs.csv").write_text(f"input,target\n{row},target.png\n")
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        flags = ("--name", "run", "--dataroot", str(folder / "pairs.csv"), "--results_dir", f"out{i}", *OFF)
        with ExitStack() as cleanup:
            code = test_script.main(parse_test(flags), cleanup)
        after = [path for path in tmp_path.rglob("*") if path.is_file() and path not in before]
        kept = all(path.read_bytes() == data for path, data in before.items())
        within = all(path.is_relative_to(tmp_path / f"out{i}" / "run") for path in after)
        cases.check(code == 0 and kept and within and len(after) >= 5, f"{name}: {after}")


@pytest.mark.risk(12)
def test_names_of_runs_stay_within_checkpoints(trained: Trained, cases: Cases, tmp_path: Path) -> None:
    for name in (
        "../x",
        "..",
        ".",
        "/tmp/x",
        "a/../../x",
        "a/b",
        "a\\..\\b",
        "a\nb",
        "a\0b",
        "~root/x",
        "x:y",
    ):
        try:
            trained(*TINY, *OFF, name=name)
            cases.check(False, repr(name))
        except UserError as refusal:
            cases.check("--name" in refusal.what and refusal.code == 2, repr(name))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# ---------------------------------------------------------------------------------------------- calls abroad

ALONE = """
import runpy, socket, sys, os
honest = socket.socket.connect
def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1"):
        open("abroad", "a").write(f"{address}\\n")
        raise OSError(f"a call to {address}")
    return honest(self, address)
def resolve(host, *given, **named):
    if host not in ("localhost", "127.0.0.1", "::1", None):
        open("abroad", "a").write(f"{host}\\n")
        raise OSError(f"a question for {host}")
    return lookup(host, *given, **named)
lookup, socket.getaddrinfo = socket.getaddrinfo, resolve
socket.socket.connect = socket.socket.connect_ex = connect
"""
BOTH = """
if __name__ == "__main__":
    import runpy
    root, first, second = sys.argv[1:]
    sys.path.insert(0, root)
    for script, flags in (("train.py", first), ("test.py", second)):
        sys.argv = [os.path.join(root, script), *flags.split()]
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                raise
"""
START = """
import multiprocessing, os, sys
import torch.multiprocessing
if __name__ == "__main__":
    multiprocessing.set_start_method("METHOD")
    print("start method", torch.multiprocessing.get_start_method(), file=sys.stderr)
"""


def run_both(folder: Path, code: str, *more: str) -> "subprocess.CompletedProcess[str]":
    """train.py and test.py in a process that runs `code` before."""
    folder.mkdir()
    (folder / "wrapper.py").write_text(code + BOTH)
    first = " ".join((*TINY, "--name", "run", *more))
    second = " ".join(("--name", "run", "--gpu_ids", "-1", *more))
    command = [sys.executable, *STRICT, "wrapper.py", str(ROOT), first, second]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)


@pytest.mark.risk(22)
def test_no_call_leaves_the_machine(cases: Cases, tmp_path: Path) -> None:
    flags = {"off": OFF, "auto": ("--visdom", "auto", "--visdom_port", str(free_port()))}
    with ThreadPoolExecutor(2) as pool:
        done = dict(
            zip(flags, pool.map(lambda m: run_both(tmp_path / m, ALONE, *flags[m]), flags), strict=True)
        )
    for mode, ended in done.items():
        silent = not (tmp_path / mode / "abroad").exists()
        there = (tmp_path / mode / "results/run/demo/metrics.csv").is_file()
        cases.check(ended.returncode == 0 and silent and there, f"{mode}: {ended.stderr}")
    probe = "import urllib.request; urllib.request.urlopen('http://192.0.2.1')"  # the guard does guard
    (tmp_path / "probe.py").write_text(ALONE + probe)
    caught = subprocess.run([sys.executable, "probe.py"], cwd=tmp_path, capture_output=True)
    assert caught.returncode == 1 and (tmp_path / "abroad").exists()


@pytest.mark.risk(7)
def test_every_way_of_starting_processes_works(cases: Cases, tmp_path: Path) -> None:
    """Python 3.14 and macOS do not fork: what a loader process gets must survive pickling."""
    methods = ("fork", "forkserver", "spawn")

    def run(method: str) -> "subprocess.CompletedProcess[str]":
        return run_both(tmp_path / method, START.replace("METHOD", method), "--num_workers", "2", *OFF)

    with ThreadPoolExecutor(2) as pool:
        done = dict(zip(methods, pool.map(run, methods), strict=True))
    states = {}
    for method, ended in done.items():
        said = f"start method {method}" in ended.stderr and "Warning" not in ended.stderr
        once = ended.stderr.count("options ") == 1  # the scripts do nothing when a worker imports them
        cases.check(ended.returncode == 0 and said and once, f"{method}: {ended.stderr[-1500:]}")
        if ended.returncode == 0:
            states[method] = torch.load(tmp_path / method / "checkpoints/run/latest_net.pth")
            summary = json.loads((tmp_path / method / "results/run/demo/summary.json").read_text())
            assert summary["images"] == 3
    one, *others = states.values()
    assert all(torch.equal(one[key], other[key]) for other in others for key in one)
