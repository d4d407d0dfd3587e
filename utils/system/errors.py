"""User-facing errors: what failed, why, and how to fix it."""

import difflib
import errno
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any


def did_you_mean(word: str, known: Iterable[str], form: str = "{}") -> str:
    """A question that names the nearest known word; "" if none is near.

    >>> did_you_mean("flp", ["none", "flip"]), did_you_mean("?", ["none"])
    ('did you mean flip?', '')

    Args:
        form: of the word as the user types it, such as `{}=...`.
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {form.format(near[0])}?" if near else ""


class UserError(Exception):
    """An error that the user can fix.

    Args:
        what: one line that names the flag or the file.
        why: the values that were found.
        fix: a flag or a command that helps.
        code: the exit code; 2 before the first step, 1 while running.
    """

    def __init__(self, what: str, why: str = "", fix: str = "", code: int = 2):
        super().__init__(what, why, fix, code)  # all of them in args: a loader process pickles it
        self.what, self.why, self.fix, self.code = what, why, fix, code

    def __str__(self) -> str:
        lines = [f"error: {self.what}"]
        lines += [f"  why: {self.why}"] if self.why else []
        lines += [f"  fix: {self.fix}"] if self.fix else []
        return "\n".join(map(printable, lines))


def printable(text: str) -> str:
    r"""The text with control characters escaped, so that a file name cannot steer the terminal.

    >>> printable("a\x1b[31mb\tc"), printable("ü\n")
    ('a\\x1b[31mb\\tc', 'ü\\n')
    """
    undecoded = range(
        0xDC80, 0xDD00
    )  # bytes of a file name that are not UTF-8: escaped when they are printed
    return "".join(c if c.isprintable() or ord(c) in undecoded else repr(c)[1:-1] for c in text)


def first_sentence(error: BaseException) -> str:
    """The first sentence of a library's message, on one line."""
    lines = str(error).strip().splitlines() or ["no details"]
    return lines[0].partition(". ")[0]


def bad_path(error: OSError) -> UserError:
    """The error of an argument that names no possible file, such as one of 300 letters."""
    what = f"bad argument: {error.strerror or error}"
    return UserError(what, str(error.filename)[:80], "give another path")


def run_script(main: Callable[[Any, ExitStack], int], opt: Any) -> int:
    """Call `main(opt, cleanup)` and return its exit code; a failure is printed as a UserError.

    `opt.debug` adds the traceback. `cleanup` is unwound however main ends.
    """
    from utils.system.workers import end_workers  # imports multiprocessing, which --help does not need

    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with ExitStack() as cleanup:
            cleanup.callback(end_workers)
            code = main(opt, cleanup)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as failure:
        if opt.debug:
            traceback.print_exc()
        if isinstance(failure, OSError) and failure.errno == errno.ENAMETOOLONG:
            failure = bad_path(failure)
        if not isinstance(failure, UserError):
            failure = UserError(
                f"{type(failure).__name__}: {first_sentence(failure)}",
                fix="repeat the command with --debug to see the traceback",
                code=1,
            )
        print(failure, file=sys.stderr)
        return failure.code
