"""Load third-party checkpoints: unwrap containers, strip prefixes, match by name or by structure."""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from models.wrappers import bare
from utils.system import tensorfile
from utils.system.errors import UserError

CONTAINERS = (  # in order of preference
    "params_ema",
    "params",
    "state_dict",
    "model_state_dict",
    "state",
    "net",
    "model",
    "netG",
    "generator",
    "G",
    "ema",
    "weights",
)
PREFIXES = ("module.", "_orig_mod.", "ema.", "ema_model.", "model.", "net.", "netG.", "generator.")
COUNTERS = ("n_averaged", "num_updates", "initted", "step", "decay")  # of modules that average weights
MAX_DEPTH = 8  # of nested containers; a container may hold itself

State = dict[str, Tensor]


class Unwrapped(NamedTuple):
    """The tensors of a file without containers.

    Args:
        used_ema: they are those of `params_ema`, and the file has `params`, too.
    """

    tensors: State
    used_ema: bool = False


@dataclass(frozen=True)
class Reading:
    """The tensors of a file by the names that remain after stripping prefixes and dropping counters."""

    tensors: State
    stripped: str = ""
    dropped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Match:
    """A state dict for the network, made from the tensors of a file.

    Args:
        state: every tensor of the network, by its name there.
        by_order: number of tensors that were matched by their order; 0 where the names matched.
        absent: names of the network that the file lacks and that are set to 0.
    """

    state: State
    by_order: int = 0
    absent: list[str] = field(default_factory=list)


def load_weights(net: nn.Module, path: Path) -> str:
    """Load a file of weights, ours or a third party's, into `net`; every tensor of the file must fit.

    Tried in this order: the names as they are, the names without common prefixes, and the structure: the
    order of the tensors with their shapes and the last parts of their names. Values are cast to the types of
    the network.

    Returns:
        What was done, on one line; "" where the names matched as they are.

    Raises:
        UserError: unreadable file, non-finite values, or tensors that do not fit (names five of each kind).
    """
    net = bare(net)
    tensors, used_ema = unwrap(tensorfile.load(path, older=True))
    check_values(tensors, path)
    expected = net.state_dict()
    reading, match = match_tensors(net, expected, list(readings(tensors, expected)))
    if match is None:
        raise does_not_fit(path, expected, reading.tensors)
    net.load_state_dict(match.state)
    return describe(used_ema, reading, match)


def read_weights(path: Path) -> State:
    """The finite tensors in a file by name, without containers; prefixes are kept.

    Raises:
        UserError: unreadable file, no tensors in it, or values that are not finite.
    """
    tensors, _ = unwrap(tensorfile.load(path, older=True))
    if not tensors:
        raise UserError(f"{path} holds no weights", fix="name a file with a state_dict")
    check_values(tensors, path)
    return tensors


def unwrap(value: Any, depth: int = MAX_DEPTH) -> Unwrapped:
    """The tensors inside nested containers.

    >>> list(unwrap({"epoch": 3, "params": {"module.a": torch.zeros(1), "n": 1}, "ema": {}}).tensors)
    ['module.a']
    """
    if not isinstance(value, dict) or not depth:
        return Unwrapped({})
    for name in CONTAINERS:
        inner = unwrap(value.get(name), depth - 1)
        if inner.tensors:
            preferred = name == "params_ema" and bool(unwrap(value.get("params"), depth - 1).tensors)
            return Unwrapped(inner.tensors, preferred or inner.used_ema)
    return Unwrapped({str(key): tensor for key, tensor in value.items() if isinstance(tensor, Tensor)})


def check_values(tensors: State, path: Path) -> None:
    """Refuse sparse, quantised, complex and meta tensors, and values that are not finite in float32.

    A tensor larger than the file repeats a few values, to fill the memory of whoever computes with it.
    """
    size = path.stat().st_size
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
            raise UserError(f"{path}: {key} is no plain tensor", f"{tensor.dtype}, {tensor.layout}")
        if tensor.numel() * tensor.element_size() > size:
            what = f"{path}: {key} has more values than the file holds"
            raise UserError(what, f"shape {tuple(tensor.shape)}, a file of {size} bytes")
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            fix = "use another file of weights"
            raise UserError(f"{path}: {key} is not finite", "it contains NaN or Inf", fix)


