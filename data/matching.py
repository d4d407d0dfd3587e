"""Match inputs to targets by name, with one rule for the whole set, never by position."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from data.folders import first_five
from utils.system.errors import UserError

ENDINGS = (  # (input, target) endings of the stems of pairs in one folder; case is ignored
    ("_lr", "_hr"),
    ("_lq", "_gt"),
    ("_input", "_target"),
    ("_hazy", "_clear"),
    ("_hazy", "_gt"),
    ("_rain", "_norain"),
    ("_noisy", "_clean"),
    ("_blur", "_sharp"),
    ("_low", "_high"),
    ("_a", "_b"),
)


def match_names(inputs: Iterable[str], targets: Iterable[str], pair_by: str | None = None) -> dict[str, str]:
    """Map each input to its target by name, including the sub-folder.

    Stems are equal in the whole set; or, in the whole set, the target's stem is the longest prefix of the
    input's that ends before a `_` (several inputs may share a target, as in RESIDE).

    Args:
        pair_by: a regular expression used instead; both names of a pair must give the same groups, or the
            same match if it has no groups.

    >>> match_names(["a.png", "b.jpg"], ["a.png", "b.png"])
    {'a.png': 'a.png', 'b.jpg': 'b.png'}
    >>> match_names(["1_1_0.9.png", "1_2_0.8.png"], ["1.png"])
    {'1_1_0.9.png': '1.png', '1_2_0.8.png': '1.png'}
    >>> match_names(["haze7x.png"], ["gt7.png"], pair_by=r"\\d+")
    {'haze7x.png': 'gt7.png'}

    Raises:
        UserError: two files of one stem on a side, or files without a partner.
    """
    if pair_by is not None:
        return _match_keys(_by_regex(inputs, pair_by), _unique(_by_regex(targets, pair_by), "target"))
    by_input, by_target = _by_stem(inputs, "input"), _by_stem(targets, "target")
    if by_input.keys() == by_target.keys():
        return {by_input[stem]: by_target[stem] for stem in by_input}
    found = {stem: _longest_prefix(stem, by_target) for stem in by_input}
    lone_inputs = [by_input[stem] for stem, target in found.items() if target is None]
    lone_targets = [by_target[stem] for stem in by_target.keys() - found.values()]
    if len(lone_inputs) == len(by_input):  # no prefixes: report the names without an equal one
        lone_inputs = [by_input[stem] for stem in by_input.keys() - by_target.keys()]
        lone_targets = [by_target[stem] for stem in by_target.keys() - by_input.keys()]
    _refuse_lone(lone_inputs, lone_targets)
    return {by_input[stem]: by_target[target] for stem, target in found.items() if target is not None}


def match_endings(names: Iterable[str]) -> dict[str, str] | None:
    """Map inputs to targets in one folder by endings (`x_LR.png` to `x_HR.png`); None if there are none.

    >>> match_endings(["a_HR.png", "a_LR.png"]), match_endings(["a.png", "b.png"])
    ({'a_LR.png': 'a_HR.png'}, None)

    Raises:
        UserError: all names have such endings, but some have no partner.
    """
    names = list(names)
    stems = {name: stem_of(name).lower() for name in names}
    for first, second in ENDINGS:
        if not names or not all(stem.endswith((first, second)) for stem in stems.values()):
            continue
        inputs = {name for name in names if stems[name].endswith(first)}
        if inputs and len(inputs) < len(names):
            by_input = _unique(((stem_of(n)[: -len(first)], n) for n in sorted(inputs)), "input")
            by_target = _unique(((stem_of(n)[: -len(second)], n) for n in names if n not in inputs), "target")
            return _match_keys(by_input.items(), by_target)
    return None


def stem_of(name: str) -> str:
    """Return a name without its suffix, in Unicode form NFC (macOS decomposes accents)."""
    name = unicodedata.normalize("NFC", name)
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and suffix and "/" not in suffix else name


def _by_stem(names: Iterable[str], side: str) -> dict[str, str]:
    return _unique(((stem_of(name), name) for name in names), side)


def _by_regex(names: Iterable[str], pair_by: str) -> list[tuple[str, str]]:
    names = list(names)
    search = re.compile(pair_by).search
    found = [(name, search(unicodedata.normalize("NFC", name))) for name in names]
    missed = [name for name, match in found if match is None]
    if missed:
        raise UserError(f"[--pair_by {pair_by}] does not match {len(missed)} names", first_five(missed))
    return [
        ("\n".join(group or "" for group in (match.groups() or (match.group(),))), name)
        for name, match in found
        if match
    ]


def _unique(keyed: Iterable[tuple[str, str]], side: str) -> dict[str, str]:
    keyed = list(keyed)
    found = dict(keyed)
    if len(found) < len(keyed):
        count = Counter(key for key, _ in keyed)
        double = [name for key, name in keyed if count[key] > 1]
        raise UserError(f"several {side} files share one name", first_five(double), "keep one of them")
    return found


def _match_keys(inputs: Iterable[tuple[str, str]], by_target: dict[str, str]) -> dict[str, str]:
    """Match (key, name) of inputs to the names of targets by key."""
    inputs = list(inputs)
    keys = {key for key, _ in inputs}
    _refuse_lone(
        [name for key, name in inputs if key not in by_target],
        [name for key, name in by_target.items() if key not in keys],
    )
    return {name: by_target[key] for key, name in inputs}


def _longest_prefix(stem: str, by_target: dict[str, str]) -> str | None:
    """Return the longest part of `stem` before a `_` of the file name that is the stem of a target."""
    while "_" in stem.rpartition("/")[2]:
        stem = stem.rpartition("_")[0]
        if stem in by_target:
            return stem
    return None


def _refuse_lone(lone_inputs: list[str], lone_targets: list[str]) -> None:
    if lone_inputs or lone_targets:
        raise UserError(
            f"{len(lone_inputs)} inputs and {len(lone_targets)} targets have no partner",
            f"inputs: {first_five(lone_inputs)}; targets: {first_five(lone_targets)}",
            "rename them: equal names, or inputs called like the target plus _ and anything; "
            "or give --pair_by REGEX, which must match the same text in both names",
        )
