"""Plots on a real visdom server: every point arrives once, whatever happens to the server or the script."""

import csv
import http.server
import json
import math
import os
import re
import runpy
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import FAST, ROOT, TINY, Workplace
from tests.visdom_server import (
    Curves,
    Points,
    Server,
    curves,
    free_port,
    listens,
    need_page_files,
    need_visdom,
    post,
    visdom_server,
    wait_until,
    windows,
)
from utils.vis import visdom as visdom_plot
from utils.vis.visdom import VisdomPlot, Window, open_plot

LOCAL = "http://127.0.0.1"
SIMPLE = {"one": Window("one", "x", "y"), "two": Window("two", "x", "y", curves=2)}


@pytest.fixture(scope="module", autouse=True)
def cores() -> Iterator[set[int]]:
    """One core for all that is started here: threads of a tiny network mostly wait for each other."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield cores
    os.sched_setaffinity(0, cores)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with visdom_server() as server:
        yield server


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server that a test may freeze or kill."""
    with visdom_server() as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter waits for the plots of this process."""
    monkeypatch.setattr(visdom_plot, "RETRY_S", 0.2)
    monkeypatch.setattr(visdom_plot, "PAUSE_S", 0.02)
    monkeypatch.setattr(visdom_plot, "MOST_PAUSE_S", 0.1)
    monkeypatch.setattr(visdom_plot, "TIMEOUT_S", 0.5)


def quiet(text: str) -> None:
    pass


@contextmanager
def plotting(env: str, port: int, said: list[str] | None = None) -> Iterator[VisdomPlot]:
    plot = VisdomPlot(env, SIMPLE, LOCAL, port, say=quiet if said is None else said.append)
    try:
        yield plot
    finally:
        plot.close()


def sent(plot: VisdomPlot) -> None:
    """Wait until the server has everything."""
    wait_until(lambda: plot.complete)


def line(start: int, stop: int, stride: int = 1) -> Points:
    return [(float(i), i / 7) for i in range(start, stop, stride)]


def draw(plot: VisdomPlot, points: Points, window: str = "one", curve: str = "a") -> None:
    for x, y in points:
        plot.add(window, curve, x, math.nan if y is None else y)


# ---------------------------------------------------------------------------------------- through the scripts


def flags(port: int) -> tuple[str, ...]:
    return ("--visdom", "auto", "--visdom_server", LOCAL, "--visdom_port", str(port))


def lines_about_visdom(stderr: str) -> list[str]:
    return [text for text in stderr.splitlines() if "visdom" in text and not re.search(r"visdom\w*=", text)]


def logged(work: Workplace, name: str) -> Curves:
    """What the windows of a training run must hold, from its log."""
    records = [json.loads(text) for text in work.file(name, "log.jsonl").read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    judged = [record for record in records if "val_psnr" in record]
    return {
        "loss": {"train": [(record["step"], record["loss"]) for record in steps]},
        "lr": {"lr": [(record["step"], record["lr"]) for record in steps]},
        "psnr": {
            "validation": [(record["epoch"], record["val_psnr"]) for record in judged],
            "doing nothing": [(record["epoch"], record["val_psnr_input"]) for record in judged],
        },
    }


@pytest.fixture(scope="module")
def trained(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workplace, dict[str, Any]]:
    """A run of three epochs, and its windows as they were at its end."""
    work = Workplace(tmp_path_factory.mktemp("trained"))
    done = work.train(*TINY, *FAST, *flags(server.port), "--n_epochs", "3", "--name", "run")
    assert lines_about_visdom(done.stderr) == [f"visdom: {LOCAL}:{server.port}/env/run"]
    return work, server.windows("run")


@pytest.fixture
def trained_copy(trained: tuple[Workplace, dict[str, Any]], tmp_path: Path) -> Workplace:
    shutil.copytree(trained[0].folder, tmp_path, dirs_exist_ok=True)
    return Workplace(tmp_path)


def test_training_shows_what_the_log_holds(trained: tuple[Workplace, dict[str, Any]]) -> None:
    work, windows = trained
    expected = logged(work, "run")
    assert len(expected["loss"]["train"]) == 9 and len(expected["psnr"]["validation"]) == 3
    assert curves(windows) == expected
    titles = {name: window["title"] for name, window in windows.items()}
    assert titles == {
        "loss": "loss",
        "lr": "learning rate",
        "psnr": "validation PSNR",
        "grid": "input | output | target, step 9",
    }
    assert windows["grid"]["content"]["src"].startswith("data:image/jpeg;base64,")


def test_a_resumed_run_goes_on_in_its_windows(
    server: Server, trained: tuple[Workplace, dict[str, Any]], trained_copy: Workplace
) -> None:
    trained_copy.train("--resume", "--name", "run", "--n_epochs", "5", *flags(server.port))
    windows = server.windows("run")
    expected = logged(trained_copy, "run")
    assert [x for x, _ in expected["loss"]["train"]] == list(range(1, 16))
    assert curves(windows) == expected
    places = {name: window["i"] for name, window in windows.items()}
    assert {name: places[name] for name in trained[1]} == {n: w["i"] for n, w in trained[1].items()}


def test_testing_shows_the_psnr_of_every_image(server: Server, trained_copy: Workplace) -> None:
    """As in the classic recipe: a window PSNR with `clear` per image and `mean` at 0, from 0 to 90."""
    trained_copy.test("--name", "run", *flags(server.port))
    window = server.windows("run")["test_demo"]
    text = (trained_copy.folder / "results/run/demo/metrics.csv").read_text()
    values = [float(row["psnr"]) for row in csv.DictReader(text.splitlines()[1:])]
    assert window["title"] == "PSNR" == window["content"]["layout"]["title"]
    assert window["content"]["layout"]["yaxis"]["range"] == [0, 90]
    assert (
        "dtick" not in window["content"]["layout"]["xaxis"]
    )  # ticks one by one freeze the page of a long run
    assert window["content"]["layout"]["showlegend"] is True
    clear, mean = window["content"]["data"]
    assert (clear["name"], mean["name"]) == ("clear", "mean")
    assert clear["x"] == list(range(1, len(values) + 1)) and clear["y"] == pytest.approx(values, abs=1e-6)
    assert mean["x"] == [0] and mean["y"] == pytest.approx([statistics.mean(values)], abs=1e-6)
    assert "markers" in mean["mode"]
    assert server.windows("run")["grid_demo"]["title"] == "demo: input | output | target"


def redraw(patch: pytest.MonkeyPatch, folder: Path, name: str, port: int) -> int:
    """`python -m utils.replay` in this process; its exit code."""
    patch.chdir(folder)
    patch.setattr(sys, "argv", ["redraw", name, "--visdom_server", LOCAL, "--visdom_port", str(port)])
    patch.delitem(sys.modules, "utils.replay", raising=False)  # the doctests have imported it
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("utils.replay", run_name="__main__")
    return int(ended.value.code or 0)


def test_redraw_rebuilds_everything(
    server: Server,
    trained_copy: Workplace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (trained_copy.folder / "checkpoints/run").rename(trained_copy.folder / "checkpoints/again")
    tested = trained_copy.folder / "results/again/demo"
    tested.mkdir(parents=True)
    (tested / "metrics.csv").write_text(
        "# how\nname,psnr,psnr_input,seconds\na,20.5,9,1\nb,inf,9,1\nc,30.25,9,1\n"
    )
    shutil.copy(trained_copy.file("again", "val_grid.png"), tested / "grid.png")
    assert redraw(monkeypatch, trained_copy.folder, "again", server.port) == 0
    assert capsys.readouterr().err == f"visdom: {LOCAL}:{server.port}/env/again\n"
    windows = server.windows("again")
    test = {"test_demo": {"clear": [(1, 20.5), (2, None), (3, 30.25)], "mean": [(0, 25.375)]}}
    assert curves(windows) == logged(trained_copy, "again") | test
    pictures = {key: window["title"] for key, window in windows.items() if window["type"] == "image"}
    assert pictures == {
        "grid": "input | output | target, step 9",
        "grid_demo": "demo: input | output | target",
    }


def test_redraw_fails_where_no_server_answers(
    trained_copy: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    assert redraw(monkeypatch, trained_copy.folder, "run", port) == 1
    said = capsys.readouterr().err
    assert f"visdom: no server at {LOCAL}:{port}" in said
    assert f"error: {LOCAL}:{port} did not take the plots [--visdom_port]" in said


def test_without_a_server_training_says_so_once(
    trained: tuple[Workplace, dict[str, Any]], work: Workplace
) -> None:
    port = free_port()
    done = work.train(*TINY, *FAST, *flags(port), "--n_epochs", "3", "--name", "run")
    (said,) = lines_about_visdom(done.stderr)
    assert f"no server at {LOCAL}:{port}" in said and f"`visdom -port {port} -bind_local`" in said
    assert logged(work, "run") == logged(trained[0], "run")


def test_a_server_that_never_answers_costs_little(
    trained: tuple[Workplace, dict[str, Any]], work: Workplace
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        started = time.time()
        done = work.train(*TINY, *FAST, *flags(port), "--n_epochs", "3", "--name", "run")
        ended = time.time()
    assert logged(work, "run") == logged(trained[0], "run")
    assert len(lines_about_visdom(done.stderr)) == 1
    status = work.file("run", "status.json").stat().st_mtime  # written when training was over
    assert started < status and ended - status < 6.5


def test_start_starts_a_server_of_its_own(work: Workplace) -> None:
    """It listens on 127.0.0.1 only, shows the run, and is gone with the script."""
    need_page_files()  # without them this server would go and fetch them
    port = free_port()
    script = work.start(
        "train.py",
        *TINY,
        *FAST,
        *flags(port),
        "--visdom",
        "start",
        "--n_epochs",
        "9999",
        "--name",
        "run",
        HOME=str(work.folder),
    )
    try:
        wait_until(lambda: "loss" in windows(port, "run"), 30)
        (started,) = children(script.pid)
        assert listening(port) == ["0100007F"]  # 127.0.0.1 of IPv4, and nothing of IPv6
    finally:
        script.send_signal(signal.SIGTERM)
        _, err = script.communicate(timeout=60)
    assert script.returncode == 143, err
    assert lines_about_visdom(err) == [f"visdom: {LOCAL}:{port}/env/run"]
    assert not Path(f"/proc/{started}").exists() and not listens(port)


def test_a_started_server_ends_with_a_killed_script(tmp_path: Path) -> None:
    need_visdom()
    code = "import time; from utils.vis.visdom import _start_server as start; start(1); time.sleep(60)"
    script = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "HOME": str(tmp_path)}
    )
    try:
        wait_until(lambda: children(script.pid))
        (started,) = children(script.pid)
        script.kill()
        script.wait()
        wait_until(lambda: not Path(f"/proc/{started}").exists())
    finally:
        script.kill()


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has ended meanwhile
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def listening(port: int) -> list[str]:
    """The addresses, in the kernel's hexadecimal, on which somebody listens at `port`."""
    rows = [
        row.split() for table in ("tcp", "tcp6") for row in Path("/proc/net", table).read_text().splitlines()
    ]
    places = [row[1].split(":") for row in rows if row[3] == "0A"]  # 0A: LISTEN
    return [address for address, number in places if int(number, 16) == port]


