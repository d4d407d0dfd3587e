"""Kinds of flags: functions from the text of a value to the value, which raise ArgumentTypeError."""

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from data.augment import parse_augment
from data.pairs import parse_full_scales
from models.terms import parse_gan, parse_loss
from models.zoo import AUTO, is_zoo, parse_arch

MAX_INT = 2**31 - 1  # largest size or seed that torch takes


def path(text: str) -> str:
    return text


path.metavar = "PATH"  # type: ignore[attr-defined]


def number(kind: Callable[[str], Any], low: float = 0.0, high: float = math.inf, above: bool = False) -> Any:
    """A kind of flag: a finite number of at least `low` (or above it) and at most `high`."""
    limit = MAX_INT if kind is int else sys.float_info.max
    bounded, high = high < limit, min(high, limit)

    def convert(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high or (above and value == low):  # NaN fails as well
            bounds = f"above {low:g}" if above else f"at least {low:g}"
            most = f", at most {high if kind is int else format(high, 'g')}"
            raise argparse.ArgumentTypeError(
                f"{text[:40]} must be {bounds}" + most * (bounded or value > high)
            )
        return value

    convert.__name__ = kind.__name__
    convert.metavar = "N" if kind is int else "X"  # type: ignore[attr-defined]
    return convert


COUNT, NATURAL = number(int, 0), number(int, 1)
NONNEGATIVE, POSITIVE, FRACTION = number(float), number(float, above=True), number(float, 0, 1)


def gpu_list(text: str) -> str:
    """`0`, `0,1`, `-1` or `cpu`, `mps`; blanks are ignored, repeated ids count once."""
    compact = text.replace(" ", "")
    if compact in ("cpu", "-1"):
        return "-1"
    if compact == "mps" or re.fullmatch(r"\d+(,\d+)*", compact):
        return ",".join(dict.fromkeys(compact.split(",")))
    raise argparse.ArgumentTypeError(f"{text!r} is no list of ids such as 0 or 0,1 (-1: CPU)")


gpu_list.metavar = "IDS"  # type: ignore[attr-defined]


def full_scales(text: str) -> str:
    """`4095`, or `auto,1`: the value of full brightness of inputs and targets."""
    compact = text.replace(" ", "")
    try:
        parse_full_scales(compact)
    except ValueError:
        fix = "such as 4095, or INPUT,TARGET such as 255,1 or auto,1"
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no value of full brightness, {fix}") from None
    return compact


full_scales.metavar = "V"  # type: ignore[attr-defined]


def milestones(text: str) -> list[float]:
    """Epochs separated by commas."""
    try:
        found = [NONNEGATIVE(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of epochs such as 20,30")
    return found


def parsed(parse: Callable[[str], object], metavar: str) -> Callable[[str], str]:
    """A kind of flag: a text that `parse` accepts, without blanks."""

    def convert(text: str) -> str:
        try:
            parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text.replace(" ", "")

    convert.metavar = metavar  # type: ignore[attr-defined]
    return convert


loss_terms = parsed(parse_loss, "TERMS")  # such as l1:100+gan:1
augmentation = parsed(parse_augment, "NAME")  # such as flip_rot90+texture:4
gan_settings = parsed(parse_gan, "K=V,...")  # such as mode=hinge,ndf=32


class Networks(list[str]):
    """A kind of flag: one of these names, or `spandrel:CLASS`."""

    metavar = "NAME"

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and is_zoo(name))


def arch(text: str) -> str:
    """`auto`, or arguments of a class: `width=32, act='relu'`."""
    if text != AUTO:
        try:
            parse_arch(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{error}") from None
    return text


def server(text: str) -> str:
    """`http://localhost`, or without `http://`."""
    parts = urlsplit(text if "://" in text else f"//{text}")
    if parts.scheme not in ("", "http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{text!r} is no address such as http://localhost")
    if parts.port is not None:
        raise argparse.ArgumentTypeError(f"{text!r} has a port: give it by --visdom_port")
    return text


def one_of_each(names: Iterable[str]) -> Callable[[str], list[str]]:
    """A kind of flag: a list of these names, separated by commas."""

    def convert(text: str) -> list[str]:
        found = [part.strip() for part in text.split(",") if part.strip()]
        if not found or set(found) - set(names):
            raise argparse.ArgumentTypeError(f"{text!r} is no list of {', '.join(names)}")
        return found

    return convert


def regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None
    return text
