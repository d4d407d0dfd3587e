"""Which input belongs to which target: by name, one rule for the whole set, never by position."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from data.folders import first_five
from utils.system.errors import UserError

ENDINGS = (  # (input, target): ends of the stems of pairs that lie in one folder, in any mixture of capitals
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
    """Map each input to its target by name, sub-folder included, never by position.

    Equal stems for the whole set; else, for the whole set, the longest prefix of the input's stem that ends
    before a `_` and is a target's stem (several inputs may share a target, as in RESIDE).

    Args:
        pair_by: a regular expression instead: what its groups find in the names of a pair (or all that it
            finds, where it has no group) is equal.

    >>> match_names(["a.png", "b.jpg"], ["a.png", "b.png"])
    {'a.png': 'a.png', 'b.jpg': 'b.png'}
    >>> match_names(["1_1_0.9.png", "1_2_0.8.png"], ["1.png"])
    {'1_1_0.9.png': '1.png', '1_2_0.8.png': '1.png'}
    >>> match_names(["haze7x.png"], ["gt7.png"], pair_by=r"\\d+")
    {'haze7x.png': 'gt7.png'}

    Raises:
        UserError: two files of one stem on a side, or files left over; names the first five of each side.
    """
    if pair_by is not None:
        return _match_keys(
            _by_regex(inputs, pair_by), _unique(_by_regex(targets, pair_by), "target"), pair_by
        )
    sources, goals = _by_stem(inputs, "input"), _by_stem(targets, "target")
    if sources.keys() == goals.keys():
        return {sources[stem]: goals[stem] for stem in sources}
    found = {stem: _longest_prefix(stem, goals) for stem in sources}
    lone_inputs = [sources[stem] for stem, goal in found.items() if goal is None]
    lone_targets = [goals[stem] for stem in goals.keys() - found.values()]
    if len(lone_inputs) == len(sources):  # not named by prefixes: report the equal stems' gaps
        lone_inputs = [sources[stem] for stem in sources.keys() - goals.keys()]
        lone_targets = [goals[stem] for stem in goals.keys() - sources.keys()]
    _refuse_lone(lone_inputs, lone_targets)
    return {sources[stem]: goals[goal] for stem, goal in found.items() if goal is not None}


def match_endings(names: Iterable[str]) -> dict[str, str] | None:
    """Input and target of pairs that lie in one folder as `x_LR.png` and `x_HR.png`; None where they do not.

    >>> match_endings(["a_HR.png", "a_LR.png"]), match_endings(["a.png", "b.png"])
    ({'a_LR.png': 'a_HR.png'}, None)

    Raises:
        UserError: every name ends so, but some have no partner.
    """
    names = list(names)
    stems = {name: stem_of(name).lower() for name in names}
    for first, second in ENDINGS:
        if not names or not all(stem.endswith((first, second)) for stem in stems.values()):
            continue
        inputs = {name for name in names if stems[name].endswith(first)}
        if inputs and len(inputs) < len(names):
            sources = _unique(((stem_of(n)[: -len(first)], n) for n in sorted(inputs)), "input")
            goals = _unique(((stem_of(n)[: -len(second)], n) for n in names if n not in inputs), "target")
            return _match_keys(sources.items(), goals, None)
    return None


def stem_of(name: str) -> str:
    """A name without its last suffix, sub-folder kept, in one form of Unicode: macOS decomposes accents."""
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
        raise UserError(f"[--pair_by {pair_by}] finds nothing in {len(missed)} names", first_five(missed))
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
        raise UserError(f"several {side} files share one name", first_five(double), "keep one of each")
    return found


def _match_keys(
    sources: Iterable[tuple[str, str]], goals: dict[str, str], pair_by: str | None
) -> dict[str, str]:
    sources = list(sources)
    keys = {key for key, _ in sources}
    _refuse_lone(
        [n for key, n in sources if key not in goals], [n for key, n in goals.items() if key not in keys]
    )
    return {name: goals[key] for key, name in sources}


def _longest_prefix(stem: str, goals: dict[str, str]) -> str | None:
    """The longest part of `stem` before a `_` of its file name that is a goal."""
    while "_" in stem.rpartition("/")[2]:
        stem = stem.rpartition("_")[0]
        if stem in goals:
            return stem
    return None


def _refuse_lone(lone_inputs: list[str], lone_targets: list[str]) -> None:
    if lone_inputs or lone_targets:
        raise UserError(
            f"{len(lone_inputs)} inputs and {len(lone_targets)} targets have no partner",
            f"inputs: {first_five(lone_inputs)}; targets: {first_five(lone_targets)}",
            "give both files of a pair one name, or inputs the target's name followed by _ and anything, "
            "or say by --pair_by REGEX what the names share",
        )
