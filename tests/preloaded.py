"""Fork server for the scripts that tests run: it imports torch once, so a start takes 0.3 s instead of 3 s.

A script runs as `__main__` from its file, with its own process id, streams, folder, environment and signals;
only the import of other people's packages is shared. No project module is imported here, and no thread
started: what a script imports, warns and prints is its own.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (  # what train.py and test.py import of others; torch's optimizers import torch._dynamo
    *("torch", "torch._dynamo", "torch.distributed", "torch.utils.data", "numpy", "tqdm"),
    *("PIL.Image", "PIL.ImageDraw", "PIL.PngImagePlugin", "PIL.JpegImagePlugin", "PIL.TiffImagePlugin"),
)
LATE = {  # variables that no package reads while it is imported
    *("PYTEST_CURRENT_TEST", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR"),
    "MASTER_PORT",
    *("TORCHINDUCTOR_CACHE_DIR", "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"),  # set by torch when it compiles
}


class Preloaded:
    """The forking process, started when it is first asked.

    Args:
        flags: of its Python, which are also those of the scripts.
    """

    def __init__(self, flags: tuple[str, ...]):
        self.flags, self.server, self.variables = flags, None, {}  # type: ignore[var-annotated]

    def serves(self, env: dict[str, str]) -> bool:
        """Whether a script with this environment can be forked: packages read some variables at import."""
        self.variables = self.variables or _relevant(env)
        return _relevant(env) == self.variables

    def start(self, command: list[str], folder: Path, env: dict[str, str]) -> "ForkedProcess":
        """Start a script, `[file, flags...]`."""
        if self.server is None:
            self.control, other = socket.socketpair()
            program = f"from tests.preloaded import serve; serve({other.fileno()})"
            with other:
                self.server = subprocess.Popen(
                    [sys.executable, *self.flags, "-c", program],
                    cwd=ROOT,
                    env=env,
                    pass_fds=[other.fileno()],
                    stdin=subprocess.DEVNULL,
                    **dict.fromkeys(("stdout", "stderr"), subprocess.PIPE),  # as those of the scripts
                )
        ends = [os.pipe() for _ in range(3)]  # stdout, stderr, and what became of the process
        request = json.dumps({"command": command, "folder": str(folder), "env": env}).encode()
        writing = [end for _, end in ends]
        socket.send_fds(self.control, [len(request).to_bytes(4, "big")], writing)
        self.control.sendall(request)
        for end in writing:
            os.close(end)
        return ForkedProcess(*(os.fdopen(end, "rb", buffering=0) for end, _ in ends))

    def close(self) -> None:
        if self.server is not None:
            self.control.shutdown(socket.SHUT_RDWR)  # a forked loader that still runs holds a copy of it
            self.control.close()
            _, complaint = self.server.communicate(timeout=20)
            assert not complaint, complaint.decode(errors="replace")


class ForkedProcess:
    """As subprocess.Popen; `outcome` yields the process id, and at its end the exit code, a line each."""

    def __init__(self, stdout: IO[bytes], stderr: IO[bytes], outcome: IO[bytes]):
        self.stdout, self.stderr, self.outcome = stdout, stderr, outcome
        self.returncode: int | None = None
        self.said = b""
        self.pid = int(self._line(None))

    def _line(self, seconds: float | None) -> bytes:
        """The next line; raises TimeoutExpired if it does not come in time."""
        end = None if seconds is None else time.monotonic() + seconds
        while b"\n" not in self.said:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not select.select([self.outcome], [], [], left)[0]:
                raise subprocess.TimeoutExpired("a forked script", seconds or 0)
            part = os.read(self.outcome.fileno(), 64)
            if not part:
                raise RuntimeError("the preloaded process has ended")
            self.said += part
        line, self.said = self.said.split(b"\n", 1)
        return line

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = int(self._line(timeout))
            self.outcome.close()
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _relevant(env: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in env.items() if key not in LATE}


# -------------------------------------------------------------------------------------------- in that process


def serve(descriptor: int) -> None:
    """Fork a script for each request, until the other side closes the socket; return in the script."""
    for name in PACKAGES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a fork would otherwise copy every page
    control = socket.socket(fileno=descriptor)
    while True:
        head, ends, _, _ = socket.recv_fds(control, 4, 3)
        if not head:
            control.close()
            return
        request = b""
        while len(request) < int.from_bytes(head, "big"):
            request += control.recv(1 << 16)
        if not os.fork():
            control.close()
            if not _watched(ends[2]):
                _run(ends, **json.loads(request))
                return
        for end in ends:
            os.close(end)
        _reap()


def _reap() -> None:
    """Collect the watchers that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _watched(outcome: int) -> bool:
    """Fork, and return False in the child; its parent, which never returns, tells what becomes of it."""
    start, started = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(started)
        os.read(start, 1)  # until the other side knows this process
        os.close(start)
        os.close(outcome)
        return False
    for stream in (0, 1, 2):  # those of the script are closed when it ends
        os.close(stream)
    os.write(outcome, b"%d\n" % pid)
    os.write(started, b"1")
    _, ended = os.waitpid(pid, 0)
    os.write(outcome, b"%d\n" % os.waitstatus_to_exitcode(ended))
    os._exit(0)


def _run(ends: list[int], command: list[str], folder: str, env: dict[str, Any]) -> None:
    """Become the script."""
    for end, stream in zip(ends[:2], (1, 2), strict=True):
        os.dup2(end, stream)
        os.close(end)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    sys.argv, sys.path[0] = command, str(Path(command[0]).parent)
    sys.orig_argv = [sys.executable, *command]
    runpy.run_path(command[0], run_name="__main__")
