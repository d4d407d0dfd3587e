"""Measure a trained network: PSNR of every image at native size, beside the PSNR of its input.

python test.py --name demo_resunet                                               # the run's own test split
python test.py --name denoise --dataroot datasets/set12 --degrade noise:25       # clean images, noise added
python test.py --name dehaze --dataroot my_photos                                # no targets: outputs only
python test.py --weights dncnn.pth --model dncnn --input_nc 1 --mean 0 --std 1 --dataroot datasets/set12 ...
"""

import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports ends it without a traceback

from utils.options import parse_or_exit, parse_test, saved_options, source_of, source_to_test
from utils.system.streams import fix_streams

if __name__ == "__main__":
    fix_streams()
    opt = parse_or_exit(parse_test)  # --help and wrong flags end here, before torch is imported

from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from data.datasets import ImageSpec, Whole, WholeDataset
from data.degrade import parse_degradation
from data.images import save_image
from data.loader import whole_loader
from data.pairs import PairList, Source
from data.splits import find_pairs, shared_files
from models import build_network, own_arguments
from models.layers import size_of
from models.weights import load_weights
from utils.eval.evaluator import Evaluator, Prediction
from utils.eval.lpips import open_lpips
from utils.eval.metrics import Protocol
from utils.eval.results import Results
from utils.eval.summary import facts_in_words, headline
from utils.eval.tiling import Tiling
from utils.run.run import Run, versions
from utils.system import distributed
from utils.system.compat import save_image as save_grid
from utils.system.device import amp_enabled, peak_memory_mib, set_float32
from utils.system.errors import UserError, first_sentence, run_script
from utils.vis.console import Progress, say_on
from utils.vis.grids import comparison_grid, evenly_spaced, side_by_side
from utils.vis.report import Report
from utils.vis.visdom import TEST, open_plot


