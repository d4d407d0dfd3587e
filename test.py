"""Measure a trained run, or weights of any origin: PSNR per image beside doing nothing, at native size.

python test.py --name demo_resunet                                               # the run's own test split
python test.py --name denoise --dataroot datasets/set12 --degrade noise:25       # clean images, noise added
python test.py --name dehaze --dataroot my_photos                                # no targets: outputs only
python test.py --weights dncnn.pth --model dncnn --input_nc 1 --mean 0 --std 1 --dataroot datasets/set12 ...
"""

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack

from utils.options.flags import parse_or_exit, parse_test, source_of
from utils.system.errors import UserError, first_sentence, fix_streams, run_script


def main(opt: Namespace, cleanup: ExitStack) -> int:
    """The whole of testing, top to bottom; returns the exit code."""
    from pathlib import Path

    import torch

    from data.datasets import ImageSpec, WholeDataset
    from data.degrade import parse_degradation
    from data.images import save_image
    from data.loader import whole_loader
    from data.pairs import Source
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
    from utils.system.compat import save_image as save_picture
    from utils.vis.console import Progress, say_on
    from utils.vis.grids import comparison_grid, evenly_spaced, side_by_side
    from utils.vis.report import Report
    from utils.vis.visdom import TEST, open_plot

    # ----------------------------------------------------------------------------------- the run, the device
    run = Run.named(opt.name)
    trained = vars(opt) if opt.model else run.options()
    ranks = distributed.init(opt.gpu_ids)
    amp = distributed.amp_enabled(opt.amp, ranks.device)
    distributed.set_float32(ranks.device, tf32=False)
    say = say_on(ranks.is_main)

    # ----------------------------------------------------------------------------------------------- network
    tag = f"epoch_{int(opt.load):04d}" if opt.load.isdigit() else opt.load
    weights = Path(opt.weights) if opt.weights else run.net(tag)
    if not weights.is_file():
        saved = ", ".join(str(epoch) for epoch in run.epochs_saved()[-5:]) or "none kept by --save_freq"
        raise UserError(f"no such file: {weights} [--load {opt.load}]", f"epochs: {saved}", "best or latest")
    arguments = own_arguments(trained["model"], trained)
    made_of_file = "weights" in arguments  # spandrel's: of this one, and not of that where training began
    net = build_network(trained["model"], **arguments | ({"weights": str(weights)} if made_of_file else {}))
    how = "" if made_of_file else load_weights(net, weights)
    net.to(ranks.device, memory_format=torch.channels_last if opt.channels_last else torch.contiguous_format)
    scale = size_of(net).scale

    # -------------------------------------------------------------------------------------------------- data
    degrade = parse_degradation(opt.degrade) if opt.degrade else None
    own = trained if opt.dataroot is None else {}  # of the run's data only while it is the run's data
    source = Source(
        root=opt.dataroot or trained["dataroot"],
        layout=own.get("layout", "auto") if opt.layout == "auto" else opt.layout,
        direction=opt.direction or trained["direction"] or "AtoB",
        degraded=degrade is not None,
        input_dir=opt.input_dir or own.get("input_dir"),
        target_dir=opt.target_dir or own.get("target_dir"),
        pair_by=opt.pair_by or own.get("pair_by"),
        scale=scale if degrade is None else 1,
        max_pixels=opt.max_pixels,
    )
    pairs = find_pairs(source, opt.split)
    measured = pairs.layout == "demo" or all(pair.target for pair in pairs.pairs)
    if measured and opt.split != "train" and not opt.model:
        known = shared_files(pairs, source_of(trained), "train")
        if known:
            raise UserError(
                f"{known} of these files are what the run was trained on",
                pairs.where,
                "name other images by --dataroot, or say --split train",
            )
    spec = ImageSpec(
        trained["input_nc"],
        trained["output_nc"],
        degrade=degrade,
        mean=trained["mean"],
        std=trained["std"],
        seed=opt.seed,
    )
    dataset = WholeDataset(pairs, spec)
    if measured and dataset.scale != scale:
        made = f"the targets are {dataset.scale} times the size of the inputs, the network's outputs {scale}"
        raise UserError(
            "inputs and network do not fit in scale", made, f"--degrade sr:{scale}" if scale > 1 else ""
        )

    # ----------------------------------------------------------------------------------------------- measure
    protocol = Protocol(opt.psnr_channel, opt.crop_border, not opt.no_quantize)
    lpips = open_lpips(ranks.device, say) if measured and "lpips" in opt.metrics else None
    results = Results(Path(opt.results_dir) / run.name, source.root)
    results.check_names(pair.name for pair in pairs.pairs)
    say(f"run     {weights}, {trained['model']}" + (f" ({how})" if how else ""))
    say(f"data    {pairs.describe()}" + (f", degraded by {opt.degrade}" if degrade else ""))
    say(f"device  {ranks.note}, {'bfloat16' if amp else 'float32'}")
    plot = None
    if measured:
        plot = open_plot(
            opt.visdom, run.name, {results.window: TEST}, opt.visdom_server, opt.visdom_port, say
        )
    if plot:
        cleanup.callback(plot.close)
    judge = Evaluator(
        net,
        ranks.device,
        amp,
        trained["mean"],
        trained["std"],
        protocol,
        opt.metrics,
        Tiling(opt.tile, opt.tile_overlap),
        opt.x8,
        say,
    )
    progress = Progress(results.dataset, 0, len(pairs.pairs))
    shown = evenly_spaced(len(pairs.pairs), 8)
    rows, report = [], Report()
    failed: list[UserError] = []

    def fail(refusal: UserError) -> None:
        failed.append(refusal)
        say(f"failed  {refusal.what}: {refusal.why}")

    def judged() -> Iterator[Prediction]:
        try:
            yield from judge(whole_loader(dataset, workers=opt.num_workers, skip=fail))
        except torch.OutOfMemoryError as error:  # with the smallest tiles, too
            fix = "a smaller --tile with a smaller --tile_overlap, --amp on, or --gpu_ids -1"
            raise UserError("out of memory", first_sentence(error), fix, code=1) from None

    for image in judged():
        number = len(results.rows)
        scores = image.scores | (lpips(image) if lpips else {})
        results.add(image.name, scores, image.seconds)
        report.add(image.name, image.input, image.output, image.target)
        if plot and "psnr" in scores:
            plot.add(results.window, "clear", number + 1, scores["psnr"])
        if number in shown:
            rows.append(side_by_side(image.input, image.output, image.target))
        name, output = image.name, image.output
        del image  # it may be large, and writing a file takes another copy
        save_image(output, results.output(name, output.dtype))
        del output
        progress.step()
        progress.show(f"PSNR {results.mean('psnr'):.2f}" if measured else "")
    progress.close()
    if not results.rows:
        first = failed[0]
        why = f"{len(failed)} failed, the first: {first.what}: {first.why}"
        raise UserError("no image could be read", why, first.fix, code=3)

    # ------------------------------------------------------------------------------------------------ report
    grid = comparison_grid(rows)
    save_picture(grid, results.grid)
    facts = {
        "run": run.name,
        "weights": str(weights),
        "model": trained["model"],
        "dataset": results.dataset,
        "split": pairs.split,
        "data": pairs.describe(),
        "degrade": opt.degrade,
        "seed": opt.seed,
        "scale": scale,
        "protocol": protocol.describe(),
        "x8": opt.x8,
        "tile": opt.tile,
        "tile_overlap": opt.tile_overlap,
        "device": f"{ranks.note}, {'bfloat16' if amp else 'float32'}",
        "notes": judge.notes + [f"failed, in no figure: {refusal.what}" for refusal in failed],
        "failed": len(failed),
        "peak_mib": round(distributed.peak_memory_mib(ranks.device)),
        "versions": versions(),
    }
    results.write(facts)
    report.write(
        results.page, f"{run.name} on {results.dataset}", facts_in_words(facts, results), results.rows
    )
    print(f"outputs {results.folder}, page {results.page}, grid {results.grid}")
    if not measured:
        print(f"no targets in {pairs.where}: nothing to measure")
        return 3 if failed else 0
    if plot:
        plot.add(results.window, "mean", 0, results.mean("psnr"))
        plot.picture(f"grid_{results.dataset}", f"{results.dataset}: input | output | target", grid)
    print(f"per image {results.csv}")
    print("\n".join(headline(results, protocol)))
    if failed:
        print(f"{len(failed)} of {len(pairs.pairs)} images failed and are in no figure")
    return 3 if failed else 0


if __name__ == "__main__":
    fix_streams()
    sys.exit(run_script(main, parse_or_exit(parse_test)))
