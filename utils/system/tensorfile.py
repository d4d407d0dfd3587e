"""Files of tensors: written atomically, checked by their checksums when loaded."""

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from utils.system.atomic import atomic_write
from utils.system.errors import UserError, first_sentence
from utils.system.hashes import BLOCK_BYTES

FOLDER = 0x10  # attribute of a member of a zip


def save(value: Any, path: Path) -> None:
    """Write `value` with torch.save, atomically.

    torch writes to our own file object, which keeps the OSError of a full disk.

    Raises:
        OSError: it cannot be written (torch raises a RuntimeError without the reason).
    """
    with atomic_write(path) as file:
        keeper = ErrorKeepingFile(file)
        try:
            torch.save(value, cast(IO[bytes], keeper))  # all that torch calls
        except RuntimeError:
            if keeper.error:
                raise keeper.error from None
            raise


class ErrorKeepingFile:
    """File wrapper that keeps the OSError that torch.save hides."""

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

    torch does not check them and loads a damaged file with wrong values. A file named `.safetensors` is read
    as such; it has no checksums.

    Args:
        older: also accept the format that torch wrote before 1.6, which has no checksums, and safetensors:
            only a missing end is detected.

    Raises:
        UserError: no such file, a damaged one, or one that would run code.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if older and is_safetensors(path):
        return _load_safetensors(path)
    try:
        reason = damage(path) if not older or starts_as_zip(path) else None
        if reason is None:
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile and torch raise at least six kinds for bad files
        reason = f"{type(error).__name__}: {first_sentence(error)}"
    raise UserError(f"{path} is damaged or no checkpoint", reason, "use another checkpoint")


def damage(path: Path) -> str | None:
    """What is wrong with a zip, if anything: a checksum; a compressed member, which unpacks to any size.

    Members are opened by their entries, not by their names: a flipped bit may give two of them one name. One
    that is marked as a folder torch would not read: the tensor would be what lies in memory.
    """
    with zipfile.ZipFile(path) as archive:
        packed = [each.filename for each in archive.infolist() if each.compress_type != zipfile.ZIP_STORED]
        if packed:
            return f"{packed[0]} is compressed"
        for each in archive.infolist():
            if each.external_attr & FOLDER:
                return f"{each.filename} is marked as a folder"
            try:
                with archive.open(each) as member:  # raises where the two names of a member differ
                    while member.read(BLOCK_BYTES):  # raises at its end where the checksum differs
                        pass
            except zipfile.BadZipFile as error:
                reason = f"checksum of {each.filename} does not match"
                return reason if "CRC" in str(error) else first_sentence(error)
    return None


def starts_as_zip(path: Path) -> bool:
    """By its first bytes, as torch decides: a zip without its end is not the older format either."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\3\4"


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A short text that differs where names, shapes, types or values differ in any bit."""
    found = hashlib.sha256()
    for name, value in tensors.items():
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


# ------------------------------------------------------------------------------------------------ safetensors


def is_safetensors(path: Path) -> bool:
    return path.suffix.lower() == ".safetensors"


def save_safetensors(state: Mapping[str, torch.Tensor], metadata: Mapping[str, str], path: Path) -> None:
    """Write tensors by name with text metadata, atomically.

    Raises:
        UserError: the package safetensors is missing.
    """
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    with atomic_write(path) as file:
        file.write(_safetensors().torch.save(plain, dict(metadata)))


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The text metadata of a file; {} if it has none.

    Raises:
        UserError: the file cannot be read, or the package safetensors is missing.
    """
    with _safetensors_errors(path), _safetensors().safe_open(str(path), "pt") as file:
        return dict(file.metadata() or {})


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    with _safetensors_errors(path):
        tensors: dict[str, torch.Tensor] = _safetensors().torch.load_file(str(path))
        return tensors


@contextmanager
def _safetensors_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # safetensors has its own kind
        reason = f"{type(error).__name__}: {first_sentence(error)}"
        raise UserError(f"{path} is damaged or no safetensors file", reason, "use another file") from None


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise UserError("safetensors is not installed", fix='pip install -e ".[export]"') from None
    return safetensors
