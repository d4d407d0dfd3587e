"""Which files make a pair: the layouts that users have on disk.

A layout is a function `(source, split) -> PairList`; listing decodes no pixel.
"""

import csv
import functools
import gc
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from data.folders import (
    FOLDERS,
    SPLITS,
    first_five,
    held_by,
    images_in,
    links_in,
    list_images,
    named_folder,
    pair_folders,
    split_folder,
    split_folders,
    splits_of,
)
from data.images import MAX_PIXELS, SUFFIXES, Header, header, read_image
from data.matching import match_endings, match_names
from utils.system.errors import UserError

Array = np.ndarray


class Source(NamedTuple):
    """Where pairs come from, as the flags of these names say.

    Args:
        root: a folder, one image, a manifest (`.csv`), or `demo`.
        degraded: inputs are made from clean images.
        scale: targets are so many times the size of the inputs.
        max_pixels: larger images are refused by their headers.
    """

    root: str
    layout: str = "auto"
    direction: str = "AtoB"
    degraded: bool = False
    input_dir: str | None = None
    target_dir: str | None = None
    pair_by: str | None = None
    scale: int = 1
    max_pixels: int = MAX_PIXELS


class Pair(NamedTuple):
    """One sample. `name` is where its output goes; `group` is equal for all inputs of one target."""

    name: str
    input: Path | None
    target: Path | None
    group: str


class PairList(NamedTuple):
    """The pairs of one split, and how to read one of them as two arrays (see `data.images`).

    `read` can be pickled: loader processes that are not forked get it so, and what it is bound to.
    """

    layout: str
    split: str
    where: str
    pairs: list[Pair]
    read: Callable[[Pair], tuple[Array, Array | None]]
    scale: int = 1
    max_pixels: int = MAX_PIXELS

    def describe(self) -> str:
        targets = len({pair.group for pair in self.pairs})
        return f"{self.split}: {len(self.pairs)} images of {targets} targets, {self.layout} ({self.where})"

    def files(self) -> set[str]:
        """Every file that it reads, by one name each."""
        folder, links = functools.cache(os.path.realpath), functools.cache(links_in)
        paths = (path for pair in self.pairs for path in (pair.input, pair.target) if path)
        return {
            os.path.realpath(path)
            if path.name in links(path.parent)
            else f"{folder(path.parent)}/{path.name}"
            for path in paths
        }


# --------------------------------------------------------------------------------------------------- layouts


def pairs(source: Source, split: str) -> PairList:
    """`ROOT/{train,val,test}/{input,target}`, other known names of the two, or `--input_dir --target_dir`."""
    root = Path(source.root)
    if source.input_dir and source.target_dir:
        first = named_folder(root, split, source.input_dir, "input_dir")
        second = named_folder(root, split, source.target_dir, "target_dir")
    elif source.input_dir:
        raise UserError("--input_dir without --target_dir makes no pairs", fix="give both")
    else:
        folders = pair_folders(root, split)
        if folders is None:
            known = ", ".join(f"{a}/{b}" for a, b in FOLDERS)
            raise UserError(
                f"no pair of folders under {split_folder(root, split)}",
                f"it holds {held_by(split_folder(root, split))}",
                f"name them by --input_dir and --target_dir, or as one of {known}",
            )
        first, second = folders if source.direction == "AtoB" else reversed(folders)
    names = match_names(list_images(first), list_images(second), source.pair_by)
    found = [Pair(a, first / a, second / b, b) for a, b in sorted(names.items())]
    where = f"{first} -> {second.name if second.parent == first.parent else second}"
    return PairList("pairs", split, where, found, partial(two_files, source), source.scale, source.max_pixels)


def suffix(source: Source, split: str) -> PairList:
    """Both images of a pair in one folder, told apart by the end of their names: `x_LR.png`, `x_HR.png`."""
    folder = split_folder(Path(source.root), split)
    names = match_endings(list_images(folder))
    if names is None:
        raise UserError(f"no pairs such as x_LR.png and x_HR.png in {folder}", f"it holds {held_by(folder)}")
    if source.direction == "BtoA":
        names = {target: given for given, target in names.items()}
    found = [Pair(a, folder / a, folder / b, b) for a, b in sorted(names.items())]
    reads = partial(two_files, source)
    return PairList("suffix", split, str(folder), found, reads, source.scale, source.max_pixels)


