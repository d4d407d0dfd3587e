"""What a user is told when something cannot go on: what, why, and how to mend it."""

import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any


class Refusal(Exception):
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


def run_script(main: Callable[[Any, ExitStack], int], opt: Any) -> int:
    """Call `main(opt, cleanup)` and return an exit code; a failure becomes a message, no traceback (unless
    --debug). What main registers with `cleanup` is undone however it ends."""
    try:
        with ExitStack() as cleanup:
            return main(opt, cleanup)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as failure:
        if opt.debug:
            traceback.print_exc()
        if not isinstance(failure, Refusal):
            failure = Refusal(
                f"{type(failure).__name__}: {first_sentence(failure)}",
                fix="repeat the command with --debug to see the traceback",
                code=1,
            )
        print(failure, file=sys.stderr)
        return failure.code
