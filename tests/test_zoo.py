"""Architectures of spandrel through train.py and test.py, and their weights in spandrel alone."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models import build_network, load_run, network_defaults
from models.layers import size_of
from models.pooling import LocalPool
from models.zoo import SHORTHANDS
from tests.builders import (
    CPU,
    DEMO,
    FAST,
    assert_same_state,
    error_of,
    flags,
    image,
    perturbed,
    pixels,
    planes,
    save,
    write_set,
    write_trained,
    write_weights,
)
from tests.cli import Ended, InProcess, weights
from tests.published import published_nets

spandrel = pytest.importorskip("spandrel")
pytestmark = pytest.mark.usefixtures("one_thread")
Array = np.ndarray
LEAST = {  # the smallest network that spandrel recognises
    "nafnet": "width=8, enc_blk_nums=[1], middle_blk_num=1, dec_blk_nums=[1]",
    "compact": "num_feat=8, num_conv=2",
    "span": "feature_channels=8, norm=False",
    "rrdb": "num_filters=8, num_blocks=1",
    "drunet": "nc=[4, 8, 8, 8], nb=2",
    "swinir": "embed_dim=8, depths=[2], num_heads=[2], window_size=4, mlp_ratio=1.0",
}
SLOW = pytest.mark.slow
STEADY = flags(n_epochs=10, decay_epoch=99, lr=1e-3, batchSize=2)  # the length changes no learning rate


def least(model: str, seed: int = 0, **arguments: Any) -> nn.Module:
    """The smallest network of a name, all of whose layers count."""
    torch.manual_seed(seed)
    given = {"input_nc": 3, "output_nc": 3, "arch": LEAST[model], **arguments}
    return perturbed(build_network(model, **given)).eval()


def train(cli: InProcess, model: str, *more: str, name: str = "run", code: int = 0) -> Ended:
    arch = () if "--arch" in more or model not in LEAST else ("--arch", LEAST[model])
    data = () if "--dataroot" in more or "--resume" in more else DEMO
    begun = () if "--resume" in more else ("--model", model, *arch, *FAST, *CPU, *STEADY)
    return cli.train(*data, *begun, *more, name=name, code=code)


def alone(file: Path) -> Any:
    """A file as spandrel loads it."""
    return spandrel.ModelLoader().load_from_file(str(file)).eval()


def computed(net: Any, image: Array) -> Array:
    """What spandrel computes for an image `(H, W, C)` in [0, 1]."""
    with torch.inference_mode():
        return net(planes(image))[0].permute(1, 2, 0).clamp(0, 1).numpy()


def test_every_shorthand_has_a_smallest_version() -> None:
    assert LEAST.keys() == SHORTHANDS.keys()


# ------------------------------------------------------------------------------------------------ the scripts


@pytest.mark.parametrize("model", LEAST)
def test_train_resume_test_and_load_in_spandrel(cli: InProcess, model: str) -> None:
    whole = train(cli, model, "--max_steps", "20", name="whole").run
    train(cli, model, "--max_steps", "9", name="parts")
    parts = train(cli, model, "--resume", "--max_steps", "20", name="parts").run
    for tag in ("latest", "best"):
        assert_same_state(weights(parts, tag), weights(whole, tag))
    torch.manual_seed(3)
    first = build_network(model, input_nc=3, output_nc=3, arch=LEAST[model]).state_dict()
    assert first.keys() == weights(whole).keys()
    assert any(not torch.equal(value, weights(whole)[key]) for key, value in first.items()), "it trained"

    sizes = [(31, 32), (16, 29), (61, 47), (5, 9)]
    photos = write_set(Path("photos"), "inputs", 4, sizes, ("",))
    cli.test("--dataroot", "photos", "--output", "out", name="whole")
    net, reference = load_run(whole), alone(whole / "best_net.pth")
    assert reference.architecture.id == SHORTHANDS[model].architecture
    for i, (each, size) in enumerate(zip(photos, sizes, strict=True)):
        shown = pixels(each.input)
        output = pixels(Path(f"out/{i}.png"))
        assert output.shape == shown.shape and np.array_equal(output, net(shown))
        unit = shown.astype(np.float32) / 255
        if size > (16, 16) or i == 1:  # smaller images are padded
            assert np.abs(net(unit) - computed(reference, unit)).max() < 1e-5
            assert net(unit).std() > 0.01


@SLOW
@pytest.mark.parametrize("to", ["onnx", "pt2"])
@pytest.mark.parametrize("model", LEAST)
def test_export_where_it_can_be_traced(cli: InProcess, model: str, to: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    write_weights(least(model), Path("w.pth"))
    given = ("--model", model, "--weights", "w.pth", "--to", to, "--output", f"net.{to}")
    if model == "swinir":
        if to == "onnx":  # both are traced in the same way
            refused = cli.call("utils.export", *given, name="", code=2)
            assert refused.refused("SwinIR cannot be exported for images of any size", "--size H W")
        given = (*given, "--size", "40", "56")
    ended = cli.call("utils.export", *given, name="")
    found = [float(line.split("at most ")[1].split()[0]) for line in ended.lines if "parity" in line]
    assert len(found) == 3 and max(found) < 0.02


@SLOW
def test_windows_of_pooling_are_exported_for_any_size(cli: InProcess) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run = write_trained(Path(), *flags(model="nafnet", arch=LEAST["nafnet"] + ", tlc=True", crop_size=40))
    ended = cli.call("utils.export", "run", "--half", name="")
    found = [float(line.split("at most ")[1].split()[0]) for line in ended.lines if "parity" in line]
    assert len(found) == 3 and 0 < max(found) < 1 and (run / "run.onnx").is_file()


@SLOW
def test_a_network_that_cannot_compute_in_half_is_named(cli: InProcess) -> None:
    pytest.importorskip("onnxscript")
    write_weights(least("swinir"), Path("w.pth"))
    given = ("--model", "swinir", "--weights", "w.pth", "--size", "40", "56", "--half")
    refused = cli.call("utils.export", *given, name="", code=2)
    assert refused.refused("SwinIR cannot be exported", "leave out --half")


@SLOW
@pytest.mark.parametrize(("model", "nc", "scale"), [*itertools.product(LEAST, (1, 3), (1, 2))])
def test_channels_and_scales_follow_the_data(model: str, nc: int, scale: int) -> None:
    net = least(model, input_nc=nc, output_nc=nc, scale=scale)
    assert size_of(net).scale == scale
    x = torch.rand(2, nc, 21, 34, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        output = net(x)
        assert output.shape == (2, nc, scale * 21, scale * 34)
        assert torch.allclose(net(x[1:])[0], output[1], atol=1e-5), "one image of a batch"
    found = spandrel.ModelLoader().load_from_state_dict(dict(net.state_dict()))
    assert (found.input_channels, found.output_channels) == (nc, nc)
    if found.scale == scale:
        assert torch.allclose(found(x[:1]), output[:1].clamp(0, 1), atol=1e-5)
    else:  # the input is enlarged before a network that keeps the size
        assert found.scale == 1 and model in ("nafnet", "drunet")


@pytest.mark.parametrize("model", LEAST)
def test_networks_train_after_they_were_evaluated(model: str) -> None:
    """Also SPAN, which writes into its weights in eval mode; every weight that is trained has a gradient."""
    net = least(model)
    x = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = net(x)
    net.train()(x).square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0)
    net.load_state_dict(net.state_dict())
    assert torch.allclose(net.eval()(x), before, atol=1e-6)


def test_super_resolution_takes_the_scale_of_the_data(cli: InProcess) -> None:
    for i in range(6):
        save(image(48, 48, seed=i, smooth=True), Path(f"clean/{i}.png"))
    run = train(cli, "compact", "--dataroot", "clean", "--degrade", "sr:2", "--max_steps", "3").run
    assert alone(run / "best_net.pth").scale == 2
    wrapped = train(cli, "nafnet", "--dataroot", "clean", "--degrade", "sr:2", "--max_steps", "1", name="up")
    assert alone(wrapped.run / "best_net.pth").scale == 1 and load_run(wrapped.run).scale == 2


def test_spandrel_loads_a_run_in_a_process_of_its_own(cli: InProcess, tmp_path: Path) -> None:
    run = train(cli, "nafnet", "--max_steps", "5").run
    unit = image(32, 32, seed=5, smooth=True).astype(np.float32) / 255
    np.save("image.npy", planes(unit).numpy())
    program = f"""
