"""Plots on a real visdom server: every point arrives once, whatever happens to the server or the script."""

import http.server
import math
import os
import re
import runpy
import shutil
import signal
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.builders import FAST, ROOT, TINY
from tests.cli import Workplace, children, free_port, listening, log, wait_until
from tests.visdom_server import (
    Curves,
    Points,
    Server,
    curves,
    listens,
    need_page_files,
    need_visdom,
    post,
    visdom_server,
    windows,
)
from utils.vis import visdom as visdom_plot
from utils.vis import visdom_client
from utils.vis.panel import links
from utils.vis.visdom import TEST, VisdomPlot, Window, open_plot

LOCAL = "http://127.0.0.1"
SIMPLE = {"one": Window("one", "x", "y"), "two": Window("two", "x", "y", curves=2)}


@pytest.fixture(scope="module", autouse=True)
def cores() -> Iterator[set[int]]:
    """One core for all that is started here: threads of a tiny network mostly wait for each other."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield cores
    os.sched_setaffinity(0, cores)


def serve() -> Iterator[Server]:
    with visdom_server() as server:
        yield server


server = pytest.fixture(serve, scope="module")
own_server = pytest.fixture(serve, name="own_server")  # one that a test may freeze or kill


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter waits for the plots of this process."""
    monkeypatch.setattr(visdom_plot, "RETRY_S", 0.2)
    monkeypatch.setattr(visdom_plot, "PAUSE_S", 0.02)
    monkeypatch.setattr(visdom_plot, "MAX_PAUSE_S", 0.1)
    monkeypatch.setattr(visdom_client, "TIMEOUT_S", 0.5)


class Plot(VisdomPlot):
    """A plot of this process that keeps what it says."""

    def __init__(self, env: str, port: int, windows: dict[str, Window] = SIMPLE):
        self.messages: list[str] = []
        super().__init__(env, windows, LOCAL, port, say=self.messages.append)


def line(start: int, stop: int, stride: int = 1) -> Points:
    return [(float(i), i / 7) for i in range(start, stop, stride)]


def draw(plot: VisdomPlot, points: Points, window: str = "one", curve: str = "a", wait: bool = False) -> None:
    """Add points; `wait` until the server has everything."""
    for x, y in points:
        plot.add(window, curve, x, math.nan if y is None else y)
    if wait:
        wait_until(lambda: plot.complete)


# ---------------------------------------------------------------------------------------- through the scripts


def flags(port: int) -> tuple[str, ...]:
    return ("--visdom", "auto", "--visdom_server", LOCAL, "--visdom_port", str(port))


def lines_about_visdom(stderr: str) -> list[str]:
    return [text for text in stderr.splitlines() if "visdom" in text and not re.search(r"visdom\w*=", text)]


def logged(work: Workplace, name: str = "run") -> Curves:
    """What the windows of a training run must hold, from its log."""

    def curve(x: str, y: str) -> Points:
        return [(record[x], record[y]) for record in log(work.run(name)) if y in record]

    return {
        "loss": {"train": curve("step", "loss")},
        "lr": {"lr": curve("step", "lr")},
        "psnr": {
            "train": curve("epoch", "train_psnr"),
            "validation": curve("epoch", "val_psnr"),
            "input": curve("epoch", "val_psnr_input"),
        },
    }


Trained = tuple[Workplace, dict[str, Any]]


