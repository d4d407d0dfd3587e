"""Write a trained network for other programs: `python -m utils.export RUN --to onnx|pt2|safetensors`.

Input and output are images in [0, 1]: normalisation and padding are part of what is written. The file is
compared with what test.py computes, on images of three sizes that were not traced, before it takes its place.
"""

import datetime
import json
import math
import shutil
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from data.datasets import ImageSpec, WholeDataset
from data.degrade import parse_degradation
from data.pairs import Source
from data.splits import find_pairs, splits_present
from models.fetch import local_weights
from models.layers import size_of
from models.pooling import LocalPool
from models.portable import OPSET, Portable, open_onnx, open_program, require, save_onnx, save_program
from models.run import TrainedModel, load_network, load_run
from models.spandrel import SpandrelNet
from models.tiling import Tiling
from models.wrappers import bare
from utils.options import parse_export, parse_or_exit, saved_options, source_of
from utils.options.command import command_of
from utils.options.resolve import upgrade
from utils.run.run import Run, versions
from utils.system import tensorfile
from utils.system.atomic import disk_errors, write_text
from utils.system.batch import to_batch
from utils.system.errors import UserError, first_sentence, run_script
from utils.vis.card import Published, best_validation, figures, hugging_face, open_model_db, tests_of

Array = np.ndarray
SIZES = ((321, 481), (460, 620), (97, 33))  # height and width of the images that are compared
MAX_LEVELS = 1.0  # of 255: the largest difference from test.py
DARKTABLE_SIDE = 768  # pixels; darktable cuts images into tiles of one size
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": (), "safetensors": ("safetensors",)}
SUFFIX = {"onnx": ".onnx", "pt2": ".pt2", "safetensors": ".safetensors"}


class Exported(NamedTuple):
    """A file that was written, and its function: `(N, C, H, W)` to `(N, C', H', W')`, both in [0, 1]."""

    file: Path
    call: Callable[[Array], Array]


def main(opt: Namespace, cleanup: ExitStack) -> int:
    """Export, compare, print; returns the exit code."""
    require(*PACKAGES[opt.to])
    run = Run.named(opt.name)
    trained = Namespace(**vars(opt) | {"size": None}) if opt.model else saved_options(run)
    weights = local_weights(opt.weights) if opt.weights else run.saved_net(opt.load)
    net, _ = load_network(vars(trained), weights)
    model = TrainedModel(net, vars(trained), torch.device("cpu"), Tiling())
    if opt.target == "darktable":
        opt.size = opt.size or [DARKTABLE_SIDE, DARKTABLE_SIDE]
        refuse_for_darktable(model)
    place = output_of(opt, run)
    cleanup.enter_context(disk_errors(place.parent))
    place.parent.mkdir(parents=True, exist_ok=True)
    part = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix=".export.", dir=place.parent)))
    found = figures(Path(opt.results_dir, run.name), run.log, weights)
    facts = metadata(trained, found)
    exported = write(opt, model, facts, part)

    inputs, where = images(opt, trained, model, [opt.size] if opt.size else SIZES)
    worst = compare(exported.call, model, inputs, where)
    if worst > MAX_LEVELS:
        what = f"{exported.file.name} is {worst:.2f} levels of 255 from test.py, more than {MAX_LEVELS:g}"
        fix = "leave out --half" if opt.half else f"export {'--to pt2' if opt.to == 'onnx' else '--to onnx'}"
        raise UserError(what, "nothing was written", fix, code=1)
    if opt.target == "darktable":
        write_text(json.dumps(darktable_config(run.name, model, opt.size), indent=2), part / "config.json")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for file in part.iterdir():
            file.rename(place / file.name)
    else:
        exported.file.rename(place)
    print(f"wrote   {place}, {describe(opt, model)}")
    if opt.card:
        file = place / exported.file.name if opt.target else place
        write_card(place.with_name(f"{run.name}-card"), opt, run, model, found, [file, weights])
    return 0


