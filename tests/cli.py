"""train.py and test.py from outside: called in this process, or run as processes.

Both end with the same outcome, `Ended`. In tests take a fixture of conftest.py:

    cli.train(*TINY, *FAST).run                    # in this process: fast; can be patched
    work.train(*TINY, *FAST)                       # a process, forked by tests.preloaded: signals, streams
    job = work.start("train.py", *TINY); job.until_step(3); job.signal(SIGTERM); job.wait(143)
"""

import importlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Thread
from typing import IO, Any
from unittest.mock import patch

import numpy as np
import torch

from tests.builders import CPU, ROOT, Outline, facts_of, pixels, strict_json, words
from tests.preloaded import ForkedProcess, Preloaded
from utils.eval.results import read_csv
from utils.options import parse_export, parse_test, parse_train
from utils.system.errors import UserError, bad_path, run_script

PARSERS = {"train.py": parse_train, "test.py": parse_test, "utils.export": parse_export}
STRICT = words(  # Python's flags; pyproject.toml says why these two warnings are no errors
    "-W error -W 'ignore:This process:DeprecationWarning' -W 'ignore:This DataLoader will create:UserWarning'"
)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


# ------------------------------------------------------------------------------------------------ the outcome


@dataclass(frozen=True)
class Ended:
    """How a script ended: exit code, stdout, stderr, the run's folder, and the parts of its error."""

    code: int
    out: str
    err: str
    run: Path

    @property
    def error(self) -> str:
        """stderr from "error:" on; "" without an error."""
        return self.err[self.err.find("error:") :] if "error:" in self.err else ""

    def _part(self, start: str) -> str:
        return next((line[len(start) :] for line in self.error.splitlines() if line.startswith(start)), "")

    what = property(lambda self: self._part("error: "))
    why = property(lambda self: self._part("  why: "))
    fix = property(lambda self: self._part("  fix: "))

    def complaint(self, *words: str, code: int = 2) -> str:
        """What is wrong with the error; "" if code, length, help and all `words` are as they should be."""
        wrong = [f"code {self.code}"] * (self.code != code) + ["no error"] * (not self.error)
        wrong += ["traceback"] * ("Traceback" in self.err)
        wrong += ["too long"] * (len(self.error.strip().splitlines()) > 6 or len(self.error) > 1500)
        wrong += ["no help"] * (not (self.why or self.fix))
        wrong += [f"no {word!r}" for word in words if word not in self.error]
        return f"{', '.join(wrong)}: {self.err[-600:]}" if wrong else ""

    def refused(self, *words: str, code: int = 2) -> bool:
        """Whether it ended with `code` and a short, helpful error that holds all `words`."""
        return not self.complaint(*words, code=code)

    def with_code(self, code: int | None, cause: BaseException | None = None) -> "Ended":
        """This; fails the test unless it ended with `code`; None allows any."""
        if code not in (None, self.code):
            raise AssertionError(f"ended with {self.code}, not {code}\n{self.out}\n{self.err}") from cause
        return self

    # what test.py wrote; the next call with the same data may overwrite it

    def __post_init__(self) -> None:
        if self.out.startswith("outputs ") and (self.results / "summary.json").is_file():
            _ = self.rows, self.summary, (self.results / "index.html").is_file() and self.page

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @cached_property
    def results(self) -> Path:
        """The folder that stdout names."""
        line = next(line for line in self.lines if line.startswith("outputs "))
        return self.run.parents[1] / line.removeprefix("outputs ").split(", page ")[0]

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        return read_csv(self.results / "metrics.csv")

    def numbers(self, column: str) -> np.ndarray:
        return np.array([float(row[column]) for row in self.rows])

    @cached_property
    def summary(self) -> dict[str, Any]:
        return strict_json((self.results / "summary.json").read_text())

    @cached_property
    def page(self) -> str:
        return (self.results / "index.html").read_text("utf-8")

    @cached_property
    def data(self) -> Any:
        """The data in the page."""
        return strict_json(Outline(self.page).texts["data"])

    @property
    def facts(self) -> str:
        return "\n".join(map(" ".join, facts_of(self.page)))

    @property
    def comment(self) -> str:
        """The first line of metrics.csv."""
        return (self.results / "metrics.csv").read_text().splitlines()[0]

    def output(self, name: str) -> np.ndarray:
        return pixels((self.results / "outputs" / name).with_suffix(".png"))


