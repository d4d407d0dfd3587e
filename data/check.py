"""Decode and compare every image file of a data set: `python -m data.check ROOT`, `train.py --check_data`.

Reports unreadable files, pairs that cannot be used, files that are in several splits, and the input PSNR.
"""

import argparse
import hashlib
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from data.datasets import ImageSpec, WholeDataset
from data.degrade import Degradation, parse_degradation
from data.folders import first_five
from data.images import open_regular
from data.pairs import MAX_SCALE, PairList, Source
from data.scan import HeaderScan, pair_headers
from data.splits import find_pairs, splits_present
from utils.eval.evaluator import input_baseline
from utils.eval.metrics import Protocol
from utils.options import parse_or_exit, source_of
from utils.options.flags import DEBUG, data_flags
from utils.options.parser import COUNT, Parser, flag, number
from utils.system.errors import UserError, run_script
from utils.system.streams import fix_streams
from utils.vis.console import Progress, say_on

Say = Callable[[str], None]
MAX_PAIRS_FOR_CHANNELS = 500
HASHED_BYTES = 2**20  # at a time


class Finding(NamedTuple):
    """The result of checking one pair."""

    name: str
    problem: str  # empty if the pair can be used
    hashes: dict[str, str]  # path: SHA-256
    sizes: list[tuple[int, int]]
    kinds: list[str]
    psnr: float | None  # of the input


def check_data(source: Source, degrade: Degradation | None, seed: int, say: Say) -> int:
    """Check every file of every split and report through `say`.

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
            problems.append(f"{split}: {error.what}: {error.why}".rstrip(": "))
            continue
        say(pairs.describe())
        problems += [f"{split}: {remark}" for remark in pairs.remarks]
        if pairs.layout == "demo":
            continue
        channels = channels or channels_of(pairs)
        findings = check_pairs(pairs, ImageSpec(*channels, degrade=degrade, seed=seed))
        report_split(findings, say)
        wrong = [f"{finding.name}: {finding.problem}" for finding in findings if finding.problem]
        if wrong:
            problems.append(f"{split}: {len(wrong)} pairs cannot be used: {first_five(wrong)}")
        paths[split] = paths_by_hash(findings)
    problems += shared_between_splits(paths)
    for problem in problems:
        say(f"problem: {problem}")
    say(f"{len(problems)} problems found" if problems else "no problems found")
    return 2 if problems else 0


def channels_of(pairs: PairList) -> tuple[int, int]:
    """Return the channels of inputs and targets that training would use; skips unreadable files."""
    input_nc = target_nc = 1
    for pair in pairs.pairs[:MAX_PAIRS_FOR_CHANNELS]:
        with suppress(UserError):
            input, target = pair_headers(pair, pairs)
            input_nc, target_nc = max(input_nc, input.channels), max(target_nc, target.channels)
    return input_nc, target_nc


def check_pairs(pairs: PairList, spec: ImageSpec) -> list[Finding]:
    """Decode and hash all files, in one thread per core (Pillow releases the GIL).

    Args:
        spec: as in training, because a degradation draws noise for each channel.
    """
    dataset = WholeDataset(pairs, spec)
    progress = Progress(f"checking {pairs.split}", 0, len(dataset))
    findings = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for finding in pool.map(partial(check_pair, dataset), range(len(dataset))):
            findings.append(finding)
            progress.step()
            progress.show("")
    progress.close()
    return findings


def check_pair(dataset: WholeDataset, index: int) -> Finding:
    """Decode and hash the files of one pair."""
    pair = dataset.pairs.pairs[index]
    hashes: dict[str, str] = {}
    try:
        for path in {pair.input, pair.target} - {None}:
            assert path is not None
            hashes[str(path)] = sha256(path)
        headers = pair_headers(pair, dataset.pairs)
        whole = dataset.whole(index)
    except (UserError, OSError) as error:
        problem = f"{error.what} ({error.why})" if isinstance(error, UserError) else str(error)
        return Finding(pair.name, problem, hashes, [], [], None)
    scores = {} if whole.target is None else input_baseline(whole.input, whole.target, Protocol())
    sizes = [(headers[1].width, headers[1].height)]
    return Finding(pair.name, "", hashes, sizes, list({h.kind for h in headers}), scores.get("psnr"))


def report_split(findings: list[Finding], say: Say) -> None:
    """Report sizes, kinds of files, the input PSNR, and identical files."""
    sizes = [size for finding in findings for size in finding.sizes]
    if sizes:
        kinds = Counter(kind for finding in findings for kind in finding.kinds)
        say(f"  {HeaderScan(0, 0, 0, sizes, kinds).describe()}")
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


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(HASHED_BYTES):
            digest.update(block)
    return digest.hexdigest()


def parse_check(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line of `python -m data.check`."""
    flags = [
        *data_flags(None),
        flag("--direction", "AtoB", ["AtoB", "BtoA"], "which half or folder is the input"),
        flag("--scale", None, number(int, 1, MAX_SCALE), "target size / input size"),
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
    return check_data(source_of(vars(opt)), degrade, opt.seed, say_on(True))


if __name__ == "__main__":
    fix_streams()
    sys.exit(run_script(main, parse_or_exit(parse_check)))
