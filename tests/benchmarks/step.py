"""The step of training: what precision, layout and compilation make of it.

Each variant is stepped on one batch in memory, in a process of its own, in turns. `of the peak` is its
arithmetic (convolutions and products, forward and backward) as a share of what one 3 x 3 convolution of 128
channels reaches in that precision. `pays after` is the number of steps from which on compiling has cost less
time than it saved.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import conv2d
from torch.utils.flop_counter import FlopCounterMode

from models import LOSSES, build_network, own_arguments
from models.ema import EMA
from tests.benchmarks.common import flag_parser, seconds_of, table
from tests.builders import ROOT
from utils.optim.horizon import Horizon
from utils.optim.optimizers import OPTIMIZERS
from utils.optim.schedules import Schedule
from utils.options import parse_train
from utils.system import distributed
from utils.system.device import peak_memory_mib, set_up_device

REPEATS = 3
PRESET = ("--preset", "fine", "--input_nc", "1", "--output_nc", "1")
NETWORKS = {
    "resunet, preset fine": PRESET,
    "resnet 256 x 256, batch 1": ("--model", "resnet", "--crop_size", "256", "--input_nc", "3"),
}
WAYS = {
    "float32": ("--amp", "off", "--no-channels_last"),
    "bfloat16": ("--amp", "on", "--no-channels_last"),
    "bfloat16, channels_last": ("--amp", "on", "--channels_last"),
    "the same, compiled": ("--amp", "on", "--channels_last", "--compile"),
}


def bare_step(flags: list[str]) -> tuple[Callable[[], Any], int]:
    """(one step of train.py's arithmetic on one fixed batch, images in it); warms nothing up.

    Forward, loss, backward, clipping, the host read, optimizer, schedule and average: no data, no log.
    """
    opt = parse_train(["--dataroot", "demo", *flags, "--name", "bare"])
    ranks = distributed.init(opt.gpu_ids)
    amp = set_up_device(ranks.device, opt.amp, deterministic=False)
    channels = {"input_nc": opt.input_nc or 3, "output_nc": opt.output_nc or opt.input_nc or 3}
    torch.manual_seed(0)
    layout = torch.channels_last if opt.channels_last else torch.contiguous_format
    net = build_network(opt.model, **own_arguments(opt.model, vars(opt) | channels))
    net.to(ranks.device, memory_format=layout)
    average, betas = EMA(net, opt.ema), (opt.beta1, opt.beta2)
    optimizer = OPTIMIZERS[opt.optimizer](net.parameters(), opt.lr, betas, opt.momentum, opt.weight_decay)
    horizon = Horizon(steps_per_epoch=1)
    horizon.total = 10**6
    scheduler = Schedule(opt.schedule, opt.lr, horizon).scheduler(optimizer)
    criterion = LOSSES[opt.loss]()
    model = torch.compile(net) if opt.compile else net
    size = opt.crop_size, opt.crop_size
    given, target = (torch.rand(opt.batchSize, n, *size, device=ranks.device) for n in channels.values())

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=amp):
            output = model(given)
        loss = criterion(output.float(), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), opt.clip or float("inf"))
        loss.item()
        optimizer.step()
        horizon.advance()
        scheduler.step()
        average.update()

    return step, opt.batchSize


def timed(flags: list[str], seconds: float) -> dict[str, float]:
    """Seconds of the first step and the median of those that follow, for so many seconds."""
    step, images = bare_step(flags)
    first, *_ = [seconds_of(step) for _ in range(5)]
    times: list[float] = []
    while sum(times) < seconds or len(times) < 5:
        times.append(seconds_of(step))
    middle = statistics.median(times)
    peak_mib = peak_memory_mib(distributed.init("0").device)
    return {"first": first, "step": middle, "images_s": images / middle, "peak_mib": peak_mib}


def log(flags: list[str]) -> None:
    """Step for ever, and write to `bare.jsonl` what train.py's log says: the step, and when it was done."""
    step, _ = bare_step(flags)
    every = parse_train([*flags, "--name", "bare"]).log_freq
    with Path("bare.jsonl").open("w", buffering=1) as file:
        for number in count(1):
            step()
            if number % every == 0:
                file.write(json.dumps({"step": number, "time": time.time()}) + "\n")


def apart(flags: tuple[str, ...], seconds: float = 10) -> dict[str, float]:
    """`timed` in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.step", "--time", str(seconds), *flags]
    return json.loads(subprocess.check_output(command, cwd=ROOT).splitlines()[-1])


@torch.no_grad()
def conv_peak(dtype: torch.dtype) -> float:
    """FLOP/s of a 3 x 3 convolution, 128 channels to 128, channels_last: the best of 20."""
    there = partial(torch.Tensor.to, device=distributed.init("0").device, dtype=dtype)
    images = there(torch.rand(8, 128, 64, 64), memory_format=torch.channels_last)
    weight = there(torch.rand(128, 128, 3, 3), memory_format=torch.channels_last)
    bias = there(torch.rand(128))
    best = min(seconds_of(lambda: conv2d(images, weight, bias, padding=1).sum().item()) for _ in range(20))
    return 2 * images.numel() * weight.numel() / 128 / best


def flops(flags: tuple[str, ...]) -> int:
    """Of convolutions and products in one step, a multiplication and an addition counted as two."""
    step, _ = bare_step([*flags])
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def ways() -> Iterator[tuple[object, ...]]:
    peak = {"float32": conv_peak(torch.float32), "bfloat16": conv_peak(torch.bfloat16)}
    for precision, reached in peak.items():
        yield "3 x 3 convolution, forward", precision, "", "", "", f"{reached / 1e9:.0f}", "", "", ""
    for network, flags in NETWORKS.items():
        work = flops(flags)
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(REPEATS):
            for way, more in WAYS.items():
                runs[way].append(apart((*flags, *more)))
        middle = {
            way: {key: statistics.median(run[key] for run in runs[way]) for key in runs[way][0]}
            for way in WAYS
        }
        eager = middle["bfloat16, channels_last"]
        for way, found in middle.items():
            gain, pays = eager["step"] - found["step"], ""
            if "compiled" in way:
                pays = f"{(found['first'] - eager['first']) / gain:.0f} steps" if gain > 0 else "never"
            rate, faster = work / found["step"], middle["float32"]["step"] / found["step"]
            share = rate / peak["float32" if way == "float32" else "bfloat16"]
            speed = f"{1000 * found['step']:.1f}", f"{found['images_s']:.1f}", f"{faster:.2f}"
            yield network, way, *speed, f"{rate / 1e9:.0f}", f"{share:.0%}", f"{found['first']:.1f}", pays


def main(argv: list[str] | None = None) -> None:
    parser = flag_parser(__doc__)
    parser.add_argument("--time", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--log", action="store_true", help=argparse.SUPPRESS)
    opt, flags = parser.parse_known_args(argv)
    if opt.time:
        print(json.dumps(timed(flags, opt.time)))
        return
    if opt.log:
        log(flags)
    columns = ("network", "way", "ms a step", "images/s", "times float32", "GFLOP/s", "of the peak")
    table("The step", (*columns, "first step, s", "pays after"), ways())


if __name__ == "__main__":
    main()
