"""Find the pairs of a split, and divide pairs into training and validation."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from data.folders import (
    SPLITS,
    first_five,
    held_by,
    images_in,
    pair_folders,
    split_folder,
    split_folders,
    splits_of,
)
from data.images import SUFFIXES
from data.layouts import LAYOUTS, manifest_rows
from data.matching import match_endings
from data.pairs import PairList, Source
from utils.system.errors import UserError


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


def train_val_split(
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
