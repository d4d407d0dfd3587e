"""The folder of a test's results: named by data, split and settings, and replaced as a whole."""

import errno
import fcntl
import hashlib
import os
import re
import shutil
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data.pairs import PairList, Source
from models.fetch import weights_name
from utils.system.atomic import DISK_FULL, write_text
from utils.system.errors import UserError
from utils.system.jsonfile import read_object

SUMMARY = "summary.json"
WRITTEN = (SUMMARY, "metrics.csv", "index.html", "grid.png", "outputs")  # by a test
DESKTOP = (".DS_Store", "Thumbs.db")  # files that file managers leave in any folder
MAX_NAME = 120  # bytes
RESERVE, RESERVE_PER_IMAGE = 2**14, 500  # bytes, kept free for the figures should the disk fill


class CannotWrite(UserError):
    """A file of the results cannot be written; what was measured is kept as far as possible."""


@contextmanager
def write_errors(place: Path, flag: str = "--results_dir") -> Iterator[None]:
    """Turn an OSError of this block into a CannotWrite that names the file and the way out, by a flag."""
    try:
        yield
    except OSError as error:
        fix = "free disk space" if error.errno in DISK_FULL else "fix its permissions"
        if error.errno == errno.ENOENT:
            fix = "keep the folder while the test runs"
        name = str(error.filename or place)
        if error.errno == errno.ENAMETOOLONG:
            fix, name = "give a shorter name", f"{name[:40]}..."
        fix = f"{fix}, or write elsewhere with {flag} FOLDER"
        what = f"cannot write {name} [{flag}]"
        raise CannotWrite(what, error.strerror or str(error), fix, code=1) from None


# ---------------------------------------------------------------------------------------------------- names


def plain(text: str) -> str:
    """The text as a folder name: letters, digits and `. - = + _`, at most MAX_NAME bytes."""
    name = re.sub(r"[^\w.\-=+]", "_", text).lstrip(".") or "_"
    if len(os.fsencode(name)) > MAX_NAME:
        name = f"{os.fsencode(name)[: MAX_NAME - 30].decode(errors='ignore')}_{short_hash(text)}"
    return name


