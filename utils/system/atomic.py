"""Atomic file writes, and disk errors as messages."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from utils.system.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # of file systems that cannot sync a folder
NO_FOLDER_OPEN = (*NO_FOLDER_SYNC, errno.EACCES, errno.EPERM, errno.EISDIR)  # or that cannot open one
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a file beside `path` that replaces `path`, synced to the disk, when the block ends without error.

    A crash at any instant leaves the older complete file. An OSError in between names `path`.
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
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the file system can; OSError for a fault of the disk."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno not in NO_FOLDER_OPEN:
            raise
        return
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(number)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn the OSError of a full or read-only disk in this block into a UserError.

    Args:
        folder: named in the message if the error does not name a file.

    Raises:
        UserError: instead of the OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (*DISK_FULL, *NOT_WRITABLE):
            raise
        fix = "free disk space" if error.errno in DISK_FULL else "check its permissions and its disk"
        raise UserError(
            f"cannot write {error.filename or folder}",
            error.strerror or str(error),
            f"{fix}; files that were complete are kept",
            code=1,
        ) from None


def write_text(text: str, path: Path) -> None:
    """Write a UTF-8 text file atomically; file names in it that are not UTF-8 keep their bytes."""
    with atomic_write(path) as file:
        file.write(text.encode(errors="surrogateescape"))
