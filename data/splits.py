"""Find the pairs of a split, and divide pairs into training, validation and test."""

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from data.fingerprint import Files, known_pairs
from data.folders import SPLITS, first_five, held_by, images_in, split_folder, splits_of
from data.images import SUFFIXES, header
from data.layouts import LAYOUTS, manifest_rows, manifest_splits
from data.matching import VAGUE_WORDS, telling_words
from data.pairs import Pair, PairList, Source, counted, group_by_file, repeated
from data.places import named_in_split, no_targets, pair_places, refuse_unknown_roles
from utils.system.errors import UserError
from utils.system.rng import Purpose, stream

DEFAULT_VAL_SHARE = 0.1
FEW_TARGETS = 2  # too few validation targets to choose the best step
TOO_FEW_TARGETS = (
    "note    {}: too few to choose the best step; use --val_share 0.3 to hold out more, "
    "or --best last to keep the last step"
)
NO_TEST_IMAGES = (
    "note    no test images: test.py will measure those of validation; a new run with --test_share 0.1 "
    "holds out others"
)
SHARED_SCENES = (
    "note    images held out of train are from folders that are trained on: {}; if a folder is a scene, "
    "their PSNR is too high: move whole scenes to val/ or test/"
)
MAX_HEADERS = 1000  # read to detect a layout


class Holdout(NamedTuple):
    """What a run holds out of its training images.

    Args:
        val_share: of the targets; None: the val split, or 0.1 without one.
        test_share: of the targets; None: none.
        seed: of the choice.
        kept: the groups that the run held out when it was started, by split; None: choose them.
    """

    val_share: float | None = None
    test_share: float | None = None
    seed: int = 0
    kept: Mapping[str, Sequence[str]] | None = None


# --------------------------------------------------------------------------------------- detecting a layout


def detect(source: Source, split: str) -> str:
    """Return the layout of a source, for `--layout auto`.

    Raises:
        UserError: no layout fits, or several do.
    """
    root = Path(source.root)
    if is_demo(source):
        return "demo"
    if is_manifest(source):
        return "manifest"
    if source.input_dir:
        return "pairs" if source.target_dir else "inputs"
    if source.degraded:
        _refuse_pairs_as_clean(source, split)
        return "clean"
    if pair_places(source, split):
        return "pairs"
    folder, listing = images_in(split_folder(root, split))
    names = listing.names
    if words := telling_words(names):
        if words in VAGUE_WORDS:
            raise _pairs_or_photos(folder, names, words)
        return "suffix"
    flat = [name for name in names if "/" not in name]
    if folder != root and root.is_dir() and flat and all_double(folder, names, source.max_pixels):
        return "aligned"
    if names:
        if not flat:
            refuse_unknown_roles(source, split)
        return "inputs"
    raise UserError(
        f"no images found [--dataroot {root}]",
        "; ".join([f"{folder} holds {held_by(folder)}", *listing.remarks]),
        "give the folder of one set, with its pairs in train/input and train/target (see the README)",
    )


