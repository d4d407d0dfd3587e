# PYTHON_ARGCOMPLETE_OK
"""Measure a trained network: PSNR of every image at native size, beside the PSNR of its input.

python test.py --name demo_resunet                                               # the run's own test images
python test.py --name denoise --dataroot datasets/set12 --degrade noise:25       # clean images, noise added
python test.py --name dehaze --dataroot my_photos                                # no targets: outputs only
python test.py --name dehaze --dataroot photo.jpg --output clear.jpg             # one photo
python test.py --weights dncnn.pth --model dncnn --input_nc 1 --mean 0 --std 1 --dataroot datasets/set12 ...
"""

import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports ends it without a traceback

from utils.options import (
    degradation_to_test,
    holdout_of,
    network_to_test,
    parse_or_exit,
    parse_test,
    saved_options,
    source_of,
    source_to_test,
)
from utils.system.streams import fix_streams

if __name__ == "__main__":
    fix_streams()
    opt = parse_or_exit(parse_test)  # --help and wrong flags end here, before torch is imported

from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch

from data.datasets import ImageSpec, Whole, WholeDataset
from data.degrade import parse_degradation
from data.loader import whole_loader
from data.ranges import Ranges
from data.splits import images_to_test
from models.fetch import local_weights
from models.layers import size_of
from models.run import load_network
from models.tiling import Tiling
from utils.eval.evaluator import Evaluator, Prediction
from utils.eval.folder import ResultsFolder, dataset_name, variant
from utils.eval.lpips import open_lpips
from utils.eval.metrics import Protocol
from utils.eval.misfits import nothing_read, wrong_scale
from utils.eval.perceptual import KID, measure_all, open_comparisons
from utils.eval.summary import caveats, is_gray_on_colour
from utils.run.run import Run, versions
from utils.system import distributed
from utils.system.device import amp_enabled, peak_memory_mib, set_float32
from utils.system.distributed import Ranks
from utils.system.errors import UserError, first_sentence, run_script
from utils.system.signals import Signals
from utils.vis.console import say_on
from utils.vis.recorder import Live, Recorder


