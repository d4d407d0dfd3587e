"""Layouts: which files make a pair, for each way that users store them.

A layout is a function `(source, split) -> PairList`. Listing decodes no pixels.
"""

import csv
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

from data.folders import (
    FOLDERS,
    first_five,
    held_by,
    images_in,
    list_images,
    named_folder,
    pair_folders,
    split_folder,
)
from data.matching import match_endings, match_names
from data.pairs import Pair, PairList, Source, input_alone, one_file, rendered, two_files, two_halves
from utils.system.errors import UserError


def pairs(source: Source, split: str) -> PairList:
    """`ROOT/{train,val,test}/{input,target}`, other names in FOLDERS, or `--input_dir` and `--target_dir`."""
    root = Path(source.root)
    if source.input_dir and source.target_dir:
        first = named_folder(root, split, source.input_dir, "input_dir")
        second = named_folder(root, split, source.target_dir, "target_dir")
    elif source.input_dir:
        raise UserError("--layout pairs with --input_dir needs --target_dir", fix="give both")
    else:
        folders = pair_folders(root, split)
        if folders is None:
            known = ", ".join(f"{a}/{b}" for a, b in FOLDERS)
            raise UserError(
                f"no pair of folders under {split_folder(root, split)}",
                f"it holds {held_by(split_folder(root, split))}",
                f"give --input_dir and --target_dir, or rename the folders to one of {known}",
            )
        first, second = folders if source.direction == "AtoB" else reversed(folders)
    names = match_names(list_images(first), list_images(second), source.pair_by)
    found = [Pair(a, first / a, second / b, b) for a, b in sorted(names.items())]
    where = f"{first} -> {second.name if second.parent == first.parent else second}"
    return PairList("pairs", split, where, found, partial(two_files, source), source.scale, source.max_pixels)


def suffix(source: Source, split: str) -> PairList:
    """Both images of a pair in one folder, with endings in ENDINGS: `x_LR.png` and `x_HR.png`."""
    folder = split_folder(Path(source.root), split)
    names = match_endings(list_images(folder))
    if names is None:
        raise UserError(f"no pairs such as x_LR.png and x_HR.png in {folder}", f"it holds {held_by(folder)}")
    if source.direction == "BtoA":
        names = {target: input for input, target in names.items()}
    found = [Pair(a, folder / a, folder / b, b) for a, b in sorted(names.items())]
    reads = partial(two_files, source)
    return PairList("suffix", split, str(folder), found, reads, source.scale, source.max_pixels)


def manifest(source: Source, split: str) -> PairList:
    """A CSV file with the columns `input` and `target` (with `--degrade` only `target`), optionally `split`.

    Paths are relative to its folder. Without a column `split` every row belongs to every split.
    """
    path = Path(source.root)
    lines = manifest_rows(path)
    rows = [row for _, row in lines]
    needed = "target" if source.degraded else "input"
    holes = [line for line, row in lines if not row.get(needed)]
    if holes:
        raise UserError(f"{path} lacks values of '{needed}'", _first_lines(holes), "fill the column")
    present = sorted({row["split"] for row in rows if row.get("split")})
    if present and split not in present:
        raise UserError(
            f"{path} has no split '{split}'", f"it has {', '.join(present)}", "choose one of these"
        )
    found = []
    for row in rows:
        if present and row.get("split") != split:
            continue
        target = path.parent / row["target"] if row.get("target") else None
        input = target if source.degraded else path.parent / row["input"]
        file = PurePosixPath(row[needed])
        name = file.name if file.is_absolute() or ".." in file.parts else str(file)
        found.append(Pair(name, input, target, row.get("target") or str(file)))
    reads = partial(one_file if source.degraded else two_files, source)
    scale = 1 if source.degraded else source.scale
    return PairList("manifest", split, str(path), found, reads, scale, source.max_pixels)


def manifest_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Read the rows of a manifest, each with the number of its last line.

    Raises:
        UserError: not a CSV file, no column `input` or `target`, or rows of different lengths.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader]
            columns = set(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read", str(error), "give a CSV file with a header line") from None
    if not columns & {"input", "target"}:
        why = f"its columns are {first_five(columns)}"
        raise UserError(f"{path} is not a manifest", why, "name its columns input,target")
    holes = [line for line, row in rows if any(v is None or k is None for k, v in row.items())]
    if holes:
        raise UserError(
            f"{path} has rows of different lengths", _first_lines(holes), "quote names that contain a comma"
        )
    return rows


def _first_lines(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return f"lines {shown}" + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")


def aligned(source: Source, split: str) -> PairList:
    """`ROOT/{train,val,test}/` with images of two halves side by side; A is the left half."""
    folder = split_folder(Path(source.root), split)
    found = [Pair(name, folder / name, folder / name, name) for name in list_images(folder)]
    where, reads = f"{folder}, {source.direction}", partial(two_halves, source)
    return PairList("aligned", split, where, found, reads, max_pixels=source.max_pixels)


def clean(source: Source, split: str) -> PairList:
    """Clean images in `ROOT/` or `ROOT/{train,val,test}/`; `--degrade` makes the inputs."""
    folder, names = images_in(split_folder(Path(source.root), split))
    found = [Pair(name, folder / name, folder / name, name) for name in names]
    reads = partial(one_file, source)
    return PairList("clean", split, str(folder), found, reads, max_pixels=source.max_pixels)


def inputs(source: Source, split: str) -> PairList:
    """Inputs without targets, in a folder or as one image; test.py writes outputs but no metrics."""
    root = Path(source.root)
    place = named_folder(root, split, source.input_dir, "input_dir") if source.input_dir else None
    folder, names = images_in(place or split_folder(root, split))
    found = [Pair(name, folder / name, None, name) for name in names]
    reads = partial(input_alone, source)
    return PairList("inputs", split, str(folder), found, reads, max_pixels=source.max_pixels)


def demo(source: Source, split: str) -> PairList:
    """`demo` or `demo:SCENES:SIZE`: rendered scenes without files (default: 160 scenes of 160 x 160 pixels).

    The test split has other scenes, one eighth as many. Each scene has several strengths of haze.
    """
    from data.demo import HAZY_VERSIONS

    shape = re.fullmatch(r"demo(?::(\d+):(\d+))?", source.root)
    scenes, size = (
        (int(value or default) for value, default in zip(shape.groups(), (160, 160), strict=True))
        if shape
        else (0, 0)
    )
    if scenes < 1 or size < 16:
        raise UserError(
            f"invalid demo data [--dataroot {source.root}]",
            fix="use demo or demo:SCENES:SIZE, with SIZE of at least 16",
        )
    if split not in ("train", "test"):
        raise UserError(f"demo has no split '{split}'", "it has train, test")
    first, count = (
        (0, scenes) if split == "train" else (1_000_000, max(1, scenes // 8))
    )  # disjoint numbers: no test scene is trained on
    found = [
        Pair(f"{scene:04d}_{level}.png", None, None, f"{scene:04d}")
        for scene in range(count)
        for level in range(1 if source.degraded else HAZY_VERSIONS)
    ]
    reads = partial(rendered, source, first, size)
    return PairList("demo", split, f"{size} x {size} pixels, rendered", found, reads)


LAYOUTS: dict[str, Callable[[Source, str], PairList]] = {
    "pairs": pairs,
    "suffix": suffix,
    "manifest": manifest,
    "aligned": aligned,
    "clean": clean,
    "inputs": inputs,
    "demo": demo,
}
