"""Plot curves and images on a visdom server that may be absent, slow, frozen, killed or restarted.

The caller only appends to memory; one thread talks to the server. Every curve is kept, thinned, so a server
that starts later, or again, receives all of it; an image replaces the one before it. Training never waits.
"""

import math
import re
import threading
import time
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import numpy as np

from utils.system.pixels import from_float
from utils.vis.visdom_client import VisdomClient, start_server, visdom_class

if TYPE_CHECKING:
    from torch import Tensor

RETRY_S = 5.0  # between two attempts to reach a server
PAUSE_S, MAX_PAUSE_S = 0.5, 10.0  # between two rounds of sending: points that come faster are sent together
SENDING_FRACTION = 0.01  # of the time, within these two pauses: it is taken from the cores that train
MAX_POINTS = 1000  # of a window: the cost of a round for the server, and of drawing the page, grows with it


class Window(NamedTuple):
    """The look of a window of curves; `opts` are visdom's. Its `curves` share MAX_POINTS.

    `bounds` of y hold as long as all values lie within; those of `plain` curves have no marks.
    """

    title: str
    xlabel: str
    ylabel: str
    opts: dict[str, Any] = {}  # noqa: RUF012 - never changed
    curves: int = 1
    bounds: tuple[float, float, float] | None = None  # least, greatest, step
    plain: tuple[str, ...] = ()


EXPONENTS = {"layoutopts": {"plotly": {"yaxis": {"title": "lr", "exponentformat": "e"}}}}  # not 200µ
MARKS = {"markers": True, "markersize": 6}
TRAINING = {
    "loss": Window("loss", "step", "loss"),
    "lr": Window("learning rate", "step", "lr", EXPONENTS),
    "terms": Window("loss terms, weighted", "step", "loss", curves=8),
    "D": Window("discriminator", "step", "D(real), D(fake), share right", curves=3),
    "ssim": Window("validation SSIM", "epoch", "SSIM", MARKS, curves=2),
    "lite0": Window("validation Lite0 distance", "epoch", "Lite0 distance", MARKS, curves=2),
    "kid": Window("validation KID (Lite0)", "epoch", "KID", MARKS, curves=2),
    "psnr": Window("PSNR of the run", "epoch", "PSNR (dB)", MARKS, curves=3, plain=("train",)),
}
# the curve `mean` is a single point
TEST = Window("PSNR", "i", "PSNR", MARKS, bounds=(0, 90, 10))


