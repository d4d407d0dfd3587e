"""Which files make a pair: the layouts that users have on disk, and how names are matched.

A layout is a function `(root, split, direction) -> Listing`; listing decodes no pixel.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from utils.errors import Refusal
from utils.images import SUFFIXES, header, open_image

SPLITS = ("train", "val", "test")
FOLDERS = (  # (input, target): names that data sets use
    ("input", "target"),
    ("A", "B"),
    ("hazy", "clear"),
    ("hazy", "GT"),
    ("rain", "norain"),
    ("noisy", "clean"),
    ("blur", "sharp"),
    ("low", "high"),
    ("LQ", "GT"),
)


class Pair(NamedTuple):
    """One sample. `name` is where its output goes; `group` is equal for all inputs of one target."""

    name: str
    input: Path | None
    target: Path | None
    group: str


class Listing(NamedTuple):
    """The pairs of one split, and how to read one of them as (input, target) Pillow images."""

    layout: str
    split: str
    where: str
    pairs: list[Pair]
    read: Callable[[Pair], tuple[Image.Image, Image.Image | None]]

    def describe(self) -> str:
        targets = len({pair.group for pair in self.pairs})
        return f"{self.split}: {len(self.pairs)} images of {targets} targets, {self.layout} ({self.where})"


# --------------------------------------------------------------------------------------------- files on disk


def list_images(folder: Path) -> list[str]:
    """Image files below `folder`, as sorted relative paths with `/`; hidden ones are left out."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner = Path(place).relative_to(folder)
        found += [
            (inner / name).as_posix()
            for name in files
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return sorted(found)


def split_folder(root: Path, split: str) -> Path:
    """`root/split`, or `root` itself where it has no split folders at all.

    Raises:
        Refusal: no such folder, or other splits exist but not this one.
    """
    if not root.is_dir():
        raise Refusal(
            f"no such folder [--dataroot {root}]", fix=f"name a folder, or 'demo'{_neighbours(root)}"
        )
    present = splits_of(root)
    if split in present:
        return root / split
    if present:
        raise Refusal(f"{root} has no split '{split}'", f"it has {', '.join(present)}", "choose one of these")
    return root


def splits_of(root: Path) -> list[str]:
    """The split folders that exist: `train`, and also `trainA` next to `trainB`."""
    return [
        s for s in SPLITS if (root / s).is_dir() or ((root / f"{s}A").is_dir() and (root / f"{s}B").is_dir())
    ]


def _neighbours(root: Path) -> str:
    near = sorted(p.name for p in root.parent.iterdir() if p.is_dir()) if root.parent.is_dir() else []
    return f" ({root.parent} holds {', '.join(near[:6])})" if near else ""


def pair_folders(root: Path, split: str) -> tuple[Path, Path] | None:
    """The input and target folder of a split under one of the known names, or None."""
    if (root / f"{split}A").is_dir() and (root / f"{split}B").is_dir():
        return root / f"{split}A", root / f"{split}B"
    folder = split_folder(root, split)
    for first, second in FOLDERS:
        if (folder / first).is_dir() and (folder / second).is_dir():
            return folder / first, folder / second
    return None


# -------------------------------------------------------------------------------------------- matching names


def match_names(inputs: Iterable[str], targets: Iterable[str]) -> dict[str, str]:
    """Map each input to its target by name, sub-folder included, never by position.

    Equal stems for the whole set; else, for the whole set, the longest prefix of the input's stem that ends
    before a `_` and is a target's stem (several inputs may share a target, as in RESIDE).

    >>> match_names(["a.png", "b.jpg"], ["a.png", "b.png"])
    {'a.png': 'a.png', 'b.jpg': 'b.png'}
    >>> match_names(["1_1_0.9.png", "1_2_0.8.png"], ["1.png"])
    {'1_1_0.9.png': '1.png', '1_2_0.8.png': '1.png'}

    Raises:
        Refusal: two files of one stem on a side, or files left over; names the first five of each side.
    """
    sources, goals = _by_stem(inputs, "input"), _by_stem(targets, "target")
    if sources.keys() == goals.keys():
        return {sources[stem]: goals[stem] for stem in sources}
    found = {stem: _longest_prefix(stem, goals) for stem in sources}
    lone_inputs = [sources[stem] for stem, goal in found.items() if goal is None]
    lone_targets = [goals[stem] for stem in goals.keys() - found.values()]
    if len(lone_inputs) == len(
        sources
    ):  # prefixes are not how this set is named: report the equal stems' gaps
        lone_inputs = [sources[stem] for stem in sources.keys() - goals.keys()]
        lone_targets = [goals[stem] for stem in goals.keys() - sources.keys()]
    if lone_inputs or lone_targets:
        raise Refusal(
            f"{len(lone_inputs)} inputs and {len(lone_targets)} targets have no partner",
            f"inputs: {_first_five(lone_inputs)}; targets: {_first_five(lone_targets)}",
            "give both files of a pair one name, or inputs the target's name followed by _ and anything",
        )
    return {sources[stem]: goals[goal] for stem, goal in found.items() if goal is not None}


def _stem(name: str) -> str:
    return re.sub(r"\.[^./]+$", "", name)


def _by_stem(names: Iterable[str], side: str) -> dict[str, str]:
    stems = defaultdict(list)
    for name in names:
        stems[_stem(name)].append(name)
    double = [name for group in stems.values() if len(group) > 1 for name in group]
    if double:
        raise Refusal(f"several {side} files share one name", _first_five(double), "keep one of each")
    return {stem: group[0] for stem, group in stems.items()}


def _longest_prefix(stem: str, goals: dict[str, str]) -> str | None:
    """The longest part of `stem` before a `_` of its file name that is a goal."""
    while "_" in stem.rpartition("/")[2]:
        stem = stem.rpartition("_")[0]
        if stem in goals:
            return stem
    return None


def _first_five(names: Iterable[str]) -> str:
    names = sorted(names)
    return (", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")) or "none"


