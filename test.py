"""Measure a trained run: PSNR per image beside doing nothing, at native size.

python test.py --name demo_resunet                                               # the run's own test split
python test.py --name denoise --dataroot datasets/set12 --degrade noise:25       # clean images, noise added
python test.py --name dehaze --dataroot my_photos                                # no targets: outputs only
"""

import sys
from argparse import Namespace
from contextlib import ExitStack

from utils.errors import Refusal, run_script
from utils.options import parse_or_exit, parse_test


def main(opt: Namespace, cleanup: ExitStack) -> int:
    """The whole of testing, top to bottom; returns the exit code."""
    import math
    from pathlib import Path

    import torch
    from torch.utils.data import DataLoader

    from data.datasets import PairDataset
    from data.degrade import parse_degradation
    from data.layouts import find_pairs, splits_of
    from models import build_network, own_arguments
    from utils import checkpoint, distributed
    from utils.evaluate import judge
    from utils.loading import Batches, collate
    from utils.logger import say_on
    from utils.metrics import CONVENTION
    from utils.pictures import comparison_grid, side_by_side, spread, to_pil
    from utils.progress import Progress
    from utils.results import Results
    from utils.runs import Run
    from utils.visdom_plot import TEST, open_plot

    # ----------------------------------------------------------------------------------- the run, the device
    run = Run.named(opt.name)
    trained = run.options()
    place = distributed.join(opt.gpu_ids)
    amp = distributed.amp_enabled(opt.amp, place.device)
    say = say_on(place.first)

    # ----------------------------------------------------------------------------------------------- network
    tag = f"epoch_{int(opt.load):04d}" if opt.load.isdigit() else opt.load
    arguments = own_arguments(trained["model"], trained)
    net = build_network(
        trained["model"], input_nc=trained["input_nc"], output_nc=trained["output_nc"], **arguments
    )
    checkpoint.load_weights(net, run.net(tag))
    net.to(place.device, memory_format=torch.channels_last if opt.channels_last else torch.contiguous_format)

    # -------------------------------------------------------------------------------------------------- data
    dataroot = opt.dataroot or trained["dataroot"]
    folder = Path(dataroot)
    if folder.is_dir() and folder.resolve() == Path(trained["dataroot"]).resolve() and not splits_of(folder):
        raise Refusal(
            f"{folder} is what the run was trained on", "it has no splits", "name other images by --dataroot"
        )
    direction = opt.direction or trained["direction"]
    pairs = find_pairs(dataroot, opt.split, opt.layout, direction, degraded=opt.degrade is not None)
    dataset = PairDataset(
        pairs,
        input_nc=trained["input_nc"],
        target_nc=trained["output_nc"],
        degrade=parse_degradation(opt.degrade) if opt.degrade else None,
        mean=trained["mean"],
        std=trained["std"],
        seed=opt.seed,
    )
    loader = DataLoader(dataset, num_workers=opt.num_workers, collate_fn=collate, generator=torch.Generator())
    measured = pairs.layout != "inputs"

    # ----------------------------------------------------------------------------------------------- measure
    results = Results(Path(opt.results_dir) / run.name, dataroot)
    say(f"run     {run.net(tag)}, {trained['model']}")
    say(f"data    {pairs.describe()}" + (f", degraded by {opt.degrade}" if opt.degrade else ""))
    say(f"device  {place.note}, {'bfloat16' if amp else 'float32'}")
    plot = None
    if measured:
        plot = open_plot(
            opt.visdom, run.name, {results.window: TEST}, opt.visdom_server, opt.visdom_port, say
        )
    if plot:
        cleanup.callback(plot.close)
    progress = Progress(results.dataset, 0, len(dataset))
    shown = spread(len(dataset), 8)
    rows = []
    for i, image in enumerate(
        judge(net, Batches(loader), place.device, amp, trained["mean"], trained["std"])
    ):
        to_pil(image.output).save(results.output(image.name))
        if image.psnr is not None:
            results.add(image)
            if plot:
                plot.add(results.window, "clear", i + 1, image.psnr)
        if i in shown:
            columns = (image.input, image.output, image.target)
            rows.append(side_by_side(*[column for column in columns if column is not None]))
        progress.step()
        progress.show(f"PSNR {results.mean('psnr'):.2f}" if measured else "")
    progress.close()

    # ------------------------------------------------------------------------------------------------ report
    grid = comparison_grid(rows)
    to_pil(grid).save(results.grid)
    print(f"outputs {results.folder}, grid {results.grid}")
    if not measured:
        print(f"no targets in {pairs.where}: nothing to measure")
        return 0
    reached, nothing = results.mean("psnr"), results.mean("psnr_input")
    results.write_csv(f"{CONVENTION}; {opt.degrade or 'input as given'}; {run.net(tag)}")
    if plot:
        plot.add(results.window, "mean", 0, reached)
        plot.picture(f"grid_{results.dataset}", f"{results.dataset}: input | output | target", grid)
    gain = "" if math.isnan(nothing) else f", doing nothing {nothing:.2f}, gain {reached - nothing:+.2f}"
    print(f"per image {results.csv}")
    print(f"PSNR {reached:.2f} dB{gain} ({len(results.rows)} images; {CONVENTION})")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main, parse_or_exit(parse_test)))
