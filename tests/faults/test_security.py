"""What must not happen: code run from files, ports opened unasked, files elsewhere, network connections."""

import ast
import functools
import html
import os
import re
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from models.weights import load_weights, read_weights
from tests.builders import ROOT, assert_same_state, image, save, tree, words
from tests.cli import InProcess, Workplace, children, free_port, listening, wait_until, weights
from tests.harness import Cases
from tests.seams import wrap
from tests.visdom_server import need_visdom, visdom_server
from utils.system.errors import UserError
from utils.vis import visdom as visdom_plot
from utils.vis import visdom_client
from utils.vis.visdom import VisdomPlot, Window

MINI = words(
    "--dataroot demo:2:32 --model resunet --width 4 --depth 1 --levels 1 --gpu_ids -1 --max_steps 2 "
    "--crop_size 16 --amp off"
)
OFF = ("--visdom", "off")

# ------------------------------------------------------------------------------------------ code from files

FORBIDDEN = {  # a pattern, and what it must find
    r"\bpickle\.|\bimport (c?pickle|dill|joblib|shelve|marshal)\b": "import pickle",
    r"\byaml\.\w*load": "yaml.unsafe_load(x)",
    r"(?<![\w.])eval\(": "x = eval(text)",
    r"(?<![\w.])exec\(": "exec(open(x).read())",
    r"shell=True|\bos\.system\(|\bos\.popen\(": "run(x, shell=True)",
    r"weights_only=False|allow_pickle=True": "load(x, weights_only=False)",
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
    for pattern, sample in FORBIDDEN.items():
        assert re.search(pattern, sample)
        where = [name for name, text in found.items() if re.search(pattern, text)]
        cases.check(not where, f"{sample} in {where}")
    loads = [(name, line) for name, text in found.items() for line in re.findall(r"torch\.load\(.*", text)]
    ((name, line),) = loads
    cases.check("weights_only=True" in line, f"torch.load in {name}: {line}")


def test_nothing_of_these_names_is_installed() -> None:
    """`data`, `models` and `utils` would take the place of other people's."""
    text = (ROOT / "pyproject.toml").read_text()
    table = text.split("[tool.setuptools]")[1].split("\n[")[0]
    assert re.search(r"^packages = \[\]", table, re.MULTILINE) and "py-modules" not in table


HUGE = 10**6  # squared: 4 TB of float32


def repeated(path: Path) -> None:
    torch.save({"0.weight": torch.zeros(1).expand(HUGE, HUGE)}, path)


def repeated_in_the_older_format(path: Path) -> None:
    net = {"params": {"0.weight": torch.zeros(1, 3).expand(HUGE, 3), "0.bias": torch.zeros(3)}}
    torch.save(net, path, _use_new_zipfile_serialization=False)


def packed_weights(path: Path) -> None:
    """As `repeated`, but with all its zeros in the file, compressed a thousand times."""
    torch.save({"0.weight": torch.zeros(2**22)}, path)
    with zipfile.ZipFile(path) as stored:
        members = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.risk(9)
@pytest.mark.parametrize("write", [repeated, repeated_in_the_older_format, packed_weights])
def test_weights_that_unpack_to_more_than_their_file_are_refused(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "net.pth"
    write(path)
    for read in (read_weights, lambda path: load_weights(torch.nn.Linear(3, 3), path)):
        with pytest.raises(UserError, match=r"more values than the file|is damaged"):
            read(path)


# ------------------------------------------------------------------------------------------------ open ports


@pytest.mark.risk(22)
def test_a_started_page_listens_on_this_machine_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need_visdom()
    monkeypatch.setenv("HOME", str(tmp_path))
    plain = visdom_client.SERVER.replace("download_scripts_and_run", "main")  # nothing is fetched by a test
    monkeypatch.setattr(visdom_client, "SERVER", plain)
    port = free_port()
    with visdom_client.start_server(port) as process, ExitStack() as cleanup:
        cleanup.callback(process.kill)
        wait_until(lambda: listening(port))
        assert listening(port) == ["0100007F"]  # 127.0.0.1


@pytest.mark.risk(22)
@pytest.mark.parametrize("mode", ["auto", "off"])
def test_no_page_is_started_unasked(cli: InProcess, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    started: list[Any] = []
    wrap("start_server", lambda honest, port: started.append(port), monkeypatch)
    before = {*children(os.getpid())}
    cli.train(*MINI, "--visdom", mode, "--visdom_port", str(free_port()))
    assert not started and {*children(os.getpid())} <= before


@pytest.mark.risk(22)
def test_no_markup_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    evil = '<img src=x onerror="alert(1)">&'

    client = Mock(**{"has_window.return_value": True, "server_ended.return_value": False})
    monkeypatch.setattr(visdom_plot, "visdom_class", lambda trust_env: None)
    monkeypatch.setattr(visdom_plot, "VisdomClient", lambda *given: client)
    plot = VisdomPlot("run", {"one": Window(evil, "x", "y")}, "http://127.0.0.1", 1, say=lambda text: None)
    plot.add("one", "a", 1, 2)
    plot.picture("grid", evil, torch.zeros(3, 4, 4))
    assert plot.close()
    calls = [*client.line.call_args_list, *client.image.call_args_list]
    titles = {(call.args[0], call.kwargs["opts"]["title"]) for call in calls}
    assert titles == {("one", html.escape(evil)), ("grid", html.escape(evil))}


# --------------------------------------------------------------------- other programs on the port of the page

OK = b"HTTP/1.1 200 OK\r\n"


def endless(connection: socket.socket) -> None:
    connection.sendall(OK + b"\r\n")
    while True:
        connection.sendall(b"x" * 2**20)


def dripping(connection: socket.socket) -> None:
    connection.sendall(OK + b"Content-Length: 1000000\r\n\r\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.2)


def chunked(connection: socket.socket) -> None:
    connection.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"100000\r\n" + b"x" * 2**20 + b"\r\n")


def many_heads(connection: socket.socket) -> None:
    connection.sendall(OK)
    while True:
        connection.sendall(b"X-Name: value\r\n" * 2**10)


@functools.cache
def zeros_packed(wbits: int) -> bytes:
    """256 MB of zeros."""
    pack = zlib.compressobj(1, wbits=wbits)
    return b"".join(pack.compress(bytes(2**20)) for _ in range(2**8)) + pack.flush()


def packed_as(encoding: bytes, wbits: int) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        body = zeros_packed(wbits)
        head = b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (encoding, len(body))
        connection.sendall(OK + head + body)

    return answer


def redirecting(code: int, place: bytes) -> Callable[[socket.socket], None]:
    """To `place`, in which %d is the port of this server."""

    def answer(connection: socket.socket) -> None:
        where = place.replace(b"%d", str(connection.getsockname()[1]).encode())
        head = b"HTTP/1.1 %d T\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (code, where)
        connection.sendall(head)

    return answer


ANSWERS: dict[str, Callable[[socket.socket], None]] = {
    "endless": endless,
    "dripping": dripping,
    "endless chunks": chunked,
    "endless head": many_heads,
    "gzip": packed_as(b"gzip", 31),
    "deflate": packed_as(b"deflate", 15),
    "gzip twice": packed_as(b"gzip, gzip", 31),
    "307": redirecting(307, b"http://127.0.0.1:%d/elsewhere"),
    "302 on this server": redirecting(302, b"/elsewhere"),
    "308 by another name": redirecting(308, b"//localhost:%d/elsewhere"),
    "301 to a file": redirecting(301, b"file:///etc/hostname"),
}


@pytest.mark.risk(22)
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_program_that_is_not_visdom_costs_little(answer: Callable[[socket.socket], None]) -> None:
    need_visdom()
    asked: list[bytes] = []
    over = threading.Event()
    zeros_packed(15), zeros_packed(31)  # before the time is taken

    def serve() -> None:
        while not over.is_set():
            with suppress(OSError), other.accept()[0] as connection:
                if request := connection.recv(2**16):
                    asked.append(request.split()[1])
                    answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as other:
        for _ in range(2):  # the first connection of a client carries no data
            threading.Thread(target=serve, daemon=True).start()
        began = time.monotonic()
        tracemalloc.start()
        with pytest.raises((RuntimeError, OSError), match=r"not visdom|Error connecting"):
            visdom_client.VisdomClient("http://127.0.0.1", other.getsockname()[1], "run")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        over.set()
        other.shutdown(socket.SHUT_RDWR)  # ends what waits in accept
    assert time.monotonic() - began < 3 * visdom_client.TIMEOUT_S and peak < 2**25
    assert asked and b"/elsewhere" not in asked


@pytest.mark.risk(22)
def test_no_proxy_is_asked_for_this_machine(cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with visdom_server() as server, socket.create_server(("127.0.0.1", 0)) as proxy:
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            for place in ("http://127.0.0.1", "http://localhost", "http://LocalHost"):
                with monkeypatch.context() as patch:
                    patch.setenv(variable, f"http://127.0.0.1:{proxy.getsockname()[1]}")
                    client = visdom_client.VisdomClient(place, server.port, "run")
                    cases.check(not client.has_window("one"), f"{variable} {place}")
                client.close()
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()


# ------------------------------------------------------------------------------------------ files elsewhere

EVIL = ["../out.png", "../../out.png", "sub/../../out.png", "/abs/out.png", "./../out.png", "..%2Fout.png"]


@pytest.mark.risk(12)
@pytest.mark.parametrize("name", EVIL)
def test_names_of_a_manifest_stay_within_the_results(cli: InProcess, tmp_path: Path, name: str) -> None:
    cli.train(*MINI, *OFF)
    folder = tmp_path / "set" / "deep"
    given = folder / name.replace("/abs/", f"{tmp_path}/abs/")
    save(image(32, 32), given)
    save(image(32, 32, seed=1), folder / "target.png")
    row = str(given) if name.startswith("/") else name
    (folder / "pairs.csv").write_text(f"input,target\n{row},target.png\n")
    before = tree(tmp_path)
    cli.test("--dataroot", str(folder / "pairs.csv"), "--results_dir", "out")
    after = tree(tmp_path)
    assert before.items() <= after.items()
    new = [path for path in after.keys() - before.keys() if path != "out"]
    assert len(new) >= 5 and all(path == "out/run" or path.startswith("out/run/") for path in new)


@pytest.mark.risk(12)
@pytest.mark.parametrize(
    "name", ["../x", "..", ".", "/tmp/x", "a/../../x", "a/b", "a\\..\\b", "a\nb", "a\0b", "~root/x", "x:y"]
)
def test_names_of_runs_stay_within_checkpoints(cli: InProcess, tmp_path: Path, name: str) -> None:
    assert "--name" in cli.train(*MINI, *OFF, name=name, code=2).error
    assert not tree(tmp_path)


# ---------------------------------------------------------------------------------------------- network calls

ALONE = """
import socket
honest, lookup = socket.socket.connect, socket.getaddrinfo
def check(host):
    if host not in ("localhost", "127.0.0.1", "::1", None):
        open("outside", "a").write(f"{host}\\n")
        raise OSError(f"a call to {host}")
def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        check(address[0])
    return honest(self, address)
def resolve(host, *given, **named):
    check(host)
    return lookup(host, *given, **named)
socket.getaddrinfo, socket.socket.connect, socket.socket.connect_ex = resolve, connect, connect
"""
START = """
import multiprocessing, sys
import torch.multiprocessing
if __name__ == "__main__":
    multiprocessing.set_start_method("{method}")
    print("start method", torch.multiprocessing.get_start_method(), file=sys.stderr)
"""


@pytest.mark.risk(22)
@pytest.mark.parametrize("mode", ["off", "auto"])
def test_no_call_leaves_the_machine(work: Workplace, mode: str) -> None:
    flags = ("--visdom", mode, "--visdom_port", str(free_port()))
    work.both(*MINI, *flags, test=flags, before=ALONE, fresh=True)
    assert not (work.folder / "outside").exists()
    assert (work.folder / "results/run/demo/metrics.csv").is_file()


@pytest.mark.risk(22)
def test_the_guard_against_calls_works(work: Workplace) -> None:
    probe = ALONE + "import urllib.request; urllib.request.urlopen('http://192.0.2.1')"
    work.process(sys.executable, "-c", probe).wait(1)
    assert (work.folder / "outside").exists()


@pytest.mark.risk(7)
def test_every_way_of_starting_processes_works(work: Workplace) -> None:
    """Python 3.14 and macOS do not fork: what a loader process gets must survive pickling."""
    states = []
    for method in ("fork", "forkserver", "spawn"):
        flags = ("--num_workers", "2", *OFF)
        done = work.at(method).both(*MINI, *flags, test=flags, before=START.format(method=method))
        assert f"start method {method}" in done.err and "Warning" not in done.err
        assert done.err.count("options ") == 1  # the scripts do nothing when a worker imports them
        assert done.summary["images"] == 3
        states.append(weights(done.run))
    for other in states[1:]:
        assert_same_state(states[0], other)
