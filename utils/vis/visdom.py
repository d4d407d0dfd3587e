"""Curves and pictures on a visdom server that may be absent, slow, frozen, killed or restarted.

The caller only appends to memory; one thread talks to the server. Every curve is kept, thinned, so a server
that comes (back) is given the whole of it, and a picture replaces the one before it. Training never waits
for a server.
"""

import logging
import math
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlsplit

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

RETRY_S = 5.0  # between two attempts to reach a server
PAUSE_S, MOST_PAUSE_S = 0.5, 10.0  # between two rounds of sending: points that come faster travel together
SHARE = 0.01  # of the time that is spent sending, within these two: it is taken from what the cores train
TIMEOUT_S = 2.0  # of one HTTP request; visdom itself would wait for ever
MAX_POINTS = 1000  # a window: what a round costs the server, and drawing the page, grows with it
LOCAL = ("localhost", "127.0.0.1", "::1")

# Ends when its stdin does, that is with this process, however that ends. visdom imports torch where it can,
# and its server never uses it: without, it starts in half a second and takes 50 MB, not 500.
SERVER = """
import os, sys, threading
def end_with_stdin():
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=end_with_stdin, daemon=True).start()
sys.modules["torch"] = None
from visdom.server.run_server import download_scripts_and_run
download_scripts_and_run()
"""


class Window(NamedTuple):
    """How a window of curves looks; `opts` are visdom's. `curves` share MAX_POINTS."""

    title: str
    xlabel: str
    ylabel: str
    opts: dict[str, Any] = {}  # noqa: RUF012 - never changed
    curves: int = 1


POWERS = {"layoutopts": {"plotly": {"yaxis": {"title": "lr", "exponentformat": "e"}}}}  # not 200µ
TRAINING = {
    "loss": Window("loss", "step", "loss"),
    "lr": Window("learning rate", "step", "lr", POWERS),
    "psnr": Window("validation PSNR", "epoch", "PSNR (dB)", {"markers": True, "markersize": 6}, curves=2),
}
TEST_OPTS = {"markers": True, "markersize": 6, "ytickmin": 0, "ytickmax": 90, "ytickstep": 10}
TEST = Window("PSNR", "i", "PSNR", TEST_OPTS)  # the curve `mean` is a single point


