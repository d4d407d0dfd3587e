"""Standard streams that may be closed, or whose reader may leave (`train.py | head`)."""

import io
import os
import sys
from typing import Any

from utils.system.errors import UserError


class Stream(io.TextIOWrapper):
    """stdout or stderr that outlives its reader: after the reader left, output is discarded.

    Args:
        stream: is taken over.
        gone: what a write raises when the reader left; any other OSError becomes a UserError.
    """

    def __init__(self, stream: io.TextIOWrapper, gone: type[OSError]):
        encoding, by_line, at_once = stream.encoding, stream.line_buffering, stream.write_through
        super().__init__(stream.detach(), encoding, "backslashreplace", None, by_line, at_once)
        self.gone = gone

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._discard(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._discard(error)

    def _discard(self, error: OSError) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if not isinstance(error, self.gone):
            fix = "the results are on the disk"
            raise UserError("cannot write to stdout", str(error), fix, code=1) from None


def fix_streams() -> None:
    """Open stdin, stdout and stderr where they are closed, and let the last two outlive their readers.

    Python sets a closed one to None, and the next file that is opened would get its number.
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
