"""The fingerprint of a data set: names, sizes and times of its files, to see whether it changed."""

import functools
import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from filecmp import cmp
from pathlib import Path, PurePosixPath

from data.folders import first_five
from data.images import open_regular
from data.pairs import Pair, PairList, Source

Files = dict[str, list[int]]  # name: [bytes, time of the last change in ns], in the order of the pairs
SECOND_NS = 1_000_000_000
COMPARED_BYTES = 2**16  # of files of one size, before they are compared whole


def fingerprint(source: Source, *lists: PairList) -> Files:
    """The files of some lists of pairs, in their order, and the manifest before them, if there is one.

    Names are relative to `--dataroot`, or outside of it to `--input_dir` or `--target_dir`: they stay when
    the data are moved. A file that is not there has -1 bytes. Rendered images have one entry, their
    `--dataroot`.
    """
    if lists[0].layout == "demo":
        return {source.root: [0, 0]}
    paths = (
        str(path)
        for pairs in lists
        for pair in pairs.everything
        for path in (pair.input, pair.target)
        if path
    )
    manifest = [str(Path(source.root))] if lists[0].layout == "manifest" else []
    name_in = functools.cache(_namer(source))
    found: Files = {}
    for path in dict.fromkeys([*manifest, *paths]):
        folder, _, name = path.rpartition("/")
        found[name_in(folder) + name] = _size_and_time(path)
    return found


def known_pairs(pairs: PairList, files: Files, root: Path) -> list[Pair]:
    """The pairs of which a file is among `files`, as a copy, under another path or another name.

    Its content is that of one of them; of those that are no longer there, it has the name and the size.

    Args:
        root: the folder that the names in `files` are relative to.
    """
    by_size: dict[int, list[str]] = {}
    for name, (size, _) in files.items():
        by_size.setdefault(size, []).append(name)

    @functools.cache
    def beginning(path: Path) -> bytes | None:
        """None where there is no such file any more."""
        with suppress(OSError), open_regular(path) as file:
            return hashlib.sha256(file.read(COMPARED_BYTES)).digest()
        return None

    def is_copy(path: Path, name: str) -> bool:
        there = beginning(root / name)
        if there is None:
            return path.name == PurePosixPath(name).name
        return there == beginning(path) and cmp(path, root / name, shallow=False)

    def is_known(path: Path) -> bool:
        return any(is_copy(path, name) for name in by_size.get(_size_and_time(str(path))[0], ()))

    return [pair for pair in pairs.pairs if any(is_known(path) for path in {pair.input, pair.target} if path)]


def _namer(source: Source) -> Callable[[str], str]:
    """A function from a folder to what stands before the names of the files in it."""
    root = Path(source.root)
    bases = [("", root if root.is_dir() else root.parent)]
    bases += [(f"{flag}:", Path(getattr(source, flag) or root)) for flag in ("input_dir", "target_dir")]

    def name_in(folder: str) -> str:
        for before, base in bases:
            if Path(folder).is_relative_to(base):
                inner = Path(folder).relative_to(base).as_posix()
                return before + ("" if inner == "." else f"{inner}/")
        return f"{folder}/"

    return name_in


def _size_and_time(path: str) -> list[int]:
    try:
        found = os.stat(path)  # noqa: PTH116 (Path.stat takes twice as long)
    except OSError:
        return [-1, 0]
    return [found.st_size, found.st_mtime_ns]


def digest(files: Files) -> str:
    """A short text that differs where names, sizes or the order of the files differ.

    >>> digest({"a": [1, 2]}) == digest({"a": [1, 3]}), digest({"a": [1, 2]}) == digest({"a": [2, 2]})
    (True, False)
    """
    text = "\n".join(f"{size} {name}" for name, (size, _) in files.items())
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def changes(before: Files, now: Files, moved: bool) -> str:
    """What differs, in words with the first names of each kind; "" if nothing does.

    Args:
        moved: the files were copied elsewhere, which may have changed their times.

    >>> changes({"a": [1, 0], "b": [2, 0]}, {"b": [3, 0], "c": [4, 0]}, moved=True)
    '1 added: c; 1 removed: a; 1 replaced (size or time differ): b'
    """
    if list(before.items()) == list(now.items()):
        return ""
    replaced = (name for name in before.keys() & now.keys() if _differs(before[name], now[name], moved))
    kinds: dict[str, Iterable[str]] = {
        "added": now.keys() - before.keys(),
        "removed": before.keys() - now.keys(),
        "replaced (size or time differ)": replaced,
    }
    counted = {kind: list(names) for kind, names in kinds.items()}
    words = [f"{len(names)} {kind}: {first_five(names)}" for kind, names in counted.items() if names]
    if not words and list(before) != list(now):
        words = ["the same files in another order, or divided otherwise into training and validation"]
    return "; ".join(words)


def _differs(before: list[int], now: list[int], moved: bool) -> bool:
    """Whether size or time differ; times that one side has in whole seconds only are compared as such."""
    (size, time_ns), (new_size, new_time_ns) = before, now
    rounded = not time_ns % SECOND_NS or not new_time_ns % SECOND_NS
    same_time = time_ns // SECOND_NS == new_time_ns // SECOND_NS if rounded else time_ns == new_time_ns
    return size != new_size or not (moved or same_time)
