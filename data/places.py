"""Where inputs and targets lie: in two folders known by name or by flags, or in two of every scene."""

import os
import shlex
from pathlib import Path

from data.folders import (
    FOLDERS,
    first_five,
    held_by,
    list_images,
    roles,
    split_folder,
    split_in,
    split_of,
    splits_in,
    splits_of,
    subfolders,
)
from data.matching import any_match, match_names
from data.pairs import Source
from utils.system.errors import UserError

Places = dict[str, tuple[Path, Path]]  # the beginning of a pair's name, "" or "scene/": its two folders
SCENE_LEVELS = 2  # of folders that are searched for scenes


def pair_places(source: Source, split: str) -> Places:
    """Find the input and target folder of a split, or those of its scenes; empty if the names do not tell.

    Raises:
        UserError: several readings, or scenes outside of a split.
    """
    root, sure = Path(source.root), source.layout in ("pairs", "unpaired") or source.pair_by is not None
    if not root.is_dir():
        return {}
    present = splits_of(root)
    both = present.get(split, ())
    if len(both) == 2:
        return {"": (both[0], both[1])}
    folder = split_folder(root, split)
    if pair := pair_in(folder, sure):
        return {"": pair}
    scenes = scenes_in(folder)
    if scenes and not present and not split_of(Path(os.path.realpath(root)).name):
        raise _several_sets(root, scenes)
    return scenes


def pair_in(folder: Path, sure: bool = False) -> tuple[Path, Path] | None:
    """Return (input folder, target folder) in `folder` by their names.

    Args:
        sure: that they are pairs; else folders that are not in FOLDERS need an image of one name.
    """
    pair = roles(subfolders(folder))
    known = pair and tuple(each.name.lower() for each in pair) in {(a.lower(), b.lower()) for a, b in FOLDERS}
    if pair and not (known or sure) and not any_match(*(list_images(each).names for each in pair)):
        return None
    return pair


def scenes_in(folder: Path, levels: int = SCENE_LEVELS) -> Places:
    """Find folders below `folder` that hold an input and a target folder, as `train/SCENE/{blur,sharp}`."""
    found: Places = {}
    for inner in subfolders(folder):
        if pair := pair_in(inner):
            found[f"{inner.name}/"] = pair
        elif levels > 1:
            deeper = scenes_in(inner, levels - 1)
            found |= {f"{inner.name}/{before}": places for before, places in deeper.items()}
    return found


def outside(folder: Path, scenes: Places) -> tuple[str, ...]:
    """Return a remark on the images below `folder` that belong to none of its scenes, if there are any."""
    lone = [name for name in list_images(folder).names if not name.startswith(tuple(scenes))]
    where = f"in {folder} but in no scene's folders"
    return (f"{len(lone)} images {where}, not read: {first_five(lone)}",) if lone else ()


def _several_sets(root: Path, scenes: Places) -> UserError:
    """The error of scenes without a split around them: they may as well be sets, or splits."""
    tops = sorted({before.split("/")[0] for before in scenes})
    names = {(first.name, second.name) for first, second in scenes.values()}
    fix = f"one of them: --dataroot {shlex.quote(str(root / tops[0]))}"
    if len(names) == 1 and all(before.count("/") == 1 for before in scenes):
        ((first, second),) = names
        fix += f"; all of them: --input_dir {shlex.quote(first)} --target_dir {shlex.quote(second)}"
    what = f"{root} holds pairs in folders of their own, and no folder of a split"
    return UserError(what, first_five(tops), f"{fix}; as splits: rename them train, val or test")


