"""Layouts: which files make a pair, for each way that users store them.

A layout is a function `(source, split) -> PairList`. Listing decodes no pixels.
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from data.folders import (
    FOLDERS,
    SPLITS,
    first_five,
    held_by,
    images_in,
    list_images,
    no_split,
    split_folder,
    split_of,
)
from data.images import header
from data.matching import match_names, match_words
from data.pairs import (
    Pair,
    PairList,
    Source,
    input_alone,
    one_file,
    rendered,
    rendered_alone,
    two_files,
    two_halves,
)
from data.places import Places, named_folders, outside, pair_places
from utils.system.errors import UserError

NO_PAIRS = "; two sets of images without pairs: --objective cycle"


def pairs(source: Source, split: str) -> PairList:
    """`ROOT/{train,val,test}/{input,target}`, other names and scenes as `places` finds them, or
    `--input_dir` and `--target_dir`."""
    inputs, targets, where, remarks = both_sides(source, split)
    with explained_by(remarks, NO_PAIRS if Path(source.root).is_dir() else ""):
        names = match_names(inputs, targets, source.pair_by)
    found = [Pair(a, inputs[a], targets[b], b) for a, b in sorted(names.items())]
    reads = partial(two_files, source)
    return PairList("pairs", split, where, found, reads, source.scale, source.max_pixels, remarks)


def both_sides(source: Source, split: str) -> tuple[dict[str, Path], dict[str, Path], str, tuple[str, ...]]:
    """The files of two folders, or of those of all scenes, by name; where they are; what is not read."""
    places = places_of(source, split)
    inputs: dict[str, Path] = {}
    targets: dict[str, Path] = {}
    remarks: tuple[str, ...] = ()
    for before, folders in places.items():
        for side, folder in zip((inputs, targets), folders, strict=True):
            listing = list_images(folder)
            side |= {before + name: folder / name for name in listing.names}
            remarks += listing.remarks
    if "" not in places:
        remarks += outside(split_folder(Path(source.root), split), places)
    first, second = next(iter(places.values()))
    where = f"{first} -> {second.name if second.parent == first.parent else second}"
    where += f" and {len(places) - 1} more scenes" * (len(places) > 1)
    return inputs, targets, where, remarks


def unpaired(source: Source, split: str) -> PairList:
    """Two sets of images without pairs, found as those of `pairs`: `ROOT/trainA/`, `ROOT/trainB/`, ...

    Other splits than `train` are pairs, and can be measured, if names and sizes of all their images agree.
    """
    inputs, targets, where, remarks = both_sides(source, split)
    if split != "train" and alike(inputs, targets, source.max_pixels):
        remark = f"{split}: taken as pairs, since names and sizes of both sets agree"
        paired = pairs(source, split)
        return paired._replace(layout="unpaired", remarks=(*paired.remarks, remark))
    sides = "AB" if source.direction == "AtoB" else "BA"
    first, second = (
        [Pair(name, path, None, f"{side}/{name}") for name, path in sorted(files.items())]
        for side, files in zip(sides, (inputs, targets), strict=True)
    )
    if not second:
        what = f"no images in the second folder of {where}"
        raise UserError(what, "; ".join(remarks), "give both sets, such as trainA/ and trainB/")
    back = source._replace(max_value=source.max_value[::-1])
    more = 1, source.max_pixels
    others = PairList("unpaired", split, where, second, partial(input_alone, back), *more)
    return PairList(
        "unpaired", split, where, first, partial(input_alone, source), *more, remarks, others=others
    )


def alike(inputs: Mapping[str, Path], targets: Mapping[str, Path], max_pixels: int) -> bool:
    """Whether two folders hold images of the same names, and two of one name are of one size."""
    if inputs.keys() != targets.keys():
        return False
    try:
        return all(header(inputs[n], max_pixels)[:2] == header(targets[n], max_pixels)[:2] for n in inputs)
    except UserError:  # it is reported when it is read
        return False


def places_of(source: Source, split: str) -> Places:
    """The input and target folders of a split, by flags or by names, in the order of `--direction`."""
    root = Path(source.root)
    if source.input_dir and source.target_dir:
        first = named_folders(root, split, source.input_dir, "input_dir")
        second = named_folders(root, split, source.target_dir, "target_dir")
        if lone := first.keys() ^ second.keys():
            why = f"{first_five(before.rstrip('/') or str(root) for before in lone)} hold only one of them"
            what = f"--input_dir {source.input_dir} and --target_dir {source.target_dir} do not fit together"
            raise UserError(what, why, "give folders that lie alike")
        return {before: (folder, second[before]) for before, folder in first.items()}
    if source.input_dir:
        raise UserError("--layout pairs with --input_dir needs --target_dir", fix="give both")
    found = pair_places(source, split)
    if not found:
        known = ", ".join(f"{a}/{b}" for a, b in FOLDERS)
        folder = split_folder(root, split)
        raise UserError(
            f"no pair of folders under {folder}",
            f"it holds {held_by(folder)}",
            f"give --input_dir and --target_dir, or rename the folders to one of {known}",
        )
    return found if source.direction == "AtoB" else {before: (b, a) for before, (a, b) in found.items()}


@contextmanager
def explained_by(remarks: Sequence[str], hint: str = "") -> Iterator[None]:
    """Add what was not read, and another fix, to an error of this block."""
    try:
        yield
    except UserError as error:
        raise UserError(error.what, "; ".join([error.why, *remarks]), error.fix + hint) from None


def suffix(source: Source, split: str) -> PairList:
    """Both images of a pair in one folder, told apart by WORDS in their names: `x_LR.png` and `x_HR.png`."""
    folder = split_folder(Path(source.root), split)
    listing = list_images(folder)
    with explained_by(listing.remarks):
        names = match_words(listing.names)
        if names is None:
            what = f"no pairs such as x_LR.png and x_HR.png in {folder}"
            raise UserError(what, f"it holds {held_by(folder)}", "rename them, or give another --layout")
    if source.direction == "BtoA":
        names = {target: input for input, target in names.items()}
    found = [Pair(a, folder / a, folder / b, b) for a, b in sorted(names.items())]
    reads = partial(two_files, source)
    more = source.scale, source.max_pixels, listing.remarks
    return PairList("suffix", split, str(folder), found, reads, *more)


def manifest(source: Source, split: str) -> PairList:
    """A CSV file with the columns `input` and `target` (with `--degrade` only `target`), optionally `split`.

    Paths are relative to its folder. Without values of `split` every row belongs to every split.
    """
    path = Path(source.root)
    lines = manifest_rows(path)
    needed = "target" if source.degraded else "input"
    if holes := [line for line, row in lines if not row.get(needed)]:
        raise UserError(f"{path} lacks values of '{needed}'", _first_lines(holes), "fill the column")
    present = manifest_splits(lines)
    if present and split not in present:
        raise no_split(path, split, present)
    found: list[Pair] = []
    for _, row in lines:
        if present and split_of(row["split"]) != split:
            continue
        target = path.parent / row["target"] if row.get("target") else None
        input = target if source.degraded else path.parent / row["input"]
        file = PurePosixPath(row[needed])
        name = file.name if file.is_absolute() or ".." in file.parts else str(file)
        found.append(Pair(name, input, target, row.get("target") or str(file)))
    reads = partial(one_file if source.degraded else two_files, source)
    scale = 1 if source.degraded else source.scale
    remarks = tuple(_rows_of_no_split(path, lines, present))
    return PairList("manifest", split, str(path), found, reads, scale, source.max_pixels, remarks)


def manifest_splits(lines: list[tuple[int, dict[str, str]]]) -> list[str]:
    """The splits of the rows of a manifest, in the order of SPLITS; unknown names if none is known."""
    named = {row.get("split", "").strip() for _, row in lines} - {""}
    known = {split_of(name) for name in named}
    return [split for split in SPLITS if split in known] or sorted(named)


def _rows_of_no_split(
    path: Path, lines: list[tuple[int, dict[str, str]]], present: list[str]
) -> Iterator[str]:
    """The remark on rows that belong to no split, if others do."""
    lost = [(line, row["split"]) for line, row in lines if present and split_of(row["split"]) is None]
    if lost:
        names = ", ".join(sorted({repr(name) for _, name in lost})[:5])
        where = _first_lines([line for line, _ in lost])
        yield f"{len(lost)} rows of {path} are of no split ({names}), not read: {where}"


def manifest_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Read the rows of a manifest, each with the number of its last line.

    Raises:
        UserError: not a CSV file, no column `input` or `target`, or rows of different lengths.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("not a regular file")
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            rows = [(reader.line_num, row) for row in reader]
            columns = set(reader.fieldnames)
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
    listing = list_images(folder)
    found = [Pair(name, path, path, name) for name, path in listing.paths(folder)]
    half = "left" if source.direction == "AtoB" else "right"
    where = f"{folder}, {source.direction}: the input is the {half} half"
    reads = partial(two_halves, source)
    return PairList("aligned", split, where, found, reads, 1, source.max_pixels, listing.remarks)


def clean(source: Source, split: str) -> PairList:
    """Clean images in `ROOT/` or `ROOT/{train,val,test}/`; `--degrade` makes the inputs."""
    folder, listing = images_in(split_folder(Path(source.root), split))
    found = [Pair(name, path, path, name) for name, path in listing.paths(folder)]
    reads = partial(one_file, source)
    return PairList("clean", split, str(folder), found, reads, 1, source.max_pixels, listing.remarks)


def inputs(source: Source, split: str) -> PairList:
    """Inputs without targets, in a folder or as one image; test.py writes outputs but no metrics."""
    root = Path(source.root)
    if source.input_dir:
        places = named_folders(root, split, source.input_dir, "input_dir")
    else:
        places = {"": split_folder(root, split)}
    found, remarks = list[Pair](), tuple[str, ...]()
    for before, place in places.items():
        folder, listing = images_in(place)
        found += [Pair(before + name, folder / name, None, before + name) for name in listing.names]
        remarks += listing.remarks
    where, reads = str(next(iter(places.values()))), partial(input_alone, source)
    where += f" and {len(places) - 1} more scenes" * (len(places) > 1)
    return PairList("inputs", split, where, found, reads, 1, source.max_pixels, remarks)


def demo(source: Source, split: str) -> PairList:
    """`demo` or `demo:SCENES:SIZE`: rendered scenes without files (default: 160 scenes of 160 x 160 pixels).

    The test split has other scenes, one eighth as many. Each scene has several strengths of haze. With
    `demo:unpaired...` see `demo_unpaired`.
    """
    from data.demo import HAZY_VERSIONS, MAX_SCENES, MAX_SIZE

    shape = re.fullmatch(r"demo(:unpaired)?(?::(\d{1,9}):(\d{1,9}))?", source.root)
    scenes, size = (
        (int(value or default) for value, default in zip(shape.groups()[1:], (160, 160), strict=True))
        if shape
        else (0, 0)
    )
    if not (1 <= scenes <= MAX_SCENES and 16 <= size <= MAX_SIZE):
        bounds = f"1 to {MAX_SCENES} SCENES and a SIZE of 16 to {MAX_SIZE} pixels"
        raise UserError(
            f"invalid demo data [--dataroot {source.root[:40]}]",
            fix=f"use demo, demo:unpaired or demo:SCENES:SIZE, {bounds}",
        )
    if shape and shape[1] and split in ("train", "val"):
        return demo_unpaired(source, split, scenes, size)
    if split not in ("train", "test"):
        raise no_split(Path("demo"), split, ["train", "test"])
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


def demo_unpaired(source: Source, split: str, scenes: int, size: int) -> PairList:
    """Hazy images of one half of the scenes, clear images of the other half; for validation, pairs.

    Training, validation and test show different scenes.
    """
    from data.demo import HAZY_VERSIONS

    where = f"{size} x {size} pixels, rendered"
    if split == "val":
        found = [Pair(f"{n:04d}_0.png", None, None, f"{n:04d}") for n in range(max(4, scenes // 8))]
        return PairList("demo", split, where, found, partial(rendered, source, 2_000_000, size))
    if scenes < 2 or source.degraded:
        fix = "use at least 2 scenes, such as demo:unpaired:8:64, and no --degrade"
        raise UserError(f"invalid demo data [--dataroot {source.root}]", fix=fix)
    half = scenes // 2
    hazy = [
        Pair(f"{n:04d}_{level}.png", None, None, f"A/{n:04d}")
        for n in range(half)
        for level in range(HAZY_VERSIONS)
    ]
    clear = [Pair(f"{n:04d}_0.png", None, None, f"B/{n:04d}") for n in range(half, scenes)]
    back = source._replace(max_value=source.max_value[::-1])
    lists = [
        PairList("demo", split, f"{what}, {where}", found, partial(rendered_alone, scales, 0, size, is_clear))
        for what, found, scales, is_clear in (("hazy", hazy, source, False), ("clear", clear, back, True))
    ]
    first, second = lists if source.direction == "AtoB" else lists[::-1]
    return first._replace(others=second)


LAYOUTS: dict[str, Callable[[Source, str], PairList]] = {
    "pairs": pairs,
    "suffix": suffix,
    "manifest": manifest,
    "aligned": aligned,
    "clean": clean,
    "inputs": inputs,
    "demo": demo,
    "unpaired": unpaired,
}