# ------------------------------------------------------------------------ a server that comes, goes and hangs


def test_a_server_that_comes_later_gets_everything(own_server: Server) -> None:
    own_server.kill()
    said: list[str] = []
    with plotting("late", own_server.port, said) as plot:
        draw(plot, line(0, 5))
        plot.picture("shown", "title", torch.rand(3, 4, 4))
        wait_until(lambda: said)
        own_server.start()
        sent(plot)
        draw(plot, line(5, 8))
        sent(plot)
    assert own_server.curves("late") == {"one": {"a": line(0, 8)}}
    assert "shown" in own_server.windows("late")
    assert len(said) == 2 and "no server" in said[0] and said[1].endswith("/env/late")


def test_a_frozen_server_gets_everything_when_it_goes_on(own_server: Server) -> None:
    """The server carries out later on what ran out of time; those points must not come twice."""
    said: list[str] = []
    with plotting("frozen", own_server.port, said) as plot:
        draw(plot, line(0, 5))
        draw(plot, line(0, 3), "two", "b")
        sent(plot)
        own_server.freeze()
        began = time.monotonic()
        draw(plot, line(5, 9))
        assert time.monotonic() - began < 0.1
        wait_until(lambda: len(said) == 2)
        draw(plot, line(9, 12))
        own_server.thaw()
        sent(plot)
        draw(plot, line(12, 15))
        sent(plot)
    assert own_server.curves("frozen") == {"one": {"a": line(0, 15)}, "two": {"b": line(0, 3)}}
    assert "lost" in said[1]


