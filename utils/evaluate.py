"""PSNR of a network over a set of whole images. Nothing here logs or saves."""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from data.transforms import to_unit
from utils.distributed import Place
from utils.metrics import psnr, quantize


class Judged(NamedTuple):
    """One image after the network; pictures are `(C, H, W)` float32 on the CPU, outputs as they are saved."""

    name: str
    input: Tensor
    output: Tensor
    target: Tensor | None
    # of doing nothing, and of the output; None without a target, or where its channels have no counterpart
    psnr_input: float | None
    psnr: float | None
    seconds: float  # forward pass


def judge(
    net: nn.Module,
    batches: Iterable[dict[str, Any]],
    device: torch.device,
    amp: bool,
    mean: float,
    std: float,
) -> Iterator[Judged]:
    """Run `net` in eval mode over batches of one image and measure each, as the PSNR convention says."""
    with eval_mode(net), torch.inference_mode():
        for batch in batches:
            given = batch["input"].to(device, non_blocking=True)
            started = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                output = net(given)
            output = quantize(to_unit(output.float(), mean, std)).cpu()
            seconds = time.perf_counter() - started
            given = to_unit(batch["input"], mean, std)
            target = scores = None
            if "target" in batch:
                target = quantize(to_unit(batch["target"], mean, std))  # exact 8-bit values again
                scores = doing_nothing(given, target), psnr(output, target).item()
            nothing, reached = scores or (None, None)
            yield Judged(
                batch["name"][0],
                given[0],
                output[0],
                None if target is None else target[0],
                nothing,
                reached,
                seconds,
            )


def doing_nothing(given: Tensor, target: Tensor) -> float | None:
    """PSNR of the input as given, gray repeated where the target has colours; `(1, C, H, W)`."""
    if given.shape[1] == 1:
        given = given.expand_as(target)
    return psnr(given, target).item() if given.shape == target.shape else None


def mean_psnr(judged: Iterable[Judged], place: Place, keep: set[int]) -> tuple[float, float, list[Judged]]:
    """(mean PSNR, mean PSNR of doing nothing) over all processes; and the images at `keep` of this one.

    Each process brings its own part of the set; sums and counts are added, so no image counts twice.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    shown: list[Judged] = []
    for i, image in enumerate(judged):
        assert image.psnr is not None
        sums += torch.tensor(
            [image.psnr, math.nan if image.psnr_input is None else image.psnr_input, 1.0], dtype=torch.float64
        )
        if i in keep:
            shown.append(image)
    total, nothing, count = place.reduce(sums.to(place.device)).tolist() if place.world > 1 else sums.tolist()
    return total / count, nothing / count, shown


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Switch to eval mode, and each layer back to what it was."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
