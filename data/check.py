"""Decode and compare every image file of a data set: `python -m data.check ROOT`, `train.py --check_data`.

Reports unreadable files, pairs that cannot be used, files that are in several splits, and the input PSNR.
"""

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from data.datasets import ImageSpec, WholeDataset, too_small
from data.degrade import Degradation, parse_degradation
from data.folders import first_five
from data.images import Header, open_regular
from data.pairs import MAX_SCALE, PairList, Source, counted
from data.ranges import Ranges
from data.scan import HeaderScan, pair_headers, summarize
from data.splits import find_pairs, splits_present
from utils.eval.evaluator import input_baseline
from utils.eval.metrics import Protocol
from utils.options import parse_or_exit, source_of
from utils.options.flags import DEBUG, data_flags
from utils.options.kinds import COUNT, NATURAL, number
from utils.options.parser import Parser, flag
from utils.system.errors import UserError, run_script
from utils.system.hashes import sha256
from utils.system.streams import fix_streams
from utils.vis.console import Progress, say_on

Say = Callable[[str], None]


class Finding(NamedTuple):
    """The result of checking one pair."""

    name: str
    problem: str  # empty if the pair can be used
    hashes: dict[str, str]  # path: SHA-256
    headers: tuple[Header, Header] | None = None
    ranges: Ranges | None = None
    psnr: float | None = None  # of the input


def check_data(
    source: Source, degrade: Degradation | None, seed: int, say: Say, crop_size: int | None = None
) -> int:
    """Check every file of every split and report through `say`.

    Args:
        crop_size: of training; smaller training images are a problem.

    Returns:
        The exit code: 2 if training would fail or its metrics would be wrong, else 0.
    """
    problems: list[str] = []
    paths: dict[str, dict[str, list[str]]] = {}  # split: hash: paths
    channels: tuple[int, int] | None = None  # of the first split, train; used for all
    for split in splits_present(source) or ["train"]:
        try:
            pairs = find_pairs(source, split, need_targets=split != "test")
        except UserError as error:
            problem = f"{split}: {error.what}: {error.why}".rstrip(": ")
            problems.append(problem + f"\n  fix: {error.fix}" * bool(error.fix))
            continue
        say(pairs.describe())
        problems += [f"{split}: {remark}" for remark in pairs.remarks]
        if pairs.layout == "demo":
            continue
        channels = channels or channels_of(pairs)
        dataset = WholeDataset(pairs, ImageSpec(*channels, degrade=degrade, seed=seed))
        findings = check_pairs(dataset, source)
        if pairs.others:
            findings += check_pairs(WholeDataset(pairs.others, dataset.spec.mirrored()), source)
        scan = scan_of(findings)
        report_split(findings, scan, say)
        wrong = [f"{finding.name}: {finding.problem}" for finding in findings if finding.problem]
        if wrong:
            problems.append(f"{split}: {len(wrong)} pairs cannot be used: {first_five(wrong)}")
        used = Ranges(source.max_value, source.degraded)
        for each in filter(None, (finding.ranges for finding in findings)):
            used.merge(each)
        remarks = [*scan.remarks(), *used.remarks()] if scan else []
        problems += [f"{split}: {remark}" for remark in remarks]
        if scan and crop_size and split == "train":
            problems += smaller_than_crop(scan, crop_size, dataset.scale)
        paths[split] = paths_by_hash(findings)
    problems += shared_between_splits(paths)
    for problem in problems:
        say(f"problem: {problem}")
    say(f"{counted(len(problems), 'problem')} found" if problems else "no problems found")
    return 2 if problems else 0


def channels_of(pairs: PairList) -> tuple[int, int]:
    """Return the channels of inputs and targets that training would use; skips unreadable files."""
    input_nc = target_nc = 1
    for pair in pairs.pairs:
        with suppress(UserError):
            input, target = pair_headers(pair, pairs)
            input_nc, target_nc = max(input_nc, input.channels), max(target_nc, target.channels)
    return input_nc, target_nc


def check_pairs(dataset: WholeDataset, source: Source) -> list[Finding]:
    """Decode and hash all files, in one thread per core (Pillow releases the GIL).

    Args:
        dataset: converts as training does, because a degradation draws noise for each channel.
    """
    progress = Progress(f"checking {dataset.pairs.split}", 0, len(dataset))
    findings = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for finding in pool.map(partial(check_pair, dataset, source), range(len(dataset))):
            findings.append(finding)
            progress.step()
            progress.show("")
    progress.close()
    return findings