# ------------------------------------------------------------------------------------------ what a run leaves


def log(run: Path) -> list[dict[str, Any]]:
    """Every record of a run's log."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def records(run: Path, key: str) -> list[Any]:
    """Every value of `key` in a run's log."""
    return [record[key] for record in log(run) if key in record]


def options(run: Path) -> dict[str, Any]:
    return json.loads((run / "options.json").read_text())


def status(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())


def weights(run: Path, tag: str = "latest") -> dict[str, torch.Tensor]:
    return torch.load(run / f"{tag}_net.pth", weights_only=True)


def state(run: Path, tag: str = "latest") -> dict[str, Any]:
    return torch.load(run / f"{tag}_state.pth", weights_only=True)


def step_of(run: Path, tag: str = "latest") -> int:
    """Steps that were taken when a state was saved."""
    return state(run, tag)["horizon"]["step"]


def reached(run: Path, step: int) -> bool:
    """Whether the log holds a step."""
    file = run / "log.jsonl"
    return file.is_file() and f'"step": {step},' in file.read_text()


# ----------------------------------------------------------------------------------------------- the two ways


class Scripts:
    """The scripts with `folder` as their working directory.

    `name` becomes `--name`, unless it is "" or the flags hold one. A call fails the test unless it ends with
    `code`; None allows any. test.py runs on the CPU without visdom unless the flags say otherwise. `options`
    are those of `start`.
    """

    folder: Path

    def start(self, script: str, *flags: str, name: str = "run", **options: Any) -> "Job":
        raise NotImplementedError

    def call(self, script: str, *flags: str, code: int | None = 0, **options: Any) -> Ended:
        return self.start(script, *flags, **options).wait(code)

    def train(self, *flags: str, **options: Any) -> Ended:
        return self.call("train.py", *flags, **options)

    def test(self, *flags: str, **options: Any) -> Ended:
        return self.call("test.py", *flags, **options)

    def run(self, name: str = "run") -> Path:
        return self.folder / "checkpoints" / name

    def _command(self, script: str, flags: tuple[str, ...], name: str) -> tuple[list[str], Path]:
        """(all flags, the run's folder)."""
        given = [*CPU, *flags] if script == "test.py" else [*flags]
        if "--name" in flags:
            name = flags[len(flags) - flags[::-1].index("--name")]
        elif name:
            given += ["--name", name]
        return given, self.run(name)


class InProcess(Scripts):
    """The scripts in this process: `folder` is the working directory at the time of the call."""

    @property
    def folder(self) -> Path:  # type: ignore[override]
        return Path.cwd()

    def call(self, script: str, *flags: str, code: int | None = 0, name: str = "run", **more: Any) -> Ended:
        assert not more, f"only a process takes {more}"
        given, run = self._command(script, flags, name)
        module, failures = importlib.import_module(script.removesuffix(".py")), []

        def main(*arguments: Any) -> int:
            try:
                return module.main(*arguments)
            except BaseException as failure:
                failures.append(failure)
                raise

        out, err, argv = io.StringIO(), io.StringIO(), patch.object(sys, "argv", [script, *given])
        with ExitStack() as restored, argv, redirect_stdout(out), redirect_stderr(err):
            for number in HANDLED:
                restored.callback(signal.signal, number, signal.getsignal(number))
            ended = _end(main, PARSERS[script], given)
        found = Ended(ended, out.getvalue(), err.getvalue(), run)
        return found.with_code(code, next(iter(failures), None))


def _end(main: Callable[..., int], parse: Callable[[list[str]], Any], flags: list[str]) -> int:
    """The exit code of a script."""
    try:
        return run_script(main, parse(flags))
    except (UserError, OSError) as error:  # of the parser
        failure = error if isinstance(error, UserError) else bad_path(error)
        print(failure, file=sys.stderr)
        return failure.code
    except SystemExit as ended:  # --help
        return int(ended.code or 0)


