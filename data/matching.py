"""Match inputs to targets by name, with one rule for the whole set, never by position."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from data.folders import first_five
from utils.system.errors import UserError

WORDS = (  # (input, target): one of them is between `_` in every name of pairs in one folder; case is ignored
    ("lr", "hr"),
    ("lq", "gt"),
    ("input", "target"),
    ("hazy", "clear"),
    ("hazy", "gt"),
    ("rain", "norain"),
    ("noisy", "clean"),
    ("noisy", "gt"),
    ("blur", "sharp"),
)
VAGUE_WORDS = (("low", "high"), ("a", "b"))  # at the end of a name; may as well tell two photos apart


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


def any_match(inputs: Iterable[str], targets: Iterable[str]) -> bool:
    """Whether any input has a target by the rules of `match_names`.

    >>> any_match(["a_1.png", "b.png"], ["a.png"]), any_match(["a.png"], ["b.png"])
    (True, False)
    """
    by_target = {stem_of(name): name for name in targets}
    stems = map(stem_of, inputs)
    return any(stem in by_target or _longest_prefix(stem, by_target) for stem in stems)


def telling_words(names: Sequence[str]) -> tuple[str, str] | None:
    """Return the pair of WORDS or VAGUE_WORDS that tells the inputs from the targets; None if none does.

    >>> telling_words(["a_LR.png", "a_HR.png"]), telling_words(["1_NOISY_010.png", "1_GT_010.png"])
    (('lr', 'hr'), ('noisy', 'gt'))
    >>> telling_words(["a_LR.png", "b.png"])
    """
    return next((words for words in (*WORDS, *VAGUE_WORDS) if _sides(names, words)), None)


def match_words(names: Sequence[str]) -> dict[str, str] | None:
    """Map inputs to targets in one folder by a word (`x_LR.png` to `x_HR.png`); None if no words tell.

    >>> match_words(["a_HR.png", "a_LR.png"]), match_words(["a.png", "b.png"])
    ({'a_LR.png': 'a_HR.png'}, None)

    Raises:
        UserError: all names have such a word, but some have no partner.
    """
    names = sorted(names)
    sides = next((sides for words in (*WORDS, *VAGUE_WORDS) if (sides := _sides(names, words))), None)
    if sides is None:
        return None
    keyed: tuple[list[tuple[str, str]], ...] = ([], [])
    for name, (side, key) in zip(names, sides, strict=True):
        keyed[side].append((key, name))
    return _match_keys(_unique(keyed[0], "input").items(), _unique(keyed[1], "target"))


def _sides(names: Sequence[str], words: tuple[str, str]) -> list[tuple[int, str]]:
    """What `_side` returns for each name; empty unless every name has a side, and both occur."""
    found = []
    for name in names:
        side = _side(name, words)
        if side is None:
            return []
        found.append(side)
    return found if len({side for side, _ in found}) == 2 else []


def _side(name: str, words: tuple[str, str]) -> tuple[int, str] | None:
    """(0 for an input or 1 for a target, the name without the word); None without exactly one such word.

    The last word of a name counts more than those before it.
    """
    stem = stem_of(name)
    before, _, last = stem.rpartition("_")
    if before and last.lower() in words and "/" not in last:
        return words.index(last.lower()), before
    if words in VAGUE_WORDS:
        return None
    folder, slash, file = stem.rpartition("/")
    parts = file.split("_")
    at = [i for i, part in enumerate(parts) if part.lower() in words]
    if len(at) != 1 or not (folder or len(parts) > 1):  # or two photos called input.png and target.png
        return None
    word = parts.pop(at[0])
    return words.index(word.lower()), f"{folder}{slash}{'_'.join(parts)}"


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
