"""Where tests put faults into the product: one line a seam, the only one to change where a function moves."""

import functools
import importlib
import itertools
import pathlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

SEAMS = {  # name: module:path
    "fsync": "os:fsync",
    "mkdir": "pathlib:Path.mkdir",
    "open": "pathlib:Path.open",
    "replace": "pathlib:Path.replace",
    "load": "torch:load",
    "torch.save": "torch:save",
    "count_gpus": "torch:cuda.device_count",
    "save": "utils.system.tensorfile:save",
    "init": "utils.system.distributed:init",
    "find_pairs": "data.splits:find_pairs",
    "pair_headers": "data.scan:pair_headers",
    "batch": "data.datasets:TrainDataset.__getitems__",
    "start_at": "data.sampler:EpochSampler.start_at",
    "mean_psnr": "utils.eval.evaluator:mean_psnr",
    "predict": "utils.eval.evaluator:Evaluator.predict",
    "save_output": "utils.eval.outputs:Outputs.save",
    "write_page": "utils.vis.report:Report.write",
    "forward": "utils.eval.evaluator:Evaluator.forward",
    "progress": "utils.vis.console:Progress.step",
    "start_server": "utils.vis.visdom_client:start_server",
}
PRODUCT = ("train", "test", "data", "models", "utils")


def wrap(name: str, wrapper: Callable[..., Any], patch: "pytest.MonkeyPatch | None" = None) -> None:
    """Call `wrapper(honest, ...)` instead of a function of the product, wherever it was imported to.

    Args:
        patch: undoes it; None in a process that a test starts.
    """
    if patch:  # a script that is first imported later would keep the wrapper
        for script in ("train", "test"):
            importlib.import_module(script)
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


def replace_loss(change: Callable[..., Any], patch: "pytest.MonkeyPatch | None" = None) -> None:
    """Let `--loss l1`, the default, be `change(number of the call from 1 on, loss, output)`."""
    models, torch = importlib.import_module("models"), importlib.import_module("torch")

    class Loss(torch.nn.L1Loss):  # type: ignore[name-defined, misc]
        calls = 0

        def forward(self, output: Any, target: Any) -> Any:
            self.calls += 1
            return change(self.calls, super().forward(output, target), output)

    if patch:
        patch.setitem(models.LOSSES, "l1", Loss)
    else:
        models.LOSSES["l1"] = Loss


def save_for_ever(number: str) -> None:
    """Write `net.pth` again and again; all values of one file are its number, counted up."""
    save, torch = importlib.import_module("utils.system.tensorfile").save, importlib.import_module("torch")
    for n in itertools.count(int(number)):
        save({"n": n, "x": [torch.full((50_000,), float(n))] * 3}, pathlib.Path("net.pth"))