def main(opt: Namespace, cleanup: ExitStack) -> int:
    """Test, top to bottom; returns the exit code. `cleanup` is unwound however it ends."""
    # ---- the run (or the flags that stand for one), where to compute
    run = Run.named(opt.name)
    trained = opt if opt.model else saved_options(run)
    ranks = distributed.init(opt.gpu_ids)
    amp = amp_enabled(opt.amp, ranks.device)
    set_float32(ranks.device, tf32=False)
    say = say_on(ranks.is_main)

    # ---- network
    weights = find_weights(run, opt.weights, opt.load)
    net, how = build_net(trained, weights)
    net.to(ranks.device, memory_format=torch.channels_last if opt.channels_last else torch.contiguous_format)
    scale = size_of(net).scale

    # ---- data: the run's own unless --dataroot names other images
    degrade = parse_degradation(opt.degrade) if opt.degrade else None
    source = source_to_test(opt, trained, scale)
    pairs = find_pairs(source, opt.split)
    measured = pairs.layout == "demo" or all(pair.target for pair in pairs.pairs)
    if measured and opt.split != "train" and not opt.model:
        refuse_training_images(pairs, source_of(vars(trained)))
    channels, normalize = (trained.input_nc, trained.output_nc), (trained.mean, trained.std)
    dataset = WholeDataset(pairs, ImageSpec(*channels, None, degrade, *normalize, opt.seed))
    if measured and dataset.scale != scale:
        why = f"the targets are {dataset.scale} times the size of the inputs, the network's outputs {scale}"
        fix = f"--degrade sr:{scale}" if scale > 1 else ""
        raise UserError("inputs and network do not fit in scale", why, fix)

    # ---- predict, measure, save, image by image
    protocol = Protocol(opt.psnr_channel, opt.crop_border, not opt.no_quantize)
    lpips = open_lpips(ranks.device, say) if measured and "lpips" in opt.metrics else None
    results, report = Results(Path(opt.results_dir) / run.name, source.root), Report()
    results.check_names(pair.name for pair in pairs.pairs)
    where = f"{ranks.note}, {'bfloat16' if amp else 'float32'}"
    say(f"run     {weights}, {trained.model}" + (f" ({how})" if how else ""))
    say(f"data    {pairs.describe()}" + (f", degraded by {opt.degrade}" if degrade else ""))
    say(f"device  {where}")
    server = opt.visdom_server, opt.visdom_port
    plot = open_plot(opt.visdom, run.name, {results.window: TEST}, *server, say) if measured else None
    if plot:
        cleanup.callback(plot.close)
    evaluator = Evaluator(
        net,
        ranks.device,
        amp,
        *normalize,
        protocol,
        opt.metrics,
        Tiling(opt.tile, opt.tile_overlap),
        opt.x8,
        say,
    )
    failed: list[UserError] = []
    images = whole_loader(dataset, workers=opt.num_workers, skip=failed.append)
    progress = Progress(results.dataset, 0, len(pairs.pairs))
    shown, rows = evenly_spaced(len(pairs.pairs), 8), []
    for image in predictions(evaluator, images):
        scores = image.scores | (lpips(image) if lpips else {})
        results.add(image.name, scores, image.seconds)
        report.add(image.name, image.input, image.output, image.target)
        if plot and "psnr" in scores:
            plot.add(results.window, "clear", len(results.rows), scores["psnr"])
        if len(results.rows) - 1 in shown:
            rows.append(side_by_side(image.input, image.output, image.target))
        name, output = image.name, image.output
        del image  # it may be large, and writing a file takes another copy
        save_image(output, results.output(name, output.dtype))
        del output
        progress.step()
        progress.show(f"PSNR {results.mean('psnr'):.2f}" if measured else "")
    progress.close()
    for error in failed:
        say(f"failed  {error.what}: {error.why}")
    if not results.rows:
        why = f"{len(failed)} failed, the first: {failed[0].what}: {failed[0].why}"
        raise UserError("no image could be read", why, failed[0].fix, code=3)

    # ---- report: grid, CSV, summary, page, headline
    grid = comparison_grid(rows)
    save_grid(grid, results.grid)
    facts = {
        **{"run": run.name, "weights": str(weights), "model": trained.model, "dataset": results.dataset},
        **{"split": pairs.split, "data": pairs.describe(), "degrade": opt.degrade, "seed": opt.seed},
        **{"scale": scale, "protocol": protocol.describe(), "x8": opt.x8},
        **{"tile": opt.tile, "tile_overlap": opt.tile_overlap, "device": where},
        "notes": evaluator.notes + [f"failed, in no figure: {error.what}" for error in failed],
        "failed": len(failed),
        "peak_mib": round(peak_memory_mib(ranks.device)),
        "versions": versions(),
    }
    results.write(facts)
    title = f"{run.name} on {results.dataset}"
    report.write(results.page, title, facts_in_words(facts, results), results.rows)
    print(f"outputs {results.folder}, page {results.page}, grid {results.grid}")
    if measured:
        if plot:
            plot.add(results.window, "mean", 0, results.mean("psnr"))
            plot.picture(f"grid_{results.dataset}", f"{results.dataset}: input | output | target", grid)
        print(f"per image {results.csv}")
        print("\n".join(headline(results, protocol)))
        if failed:
            print(f"{len(failed)} of {len(pairs.pairs)} images failed and are in no figure")
    else:
        print(f"no targets in {pairs.where}: nothing to measure")
    return 3 if failed else 0


def find_weights(run: Run, weights: str | None, load: str) -> Path:
    """The file of --weights, or the run's checkpoint of --load."""
    tag = f"epoch_{int(load):04d}" if load.isdigit() else load
    file = Path(weights) if weights else run.net(tag)
    if not file.is_file():
        saved = ", ".join(str(epoch) for epoch in run.epochs_saved()[-5:]) or "none kept by --save_freq"
        raise UserError(f"no such file: {file} [--load {load}]", f"epochs: {saved}", "best or latest")
    return file


def build_net(trained: Namespace, weights: Path) -> tuple[nn.Module, str]:
    """(the network with these weights, on the CPU; how they were matched)."""
    arguments = own_arguments(trained.model, vars(trained))
    if "weights" in arguments:  # spandrel recognises the architecture by its weights
        return build_network(trained.model, **arguments | {"weights": str(weights)}), ""
    net = build_network(trained.model, **arguments)
    return net, load_weights(net, weights)


def refuse_training_images(pairs: PairList, trained_on: Source) -> None:
    if known := shared_files(pairs, trained_on, "train"):
        fix = "name other images by --dataroot, or say --split train"
        raise UserError(f"{known} of these files are what the run was trained on", pairs.where, fix)


def predictions(evaluator: Evaluator, images: Iterable[Whole]) -> Iterator[Prediction]:
    """The predictions; out of memory with the smallest tiles is a UserError."""
    try:
        yield from evaluator(images)
    except torch.OutOfMemoryError as error:
        fix = "a smaller --tile with a smaller --tile_overlap, --amp on, or --gpu_ids -1"
        raise UserError("out of memory", first_sentence(error), fix, code=1) from None


if __name__ == "__main__":
    sys.exit(run_script(main, opt))
