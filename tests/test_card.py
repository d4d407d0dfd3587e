"""What `python -m utils.export RUN --card` says of a run, against its files; its lines are run."""

import hashlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models import load_run
from tests.builders import CPU, FAST, TINY, flags, image, pixels, save, tiny_flags, write_trained
from tests.cli import InProcess, log
from utils.options import parse_train
from utils.options.command import command_of

pytest.importorskip("safetensors")
pytestmark = pytest.mark.usefixtures("one_thread")


def head_of(text: str) -> dict[str, Any]:
    """The front matter of a README.md: one `key: JSON` a line, which is YAML, too."""
    lines = text.split("---\n")[1].splitlines()
    pairs = [line.split(": ", 1) for line in lines if not line.startswith("license")]
    return {key: json.loads(value) for key, value in pairs}


def card(cli: InProcess, name: str = "run", *more: str) -> tuple[str, dict[str, Any], Path]:
    """(README.md, the entry of OpenModelDB, their folder)."""
    cli.call("utils.export", name, "--card", *more, name="")
    folder = Path(f"checkpoints/{name}/{name}-card")
    (entry,) = folder.glob("*.json")
    return (folder / "README.md").read_text("utf-8"), json.loads(entry.read_text("utf-8")), folder


def test_a_run_of_spandrel_that_was_tested(cli: InProcess) -> None:
    pytest.importorskip("spandrel")
    trained = flags(dataroot="demo:6:48", degrade="noise:25", model="compact", arch="num_feat=8, num_conv=2")
    run = cli.train(*trained, *FAST, *CPU, "--max_steps", "5", name="my_net").run
    tested = cli.test("--degrade", "noise:25", name="my_net")
    text, entry, folder = card(cli, "my_net", "--to", "safetensors")
    head = head_of(text)
    assert "license: # fill in" in text and head["library_name"] == "pytorch"
    assert head["tags"] == ["image-to-image", "denoising", "Compact", "spandrel"]
    (name,) = {each["name"] for each in head["model-index"]}
    validated, test = head["model-index"][0]["results"]
    psnr, ssim = test["metrics"]
    assert name == "my_net" and test["dataset"]["name"] == "demo"
    assert psnr["value"] == pytest.approx(tested.summary["psnr"]["mean"], abs=1e-4)
    assert ssim["value"] == pytest.approx(tested.summary["ssim"]["mean"], abs=1e-4)
    assert tested.summary["protocol"] in psnr["name"]
    best = max(record["val_psnr"] for record in log(run) if "val_psnr" in record)
    assert validated["metrics"][0]["value"] == pytest.approx(best, abs=1e-4)
    assert f"| {tested.summary['psnr']['mean']:.2f} |" in text and "degraded by noise:25" in text
    assert (folder / "grid.png").read_bytes() == (tested.results / "grid.png").read_bytes()
    assert 'load_from_file("best_net.pth")' in text and 'load_run("my_net.safetensors")' in text

    assert (folder / "1x-my-net.json").is_file() and entry["license"] is None
    assert (entry["architecture"], entry["size"], entry["tags"]) == ("compact", ["8nf", "2nc"], ["denoise"])
    assert (entry["scale"], entry["inputChannels"], entry["outputChannels"]) == (1, 3, 3)
    files = [run / "my_net.safetensors", run / "best_net.pth"]
    assert [each["sha256"] for each in entry["resources"]] == [
        hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    ]
    assert [each["size"] for each in entry["resources"]] == [file.stat().st_size for file in files]
    assert [each["type"] for each in entry["resources"]] == ["safetensors", "pth"]
    assert entry["trainingIterations"] == 5 and entry["trainingBatchSize"] == 4
    assert entry["trainingHRSize"] == 32 and entry["trainingOTF"] is True and entry["datasetSize"] == 5


def test_lines_for_onnx_run_word_for_word(cli: InProcess, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    for name, nc in (("gray", (1, 1)), ("colour", (3, 3)), ("both", (1, 3))):
        model = "unet" if name == "both" else "dncnn"
        run = write_trained(Path(), *tiny_flags(model), name=name, nc=nc)
        text, entry, folder = card(cli, name)
        (lines,) = re.findall(r"```python\n(.*?)```", text, re.S)
        save(image(41, 30, nc[0], smooth=True), run / "photo.png")
        subprocess.run([sys.executable, "-c", lines], cwd=run, check=True)
        expected = load_run(run)(np.asarray(Image.open(run / "photo.png")))
        difference = pixels(run / "output.png").astype(int) - expected.reshape(
            pixels(run / "output.png").shape
        )
        assert np.abs(difference).max() <= 1 and len(np.unique(expected)) > 20
        assert [each["type"] for each in entry["resources"]] == ["onnx"], "spandrel does not know the .pth"
        assert "Not measured." in text and head_of(text)["library_name"] == "onnx"
        assert not (folder / "grid.png").exists() and "grid.png" not in text


def test_a_card_needs_a_run(cli: InProcess) -> None:
    refused = cli.call("utils.export", "--model", "unet", "--weights", "w.pth", "--card", name="", code=2)
    assert refused.refused("--card describes a run", "name a run")


def test_windows_of_pooling_are_said(cli: InProcess) -> None:
    pytest.importorskip("spandrel")
    arch = "width=8, enc_blk_nums=[1], middle_blk_num=1, dec_blk_nums=[1], tlc=True"
    run = write_trained(Path(), *flags(model="nafnet", arch=arch, crop_size=48, scale=2))
    assert run.is_dir()
    text, entry, _ = card(cli, "run", "--to", "safetensors")
    assert "windows of 48 x 48 pixels" in text
    assert "super-resolution" in text and entry["scale"] == 2
    assert [each["type"] for each in entry["resources"]] == ["safetensors"], "the .pth does not enlarge"
    assert "load_from_file" not in text


@pytest.mark.parametrize(
    "given",
    [
        TINY,
        (*TINY, *flags(optimizer="sgd", lr=0.01, channels_last=True, milestones="3,4", residual=False)),
        flags(preset="fine", minutes=3, dataroot="demo:2:32", width=64),
        (*flags(preset="fine", dataroot="demo:2:32", degrade="noise:25", seed=4), "--no-channels_last"),
        flags(model="nafnet", dataroot="demo:2:32", arch="width=8, enc_blk_nums=[1], dec_blk_nums=[1]"),
        flags(model="rrdb", dataroot="demo:2:32", scale=2),
    ],
    ids=str,
)
def test_the_command_gives_the_same_options(tmp_path: Path, given: tuple[str, ...]) -> None:
    options = vars(parse_train([*given, "--name", "a"]))
    words = shlex.split(command_of(options))
    assert words[:2] == ["python", "train.py"] and len(words) <= 2 * len(given) + 2
    assert vars(parse_train([*words[2:], "--name", "a"])) == options