@pytest.fixture(scope="module")
def trained(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of three epochs, and its windows as they were at its end."""
    work = Workplace(tmp_path_factory.mktemp("trained"))
    done = work.train(*TINY, *FAST, *flags(server.port), "--n_epochs", "3")
    assert lines_about_visdom(done.err) == [f"visdom: {LOCAL}:{server.port}/env/run"]
    return work, server.windows("run")


@pytest.fixture
def trained_copy(trained: Trained, work: Workplace) -> Workplace:
    shutil.copytree(trained[0].folder, work.folder, dirs_exist_ok=True)
    return work


def test_training_shows_what_the_log_holds(trained: Trained) -> None:
    work, windows = trained
    expected = logged(work)
    assert len(expected["loss"]["train"]) == 9 and len(expected["psnr"]["validation"]) == 3
    assert curves(windows) == expected
    assert {name: window["title"] for name, window in windows.items()} == {
        "loss": "loss",
        "lr": "learning rate",
        "psnr": "PSNR of the run",
        "run": "run",
        "grid": "input | output | target, step 9",
    }
    assert windows["grid"]["content"]["src"].startswith("data:image/jpeg;base64,")


def test_the_panel_says_what_the_run_is_and_how_far(trained: Trained) -> None:
    work, windows = trained
    text = re.sub(r"<[^>]+>", "|", windows["run"]["content"])
    best = max(value for _, value in work.log("run", "val_psnr"))
    for words in (
        "|data|",
        "demo (48 x 48 pixels",
        "|network|",
        "resunet, ",
        "|ended after 0:",
        " images/s|",
        f"|val PSNR {best:.2f} dB (input ",
        "|checkpoints/run/report.md",
    ):
        assert words in text, (words, text)


def test_the_bare_address_links_to_the_runs(server: Server, trained: Trained) -> None:
    """visdom shows the environment "main" there."""
    assert '<a href="/env/run" target="_top">run</a>' in server.windows("main")["runs"]["content"]


def test_a_run_with_an_evil_name_is_a_text_in_the_list_of_runs() -> None:
    listed = links(["main", "<b>", "a run"])
    assert listed.count("<li>") == 2 and "<b>" not in listed
    assert '<a href="/env/a%20run" target="_top">a run</a>' in listed


@pytest.mark.parametrize(("values", "bounds"), [((20.0, 90.0), [0, 90]), ((20.0, -3.0), None)])
def test_the_scale_of_the_classic_window_holds_where_the_values_are(
    server: Server, values: tuple[float, ...], bounds: list[int] | None
) -> None:
    env = f"scale {values[1]}"
    with closing(Plot(env, server.port, {"test": TEST})) as plot:
        draw(plot, list(enumerate(values)), "test", wait=True)
    assert server.windows(env)["test"]["content"]["layout"]["yaxis"].get("range") == bounds


def test_a_resumed_run_keeps_its_windows(server: Server, trained: Trained, trained_copy: Workplace) -> None:
    trained_copy.train("--resume", "--n_epochs", "5", *flags(server.port))
    windows = server.windows("run")
    expected = logged(trained_copy)
    assert [x for x, _ in expected["loss"]["train"]] == list(range(1, 16))
    assert curves(windows) == expected
    assert {name: windows[name]["i"] for name in trained[1]} == {n: w["i"] for n, w in trained[1].items()}


def test_testing_shows_the_psnr_of_every_image(server: Server, trained_copy: Workplace) -> None:
    """As in the classic recipe: a window PSNR with `clear` per image and `mean` at 0, from 0 to 90."""
    values = trained_copy.test(*flags(server.port)).numbers("psnr")
    shown = server.windows("run")
    layout = shown["test_demo"]["content"]["layout"]
    assert shown["test_demo"]["title"] == "PSNR" == layout["title"]
    assert layout["yaxis"]["range"] == [0, 90] and layout["showlegend"] is True
    assert "dtick" not in layout["xaxis"]  # ticks one by one freeze the page of a long run
    clear, mean = shown["test_demo"]["content"]["data"]
    assert (clear["name"], mean["name"]) == ("clear", "mean")
    assert clear["x"] == list(range(1, len(values) + 1)) and clear["y"] == pytest.approx(values, abs=1e-6)
    assert mean["x"] == [0] and mean["y"] == pytest.approx([statistics.mean(values)], abs=1e-6)
    assert "markers" in mean["mode"]
    assert shown["grid_demo"]["title"] == "demo: input | output | target"


def replay(patch: pytest.MonkeyPatch, folder: Path, name: str, port: int) -> int:
    """`python -m utils.replay` in this process; its exit code."""
    patch.chdir(folder)
    patch.setattr(sys, "argv", ["replay", name, "--visdom_server", LOCAL, "--visdom_port", str(port)])
    patch.delitem(sys.modules, "utils.replay", raising=False)  # the doctests have imported it
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("utils.replay", run_name="__main__")
    return int(ended.value.code or 0)


def test_replay_rebuilds_everything(
    server: Server, trained_copy: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    trained_copy.run("run").rename(trained_copy.run("again"))
    tested = trained_copy.folder / "results/again/demo"
    tested.mkdir(parents=True)
    rows = "a,20.5,9,1\nb,inf,9,1\nc,30.25,9,1\n"
    (tested / "metrics.csv").write_text("# how\nname,psnr,psnr_input,seconds\n" + rows)
    shutil.copy(trained_copy.file("again", "val_grid.png"), tested / "grid.png")
    assert replay(monkeypatch, trained_copy.folder, "again", server.port) == 0
    assert capsys.readouterr().err == f"visdom: {LOCAL}:{server.port}/env/again\n"
    windows = server.windows("again")
    test = {"test_demo": {"clear": [(1, 20.5), (2, None), (3, 30.25)], "mean": [(0, 25.375)]}}
    assert curves(windows) == logged(trained_copy, "again") | test
    assert {key: window["title"] for key, window in windows.items() if window["type"] == "image"} == {
        "grid": "input | output | target, step 9",
        "grid_demo": "demo: input | output | target",
    }


def test_replay_fails_where_no_server_answers(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    assert replay(monkeypatch, trained[0].folder, "run", port) == 1
    said = capsys.readouterr().err
    assert f"visdom: no server at {LOCAL}:{port}" in said
    assert f"error: {LOCAL}:{port} did not take the plots [--visdom_port]" in said


def test_without_a_server_training_says_so_once(trained: Trained, work: Workplace) -> None:
    port = free_port()
    done = work.train(*TINY, *FAST, *flags(port), "--n_epochs", "3")
    (said,) = lines_about_visdom(done.err)
    assert f"no server at {LOCAL}:{port}" in said and f"`visdom -port {port} -bind_local`" in said
    assert logged(work) == logged(trained[0])


def test_a_server_that_never_answers_costs_little(trained: Trained, work: Workplace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.time()
        done = work.train(*TINY, *FAST, *flags(silent.getsockname()[1]), "--n_epochs", "3")
        ended = time.time()
    assert logged(work) == logged(trained[0])
    assert len(lines_about_visdom(done.err)) == 1
    written = work.file("run", "status.json").stat().st_mtime  # when training was over
    assert started < written and ended - written < 6.5


def test_start_starts_a_server_of_its_own(work: Workplace) -> None:
    """It listens on 127.0.0.1 only, shows the run, and is gone with the script."""
    need_page_files()  # without them this server would fetch them
    port = free_port()
    own = (*flags(port), "--visdom", "start", "--n_epochs", "9999")
    job = work.start("train.py", *TINY, *FAST, *own, HOME=str(work.folder))
    job.until(lambda: "loss" in windows(port, "run"), 30)
    (started,) = children(job.pid)
    assert listening(port) == ["0100007F"]  # 127.0.0.1 of IPv4, and nothing of IPv6
    job.signal(signal.SIGTERM)
    assert lines_about_visdom(job.wait(143, 60).err) == [f"visdom: {LOCAL}:{port}/env/run"]
    assert not Path(f"/proc/{started}").exists() and not listens(port)


def test_a_started_server_ends_with_a_killed_script(work: Workplace) -> None:
    need_visdom()
    code = "import time; from utils.vis.visdom_client import start_server; start_server(1); time.sleep(60)"
    job = work.process(sys.executable, "-c", code, HOME=str(work.folder), PYTHONPATH=str(ROOT))
    job.until(lambda: children(job.pid))
    (started,) = children(job.pid)
    job.kill()
    wait_until(lambda: not Path(f"/proc/{started}").exists())


# ------------------------------------------------------------------------ a server that comes, goes and hangs


@pytest.mark.parametrize("killed", [False, True])
def test_an_absent_server_gets_everything_when_it_starts(own_server: Server, killed: bool) -> None:
    """Absent from the beginning, or killed meanwhile."""
    env = f"absent {killed}"
    if not killed:
        own_server.kill()
    with closing(Plot(env, own_server.port)) as plot:
        plot.picture("shown", "title", torch.rand(3, 4, 4))
        draw(plot, line(0, 3), "two", "b")
        draw(plot, line(0, 5), wait=killed)
        if killed:
            own_server.kill()
        draw(plot, line(5, 9))
        wait_until(lambda: len(plot.messages) == 1 + killed and plot.client is None)
        own_server.start()
        wait_until(lambda: plot.complete)
        draw(plot, line(9, 12), wait=True)
    assert own_server.curves(env) == {"one": {"a": line(0, 12)}, "two": {"b": line(0, 3)}}
    assert "shown" in own_server.windows(env)
    address, trouble = plot.messages if killed else reversed(plot.messages)
    assert address.endswith(f"/env/absent%20{killed}") and ("lost" if killed else "no server") in trouble


def test_a_frozen_server_gets_everything_when_it_continues(own_server: Server) -> None:
    """The server carries out later on what ran out of time; those points must not come twice."""
    with closing(Plot("frozen", own_server.port)) as plot:
        draw(plot, line(0, 5))
        draw(plot, line(0, 3), "two", "b", wait=True)
        own_server.freeze()
        began = time.monotonic()
        draw(plot, line(5, 9))
        assert time.monotonic() - began < 0.1
        wait_until(lambda: len(plot.messages) == 2)
        draw(plot, line(9, 12))
        own_server.thaw()
        wait_until(lambda: plot.complete)
        draw(plot, line(12, 15), wait=True)
    assert own_server.curves("frozen") == {"one": {"a": line(0, 15)}, "two": {"b": line(0, 3)}}
    assert "lost" in plot.messages[1]


def test_a_frozen_server_does_not_keep_the_script(own_server: Server) -> None:
    plot = Plot("frozen", own_server.port)
    draw(plot, line(0, 5), wait=True)
    own_server.freeze()
    draw(plot, line(5, 9))
    began = time.monotonic()
    assert plot.close(timeout_s=0.3) is False
    assert time.monotonic() - began < 0.5
    plot.thread.join()


def test_a_restart_between_two_sends_is_noticed(own_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where it comes back with windows that were saved earlier, and nothing was sent meanwhile."""
    with closing(Plot("saved", own_server.port)) as plot:
        draw(plot, line(0, 5))
        draw(plot, line(0, 3), "two", "b", wait=True)
        post(own_server.port, "save", data=["saved"])
        draw(plot, line(5, 9), wait=True)
        monkeypatch.setattr(visdom_plot, "RETRY_S", 60)  # nothing happens before the next point
        time.sleep(0.3)
        own_server.kill()
        own_server.start()
        assert own_server.curves("saved")["one"] == {"a": line(0, 5)}
        draw(plot, line(9, 10))
    assert own_server.curves("saved") == {"one": {"a": line(0, 10)}, "two": {"b": line(0, 3)}}
    assert plot.messages == [f"visdom: {LOCAL}:{own_server.port}/env/saved"]


def test_an_idle_script_gives_a_new_server_everything(own_server: Server) -> None:
    with closing(Plot("idle", own_server.port)) as plot:
        draw(plot, line(0, 5), wait=True)
        own_server.kill()
        own_server.start()
        wait_until(lambda: own_server.curves("idle") == {"one": {"a": line(0, 5)}})


def test_the_last_points_reach_a_server_that_was_restarted(own_server: Server) -> None:
    plot = Plot("last", own_server.port)
    draw(plot, line(0, 5), wait=True)
    with plot.lock:  # the thread waits meanwhile
        own_server.kill()
        own_server.start()
    draw(plot, line(5, 9))
    assert plot.close() is True
    assert own_server.curves("last") == {"one": {"a": line(0, 9)}}


class OtherServer(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_error(404)

    def log_message(self, *args: object) -> None:
        pass


def test_a_server_that_is_not_visdom_gets_no_plots() -> None:
    pytest.importorskip("visdom", reason="visdom is not installed")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), OtherServer) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        plot = Plot("run", other.server_port)
        draw(plot, line(0, 5))
        assert plot.close() is False
        other.shutdown()
    assert len(plot.messages) == 1 and "no server" in plot.messages[0]