def refuse_unknown_roles(source: Source, split: str) -> None:
    """Raise UserError if all images lie in two folders of equal names that do not tell the targets."""
    root = Path(source.root)
    folders = subfolders(split_folder(root, split)) if root.is_dir() else []
    if len(folders) != 2 or roles(folders):
        return
    first, second = (list_images(folder).names for folder in folders)
    try:
        if not match_names(first, second, source.pair_by):
            return
    except UserError:
        return
    a, b = (folder.name for folder in folders)
    raise UserError(
        f"{a} and {b} hold images of the same names, and nothing says which are the inputs",
        f"{folders[0]} and {folders[1]}",
        f"{training_command(root, a, b)}, or --input_dir {shlex.quote(b)} --target_dir {shlex.quote(a)} "
        f"if {b} holds the inputs; "
        "--layout inputs takes them all as photos without targets (test.py)",
    )


def no_targets(source: Source, split: str) -> UserError:
    """The error of images without targets, with the flags for what they may be."""
    fix = (
        "give the folder of one set, with its pairs in train/input and train/target; or list the pairs in a "
    )
    fix += "CSV file with the columns input,target: --manifest pairs.csv"
    root = folder = Path(source.root)
    unlike = ""
    if root.is_file():
        what, fix = f"one image is no set of pairs [--dataroot {root}]", "to restore it: test.py --name RUN"
        return UserError(what, fix=f"{fix} --dataroot {root}; to train, name a folder")
    if not source.input_dir and root.is_dir():
        folder = split_folder(root, split)
        inner = subfolders(folder)
        pair = pair_in(folder, sure=True)
        if pair:
            unlike = f", and no file of {pair[0].name} is named as one of {pair[1].name}"
        if len(inner) == 2:
            first, second = pair or inner
            fix = f"{training_command(root, first.name, second.name)} if these two are pairs; or {fix}"
        if len(inner) > 2:
            fix = f"name two of its folders by --input_dir and --target_dir; or {fix}"
        if len(inner) < 2:
            fix += "; or make inputs of clean images by --degrade, such as --degrade noise:25"
        if not inner:
            fix += "; or --layout aligned, if every file holds input and target side by side"
    why = f"{folder} holds {held_by(folder)}{unlike}"
    return UserError(f"no targets found [--dataroot {source.root}]", why, fix)


def training_command(root: Path, first: str, second: str) -> str:
    """A command that trains on the pairs of two folders."""
    flags = ["--dataroot", str(root), "--input_dir", first, "--target_dir", second]
    return shlex.join(["python", "train.py", *flags])


# --------------------------------------------------------------------------- --input_dir and --target_dir


def named_folders(root: Path, split: str, name: str, flag: str) -> dict[str, Path]:
    """Return the folder of a split that `--input_dir` or `--target_dir` names, by "", or that of every scene.

    It is below the split, above it, below every folder of the split, or a path of its own. A folder that
    holds split folders is never used itself.

    Raises:
        UserError: none of these exists.
    """
    if found := named_in_split(root, split, name):
        return found
    flat = not splits_of(root) and not Path(name).is_absolute()
    own = [root / name] * flat + [Path(name)]
    for folder in own:
        if folder.is_dir() and (split_of(folder.name) == split or not any(splits_in(folder).values())):
            return {"": folder}
    if flat and (scenes := _in_scenes(root, name)):
        return scenes
    looked = ", ".join(str(folder) for folder in [*_split_places(root, split, name), *own])
    raise UserError(
        f"no such folder [--{flag} {name}]", f"looked for {looked}", f"{root} holds {held_by(root)}"
    )


def named_in_split(root: Path, split: str, name: str) -> dict[str, Path]:
    """Return the named folders that belong to this split and no other; empty if there are none."""
    for folder in _split_places(root, split, name):
        if folder.is_dir():
            return {"": folder}
    return {} if Path(name).is_absolute() else _in_scenes(split_in(root, split), name)


def _in_scenes(folder: Path, name: str) -> dict[str, Path]:
    return {f"{scene.name}/": scene / name for scene in subfolders(folder) if (scene / name).is_dir()}


def _split_places(root: Path, split: str, name: str) -> list[Path]:
    """Return the places where the named folder of this split may be, in order of preference."""
    own = split_in(Path(name), split)
    return (
        [own]
        if Path(name).is_absolute()
        else [split_in(root, split) / name, split_in(root / name, split), own]
    )
