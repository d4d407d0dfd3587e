"""Files of tensors that are either whole or not there, and that are checked before they are believed."""

import re
import zipfile
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from utils.errors import Refusal, first_sentence
from utils.files import whole_file
from utils.runs import Run

FORMAT = 1


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


def save(value: Any, path: Path) -> None:
    """Write `value` with torch.save, whole or not at all.

    It goes through our own file object: only then a full disk is reported as such.
    """
    with whole_file(path) as file:
        torch.save(value, file)


def load(path: Path) -> Any:
    """Read a file of plain types and tensors onto the CPU, after checking the checksums that its zip holds.

    torch itself does not check them, and loads a damaged file with wrong values.

    Raises:
        Refusal: not there, damaged, or holding anything that wants to run code.
    """
    if not path.is_file():
        raise Refusal(f"no such file: {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            return torch.load(path, map_location="cpu", weights_only=True)
        reason = f"checksum of {damaged} does not match"
    except Exception as error:  # zipfile and torch raise at least six kinds for bad files
        reason = f"{type(error).__name__}: {first_sentence(error)}"
    raise Refusal(f"{path} is damaged or no checkpoint", reason, "use another checkpoint")


def collect(**parts: Stateful) -> dict[str, Any]:
    """The state of several named objects."""
    return {name: part.state_dict() for name, part in parts.items()}


def restore(state: dict[str, Any], **parts: Stateful) -> None:
    """Give each named object its state back."""
    for name, part in parts.items():
        part.load_state_dict(state[name])


def load_weights(net: nn.Module, path: Path) -> None:
    """Load a file of weights, ours or one with a wrapper's prefixes, into `net`; every tensor must fit.

    Raises:
        Refusal: names missing, left over or of another shape; lists five of each.
    """
    found = bare_weights(load(path))
    wanted = net.state_dict()
    missing = sorted(wanted.keys() - found.keys())
    extra = sorted(found.keys() - wanted.keys())
    shapes = [
        f"{key} {tuple(found[key].shape)} for {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & found.keys())
        if found[key].shape != wanted[key].shape
    ]
    if missing or extra or shapes:
        lists = [("missing", missing), ("left over", extra), ("of another shape", shapes)]
        why = "; ".join(f"{len(keys)} {kind}: {', '.join(keys[:5])}" for kind, keys in lists if keys)
        raise Refusal(
            f"{path} does not fit the network", why, "give the network's flags that the file was made with"
        )
    net.load_state_dict(found)


def bare_weights(value: Any) -> dict[str, Tensor]:
    """The state_dict inside `value`, without the names of containers and wrappers round it.

    >>> list(bare_weights({"params": {"module._orig_mod.a": torch.zeros(1), "n_averaged": torch.tensor(3)}}))
    ['a']
    """
    containers = ("params_ema", "params", "state_dict", "net", "model")
    while isinstance(value, dict) and (
        inner := next((value[c] for c in containers if isinstance(value.get(c), dict)), None)
    ):
        value = inner
    weights = {}
    for key, tensor in value.items() if isinstance(value, dict) else ():
        name = re.sub(r"^((module|_orig_mod)\.)+", "", str(key))
        if isinstance(tensor, Tensor) and name != "n_averaged":
            weights[name] = tensor
    return weights


def freeze(net: nn.Module, pattern: str | None) -> list[nn.Parameter]:
    """Set `requires_grad_(False)` on every parameter whose name `pattern` finds; return the others.

    Raises:
        Refusal: the pattern finds none, or all.
    """
    names = [name for name, _ in net.named_parameters()]
    frozen = {name for name in names if pattern and re.search(pattern, name)}
    if pattern and len(frozen) in (0, len(names)):
        which = "no parameter" if not frozen else "every parameter"
        raise Refusal(f"--freeze {pattern} matches {which}", f"names are such as {names[0]}, {names[-1]}")
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


def find_state(run: Run, epoch: int, epoch_steps: int) -> dict[str, Any]:
    """The state to go on from: that after `epoch` epochs, or the latest for 0.

    Raises:
        Refusal: no such state, naming the epochs that have one; or one of another format.
    """
    if not epoch:
        state = load(run.state("latest"))
    elif run.state(f"epoch_{epoch:04d}").is_file():
        state = load(run.state(f"epoch_{epoch:04d}"))
    else:
        state = load(run.state("latest"))
        if state.get("step") != epoch * epoch_steps:
            saved = ", ".join(map(str, run.epochs_saved())) or "none"
            raise Refusal(
                f"no state after epoch {epoch} [--epoch]", f"saved: {saved}", "one of these, or --resume"
            )
    if state.get("format") != FORMAT:
        raise Refusal(f"{run.name} has another format of checkpoint", f"{state.get('format')}, here {FORMAT}")
    return state
