"""Find the pairs of a split, and divide pairs into training and validation."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
from utils.system.rng import stream

DEFAULT_VAL_SHARE = 0.1


def detect(source: Source, split: str) -> str:
    """Return the layout of a source, for `--layout auto`.

    Raises:
        UserError: no layout fits.
    """
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
        "give the folder of one set, with its pairs in train/input and train/target (see the README)",
    )


def is_demo(source: Source) -> bool:
    return source.root == "demo" or source.root.startswith("demo:")


def is_manifest(source: Source) -> bool:
    return source.layout == "manifest" or Path(source.root).suffix.lower() == ".csv"


def _refuse_pairs_as_clean(root: Path, split: str) -> None:
    """Refuse pairs as clean images, unless `--layout clean` asks for it."""
    both = pair_folders(root, split)
    if both:
        raise UserError(
            "--degrade makes inputs from clean images, but these are pairs",
            f"{both[0]} and {both[1]}",
            f"use --dataroot {both[1]}, or --layout clean to use both as clean images, or drop --degrade",
        )


def find_pairs(source: Source, split: str, need_targets: bool = False) -> PairList:
    """List the pairs of one split.

    Raises:
        UserError: no pairs, no targets with `need_targets`, names without a partner, or flags that contradict
            the layout.
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
            raise UserError(f"--{flag} has no effect with --layout {name}", fix="drop it")
    if source.scale > 1 and name in ("aligned", "demo"):
        fix = f"use --degrade sr:{source.scale}, which makes inputs from clean images; or drop --scale"
        raise UserError(f"--layout {name} has no targets of --scale {source.scale}", fix=fix)
    if name == "inputs" and need_targets:
        raise UserError(
            f"no targets found [--dataroot {source.root}]",
            f"it holds {held_by(Path(source.root))}",
            "give the folder of one set, with its pairs in train/input and train/target; or add --degrade",
        )
    with garbage_collection_paused():
        pairs = LAYOUTS[name](source, split)
    if not pairs.pairs:
        raise UserError(f"no images in {pairs.where}", fix=f"supported suffixes: {', '.join(SUFFIXES)}")
    if need_targets and any(pair.target is None for pair in pairs.pairs) and name == "manifest":
        raise UserError(f"{pairs.where} has rows without a target", fix="fill the column 'target'")
    return pairs


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pause the search for cyclic garbage: a large set creates a million objects, none of them garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def splits_present(source: Source) -> list[str]:
    """Return the splits of a source; empty if its images belong to no split."""
    root = Path(source.root)
    if is_demo(source):
        return ["train", "test"]
    if is_manifest(source):
        found = {row.get("split", "") for _, row in manifest_rows(root)}
        return [split for split in SPLITS if split in found]
    if source.input_dir:
        name = source.input_dir
        return [s for s in SPLITS if any(folder.is_dir() for folder in split_folders(root, s, name))]
    return splits_of(root)


def shared_files(pairs: PairList, source: Source, split: str) -> int:
    """Count the files of `pairs` that also belong to `split` of a source; 0 if that no longer exists."""
    try:
        return len(pairs.files() & find_pairs(source, split).files())
    except UserError:
        return 0


def train_val_split(
    listing: PairList, source: Source, share: float | None, seed: int
) -> tuple[PairList, PairList]:
    """(training, validation) pairs.

    Never the test split: choosing a checkpoint on the test images is a leak.

    Args:
        share: of the targets to hold out of `listing`; None: the `val` split, or 0.1 without one.
    """
    if share is None and "val" in splits_present(source):
        return listing, find_pairs(source, "val", need_targets=True)
    return hold_out(listing, DEFAULT_VAL_SHARE if share is None else share, seed)


def hold_out(pairs: PairList, share: float, seed: int) -> tuple[PairList, PairList]:
    """Split the targets, with all their inputs, into (training, validation); a share of 0 holds out none."""
    groups = sorted({pair.group for pair in pairs.pairs})
    count = min(max(1, round(share * len(groups))), len(groups) - 1) if share > 0 else 0
    held = {groups[i] for i in stream(seed, "holdout").permutation(len(groups))[:count]}
    train = [pair for pair in pairs.pairs if pair.group not in held]
    val = [pair for pair in pairs.pairs if pair.group in held]
    return pairs._replace(pairs=train), pairs._replace(pairs=val, split="val", where="held out of train")
