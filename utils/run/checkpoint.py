"""Files of tensors that are either whole or not there, and that are checked before they are believed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from utils.run.run import Run
from utils.system.errors import UserError
from utils.system.tensorfile import load

FORMAT = 1


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


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