def readings(tensors: State, expected: State) -> Iterator[Reading]:
    """The names as they are, then with one more prefix or group of counters removed each time."""
    reading = Reading(tensors)
    while True:
        yield reading
        tensors = reading.tensors
        counters = [key for key in COUNTERS if is_counter(key, tensors, expected)]
        prefix = "" if counters else next((p for p in PREFIXES if all_begin(tensors, p)), "")
        if not (counters or prefix):
            return
        rest = {key.removeprefix(prefix): value for key, value in tensors.items() if key not in counters}
        reading = Reading(rest, reading.stripped + prefix, reading.dropped + counters)


def is_counter(key: str, tensors: State, expected: State) -> bool:
    return key in tensors and key not in expected and tensors[key].numel() == 1


def all_begin(tensors: State, prefix: str) -> bool:
    return bool(tensors) and all(key.startswith(prefix) for key in tensors)


def match_tensors(net: nn.Module, expected: State, candidates: list[Reading]) -> tuple[Reading, Match | None]:
    """The first reading whose names and shapes are the network's; else the closest one, by structure."""
    for reading in candidates:
        if reading.tensors.keys() == expected.keys() and not mismatches(expected, reading.tensors):
            return reading, Match(reading.tensors)
    # of the readings with the most names in common, the one with the shortest names
    closest = max(reversed(candidates), key=lambda reading: len(expected.keys() & reading.tensors.keys()))
    return closest, by_structure(net, expected, closest.tensors)


def by_structure(net: nn.Module, expected: State, found: State) -> Match | None:
    """Match the tensors of a file with the network's in order; None where any tensor is left without match.

    Matched tensors have the same shape and last part of the name, and those of one layer come from one layer.
    The file may lack a convolution's bias and a batch norm's `num_batches_tracked`: they are set to 0. Where
    all names of the file exist in the network, the names decide, not the order.
    """
    convs = {name for name, module in net.named_modules() if isinstance(module, _ConvNd)}
    by_name = found.keys() <= expected.keys()
    names = deque(key for key in (expected if by_name else found) if key in found)
    match = Match({}, 0 if by_name else len(names))
    layers: dict[str, str] = {}  # of the network -> of the file
    for key, tensor in expected.items():
        layer, _, part = key.rpartition(".")
        name = names[0] if names else ""
        file_layer, _, file_part = name.rpartition(".")
        same_name = key == name if by_name else part == file_part
        fitting = bool(name) and same_name and fits(tensor, found[name])
        if fitting and layers.setdefault(layer, file_layer) == file_layer:
            match.state[key] = found[names.popleft()]
        elif part == "num_batches_tracked" or (part == "bias" and layer in convs):
            match.state[key] = torch.zeros_like(tensor)
            match.absent.append(key)
        else:
            return None
    return None if names else match


def fits(expected: Tensor, found: Tensor) -> bool:
    """Whether the shapes are equal and floats are not filled with integers (quantised weights)."""
    return expected.shape == found.shape and (found.is_floating_point() or not expected.is_floating_point())


def mismatches(expected: State, found: State) -> list[str]:
    """A line for each common name whose tensors differ in shape or type."""
    lines = []
    for key in sorted(expected.keys() & found.keys()):
        if not fits(expected[key], found[key]):
            pair = found[key], expected[key]
            same_shape = pair[0].shape == pair[1].shape
            theirs, ours = (str(each.dtype if same_shape else tuple(each.shape)) for each in pair)
            lines.append(f"{key} {theirs} for {ours}")
    return lines


def describe(used_ema: bool, reading: Reading, match: Match) -> str:
    """What `load_weights` did, on one line."""
    absent = Counter(key.rpartition(".")[2] for key in match.absent)
    counts = ", ".join(f"{count} {part}" for part, count in sorted(absent.items()))
    notes = {
        "took params_ema (the EMA), not params": used_ema,
        f"stripped {reading.stripped}": reading.stripped,
        f"left out {', '.join(reading.dropped)}": reading.dropped,
        f"matched {match.by_order} of {len(match.state)} tensors by structure": match.by_order,
        f"absent in the file (set to 0): {counts}": counts,
    }
    return ", ".join(note for note, applies in notes.items() if applies)


def does_not_fit(path: Path, expected: State, found: State) -> UserError:
    """The error for a file whose tensors are not the network's."""
    kinds = [
        ("missing", sorted(expected.keys() - found.keys())),
        ("unexpected", sorted(found.keys() - expected.keys())),
        ("of another shape", mismatches(expected, found)),
    ]
    differences = "; ".join(f"{len(keys)} {kind}: {', '.join(keys[:5])}" for kind, keys in kinds if keys)
    return UserError(
        f"{path} does not fit the network",
        f"tensors in the network: {len(expected)}, in the file: {len(found)}; {differences}",
        "use the network flags that the file was trained with",
    )
