"""Files that are written whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from utils.system.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BARRED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a file beside `path` that becomes `path` in one step, durable, when the block ends well.

    A crash at any instant leaves the older complete file. An OSError on the way names `path`.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:  # a full disk is noticed by a write, which does not know its file
        error.filename = error.filename or str(path)
        raise
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what a full or shut disk raises in this block into one message.

    Args:
        folder: is named where the error does not know its file.

    Raises:
        UserError: instead of the OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (*FULL, *BARRED):
            raise
        fix = "free some space" if error.errno in FULL else "see to its permissions and its disk"
        raise UserError(
            f"cannot write {error.filename or folder}",
            error.strerror or str(error),
            f"{fix}; files that were complete are still there",
            code=1,
        ) from None


def write_text(text: str, path: Path) -> None:
    """Write a UTF-8 text file, whole or not at all; file names that are no UTF-8 keep their bytes."""
    with atomic_write(path) as file:
        file.write(text.encode(errors="surrogateescape"))
