"""Runs for other programs: what `python -m utils.export` writes, against test.py."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models import NORMS, load_run
from models.layers import crop_to, pad_to, size_of
from models.portable import Portable, open_onnx, open_program, save_onnx, save_program
from tests.builders import (
    CPU,
    FAST,
    OURS,
    TINY,
    TINY_NET,
    assert_same_state,
    dataset,
    error_of,
    flags,
    image,
    network,
    perturbed,
    pixels,
    tiny_flags,
    write_set,
    write_trained,
)
from tests.cli import Ended, InProcess, weights
from utils.export import SIZES
from utils.system import tensorfile

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.usefixtures("one_thread")
Array = np.ndarray
SMALL_SIZES = [(1, 33, 97), (3, 64, 64), (1, 5, 9), (2, 21, 40)]  # none of them is traced
WAYS = {"onnx": (save_onnx, open_onnx), "pt2": (save_program, open_program)}


def export(cli: InProcess, *given: str, code: int = 0) -> Ended:
    return cli.call("utils.export", *given, name="", code=code)


def levels(ended: Ended) -> list[float]:
    """The differences from test.py that were printed, in levels of 255."""
    return [float(line.split("at most ")[1].split()[0]) for line in ended.lines if line.startswith("parity")]


def differences(net: nn.Module, channels: int, way: str, file: Path, half: bool = False) -> list[float]:
    """Of an exported network from the network, in levels of 255, at every size."""
    save, load = WAYS[way]
    save(Portable(net, 0.5, 0.5, half), channels, None, {}, file)
    call, found = load(file), []
    for seed, (count, height, width) in enumerate(SMALL_SIZES):
        x = torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            expected = (net((x - 0.5) / 0.5) * 0.5 + 0.5).clamp(0, 1).numpy()
        output = call(x.numpy())
        assert output.shape == expected.shape and output.dtype == np.float32
        assert expected.std() > 1e-3, "a constant would prove nothing"
        found.append(255 * float(np.abs(output - expected).max()))
    return found


# ---------------------------------------------------------------------------------- every network, any size


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("model", OURS)
def test_every_network_and_norm(tmp_path: Path, model: str, norm: str) -> None:
    net = perturbed(network(model, norm=norm)).eval()
    assert max(differences(net, 3, "onnx", tmp_path / "n.onnx")) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("act", ["leaky", "silu"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "options",
    [{"scale": 2}, {"scale": 3, "input_nc": 1, "output_nc": 1}, {"input_nc": 1}, {"output_nc": 1}],
    ids=str,
)
def test_scales_channels_and_activations(tmp_path: Path, options: dict[str, int], way: str, act: str) -> None:
    model = "unet" if "output_nc" in options else "resunet"
    net = perturbed(network(model, act=act, **options)).eval()
    assert max(differences(net, options.get("input_nc", 3), way, tmp_path / "n")) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("resunet", {"stem": 4, "levels": 3}),
        ("resunet", {"stem": 1, "levels": 1}),
        ("unet", {"residual": True, "depth": 4}),
        ("resnet", {"upsample": "resize"}),
        ("unet", {"upsample": "resize", "depth": 3}),
    ],
    ids=str,
)
def test_shapes_of_networks(tmp_path: Path, model: str, options: dict[str, Any]) -> None:
    net = perturbed(network(model, **options)).eval()
    assert max(differences(net, 3, "onnx", tmp_path / "n.onnx")) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("model", OURS)
def test_half_keeps_instance_norm_in_float32(tmp_path: Path, model: str) -> None:
    net = perturbed(network(model, norm="instance")).eval()
    found = differences(net, 3, "onnx", tmp_path / "n.onnx", half=True)
    assert 0 < max(found) < 1
    whole = differences(net, 3, "onnx", tmp_path / "whole.onnx")
    assert max(whole) < max(found)
    seen: dict[type, set[torch.dtype]] = {}
    portable = Portable(net, 0.5, 0.5, half=True)
    for module in portable.net.modules():
        module.register_forward_pre_hook(
            lambda layer, given: seen.setdefault(type(layer), set()).add(given[0].dtype)
        )
    portable(torch.rand(1, 3, 32, 32))
    assert (seen[nn.InstanceNorm2d], seen[nn.Conv2d]) == ({torch.float32}, {torch.float16})
    import onnx

    kinds = [
        each.data_type for each in onnx.load(tmp_path / "n.onnx").graph.initializer if len(each.dims) == 4
    ]
    assert kinds and {*kinds} == {onnx.TensorProto.FLOAT16}
    assert all(
        value.dtype == torch.float32 for value in net.state_dict().values() if value.is_floating_point()
    )


@pytest.mark.parametrize("model", ["resunet", "resnet", "unet"])
def test_traced_padding_is_that_of_eager_execution(model: str) -> None:
    """Reflected where the image is large enough, repeated where it is not, at every size near a multiple."""
    size = size_of(network(model))

    class Pad(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return crop_to(pad_to(x, size) * 1, x.shape[2] + 0, x.shape[3] + 0), pad_to(x, size)

    dynamic = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    traced = torch.export.export(Pad(), (torch.rand(2, 1, 21, 23),), dynamic_shapes=(dynamic,)).module()
    for height, width in [(1, 1), (2, 50), (3, 3), (7, 8), (16, 16), (17, 31), (32, 33), (5, 40), (40, 5)]:
        x = torch.rand(2, 1, height, width)
        same, padded = traced(x)
        assert torch.equal(padded, pad_to(x, size)) and torch.equal(same, x)


# ------------------------------------------------------------------------------------------------ the command


@pytest.mark.parametrize("to", ["onnx", "pt2", "safetensors"])
def test_the_command_compares_with_test_py_at_three_sizes(cli: InProcess, to: str) -> None:
    run = write_trained(Path(), *flags(model="resunet", width=8, depth=1, stem=4, levels=3))
    ended = export(cli, "run", "--to", to)
    assert max(levels(ended)) < 0.01 and len(levels(ended)) == 3
    assert all(f"{height} x {width}: " in ended.out for height, width in SIZES)
    assert ended.lines[-1].startswith(f"wrote   checkpoints/run/run.{to}, ")
    assert sorted(path.name for path in run.iterdir()) == sorted(
        ["best_net.pth", "log.jsonl", "options.json", f"run.{to}"]
    )


FULL = {
    "resunet fine": flags(model="resunet", stem=2, levels=1, depth=14, width=48),
    "resunet coarse": flags(model="resunet", stem=4, levels=4),
    "resnet": flags(model="resnet", depth=4, width=16),
    "unet": flags(model="unet", width=32),
    "dncnn": flags(model="dncnn", width=32),
}


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "pt2"])
@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FULL)
def test_real_images_at_three_sizes(cli: InProcess, name: str, channels: int, scale: int, to: str) -> None:
    images = dataset("set12" if channels == 1 else "bsds500-color")
    write_trained(Path(), *FULL[name], "--scale", str(scale), nc=(channels, channels))
    ended = export(cli, "run", "--to", to, "--dataroot", str(images))
    assert len(levels(ended)) == 3 and max(levels(ended)) < 0.05


def test_real_images_of_the_run_are_used(cli: InProcess) -> None:
    write_set(Path("mine"), count=2, size=(60, 70))
    write_trained(Path(), "--dataroot", "mine", *tiny_flags("unet"))
    ended = export(cli, "run", "--size", "72", "96")
    assert ended.out.count("72 x 96: at most") == 3 and "test.py (mine)" in ended.out
    assert max(levels(ended)) < 0.01 and "72 x 96, float32" in ended.lines[-1]
    other = write_set(Path("other"), "inputs", 1, (50, 50), ("",))[0].input.parent
    assert "test.py (other)" in export(cli, "run", "--size", "72", "96", "--dataroot", str(other)).out


def test_onnx_runs_without_torch(cli: InProcess, tmp_path: Path) -> None:
    """In a process that imports onnxruntime and NumPy only: at most one level from what test.py wrote."""
    write_trained(Path(), *tiny_flags("unet"))
    photos = write_set(Path("photos"), "inputs", 3, [(61, 47), (30, 90), (64, 64)], ("",))
    cli.test("--dataroot", "photos", "--output", "out")
    export(cli, "run", "--output", "net.onnx")
    np.savez("images.npz", *[pixels(each.input) for each in photos])
    program = """
import sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("net.onnx")
outputs = []
for image in np.load("images.npz").values():
    x = image.transpose(2, 0, 1)[None].astype(np.float32) / 255
    outputs.append(session.run(None, {"input": x})[0][0].transpose(1, 2, 0))
assert "torch" not in sys.modules
np.savez("outputs.npz", *outputs)
"""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, check=True)
    for i, output in enumerate(np.load("outputs.npz").values()):
        shown = pixels(Path(f"out/{i}.png")).astype(np.float64)
        assert output.min() >= 0 and output.max() <= 1
        assert np.abs(np.rint(output * 255.0) - shown).max() <= 1 and len(np.unique(shown)) > 20


def space_to_depth(x: Any, downscale_factor: int) -> Any:
    """What onnxscript before 0.7.2 made of PixelUnshuffle: another order of channels."""
    from onnxscript import opset20

    return opset20.SpaceToDepth(x, blocksize=downscale_factor)


@pytest.mark.parametrize("nc", [(3, 3), (1, 1)])
def test_a_wrong_order_of_channels_is_caught(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, nc: tuple[int, int]
) -> None:
    run = write_trained(Path(), *tiny_flags("resunet"), nc=nc)
    honest, wrong = torch.onnx.export, {torch.ops.aten.pixel_unshuffle.default: space_to_depth}
    monkeypatch.setattr(torch.onnx, "export", lambda *a, **k: honest(*a, **k, custom_translation_table=wrong))
    if nc == (1, 1):  # with one channel both orders are the same
        assert max(levels(export(cli, "run"))) < 0.01
        return
    ended = export(cli, "run", code=1)
    assert ended.refused("levels of 255 from test.py, more than 1", code=1) and max(levels(ended)) > 1
    assert not (run / "run.onnx").exists() and not list(run.glob(".*")), "nothing is left"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda call, x: call(x) + 1.2 / 255, "1.20 levels"),
        (lambda call, x: np.full_like(call(x), np.nan), "inf levels"),
        (lambda call, x: call(x)[..., :-1], "the output is"),
        (lambda call, x: call(x.transpose(0, 1)), "cannot compute an image of 321 x 481"),
    ],
)
def test_outputs_that_differ_are_not_written(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, change: Callable[..., Array], words: str
) -> None:
    run = write_trained(Path(), *tiny_flags("dncnn"))
    (run / "run.onnx").write_text("an older one")
    monkeypatch.setattr("utils.export.open_onnx", lambda path: lambda x: change(open_onnx(path), x))
    assert export(cli, "run", code=1).refused(words, code=1)
    assert (run / "run.onnx").read_text() == "an older one"


# ------------------------------------------------------------------------- safetensors, metadata, weights


def test_safetensors_carry_the_network_and_its_figures(cli: InProcess, tmp_path: Path) -> None:
    run = cli.train(*TINY, *FAST, *CPU, "--n_epochs", "1").run
    tested = cli.test()
    export(cli, "run", "--to", "safetensors", "--output", "alone.safetensors")
    file = Path("alone.safetensors")
    said = {
        key: json.loads(value)
        for key, value in tensorfile.safetensors_metadata(file).items()
        if key != "format"
    }
    assert said["options"]["model"] == "resunet" and said["options"]["width"] == 8
    validated, test = said["figures"]
    assert test["psnr"] == tested.summary["psnr"]["mean"] and test["protocol"] == tested.summary["protocol"]
    assert validated["psnr"] > 0 and said["versions"]["torch"] == torch.__version__
    shown = image(40, 31, smooth=True)
    assert np.array_equal(load_run(file)(shown), load_run(run)(shown))
    assert_same_state(tensorfile.load(file, older=True), weights(run, "best"))


def test_safetensors_are_read_as_weights(cli: InProcess) -> None:
    run = write_trained(Path(), *TINY[2:])
    export(cli, "run", "--to", "safetensors", "--output", "w.safetensors")
    trained = cli.train(*TINY, *FAST, *CPU, *flags(weights="w.safetensors", max_steps=1, lr=1e-12), name="on")
    for key, value in weights(trained.run).items():
        assert torch.allclose(value, weights(run, "best")[key], atol=1e-6)
    write_set(Path("photos"), "inputs", 1, (30, 40), ("",))
    cli.test("--weights", "w.safetensors", *TINY_NET, "--dataroot", "photos", "--output", "a", name="")
    cli.test("--dataroot", "photos", "--output", "b")
    assert np.array_equal(pixels(Path("a/0.png")), pixels(Path("b/0.png")))


def test_damaged_safetensors_are_refused(cli: InProcess, tmp_path: Path) -> None:
    write_trained(Path(), *TINY[2:])
    export(cli, "run", "--to", "safetensors", "--output", "w.safetensors")
    whole = Path("w.safetensors").read_bytes()
    broken = {"empty": b"", "cut": whole[:-1], "half": whole[: len(whole) // 2], "text": b"hello" * 99}
    for name, content in {**broken, "zip": b"PK\3\4" + whole}.items():
        Path("w.safetensors").write_bytes(content)
        assert "w.safetensors is damaged" in error_of(load_run, "w.safetensors").what, name
        found = cli.train(*TINY, *FAST, "--weights", "w.safetensors", name=name, code=2)
        assert found.refused("w.safetensors is damaged"), name
    tensorfile.save_safetensors({"a": torch.zeros(1)}, {}, Path("bare.safetensors"))
    assert "does not describe its network" in error_of(load_run, "bare.safetensors").what
    assert "no such file" in error_of(load_run, "absent.safetensors").what


@pytest.mark.parametrize("to", ["onnx", "pt2"])
def test_metadata_of_other_files(cli: InProcess, to: str) -> None:
    write_trained(Path(), *tiny_flags("dncnn"))
    export(cli, "run", "--to", to)
    file = Path("checkpoints/run") / f"run.{to}"
    if to == "onnx":
        import onnx

        said = {each.key: each.value for each in onnx.load(file).metadata_props}
    else:
        extra = {"metadata.json": ""}
        torch.export.load(file, extra_files=extra)
        said = json.loads(extra["metadata.json"])
    assert json.loads(said["options"])["depth"] == 5 and json.loads(said["figures"]) == []


def test_weights_without_a_run(cli: InProcess) -> None:
    run = write_trained(Path(), *tiny_flags("unet"), nc=(1, 1))
    given = ("--weights", str(run / "best_net.pth"), *tiny_flags("unet"), "--input_nc", "1")
    ended = export(cli, *given, "--output", "gray.onnx")
    assert max(levels(ended)) < 0.01 and "(N, 1, H, W)" in ended.lines[-1]
    x = np.random.default_rng(0).random((1, 1, 30, 50), np.float32)
    expected = load_run(run)(torch.from_numpy(x)).numpy()
    assert np.abs(open_onnx(Path("gray.onnx"))(x) - expected).max() < 1e-5


# ------------------------------------------------------------------------------------------------- darktable


def test_a_folder_for_darktable(cli: InProcess) -> None:
    import onnx

    run = write_trained(Path(), *tiny_flags("resunet"), name="my_net")
    ended = export(cli, "my_net", "--target", "darktable", "--size", "96", "96")
    folder = run / "my_net-darktable"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.onnx"]
    config = json.loads((folder / "config.json").read_text())
    assert config["id"] == "denoise-my-net" and config["task"] == "denoise" and config["backend"] == "onnx"
    assert config["attributes"] == {"input_sizes": [96]} and config["tiling"] is True
    model = onnx.load(folder / "model.onnx")
    for value in (*model.graph.input, *model.graph.output):
        assert [side.dim_value for side in value.type.tensor_type.shape.dim] == [1, 3, 96, 96]
    assert [each.version for each in model.opset_import if each.domain == ""] == [20]
    assert ended.out.count("96 x 96: at most") == 3 and max(levels(ended)) < 0.01
    export(cli, "my_net", "--target", "darktable", "--size", "96", "96")  # replaces its own folder
    write_trained(Path(), *tiny_flags("resunet"), "--scale", "2", name="x2")
    export(cli, "x2", "--target", "darktable", "--size", "64", "64", "--output", "dt")
    assert json.loads(Path("dt/config.json").read_text())["task"] == "upscale"


# -------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), ("which run?",)),
        (("nothing",), ("no run 'nothing'",)),
        (("run", "--load", "7"), ("epoch_0007_net.pth", "the run has best")),
        (("run", "--width", "8"), ("--width comes from the run",)),
        (("run", "--to", "tflite"), ("tflite",)),
        (("run", "--to", "safetensors", "--half"), ("--half has no effect",)),
        (("run", "--to", "pt2", "--target", "darktable"), ("takes --to onnx",)),
        (("run", "--output", "net.pth"), ("name a .onnx file",)),
        (("run", "--size", "0", "5"), ("--size",)),
        (("--model", "unet"), ("--model needs --weights",)),
        (("gray", "--target", "darktable"), ("darktable takes networks for colour",)),
        (("run", "--target", "darktable", "--output", "checkpoints"), ("holds other files",)),
        (("run", "--dataroot", "nowhere"), ("nowhere",)),
    ],
    ids=str,
)
def test_what_cannot_be_exported(cli: InProcess, given: tuple[str, ...], words: tuple[str, ...]) -> None:
    write_trained(Path(), *tiny_flags("dncnn"))
    write_trained(Path(), *tiny_flags("dncnn"), name="gray", nc=(1, 1))
    assert export(cli, *given, code=2).refused(*words)


def test_a_missing_package_is_named(cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    write_trained(Path(), *tiny_flags("dncnn"))
    for missing, to in (("onnxscript", "onnx"), ("onnxruntime", "onnx"), ("safetensors", "safetensors")):
        with monkeypatch.context() as patched:
            patched.setattr("importlib.util.find_spec", lambda name, gone=missing: name != gone or None)
            assert export(cli, "run", "--to", to, code=2).refused(f"{missing} is not installed", "[export]")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    Path("w.safetensors").write_bytes(b"")
    assert "safetensors is not installed" in error_of(load_run, "w.safetensors").what


class BySize(nn.Module):
    """Its graph depends on the values of an image: no tracer takes it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.mean() > 0 else x


class ByHeight(nn.Module):
    """Traced for one size only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 if x.shape[2] == 61 else 2)


@pytest.mark.parametrize(("net", "fix"), [(BySize(), "safetensors"), (ByHeight(), "--size H W")])
def test_a_network_that_cannot_be_traced_is_named(tmp_path: Path, net: nn.Module, fix: str) -> None:
    error = error_of(save_onnx, Portable(net, 0.5, 0.5), 3, None, {}, tmp_path / "n.onnx")
    assert type(net).__name__ in error.what and "for images of any size" in error.what and fix in error.fix
    assert error.why and not (tmp_path / "n.onnx").exists()


def test_train_and_test_import_nothing_of_it() -> None:
    code = (
        "import sys; import train, test, models.run; packages = {m.split('.')[0] for m in sys.modules};"
        "print({'onnx', 'onnxscript', 'onnxruntime', 'safetensors', 'spandrel'} & packages)"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