import sys, numpy as np, torch, spandrel
net = spandrel.ModelLoader().load_from_file({str(run / "best_net.pth")!r}).eval()
np.save("output.npy", net(torch.from_numpy(np.load("image.npy"))).numpy())
assert not {{"models", "utils", "data"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    expected = load_run(run)(unit).transpose(2, 0, 1)[None]
    assert np.abs(np.load("output.npy") - expected).max() < 1e-5


# ------------------------------------------------------------------------------------------------- arguments


def test_any_architecture_by_its_name(cli: InProcess) -> None:
    arch = "dim=8, n_blocks=2, upscaling_factor=1"
    run = train(cli, "spandrel:SAFMN", "--arch", arch, "--max_steps", "2").run
    found = alone(run / "best_net.pth")
    assert found.architecture.id == "SAFMN" and found.model.hyperparameters["dim"] == 8
    assert load_run(run).options["arch"] == arch and load_run(run).options["mean"] == 0


def test_the_options_of_a_run_keep_the_defaults(cli: InProcess) -> None:
    ended = cli.train(*DEMO, "--model", "compact", *FAST, *CPU, "--max_steps", "1")
    assert load_run(ended.run).options["arch"] == SHORTHANDS["compact"].arch
    assert alone(ended.run / "best_net.pth").model.hyperparameters["num_feat"] == 32
    refused = cli.train("--resume", "--arch", "num_feat=8", code=2)
    assert refused.refused("--arch cannot change within a run")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("compact", "--arch", "num_feats=8"), ("no argument num_feats", "num_conv=16", "mean num_feat?")),
        (("compact", "--arch", "num_feat"), ("is no list of arguments",)),
        (("compact", "--arch", "num_feat=print(1)"), ("is no list of arguments",)),
        (("compact", "--arch", "**{'num_feat': 8}"), ("is no list of arguments",)),
        (("compact", "--arch", "num_feat=8) or f(a=1"), ("is no list of arguments",)),
        (("compact", "--arch", "num_feat='many'"), ("Compact cannot be built", "TypeError", "num_feat=64")),
        (("compact", "--arch", "num_in_ch=1, num_out_ch=1"), ("other channels", "1 to 1")),
        (("compact", "--arch", "act_type='relu'"), ("Compact", "[--arch]")),
        (("span", "--arch", "norm=True, img_range=1.0"), ("img_range is 1.0, read as 255.0",)),
        (("spandrel:NAFnet",), ("no architecture NAFnet", "did you mean spandrel:NAFNet?")),
        (("spandrel:../x",), ("--model", "choose from")),
        (("nafnets",), ("did you mean nafnet?",)),
        (("nafnet", "--width", "8"), ("--model nafnet has no --width", "arch")),
        (("resunet", "--arch", "width=8"), ("--model resunet has no --arch",)),
        (("spandrel",), ("--model spandrel needs --weights",)),
        (("compact", "--arch", "tlc=True"), ("tlc=True has no effect", "no global pooling")),
        (("nafnet", "--arch", "tlc=1"), ("tlc=1 is neither True nor False",)),
        (("nafnet", "--arch", "auto"), ("--model nafnet needs --weights",)),
    ],
    ids=str,
)
def test_wrong_arguments(cli: InProcess, given: tuple[str, ...], words: tuple[str, ...]) -> None:
    model, *rest = given
    ended = cli.train(*DEMO, *flags(model=model), *rest, *FAST, *CPU, "--max_steps", "1", code=2)
    assert ended.refused(*words) and not ended.run.exists()