# --------------------------------------------------------------------------------------------------- layouts


def pairs(root: str, split: str, direction: str) -> Listing:
    """`ROOT/{train,val,test}/{input,target}`, or another known pair of folder names."""
    folders = pair_folders(Path(root), split)
    if folders is None:
        known = ", ".join(f"{a}/{b}" for a, b in FOLDERS)
        raise Refusal(
            f"no pair of folders under {split_folder(Path(root), split)}", fix=f"name them as one of {known}"
        )
    first, second = folders
    if direction == "BtoA":
        first, second = second, first
    names = match_names(list_images(first), list_images(second))
    found = [Pair(a, first / a, second / b, b) for a, b in sorted(names.items())]

    def read(pair: Pair) -> tuple[Image.Image, Image.Image | None]:
        assert pair.input is not None and pair.target is not None
        images = open_image(pair.input), open_image(pair.target)
        if images[0].size != images[1].size:
            raise _unequal(pair, images[0].size, images[1].size)
        return images

    return Listing("pairs", split, f"{first} -> {second.name}", found, read)


def _unequal(pair: Pair, one: tuple[int, int], two: tuple[int, int]) -> Refusal:
    sizes = "{} is {} x {}, {} is {} x {}".format(pair.input, *one, pair.target, *two)
    return Refusal("the two images of a pair differ in size", sizes, "crop, resize or remove them")


def aligned(root: str, split: str, direction: str) -> Listing:
    """`ROOT/{train,val,test}/` holding images of two halves side by side; A is the left one."""
    folder = split_folder(Path(root), split)
    found = [Pair(name, folder / name, folder / name, name) for name in list_images(folder)]

    def read(pair: Pair) -> tuple[Image.Image, Image.Image | None]:
        assert pair.input is not None
        both = open_image(pair.input)
        half = _half(pair.input, both.width)
        left, right = both.crop((0, 0, half, both.height)), both.crop((half, 0, both.width, both.height))
        return (left, right) if direction == "AtoB" else (right, left)

    return Listing("aligned", split, f"{folder}, {direction}", found, read)


def _half(path: Path, width: int) -> int:
    half, odd = divmod(width, 2)
    if odd:
        raise Refusal(f"{path} has an odd width", f"{width} pixels cannot be halved")
    return half


def clean(root: str, split: str, direction: str) -> Listing:
    """Clean images in one folder or in `ROOT/{train,val,test}/`; `--degrade` makes the inputs."""
    folder = split_folder(Path(root), split)
    found = [Pair(name, folder / name, folder / name, name) for name in list_images(folder)]

    def read(pair: Pair) -> tuple[Image.Image, Image.Image | None]:
        assert pair.target is not None
        image = open_image(pair.target)
        return image, image

    return Listing("clean", split, str(folder), found, read)


def inputs(root: str, split: str, direction: str) -> Listing:
    """A folder of inputs without targets: outputs, but no metrics."""
    folder = split_folder(Path(root), split)
    found = [Pair(name, folder / name, None, name) for name in list_images(folder)]

    def read(pair: Pair) -> tuple[Image.Image, Image.Image | None]:
        assert pair.input is not None
        return open_image(pair.input), None

    return Listing("inputs", split, str(folder), found, read)