def test_a_frozen_server_does_not_keep_the_script(own_server: Server) -> None:
    plot = VisdomPlot("frozen", SIMPLE, LOCAL, own_server.port, say=quiet)
    draw(plot, line(0, 5))
    sent(plot)
    own_server.freeze()
    draw(plot, line(5, 9))
    began = time.monotonic()
    assert plot.close(timeout_s=0.3) is False
    assert time.monotonic() - began < 0.5
    plot.thread.join()


def test_a_killed_server_gets_everything_when_it_is_back(own_server: Server) -> None:
    with plotting("killed", own_server.port) as plot:
        draw(plot, line(0, 5))
        draw(plot, line(0, 3), "two", "b")
        plot.picture("shown", "title", torch.rand(3, 4, 4))
        sent(plot)
        own_server.kill()
        draw(plot, line(5, 9))
        wait_until(lambda: plot.client is None)
        own_server.start()
        sent(plot)
    assert own_server.curves("killed") == {"one": {"a": line(0, 9)}, "two": {"b": line(0, 3)}}
    assert "shown" in own_server.windows("killed")


def test_a_restart_between_two_sends_is_noticed(own_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where it comes back with windows that were saved earlier, and nothing was sent meanwhile."""
    said: list[str] = []
    with plotting("saved", own_server.port, said) as plot:
        draw(plot, line(0, 5))
        draw(plot, line(0, 3), "two", "b")
        sent(plot)
        post(own_server.port, "save", data=["saved"])
        draw(plot, line(5, 9))
        sent(plot)
        monkeypatch.setattr(visdom_plot, "RETRY_S", 60)  # nothing happens before the next point
        time.sleep(0.3)
        own_server.kill()
        own_server.start()
        assert own_server.curves("saved")["one"] == {"a": line(0, 5)}
        draw(plot, line(9, 10))
    assert own_server.curves("saved") == {"one": {"a": line(0, 10)}, "two": {"b": line(0, 3)}}
    assert said == [f"visdom: {LOCAL}:{own_server.port}/env/saved"]


def test_an_idle_script_gives_a_new_server_everything(own_server: Server) -> None:
    with plotting("idle", own_server.port) as plot:
        draw(plot, line(0, 5))
        sent(plot)
        own_server.kill()
        own_server.start()
        wait_until(lambda: own_server.curves("idle") == {"one": {"a": line(0, 5)}})


def test_the_last_points_reach_a_server_that_was_restarted(own_server: Server) -> None:
    plot = VisdomPlot("last", SIMPLE, LOCAL, own_server.port, say=quiet)
    draw(plot, line(0, 5))
    sent(plot)
    plot.lock.acquire()  # the thread does nothing meanwhile
    own_server.kill()
    own_server.start()
    plot.lock.release()
    draw(plot, line(5, 9))
    assert plot.close() is True
    assert own_server.curves("last") == {"one": {"a": line(0, 9)}}


def test_what_is_no_visdom_server_is_left_alone() -> None:
    class Polite(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            pass

    pytest.importorskip("visdom", reason="visdom is not installed")
    said: list[str] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Polite) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        plot = VisdomPlot("run", SIMPLE, LOCAL, other.server_port, say=said.append)
        draw(plot, line(0, 5))
        assert plot.close() is False
        other.shutdown()
    assert len(said) == 1 and "no server" in said[0]


def test_a_proxy_is_not_asked_for_this_machine(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"{LOCAL}:{free_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with plotting("proxy", server.port) as plot:
        draw(plot, line(0, 5))
        sent(plot)


@pytest.mark.parametrize("broken", [None, RuntimeError("of two minds")])
def test_without_visdom_a_line_says_so(broken: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_visdom(trust_env: bool) -> None:
        raise broken or ModuleNotFoundError("No module named 'visdom'")

    monkeypatch.setattr(visdom_plot, "_client_class", no_visdom)
    said: list[str] = []
    assert open_plot("start", "run", SIMPLE, LOCAL, 1, said.append) is None
    assert open_plot("off", "run", SIMPLE, LOCAL, 1, said.append) is None
    assert len(said) == 1 and said[0].startswith("visdom: no live plots (")


# ----------------------------------------------------------------------------------------------- what is sent


def test_infinity_is_never_sent(server: Server) -> None:
    with plotting("inf", server.port) as plot:
        for i, value in enumerate((math.inf, 1.0, -math.inf, math.nan, 2.0)):
            plot.add("one", "a", i, value)
            sent(plot)
    assert server.curves("inf") == {"one": {"a": [(0, None), (1, 1), (2, None), (3, None), (4, 2)]}}


def test_a_long_curve_is_thinned_evenly(server: Server) -> None:
    with plotting("long", server.port) as plot:
        for start in range(0, 10_000, 2500):
            draw(plot, line(start, start + 2500))
            sent(plot)
    (points,) = server.curves("long")["one"].values()
    assert points == line(0, 10_000, 16) and 500 <= len(points) <= 1000


def test_the_curves_of_a_window_share_its_points(server: Server) -> None:
    with plotting("shared", server.port) as plot:
        draw(plot, line(0, 2500), "two", "a")
        draw(plot, line(0, 2500), "two", "b")
        sent(plot)
    assert server.curves("shared") == {"two": {"a": line(0, 2500, 8), "b": line(0, 2500, 8)}}


def test_points_that_come_while_others_are_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """New windows, new curves and thinning at any moment of the sending."""
    monkeypatch.setattr(visdom_plot, "MAX_POINTS", 40)
    monkeypatch.setattr(visdom_plot, "PAUSE_S", 0.0)
    names = [(f"window {i}", f"curve {j}") for i in range(4) for j in range(2)]
    looks = {name: Window(name, "x", "y") for name, _ in names}
    plot = VisdomPlot("busy", looks, LOCAL, server.port, say=quiet)
    for k, (window, curve) in enumerate(names):
        for x, y in line(0, 150 + 10 * k):
            plot.add(window, curve, x, y or 0)
            time.sleep(0.0005)
    assert plot.close() is True
    kept = {name: {n: curve.points for n, curve in held.items()} for name, held in plot.curves.items()}
    assert server.curves("busy") == kept
    assert all(len(points) < 40 for held in kept.values() for points in held.values())


def test_sending_takes_a_small_share_of_the_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points come faster than a server takes them; without pauses nearly all of the time would be its."""
    monkeypatch.setattr(visdom_plot, "PAUSE_S", 0.0)
    monkeypatch.setattr(visdom_plot, "MOST_PAUSE_S", 10.0)
    monkeypatch.setattr(visdom_plot, "SHARE", 0.1)
    sending, send = [], VisdomPlot._update

    def update(plot: VisdomPlot) -> None:
        began = time.monotonic()
        send(plot)
        sending.append(time.monotonic() - began)

    monkeypatch.setattr(VisdomPlot, "_update", update)
    began = time.monotonic()
    with plotting("share", server.port) as plot:
        for x, y in line(0, 1000):
            plot.add("one", "a", x, y)
            time.sleep(0.004)
        spent, took = sum(sending), time.monotonic() - began
    assert 0 < spent < 0.15 * took, (sending, took)
    assert server.curves("share") == {"one": {"a": line(0, 1000, 2)}}


def test_a_new_script_replaces_what_its_windows_held(server: Server) -> None:
    """A second test of a run, or a run of a name used before; `b` comes long after the connection."""
    for stop in (9, 4):
        with plotting("twice", server.port) as plot:
            draw(plot, line(0, stop))
            sent(plot)
            draw(plot, line(0, stop), "two", "b")
            sent(plot)
            draw(plot, line(0, stop), "two", "c")
        assert server.curves("twice") == {
            "one": {"a": line(0, stop)},
            "two": {"b": line(0, stop), "c": line(0, stop)},
        }


def test_a_window_that_was_closed_on_the_page_comes_back_whole(server: Server) -> None:
    with plotting("closed", server.port) as plot:
        draw(plot, line(0, 5))
        sent(plot)
        post(server.port, "close", win="one", eid="closed")
        draw(plot, line(5, 7))
        sent(plot)
    assert server.curves("closed") == {"one": {"a": line(0, 7)}}


def test_only_the_newest_picture_is_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def received() -> int:
        return (server.folder / "server.log").read_text().count("200 POST /events")

    monkeypatch.setattr(visdom_plot, "PAUSE_S", 0.5)
    before = received()
    plot = VisdomPlot("picture", SIMPLE, LOCAL, server.port, say=quiet)
    for i in range(20):
        plot.picture("shown", f"step {i}", torch.full((3, 8, 8), i / 20))
    assert plot.close() is True
    (window,) = server.windows("picture").values()
    assert (window["type"], window["title"]) == ("image", "step 19")
    assert received() - before <= 3


def test_the_environment_is_the_name_of_the_run(server: Server) -> None:
    said: list[str] = []
    with plotting("a b=1+x.y", server.port, said) as plot:
        draw(plot, line(0, 2))
        sent(plot)
    assert said == [f"visdom: {LOCAL}:{server.port}/env/a%20b%3D1%2Bx.y"]
    assert server.curves("a b=1+x.y") == {"one": {"a": line(0, 2)}}


# ---------------------------------------------------------------------------------------------- what it costs


@pytest.mark.slow
@pytest.mark.timing
def test_plots_do_not_slow_training(cores: set[int], own_server: Server, work: Workplace) -> None:
    """Median step of runs in turn: without plots (twice: the noise), and with a server in three states."""
    os.sched_setaffinity(
        0, {max(cores)}
    )  # one for training and the thread that sends, another for the server
    rounds, states = 3, ["off", "live", "frozen", "no server", "off again"]
    step_s: dict[str, list[float]] = {state: [] for state in states}
    size = ("--dataroot", "demo:6:96", "--model", "resunet", "--width", "48")
    length = ("--repeat", "40", "--max_steps", "60")
    for number in range(rounds):
        for state in states[number:] + states[:number]:
            name = f"{state.replace(' ', '_')}_{number}"
            port = free_port() if state == "no server" else own_server.port
            seeing = ("--visdom", "off") if "off" in state else flags(port)
            script = work.start(
                "train.py", *size, *length, *FAST, *seeing, "--crop_size", "96", "--name", name
            )
            if state == "frozen":  # in the middle of the run
                wait_until(partial(own_server.curves, name), 60)
                own_server.freeze()
            _, err = script.communicate(timeout=300)
            own_server.thaw()
            assert script.returncode == 0, err
            speeds = [images_s for step, images_s in work.log(name, "images_s") if step > 12]
            step_s[state].append(4 / statistics.median(speeds))  # 4 images a step

    offs = list(zip(step_s["off"], step_s["off again"], strict=True))
    noise = statistics.median(abs(again / off - 1) for off, again in offs)
    more = {
        state: statistics.median(one / statistics.mean(off) - 1 for one, off in zip(each, offs, strict=True))
        for state, each in step_s.items()
    }
    print(f"\n{'':10} median step of every round, ms{'':15} against off, noise {noise:.1%}")
    for state, each in step_s.items():
        print(f"{state:10} {' '.join(f'{1000 * median:8.2f}' for median in each)} {more[state]:+12.2%}")
    assert max(more[state] for state in ("live", "frozen", "no server")) < 0.01 + noise
