"""visdom's client with time limits, and the server that `--visdom start` runs."""

import logging
import socket
import subprocess
import sys
import time
import warnings
from contextlib import ExitStack, suppress
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from utils.vis.panel import links

TIMEOUT_S = 2.0  # of one HTTP request; visdom itself would wait forever
MAX_ANSWER_BYTES = 2**20  # visdom answers with the name of a window
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")  # never through a proxy

# The server ends when its stdin does: with this process, however that ends. visdom imports torch if
# installed, but its server never uses it: without torch it starts in half a second and takes 50 MB, not 500.
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


def start_server(port: int) -> "subprocess.Popen[bytes]":
    """Start a server on 127.0.0.1 that ends with this process."""
    return subprocess.Popen(
        [sys.executable, "-c", SERVER, "-port", str(port), "-bind_local"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the script, which still has its last points to send
    )


def visdom_class(trust_env: bool) -> Any:
    """Return a `visdom.Visdom` whose requests time out and raise; `trust_env`: use the environment's proxy.

    Raises:
        ImportError: visdom is not installed.
    """
    # its own calls of Logger.warn, where warnings are errors
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="visdom")
    import visdom

    logging.getLogger("visdom").setLevel(logging.CRITICAL)

    class PatientVisdom(visdom.Visdom):
        session: Any

        def _handle_post(self, url: str, data: Any = None) -> str:
            self.session.trust_env = trust_env
            asked = {"timeout": TIMEOUT_S, "stream": True, "allow_redirects": False}
            plain = {"Accept-Encoding": "identity"}  # a small body could be unpacked to gigabytes
            with self.session.post(url, data=data or {}, headers=plain, **asked) as answer:
                return read_text(answer)

        def win_exists(self, win: str, env: str | None = None) -> bool:
            answer = self._send({"win": win, "eid": env}, endpoint="win_exists", quiet=True)
            if answer not in ("true", "false"):
                raise RuntimeError("the server that answers is not visdom, or requires a login")
            return answer == "true"

    return PatientVisdom


def read_text(answer: Any) -> str:
    """The body of a streamed response of requests; raises if it is packed, too large or too slow."""
    if "Content-Encoding" in answer.headers or answer.is_redirect:
        raise RuntimeError("the server that answers is not visdom")
    body, until = b"", time.monotonic() + TIMEOUT_S
    while part := answer.raw.read1(MAX_ANSWER_BYTES):  # what has arrived; read() waits for all of it
        body += part
        if len(body) >= MAX_ANSWER_BYTES or time.monotonic() > until:
            raise RuntimeError("the server that answers is not visdom: its answer has no end")
    return body.decode()


class VisdomClient:
    """A connection to one environment of a visdom server; methods raise if the server does not answer.

    Args:
        server, port: such as `http://localhost`, 8097.
        env: visdom environment.
    """

    def __init__(self, server: str, port: int, env: str):
        host = urlsplit(server if "://" in server else f"//{server}").hostname or ""
        with ExitStack() as cleanup:
            # carries no data: the server's end closes it
            self.lifeline = cleanup.enter_context(socket.create_connection((host, port), TIMEOUT_S))
            self.lifeline.setblocking(False)
            self.visdom = visdom_class(trust_env=host not in LOCAL_HOSTS)(
                server=server, port=port, env=env, raise_exceptions=True, use_incoming_socket=False
            )
            cleanup.callback(self.visdom.session.close)
            self.has_window("any")  # raises unless it is visdom that answers
            self.close = cleanup.pop_all().close

    def has_window(self, window: str) -> bool:
        return self.visdom.win_exists(window)

    def line(self, window: str, **options: Any) -> None:
        _check(self.visdom.line(win=window, **options), window)

    def image(self, window: str, pixels: np.ndarray, **options: Any) -> None:
        _check(self.visdom.image(pixels, win=window, **options), window)

    def text(self, window: str, html: str, **options: Any) -> None:
        _check(self.visdom.text(html, win=window, **options), window)

    def list_runs(self) -> None:
        """Let the page at the bare address, the environment "main", link to every run of the server."""
        with suppress(ValueError, TypeError, RuntimeError):  # a server that keeps its list to itself
            envs = {*self.visdom.get_env_list(), self.visdom.env}
            self.text("runs", links(envs), env="main", opts={"title": "runs"})

    def server_ended(self) -> bool:
        """Whether the server ended since the connection was made; another may answer in its place."""
        try:
            return not self.lifeline.recv(1)
        except BlockingIOError:
            return False


def _check(answer: object, window: str) -> None:
    """Raise for an error of the server itself, which comes as an empty answer without an exception."""
    if answer != window:
        raise RuntimeError("the server answered with an error")
