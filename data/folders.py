"""Folders of a data set: list images, name what is not read, and find splits and roles by names."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from data.images import SUFFIXES
from utils.system.errors import UserError

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {  # how data sets call a split; case is ignored
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
FOLDERS = (  # (input, target) names used by data sets; case is ignored
    ("input", "target"),
    ("A", "B"),
    ("hazy", "clear"),
    ("hazy", "GT"),
    ("rain", "norain"),
    ("noisy", "clean"),
    ("blur", "sharp"),
    ("low", "high"),
    ("LQ", "GT"),
    ("LR", "HR"),
)
TARGET_WORDS = {  # in the name of one of two folders, besides words that begin with "gt"
    *("b", "clean", "clear", "free", "groundtruth", "high", "hq", "hr", "norain", "output", "outputs"),
    *("reference", "sharp", "target", "targets", "truth"),
}
SYSTEM = {  # names that operating systems and servers leave in any folder, in lower case
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "#recycle", "$recycle.bin"),
    *("system volume information", "lost+found"),
}


class Listing(NamedTuple):
    """The images below a folder.

    Args:
        names: sorted relative paths with `/`.
        remarks: what is left out, a line each.
    """

    names: list[str]
    remarks: tuple[str, ...] = ()

    def paths(self, folder: Path) -> Iterator[tuple[str, Path]]:
        """(name, path) of every image in `folder`."""
        return ((name, folder / name) for name in self.names)


# ------------------------------------------------------------------------------------------- listing images


def is_system(name: str) -> bool:
    """Whether a file or folder is hidden, or left by an operating system, such as `._x.png` and `@eaDir`."""
    return name.startswith(".") or name.lower() in SYSTEM


def list_images(folder: Path) -> Listing:
    """List the image files below `folder`, without hidden and system files.

    Links to folders are followed, unless they lead into or above a folder that was visited already. A link
    that leads nowhere is listed if its suffix is that of an image.
    """
    names: list[str] = []
    others: list[str] = []
    special: list[str] = []
    closed: list[str] = []
    seen = [Path(os.path.realpath(folder))]
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        try:
            kinds = {entry.name: kind_of(entry) for entry in os.scandir(folder / inner)}
        except OSError as error:
            closed.append(f"{folder / inner} cannot be listed: {error.strerror}")
            continue
        inside = []
        for name, kind in sorted(kinds.items()):
            if is_system(name):
                continue
            if kind == "folder":
                inside += [f"{inner}{name}/"] if _is_new(folder / inner / name, seen) else []
            elif kind == "special":
                special.append(inner + name)
            else:
                (names if name.lower().endswith(SUFFIXES) else others).append(inner + name)
        waiting += reversed(inside)
    return Listing(sorted(names), (*_not_read(folder, others), *_not_regular(folder, special), *closed))


def kind_of(entry: "os.DirEntry[str]") -> str:
    """Return "folder", "file", or "special" for a FIFO, socket or device; a link to nothing is a "file"."""
    if _is_folder(entry):
        return "folder"
    with suppress(OSError):
        if not entry.is_file():
            entry.stat()
            return "special"
    return "file"


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself
        return False


def _is_new(folder: Path, seen: list[Path]) -> bool:
    """Whether a folder is not a link into, or above, one in `seen`."""
    if not folder.is_symlink():
        return True
    end = Path(os.path.realpath(folder))
    if any(end.is_relative_to(other) or other.is_relative_to(end) for other in seen):
        return False
    seen.append(end)
    return True


def _not_read(folder: Path, others: list[str]) -> list[str]:
    """The remark on files whose suffix is not that of an image."""
    if not others:
        return []
    kinds = Counter(Path(name).suffix.lower() or "no suffix" for name in others)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    return [f"{len(others)} files in {folder} are not read: {counts}, such as {min(others)}"]


def _not_regular(folder: Path, special: list[str]) -> list[str]:
    return [f"not regular files in {folder}, not read: {first_five(special)}"] if special else []


def links_in(folder: Path) -> set[str]:
    """Return the names of the links in a folder; empty if there is no folder."""
    return {entry.name for entry in os.scandir(folder) if entry.is_symlink()} if folder.is_dir() else set()


def images_in(place: Path) -> tuple[Path, Listing]:
    """Return (folder, the images in it) for a folder or a single file.

    Raises:
        UserError: a file that is not regular, or whose suffix is not that of an image.
    """
    if place.is_dir():
        return place, list_images(place)
    if not place.is_file() or not place.name.lower().endswith(SUFFIXES):
        raise UserError(f"{place} is not an image", fix=f"give a folder, or a file of {', '.join(SUFFIXES)}")
    return place.parent, Listing([place.name])


# -------------------------------------------------------------------------------------------------- splits


def split_of(name: str) -> str | None:
    """Return the split that a folder or a cell of a manifest names; None for any other name.

    >>> [split_of(name) for name in ("Train", "VALID", " validation", "testing", "night")]
    ['train', 'val', 'val', 'test', None]
    """
    return SPLIT_NAMES.get(name.strip().lower())


def subfolders(place: Path) -> list[Path]:
    """Return the folders in a folder by name, without hidden and system ones; empty if there is no folder.

    Raises:
        UserError: the folder cannot be listed.
    """
    if not place.is_dir():
        return []
    try:
        names = sorted(entry.name for entry in os.scandir(place) if _is_folder(entry))
    except OSError as error:
        raise UserError(f"{place} cannot be listed", error.strerror or "", "fix its permissions") from None
    return [place / name for name in names if not is_system(name)]


def splits_in(place: Path) -> dict[str, list[Path]]:
    """Map every split to the folders in `place` that are named after it; raises as `subfolders` does."""
    folders = subfolders(place)
    return {split: [folder for folder in folders if split_of(folder.name) == split] for split in SPLITS}


def split_in(place: Path, split: str) -> Path:
    """Return the folder of a split in `place`, in any capitals and form; `place/split` if there is none."""
    found = splits_in(place)[split]
    if len(found) > 1:
        raise _in_several_places(place, split, [(folder,) for folder in found])
    return found[0] if found else place / split


def splits_of(root: Path) -> dict[str, tuple[Path, ...]]:
    """Map the splits that exist to their folder, or to their input and target folder.

    These are `train`, or `trainA` and `trainB`, or `A/train` and `B/train`, under any names of splits and
    roles.

    Raises:
        UserError: a split in several places.
    """
    folders = subfolders(root)
    by_name = {folder.name.lower(): folder for folder in folders}
    ends = [(name[:-1], by_name[name]) for name in by_name if name[-1] == "a" and f"{name[:-1]}b" in by_name]
    inner = [(splits_in(first), splits_in(second)) for first, second in role_pairs(folders)]
    found = {}
    for split in SPLITS:
        places: list[tuple[Path, ...]] = [(folder,) for folder in folders if split_of(folder.name) == split]
        places += [(a, by_name[f"{stem}b"]) for stem, a in ends if split_of(stem.rstrip("_")) == split]
        places += [(a, b) for firsts, seconds in inner for a in firsts[split] for b in seconds[split]]
        if len(places) > 1:
            raise _in_several_places(root, split, places)
        if places:
            found[split] = places[0]
    return found


def _in_several_places(root: Path, split: str, places: list[tuple[Path, ...]]) -> UserError:
    shown = "; ".join(" and ".join(str(folder) for folder in place) for place in places)
    return UserError(f"{root} has its split '{split}' in several places", shown, "keep one of them")


def split_folder(root: Path, split: str) -> Path:
    """Return the folder of a split, or `root` itself if it has no split folders or is a file.

    Raises:
        UserError: `root` does not exist, has other splits only, or has this one in two folders.
    """
    if not root.exists():
        raise UserError(
            f"no such folder [--dataroot {root}]", fix=f"give a folder, or 'demo'{_neighbours(root)}"
        )
    present = splits_of(root)
    if present and split not in present:
        raise no_split(root, split, list(present))
    if present and len(present[split]) > 1:  # trainA next to trainB
        raise UserError(
            f"{root} has its split '{split}' in two folders", f"it holds {held_by(root)}", "give one of them"
        )
    return present[split][0] if present else root


def no_split(root: Path, split: str, present: Iterable[str]) -> UserError:
    """The error of a split that a data set does not have."""
    fix = "choose one of these by --split"
    if split == "train":
        fix = "call the split of the training images 'train', or give their folder alone by --dataroot"
    return UserError(f"{root} has no split '{split}'", f"it has {', '.join(present)}", fix)


# --------------------------------------------------------------------------------------------------- roles


def role_pairs(folders: list[Path]) -> list[tuple[Path, Path]]:
    """Return every (input folder, target folder) among `folders` that their names tell.

    Two names of FOLDERS; or two folders in all, one of which is named as targets are (`A` and `GTr_A`).
    """
    by_name = {folder.name.lower(): folder for folder in folders}
    known = [(first.lower(), second.lower()) for first, second in FOLDERS]
    found = [(by_name[a], by_name[b]) for a, b in known if a in by_name and b in by_name]
    if not found and len(folders) == 2 and is_target(folders[0].name) != is_target(folders[1].name):
        first, second = folders
        found = [(second, first) if is_target(first.name) else (first, second)]
    return found


def roles(folders: list[Path]) -> tuple[Path, Path] | None:
    """Return the (input folder, target folder) among `folders`; None if the names do not tell.

    Raises:
        UserError: several pairs of names fit.
    """
    found = role_pairs(folders)
    if len(found) > 1:
        shown = ", ".join(f"{a.name} and {b.name}" for a, b in found)
        fix = "choose two of them by --input_dir and --target_dir"
        raise UserError(f"{found[0][0].parent} holds several pairs of folders", shown, fix)
    return found[0] if found else None


def is_target(name: str) -> bool:
    """Whether a folder is named as targets are.

    >>> [is_target(name) for name in ("GTr_A", "Clean images", "ground-truth", "A", "unclean")]
    [True, True, True, False, False]
    """
    words = re.findall("[a-z]+", name.lower())
    return any(word in TARGET_WORDS or word.startswith("gt") for word in words)


# ------------------------------------------------------------------------------------------------- messages


def held_by(folder: Path) -> str:
    """Return the first names in a folder, for an error."""
    names: list[str] = []
    with suppress(OSError):  # no folder, or one that cannot be listed
        names = [path.name for path in folder.iterdir() if not is_system(path.name)]
    return first_five(names)


def first_five(names: Iterable[str]) -> str:
    """Return the first five names in sorted order and the number of the others, for an error."""
    names = sorted(names)
    return (", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")) or "none"


def _neighbours(root: Path) -> str:
    near = sorted(p.name for p in root.parent.iterdir() if p.is_dir()) if root.parent.is_dir() else []
    return f" ({root.parent} holds {', '.join(near[:6])})" if near else ""