def all_double(folder: Path, names: Sequence[str], max_pixels: int) -> bool:
    """Whether images are exactly twice as wide as high, by at most MAX_HEADERS headers; those that cannot be
    read do not count. The other images are checked when they are decoded."""
    found = False
    for name in names[:: -(-len(names) // MAX_HEADERS)]:
        with suppress(UserError):  # it is reported when it is read
            file = header(folder / name, max_pixels)
            if file.width != 2 * file.height:
                return False
            found = True
    return found


def _pairs_or_photos(folder: Path, names: list[str], words: tuple[str, str]) -> UserError:
    """The error of names whose ends make pairs in some data sets, and number photos in others."""
    low, high = (next(n for n in names if Path(n).stem.lower().endswith(word)) for word in words)
    return UserError(
        f"{folder}: pairs in one folder, or photos that have nothing to do with each other?",
        f"all names end with _{words[0]} or _{words[1]}, such as {low} and {high}",
        "pairs: --layout suffix; photos without targets, for test.py: --layout inputs; "
        "clean images: --degrade, such as --degrade noise:25",
    )


def is_demo(source: Source) -> bool:
    return source.root == "demo" or source.root.startswith("demo:")


def is_manifest(source: Source) -> bool:
    return source.layout == "manifest" or Path(source.root).suffix.lower() == ".csv"


def _refuse_pairs_as_clean(source: Source, split: str) -> None:
    """Refuse pairs as clean images, unless `--layout clean` asks for it."""
    places = pair_places(source, split)
    if places:
        first, second = next(iter(places.values()))
        ways = [f"use --dataroot {second}"] if len(places) == 1 else []
        if len(splits_of(Path(source.root)).get(split, ())) < 2:
            ways.append("add --layout clean to use both as clean images")
        what = "--degrade makes inputs from clean images, but these are pairs"
        raise UserError(what, f"{first} and {second}", ", or ".join([*ways, "drop --degrade"]))


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
        if getattr(source, flag) and name not in ("pairs", "inputs", "unpaired"):
            raise UserError(f"--{flag} has no effect with --layout {name}", fix="drop it")
    if source.scale > 1 and name in ("aligned", "demo", "unpaired"):
        fix = f"use --degrade sr:{source.scale}, which makes inputs from clean images; or drop --scale"
        raise UserError(f"--layout {name} has no targets of --scale {source.scale}", fix=fix)
    if name == "inputs" and need_targets:
        raise no_targets(source, split)
    with garbage_collection_paused():
        pairs = LAYOUTS[name](source, split)
        pairs = pairs._replace(pairs=group_by_file(pairs.pairs))
        if again := repeated(pairs.pairs):
            remark = (
                f"{len(again)} pairs of {pairs.where} hold the files of an earlier one: {first_five(again)}"
            )
            pairs = pairs._replace(remarks=(*pairs.remarks, remark))
    if not pairs.pairs:
        fix = f"supported suffixes: {', '.join(SUFFIXES)}"
        raise UserError(f"no images in {pairs.where}", "; ".join(pairs.remarks), fix)
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
        return ["train", "val", "test"] if "unpaired" in source.root else ["train", "test"]
    if is_manifest(source):
        found = manifest_splits(manifest_rows(root))
        return [split for split in SPLITS if split in found]
    if source.input_dir:
        return [split for split in SPLITS if named_in_split(root, split, source.input_dir)]
    return list(splits_of(root))


# ----------------------------------------------------------------------- training, validation and test images


class Division(NamedTuple):
    """The images of a train split by what a run does with them.

    Args:
        parts: pairs by split: "train", "val", and "test" if a share is held out for testing.
        held_out: groups of targets that were held out of the train split, by split.
        notes: lines for the start of a new run.
    """

    parts: dict[str, PairList]
    held_out: dict[str, list[str]]
    notes: tuple[str, ...] = ()


def divide(listing: PairList, source: Source, holdout: Holdout) -> Division:
    """Divide the images of the train split into those of training, validation and testing.

    Never uses the test split for validation: choosing a checkpoint on the test images is a leak.

    Raises:
        UserError: a share for testing, although the data have a test split.
    """
    present, kept = splits_present(source), holdout.kept or {}
    train, parts, held_out, val_share = listing, dict[str, PairList](), {}, holdout.val_share
    if val_share is None and "val" not in present:
        val_share = DEFAULT_VAL_SHARE
    if holdout.test_share:
        if "test" in present:
            fix = "leave --test_share out, or give the folder of one split by --dataroot"
            raise UserError("--test_share holds out test images, but there is a test split", source.root, fix)
        train, parts["test"] = hold_out(train, holdout.test_share, holdout.seed, "test", kept.get("test"))
        held_out["test"] = groups_of(parts["test"])
        val_share = val_share and val_share * len(groups_of(listing)) / len(
            groups_of(train)
        )  # of all targets
    if val_share is None:
        val = find_pairs(source, "val", need_targets=listing.layout != "inputs")
    else:
        train, val = hold_out(train, val_share, holdout.seed, "val", kept.get("val"))
        held_out["val"] = groups_of(val)
    seen = {"train": train._replace(seen="trained on"), "val": val._replace(seen="validated on")}
    notes = [NO_TEST_IMAGES] * ("test" not in (*present, *parts))
    if 0 < len(groups := held_out.get("val", [])) <= FEW_TARGETS:
        notes.append(TOO_FEW_TARGETS.format(counted(len(groups), "validation image")))
    held = [part for name in held_out for part in (seen | parts)[name].pairs]
    trained_on = scenes_of(train.pairs)
    if len(trained_on) > 1 and (shared := sorted(trained_on & scenes_of(held))):
        notes.append(SHARED_SCENES.format(first_five(shared)))
    if listing.layout == "aligned":
        other = "BtoA" if source.direction == "AtoB" else "AtoB"
        notes.append(f"note    --direction {other} if the input is the other half")
    return Division(seen | parts, held_out, tuple(notes) if holdout.kept is None else ())


def scenes_of(pairs: Sequence[Pair]) -> set[str]:
    """The folders of images in folders."""
    return {name.rpartition("/")[0] for name, *_ in pairs if "/" in name}


def hold_out(
    pairs: PairList, share: float, seed: int, split: str = "val", kept: Sequence[str] | None = None
) -> tuple[PairList, PairList]:
    """Split the targets, with all their inputs, into (training, held out); a share of 0 holds out none.

    Of images without pairs, the share is held out of each set.

    Args:
        split: what the images are held out for.
        kept: the groups to hold out; None: choose them.
    """
    others = hold_out(pairs.others, share, seed, split, kept) if pairs.others else (None, None)
    if kept is None:
        groups = sorted({pair.group for pair in pairs.pairs})
        count = min(max(1, round(share * len(groups))), len(groups) - 1) if share > 0 else 0
        purpose: Purpose = "holdout" if split == "val" else "test_holdout"
        kept = [groups[i] for i in stream(seed, purpose).permutation(len(groups))[:count]]
    held = set(kept)
    train = [pair for pair in pairs.pairs if pair.group not in held]
    rest = [pair for pair in pairs.pairs if pair.group in held]
    where = f"{pairs.where}, held out of train"
    return pairs._replace(pairs=train, others=others[0]), pairs._replace(
        pairs=rest, split=split, where=where, remarks=(), others=others[1]
    )


def groups_of(pairs: PairList) -> list[str]:
    """Return the groups of pairs, one for each target, sorted."""
    return sorted({pair.group for pair in pairs.everything})


def same_data(one: Source, other: Source) -> bool:
    """Whether two sources list the same pairs; one of them may make its inputs, or have another scale."""
    alike = one._replace(root="", degraded=False, scale=1, max_pixels=1)
    if alike != other._replace(root="", degraded=False, scale=1, max_pixels=1):
        return False
    return one.root == other.root or (
        not (is_demo(one) or is_demo(other)) and os.path.realpath(one.root) == os.path.realpath(other.root)
    )


def images_to_test(
    source: Source, split: str, run: Source | None, holdout: Holdout, files: Files
) -> PairList:
    """The images that test.py measures; `seen` says how the run has seen them.

    Args:
        run: where the images of the run come from; None: its weights are of unknown origin.
        files: the fingerprint of the run's images; empty where it is not known.

    Raises:
        UserError: as `find_pairs`; images that the run was trained on, unless `split` is "train".
    """
    if run is None:
        return find_pairs(source, split)
    own = same_data(source, run)
    pairs = images_of_run(source, split, holdout) if own else find_pairs(source, split)
    if pairs.seen or not pairs.pairs[0].target:  # nothing will be measured; or no files: the demo
        return pairs
    try:
        parts = divide(find_pairs(run, "train"), run, holdout).parts
    except UserError as error:  # such as data that were moved
        if not files:
            remark = f"whether the run was trained on these images is unknown: {error.what}"
            return pairs._replace(remarks=(*pairs.remarks, remark))
        parts = {}
    tested = pairs.files()
    for name in ("train", "val"):
        if not (count := len(tested & parts[name].files()) if parts else 0):
            continue
        if name == "train" and split != "train":
            fix = "name other images by --dataroot, or say --split train"
            raise UserError(f"{count} of these files are what the run was trained on", pairs.where, fix)
        return pairs._replace(seen=parts[name].seen)
    seen = "" if own else seen_elsewhere(pairs, run, holdout, files)
    return pairs._replace(seen=seen)


def images_of_run(source: Source, split: str, holdout: Holdout) -> PairList:
    """The images of a split of the data that a run was trained on.

    A split that the data do not have is what the run held out of `train`; without test images, those of
    validation.

    Raises:
        UserError: the run held out none.
    """
    present = splits_present(source)
    for name in dict.fromkeys((split, "val")):
        if name in present and name != "train":
            return find_pairs(source, name)
        part = divide(find_pairs(source, "train"), source, holdout).parts.get(name)
        if part and part.pairs:
            return part
    why = f"the run held out none of {source.root}, which has {', '.join(present) or 'no splits'}"
    raise UserError(f"no images of the split '{split}'", why, "--split train, or --dataroot FOLDER")


def seen_elsewhere(pairs: PairList, run: Source, holdout: Holdout, files: Files) -> str:
    """How the run has seen copies of these images, in words; "" if it has not.

    What it held out for testing is among its files, too, and was not seen.
    """
    root, unseen = Path(run.root), set((holdout.kept or {}).get("test", ()))
    known = known_pairs(pairs, files, root if root.is_dir() else root.parent)
    count = sum(pair.group not in unseen for pair in known)
    copies = f"{count} of {len(pairs.pairs)} are copies of its images"
    return f"trained or validated on ({copies})" if count else ""