def short_hash(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


def dataset_name(root: str) -> str:
    """The name of a data set: the last part of its path.

    >>> dataset_name("a/my set"), dataset_name("demo:2:48"), dataset_name("pairs.csv")
    ('my_set', 'demo', 'pairs')
    """
    place = Path("demo" if is_demo(root) else os.path.realpath(root))
    return plain(place.stem if place.is_file() else place.name.removesuffix(".csv"))


def is_demo(root: str) -> bool:
    return root == "demo" or root.startswith("demo:")


def identity(source: Source, weights: str | None) -> str:
    """What was measured, as `summary.json` keeps it: the data's path, how it is read, and --weights."""
    root = source.root if is_demo(source.root) else os.path.realpath(source.root)
    read = (source.input_dir, source.target_dir, source.pair_by, source.layout)
    how = (*read, weights and os.path.realpath(weights))
    return " | ".join([root, *(each for each in how if each and each != "auto")])


def dataset_names(source: Source, what: str) -> list[str]:
    """Names for a data set in order of preference: its folder's, with its parent's, with a hash of `what`."""
    name = dataset_name(source.root)
    parent = Path(os.path.realpath(source.root)).parent.name
    longer = plain(source.root) if is_demo(source.root) else plain(f"{parent}_{name}")
    return list(dict.fromkeys([name, longer, f"{name}_{short_hash(what)}"]))


def variant(opt: Namespace, trained: Namespace) -> str:
    """What differs from the default protocol and settings, such as `-noise25-y-crop4-x8`."""
    tag = f"epoch{opt.load}" if opt.load.isdigit() else opt.load
    words = [] if tag == "best" or opt.weights else [tag]
    if opt.weights and plain(weights_name(opt.weights)) != opt.name:
        words.append(f"weights_{weights_name(opt.weights)}_{short_hash(os.path.realpath(opt.weights))[:4]}")
    words += (
        [opt.direction] if opt.direction and opt.direction != trained.direction and trained.direction else []
    )
    own = None if opt is trained else trained.max_value
    words += [f"max{opt.max_value}"] if opt.max_value not in (None, own) else []
    words += [re.sub(r"[^\w.+\-]", "", opt.degrade)] if opt.degrade else []
    words += [f"seed{opt.seed}"] if opt.degrade and opt.seed else []
    words += ["y"] if opt.psnr_channel == "y" else []
    words += [f"crop{opt.crop_border}"] if opt.crop_border else []
    words += ["noquantize"] * opt.no_quantize + ["x8"] * opt.x8
    words += [f"tile{opt.tile}"] if opt.tile else []
    words += [f"overlap{opt.tile_overlap}"] if opt.tile and opt.tile_overlap != 64 else []
    words += ["amp"] if opt.amp != "off" else []
    return "".join(f"-{plain(word)}" for word in words)


# --------------------------------------------------------------------------------------------------- folders


def summary_of(folder: Path) -> dict[str, Any] | None:
    """The summary of results in a folder, empty if it is damaged; None if no test wrote the folder."""
    if not (folder / SUMMARY).is_file():
        return None
    with suppress(UserError):
        return read_object(folder / SUMMARY, "")
    return {}


class ResultsFolder:
    """`results/<run>/<dataset>[-<split>][-<variant>]/`, written beside its place and moved there at the end.

    Args:
        parent: `results/<run>`.
        pairs, source: the images, and where they come from: two data sets never share a folder.
        suffix: from `variant`.
        weights: of --weights; two files of one name never share a folder, either.

    Raises:
        UserError: the place holds something else than results, or another test writes it; CannotWrite.
    """

    def __init__(
        self, parent: Path, pairs: PairList, source: Source, suffix: str, weights: str | None = None
    ):
        ending = ("" if pairs.split == "test" else f"-{plain(pairs.split)}") + suffix
        self.source = identity(source, weights)
        names = [plain(name + ending) for name in dataset_names(source, self.source)]
        self.name = next((n for n in names if self._is_free(parent / n, pairs)), names[-1])
        self.shown, self.incomplete = parent / self.name, parent / f"{self.name}-incomplete"
        linked = self.shown.is_symlink()  # such as to a larger disk
        self.final = Path(os.path.realpath(self.shown)) if linked else self.shown
        self.part = self.final.with_name(f".{self.name}.part")
        for place in (self.final, self.incomplete):
            refuse_others_files(place)
        with write_errors(self.part):
            self._restore()
            self._claim(len(pairs.pairs))

    def _is_free(self, folder: Path, pairs: PairList) -> bool:
        """Whether a folder holds nothing, or results of the same data."""
        found = summary_of(folder) or summary_of(folder.with_name(f"{folder.name}-incomplete"))
        if not found:
            return True
        if "source" not in found:  # of an older version
            return found.get("data") in (None, pairs.describe())
        return bool(found["source"] == self.source)

    def _restore(self) -> None:
        """Undo half of a replacement that was killed between its two moves."""
        old = self.final.with_name(f".{self.name}.old")
        if summary_of(old) is not None:
            shutil.rmtree(old) if self.final.exists() else old.rename(self.final)

    def _claim(self, images: int) -> None:
        """Make and lock the folder beside the place; remove what a killed test left there."""
        if self.part.is_dir():
            self._lock()
            shutil.rmtree(self.part)
            os.close(self.lock)
        self.part.mkdir(parents=True)
        self._lock()
        try:
            (self.part / "outputs").mkdir()
            write_text("{}", self.part / SUMMARY)  # marks the folder as one that a test wrote
            with (self.part / ".reserve").open("wb") as file:
                file.write(bytes(RESERVE + RESERVE_PER_IMAGE * images))
        except OSError:
            self.close()
            raise

    def _lock(self) -> None:
        self.lock = os.open(self.part, os.O_RDONLY)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.lock)
            fix = "wait for it, or write elsewhere with --results_dir FOLDER"
            raise UserError(f"{self.shown} is being written by another test", fix=fix) from None
        except OSError:  # a file system without locks
            pass

    def free_reserve(self) -> None:
        """Give back the space that was kept for the figures; make the folder again if it was removed."""
        with suppress(OSError):
            (self.part / ".reserve").unlink()
        self.part.mkdir(parents=True, exist_ok=True)

    def publish(self, complete: bool) -> Path:
        """Move the folder to its place, and return that; incomplete results never replace complete ones."""
        kept = summary_of(self.final)
        aside = not complete and kept is not None and kept.get("complete", True)
        place = self.incomplete if aside else self.final
        old = place.with_name(f".{place.name}.old")
        if place.exists():
            place.rename(old)
        self.part.rename(place)
        shutil.rmtree(old, ignore_errors=True)
        if complete and summary_of(self.incomplete) is not None:
            shutil.rmtree(self.incomplete, ignore_errors=True)
        self.shown = self.incomplete if aside else self.shown
        return self.shown

    def close(self) -> None:
        """Remove what was not published."""
        shutil.rmtree(self.part, ignore_errors=True)
        with suppress(OSError):
            os.close(self.lock)


def refuse_others_files(folder: Path) -> None:
    """Raise UserError if a folder that is to be replaced holds anything that no test wrote."""
    if not folder.exists():
        return
    fix = "move them elsewhere, or write elsewhere with --results_dir FOLDER"
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder [--results_dir]", fix=fix)
    others = others_files(folder)
    if others:
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise UserError(f"{folder} holds files that no test wrote [--results_dir]", shown, fix)


def others_files(folder: Path) -> Sequence[str]:
    """Names of the files in a folder of results that no test wrote."""
    entries = sorted(path.name for path in folder.iterdir())
    found = summary_of(folder)
    if found is None:
        return entries
    others = [name for name in entries if name not in (*WRITTEN, *DESKTOP)]
    if isinstance(listed := found.get("outputs"), list):  # older versions list none
        root, known = folder / "outputs", {*map(str, listed)}
        files = (path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())
        others += [
            f"outputs/{name}" for name in files if name not in known and Path(name).name not in DESKTOP
        ]
    return others