def check_pair(dataset: WholeDataset, source: Source, index: int) -> Finding:
    """Decode and hash the files of one pair."""
    pair = dataset.pairs.pairs[index]
    hashes: dict[str, str] = {}
    try:
        for path in {pair.input, pair.target} - {None}:
            assert path is not None
            hashes[str(path)] = hash_of(path)
        headers = pair_headers(pair, dataset.pairs)
        whole = dataset.whole(index)
    except (UserError, OSError) as error:
        problem = f"{error.what} ({error.why})" if isinstance(error, UserError) else str(error)
        return Finding(pair.name, problem, hashes)
    ranges = Ranges(source.max_value, source.degraded)
    ranges.watch(whole)
    scores = {} if whole.target is None else input_baseline(whole.input, whole.target, Protocol())
    return Finding(pair.name, "", hashes, headers, ranges, scores.get("psnr"))


def scan_of(findings: list[Finding]) -> HeaderScan | None:
    """Summarize the headers of the pairs that can be used; None without such pairs."""
    usable = [(finding.name, *finding.headers) for finding in findings if finding.headers]
    return summarize(usable) if usable else None


def smaller_than_crop(scan: HeaderScan, crop_size: int, scale: int) -> list[str]:
    """Report the training images that --crop_size does not fit into."""
    found = [
        "{} ({} x {})".format(scan.names[i], *scan.sizes[i]) for i in too_small(scan.sizes, crop_size, scale)
    ]
    if not found:
        return []
    return [f"train: {len(found)} images are smaller than --crop_size {crop_size}: {first_five(found)}"]


def report_split(findings: list[Finding], scan: HeaderScan | None, say: Say) -> None:
    """Report sizes, kinds of files, the input PSNR, and identical files."""
    if scan:
        say(f"  {scan.describe()}")
    values = [finding.psnr for finding in findings if finding.psnr is not None]
    finite = [value for value in values if value != float("inf")]
    if finite:
        mean = sum(finite) / len(finite)
        say(f"  input PSNR {mean:.2f} dB, {min(finite):.2f} to {max(finite):.2f}")
    if len(finite) < len(values):
        say(f"  note: {len(values) - len(finite)} inputs equal their targets")
    identical = [" = ".join(paths) for paths in paths_by_hash(findings).values() if len(paths) > 1]
    if identical:
        say(f"  note: {len(identical)} groups of byte-identical files: {first_five(identical)}")


def paths_by_hash(findings: Iterable[Finding]) -> dict[str, list[str]]:
    """Group the paths of all files by content."""
    paths: defaultdict[str, set[str]] = defaultdict(set)
    for finding in findings:
        for path, digest in finding.hashes.items():
            paths[digest].add(path)
    return {digest: sorted(group) for digest, group in paths.items()}


def shared_between_splits(paths: dict[str, dict[str, list[str]]]) -> list[str]:
    """Report files that are in two splits: the network would be tested on images it was trained on.

    Args:
        paths: of each split by their hashes.
    """
    found = []
    for (one, ones), (other, others) in combinations(paths.items(), 2):
        common = [f"{ones[digest][0]} = {others[digest][0]}" for digest in ones.keys() & others.keys()]
        if common:
            found.append(f"{len(common)} files of {one} are also in {other}: {first_five(common)}")
    return found


def hash_of(path: Path) -> str:
    with open_regular(path) as file:
        return sha256(file)


def parse_check(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line of `python -m data.check`."""
    flags = [
        *data_flags(None),
        flag("--direction", "AtoB", ["AtoB", "BtoA"], "which half or folder is the input"),
        flag("--scale", None, number(int, 1, MAX_SCALE), "target size / input size"),
        flag("--crop_size", None, NATURAL, "of training: smaller training images are a problem"),
        flag("--seed", 0, COUNT, "of the degradation"),
        DEBUG,
    ]
    usage = "%(prog)s ROOT [flags]"
    parser = Parser("python -m data.check", "Check every image file of a data set.", {"data": flags}, usage)
    parser.add_argument("root", nargs="?", help="the same as --dataroot")
    opt = parser.options(argv)
    opt.dataroot = opt.root or opt.dataroot
    if opt.dataroot is None:
        parser.error("no data [ROOT]")
    return opt


def main(opt: argparse.Namespace, cleanup: ExitStack) -> int:
    """Check the data set of a command line; returns the exit code."""
    degrade = parse_degradation(opt.degrade) if opt.degrade else None
    crop_size = None if vars(opt).get("size") else opt.crop_size  # --size enlarges small images
    return check_data(source_of(vars(opt)), degrade, opt.seed, say_on(True), crop_size)


if __name__ == "__main__":
    fix_streams()
    sys.exit(run_script(main, parse_or_exit(parse_check)))
