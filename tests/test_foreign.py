"""Networks that others trained: their files of weights, loaded, measured and trained further."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor, nn

from data.degrade import parse_degradation
from models import build_network, network_defaults
from tests import test_protocol
from tests.conftest import FAST, pixels
from tests.test_protocol import Outcome, picture, refusal, save

Trained = Callable[..., Path]
tested = test_protocol.tested  # the fixture
NOISE = ("--dataroot", "clean", "--degrade", "noise:25")
DNCNN = ("--model", "dncnn", "--input_nc", "1", "--mean", "0", "--std", "1")
SMALL = ("--depth", "5", "--width", "8")
TWO = ("--gpu_ids", "-1", "--max_steps", "2", "--visdom", "off", "--log_freq", "1", "--batchSize", "2")


def published(depth: int, width: int) -> nn.Sequential:
    """DnCNN as published: convolution, ReLU, blocks with batch norm, convolution; gives the noise."""
    layers: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU()]
    for _ in range(depth - 2):
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))


def briefly_trained(net: nn.Module, steps: int = 100) -> nn.Module:
    """Trained on random pictures in [0, 1] to predict their noise of 25/255; in eval mode."""
    torch.manual_seed(0)
    clean = torch.stack([torch.from_numpy(picture(i, 24, 24, 1))[None] / 255 for i in range(4)])
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(steps):
        noise = torch.randn_like(clean) * 25 / 255
        loss = (net(clean + noise) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def write_weights(net: nn.Module, path: Path, prefix: str = "module.dncnn.") -> Path:
    torch.save({prefix + key: value for key, value in net.state_dict().items()}, path)
    return path


def write_clean(folder: Path, channels: int = 1, count: int = 3) -> list[np.ndarray]:
    """Clean pictures `N.png` of several sizes, as `(H, W)` or `(H, W, C)`."""
    return [
        save(picture(70 + i, 33 + 4 * i, 40 - 3 * i, channels), folder / f"{i}.png") for i in range(count)
    ]


def degraded(image: np.ndarray, index: int, spec: str) -> np.ndarray:
    """The input that test.py makes with seed 0: float32 `(H, W, C)`; see `data.datasets`."""
    given = (image if image.ndim == 3 else image[..., None]).astype(np.float32) / 255
    return parse_degradation(spec)(given, np.random.default_rng([0, 0, index + 1]))


def batch(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]


def check(found: Outcome, clean: list[np.ndarray], wanted: Callable[[Tensor], Tensor], spec: str) -> None:
    """Outputs are `wanted` of the inputs, clamped and rounded to 8 bits; PSNR is theirs."""
    for i, (target, row) in enumerate(zip(clean, found.rows, strict=True)):
        with torch.inference_mode():
            exact = wanted(batch(degraded(target, i, spec)))[0].permute(1, 2, 0).numpy()
        exact = exact.clip(0, 1) * 255
        output = found.output(row["name"]).reshape(exact.shape)
        settled = np.abs(exact % 1 - 0.5) > 1e-3  # where float32 cannot tip the rounding
        assert settled.mean() > 0.98 and np.array_equal(output[settled], exact.round()[settled])
        figure = peak_signal_noise_ratio(target.reshape(exact.shape), exact.round().astype(np.uint8))
        assert float(row["psnr"]) == pytest.approx(figure, abs=1e-4)
        assert np.isfinite(float(row["psnr_input"]))


# ----------------------------------------------------------------------------------------- a published DnCNN


@pytest.mark.parametrize(("depth", "width"), [(5, 8), (17, 64)])
def test_a_published_denoiser(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tested: Callable[..., Outcome],
    depth: int,
    width: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    clean = write_clean(tmp_path / "clean")
    net = briefly_trained(published(depth, width), 100 if depth < 10 else 1)
    write_weights(net, tmp_path / "dncnn 25.pth")
    flags = (*DNCNN, "--depth", str(depth), "--width", str(width), "--weights", "dncnn 25.pth")
    found = tested(*flags, *NOISE)
    check(found, clean, lambda x: x - net(x), "noise:25")
    assert found.folder == Path("results/dncnn_25/clean")  # named by the weights
    run = next(line for line in found.err.splitlines() if line.startswith("run"))
    count = len(net.state_dict())
    assert f"matched {count} tensors by structure" in run and "stripped module." in run
    assert (found.summary["model"], found.summary["weights"]) == ("dncnn", "dncnn 25.pth")
    assert "dncnn 25.pth" in found.comment and "dncnn 25.pth" in found.facts
    if depth < 10:
        gain = np.mean(found.numbers("psnr") - found.numbers("psnr_input"))
        assert gain > 1  # it does denoise


def test_a_published_denoiser_of_another_depth_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_clean(tmp_path / "clean")
    write_weights(published(5, 8), tmp_path / "dncnn.pth")
    for flags in (("--depth", "6", "--width", "8"), ("--depth", "5", "--width", "16")):
        error = refusal(*DNCNN, *flags, "--weights", "dncnn.pth", *NOISE)
        tensors = len(build_dncnn(*(int(flag) for flag in flags[1::2])).state_dict())
        assert f"the network has {tensors} tensors, the file {len(published(5, 8).state_dict())}" in error.why
        assert error.code == 2 and "dncnn.pth" in error.what
    assert not (tmp_path / "results").exists()


def build_dncnn(depth: int, width: int) -> nn.Module:
    own = network_defaults("dncnn") | {"depth": depth, "width": width}
    return build_network("dncnn", input_nc=1, output_nc=1, **own)


def test_training_goes_on_from_published_weights(
    tmp_path: Path, trained: Trained, tested: Callable[..., Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    write_clean(tmp_path / "clean", count=6)
    net = briefly_trained(published(5, 8), 5)
    write_weights(net, tmp_path / "dncnn.pth")
    flags = (*DNCNN, *SMALL, "--weights", "dncnn.pth", *NOISE)
    line = "stripped module., " + f"matched {len(net.state_dict())} tensors by structure"
    said = next(line for line in tested(*flags).err.splitlines() if line.startswith("run"))
    assert line in said
    run = trained(*flags, *TWO, "--crop_size", "24", "--lr", "1e-9")
    assert f"weights dncnn.pth: {line}" in capsys.readouterr().err
    saved = torch.load(run / "latest_net.pth", weights_only=True)
    theirs, ours = list(net.parameters()), [v for k, v in saved.items() if not k.endswith(NORM_STATE)]
    assert len(theirs) == len(ours)
    for one, two in zip(theirs, ours, strict=True):
        assert torch.allclose(one.detach(), two, rtol=0, atol=1e-7)
    # steps of a real size do change them
    moved = trained(*flags, *TWO, "--crop_size", "24", "--lr", "1e-3", name="moved")
    assert not torch.allclose(theirs[0].detach(), next(iter(load(moved).values())), atol=1e-5)


NORM_STATE = ("running_mean", "running_var", "num_batches_tracked")


def load(run: Path, tag: str = "latest") -> dict[str, Tensor]:
    return torch.load(run / f"{tag}_net.pth", weights_only=True)


# ----------------------------------------------------------------------------------- what is to be subtracted


@pytest.mark.parametrize(
    ("model", "own"),
    [
        ("unet", {"width": 4, "depth": 3, "norm": "batch"}),
        ("resnet", {"width": 4, "depth": 1, "norm": "batch"}),
    ],
)
def test_a_network_that_gives_the_noise(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tested: Callable[..., Outcome],
    model: str,
    own: dict[str, Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    clean = write_clean(tmp_path / "clean")
    torch.manual_seed(0)
    net = build_network(model, input_nc=1, output_nc=1, **(network_defaults(model) | own)).eval()
    write_weights(net, tmp_path / "noise.pth", "netG.module.")
    flags = ("--model", model, *(text for key, value in own.items() for text in (f"--{key}", str(value))))
    flags += ("--input_nc", "1", "--mean", "0", "--std", "1", "--weights", "noise.pth")
    check(tested(*flags, "--residual", *NOISE), clean, lambda x: x - net(x), "noise:25")
    check(tested(*flags, *NOISE, "--name", "plain"), clean, net, "noise:25")


@pytest.mark.parametrize("model", ["dncnn", "resunet"])
def test_residual_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pth").touch()
    error = refusal("--model", model, "--residual", "--weights", "w.pth", *NOISE)
    assert error.code == 2 and "--residual" in error.what and model in error.what


def test_a_residual_of_other_channels_or_sizes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_clean(tmp_path / "clean", 3)
    net = build_network("unet", input_nc=3, output_nc=1, **network_defaults("unet") | {"width": 2})
    write_weights(net, tmp_path / "w.pth", "")
    flags = ("--model", "unet", "--width", "2", "--weights", "w.pth", "--input_nc", "3", "--output_nc", "1")
    assert "--residual" in refusal(*flags, "--residual", *NOISE).what
    pytest.importorskip("spandrel")
    write_weights(zoo_net("x2"), tmp_path / "x2.pth", "")
    flags = ("--model", "spandrel", "--weights", "x2.pth", "--residual")
    assert "--residual" in refusal(*flags, "--dataroot", "clean", "--degrade", "sr:2").what


# --------------------------------------------------------------------------------------------------- spandrel


def zoo_net(name: str) -> nn.Module:
    """A tiny network of spandrel's own architectures with random weights."""
    from spandrel.architectures.Compact import Compact
    from spandrel.architectures.DnCNN import DnCNN

    torch.manual_seed(1)
    net = Compact(num_feat=8, num_conv=2, upscale=2) if name == "x2" else DnCNN(in_nc=3, out_nc=3, nc=8, nb=9)
    return net.eval()


