"""What the loop of train.py costs beside the bare step: images/s of both, in turns.

python -m tests.benchmarks.loop            # resunet 96 x 96, batch 8, and resnet 256 x 256, batch 1

The bare step is what one step of train.py must do to one fixed batch in memory: forward, loss, backward,
clipping, optimizer, schedule, average. train.py adds reading, cropping, turning, noise, the check for NaN,
the PSNR of every training image, the log, visdom, signals, saves. Its images/s are those it logs after its
first epoch, without validation.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMON = ("--optimizer", "adamw", "--schedule", "cosine", "--ema", "0.995", "--clip", "1", "--val_share", "0")
CASES = {
    "resunet 96x96 batch 8": (
        *("--dataroot", f"{ROOT}/datasets/bsd400-gray", "--degrade", "noise:25", "--augment", "flip_rot90"),
        *("--model", "resunet", "--crop_size", "96", "--batchSize", "8", "--channels_last", *COMMON),
    ),
    "resnet 256x256 batch 1": (
        *("--dataroot", f"{ROOT}/datasets/sots-indoor", "--model", "resnet", "--crop_size", "256"),
        *("--batchSize", "1", *COMMON),
    ),
}


def trained(flags: tuple[str, ...], epoch_steps: int, every: int) -> tuple[float, float]:
    """Median images/s that train.py logs in its second epoch, and the share of time it waits for data."""
    with tempfile.TemporaryDirectory() as folder:
        size = ["--max_steps", str(2 * epoch_steps), "--log_freq", str(every)]
        command = [
            sys.executable,
            str(ROOT / "train.py"),
            *flags,
            *size,
            "--name",
            "loop",
            "--visdom",
            "start",
        ]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        lines = (Path(folder) / "checkpoints/loop/log.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "images_s" in row and row["step"] > epoch_steps + every]
    return tuple(statistics.median(row[key] for row in rows) for key in ("images_s", "wait"))  # type: ignore[return-value]


def bare(flags: list[str], steps: int) -> float:
    """Median images/s of the same network stepped on one batch."""
    import torch
    from torch.nn.utils import clip_grad_norm_

    from models import LOSSES, build_network, own_arguments
    from utils import distributed
    from utils.ema import Average
    from utils.optimizers import OPTIMIZERS
    from utils.options import parse_train
    from utils.schedules import Plan, build_scheduler

    opt = parse_train([*flags, "--name", "bare"])
    place = distributed.join(opt.gpu_ids)
    amp = distributed.amp_enabled(opt.amp, place.device)
    channels = 1 if opt.degrade else 3
    arguments = own_arguments(opt.model, vars(opt) | {"input_nc": channels, "output_nc": channels})
    layout = torch.channels_last if opt.channels_last else torch.contiguous_format
    net = build_network(opt.model, **arguments).to(place.device, memory_format=layout)
    average = Average(net, opt.ema)
    optimizer = OPTIMIZERS[opt.optimizer](
        net.parameters(), opt.lr, (opt.beta1, opt.beta2), opt.momentum, opt.weight_decay
    )
    scheduler = build_scheduler(optimizer, opt.schedule, Plan(total=10 * steps, decay=steps), opt.lr, 0)
    criterion = LOSSES[opt.loss]()
    given, target = torch.rand(2, opt.batchSize, channels, opt.crop_size, opt.crop_size, device=place.device)
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast(place.device.type, torch.bfloat16, enabled=amp):
            output = net(given)
        loss = criterion(output.float(), target)
        loss.backward()
        clip_grad_norm_(net.parameters(), opt.clip)
        optimizer.step()
        scheduler.step()
        average.update()
        loss.item()
        seconds.append(time.perf_counter() - began)
    return opt.batchSize / statistics.median(seconds[steps // 4 :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="pairs of a bare and a whole run")
    parser.add_argument("--bare", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.add_argument("--num_workers", default="0")
    opt = parser.parse_args()
    if opt.bare:
        print(bare(opt.bare[1:], int(opt.bare[0])))
        return
    print("| step | bare, images/s | train.py, images/s | share | range of shares | waits for data |")
    print("|---|---|---|---|---|---|")
    for case, flags in CASES.items():
        pairs = []
        steps, every = (42, 6) if "resnet" in case else (400, 20)
        repeat = () if "resnet" in case else ("--repeat", "8")
        for _ in range(opt.repeats):
            command = [sys.executable, "-m", "tests.benchmarks.loop", "--bare", str(steps), *flags]
            alone = float(subprocess.check_output(command, cwd=ROOT, env=dict(os.environ)))
            whole, wait = trained((*flags, *repeat, "--num_workers", opt.num_workers), steps, every)
            pairs.append((alone, whole, whole / alone, wait))
        alone, whole, share, wait = (statistics.median(pair[i] for pair in pairs) for i in range(4))
        least, most = min(pair[2] for pair in pairs), max(pair[2] for pair in pairs)
        print(
            f"| {case} | {alone:.1f} | {whole:.1f} | {share:.1%} | {least:.1%} to {most:.1%} | {wait:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