WRAPPER = """
import sys
sys.path.insert(0, {root!r})
{before}
if __name__ == "__main__":
    import runpy
    rest = sys.argv[1:]
    while rest:
        end = rest.index(";")
        sys.argv, rest = rest[:end], rest[end + 1 :]
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                raise
"""


class Workplace(Scripts):
    """The scripts as processes in a folder.

    Args:
        preloaded: forks the processes; None: each is started from nothing, as by a user.
    """

    def __init__(self, folder: Path, preloaded: Preloaded | None = None, jobs: "list[Job] | None" = None):
        self.folder, self.preloaded, self.jobs = folder, preloaded, [] if jobs is None else jobs

    def at(self, folder: str) -> "Workplace":
        """A place in a folder below this one, which ends its processes, too."""
        place = Workplace(self.folder / folder, self.preloaded, self.jobs)
        place.folder.mkdir(exist_ok=True)
        return place

    def start(
        self,
        script: str,
        *flags: str,
        name: str = "run",
        before: str = "",
        launcher: Sequence = (),
        fresh: bool = False,
        **env: Any,
    ) -> "Job":
        """Start a script.

        Args:
            before: Python code that runs in the process before the script.
            launcher: what starts it instead of `python -W error`, such as TORCHRUN.
            fresh: do not fork it from `preloaded`; for tests of what happens while packages are imported.
            env: variables of its environment; None removes one.
        """
        given, run = self._command(script, flags, name)
        command = [str(ROOT / script), *given]
        if before:
            command = [self._wrapper(before), *command, ";"]
        if launcher:
            return self.process(sys.executable, *launcher, *command, run=run, OMP_NUM_THREADS="1", **env)
        return self.python(command, run, fresh, **env)

    def start_two(self, *flags: str, name: str = "run", **env: Any) -> "list[Job]":
        """Start train.py in two processes of one run, as torchrun does, without the seconds that it takes."""
        world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        world |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        return [
            self.start("train.py", *flags, name=name, **{**world, "RANK": rank, "LOCAL_RANK": rank, **env})
            for rank in ("0", "1")
        ]

    def train_by_two(self, *flags: str, name: str = "run") -> Ended:
        """What the first of two processes wrote; fails the test unless both end with 0."""
        first, second = self.start_two(*flags, name=name)
        second.wait()
        return first.wait()

    def both(
        self,
        *flags: str,
        test: Sequence[str] = (),
        before: str = "",
        fresh: bool = False,
        **env: str | None,
    ) -> Ended:
        """train.py, then test.py, in one process, which imports torch once."""
        first, run = self._command("train.py", flags, "run")
        second, _ = self._command("test.py", tuple(test), "run")
        command = [str(ROOT / "train.py"), *first, ";", str(ROOT / "test.py"), *second, ";"]
        return self.python([self._wrapper(before), *command], run, fresh, **env).wait()

    def python(
        self, command: list[str], run: Path | None = None, fresh: bool = False, **env: str | None
    ) -> "Job":
        """Run a file of Python, `[file, arguments...]`; see `start` for `fresh` and `env`."""
        environment = _environment(**env)
        if self.preloaded and not fresh and self.preloaded.serves(environment):
            forked = self.preloaded.start(command, self.folder, environment)
            return self._job(forked, command, run or self.run())
        return self.process(sys.executable, *STRICT, *command, run=run, **env)

    def _wrapper(self, before: str) -> str:
        """A program that runs `before` and then the scripts that its arguments name."""
        file = self.folder / f"wrapper{len(self.jobs)}.py"
        file.write_text(WRAPPER.format(root=str(ROOT), before=before), "utf-8")
        return str(file)

    def process(self, *command: str, run: Path | None = None, **env: str | None) -> "Job":
        """Start any command in the folder."""
        streams: dict[str, Any] = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        streams["stdin"] = subprocess.DEVNULL
        popen = subprocess.Popen(command, cwd=self.folder, env=_environment(**env), **streams)
        return self._job(popen, [*command], run or self.run())

    def _job(self, popen: Any, command: list[str], run: Path) -> "Job":
        self.jobs.append(Job(popen, command, self.folder, run))
        return self.jobs[-1]

    def close(self) -> None:
        """End what still runs."""
        for job in self.jobs:
            job.kill()

    # what a run wrote, by its name

    def log(self, name: str, key: str) -> list[tuple[int, Any]]:
        """(step, value) of every record that has `key`."""
        return [(record["step"], record[key]) for record in log(self.run(name)) if key in record]

    def file(self, name: str, file: str) -> Path:
        return self.run(name) / file