class Curve:
    """Points in order, fewer than `limit`: when full, every second one is dropped, and from then on added.

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
            finite = math.isfinite(y)  # Infinity would break the window in the browser
            self.points.append((x, y if finite else math.nan))
        self.seen += 1
        if len(self.points) >= self.limit:
            self.points, self.stride = self.points[::2], 2 * self.stride


class VisdomPlot:
    """Curves and images in bounded memory, and the thread that keeps a server up to date with them.

    Args:
        env: visdom environment, one per run.
        server, port: such as `http://localhost`, 8097.
        windows: the windows of curves by their stable name.
        start: start a server on 127.0.0.1 that ends with this process.
        say: prints a line to the user.

    Raises:
        ImportError: visdom is not installed.
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
        # shared with the thread, under the lock
        self.lock = threading.Lock()
        self.curves: dict[str, dict[str, Curve]] = {}  # by window, then by name
        self.pictures: dict[str, tuple[str, np.ndarray]] = {}  # by window: title, pixels
        self.texts: dict[str, tuple[str, str]] = {}  # by window: title, HTML
        self.changes = 0  # so far
        self.delivered = -1  # changes that the server has
        self.wake, self.closing = threading.Event(), threading.Event()
        # the thread's own
        self.client: VisdomClient | None = None
        self.shown: dict[str, Any] = {}  # what this client has put into each window
        self.failed = -math.inf  # time of the last failure
        self.said: set[str] = set()
        visdom_class(trust_env=True)  # ImportError without visdom
        self.process = start_server(port) if start else None
        self.thread = threading.Thread(target=self._run, name="visdom", daemon=True)
        self.thread.start()

    # ------------------------------------------------------------------ called by the script, returns at once

    def add(self, window: str, curve: str, x: float, y: float) -> None:
        with self.lock:
            curves = self.curves.setdefault(window, {})
            if curve not in curves:
                curves[curve] = Curve(MAX_POINTS // self.windows[window].curves)
            curves[curve].add(x, y)
            self.changes += 1
        self.wake.set()

    def picture(self, name: str, title: str, image: "Tensor") -> None:
        """Show `(3, H, W)` in [0, 1] in place of the previous picture `name`."""
        pixels = from_float(image.cpu().numpy(), np.uint8)
        with self.lock:
            self.pictures[name] = title, pixels
            self.changes += 1
        self.wake.set()

    def text(self, name: str, title: str, html: str) -> None:
        """Show HTML in place of the previous text `name`."""
        with self.lock:
            self.texts[name] = title, html
            self.changes += 1
        self.wake.set()

    @property
    def complete(self) -> bool:
        """Whether the server has everything added so far."""
        with self.lock:
            return self.delivered == self.changes

    def close(self, timeout_s: float = 5.0) -> bool:
        """Send the rest within `timeout_s`; return whether the server has everything."""
        self.closing.set()
        self.wake.set()
        self.thread.join(timeout_s)
        if self.process:
            with self.process:
                self.process.kill()
        return self.complete

    # -------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        while not self.closing.is_set():
            began = time.monotonic()
            retry_s = PAUSE_S if self.process and not self.said else RETRY_S  # a server that is just starting
            if self.client or began >= self.failed + retry_s:
                self._update()
            took = time.monotonic() - began if self.client else 0
            self.wake.wait(retry_s)
            self.wake.clear()
            self.closing.wait(min(max(PAUSE_S, took / SENDING_FRACTION), MAX_PAUSE_S))
        connected = self.client is not None
        if connected or time.monotonic() > self.failed + PAUSE_S:  # not again what failed just now
            self._update()
        if connected and not self.complete:  # the server was restarted since the last round
            self._update()
        if self.client:
            self.client.close()
            self.client = None

    def _update(self) -> None:
        """Bring the server up to date; never raise, since plots must not stop the script."""
        try:
            if self.client is None:
                self.client = VisdomClient(self.server, self.port, self.env)
                self._say_once("address", f"visdom: {self.server}:{self.port}/env/{quote(self.env)}")
            self._send_all(self.client)
        except Exception as error:
            self._forget()
            self.failed = time.monotonic()
            self._explain(error)

    def _forget(self) -> None:
        """Close the connection; the next one sends everything."""
        if self.client:
            self.client.close()
        self.client, self.shown = None, {}
        with self.lock:
            self.delivered = -1

    def _send_all(self, client: VisdomClient) -> None:
        with self.lock:
            changes, pictures, texts = self.changes, dict(self.pictures), dict(self.texts)
            windows = {
                window: {name: (curve.stride, curve.points[:]) for name, curve in curves.items()}
                for window, curves in self.curves.items()
            }
        for name, text in texts.items():
            if self.shown.get(name) is not text:
                client.text(name, text[1], opts={"title": escape(text[0]), "width": 420, "height": 310})
                self.shown[name] = text
        for window, curves in windows.items():
            self._send_curves(client, window, curves)
        for name, picture in pictures.items():
            if self.shown.get(name) is not picture:
                title, pixels = picture
                client.image(name, pixels, opts={"title": escape(title), "jpgquality": 90})
                self.shown[name] = picture
        if "listed" not in self.shown and windows:
            client.list_runs()
            self.shown["listed"] = True
        if client.server_ended():  # a new one may have received the last points without those before
            self._forget()
            self.wake.set()
        else:
            with self.lock:
                self.delivered = changes

    def _send_curves(
        self, client: VisdomClient, window: str, curves: dict[str, tuple[int, list[tuple[float, float]]]]
    ) -> None:
        """Append what a window lacks; replace all of it if a curve was thinned, or the window was closed."""
        now = {name: (stride, len(points)) for name, (stride, points) in curves.items()}
        before = self.shown.get(window, {})
        if now == before:
            return
        thinned = any(now[name][0] != stride for name, (stride, _) in before.items())
        if thinned or not client.has_window(window):
            before = {}
        update = "append" if before else None  # None: instead of what the window held
        for name, (_, points) in curves.items():
            _, count = before.get(name, (1, 0))
            if points[count:]:
                x, y = np.array(points[count:], dtype=np.float64).T
                client.line(window, Y=y, X=x, update=update, name=name, opts=self._opts(window, name))
                update = "append"
        self.shown[window] = now

    def _opts(self, window: str, curve: str) -> dict[str, Any]:
        look = self.windows[window]
        opts = {**look.opts, "markers": curve not in look.plain and look.opts.get("markers", False)}
        if look.bounds:
            low, high, step = look.bounds
            with self.lock:
                values = [y for each in self.curves[window].values() for _, y in each.points if y == y]
            if all(low <= value <= high for value in values):
                opts |= {"ytickmin": low, "ytickmax": high, "ytickstep": step}
        labels = {"title": escape(look.title), "xlabel": look.xlabel, "ylabel": look.ylabel}
        return {**labels, "showlegend": True, **opts}

    def _explain(self, error: Exception) -> None:
        place, command = f"{self.server}:{self.port}", f"`visdom -port {self.port} -bind_local`"
        reason = re.sub(r"^\[Errno \d+\] ", "", str(error).partition("\n")[0]) or type(error).__name__
        if self.process and self.process.poll() is not None:
            code = self.process.returncode
            text = f"the server that was started ended with code {code}; {command} shows why"
        elif "address" in self.said:
            text = f"lost {place} ({reason}); it will receive all plots when it is back"
        elif self.process:
            return  # still starting
        else:
            text = f"no server at {place} ({reason}), so no live page; "
            text += f"start one with {command} or --visdom start"
        self._say_once("trouble", f"visdom: {text}")

    def _say_once(self, kind: str, text: str) -> None:
        if kind not in self.said:
            self.said.add(kind)
            self.say(text)


def open_plot(
    mode: str,
    env: str,
    windows: dict[str, Window],
    server: str,
    port: int,
    say: Callable[[str], None] = print,
) -> VisdomPlot | None:
    """Return the plot for `--visdom auto|start|off`; None if off, or without visdom, and say so."""
    if mode == "off":
        return None
    try:
        return VisdomPlot(env, windows, server, port, start=mode == "start", say=say)
    except Exception as error:  # not installed, or broken
        say(f"visdom: no live plots ({error}); the README's first command installs it")
        return None