def manifest(source: Source, split: str) -> PairList:
    """A CSV file with the columns `input`, `target` (or `target` alone, with --degrade) and perhaps `split`.

    Paths are relative to its folder. Without the column `split` its rows belong to any split.
    """
    path = Path(source.root)
    lines = manifest_rows(path)
    rows = [row for _, row in lines]
    needed = "target" if source.degraded else "input"
    holes = [line for line, row in lines if not row.get(needed)]
    if holes:
        raise UserError(f"{path} lacks a value of '{needed}'", _first_lines(holes), "fill the column")
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
        given = target if source.degraded else path.parent / row["input"]
        named = PurePosixPath(row[needed])
        inside = not named.is_absolute() and ".." not in named.parts
        found.append(
            Pair(str(named) if inside else named.name, given, target, row.get("target") or str(named))
        )
    reads = partial(one_file if source.degraded else two_files, source)
    scale = 1 if source.degraded else source.scale
    return PairList("manifest", split, str(path), found, reads, scale, source.max_pixels)


def manifest_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a manifest, each with the number of its (last) line.

    Raises:
        UserError: not readable as a CSV file, or without a column that is needed.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader]
            columns = set(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read", str(error), "name a CSV file with a line of headers"
        ) from None
    if not columns & {"input", "target"}:
        raise UserError(f"{path} is no manifest", f"its columns are {first_five(columns)}", "input,target")
    holes = [line for line, row in rows if any(v is None or k is None for k, v in row.items())]
    if holes:
        raise UserError(
            f"{path} has rows of another length", _first_lines(holes), "quote names that hold a comma"
        )
    return rows


