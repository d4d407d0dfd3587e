"""Weights by address: downloaded once into torch.hub's cache, and checked. Imports torch only to download."""

import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urldefrag, urlsplit

from utils.system.errors import UserError, first_sentence
from utils.system.hashes import sha256

TIMEOUT_S = 30.0  # for a connection, and for each part of a download


def is_address(weights: str) -> bool:
    return weights.startswith(("https://", "http://"))


def check_weights(weights: str) -> None:
    """Check `--weights`, without a download.

    Raises:
        UserError: no such file, or an address without `#sha256=` and 64 hexadecimal digits.
    """
    if is_address(weights):
        if not re.fullmatch(r"sha256=[0-9a-f]{64}", urldefrag(weights).fragment):
            why = "a download is checked against its hash"
            raise UserError(
                f"no hash [--weights {weights}]", why, "append #sha256= and the 64 digits of sha256sum"
            )
    elif not Path(weights).is_file():
        raise UserError(f"no such file [--weights {weights}]", fix="such as checkpoints/RUN/best_net.pth")


def weights_name(weights: str) -> str:
    """The name of a file or address without folders and ending.

    >>> weights_name("a/net.pth"), weights_name("https://host/b/net.pth#sha256=0")
    ('net', 'net')
    """
    return Path(urlsplit(weights).path if is_address(weights) else weights).stem


def local_weights(weights: str) -> Path:
    """The file that `--weights` names; an address is downloaded unless the cache has it, and says so.

    Raises:
        UserError: no connection, no such page, or a file with another hash, of which nothing is kept.
    """
    if not is_address(weights):
        return Path(weights)
    check_weights(weights)
    address, digest = urldefrag(weights)
    digest = digest.removeprefix("sha256=")
    import torch

    file = Path(torch.hub.get_dir(), "checkpoints", f"{digest[:12]}_{Path(urlsplit(address).path).name}")
    if holds(file, digest):
        return file
    print(f"download {address} to {file}", file=sys.stderr)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with socket_timeout(TIMEOUT_S):
            torch.hub.download_url_to_file(address, str(file), hash_prefix=digest, progress=False)
    except (OSError, RuntimeError, ValueError) as error:  # urllib's are OSErrors; torch's: another hash
        if isinstance(error, HTTPError):
            error.close()
        fix = "check the address and the hash, or download the file and name it by --weights FILE"
        raise UserError(f"cannot download {address} [--weights]", first_sentence(error), fix) from None
    return file


def holds(file: Path, digest: str) -> bool:
    """Whether a file is there and has this SHA-256."""
    if not file.is_file():
        return False
    with file.open("rb") as content:
        return sha256(content) == digest


@contextmanager
def socket_timeout(seconds: float) -> Iterator[None]:
    """A timeout for the sockets made in this block, of which torch.hub sets none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