def output_of(opt: Namespace, run: Run) -> Path:
    """The file or folder to write."""
    ending = "-darktable" if opt.target else SUFFIX[opt.to]
    if not opt.output:
        return (Path() if opt.model else run.folder) / f"{run.name}{ending}"
    place = Path(opt.output)
    if opt.target and place.is_dir() and not (place / "config.json").is_file() and any(place.iterdir()):
        raise UserError(f"{place} holds other files [--output]", fix="name a new folder")
    if not opt.target and (place.is_dir() or place.suffix != ending):
        raise UserError(f"bad file [--output {place}]", fix=f"name a {ending} file")
    return place


def metadata(trained: Namespace, found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Metadata of an exported file: options, figures with their protocol, versions, each as JSON text."""
    content = {"options": vars(trained), "figures": found, "versions": versions()}
    return {"format": "pt"} | {key: json.dumps(value) for key, value in content.items()}


def write(opt: Namespace, model: TrainedModel, facts: Mapping[str, str], folder: Path) -> Exported:
    """Write the file into a folder."""
    file = folder / ("model.onnx" if opt.target else f"{opt.name}{SUFFIX[opt.to]}")
    if opt.to == "safetensors":
        tensorfile.save_safetensors(bare(model.net).state_dict(), facts, file)
        return Exported(file, as_function(load_run(file)))
    net = Portable(model.net, model.options["mean"], model.options["std"], opt.half)
    size = tuple(opt.size) if opt.size else None
    if opt.to == "pt2":
        save_program(net, model.input_nc, size, facts, file)
        return Exported(file, open_program(file))
    save_onnx(net, model.input_nc, size, facts, file)
    return Exported(file, open_onnx(file))


def as_function(model: TrainedModel) -> Callable[[Array], Array]:
    return lambda image: model(torch.from_numpy(image)).numpy()


# ------------------------------------------------------------------------------------------------- comparing


def images(
    opt: Namespace, trained: Namespace, model: TrainedModel, sizes: Sequence[Sequence[int]]
) -> tuple[list[Array], str]:
    """(inputs `(H, W, C)`; where they come from): of --dataroot, of the run's data, or rendered."""
    source, where, degrade = Source(root="demo:3:128"), "rendered images", None
    if opt.dataroot:
        source, where = Source(root=opt.dataroot), opt.dataroot
    elif not opt.model and Path(trained.dataroot).exists():
        source, where = source_of(vars(trained)), trained.dataroot
        degrade = parse_degradation(trained.degrade) if trained.degrade else None
    found = splits_present(source)
    split = "test" if "test" in found or not found else found[-1]
    spec = ImageSpec(model.input_nc, model.output_nc, degrade=degrade)
    data = WholeDataset(find_pairs(source, split), spec)
    some = [data.whole(i % len(data)).input for i in range(len(SIZES))]
    return [cut(image, *size) for image, size in zip(some, cycle(sizes), strict=False)], where


def cut(image: Array, height: int, width: int) -> Array:
    """The top left part of `(H, W, C)`, mirrored at the ends where the image is smaller."""
    down, right = max(0, height - image.shape[0]), max(0, width - image.shape[1])
    return np.pad(image, ((0, down), (0, right), (0, 0)), mode="symmetric")[:height, :width]


def compare(
    call: Callable[[Array], Array], model: TrainedModel, inputs: Sequence[Array], where: str
) -> float:
    """Print how far the outputs are from test.py's, in levels of 255; returns the largest difference."""
    worst = 0.0
    for image in inputs:
        x = to_batch([image], 0, 1)
        try:
            output = call(x.numpy())
        except Exception as error:  # of onnxruntime or torch.export
            what = f"the file cannot compute an image of {image.shape[0]} x {image.shape[1]}"
            raise UserError(what, first_sentence(error), "fix the size by --size H W", code=1) from None
        expected = model(x).numpy()
        if output.shape != expected.shape:
            why = "padding or scale went wrong in the export"
            raise UserError(f"the output is {output.shape}, that of test.py {expected.shape}", why, code=1)
        levels = 255 * float(np.abs(output - expected).max())
        size = f"{image.shape[0]} x {image.shape[1]}"
        print(f"parity  {size}: at most {levels:.2g} levels of 255 from test.py ({where})")
        worst = max(worst, math.inf if math.isnan(levels) else levels)
    return worst


# ------------------------------------------------------------------------------------------------------ card


def write_card(
    folder: Path,
    opt: Namespace,
    run: Run,
    model: TrainedModel,
    found: Sequence[Mapping[str, Any]],
    files: Sequence[Path],
) -> None:
    """Write README.md, the entry of OpenModelDB and a grid of images into a folder; other files in it stay.

    Args:
        found: the figures of the run.
        files: to publish: the exported file, then the weights.
    """
    folder.mkdir(exist_ok=True)
    grids = [each / "grid.png" for each, _ in tests_of(Path(opt.results_dir, run.name), files[1])]
    grid = next((each for each in [*grids, run.grid] if each.is_file()), None)
    if grid:
        shutil.copyfile(grid, folder / "grid.png")
    card = published(opt, run, model, found, files, "grid.png" if grid else "")
    write_text(hugging_face(card), folder / "README.md")
    entry = json.dumps(open_model_db(card), indent=4, ensure_ascii=False)
    write_text(entry, folder / f"{card.identifier}.json")
    print(f"wrote   {folder}/: README.md, {card.identifier}.json; fill in author, licence and addresses")


def published(
    opt: Namespace,
    run: Run,
    model: TrainedModel,
    found: Sequence[Mapping[str, Any]],
    files: Sequence[Path],
    grid: str,
) -> Published:
    """What the card of a run says."""
    net, options = bare(model.net), model.options
    zoo = next((each for each in model.net.modules() if isinstance(each, SpandrelNet)), None)
    alone = zoo is not None and size_of(zoo).scale == model.scale and not options["residual"]
    pools = any(isinstance(each, LocalPool) for each in net.modules())
    return Published(
        name=run.name,
        options=options,
        figures=found,
        command=command_of(upgrade(run.options())),
        architecture=type(net).__name__ if zoo is None else zoo.architecture,
        parameters=sum(each.numel() for each in net.parameters()),
        sizes=zoo.tags if zoo else [],
        in_spandrel=alone and (options["mean"], options["std"]) == (0, 1),
        scale=model.scale,
        files=files,
        steps=best_validation(run.log).get("step") if opt.load == "best" else None,
        date=f"{datetime.date.fromtimestamp(files[1].stat().st_mtime)}",
        grid=grid,
        window=options.get("crop_size") or options.get("size") if pools else None,
    )


# ------------------------------------------------------------------------------------------------- darktable


def refuse_for_darktable(model: TrainedModel) -> None:
    if (model.input_nc, model.output_nc) != (3, 3):
        why = f"the network has {model.input_nc} to {model.output_nc} channels"
        raise UserError(
            "darktable takes networks for colour [--target darktable]", why, "train on colour images"
        )


def darktable_config(name: str, model: TrainedModel, size: Sequence[int]) -> dict[str, Any]:
    """The manifest of a model of darktable 5.6: found by its id, run on tiles of one size."""
    task = "upscale" if model.scale > 1 else "denoise"
    return {
        "id": f"{task}-{name.lower().replace('_', '-')}",
        "name": name.replace("_", " "),
        "description": f"{model.options['model']}, exported by clearpair",
        "task": task,
        "backend": "onnx",
        "version": 1,
        "tiling": True,
        "attributes": {"input_sizes": [size[0]]},
    }


def describe(opt: Namespace, model: TrainedModel) -> str:
    """What was written, on one line."""
    if opt.to == "safetensors":
        return "weights, options and figures; read by --weights, load_run and spandrel"
    size = f"{opt.size[0]} x {opt.size[1]}" if opt.size else "any number and size of images"
    kind = f"opset {OPSET}" if opt.to == "onnx" else f"torch {torch.__version__}"
    precision = "float16 inside, float32 in and out" if opt.half else "float32"
    return f"{kind}, (N, {model.input_nc}, H, W) in [0, 1], {size}, {precision}"


if __name__ == "__main__":
    sys.exit(run_script(main, parse_or_exit(parse_export)))