@pytest.mark.parametrize(("name", "spec"), [("x2", "sr:2"), ("x1", "noise:25")])
@pytest.mark.parametrize("path", ["zoo.pth", "./zoo.pth", "absolute"])
def test_a_network_of_the_zoo(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tested: Callable[..., Outcome],
    name: str,
    spec: str,
    path: str,
) -> None:
    spandrel = pytest.importorskip("spandrel")
    monkeypatch.chdir(tmp_path)
    net = zoo_net(name)
    torch.save({"params": net.state_dict()}, tmp_path / "zoo.pth")
    clean = [image[: len(image) // 2 * 2] for image in write_clean(tmp_path / "clean", 3)]
    clean = [
        save(image[:, : image.shape[1] // 2 * 2], tmp_path / "even" / f"{i}.png")
        for i, image in enumerate(clean)
    ]
    referee = spandrel.ModelLoader().load_from_file(str(tmp_path / "zoo.pth")).model.eval()
    weights = str(tmp_path / "zoo.pth") if path == "absolute" else path
    found = tested("--model", "spandrel", "--weights", weights, "--dataroot", "even", "--degrade", spec)
    check(found, clean, referee, spec)  # in [0, 1] both ways: mean 0, std 1 by themselves
    assert found.summary["scale"] == (2 if name == "x2" else 1)
    assert "by structure" not in found.err and "stripped" not in found.err


def test_a_network_of_the_zoo_at_sizes_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tested: Callable[..., Outcome]
) -> None:
    pytest.importorskip("spandrel")
    monkeypatch.chdir(tmp_path)
    torch.save(zoo_net("x2").state_dict(), tmp_path / "zoo.pth")
    image = save(picture(3, 17, 22), tmp_path / "photos" / "a.png")
    found = tested("--model", "spandrel", "--weights", "zoo.pth", "--dataroot", "photos")
    with torch.inference_mode():
        wanted = zoo_net("x2")(batch(image.astype(np.float32) / 255))[0].permute(1, 2, 0).numpy()
    assert np.abs(found.output("a.png") - wanted.clip(0, 1) * 255).max() < 0.501
    assert "x2" in found.facts
    error = refusal(
        "--model", "spandrel", "--weights", "zoo.pth", *NOISE[:1], "photos", "--degrade", "noise:5"
    )
    assert "--degrade sr:2" in error.fix


def test_a_network_of_the_zoo_is_trained_further(
    tmp_path: Path, trained: Trained, tested: Callable[..., Outcome]
) -> None:
    pytest.importorskip("spandrel")
    start = zoo_net("x2")
    torch.save(start.state_dict(), tmp_path / "zoo.pth")
    for i in range(6):
        save(picture(i, 48, 48), tmp_path / "clean" / f"{i}.png")
    test = [save(picture(20 + i, 34, 40), tmp_path / "other" / f"{i}.png") for i in range(2)]
    flags = ("--dataroot", "clean", "--degrade", "sr:2", "--model", "spandrel", "--weights", "zoo.pth")
    flags += (*FAST, "--gpu_ids", "-1", "--n_epochs", "2", "--repeat", "2", "--lr", "1e-3")
    flags += ("--decay_epoch", "9", "--batchSize", "2")
    whole = trained(*flags, "--max_steps", "4", name="whole")
    trained(*flags, "--max_steps", "2", name="parts")
    parts = trained("--resume", "--max_steps", "4", name="parts")
    one, two = load(whole), load(parts)
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert len(one) == len(start.state_dict())
    options = json.loads((whole / "options.json").read_text())
    assert (options["mean"], options["std"], options["scale"]) == (0, 1, 2)

    state = {key.removeprefix("net."): value for key, value in load(whole, "best").items()}
    assert not torch.equal(next(iter(state.values())), next(iter(start.state_dict().values())))
    start.load_state_dict(state)
    (tmp_path / "zoo.pth").unlink()  # a run needs nothing but its own folder
    found = tested("--name", "whole", "--dataroot", "other", "--degrade", "sr:2")
    check(found, test, start, "sr:2")
    assert pixels(found.folder / "outputs" / "0.png").shape == (34, 40, 3)


def test_weights_of_the_zoo_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("spandrel")
    monkeypatch.chdir(tmp_path)
    write_clean(tmp_path / "clean", 3)
    torch.save({"a.weight": torch.zeros(3)}, tmp_path / "zoo.pth")
    error = refusal("--model", "spandrel", "--weights", "zoo.pth", *NOISE)
    assert "no network that spandrel knows" in error.what and error.code == 2
    torch.save(zoo_net("x1").state_dict(), tmp_path / "zoo.pth")
    error = refusal("--model", "spandrel", "--weights", "zoo.pth", "--input_nc", "1", *NOISE)
    assert "--input_nc 3 --output_nc 3" in error.fix
