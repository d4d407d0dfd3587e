"""Weights that others made: other containers, other prefixes, other names for the same layers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from utils.system import tensorfile
from utils.system.errors import UserError

CONTAINERS = (
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
COUNTERS = ("n_averaged", "num_updates", "initted", "step", "decay")  # of wrappers that average
DEPTH = 8  # of containers within containers; a file may hold one that holds itself

State = dict[str, Tensor]


def load_weights(net: nn.Module, path: Path) -> str:
    """Load a file of weights, ours or anybody's, into `net`; every tensor of the file must fit.

    Tried in this order: the names as they are, without shared prefixes, and by structure, which is the order
    of the tensors with their shapes and the last parts of their names. What is loaded is cast to the
    network's types.

    Returns:
        What was done, on one line; "" where the names matched as they are.

    Raises:
        UserError: no readable file, non-finite values, or tensors that do not fit (lists five of each).
    """
    value = tensorfile.load(path, older=True)
    tensors = bare_weights(value)
    check_values(tensors, path)
    wanted = net.state_dict()
    done = ["took params_ema (the EMA), not params"] if took_average(value) else []
    tried = []
    for said, found in readings(tensors, wanted):
        if found.keys() == wanted.keys() and not misfits(wanted, found):
            net.load_state_dict(found)
            return ", ".join(done + said)
        tried.append((said, found))
    # of the readings that share as many names, the barest
    said, found = max(reversed(tried), key=lambda reading: len(wanted.keys() & reading[1].keys()))
    matched = by_structure(net, wanted, found)
    if matched is None:
        raise unfit(path, wanted, found)
    state, how = matched
    net.load_state_dict(state)
    return ", ".join(done + said + how)


def read_weights(path: Path) -> State:
    """The finite tensors by name in a file, without its containers; prefixes stay.

    Raises:
        UserError: no readable file, no tensors in it, or values that are not finite.
    """
    tensors = bare_weights(tensorfile.load(path, older=True))
    if not tensors:
        raise UserError(f"{path} holds no weights", fix="name a file of a state_dict")
    check_values(tensors, path)
    return tensors


def bare_weights(value: Any, depth: int = DEPTH) -> State:
    """The tensors inside `value`, without the containers round them.

    >>> list(bare_weights({"epoch": 3, "params": {"module.a": torch.zeros(1), "n": 1}, "ema": {}}))
    ['module.a']
    """
    if not isinstance(value, dict) or not depth:
        return {}
    for name in CONTAINERS:
        if inner := bare_weights(value.get(name), depth - 1):
            return inner
    return {str(key): tensor for key, tensor in value.items() if isinstance(tensor, Tensor)}


def took_average(value: Any, depth: int = DEPTH) -> bool:
    """Whether `bare_weights` had the choice between an average and the last weights, and took the average."""
    while isinstance(value, dict) and depth:
        held = [name for name in CONTAINERS if bare_weights(value.get(name), depth - 1)]
        if held[:2] == ["params_ema", "params"]:
            return True
        value, depth = value[held[0]] if held else None, depth - 1
    return False


def check_values(tensors: State, path: Path) -> None:
    """Refuse what a network cannot hold: sparse, quantised or complex tensors, and values that float32 has
    no finite number for."""
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
            raise UserError(f"{path}: {key} is no plain tensor", f"{tensor.dtype}, {tensor.layout}")
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise UserError(
                f"{path}: {key} is not finite", "it holds nan or inf", "use another file of weights"
            )


def readings(tensors: State, wanted: State) -> Iterator[tuple[list[str], State]]:
    """The names as they are, then with more and more of the wrappers' additions taken off.

    Yields:
        What was taken off, and the tensors by the names that are left.
    """
    stripped, left_out = "", []
    yield [], tensors
    while True:
        counters = [
            key for key in tensors if key in COUNTERS and key not in wanted and tensors[key].numel() == 1
        ]
        prefix = "" if counters else next((p for p in PREFIXES if all_begin(tensors, p)), "")
        if not (counters or prefix):
            return
        left_out += counters
        stripped += prefix
        tensors = {key[len(prefix) :]: value for key, value in tensors.items() if key not in counters}
        said = [f"stripped {stripped}"] if stripped else []
        yield said + ([f"left out {' and '.join(left_out)}"] if left_out else []), tensors


def all_begin(tensors: State, prefix: str) -> bool:
    return bool(tensors) and all(key.startswith(prefix) for key in tensors)


def fits(want: Tensor, found: Tensor) -> bool:
    """Of one shape, and no whole numbers for weights: those are quantised ones."""
    return want.shape == found.shape and (found.is_floating_point() or not want.is_floating_point())


def misfits(wanted: State, found: State) -> list[str]:
    """A line for each name that both have, with another shape or type."""
    lines = []
    for key in sorted(wanted.keys() & found.keys()):
        if not fits(wanted[key], found[key]):
            kinds = [str(tuple(tensor.shape)) for tensor in (found[key], wanted[key])]
            if kinds[0] == kinds[1]:
                kinds = [str(tensor.dtype) for tensor in (found[key], wanted[key])]
            lines.append(f"{key} {kinds[0]} for {kinds[1]}")
    return lines


def by_structure(net: nn.Module, wanted: State, found: State) -> tuple[State, list[str]] | None:
    """Pair the tensors of a file with the network's in order; None where that does not come out even.

    A pair has the same shape and last name part, and a layer's tensors come from one layer. What the file
    lacks is 0 where that means the same: a convolution's bias, and the count of batches of a batch norm.
    Where every name of the file is one of the network's, the names decide and not the order.
    """
    convs = {name for name, module in net.named_modules() if isinstance(module, _ConvNd)}
    by_name = found.keys() <= wanted.keys()
    order = [key for key in (wanted if by_name else found) if key in found]
    state, layers, at = {}, dict[str, str](), 0
    absent = {"bias": 0, "num_batches_tracked": 0}
    for key, want in wanted.items():
        layer, _, part = key.rpartition(".")
        name = order[at] if at < len(order) else ""
        theirs, _, their_part = name.rpartition(".")
        same = key == name if by_name else part == their_part
        if name and same and fits(want, found[name]) and layers.setdefault(layer, theirs) == theirs:
            state[key] = found[name]
            at += 1
        elif part == "num_batches_tracked" or (part == "bias" and layer in convs):
            state[key] = torch.zeros_like(want)
            absent[part] += 1
        else:
            return None
    if at < len(order):
        return None
    said = [] if by_name else [f"matched {at} tensor{'s' if at > 1 else ''} by structure"]
    names = {"bias": ("bias", "biases"), "num_batches_tracked": ("count of batches", "counts of batches")}
    for part, n in absent.items():
        if n:
            said.append(f"{n} {names[part][n > 1]} absent in the file {'are' if n > 1 else 'is'} 0")
    return state, said


def unfit(path: Path, wanted: State, found: State) -> UserError:
    """The refusal of a file whose tensors are not the network's."""
    lists = [
        ("missing", sorted(wanted.keys() - found.keys())),
        ("left over", sorted(found.keys() - wanted.keys())),
        ("of another shape", misfits(wanted, found)),
    ]
    why = "; ".join(f"{len(keys)} {kind}: {', '.join(keys[:5])}" for kind, keys in lists if keys)
    return UserError(
        f"{path} does not fit the network",
        f"the network has {len(wanted)} tensors, the file {len(found)}; {why}",
        "give the network's flags that the file was made with",
    )
