"""Curves and pictures on a visdom server that may be absent, slow, frozen, killed or restarted.

The caller only appends to memory; one thread talks to the server. Every curve is kept, thinned, so a server
that comes (back) is given the whole of it, and a picture replaces the one before it. Training never waits
for a server.
"""

import importlib.util
import logging
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

RETRY_S = 5.0  # between two attempts to reach a server
PAUSE_S = 0.5  # between two rounds of sending: points that come faster travel together
TIMEOUT_S = 2.0  # of one HTTP request; visdom itself would wait for ever
MAX_POINTS = 2000  # a curve; the server's and the page's cost grow with it
START_SERVER = "from visdom.server.run_server import download_scripts_and_run as run; run()"


class Window(NamedTuple):
    """How a window of curves looks; `opts` are visdom's."""

    title: str
    xlabel: str
    ylabel: str
    opts: dict[str, Any] = {}  # noqa: RUF012 - never changed


TRAINING = {
    "loss": Window("loss", "step", "loss"),
    "lr": Window("learning rate", "step", "lr"),
    "psnr": Window("validation PSNR", "epoch", "PSNR (dB)", {"markers": True, "markersize": 6}),
}
TEST_OPTS = {"markers": True, "markersize": 6, "ytickmin": 0, "ytickmax": 90, "ytickstep": 10}
TEST = Window("PSNR", "i", "PSNR", TEST_OPTS)


