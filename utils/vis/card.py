"""What a model says of itself where it is published: its figures, a model card, an entry of a database."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from models.fetch import weights_name
from utils.eval.folder import dataset_name, summary_of
from utils.run.checkpoint import FIGURES
from utils.run.log import read_log
from utils.system.hashes import sha256

TASKS = {  # step of --degrade: tag on Hugging Face, tag in OpenModelDB
    "noise": ("denoising", "denoise"),
    "poisson": ("denoising", "denoise"),
    "blur": ("deblurring", "deblur"),
    "jpeg": ("jpeg-artifact-removal", "jpeg"),
    "gray": ("colorization", "colorization"),
    "sr": ("super-resolution", "general-upscaler"),
    "haze": ("dehazing", "restoration"),
    "rain": ("deraining", "restoration"),
}
DIGITS = {"psnr": 2, "psnr_input": 2, "ssim": 4}
RESOURCES = {".pth": "pytorch", ".safetensors": "pytorch", ".onnx": "onnx"}  # files in OpenModelDB: platform


class Published(NamedTuple):
    """A trained model, as a card describes it.

    Args:
        name: of the run.
        options: of the run, by the names of their flags.
        figures: from `figures`.
        command: that trained it.
        architecture, parameters: its class and size.
        sizes: such as "64nf", from spandrel; may be empty.
        in_spandrel: whether spandrel, given `weights`, computes the whole model.
        scale: output size / input size.
        files: to publish, the exported one first, then the weights.
        steps: optimizer updates of these weights; None: unknown.
        date: yyyy-mm-dd.
        grid: name of an image beside the card; "": none.
        window: side in pixels of the windows of global pooling, which spandrel does not know; None: none.
    """

    name: str
    options: Mapping[str, Any]
    figures: Sequence[Mapping[str, Any]]
    command: str
    architecture: str
    parameters: int
    sizes: Sequence[str]
    in_spandrel: bool
    scale: int
    files: Sequence[Path]
    steps: int | None
    date: str
    grid: str
    window: int | None

    @property
    def tasks(self) -> list[tuple[str, str]]:
        """(tag on Hugging Face, tag in OpenModelDB) of each thing that it does."""
        steps = re.findall(r"(?:^|\+)(\w+)", self.options.get("degrade") or "")
        other = "sr" if self.scale > 1 else ""
        known = [TASKS[step] for step in [*steps, other] if step in TASKS]
        return list(dict.fromkeys(known)) or [("image-restoration", "restoration")]

    @property
    def channels(self) -> tuple[int, int]:
        return self.options["input_nc"], self.options["output_nc"]

    @property
    def identifier(self) -> str:
        """Its name in OpenModelDB, such as 1x-my-model."""
        return f"{self.scale}x-{re.sub(r'[^a-zA-Z0-9]+', '-', self.name).strip('-')}"


# ---------------------------------------------------------------------------------------------------- figures

CHOOSING = [(f"val_{figure}", sign) for figure, sign in FIGURES.items() if figure != "psnr"]


def figures(results: Path, log: Path, weights: Path) -> list[dict[str, Any]]:
    """The figures of a run: the best validation, and every complete test of these weights.

    Args:
        results: `results/<run>`.
        log: the run's log.
        weights: the file that was tested, as test.py names it.
    """
    found = []
    if best := best_validation(log):
        found.append({"data": "validation", "psnr": best["val_psnr"], "psnr_input": best["val_psnr_input"]})
    for _, summary in tests_of(results, weights):
        means = {name: summary[name]["mean"] for name in ("psnr", "psnr_input", "ssim") if name in summary}
        finite = {name: mean for name, mean in means.items() if mean is not None and math.isfinite(mean)}
        keys = ("dataset", "data", "degrade", "images", "protocol", "x8")
        found.append({key: summary.get(key) for key in keys} | finite)
    return found


def best_validation(log: Path) -> dict[str, Any]:
    """The record of the best validation, by the figure that chose the best weights; empty without one."""
    with suppress(OSError, ValueError, KeyError):
        records = [each for each in read_log(log) if isinstance(each.get("val_psnr"), float)]
        choosing = ((key, sign) for key, sign in CHOOSING if records and key in records[0])
        figure, sign = next(choosing, ("val_psnr", 1))
        return max(records, key=lambda record: sign * record[figure])
    return {}


def tests_of(results: Path, weights: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(folder, summary) of every complete test of these weights."""
    for folder in sorted(results.glob("[!.]*")):
        summary = summary_of(folder) or {}
        if summary.get("weights") == str(weights) and summary.get("complete", True):
            yield folder, summary


# ----------------------------------------------------------------------------------------------- Hugging Face


def hugging_face(model: Published) -> str:
    """README.md of a repository on Hugging Face; the licence is left to fill in."""
    dataset = dataset_name(model.options["dataroot"])
    tags = ["image-to-image", *(task for task, _ in model.tasks), model.architecture]
    tags += ["spandrel"] if model.in_spandrel else []
    head = {
        "library_name": "onnx" if model.files[0].suffix == ".onnx" else "pytorch",
        "pipeline_tag": "image-to-image",
        "tags": tags,
        "datasets": [dataset],
        "metrics": ["psnr", "ssim"],
        "model-index": [{"name": model.name, "results": [*map(result, model.figures)]}],
    }
    lines = ["---", "license: # fill in, such as mit"]
    lines += [f"{key}: {json.dumps(value)}" for key, value in head.items()]
    lines += ["---", f"# {model.name}", "", summary_line(model), ""]
    lines += [f"![input, output, target]({model.grid})", ""] if model.grid else []
    lines += ["## Figures", "", *table(model.figures), "", "## Use", "", *usage(model), "## Training", ""]
    lines += ["```sh", model.command, "```", "", *(f"* {line}" for line in model.options.get("data", ()))]
    lines += [f"* {model.steps} steps of batch {model.options['batchSize']}"] if model.steps else []
    lines += [f"* torch {model.options['versions']['torch']}"] if "versions" in model.options else []
    lines += ["", "## Files", "", "| file | bytes | sha256 |", "|---|---|---|"]
    lines += [f"| `{file.name}` | {file.stat().st_size} | `{digest(file)}` |" for file in model.files]
    return "\n".join([*lines, "", "## Licence", "", "Fill in here and at the top.", ""])


