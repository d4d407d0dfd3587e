"""What a user is told when something cannot go on: what, why, and how to mend it."""

import io
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any


class UserError(Exception):
    """Something the user can mend.

    Args:
        what: one line that names the flag or the file.
        why: the values that were found.
        fix: a flag or a command that helps.
        code: the exit code; 2 before the first step, 1 while running.
    """

    def __init__(self, what: str, why: str = "", fix: str = "", code: int = 2):
        super().__init__(
            what, why, fix, code
        )  # all of them in args, so that it survives pickling by a worker
        self.what, self.why, self.fix, self.code = what, why, fix, code

    def __str__(self) -> str:
        lines = [f"error: {self.what}"]
        lines += [f"  why: {self.why}"] if self.why else []
        lines += [f"  fix: {self.fix}"] if self.fix else []
        return "\n".join(lines)


def first_sentence(error: BaseException) -> str:
    """The beginning of a library's message, on one line."""
    lines = str(error).strip().splitlines() or ["no details"]
    return lines[0].partition(". ")[0]


class Stream(io.TextIOWrapper):
    """stdout or stderr that a reader may leave: what nobody can read any more is no reason to end.

    Args:
        stream: is taken over.
        gone: what a write raises then; any other OSError is refused.
    """

    def __init__(self, stream: io.TextIOWrapper, gone: type[OSError]):
        encoding, by_line, at_once = stream.encoding, stream.line_buffering, stream.write_through
        super().__init__(stream.detach(), encoding, "backslashreplace", None, by_line, at_once)
        self.gone = gone

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._leave(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._leave(error)

    def _leave(self, error: OSError) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if not isinstance(error, self.gone):
            fix = "what was computed is on the disk all the same"
            raise UserError("cannot write to stdout", str(error), fix, code=1) from None


def fix_streams() -> None:
    """Make stdin, stdout and stderr usable: open those that are closed, outlive those that break.

    A closed one is None, on which much fails; and the next file that is opened would take its place.
    """
    for number, mode in enumerate(("r", "w", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
            name = ("stdin", "stdout", "stderr")[number]
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    sys.stdout = _lasting(sys.stdout, BrokenPipeError)  # what could not be written to a disk is an error
    sys.stderr = _lasting(sys.stderr, OSError)


def _lasting(stream: Any, gone: type[OSError]) -> Any:
    return Stream(stream, gone) if type(stream) is io.TextIOWrapper else stream


def run_script(main: Callable[[Any, ExitStack], int], opt: Any) -> int:
    """Call `main(opt, cleanup)` and return an exit code; a failure becomes a message, no traceback (unless
    --debug). What main registers with `cleanup` is undone however it ends."""
    try:
        with ExitStack() as cleanup:
            code = main(opt, cleanup)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as failure:
        if opt.debug:
            traceback.print_exc()
        if not isinstance(failure, UserError):
            failure = UserError(
                f"{type(failure).__name__}: {first_sentence(failure)}",
                fix="repeat the command with --debug to see the traceback",
                code=1,
            )
        print(failure, file=sys.stderr)
        return failure.code
