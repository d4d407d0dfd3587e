"""Networks that others trained: their files of weights, loaded, measured and trained further."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor, nn

from data.degrade import parse_degradation
from models import build_network
from tests.builders import CPU, FAST, assert_same_state, flags, image, network, planes, save, write_weights
from tests.cli import Ended, InProcess, options, weights
from tests.published import prefixed, published_dncnn, published_nets

Array = np.ndarray
NOISE = ("--dataroot", "clean", "--degrade", "noise:25")
UNIT = ("--input_nc", "1", "--mean", "0", "--std", "1")
SMALL, PREFIX = {"depth": 5, "width": 8}, "module.dncnn."
DNCNN = ("--model", "dncnn", *UNIT, "--weights", "dncnn 25.pth")
TWO = (*CPU, *flags(max_steps=2, log_freq=1, batchSize=2, crop_size=24))


def briefly_trained(net: nn.Module, steps: int = 100) -> nn.Module:
    """Trained on random images in [0, 1] to predict their noise of 25/255; in eval mode."""
    torch.manual_seed(0)
    clean = torch.cat([planes(image(24, 24, 1, seed=i, smooth=True)) / 255 for i in range(4)])
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(steps):
        noise = torch.randn_like(clean) * 25 / 255
        loss = (net(clean + noise) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def write_clean(folder: Path, channels: int = 1, count: int = 3, even: bool = False) -> list[Array]:
    """Clean images `N.png` of several sizes, as `(H, W, C)`."""
    found, unit = [], 1 + even
    for i in range(count):
        height, width = (33 + 4 * i) // unit * unit, (40 - 3 * i) // unit * unit
        found.append(image(33 + 4 * i, 40 - 3 * i, channels, seed=70 + i, smooth=True)[:height, :width])
        save(found[-1], folder / f"{i}.png")
    return found


def check(found: Ended, clean: list[Array], expected: Callable[[Tensor], Tensor], spec: str) -> None:
    """Outputs are `expected` of the inputs, clamped and rounded to 8 bits; PSNR is theirs."""
    for i, (target, row) in enumerate(zip(clean, found.rows, strict=True)):
        x = parse_degradation(spec)(target.astype(np.float32) / 255, np.random.default_rng([0, 0, i + 1]))
        with torch.inference_mode():
            exact = expected(planes(x))[0].permute(1, 2, 0).numpy().clip(0, 1) * 255
        output = found.output(row["name"]).reshape(exact.shape)
        settled = np.abs(exact % 1 - 0.5) > 1e-3  # where float32 cannot tip the rounding
        assert settled.mean() > 0.98 and np.array_equal(output[settled], exact.round()[settled])
        psnr = peak_signal_noise_ratio(target, exact.round().astype(np.uint8))
        assert float(row["psnr"]) == pytest.approx(psnr, abs=1e-4)
        assert np.isfinite(float(row["psnr_input"]))


def measured(cli: InProcess, *given: str) -> Ended:
    """test.py without --name: the results are named by the weights."""
    found = cli.test(*given, name="")
    return replace(found, run=found.run / "none")


def run_line(found: Ended) -> str:
    return next(line for line in found.err.splitlines() if line.startswith("run"))


# ----------------------------------------------------------------------------------------- a published DnCNN


@pytest.mark.parametrize(("depth", "width"), [(5, 8), (17, 64)])
def test_a_published_denoiser(cli: InProcess, depth: int, width: int) -> None:
    clean = write_clean(Path("clean"))
    net = briefly_trained(published_dncnn(depth, width), 400 if depth < 10 else 1)
    write_weights(prefixed(net, PREFIX), Path("dncnn 25.pth"))
    found = measured(cli, *DNCNN, *NOISE, *flags(depth=depth, width=width))
    check(found, clean, lambda x: x - net(x), "noise:25")
    assert found.results == Path.cwd() / "results" / "dncnn_25" / "clean-noise25"  # named by the weights
    count = len(net.state_dict())
    assert f"stripped module., matched {count} of {count} tensors by structure" in run_line(found)
    assert (found.summary["model"], found.summary["weights"]) == ("dncnn", "dncnn 25.pth")
    assert "dncnn 25.pth" in found.comment and "dncnn 25.pth" in found.facts
    if depth < 10:
        assert np.mean(found.numbers("psnr") - found.numbers("psnr_input")) > 1  # it does denoise


@pytest.mark.parametrize("other", [{"depth": 6}, {"width": 16}], ids=str)
def test_a_published_denoiser_of_another_size_is_an_error(cli: InProcess, other: dict[str, int]) -> None:
    write_clean(Path("clean"))
    write_weights(prefixed(theirs := published_dncnn(**SMALL), PREFIX), Path("dncnn 25.pth"))
    found = cli.test(*DNCNN, *NOISE, *flags(**SMALL | other), code=2)
    assert found.refused("dncnn 25.pth does not fit")
    ours = build_network("dncnn", input_nc=1, output_nc=1, **SMALL | other)
    counts = f"in the network: {len(ours.state_dict())}, in the file: {len(theirs.state_dict())}"
    assert f"tensors {counts}" in found.why and not Path("results").exists()


def test_training_resumes_from_published_weights(cli: InProcess) -> None:
    write_clean(Path("clean"), count=6)
    net = briefly_trained(published_dncnn(**SMALL), 5)
    write_weights(prefixed(net, PREFIX), Path("dncnn 25.pth"))
    given, count = (*DNCNN, *NOISE, *flags(**SMALL)), len(net.state_dict())
    line = f"stripped module., matched {count} of {count} tensors by structure"
    assert line in run_line(measured(cli, *given))
    found = cli.train(*given, *TWO, "--lr", "1e-9")
    assert f"weights dncnn 25.pth: {line}" in found.err
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    ours = [value for key, value in weights(found.run).items() if not key.endswith(statistics)]
    for one, two in zip(net.parameters(), ours, strict=True):
        assert torch.allclose(one.detach(), two, rtol=0, atol=1e-7)
    # steps of a real size do change them
    moved = weights(cli.train(*given, *TWO, "--lr", "1e-3", name="moved").run)
    assert not torch.allclose(next(net.parameters()).detach(), next(iter(moved.values())), atol=1e-5)


# ---------------------------------------------------------------------------------------- predicted residuals


@pytest.mark.parametrize(("model", "depth"), [("unet", 3), ("resnet", 1)])
def test_a_network_that_gives_the_noise(cli: InProcess, model: str, depth: int) -> None:
    clean, own = write_clean(Path("clean")), {"width": 4, "depth": depth, "norm": "batch"}
    net = network(model, 1, 1, **own).eval()
    write_weights(prefixed(net, "netG.module."), Path("noise.pth"))
    given = (*flags(model=model, weights="noise.pth", **own), *UNIT, *NOISE)
    check(measured(cli, *given, "--residual"), clean, lambda x: x - net(x), "noise:25")
    check(cli.test(*given, name="plain"), clean, net, "noise:25")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--model", "dncnn"), ("--residual is redundant", "dncnn")),
        (("--model", "resunet"), ("--residual is redundant", "resunet")),
        (("--model", "unet", "--input_nc", "3", "--output_nc", "1"), ("--residual needs a gray input",)),
        (("--model", "spandrel"), ("--residual needs an output of the input's size", "drop --residual")),
    ],
)
def test_a_residual_that_cannot_be_subtracted(
    cli: InProcess, given: tuple[str, ...], words: tuple[str, ...]
) -> None:
    write_clean(Path("clean"), 3)
    write_weights(published_nets()["x2"] if "spandrel" in given else {}, Path("w.pth"))
    spec = "sr:2" if "spandrel" in given else "noise:25"
    found = cli.test(*given, "--residual", *flags(weights="w.pth", dataroot="clean", degrade=spec), code=2)
    assert found.refused(*words)


# --------------------------------------------------------------------------------------------------- spandrel


SPANDREL = ("--model", "spandrel", "--weights", "w.pth")


@pytest.mark.parametrize(("name", "spec"), [("x2", "sr:2"), ("x1", "noise:25")])
@pytest.mark.parametrize("path", ["w.pth", "./w.pth", "absolute"])
def test_a_network_of_spandrel(cli: InProcess, name: str, spec: str, path: str) -> None:
    file = write_weights({"params": published_nets()[name].state_dict()}, Path("w.pth"))
    clean = write_clean(Path("clean"), 3, even=True)
    import spandrel

    reference = spandrel.ModelLoader().load_from_file(str(file)).model.eval()
    given = flags(model="spandrel", weights=str(file.absolute()) if path == "absolute" else path)
    found = measured(cli, *given, "--dataroot", "clean", "--degrade", spec)
    check(found, clean, reference, spec)  # in [0, 1] both ways: mean 0, std 1 by default
    assert found.summary["scale"] == (2 if name == "x2" else 1)
    assert "by structure" not in found.err and "stripped" not in found.err


def test_a_network_of_spandrel_at_sizes_as_they_are(cli: InProcess) -> None:
    net = published_nets()["x2"]
    write_weights(net, Path("w.pth"))
    photo = image(17, 22, seed=3, smooth=True)
    save(photo, Path("photos/a.png"))
    found = measured(cli, *SPANDREL, "--dataroot", "photos")
    with torch.inference_mode():
        expected = net(planes(photo.astype(np.float32) / 255))[0].permute(1, 2, 0).numpy()
    assert np.abs(found.output("a.png") - expected.clip(0, 1) * 255).max() < 0.501
    assert "x2" in found.facts
    refused = cli.test(*SPANDREL, "--dataroot", "photos", "--degrade", "noise:5", code=2)
    assert "--degrade sr:2" in refused.fix


def test_a_network_of_spandrel_is_trained_further(cli: InProcess) -> None:
    start = published_nets()["x2"]
    write_weights(start, Path("w.pth"))
    for i in range(6):
        save(image(48, 48, seed=i, smooth=True), Path(f"clean/{i}.png"))
    test = write_clean(Path("other"), 3, count=2, even=True)
    given = (*SPANDREL, "--dataroot", "clean", "--degrade", "sr:2", *FAST, *CPU)
    given += flags(n_epochs=2, repeat=2, lr=1e-3, decay_epoch=9, batchSize=2)
    whole = cli.train(*given, "--max_steps", "4", name="whole").run
    cli.train(*given, "--max_steps", "2", name="parts")
    parts = cli.train("--resume", "--max_steps", "4", name="parts").run
    assert_same_state(weights(whole), weights(parts))
    assert len(weights(whole)) == len(start.state_dict())
    saved = options(whole)
    assert (saved["mean"], saved["std"], saved["scale"]) == (0, 1, 2)

    state = {key.removeprefix("net."): value for key, value in weights(whole, "best").items()}
    assert not torch.equal(next(iter(state.values())), next(iter(start.state_dict().values())))
    start.load_state_dict(state)
    Path("w.pth").unlink()  # a run needs nothing but its own folder
    found = cli.test("--dataroot", "other", "--degrade", "sr:2", name="whole")
    check(found, test, start, "sr:2")
    assert found.output("0.png").shape == test[0].shape