def summary_line(model: Published) -> str:
    """The network, its task and its range, in one sentence."""
    task = ", ".join(task for task, _ in model.tasks)
    kinds = " to ".join("gray" if count == 1 else "colour" for count in dict.fromkeys(model.channels))
    scale = f", {model.scale} times as large" if model.scale > 1 else ""
    return (
        f"{model.architecture} with {model.parameters:,} parameters for {task}: {kinds} images in [0, 1]"
        f"{scale}. Trained with clearpair."
    )


def result(figure: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of a model-index: the metrics of one set of images."""
    protocol = figure.get("protocol") or "as logged in training"
    name = figure.get("dataset") or figure["data"]
    metrics = [
        {"type": metric, "value": round(figure[metric], 4), "name": f"{metric.upper()} ({protocol})"}
        for metric in ("psnr", "ssim")
        if metric in figure
    ]
    return {"task": {"type": "image-to-image"}, "dataset": {"name": name, "type": name}, "metrics": metrics}


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures as a table, with the protocol of each."""
    if not found:
        return ["Not measured."]
    lines = ["| images | PSNR, dB | of the input | SSIM | protocol |", "|---|---|---|---|---|"]
    for each in found:
        images = each["data"] + (f", degraded by {each['degrade']}" if each.get("degrade") else "")
        protocol = (each.get("protocol") or "as logged in training") + (", x8" if each.get("x8") else "")
        values = [f"{each[key]:.{digits}f}" if key in each else "" for key, digits in DIGITS.items()]
        lines.append(f"| {' | '.join([images.replace('|', '/'), *values, protocol])} |")
    return lines


def usage(model: Published) -> list[str]:
    """Lines of Python for each file."""
    lines = []
    mode, axes = ("L", "[None, None]") if model.channels[0] == 1 else ("RGB", ".transpose(2, 0, 1)[None]")
    back = "[0]" if model.channels[1] == 1 else ".transpose(1, 2, 0)"
    for file in model.files:
        call = CALLS.get(file.suffix if file.suffix != ".pth" or model.in_spandrel else "")
        if call:
            code = call.format(file=file.name, mode=mode, axes=axes, back=back)
            lines += ["```python", code.strip("\n"), "```", ""]
    if model.window:
        size = f"{model.window} x {model.window}"
        text = f"Global pooling is over windows of {size} pixels, as in training; in spandrel over the image."
        lines += [text, ""]
    return lines


CALLS = {
    ".onnx": """
import numpy as np
import onnxruntime
from PIL import Image

net = onnxruntime.InferenceSession("{file}")
image = np.asarray(Image.open("photo.png").convert("{mode}"), np.float32) / 255
output = net.run(None, {{"input": image{axes}}})[0][0]{back}
Image.fromarray(np.rint(output * 255).astype(np.uint8)).save("output.png")
""",
    ".pt2": """
import torch

net = torch.export.load("{file}").module()
output = net(image)  # (N, C, H, W) in [0, 1]
""",
    ".safetensors": """
from models import load_run  # of clearpair

net = load_run("{file}")
output = net(image)  # array, Pillow image or tensor
""",
    ".pth": """
import spandrel

net = spandrel.ModelLoader().load_from_file("{file}").eval()
output = net(image)  # (1, C, H, W) in [0, 1]
""",
}


# ------------------------------------------------------------------------------------------------ OpenModelDB


def open_model_db(model: Published) -> dict[str, Any]:
    """An entry of OpenModelDB (data/models/ID.json); author and licence are left to fill in.

    Source of the format: src/lib/schema.ts of its repository.
    """
    options = model.options
    files = [each for each in model.files if each.suffix in RESOURCES]
    images = re.match(r"train: (\d+)", next(iter(options.get("data") or [""])))
    facts = {
        "name": model.name,
        "author": "",
        "license": None,
        "tags": list(dict.fromkeys(tag for _, tag in model.tasks)),
        "description": "\n".join([summary_line(model), "", *table(model.figures)]),
        "date": model.date,
        "architecture": model.architecture.lower(),
        "size": list(model.sizes) or None,
        "scale": model.scale,
        "inputChannels": model.channels[0],
        "outputChannels": model.channels[1],
        "resources": [resource(each) for each in files if each.suffix != ".pth" or model.in_spandrel],
        "trainingIterations": model.steps,
        "trainingBatchSize": options["batchSize"],
        "trainingHRSize": options.get("crop_size") or options.get("size"),
        "trainingOTF": bool(options.get("degrade")),
        "dataset": dataset_name(options["dataroot"]),
        "datasetSize": int(images[1]) if images else None,
        "pretrainedModelG": weights_name(options["weights"]) if options.get("weights") else None,
        "images": [],
    }
    required = ("license", "size")
    return {key: value for key, value in facts.items() if value is not None or key in required}


def resource(file: Path) -> dict[str, Any]:
    """A file, as OpenModelDB lists it; its addresses are left to fill in."""
    found = {"platform": RESOURCES[file.suffix], "type": file.suffix[1:], "size": file.stat().st_size}
    return found | {"sha256": digest(file), "urls": []}


def digest(file: Path) -> str:
    with file.open("rb") as content:
        return sha256(content)