class Curve:
    """Points in order, at most MAX_POINTS: when full, every second one goes and half as many come in."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self.seen, self.stride = 0, 1
        self.sent = 0  # points of the current thinning that the server has

    def add(self, x: float, y: float) -> None:
        if self.seen % self.stride == 0:
            self.points.append(
                (x, y if math.isfinite(y) else math.nan)
            )  # Infinity kills a window in the browser
        self.seen += 1
        if len(self.points) >= MAX_POINTS:
            self.points, self.stride, self.sent = self.points[::2], 2 * self.stride, -1  # -1: send anew


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
        self.address = f"{server}:{port}/env/{env}"
        self.env, self.windows, self.server, self.port, self.say = env, windows, server, port, say
        self.curves: dict[tuple[str, str], Curve] = {}
        self.pictures: dict[str, tuple[str, np.ndarray]] = {}
        self.unsent_pictures: set[str] = set()
        self.lock, self.wake, self.closing = threading.Lock(), threading.Event(), threading.Event()
        self.client: Any = None
        self.complete = False  # everything given so far has reached the server
        self.said: set[str] = set()
        self.process = self._start_server() if start else None
        self.thread = threading.Thread(target=self._serve, name="visdom", daemon=True)
        self.thread.start()

    # --------------------------------------------------------------------- called by the script, never waits

    def add(self, window: str, curve: str, x: float, y: float) -> None:
        with self.lock:
            self.curves.setdefault((window, curve), Curve()).add(x, y)
            self.complete = False
        self.wake.set()

    def picture(self, name: str, title: str, image: Tensor) -> None:
        """Show `(3, H, W)` in [0, 1] instead of the picture before it."""
        pixels = image.clamp(0, 1).mul(255).byte().cpu().numpy()
        with self.lock:
            self.pictures[name] = title, pixels
            self.unsent_pictures.add(name)
            self.complete = False
        self.wake.set()

    def close(self, timeout_s: float = 5.0) -> bool:
        """Give the server at most `timeout_s` for the rest; return whether it has everything."""
        self.closing.set()
        self.wake.set()
        self.thread.join(timeout_s)
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.complete

    # -------------------------------------------------------------------------------------------- the thread

    def _serve(self) -> None:
        last_try = -math.inf
        while True:
            self.wake.wait(None if self.client else RETRY_S)
            self.wake.clear()
            closing = self.closing.is_set()
            if self.client is None and (closing or time.monotonic() - last_try >= RETRY_S):
                last_try = time.monotonic()
                self._connect()
            if self.client is not None:
                self._try(self._send_all)
            if closing:
                return
            self.closing.wait(PAUSE_S)

    def _connect(self) -> None:
        host = self.server.split("://")[-1].split("/")[0]
        try:
            socket.create_connection((host, self.port), 0.5).close()
        except OSError:
            ended = self.process.poll() if self.process else None
            if ended is not None:
                self._say_once("absent", f"visdom: the server that was started ended with code {ended}")
            elif not self.process:
                self._say_once(
                    "absent",
                    f"visdom: no server at {self.server}:{self.port}; `visdom -port {self.port} -bind_local` "
                    "starts one (or --visdom start), and gets all plots when it comes",
                )
            return
        self._try(self._open)

    def _open(self) -> None:
        client = _client_class()(
            server=self.server, port=self.port, env=self.env, raise_exceptions=True, use_incoming_socket=False
        )
        with self.lock:
            for curve in self.curves.values():
                curve.sent = -1
            self.unsent_pictures = set(self.pictures)
        self.client = client
        self._say_once("address", f"visdom: {self.address}")

    def _try(self, action: Callable[[], None]) -> None:
        """Whatever goes wrong between us and a server is no concern of the script."""
        try:
            action()
        except Exception as error:
            if self.client is not None or not isinstance(error, ConnectionError):
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                self._say_once(
                    "lost", f"visdom: lost {self.server}:{self.port} ({reason}); it gets all plots when back"
                )
            self.client = None

    def _send_all(self) -> None:
        for window in sorted({window for window, _ in self.curves}):
            self._send_window(window)
        for name in sorted(self.unsent_pictures):
            with self.lock:
                title, pixels = self.pictures[name]
                self.unsent_pictures.discard(name)
            _accepted(self.client.image(pixels, win=name, opts={"title": title, "jpgquality": 90}))
        with self.lock:
            unsent = any(curve.sent != len(curve.points) for curve in self.curves.values())
            self.complete = not (unsent or self.unsent_pictures)
        if not self.complete:
            self.wake.set()

    def _send_window(self, window: str) -> None:
        with self.lock:
            curves = {name: curve for (place, name), curve in self.curves.items() if place == window}
            anew = any(curve.sent < 0 for curve in curves.values())
            if not anew and all(curve.sent == len(curve.points) for curve in curves.values()):
                return
        if anew:
            self.client.close(win=window)
        elif not self.client.win_exists(window):  # a server that restarted in between
            anew = any(curve.sent for curve in curves.values())
        for name, curve in curves.items():
            with self.lock:
                first = 0 if anew else curve.sent
                points, thinning = curve.points[first:], curve.stride
            if points:
                self._append(window, name, points)
            with self.lock:
                if curve.stride == thinning:
                    curve.sent = first + len(points)

    def _append(self, window: str, name: str, points: list[tuple[float, float]]) -> None:
        look = self.windows[window]
        opts = {
            "title": look.title,
            "xlabel": look.xlabel,
            "ylabel": look.ylabel,
            "showlegend": True,
            **look.opts,
        }
        x, y = np.array(points, dtype=np.float64).T
        _accepted(self.client.line(Y=y, X=x, win=window, update="append", name=name, opts=opts))

    def _start_server(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", START_SERVER, "-port", str(self.port), "-bind_local"]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _say_once(self, kind: str, text: str) -> None:
        if kind not in self.said:
            self.said.add(kind)
            self.say(text)


def _accepted(answer: Any) -> None:
    if not answer:  # an error of the server itself comes as an empty answer, without an exception
        raise RuntimeError("the server answered with an error")


def _client_class() -> Any:
    """visdom's client with a time limit; imported only when a server has answered (it takes a second)."""
    import visdom

    logging.getLogger("visdom").setLevel(logging.CRITICAL)

    class Client(visdom.Visdom):
        session: Any

        def _handle_post(self, url: str, data: Any = None) -> str:
            return self.session.post(url, data=data or {}, timeout=TIMEOUT_S).text

        def win_exists(self, win: str, env: str | None = None) -> bool:
            return self._send({"win": win, "eid": env}, endpoint="win_exists", quiet=True) == "true"

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
    if importlib.util.find_spec("visdom") is None:
        say("visdom: not installed, so no live plots (the README's first command installs it)")
        return None
    return VisdomPlot(env, windows, server, port, start=mode == "start", say=say)
