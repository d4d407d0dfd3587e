"""Files of tensors: written atomically, checked by their checksums when loaded."""

import zipfile
from pathlib import Path
from typing import IO, Any, cast

import torch

from utils.system.atomic import atomic_write
from utils.system.errors import UserError, first_sentence


def save(value: Any, path: Path) -> None:
    """Write `value` with torch.save, whole or not at all.

    It goes through our own file object: only then a full disk is reported as such.

    Raises:
        OSError: it cannot be written; torch would say so by a RuntimeError without the reason.
    """
    with atomic_write(path) as file:
        told = ErrorKeepingFile(file)
        try:
            torch.save(value, cast(IO[bytes], told))  # all that torch calls
        except RuntimeError:
            if told.error:
                raise told.error from None
            raise


class ErrorKeepingFile:
    """A file to write, which remembers why a write failed."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def load(path: Path, older: bool = False) -> Any:
    """Read a file of plain types and tensors onto the CPU, after checking the checksums that its zip holds.

    torch itself does not check them, and loads a damaged file with wrong values.

    Args:
        older: also accept the format without a zip that torch wrote before 1.6. It has no checksums: of its
            damages only a missing end is noticed.

    Raises:
        UserError: not there, damaged, or holding anything that wants to run code.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        damaged = damaged_member(path) if not older or starts_as_zip(path) else None
        if damaged is None:
            return torch.load(path, map_location="cpu", weights_only=True)
        reason = f"checksum of {damaged} does not match"
    except Exception as error:  # zipfile and torch raise at least six kinds for bad files
        reason = f"{type(error).__name__}: {first_sentence(error)}"
    raise UserError(f"{path} is damaged or no checkpoint", reason, "use another checkpoint")


def damaged_member(path: Path) -> str | None:
    """The first member of a zip whose checksum does not match, if any."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def starts_as_zip(path: Path) -> bool:
    """By its first bytes, as torch decides it: a zip without its end is still no older format."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\3\4"