def _environment(**changed: str | None) -> dict[str, str]:
    """The environment of a script: this process's with changes; None removes a variable."""
    everything = {**os.environ, "PYTHONWARNINGS": "", **changed}
    return {key: value for key, value in everything.items() if value is not None}


class Job:
    """A process that runs; what it writes is read meanwhile."""

    def __init__(
        self, popen: "subprocess.Popen[bytes] | ForkedProcess", command: list[str], folder: Path, run: Path
    ):
        self.popen, self.command, self.folder, self.run = popen, command, folder, run
        self.pid = self.popen.pid
        self.texts: tuple[list[bytes], list[bytes]] = ([], [])
        pipes = zip((self.popen.stdout, self.popen.stderr), self.texts, strict=True)
        self.readers = [Thread(target=_copy, args=pipe, daemon=True) for pipe in pipes]
        for reader in self.readers:
            reader.start()

    def text(self, number: int) -> str:
        """All that was written so far to stdout (0) or stderr (1)."""
        return b"".join(self.texts[number]).decode(errors="replace")

    @property
    def said(self) -> str:
        return self.text(0) + self.text(1)

    def running(self) -> bool:
        return self.popen.poll() is None

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, and with a launcher all processes that work in the folder."""
        if "torch.distributed.run" in self.command:
            for pid in processes_in(self.folder):
                os.kill(pid, signal.SIGKILL)
        if self.running():
            self.popen.kill()
        self.popen.wait()
        self._close()

    def _close(self) -> None:
        """Wait for loader processes, too: they hold the streams, and the run's lock, a moment longer."""
        for reader in self.readers:
            reader.join(20)

    def wait(self, code: int | None = 0, seconds: float = 300) -> Ended:
        """Wait for the end; fails the test unless it ends with `code`; None allows any."""
        try:
            ended = self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end within {seconds:g} s\n{self.said}") from None
        self._close()
        return Ended(ended, self.text(0), self.text(1), self.run).with_code(code)

    def until(self, true: Callable[[], object], seconds: float = 60) -> None:
        """Wait until something is true; fails the test if the process ends before."""
        end = time.monotonic() + seconds
        while not true():
            assert self.running() and time.monotonic() < end, f"ended, or not in {seconds:g} s\n{self.said}"
            time.sleep(0.002)

    def until_step(self, step: int) -> None:
        """Wait until the run's log holds a step."""
        self.until(lambda: reached(self.run, step))


def _copy(stream: IO[bytes], parts: list[bytes]) -> None:
    with stream:
        while part := os.read(stream.fileno(), 1 << 16):
            parts.append(part)


# --------------------------------------------------------------------------------------- processes and ports


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.02)


def processes_in(folder: Path) -> list[int]:
    """Every other process whose working directory is `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile, or belongs to somebody else
            if (entry / "cwd").readlink() == folder.resolve() and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that have not ended."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            kind, parent = file.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and kind != "Z":
                found.append(int(file.parent.name))
    return found


def listening(port: int) -> list[str]:
    """The addresses, in the kernel's hexadecimal, on which somebody listens at `port`."""
    tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
    rows = [row.split() for table in tables for row in table.splitlines()]
    places = [row[1].split(":") for row in rows if row[3] == "0A"]  # 0A: LISTEN
    return [address for address, number in places if int(number, 16) == port]