def demo(root: str, split: str, direction: str) -> Listing:
    """`demo` or `demo:SCENES:SIZE`: rendered scenes, no files (default 160 scenes of 160 x 160 to train on).

    An eighth as many other scenes make the test split; each scene comes in several strengths of haze.
    """
    from data.demo import HAZES, render_pair

    shape = re.fullmatch(r"demo(?::(\d+):(\d+))?", root)
    scenes, size = (
        (int(value or default) for value, default in zip(shape.groups(), (160, 160), strict=True))
        if shape
        else (0, 0)
    )
    if scenes < 1 or size < 16:
        raise Refusal(
            f"bad demo data [--dataroot {root}]", fix="demo or demo:SCENES:SIZE, with SIZE of at least 16"
        )
    if split not in ("train", "test"):
        raise Refusal(f"demo has no split '{split}'", "it has train, test")
    first, count = (
        (0, scenes) if split == "train" else (1_000_000, max(1, scenes // 8))
    )  # never the same scene
    found = [
        Pair(f"{scene:04d}_{level}.png", None, None, f"{scene:04d}")
        for scene in range(count)
        for level in range(HAZES)
    ]

    def read(pair: Pair) -> tuple[Image.Image, Image.Image | None]:
        scene, level = Path(pair.name).stem.split("_")
        hazy, clear = render_pair(first + int(scene), int(level), size)
        return Image.fromarray(hazy), Image.fromarray(clear)

    return Listing("demo", split, f"{size} x {size} pixels, rendered", found, read)


LAYOUTS: dict[str, Callable[[str, str, str], Listing]] = {
    "pairs": pairs,
    "aligned": aligned,
    "clean": clean,
    "inputs": inputs,
    "demo": demo,
}


def detect(root: str, split: str, degraded: bool) -> str:
    """The layout of `root` (what `--layout auto` does)."""
    if root == "demo" or root.startswith("demo:"):
        return "demo"
    if degraded:
        return "clean"
    if pair_folders(Path(root), split):
        return "pairs"
    folder = split_folder(Path(root), split)
    if folder != Path(root) and any(path.suffix.lower() in SUFFIXES for path in folder.iterdir()):
        return "aligned"
    if folder == Path(root) and list_images(folder):
        return "inputs"
    holds = sorted(path.name for path in folder.iterdir() if path.is_dir())
    raise Refusal(
        f"no pairs found [--dataroot {root}]",
        f"{folder} holds {_first_five(holds)}",
        "name the folder of one set, with its pairs in train/input and train/target (see the README)",
    )


def find_pairs(
    root: str,
    split: str,
    layout: str = "auto",
    direction: str = "AtoB",
    degraded: bool = False,
    need_targets: bool = False,
) -> Listing:
    """List the pairs of one split.

    Raises:
        Refusal: nothing found, no targets though needed, names that do not match, or a layout and `--degrade`
            that contradict each other.
    """
    name = detect(root, split, degraded) if layout == "auto" else layout
    if (name == "clean") != degraded and not (name == "demo" and degraded):
        raise Refusal(
            f"--layout {name} {'takes no' if degraded else 'needs'} --degrade", fix="give both or neither"
        )
    if name == "inputs" and need_targets:
        holds = _first_five(path.name for path in Path(root).iterdir() if not path.name.startswith("."))
        raise Refusal(
            f"no targets found [--dataroot {root}]",
            f"it holds {holds}",
            "name the folder of one set; its pairs in train/input and train/target; or give --degrade",
        )
    listing = LAYOUTS[name](root, split, direction)
    if not listing.pairs:
        raise Refusal(f"no images in {listing.where}", fix=f"known kinds: {', '.join(SUFFIXES)}")
    return listing


def validation(
    listing: Listing,
    root: str,
    layout: str,
    direction: str,
    degraded: bool,
    val_from: str,
    share: float,
    seed: int,
) -> tuple[Listing, Listing]:
    """(training, validation) pairs: the `val` split where it exists and may be used, else a part of train.

    Never the test split: choosing a checkpoint on the test images is a leak.
    """
    if val_from == "auto" and listing.layout != "demo" and "val" in splits_of(Path(root)):
        return listing, find_pairs(root, "val", layout, direction, degraded)
    return hold_out(listing, share, seed)


def hold_out(listing: Listing, share: float, seed: int) -> tuple[Listing, Listing]:
    """Part the targets, with all their inputs, into (training, validation); a share of 0 holds none out."""
    import numpy as np

    groups = sorted({pair.group for pair in listing.pairs})
    count = min(max(1, round(share * len(groups))), len(groups) - 1) if share > 0 else 0
    held = {groups[i] for i in np.random.default_rng([seed, 2]).permutation(len(groups))[:count]}
    kept = [pair for pair in listing.pairs if pair.group not in held]
    out = [pair for pair in listing.pairs if pair.group in held]
    return listing._replace(pairs=kept), listing._replace(pairs=out, split="val", where="held out of train")


def survey(listing: Listing, limit: int = 1000) -> tuple[int, int, list[tuple[int, int]]]:
    """(input channels, target channels, sizes of the inputs) from at most `limit` headers.

    Raises:
        Refusal: an unreadable header, or the two images of a pair differ in size.
    """
    input_nc = target_nc = 1
    sizes = []
    if listing.layout == "demo":
        image, _ = listing.read(listing.pairs[0])
        return 3, 3, [image.size]
    for pair in listing.pairs[:limit]:
        assert pair.input is not None
        *size, channels = header(pair.input)
        input_nc = max(input_nc, channels)
        if listing.layout == "aligned":
            size[0] = _half(pair.input, size[0])
        if pair.target is not None and pair.target != pair.input:
            *other, channels = header(pair.target)
            if other != size:
                raise _unequal(pair, (size[0], size[1]), (other[0], other[1]))
        target_nc = max(target_nc, channels)
        sizes.append((size[0], size[1]))
    return input_nc, target_nc, sizes
