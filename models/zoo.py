"""Architectures of the library spandrel by name, and their arguments. Imports neither torch nor spandrel."""

import ast
from typing import Any, NamedTuple

RECOGNISED = "spandrel"  # the network whose architecture is read from its weights
PREFIX = "spandrel:"  # of any other architecture, by its name in spandrel.architectures
AUTO = "auto"  # the value of --arch for a network that is built as its weights have it
TLC = (
    "tlc"  # argument of --arch beside those of the class: global pooling over windows, see models/pooling.py
)


class Shorthand(NamedTuple):
    """A network of spandrel by a short name.

    Args:
        architecture: its name in spandrel.architectures.
        arch: its arguments, small enough to train on a CPU; channels and scale are added.
    """

    architecture: str
    arch: str


SHORTHANDS = {
    "nafnet": Shorthand(
        "NAFNet", "width=16, enc_blk_nums=[1, 1, 2], middle_blk_num=1, dec_blk_nums=[1, 1, 1]"
    ),
    "compact": Shorthand("Compact", "num_feat=32, num_conv=8"),
    "span": Shorthand("SPAN", "feature_channels=24, norm=False"),
    "rrdb": Shorthand("ESRGAN", "num_filters=32, num_blocks=2"),
    "drunet": Shorthand("DRUNet", "nc=[16, 32, 64, 128], nb=2"),
    "swinir": Shorthand(
        "SwinIR", "embed_dim=32, depths=[2, 2], num_heads=[2, 2], window_size=8, mlp_ratio=2.0"
    ),
}


def is_zoo(model: str) -> bool:
    """Whether a network is one of spandrel's: its images are in [0, 1].

    >>> is_zoo("nafnet"), is_zoo("spandrel:SAFMN"), is_zoo("spandrel"), is_zoo("resnet")
    (True, True, True, False)
    """
    return model == RECOGNISED or model in SHORTHANDS or architecture_of(model).isidentifier()


def architecture_of(model: str) -> str:
    """The name of a network's architecture in spandrel; "" for one that is recognised by its weights.

    >>> architecture_of("rrdb"), architecture_of("spandrel:SAFMN"), architecture_of("spandrel")
    ('ESRGAN', 'SAFMN', '')
    """
    if model in SHORTHANDS:
        return SHORTHANDS[model].architecture
    return model.removeprefix(PREFIX) if model.startswith(PREFIX) else ""


def arch_defaults(model: str) -> str:
    """The arguments of a network where --arch is not given; "" stands for those of its class."""
    return SHORTHANDS[model].arch if model in SHORTHANDS else ""


def parse_arch(text: str) -> dict[str, Any]:
    """Parse `name=literal, name=literal`.

    >>> parse_arch("width=32, blocks=[1, 2], act='relu'")
    {'width': 32, 'blocks': [1, 2], 'act': 'relu'}

    Raises:
        ValueError: anything but names and literals of Python, or a `tlc` that is neither True nor False.
    """
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        whole = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args
        assert isinstance(call, ast.Call) and whole and all(each.arg for each in call.keywords)
        found = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    except (AssertionError, SyntaxError, ValueError, RecursionError, MemoryError):
        what = f"{text[:60]!r} is no list of arguments such as width=32, blocks=[1, 2]"
        raise ValueError(what) from None
    if not isinstance(found.get(TLC, False), bool):
        raise ValueError(f"{TLC}={found[TLC]!r} is neither True nor False")
    return found


def complete_arch(model: str, text: str) -> str:
    """`--arch` as typed, over the arguments of a shorthand.

    >>> complete_arch("compact", "num_conv=2"), complete_arch("spandrel:Compact", "num_conv=2")
    ('num_feat=32, num_conv=2', 'num_conv=2')
    """
    if text == AUTO or model not in SHORTHANDS:
        return text
    merged = parse_arch(SHORTHANDS[model].arch) | parse_arch(text)
    return ", ".join(f"{key}={value!r}" for key, value in merged.items())


def pools_locally(arch: str) -> bool:
    """Whether global pooling is over windows outside of training."""
    return arch != AUTO and parse_arch(arch).get(TLC, False)