def _first_lines(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return f"lines {shown}" + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")


def aligned(source: Source, split: str) -> PairList:
    """`ROOT/{train,val,test}/` holding images of two halves side by side; A is the left one."""
    folder = split_folder(Path(source.root), split)
    found = [Pair(name, folder / name, folder / name, name) for name in list_images(folder)]
    where, reads = f"{folder}, {source.direction}", partial(two_halves, source)
    return PairList("aligned", split, where, found, reads, max_pixels=source.max_pixels)


def clean(source: Source, split: str) -> PairList:
    """Clean images in one folder or in `ROOT/{train,val,test}/`; `--degrade` makes the inputs."""
    folder, names = images_in(split_folder(Path(source.root), split))
    found = [Pair(name, folder / name, folder / name, name) for name in names]
    reads = partial(one_file, source)
    return PairList("clean", split, str(folder), found, reads, max_pixels=source.max_pixels)


def inputs(source: Source, split: str) -> PairList:
    """A folder of inputs, or one image, without targets: outputs, but no metrics."""
    root = Path(source.root)
    place = named_folder(root, split, source.input_dir, "input_dir") if source.input_dir else None
    folder, names = images_in(place or split_folder(root, split))
    found = [Pair(name, folder / name, None, name) for name in names]
    reads = partial(input_alone, source)
    return PairList("inputs", split, str(folder), found, reads, max_pixels=source.max_pixels)


def demo(source: Source, split: str) -> PairList:
    """`demo` or `demo:SCENES:SIZE`: rendered scenes, no files (default 160 scenes of 160 x 160 to train on).

    An eighth as many other scenes make the test split; each scene comes in several strengths of haze.
    """
    from data.demo import HAZES

    shape = re.fullmatch(r"demo(?::(\d+):(\d+))?", source.root)
    scenes, size = (
        (int(value or default) for value, default in zip(shape.groups(), (160, 160), strict=True))
        if shape
        else (0, 0)
    )
    if scenes < 1 or size < 16:
        raise UserError(
            f"bad demo data [--dataroot {source.root}]",
            fix="demo or demo:SCENES:SIZE, with SIZE of at least 16",
        )
    if split not in ("train", "test"):
        raise UserError(f"demo has no split '{split}'", "it has train, test")
    first, count = (
        (0, scenes) if split == "train" else (1_000_000, max(1, scenes // 8))
    )  # never the same scene
    found = [
        Pair(f"{scene:04d}_{level}.png", None, None, f"{scene:04d}")
        for scene in range(count)
        for level in range(1 if source.degraded else HAZES)
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


# --------------------------------------------------------------------------------------------- reading a pair


def one_file(source: Source, pair: Pair) -> tuple[Array, Array | None]:
    """A clean image as both; a degradation makes the input out of it."""
    assert pair.target is not None
    image = read_image(pair.target, source.max_pixels)
    return image, image


def two_files(source: Source, pair: Pair) -> tuple[Array, Array | None]:
    """Input and target from a file each, the target `scale` times the input's size."""
    given, _ = input_alone(source, pair)
    if pair.target is None:  # a row of a manifest may have none
        return given, None
    target = read_image(pair.target, source.max_pixels)
    check_sizes(pair, given.shape[1::-1], target.shape[1::-1], source.scale)
    return given, target


def two_halves(source: Source, pair: Pair) -> tuple[Array, Array | None]:
    """Input and target side by side in one file."""
    assert pair.input is not None
    both = read_image(pair.input, source.max_pixels)
    half = _half(pair.input, both.shape[1])
    left, right = both[:, :half], both[:, half:]
    return (left, right) if source.direction == "AtoB" else (right, left)


def input_alone(source: Source, pair: Pair) -> tuple[Array, None]:
    """An input without a target."""
    assert pair.input is not None
    return read_image(pair.input, source.max_pixels), None


def rendered(source: Source, first: int, size: int, pair: Pair) -> tuple[Array, Array | None]:
    """A scene of the demo; `first` is the number of the split's first one."""
    from data.demo import render_pair

    scene, level = Path(pair.name).stem.split("_")
    hazy, clear = render_pair(first + int(scene), int(level), size)
    return (clear, clear) if source.degraded else (hazy, clear)


def check_sizes(pair: Pair, given: tuple[int, ...], target: tuple[int, ...], scale: int) -> None:
    """Refuse a pair whose target is not exactly `scale` times its input, (width, height) each."""
    if (given[0] * scale, given[1] * scale) == tuple(target):
        return
    factor, rest = divmod(target[0], given[0])
    hint = f"add --scale {factor}" if not rest and given[1] * factor == target[1] else ""
    what = "the two images of a pair differ in size"
    if scale > 1:
        what = f"a target is not {scale} times the size of its input"
        hint = f"--degrade sr:{scale} makes inputs from clean images" if factor == 1 else hint
    sizes = "{} is {} x {}, {} is {} x {}".format(pair.input, *given, pair.target, *target)
    raise UserError(what, sizes, hint or "crop, resize or remove them")


def _half(path: Path, width: int) -> int:
    half, odd = divmod(width, 2)
    if odd:
        raise UserError(f"{path} has an odd width", f"{width} pixels cannot be halved")
    return half


# ------------------------------------------------------------------------------------------ finding the pairs


def detect(source: Source, split: str) -> str:
    """The layout of a source (what `--layout auto` does)."""
    root = Path(source.root)
    if is_demo(source):
        return "demo"
    if is_manifest(source):
        return "manifest"
    if source.input_dir:
        return "pairs" if source.target_dir else "inputs"
    if source.degraded:
        _refuse_pairs_as_clean(root, split)
        return "clean"
    if pair_folders(root, split):
        return "pairs"
    folder, names = images_in(split_folder(root, split))
    flat = [name for name in names if "/" not in name]
    if names and match_endings(names):
        return "suffix"
    if folder != root and flat and root.is_dir():
        return "aligned"
    if names:
        return "inputs"
    holds = first_five(path.name for path in folder.iterdir() if path.is_dir())
    raise UserError(
        f"no pairs found [--dataroot {root}]",
        f"{folder} holds {holds}",
        "name the folder of one set, with its pairs in train/input and train/target (see the README)",
    )


def is_demo(source: Source) -> bool:
    return source.root == "demo" or source.root.startswith("demo:")


def is_manifest(source: Source) -> bool:
    return source.layout == "manifest" or Path(source.root).suffix.lower() == ".csv"


def _refuse_pairs_as_clean(root: Path, split: str) -> None:
    """Inputs and targets together are no clean images, unless the user says so."""
    both = pair_folders(root, split)
    if both:
        raise UserError(
            "--degrade makes inputs from clean images, these are pairs",
            f"{both[0]} and {both[1]}",
            f"--dataroot {both[1]}, or --layout clean to take both as clean, or leave --degrade out",
        )


def find_pairs(source: Source, split: str, need_targets: bool = False) -> PairList:
    """List the pairs of one split.

    Raises:
        UserError: nothing found, no targets though needed, names that do not match, or a layout and
            `--degrade` that contradict each other.
    """
    if source.target_dir and not source.input_dir:
        raise UserError("--target_dir needs --input_dir", fix="give both")
    name = detect(source, split) if source.layout == "auto" else source.layout
    if (name == "clean") != source.degraded and not (name in ("demo", "manifest") and source.degraded):
        raise UserError(
            f"--layout {name} {'takes no' if source.degraded else 'needs'} --degrade",
            fix="give both or neither",
        )
    for flag in ("input_dir", "target_dir", "pair_by"):
        if getattr(source, flag) and name not in ("pairs", "inputs"):
            raise UserError(f"--{flag} means nothing for --layout {name}", fix="leave it out")
    if source.scale > 1 and name in ("aligned", "demo"):
        fix = f"--degrade sr:{source.scale} makes inputs from its targets; or leave --scale out"
        raise UserError(f"--layout {name} holds no targets of --scale {source.scale}", fix=fix)
    if name == "inputs" and need_targets:
        raise UserError(
            f"no targets found [--dataroot {source.root}]",
            f"it holds {held_by(Path(source.root))}",
            "name the folder of one set; its pairs in train/input and train/target; or give --degrade",
        )
    with uncollected():
        listing = LAYOUTS[name](source, split)
    if not listing.pairs:
        raise UserError(f"no images in {listing.where}", fix=f"known kinds: {', '.join(SUFFIXES)}")
    if need_targets and any(pair.target is None for pair in listing.pairs) and name == "manifest":
        raise UserError(f"{listing.where} has rows without a target", fix="fill the column 'target'")
    return listing


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's search for cycles: a large set makes a million objects, none of them garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def splits_present(source: Source) -> list[str]:
    """The splits that a source has; none where its images belong to no split."""
    root = Path(source.root)
    if is_demo(source):
        return ["train", "test"]
    if is_manifest(source):
        found = {row.get("split", "") for _, row in manifest_rows(root)}
        return [split for split in SPLITS if split in found]
    if source.input_dir:
        named = source.input_dir
        return [s for s in SPLITS if any(folder.is_dir() for folder in split_folders(root, s, named))]
    return splits_of(root)


def shared_files(listing: PairList, source: Source, split: str) -> int:
    """How many files of a listing also belong to `split` of a source; 0 where that is no more."""
    try:
        return len(listing.files() & find_pairs(source, split).files())
    except UserError:
        return 0


def validation(
    listing: PairList, source: Source, val_from: str, share: float, seed: int
) -> tuple[PairList, PairList]:
    """(training, validation) pairs: the `val` split where it exists and may be used, else a part of train.

    Never the test split: choosing a checkpoint on the test images is a leak.
    """
    if val_from == "auto" and "val" in splits_present(source):
        return listing, find_pairs(source, "val", need_targets=True)
    return hold_out(listing, share, seed)


def hold_out(listing: PairList, share: float, seed: int) -> tuple[PairList, PairList]:
    """Part the targets, with all their inputs, into (training, validation); a share of 0 holds none out."""
    groups = sorted({pair.group for pair in listing.pairs})
    count = min(max(1, round(share * len(groups))), len(groups) - 1) if share > 0 else 0
    held = {groups[i] for i in np.random.default_rng([seed, 2]).permutation(len(groups))[:count]}
    kept = [pair for pair in listing.pairs if pair.group not in held]
    out = [pair for pair in listing.pairs if pair.group in held]
    return listing._replace(pairs=kept), listing._replace(pairs=out, split="val", where="held out of train")


# -------------------------------------------------------------------------------------------- reading headers


class HeaderScan(NamedTuple):
    """What the headers of a listing say: channels, and how often each size and each kind of input occurs."""

    input_nc: int
    target_nc: int
    depth: int  # the deepest, of 8, 16 and 32 bits
    sizes: list[tuple[int, int]]  # (width, height) of the targets
    kinds: Counter[str]  # such as "RGB 8 bit", with the number of pairs that have it

    def describe(self) -> str:
        """One line: how many sizes from which to which, and the kinds of files."""
        small, large = min(self.sizes), max(self.sizes)
        size = "{} x {}".format(*small) + ("" if small == large else " to {} x {}".format(*large))
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common(4))
        return f"headers of {len(self.sizes)} pairs: {size}; {kinds}"


def scan_headers(listing: PairList, limit: int | None = 1000) -> HeaderScan:
    """Read at most `limit` headers of a listing.

    Raises:
        UserError: an unreadable header, or the two images of a pair do not fit in size.
    """
    if listing.layout == "demo":
        image, _ = listing.read(listing.pairs[0])
        return HeaderScan(
            3, 3, 8, [(image.shape[1], image.shape[0])], Counter({"rendered": len(listing.pairs)})
        )
    input_nc = target_nc = depth = 1
    sizes = []
    kinds: Counter[str] = Counter()
    read = 0
    for pair in listing.pairs:
        read += len({pair.input, pair.target} - {None})
        if limit is not None and read > limit:
            break
        given, target = pair_headers(pair, listing)
        input_nc, target_nc = max(input_nc, given.channels), max(target_nc, target.channels)
        depth = max(depth, given.depth, target.depth)
        sizes.append((target.width, target.height))
        kinds.update({given.kind, target.kind})
    return HeaderScan(input_nc, target_nc, depth, sizes, kinds)


def pair_headers(pair: Pair, listing: PairList) -> tuple[Header, Header]:
    """(input's header, target's header) of a pair of files, checked; see `scan_headers`."""
    assert pair.input is not None
    given = header(pair.input, listing.max_pixels)
    if listing.layout == "aligned":
        given = given._replace(width=_half(pair.input, given.width))
    if pair.target is None or pair.target == pair.input:
        return given, given
    target = header(pair.target, listing.max_pixels)
    check_sizes(pair, given[:2], target[:2], listing.scale)
    return given, target
