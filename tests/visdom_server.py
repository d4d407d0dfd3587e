"""A real visdom server for the tests: on a free port of 127.0.0.1, with its files in a temporary folder."""

import contextlib
import fcntl
import functools
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.cli import free_port, wait_until

Points = list[tuple[float, float | None]]  # None: not a number
Curves = dict[str, dict[str, Points]]  # by window, then by name

# visdom's own start would download the page's files where they are missing; without torch, which a server
# never uses, it starts in half a second
RUN = "import sys; sys.modules['torch'] = None; from visdom.server.run_server import main; main()"


class Server:
    """A visdom server that can be frozen, killed and started again on its port."""

    def __init__(self, folder: Path):
        need_visdom()
        self.folder, self.port = folder, free_port()
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-c", RUN, "-port", str(self.port), "-bind_local"]
        environment = {**os.environ, "PYTHONWARNINGS": "", "XDG_CONFIG_HOME": str(self.folder)}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "-env_path", f"{self.folder}/env/"], env=environment, stdout=log, stderr=log
            )
        wait_until(lambda: listens(self.port) or self.process.poll() is not None)
        assert self.process.poll() is None, (self.folder / "server.log").read_text()

    def kill(self) -> None:
        """Kill it; what was not saved is lost."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def windows(self, env: str) -> dict[str, dict[str, Any]]:
        return windows(self.port, env)

    def curves(self, env: str) -> Curves:
        return curves(self.windows(env))


def post(port: int, endpoint: str, **message: object) -> str:
    """Post JSON and return text, as visdom's client does for every call."""
    url = f"http://127.0.0.1:{port}/{endpoint}"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        url, json.dumps(message).encode(), timeout=20
    ) as answer:
        return answer.read().decode()


def windows(port: int, env: str) -> dict[str, dict[str, Any]]:
    """Everything in an environment as the server stores it, by window: get_window_data of visdom's client."""
    try:
        text = post(port, "win_data", win=None, eid=env)
    except OSError:  # no server, or no such environment
        return {}
    return json.loads(text, parse_constant=not_json)


def curves(windows: dict[str, dict[str, Any]]) -> Curves:
    """The points of every curve, by window and by name."""
    return {
        name: {
            trace["name"]: list(zip(trace["x"], trace["y"], strict=True))
            for trace in window["content"]["data"]
        }
        for name, window in windows.items()
        if window["type"] == "plot"
    }


def not_json(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON: a browser cannot read the window")


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def visdom_server() -> Iterator[Server]:
    """A server, ended with the block."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            yield server
        finally:
            server.kill()


# -------------------------------------------------------------------------------------- what may be missing


def missing(what: str) -> NoReturn:
    """Skip the test for want of `what`; fail it where CLEARPAIR_BROWSER=required."""
    if os.environ.get("CLEARPAIR_BROWSER") == "required":
        pytest.fail(f"{what}, and CLEARPAIR_BROWSER=required", pytrace=False)
    pytest.skip(what)


def need_visdom() -> None:
    if importlib.util.find_spec("visdom") is None:
        missing("visdom is not installed")


@functools.cache
def page_files() -> str:
    """Put visdom's page files in place unless they are; return why that failed, or an empty text."""
    from utils import visdom_assets
    from utils.system.errors import UserError

    with Path(tempfile.gettempdir(), "clearpair_visdom_assets.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process at a time
        try:
            visdom_assets.put_in_place()
        except (OSError, UserError) as error:
            return f"visdom's page files are not in place: {error}"
    return ""


def need_page_files() -> None:
    need_visdom()
    if why := page_files():
        missing(why)
