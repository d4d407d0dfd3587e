"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file beside `path` that becomes `path` in one step, durable, when the block ends well.

    A crash at any instant leaves the older complete file.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(text: str, path: Path) -> None:
    """Write a UTF-8 text file, whole or not at all; file names that are no UTF-8 keep their bytes."""
    with whole_file(path) as file:
        file.write(text.encode(errors="surrogateescape"))
