"""Files of tensors that are either whole or not there, and that are checked before they are believed."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol, cast

import torch
from torch import nn

from utils.run.run import Run
from utils.system.atomic import atomic_write
from utils.system.errors import UserError, first_sentence

FORMAT = 1


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


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


def collect(**parts: Stateful) -> dict[str, Any]:
    """The state of several named objects."""
    return {name: part.state_dict() for name, part in parts.items()}


def restore(state: dict[str, Any], **parts: Stateful) -> None:
    """Give each named object its state back.

    Raises:
        UserError: the state is of another network or optimizer.
    """
    for name, part in parts.items():
        try:
            part.load_state_dict(state[name])
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            lines = [line.strip() for line in str(error).splitlines()]
            raise UserError(
                f"{state.get('file', 'the state')} does not fit the run's {name}",
                f"{type(error).__name__}: {' '.join(lines)[:200]}",
                "go on from another --epoch, or start again under another --name",
            ) from None


def freeze(net: nn.Module, pattern: str | None) -> list[nn.Parameter]:
    """Set `requires_grad_(False)` on every parameter whose name `pattern` finds; return the others.

    Raises:
        UserError: the pattern finds none, or all.
    """
    names = [name for name, _ in net.named_parameters()]
    frozen = {name for name in names if pattern and re.search(pattern, name)}
    if pattern and len(frozen) in (0, len(names)):
        which = "no parameter" if not frozen else "every parameter"
        raise UserError(f"--freeze {pattern} matches {which}", f"names are such as {names[0]}, {names[-1]}")
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


def find_state(run: Run, epoch: int, epoch_steps: int, say: Callable[[str], None] = print) -> dict[str, Any]:
    """The state to go on from: that after `epoch` epochs, or for 0 the newest sound one.

    Args:
        say: is told which newer states were skipped, and why.

    Raises:
        UserError: no sound state, no state of that epoch (lists those that exist), or another format.
    """
    if epoch:
        return state_after(run, epoch, epoch_steps)
    paths = run.states()
    reasons = []
    for path in paths:
        try:
            state = readable(path)
        except UserError as refusal:
            reasons.append(f"{refusal.what} ({refusal.why})")
            continue
        for reason in reasons:
            say(f"skipped: {reason}")
        return state
    why = "; ".join(reasons) or f"{run.state('latest')} is not there"
    raise UserError(
        f"{run.name} has no sound state to go on from [--resume]", why, "start again under another --name"
    )


def state_after(run: Run, epoch: int, epoch_steps: int) -> dict[str, Any]:
    """The state after `epoch` epochs; `latest` where it stands exactly there."""
    own = run.state(f"epoch_{epoch:04d}")
    state = readable(own if own.is_file() else run.state("latest"))
    if not own.is_file() and state.get("step") != epoch * epoch_steps:
        saved = ", ".join(map(str, run.epochs_saved())) or "none"
        raise UserError(
            f"no state after epoch {epoch} [--epoch]", f"saved: {saved}", "one of these, or --resume"
        )
    return state


def readable(path: Path) -> dict[str, Any]:
    """A sound state of this format; UserError otherwise."""
    state = load(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise UserError(f"{path} has another format of checkpoint", f"{found}, here {FORMAT}")
    return state | {"file": str(path)}
