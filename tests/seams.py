"""Where tests put faults into the product: one line a seam, the only one to change where a function moves."""

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

import pytest

SEAMS = {  # name: module:path
    "fsync": "os:fsync",
    "mkdir": "pathlib:Path.mkdir",
    "open": "pathlib:Path.open",
    "replace": "pathlib:Path.replace",
    "load": "torch:load",
    "count_gpus": "torch:cuda.device_count",
    "save": "utils.system.tensorfile:save",
    "restore": "utils.run.checkpoint:restore",
    "read_flags": "utils.system.signals:read_flags",
    "init": "utils.system.distributed:init",
    "find_pairs": "data.layouts:find_pairs",
    "pair_headers": "data.layouts:pair_headers",
    "batch": "data.datasets:PairDataset.__getitems__",
    "start_at": "data.sampler:EpochSampler.start_at",
    "mean_psnr": "utils.eval.evaluator:mean_psnr",
    "predict": "utils.eval.evaluator:Evaluator.judge",
    "forward": "utils.eval.evaluator:Evaluator.forward",
    "start_server": "utils.vis.visdom:_start_server",
}
PRODUCT = ("train", "test", "data", "models", "utils")


def wrap(name: str, wrapper: Callable[..., Any], patch: pytest.MonkeyPatch | None = None) -> None:
    """Call `wrapper(honest, ...)` instead of a function of the product, wherever it was imported to.

    Args:
        patch: undoes it; None in a process that a test starts.
    """
    module, _, path = SEAMS[name].partition(":")
    *owners, attribute = path.split(".")
    holder = functools.reduce(getattr, owners, importlib.import_module(module))
    honest, put = getattr(holder, attribute), patch.setattr if patch else setattr

    @functools.wraps(honest)
    def wrapped(*given: Any, **named: Any) -> Any:
        return wrapper(honest, *given, **named)

    put(holder, attribute, wrapped)
    for other in [m for n, m in sys.modules.items() if n.partition(".")[0] in PRODUCT]:
        for key in [key for key, value in vars(other).items() if value is honest]:
            put(other, key, wrapped)


def replace_loss(loss: Callable[..., Any], patch: pytest.MonkeyPatch | None = None) -> None:
    """Let `--loss l1`, the default, build something else."""
    models = importlib.import_module("models")
    if patch:
        patch.setitem(models.LOSSES, "l1", loss)
    else:
        models.LOSSES["l1"] = loss
