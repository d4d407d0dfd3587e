"""A run in any program: `models.load_run` against test.py, for every kind of image and network."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.images import read_image
from models import load_run
from tests.builders import (
    ROOT,
    error_of,
    flags,
    image,
    pixels,
    save,
    tiny_flags,
    write_set,
    write_trained,
    write_weights,
)
from tests.cli import InProcess
from tests.published import published_nets

pytestmark = pytest.mark.usefixtures("one_thread")
Array = np.ndarray
SIZES = [(37, 50), (64, 64), (5, 9)]
COARSE = flags(model="resunet", width=8, depth=1, stem=4, levels=3)
RUNS = {  # flags and channels
    "resunet": (tiny_flags("resunet"), (3, 3)),
    "coarse": (COARSE, (3, 3)),
    "resnet": (tiny_flags("resnet"), (3, 3)),
    "unet of a gray input": (tiny_flags("unet"), (1, 3)),
    "dncnn, gray": (tiny_flags("dncnn"), (1, 1)),
    "twice as large": ((*tiny_flags("resunet"), "--scale", "2"), (3, 3)),
    "residual": ((*tiny_flags("unet"), *flags(norm="batch", residual=True, mean=0.4, std=0.3)), (3, 3)),
}


def measured(cli: InProcess, folder: str = "photos", *more: str) -> None:
    cli.test("--dataroot", folder, "--output", "out", *more)


@pytest.mark.parametrize("kind", RUNS)
def test_outputs_are_those_of_test_py_bit_for_bit(cli: InProcess, kind: str) -> None:
    given, nc = RUNS[kind]
    run = write_trained(Path(), *given, nc=nc)
    photos = write_set(Path("photos"), "inputs", 3, SIZES, ("",), channels=nc[0])
    measured(cli)
    net = load_run(run)
    for i, each in enumerate(photos):
        shown = pixels(each.input)
        output = net(shown)
        assert output.dtype == np.uint8 and np.array_equal(output, pixels(Path(f"out/{i}.png")))
        assert output.shape[:2] == (shown.shape[0] * net.scale, shown.shape[1] * net.scale)
        assert len(np.unique(output)) > 20, "a constant would prove nothing"


@pytest.mark.parametrize(("dtype", "end"), [(np.uint8, "png"), (np.uint16, "png"), (np.float32, "tif")])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_depth_of_the_image_is_that_of_the_output(
    cli: InProcess, dtype: Any, end: str, channels: int
) -> None:
    run = write_trained(Path(), *tiny_flags("dncnn"), nc=(channels, channels))
    shown = image(33, 41, channels, dtype)
    save(shown, Path(f"photos/a.{end}"))
    measured(cli)
    output = load_run(run)(shown)
    assert output.dtype == dtype and np.array_equal(output, read_image(Path(f"out/a.{end}")))


def test_tiles_are_those_of_test_py(cli: InProcess) -> None:
    run = write_trained(Path(), *tiny_flags("unet"))
    save(shown := image(150, 130, seed=3, smooth=True), Path("photos/a.png"))
    measured(cli, "photos", *flags(tile=64, tile_overlap=16))
    tiled = load_run(run, tile=64, tile_overlap=16)(shown)
    assert np.array_equal(tiled, pixels(Path("out/a.png")))
    assert not np.array_equal(tiled, load_run(run)(shown))  # instance norm: tiles differ
    assert "does not advance" in str(error_of(lambda: load_run(run, tile=16, tile_overlap=16)))


def test_arrays_pillow_images_and_tensors_are_one(tmp_path: Path) -> None:
    net = load_run(write_trained(tmp_path, *COARSE))
    shown = image(30, 45, smooth=True)
    expected = net(shown)
    photo = net(Image.fromarray(shown))
    assert isinstance(photo, Image.Image) and photo.mode == "RGB" and photo.size == (45, 30)
    assert np.array_equal(np.asarray(photo), expected)
    planes = torch.from_numpy(shown).permute(2, 0, 1)
    assert torch.equal(net(planes), torch.from_numpy(expected).permute(2, 0, 1))
    unit = planes / 255
    output = net(torch.stack([unit, unit.flip(2)]))
    assert output.shape == (2, 3, 30, 45) and output.dtype == torch.float32
    assert torch.equal(output[0], net(unit)) and not torch.equal(output[0], output[1])
    assert np.abs(output[0].permute(1, 2, 0).numpy() * 255 - expected).max() <= 0.5 + 1e-4
    assert np.array_equal(net(shown.astype(np.float64) / 255), net((shown / 255).astype(np.float32)))
    assert not any(module.training for module in net.net.modules())


def test_a_gray_image_is_repeated_over_the_channels(cli: InProcess) -> None:
    run = write_trained(Path(), *COARSE)
    save(gray := image(30, 45, 1, smooth=True)[:, :, 0], Path("photos/a.png"))
    measured(cli)
    output = load_run(run)(gray)
    assert output.shape == (30, 45, 3) and np.array_equal(output, pixels(Path("out/a.png")))
    one = load_run(write_trained(Path(), *tiny_flags("dncnn"), name="gray", nc=(1, 1)))
    assert one(gray).shape == (30, 45) and one(gray[:, :, None]).shape == (30, 45, 1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.zeros((8, 8, 4), np.uint8), "shape (8, 8, 4)"),
        (np.zeros((8, 8, 3), np.int64), "an image of int64"),
        (np.zeros((8, 8, 3), bool), "an image of bool"),
        (np.zeros((0, 8, 3), np.uint8), "shape (0, 8, 3)"),
        (torch.zeros(8, 8), "a tensor of shape (8, 8)"),
        (torch.zeros(2, 8, 8), "the network takes 3 channels"),
        ("photo.png", "an image of <U9"),
        (np.full((8, 8, 3), 255, np.float32), "float values from 255 to 255"),
        (np.full((8, 8, 3), -1.0), "those of an image are in [0, 1]"),
        (torch.full((3, 8, 8), float("nan")), "float values from nan to nan"),
    ],
    ids=str,
)
def test_an_image_that_the_network_does_not_take(tmp_path: Path, wrong: Any, words: str) -> None:
    net = load_run(write_trained(tmp_path, *COARSE))
    assert words in str(error_of(net, wrong))


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    run = write_trained(tmp_path, *COARSE)
    assert "no run in" in error_of(load_run, tmp_path / "nothing").what
    missing = error_of(load_run, run, "latest")
    assert "latest_net.pth" in missing.what and "the run has best" in missing.why
    (run / "best_net.pth").write_bytes(b"PK\3\4")
    assert "damaged" in error_of(load_run, run).what


def test_a_run_of_spandrel(cli: InProcess) -> None:
    net = published_nets()["x2"]
    write_weights(net, Path("w.pth"))
    run = write_trained(Path(), "--model", "spandrel", "--weights", "w.pth", "--scale", "2")
    photos = write_set(Path("photos"), "inputs", 2, SIZES, ("",))
    measured(cli)
    for i, each in enumerate(photos):
        assert np.array_equal(load_run(run)(pixels(each.input)), pixels(Path(f"out/{i}.png")))


def test_the_lines_of_the_readme(cli: InProcess, tmp_path: Path) -> None:
    """Word for word, in a process that imports nothing else."""
    write_trained(Path(), *COARSE, name="mine_resunet")
    save(shown := image(61, 47, smooth=True), Path("photos/a.png"))
    cli.test("--dataroot", "photos", "--output", "out", name="mine_resunet")
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert "load_run" in lines and len(lines.strip().splitlines()) == 4  # one is empty
    np.save("image.npy", shown)
    program = f"import numpy as np\nimage = np.load('image.npy')\n{lines}\nnp.save('output.npy', output)"
    subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).check_returncode()
    assert np.array_equal(np.load("output.npy"), pixels(Path("out/a.png")))
