"""`train.py --check_data`: every file of every split, before a wrong one costs a night of training."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data.datasets import ImageSpec, WholeDataset
from data.degrade import Degradation
from data.folders import first_five
from data.pairs import PairList, Source
from data.scan import HeaderScan, pair_headers
from data.splits import find_pairs, splits_present
from utils.eval.evaluator import input_baseline
from utils.eval.metrics import Protocol
from utils.system.errors import UserError
from utils.vis.console import Progress

Say = Callable[[str], None]


class Finding(NamedTuple):
    """What one pair turned out to be; `wrong` is empty where nothing is."""

    name: str
    wrong: str
    hashes: dict[str, str]  # path to SHA-256
    sizes: list[tuple[int, int]]
    kinds: list[str]
    psnr: float | None  # of doing nothing


def check_data(source: Source, degrade: Degradation | None, seed: int, say: Say) -> int:
    """Look at every file of every split and say what was found.

    Returns:
        The exit code: 2 where training, or the figures after it, would be wrong; else 0.
    """
    problems: list[str] = []
    seen: dict[str, dict[str, list[str]]] = {}  # split -> hash -> paths
    channels: tuple[int, int] | None = None  # those of the first split, train, hold for all
    for split in splits_present(source) or ["train"]:
        try:
            listing = find_pairs(source, split, need_targets=split != "test")
        except UserError as refusal:
            problems.append(f"{split}: {refusal.what}: {refusal.why}".rstrip(": "))
            continue
        say(listing.describe())
        if listing.layout == "demo":
            continue
        channels = channels or channels_of(listing)
        findings = examine(listing, degrade, seed, channels)
        report_split(findings, say)
        wrong = [f"{finding.name}: {finding.wrong}" for finding in findings if finding.wrong]
        if wrong:
            problems.append(f"{split}: {len(wrong)} pairs cannot be used: {first_five(wrong)}")
        seen[split] = by_hash(findings)
        double = [" = ".join(paths) for paths in seen[split].values() if len(paths) > 1]
        if double:
            say(f"  note: {len(double)} times byte-identical files: {first_five(double)}")
    problems += leaks(seen)
    for problem in problems:
        say(f"problem: {problem}")
    say(f"{len(problems)} problems found" if problems else "nothing wrong found")
    return 2 if problems else 0


def channels_of(listing: PairList) -> tuple[int, int]:
    """Channels of inputs and of targets that a training on this listing would use, unreadable files aside."""
    input_nc = target_nc = 1
    for pair in listing.pairs[:500]:
        with suppress(UserError):
            given, target = pair_headers(pair, listing)
            input_nc, target_nc = max(input_nc, given.channels), max(target_nc, target.channels)
    return input_nc, target_nc


def examine(
    listing: PairList, degrade: Degradation | None, seed: int, channels: tuple[int, int]
) -> list[Finding]:
    """Decode and hash all files of a listing, several at a time (Pillow decodes without Python's lock)."""
    # as many channels as in training: a degradation draws its noise for each
    dataset = WholeDataset(listing, ImageSpec(*channels, degrade=degrade, seed=seed))
    progress = Progress(f"checking {listing.split}", 0, len(listing.pairs))
    findings = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for finding in pool.map(partial(examine_pair, dataset), range(len(listing.pairs))):
            findings.append(finding)
            progress.step()
            progress.show("")
    progress.close()
    return findings


def examine_pair(dataset: WholeDataset, index: int) -> Finding:
    """Decode and hash the files of one pair."""
    listing = dataset.pairs
    pair = listing.pairs[index]
    hashes: dict[str, str] = {}
    try:
        for path in {pair.input, pair.target} - {None}:
            assert path is not None
            hashes[str(path)] = sha256(path)
        headers = pair_headers(pair, listing)
        whole = dataset.whole(index)
    except (UserError, OSError) as error:
        why = f"{error.what} ({error.why})" if isinstance(error, UserError) else str(error)
        return Finding(pair.name, why, hashes, [], [], None)
    scores = {} if whole.target is None else input_baseline(whole.input, whole.target, Protocol())
    sizes = [(headers[1].width, headers[1].height)]
    return Finding(pair.name, "", hashes, sizes, list({h.kind for h in headers}), scores.get("psnr"))


def report_split(findings: list[Finding], say: Say) -> None:
    """Sizes, kinds of files, and the PSNR of doing nothing."""
    sizes = [size for finding in findings for size in finding.sizes]
    if sizes:
        kinds = Counter(kind for finding in findings for kind in finding.kinds)
        say(f"  {HeaderScan(0, 0, 0, sizes, kinds).describe()}")
    values = [finding.psnr for finding in findings if finding.psnr is not None]
    finite = [value for value in values if value != float("inf")]
    if finite:
        mean = sum(finite) / len(finite)
        say(f"  doing nothing: PSNR {mean:.2f} dB, {min(finite):.2f} to {max(finite):.2f}")
    if len(finite) < len(values):
        say(f"  note: {len(values) - len(finite)} inputs equal their targets")


def by_hash(findings: Iterable[Finding]) -> dict[str, list[str]]:
    """Paths of the files of each content, every path once."""
    paths: defaultdict[str, set[str]] = defaultdict(set)
    for finding in findings:
        for path, digest in finding.hashes.items():
            paths[digest].add(path)
    return {digest: sorted(group) for digest, group in paths.items()}


def leaks(seen: dict[str, dict[str, list[str]]]) -> list[str]:
    """Byte-identical files in two splits: a figure measured on them is of images that were trained on."""
    found = []
    splits = list(seen)
    for i, one in enumerate(splits):
        for other in splits[i + 1 :]:
            common = [
                f"{seen[one][h][0]} = {seen[other][h][0]}" for h in seen[one].keys() & seen[other].keys()
            ]
            if common:
                found.append(f"{len(common)} files of {one} are also in {other}: {first_five(common)}")
    return found


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