def main(opt: Namespace, cleanup: ExitStack) -> int:
    """Test, top to bottom; returns the exit code. `cleanup` is unwound however it ends."""
    # ---- the run (or the flags that stand for one), where to compute
    run = Run.named(opt.name)
    saved = opt if opt.model else saved_options(run)
    trained, net_name = network_to_test(opt, saved)
    ranks = distributed.init(opt.gpu_ids)
    amp = amp_enabled(opt.amp, ranks.device)
    set_float32(ranks.device, tf32=False)
    say = say_on(ranks.is_main)

    # ---- network
    weights = local_weights(opt.weights) if opt.weights else run.saved_net(opt.load, net_name)
    net, how = load_network(vars(trained), weights)
    net.to(ranks.device)
    scale = size_of(net).scale

    # ---- data: the run's own unless --dataroot names other images
    opt.degrade = degradation_to_test(opt, trained)
    degrade = parse_degradation(opt.degrade) if opt.degrade else None
    source = source_to_test(opt, trained, scale)
    run_source = None if opt.model else source_of(vars(trained))
    files = (run_source and run.files()) or {}
    pairs = images_to_test(source, opt.split, run_source, holdout_of(vars(trained)), files)
    measured = pairs.has_targets
    channels, normalize = (trained.input_nc, trained.output_nc), (trained.mean, trained.std)
    dataset = WholeDataset(pairs, ImageSpec(*channels, None, degrade, *normalize, opt.seed))
    if measured and dataset.scale != scale:
        raise wrong_scale(dataset.scale, scale, opt.degrade)

    # ---- how the images are predicted and measured
    signals = Signals()  # from here on a signal ends the test in good order
    to_gray = measured and is_gray_on_colour(pairs, *channels)
    ranges = Ranges(source.max_value, source.degraded)
    protocol = Protocol(opt.psnr_channel, opt.crop_border, not opt.no_quantize, source.max_value[1], to_gray)
    tiling, where = Tiling(opt.tile, opt.tile_overlap), f"{ranks.note}, {'bfloat16' if amp else 'float32'}"
    evaluator = Evaluator(
        *(net, ranks.device, amp, *normalize, tiling, opt.x8, say, lambda: signals.stop),
        protocol=protocol,
        metrics=opt.metrics,
    )
    comparisons = open_comparisons(opt.metrics, ranks.device) if measured else []
    if measured and "lpips" in opt.metrics and (lpips := open_lpips(ranks.device, say)):
        comparisons.append(lpips)
    kid = KID(ranks.device) if "kid" in opt.metrics else None

    # ---- where the results go: a folder of this data and these settings, moved to its place at the end
    parent, suffix = Path(opt.results_dir) / run.name, variant(opt, saved)
    folder = ResultsFolder(parent, pairs, source, suffix, opt.weights)
    live = Live(opt.visdom, opt.visdom_server, opt.visdom_port)
    recorder = Recorder(cleanup, folder, run.name, pairs, measured, opt.output, protocol, live, say)
    say(f"run     {weights}, {trained.model}" + (f" ({how})" if how else ""))
    say(f"data    {pairs.describe()}" + (f", degraded by {opt.degrade}" if degrade else ""))
    say("\n".join([*(f"warning {remark}" for remark in pairs.remarks), f"device  {where}"]))

    # ---- predict, measure, save, image by image; what ends this early leaves results marked incomplete
    failed: list[UserError] = []
    images = whole_loader(dataset, workers=opt.num_workers, skip=failed.append)
    if images.note:
        say(images.note)
    broken = None
    try:
        for image in signals.until_stopped(predictions(evaluator, map(ranges.watch, images))):
            name, output = recorder.add(image, measure_all(comparisons, image))
            if kid:
                kid.take(image)
            del image  # it may be large, and writing a file takes another copy
            recorder.save(name, output)
            del output
    except UserError as error:
        broken = error
    remarks = [f"failed  {error.what}: {error.why}" for error in failed]
    remarks += [f"warning {remark}" for remark in ranges.remarks()]
    for remark in remarks:
        say(remark)
    count = len(recorder.results.rows)
    if not count and not signals.stop:
        raise broken or nothing_read(failed, scale)

    # ---- results: figures, page, grid, headline
    trained_size = None if opt.model or not measured else trained.size
    facts = {
        **{
            "run": run.name,
            "weights": str(weights),
            "model": trained.model,
            "dataset": dataset_name(source.root),
        },
        **{"split": pairs.split, "data": pairs.describe(), "degrade": opt.degrade, "seed": opt.seed},
        **{"scale": scale, "protocol": protocol.describe(), "x8": opt.x8},
        **{"tile": opt.tile, "tile_overlap": opt.tile_overlap, "device": where, "seen": pairs.seen},
        "precision": "bfloat16" if amp else "float32",
        "caveats": caveats(trained_size, pairs.seen, to_gray) + ranges.remarks(),
        "notes": evaluator.notes + failures(failed),
        **{"failed": len(failed), "peak_mib": round(peak_memory_mib(ranks.device))},
        "versions": versions(),
    }
    recorder.results.sets = compare_sets(kid, dataset, ranks) if kid else {}
    complete = not broken and count + len(failed) == len(pairs.pairs)
    if count:
        recorder.finish(facts, complete, None if signals.stop else broken)
    if failed:
        print(f"{len(failed)} of {len(pairs.pairs)} images failed and are in no figure")
    if signals.stop and not complete:
        say(f"stopped by {signal.Signals(signals.stop).name} after {count} of {len(pairs.pairs)} images")
        return 128 + signals.stop
    return 3 if failed else 0


def compare_sets(kid: KID, dataset: WholeDataset, ranks: Ranks) -> dict[str, float]:
    """KID of the outputs and of the inputs, against the targets, or without pairs against the other set."""
    if others := dataset.pairs.others:
        kid.take_references(WholeDataset(others, dataset.spec.mirrored()), ranks)
    return kid.figures(ranks)


def failures(failed: list[UserError]) -> list[str]:
    """The images that failed, those of one reason in one line."""
    reasons: dict[str, list[str]] = {}
    for error in failed:
        reasons.setdefault(error.why, []).append(error.what)
    return [f"failed, in no figure: {'; '.join(names)} ({why})" for why, names in reasons.items()]


def predictions(evaluator: Evaluator, images: Iterable[Whole]) -> Iterator[Prediction]:
    """The predictions; out of memory with the smallest tiles is a UserError."""
    try:
        yield from evaluator(images)
    except torch.OutOfMemoryError as error:
        fix = "a smaller --tile with a smaller --tile_overlap, --amp on, or --gpu_ids -1"
        raise UserError("out of memory", first_sentence(error), fix, code=1) from None


if __name__ == "__main__":
    sys.exit(run_script(main, opt))