def test_windows_need_the_size_of_the_crops(cli: InProcess) -> None:
    given = flags(model="nafnet", arch="tlc=True", max_steps=1)
    assert cli.train(*DEMO, *given, *CPU, code=2).refused("tlc=True needs --crop_size")


def test_arguments_of_a_shorthand_are_over_its_defaults(cli: InProcess) -> None:
    run = train(cli, "compact", "--arch", "num_feat=8", "--max_steps", "1").run
    assert load_run(run).options["arch"] == "num_feat=8, num_conv=8"
    cli.train("--resume", "--max_steps", "2", "--arch", "num_feat=8")
    refused = cli.train("--resume", "--max_steps", "3", "--arch", "num_feat=9", code=2)
    assert refused.refused("--arch cannot change within a run")


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    error = error_of(lambda: least("compact"))
    assert "extra [zoo]" in error.what


# ---------------------------------------------------------------------------------------------------- weights


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an RRDB of one block and scale 1, as Real-ESRGAN names them."""
    layers = {"model.0.": "conv_first.", "model.1.sub.1.": "conv_body.", "model.2.": "conv_hr."}
    layers |= {"model.4.": "conv_last."}
    found = {}
    for key, value in state.items():
        name = key
        for old, new in layers.items():
            name = name.replace(old, new) if name.startswith(old) else name
        if "model.1.sub.0.RDB" in key:
            name = key.replace("model.1.sub.0.RDB", "body.0.rdb").replace(".0.weight", ".weight")
            name = name.replace(".0.bias", ".bias")
        found[name] = value
    return found


@pytest.mark.parametrize("arch", [(), ("--arch", LEAST["rrdb"])])
def test_training_continues_from_published_weights(cli: InProcess, arch: tuple[str, ...]) -> None:
    start = least("rrdb", seed=7).state_dict()
    write_weights({"params_ema": old_names(start)}, Path("w.pth"))
    given = ("--model", "rrdb", "--weights", "w.pth", *arch, *FAST, *CPU, "--lr", "1e-12")
    run = cli.train(*DEMO, *given, "--max_steps", "1").run
    for key, value in weights(run, "best").items():
        assert torch.allclose(value, start[key], atol=1e-6)
    Path("w.pth").unlink()
    cli.train("--resume", "--max_steps", "2")
    assert load_run(run).options["arch"] == (arch[1] if arch else "auto")


def test_weights_that_are_of_another_network(cli: InProcess) -> None:
    write_weights(published_nets()["x1"], Path("w.pth"))
    given = (*DEMO, *FAST, *CPU, "--weights", "w.pth", "--max_steps", "1")
    refused = cli.train(*given, "--model", "compact", code=2)
    assert refused.refused("w.pth is of DnCNN, not of Compact", "--model spandrel")
    write_weights(least("compact"), Path("w.pth"))
    refused = cli.train(*given, "--model", "compact", "--arch", "num_feat=8, num_conv=3", code=2)
    assert refused.refused("w.pth does not fit the network", "body.6")


def test_a_file_of_a_run_is_tested_without_the_run(cli: InProcess) -> None:
    run = train(cli, "compact", "--max_steps", "2").run
    photos = write_set(Path("photos"), "inputs", 1, (30, 40), ("",))
    given = ("--weights", str(run / "best_net.pth"), "--dataroot", "photos")
    for model in ("compact", "spandrel", "spandrel:Compact"):
        cli.test(*given, "--model", model, "--output", "out", name="")
        assert np.array_equal(pixels(Path("out/0.png")), load_run(run)(pixels(photos[0].input)))


def test_weights_of_an_older_run_have_a_prefix() -> None:
    net = least("compact")
    older = {f"net.{key}": value + 1 for key, value in net.state_dict().items()}
    net.load_state_dict(older)
    assert_same_state({f"net.{key}": value for key, value in net.state_dict().items()}, older)


# ---------------------------------------------------------------------------------------------- local pooling


def windowed(x: Array, window: tuple[int, int]) -> Array:
    """Means over windows, by the definition: each is the nearest to its place that lies inside."""
    height, width = x.shape[2:]
    rows, columns = min(window[0], height), min(window[1], width)
    found = np.empty(x.shape, np.float64)
    for i, j in np.ndindex(height, width):
        top = min(max(i - rows // 2, 0), height - rows)
        left = min(max(j - columns // 2, 0), width - columns)
        found[:, :, i, j] = x[:, :, top : top + rows, left : left + columns].mean((2, 3))
    return found


@pytest.mark.parametrize("window", [(4, 4), (5, 3), (1, 1), (7, 30), (30, 7)])
def test_windows_are_those_of_the_definition(window: tuple[int, int]) -> None:
    x = np.random.default_rng(0).random((2, 3, 13, 17), np.float32)
    pool = LocalPool(window).eval()
    assert np.abs(pool(torch.from_numpy(x)).numpy() - windowed(x, window)).max() < 1e-6
    whole = pool.train()(torch.from_numpy(x))
    assert torch.equal(whole, nn.AdaptiveAvgPool2d(1)(torch.from_numpy(x)))


def test_an_image_of_the_size_of_the_crops_is_pooled_as_a_whole() -> None:
    pool, x = LocalPool((13, 17)).eval(), torch.rand(2, 3, 13, 17)
    assert pool(x).shape == (2, 3, 1, 1) and torch.allclose(pool(x), x.mean((2, 3), keepdim=True))


def test_windows_shrink_with_the_resolution() -> None:
    arch = "width=8, enc_blk_nums=[1, 1], middle_blk_num=1, dec_blk_nums=[1, 1], tlc=True"
    net = least("nafnet", arch=arch, crop=48)
    windows = [module.window for module in net.modules() if isinstance(module, LocalPool)]
    assert sorted(windows) == [(12, 12), (24, 24), (24, 24), (48, 48), (48, 48)]
    upscaled = least("nafnet", arch=arch, crop=48, scale=2)  # its input is enlarged to the size of the target
    assert next(m.window for m in upscaled.modules() if isinstance(m, LocalPool)) == (48, 48)
    plain = least("nafnet", arch=arch.removesuffix(", tlc=True"), crop=48)
    assert plain.state_dict().keys() == net.state_dict().keys()
    assert not any(isinstance(module, LocalPool) for module in plain.modules())


def test_an_output_depends_on_its_window_only() -> None:
    """The middle of a large image is that of a crop around it, apart from what convolutions see."""
    x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    brighter = x.clone()
    brighter[..., :24] += 1  # further from the right side than any window
    for tlc, changes in ((True, False), (False, True)):
        net = least("nafnet", arch=f"{LEAST['nafnet']}, tlc={tlc}", crop=32)
        with torch.inference_mode():
            difference = (net(x) - net(brighter))[..., 104:].abs().max()
        assert bool(difference > 1e-5) == changes


def test_defaults_are_recognised() -> None:
    for model in SHORTHANDS:
        own = network_defaults(model)
        net = build_network(model, input_nc=3, output_nc=3, arch=own["arch"])
        assert 5e4 < sum(each.numel() for each in net.parameters()) < 2e6