def test_a_proxy_is_not_asked_for_this_machine(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"{LOCAL}:{free_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with closing(Plot("proxy", server.port)) as plot:
        draw(plot, line(0, 5), wait=True)


@pytest.mark.parametrize("broken", [None, RuntimeError("of two minds")])
def test_without_visdom_a_line_says_so(broken: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_visdom(trust_env: bool) -> None:
        raise broken or ModuleNotFoundError("No module named 'visdom'")

    monkeypatch.setattr(visdom_plot, "visdom_class", no_visdom)
    said: list[str] = []
    assert open_plot("start", "run", SIMPLE, LOCAL, 1, said.append) is None
    assert open_plot("off", "run", SIMPLE, LOCAL, 1, said.append) is None
    assert len(said) == 1 and said[0].startswith("visdom: no live plots (")


# ----------------------------------------------------------------------------------------------- what is sent


@pytest.mark.parametrize(
    ("window", "added", "held"),
    [
        # infinity is never sent
        (
            "one",
            [(0.0, math.inf), (1.0, 1.0), (2.0, -math.inf), (3.0, math.nan), (4.0, 2.0)],
            {"a": [(0, None), (1, 1), (2, None), (3, None), (4, 2)]},
        ),
        # a long curve is thinned evenly, to 500 to 1000 points
        ("one", line(0, 10_000), {"a": line(0, 10_000, 16)}),
        # the curves of a window share its points
        ("two", line(0, 2500), {"a": line(0, 2500, 8), "b": line(0, 2500, 8)}),
    ],
    ids=["infinity", "long", "shared"],
)
def test_what_the_server_holds(server: Server, window: str, added: Points, held: dict[str, Points]) -> None:
    env = f"held {len(added)}"
    with closing(Plot(env, server.port)) as plot:
        for part in range(0, len(added), max(1, len(added) // 5)):
            for curve in held:
                draw(plot, added[part : part + max(1, len(added) // 5)], window, curve, wait=True)
    assert server.curves(env) == {window: held}


def test_points_that_come_while_others_are_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """New windows, new curves and thinning at any moment of the sending."""
    monkeypatch.setattr(visdom_plot, "MAX_POINTS", 40)
    monkeypatch.setattr(visdom_plot, "PAUSE_S", 0.0)
    names = [(f"window {i}", f"curve {j}") for i in range(4) for j in range(2)]
    looks = {name: Window(name, "x", "y") for name, _ in names}
    plot = Plot("busy", server.port, looks)
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
    monkeypatch.setattr(visdom_plot, "MAX_PAUSE_S", 10.0)
    monkeypatch.setattr(visdom_plot, "SENDING_FRACTION", 0.1)
    sending, send = [], VisdomPlot._update

    def update(plot: VisdomPlot) -> None:
        began = time.monotonic()
        send(plot)
        sending.append(time.monotonic() - began)

    monkeypatch.setattr(VisdomPlot, "_update", update)
    began = time.monotonic()
    with closing(Plot("share", server.port)) as plot:
        for x, y in line(0, 1000):
            plot.add("one", "a", x, y)
            time.sleep(0.004)
        spent, took = sum(sending), time.monotonic() - began
    assert 0 < spent < 0.15 * took, (sending, took)
    assert server.curves("share") == {"one": {"a": line(0, 1000, 2)}}


def test_a_new_script_replaces_what_its_windows_held(server: Server) -> None:
    """A second test of a run, or a run of a name used before; `b` comes long after the connection."""
    for stop in (9, 4):
        with closing(Plot("twice", server.port)) as plot:
            draw(plot, line(0, stop), wait=True)
            draw(plot, line(0, stop), "two", "b", wait=True)
            draw(plot, line(0, stop), "two", "c")
        drawn = line(0, stop)
        assert server.curves("twice") == {"one": {"a": drawn}, "two": {"b": drawn, "c": drawn}}


def test_a_window_that_was_closed_on_the_page_comes_back_whole(server: Server) -> None:
    with closing(Plot("closed", server.port)) as plot:
        draw(plot, line(0, 5), wait=True)
        post(server.port, "close", win="one", eid="closed")
        draw(plot, line(5, 7), wait=True)
    assert server.curves("closed") == {"one": {"a": line(0, 7)}}


def test_only_the_newest_picture_is_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def received() -> int:
        return (server.folder / "server.log").read_text().count("200 POST /events")

    monkeypatch.setattr(visdom_plot, "PAUSE_S", 0.5)
    before = received()
    plot = Plot("picture", server.port)
    for i in range(20):
        plot.picture("shown", f"step {i}", torch.full((3, 8, 8), i / 20))
    assert plot.close() is True
    (window,) = server.windows("picture").values()
    assert (window["type"], window["title"]) == ("image", "step 19")
    assert received() - before <= 3


def test_the_environment_is_the_name_of_the_run(server: Server) -> None:
    with closing(Plot("a b=1+x.y", server.port)) as plot:
        draw(plot, line(0, 2), wait=True)
    assert plot.messages == [f"visdom: {LOCAL}:{server.port}/env/a%20b%3D1%2Bx.y"]
    assert server.curves("a b=1+x.y") == {"one": {"a": line(0, 2)}}


# ---------------------------------------------------------------------------------------------- what it costs


@pytest.mark.slow
@pytest.mark.timing
def test_plots_do_not_slow_training(cores: set[int], own_server: Server, work: Workplace) -> None:
    """Median step of runs in turn: without plots (twice: the noise), and with a server in three states."""
    # one core for training and the thread that sends, another for the server
    os.sched_setaffinity(0, {max(cores)})
    rounds, states = 3, ["off", "live", "frozen", "no server", "off again"]
    step_s: dict[str, list[float]] = {state: [] for state in states}
    size = ("--dataroot", "demo:6:96", "--model", "resunet", "--width", "48", "--repeat", "40")
    length = ("--max_steps", "60", *FAST, "--crop_size", "96")
    for number in range(rounds):
        for state in states[number:] + states[:number]:
            name = f"{state.replace(' ', '_')}_{number}"
            port = free_port() if state == "no server" else own_server.port
            seeing = ("--visdom", "off") if "off" in state else flags(port)
            job = work.start("train.py", *size, *length, *seeing, name=name)
            if state == "frozen":  # in the middle of the run
                job.until(partial(own_server.curves, name))
                own_server.freeze()
            job.wait()
            own_server.thaw()
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