class Curve:
    """Points in order, fewer than `limit`: when full, every second one goes and half as many come in.

    >>> curve = Curve(limit=4)
    >>> for x in range(9):
    ...     curve.add(x, x / 2)
    >>> curve.points
    [(0, 0.0), (4, 2.0), (8, 4.0)]
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.points: list[tuple[float, float]] = []
        self.seen, self.stride = 0, 1

    def add(self, x: float, y: float) -> None:
        if self.seen % self.stride == 0:
            finite = math.isfinite(y)  # Infinity would kill the window in the browser
            self.points.append((x, y if finite else math.nan))
        self.seen += 1
        if len(self.points) >= self.limit:
            self.points, self.stride = self.points[::2], 2 * self.stride


class VisdomPlot:
    """A bounded memory of curves and pictures, and the thread that keeps a server up to date with it.

    Args:
        env: visdom environment, one a run.
        server, port: such as `http://localhost`, 8097.
        windows: the windows of curves by their stable name.
        start: start a server on 127.0.0.1 that ends with this process.
        say: prints a line to the user.
    """

    def __init__(
        self,
        env: str,
        windows: dict[str, Window],
        server: str,
        port: int,
        start: bool = False,
        say: Callable[[str], None] = print,
    ):
        self.env, self.windows, self.server, self.port, self.say = env, windows, server, port, say
        self.host = urlsplit(server if "://" in server else f"//{server}").hostname or ""
        # shared with the thread, under the lock
        self.lock = threading.Lock()
        self.curves: dict[str, dict[str, Curve]] = {}  # by window, then by name
        self.pictures: dict[str, tuple[str, np.ndarray]] = {}  # by window: title, pixels
        self.given = 0  # changes so far
        self.delivered = -1  # changes that the server has
        self.wake, self.closing = threading.Event(), threading.Event()
        # the thread's own
        self.client: Any = None
        self.line: socket.socket | None = None  # carries nothing: its end tells of the server's end
        self.shown: dict[str, Any] = {}  # what this client has put into each window
        self.failed = -math.inf  # when it last failed
        self.said: set[str] = set()
        self.new_client = _client_class(trust_env=self.host not in LOCAL)  # ImportError without visdom
        self.process = _start_server(port) if start else None
        self.thread = threading.Thread(target=self._serve, name="visdom", daemon=True)
        self.thread.start()

    # --------------------------------------------------------------------- called by the script, never waits

    def add(self, window: str, curve: str, x: float, y: float) -> None:
        with self.lock:
            curves = self.curves.setdefault(window, {})
            if curve not in curves:
                curves[curve] = Curve(MAX_POINTS // self.windows[window].curves)
            curves[curve].add(x, y)
            self.given += 1
        self.wake.set()

    def picture(self, name: str, title: str, image: "Tensor") -> None:
        """Show `(3, H, W)` in [0, 1] instead of the picture before it."""
        pixels = image.clamp(0, 1).mul(255).round().byte().cpu().numpy()
        with self.lock:
            self.pictures[name] = title, pixels
            self.given += 1
        self.wake.set()

    @property
    def complete(self) -> bool:
        """Whether the server has everything given so far."""
        with self.lock:
            return self.delivered == self.given

    def close(self, timeout_s: float = 5.0) -> bool:
        """Give the server at most `timeout_s` for the rest; return whether it has everything."""
        self.closing.set()
        self.wake.set()
        self.thread.join(timeout_s)
        if self.process:
            with self.process:
                self.process.kill()
        return self.complete

    # -------------------------------------------------------------------------------------------- the thread

    def _serve(self) -> None:
        while not self.closing.is_set():
            began = time.monotonic()
            retry_s = PAUSE_S if self.process and not self.said else RETRY_S  # a server that is just starting
            if self.client or began >= self.failed + retry_s:
                self._update()
            took = time.monotonic() - began if self.client else 0
            self.wake.wait(retry_s)
            self.wake.clear()
            self.closing.wait(min(max(PAUSE_S, took / SHARE), MOST_PAUSE_S))
        connected = self.client is not None
        if connected or time.monotonic() > self.failed + PAUSE_S:  # not again what failed just now
            self._update()
        if connected and not self.complete:  # it was restarted since the last round
            self._update()
        self._hang_up()

    def _update(self) -> None:
        """Bring the server up to date. Whatever goes wrong with it is no concern of the script."""
        try:
            if self.client is None:
                self._connect()
            self._send_all()
        except Exception as error:
            self._forget()
            self.failed = time.monotonic()
            self._explain(error)

    def _connect(self) -> None:
        self.line = socket.create_connection((self.host, self.port), TIMEOUT_S)
        self.line.setblocking(False)
        self.client = self.new_client(
            server=self.server, port=self.port, env=self.env, raise_exceptions=True, use_incoming_socket=False
        )
        self.client.win_exists("any")  # raises unless it is visdom that answers
        self._say_once("address", f"visdom: {self.server}:{self.port}/env/{quote(self.env)}")

    def _hang_up(self) -> None:
        if self.line:
            self.line.close()
        if self.client:
            self.client.session.close()
        self.line = self.client = None

    def _forget(self) -> None:
        """Nothing is known of what the server has."""
        self._hang_up()
        self.shown = {}
        with self.lock:
            self.delivered = -1

    def _send_all(self) -> None:
        with self.lock:
            given, pictures = self.given, dict(self.pictures)
            windows = {
                window: {name: (curve.stride, curve.points[:]) for name, curve in curves.items()}
                for window, curves in self.curves.items()
            }
        for window, curves in windows.items():
            self._send_curves(window, curves)
        for name, picture in pictures.items():
            if self.shown.get(name) is not picture:
                title, pixels = picture
                opts = {"title": escape(title), "jpgquality": 90}
                _check(self.client.image(pixels, win=name, opts=opts), name)
                self.shown[name] = picture
        if self._server_ended():  # a new one may have taken the last points, and lack those before
            self._forget()
            self.wake.set()
        else:
            with self.lock:
                self.delivered = given

    def _send_curves(self, window: str, curves: dict[str, tuple[int, list[tuple[float, float]]]]) -> None:
        """Append what a window lacks; replace all of it where a curve was thinned since, or it was closed."""
        now = {name: (stride, len(points)) for name, (stride, points) in curves.items()}
        before = self.shown.get(window, {})
        if now == before:
            return
        thinned = any(now[name][0] != stride for name, (stride, _) in before.items())
        if thinned or not self.client.win_exists(window):
            before = {}
        update = "append" if before else None  # None: instead of what the window held
        for name, (_, points) in curves.items():
            _, count = before.get(name, (1, 0))
            if points[count:]:
                x, y = np.array(points[count:], dtype=np.float64).T
                opts = self._opts(window)
                _check(self.client.line(Y=y, X=x, win=window, update=update, name=name, opts=opts), window)
                update = "append"
        self.shown[window] = now

    def _opts(self, window: str) -> dict[str, Any]:
        title, xlabel, ylabel, opts, _ = self.windows[window]
        return {"title": escape(title), "xlabel": xlabel, "ylabel": ylabel, "showlegend": True, **opts}

    def _server_ended(self) -> bool:
        assert self.line is not None
        try:
            return not self.line.recv(1)
        except BlockingIOError:
            return False

    def _explain(self, error: Exception) -> None:
        place, visdom = f"{self.server}:{self.port}", f"`visdom -port {self.port} -bind_local`"
        reason = str(error).partition("\n")[0] or type(error).__name__
        if self.process and self.process.poll() is not None:
            text = (
                f"the server that was started ended with code {self.process.returncode}; {visdom} shows why"
            )
        elif "address" in self.said:
            text = f"lost {place} ({reason}); it gets all plots when it is back"
        elif self.process:
            return  # still starting
        else:
            how = f"{visdom} starts one (or --visdom start), and gets all plots when it comes"
            text = f"no server at {place} ({reason}); {how}"
        self._say_once("trouble", f"visdom: {text}")

    def _say_once(self, kind: str, text: str) -> None:
        if kind not in self.said:
            self.said.add(kind)
            self.say(text)


def _check(answer: object, window: str) -> None:
    """An error of the server itself comes as an empty answer, without an exception."""
    if answer != window:
        raise RuntimeError("the server answered with an error")


def _start_server(port: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", SERVER, "-port", str(port), "-bind_local"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the script, which still has its last points to send
    )


def _client_class(trust_env: bool) -> Any:
    """visdom's client with a time limit; `trust_env` lets it use the proxy of the environment."""
    # its own calls of Logger.warn, where warnings are errors
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="visdom")
    import visdom

    logging.getLogger("visdom").setLevel(logging.CRITICAL)

    class Client(visdom.Visdom):
        session: Any

        def _handle_post(self, url: str, data: Any = None) -> str:
            self.session.trust_env = trust_env
            return self.session.post(url, data=data or {}, timeout=TIMEOUT_S).text

        def win_exists(self, win: str, env: str | None = None) -> bool:
            answer = self._send({"win": win, "eid": env}, endpoint="win_exists", quiet=True)
            if answer not in ("true", "false"):
                raise RuntimeError("what answers there is not visdom, or wants a login")
            return answer == "true"

    return Client


def open_plot(
    mode: str,
    env: str,
    windows: dict[str, Window],
    server: str,
    port: int,
    say: Callable[[str], None] = print,
) -> VisdomPlot | None:
    """The plot that `--visdom auto|start|off` asks for; None when off, or without visdom (said)."""
    if mode == "off":
        return None
    try:
        return VisdomPlot(env, windows, server, port, start=mode == "start", say=say)
    except Exception as error:  # not installed, or not in order
        say(f"visdom: no live plots ({error}); the README's first command installs it")
        return None
