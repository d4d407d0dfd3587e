"""SHA-256 of files."""

import hashlib
from typing import BinaryIO

BLOCK_BYTES = 2**20  # read at a time


def sha256(file: BinaryIO) -> str:
    """The hexadecimal digest of an open file, from where it stands to its end."""
    found = hashlib.sha256()
    while block := file.read(BLOCK_BYTES):
        found.update(block)
    return found.hexdigest()
