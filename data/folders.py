"""Folders of a data set: list images, find splits and the input and target folders by their names."""

import os
from collections.abc import Iterable
from pathlib import Path

from data.images import SUFFIXES
from utils.system.errors import UserError

SPLITS = ("train", "val", "test")
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


def list_images(folder: Path) -> list[str]:
    """List the image files below `folder` as sorted relative paths with `/`, without hidden files.

    Links to folders are followed, unless they lead into or above a folder that was visited already.
    """
    found: list[str] = []
    seen = [Path(os.path.realpath(folder))]
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and _is_new(Path(place, name), seen)
        )
        inner = Path(place).relative_to(folder).as_posix()
        before = "" if inner == "." else f"{inner}/"
        found += [
            before + name for name in files if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return sorted(found)


def _is_new(folder: Path, seen: list[Path]) -> bool:
    """Whether a folder is not a link into, or above, one in `seen`."""
    if not folder.is_symlink():
        return True
    end = Path(os.path.realpath(folder))
    if any(end.is_relative_to(other) or other.is_relative_to(end) for other in seen):
        return False
    seen.append(end)
    return True


def links_in(folder: Path) -> set[str]:
    """Return the names of the links in a folder; empty if there is no folder."""
    return {entry.name for entry in os.scandir(folder) if entry.is_symlink()} if folder.is_dir() else set()


def images_in(place: Path) -> tuple[Path, list[str]]:
    """Return (folder, names of the images in it) for a folder or a single file.

    Raises:
        UserError: the suffix of the file is not that of an image.
    """
    if not place.is_file():
        return place, list_images(place)
    if not place.name.lower().endswith(SUFFIXES):
        raise UserError(f"{place} is not an image", fix=f"give a folder, or a file of {', '.join(SUFFIXES)}")
    return place.parent, [place.name]


def split_folder(root: Path, split: str) -> Path:
    """Return `root/split`, or `root` itself if it has no split folders or is a file.

    Raises:
        UserError: `root` does not exist, has other splits only, or has this one in two folders.
    """
    if not root.exists():
        raise UserError(
            f"no such folder [--dataroot {root}]", fix=f"give a folder, or 'demo'{_neighbours(root)}"
        )
    present = splits_of(root)
    if present and split not in present:
        raise UserError(
            f"{root} has no split '{split}'", f"it has {', '.join(present)}", "choose one of these"
        )
    if present and not (root / split).is_dir():  # trainA next to trainB
        raise UserError(
            f"{root} has its split '{split}' in two folders", f"it holds {held_by(root)}", "give one of them"
        )
    return root / split if present else root


def splits_of(root: Path) -> list[str]:
    """Return the splits that exist: `train`, or `trainA` and `trainB`, or `A/train` and `B/train`."""
    if not root.is_dir():
        return []
    return [split for split in SPLITS if (root / split).is_dir() or _paired(root, split)]


def pair_folders(root: Path, split: str) -> tuple[Path, Path] | None:
    """Return the input and target folder of a split, under any names in FOLDERS; None if there are none."""
    if not root.is_dir():
        return None
    return _paired(root, split) or _known(split_folder(root, split))


def _paired(root: Path, split: str) -> tuple[Path, Path] | None:
    """`trainA` and `trainB`, or `A/train` and `B/train` under any names in FOLDERS."""
    if (root / f"{split}A").is_dir() and (root / f"{split}B").is_dir():
        return root / f"{split}A", root / f"{split}B"
    known = _known(root)
    return (
        (known[0] / split, known[1] / split) if known and all((k / split).is_dir() for k in known) else None
    )


def _known(folder: Path) -> tuple[Path, Path] | None:
    by_name = {entry.name.lower(): Path(entry.path) for entry in os.scandir(folder) if entry.is_dir()}
    for first, second in FOLDERS:
        if first.lower() in by_name and second.lower() in by_name:
            return by_name[first.lower()], by_name[second.lower()]
    return None


def named_folder(root: Path, split: str, name: str, flag: str) -> Path:
    """Return the folder of a split that `--input_dir` or `--target_dir` names.

    It is below the split, above it, or a path of its own. A folder that holds split folders is never used
    itself.

    Raises:
        UserError: none of these exists.
    """
    tried = split_folders(root, split, name)
    if not splits_of(root) and not Path(name).is_absolute():
        tried.append(root / name)
    tried.append(Path(name))
    for folder in tried:
        if folder.is_dir() and (folder.name == split or not any((folder / s).is_dir() for s in SPLITS)):
            return folder
    looked = ", ".join(str(folder) for folder in tried)
    raise UserError(
        f"no such folder [--{flag} {name}]", f"looked for {looked}", f"{root} holds {held_by(root)}"
    )


def split_folders(root: Path, split: str, name: str) -> list[Path]:
    """Return the places where the named folder of this split may be, in order of preference."""
    if Path(name).is_absolute():
        return [Path(name) / split]
    return [root / split / name, root / name / split, Path(name) / split]


def held_by(folder: Path) -> str:
    """Return the first names in a folder, for an error."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return first_five(name for name in names if not name.startswith("."))


def first_five(names: Iterable[str]) -> str:
    """Return the first five names in sorted order and the number of the others, for an error."""
    names = sorted(names)
    return (", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")) or "none"


def _neighbours(root: Path) -> str:
    near = sorted(p.name for p in root.parent.iterdir() if p.is_dir()) if root.parent.is_dir() else []
    return f" ({root.parent} holds {', '.join(near[:6])})" if near else ""
