"""Third-party weights load where they fit, one line says how, and nothing else loads."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models import build_network
from models.spandrel import SpandrelNet
from models.weights import load_weights, read_weights
from tests.builders import ROOT, Payload, assert_same_state, network, same_state, small_net, write_weights
from tests.published import prefixed, published_dncnn, published_nets
from utils.system.errors import UserError

Weights = dict[str, Tensor]
UNFIT = "does not fit the network"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "foreign.pth"


def refused(value: Any, path: Path, net: nn.Module | None = None, match: str = UNFIT) -> str:
    """Why `value` is not loaded; the network is checked to stay as it was."""
    net = net or small_net(seed=1)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(UserError, match=match) as caught:
        load_weights(net, write_weights(value, path))
    assert_same_state(net.state_dict(), before)
    assert str(path) in caught.value.what
    if match == UNFIT:
        assert caught.value.fix == "use the network flags that the file was trained with"
    return caught.value.why


def wrapped(prefix: str = "", net: nn.Module | None = None) -> Weights:
    return prefixed(net or small_net(), prefix)


def sizes(network: int, file: int) -> str:
    return f"tensors in the network: {network}, in the file: {file}; "


# ------------------------------------------------------------------------------------- containers, prefixes

OTHER = small_net(2).state_dict()
COUNT = {"n_averaged": torch.tensor(5)}
TOOK = "took params_ema (the EMA), not params"
FOREIGN: dict[str, tuple[Any, str]] = {
    "bare": (wrapped(), ""),
    "ddp": (wrapped("module."), "stripped module."),
    "compiled": (wrapped("_orig_mod."), "stripped _orig_mod."),
    "ddp_of_compiled": (wrapped("module._orig_mod."), "stripped module._orig_mod."),
    "compiled_ddp": (wrapped("_orig_mod.module."), "stripped _orig_mod.module."),
    "average": ({**COUNT, **wrapped("module.")}, "stripped module., left out n_averaged"),
    "average_unwrapped": ({**COUNT, **wrapped()}, "left out n_averaged"),
    "params": ({"params": wrapped()}, ""),
    "basicsr": ({"params": OTHER, "params_ema": wrapped("module.")}, f"{TOOK}, stripped module."),
    "basicsr_within": ({"state": {"params": OTHER, "params_ema": wrapped()}}, TOOK),
    "only_ema": ({"params_ema": wrapped()}, ""),
    "empty_ema": ({"params_ema": {}, "params": wrapped()}, ""),
    "lightning": ({"epoch": 3, "state_dict": wrapped("model."), "lr": [0.1]}, "stripped model."),
    "ours": ({"format": 1, "net": wrapped(), "ema": OTHER, "optimizer": {"state": {0: {"a": COUNT}}}}, ""),
    "model": ({"model": wrapped("module."), "optimizer": {"state": {}}}, "stripped module."),
    "nested": ({"model": {"state_dict": wrapped("netG.")}}, "stripped netG."),
}
FOREIGN["ddp_of_average"] = (
    {"module.n_averaged": torch.tensor(5), **wrapped("module.module.")},
    "stripped module.module., left out n_averaged",
)
for container in ("model_state_dict", "state", "net", "netG", "generator", "G", "ema", "weights"):
    FOREIGN[f"in_{container}"] = ({container: wrapped(), "epoch": 1}, "")
for prefix in ("ema.", "ema_model.", "net.", "generator.", "module.net.module.generator."):
    FOREIGN[f"under_{prefix}"] = (wrapped(prefix), f"stripped {prefix}")


@pytest.mark.parametrize(("value", "line"), FOREIGN.values(), ids=FOREIGN)
def test_containers_and_prefixes_of_others_come_off(path: Path, value: Any, line: str) -> None:
    net = small_net(seed=1)
    assert load_weights(net, write_weights(value, path)) == line
    assert same_state(net.state_dict(), small_net().state_dict())


@pytest.mark.parametrize("extra", ["", "module.net."])
def test_a_wrapped_network_loads_the_names_of_a_bare_one(path: Path, extra: str) -> None:
    net, source = network("dncnn", scale=2), network("dncnn", seed=1)
    weights = {key: value for key, value in wrapped(extra, source).items() if not key.endswith("0.bias")}
    said = "absent in the file (set to 0): 1 bias"
    assert load_weights(net, write_weights(weights, path)) == (f"stripped {extra}, " if extra else "") + said
    nn.init.zeros_(source.get_parameter("body.0.bias"))
    assert same_state(dict(net.state_dict()), dict(source.state_dict()))


def test_reading_keeps_the_names(path: Path) -> None:
    """Prefixes stay, and so does a prefix within a name."""
    weights = {**wrapped("module."), "encoder.module.weight": torch.ones(1), "my_module.bias": torch.zeros(1)}
    assert same_state(read_weights(write_weights({"params": weights}, path)), weights)
    with pytest.raises(UserError, match="holds no weights"):
        read_weights(write_weights({"epoch": 3}, path))


# ------------------------------------------------------------------------------------------ what does not fit


def test_what_does_not_fit_is_counted_and_five_of_each_kind_are_named(path: Path) -> None:
    weights = {key: value for key, value in wrapped().items() if key not in ("0.bias", "3.weight")}
    weights |= {"head.weight": torch.zeros(2), "2.bias": torch.zeros(7)}
    why = "2 missing: 0.bias, 3.weight; 1 unexpected: head.weight; 1 of another shape: 2.bias (7,) for (40,)"
    assert refused(weights, path) == sizes(11, 10) + why
    missing = "11 missing: 0.bias, 0.weight, 1.bias, 1.num_batches_tracked, 1.running_mean; "
    extra = "8 unexpected: " + ", ".join(f"layer{i}.weight" for i in range(5))
    why = refused({f"layer{i}.weight": torch.zeros(1) for i in range(8)}, path)
    assert why == sizes(11, 8) + missing + extra
    bent = {key: torch.zeros(*value.shape, 2) for key, value in wrapped().items()}
    why = refused(bent, path).split("; ")[1]
    assert why.startswith("11 of another shape: 0.bias (40, 2) for (40,), ") and why.count(" for ") == 5


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"3.weight": None}, "1 missing: 3.weight"),
        ({"1.bias": None}, "1 missing: 1.bias"),
        ({"1.running_mean": None}, "1 missing: 1.running_mean"),
        ({"4.bias": torch.zeros(1)}, "1 unexpected: 4.bias"),
        ({"3.bias": torch.zeros(1)}, "1 of another shape: 3.bias (1,) for (3,)"),
        ({"3.bias": torch.zeros(3).char()}, "1 of another shape: 3.bias torch.int8 for torch.float32"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "other."])
def test_one_thing_that_does_not_fit_is_enough(path: Path, change: Any, why: str, prefix: str) -> None:
    weights = {prefix + key: v for key, v in {**wrapped(), **change}.items() if v is not None}
    said = refused(weights, path)
    assert said.endswith("; " + why) == (prefix != "other.")
    assert said.startswith(sizes(11, len(weights)))


ENDLESS: dict[str, Any] = {"epoch": 1}
ENDLESS["model"] = ENDLESS  # a container that holds itself


@pytest.mark.parametrize("value", [{}, [OTHER], 3, torch.ones(2), {"net": {}}, {0: torch.ones(2)}, ENDLESS])
def test_a_file_without_weights_does_not_fit(path: Path, value: Any) -> None:
    count = int(isinstance(value, dict) and 0 in value)
    assert refused(value, path).startswith(f"{sizes(11, count)}11 missing: ")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")  # on reading one
@pytest.mark.parametrize(
    ("key", "tensor", "what"),
    [
        ("2.weight", float("nan"), "is not finite"),
        ("2.weight", float("inf"), "is not finite"),
        ("1.running_var", -float("inf"), "is not finite"),
        ("1.running_var", float("nan"), "is not finite"),
        ("3.bias", torch.full((3,), 1e300, dtype=torch.float64), "is not finite"),  # in float32
        ("3.bias", torch.zeros(3, dtype=torch.complex64), "is no plain tensor"),
        ("3.bias", torch.zeros(3).to_sparse(), "is no plain tensor"),
        ("3.bias", torch.zeros(3, device="meta"), "is no plain tensor"),
    ],
)
def test_values_that_a_network_cannot_hold_are_named(path: Path, key: str, tensor: Any, what: str) -> None:
    weights = copy.deepcopy(wrapped("module."))
    if isinstance(tensor, float):
        weights[f"module.{key}"].view(-1)[-1] = tensor
    else:
        weights[f"module.{key}"] = tensor
    refused(weights, path, match=f"module.{key} {what}")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_cast(path: Path, dtype: torch.dtype) -> None:
    weights, net = {key: value.to(dtype) for key, value in wrapped().items()}, small_net(seed=1)
    expected = {key: weights[key].to(value.dtype) for key, value in wrapped().items()}
    assert load_weights(net, write_weights(weights, path)) == ""
    assert_same_state(dict(net.state_dict()), expected)


# --------------------------------------------------------------------------------------------------- the file


def file_refused(path: Path) -> None:
    net = small_net(seed=1)
    with pytest.raises(UserError) as caught:
        load_weights(net, path)
    assert str(path) in caught.value.what and "\n" not in caught.value.why
    assert same_state(net.state_dict(), small_net(seed=1).state_dict())


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_is_truncated_damaged_or_of_another_kind_is_refused(path: Path, zipped: bool) -> None:
    file_refused(path.parent)
    file_refused(path)
    whole = write_weights(wrapped(), path, _use_new_zipfile_serialization=zipped).read_bytes()
    contents = [whole[: int(part * len(whole))] for part in (0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.9999)]
    contents += [b"weights\n" * 50, b"PK\3\4", bytes(5000), pickle.dumps({"a": 1})]
    middle = len(whole) // 2
    damaged = whole[:middle] + bytes([whole[middle] ^ 0x10]) + whole[middle + 1 :]
    for content in [*contents, damaged] if zipped else contents:  # the older format has no checksums
        path.write_bytes(content)
        file_refused(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_wants_to_run_code_is_refused(tmp_path: Path, path: Path, zipped: bool) -> None:
    marker = tmp_path / "ran"
    value = {**wrapped(), "x": Payload(marker)}
    file_refused(write_weights(value, path, _use_new_zipfile_serialization=zipped))
    with pytest.raises(UserError, match="damaged or no checkpoint"):
        read_weights(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the payload is a real one
    assert marker.exists()


# ----------------------------------------------------------------------------------------------- by structure


@pytest.fixture(scope="module", params=[True, False], ids=["biased", "bias_free"])
def published(request: pytest.FixtureRequest) -> nn.Sequential:
    """Trained for 20 steps, so that the statistics of its batch norms have moved."""
    net = published_dncnn(biased=request.param, seed=7)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    for _ in range(20):
        clean = torch.rand(4, 1, 1, 1) * torch.ones(4, 1, 16, 16)
        noise = 0.1 * torch.randn_like(clean)
        optimizer.zero_grad()
        (net(clean + noise) - noise).square().mean().backward()
        optimizer.step()
    return net.eval()


DNCNN = "module.dncnn."


def ours(**flags: Any) -> nn.Module:
    return build_network("dncnn", input_nc=1, output_nc=1, **flags)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_published_dncnn_denoises(
    path: Path, published: nn.Sequential, zipped: bool, counted: bool
) -> None:
    weights = wrapped(DNCNN, published)
    assert not torch.allclose(weights[f"{DNCNN}3.running_var"], torch.ones(64), atol=0.01)
    if not counted:
        weights = {key: value for key, value in weights.items() if "num_batches" not in key}
    net = ours()
    nn.init.constant_(net.get_parameter("body.0.bias"), 3.0)  # must be 0 where the file has none
    line = load_weights(net, write_weights(weights, path, _use_new_zipfile_serialization=zipped))
    absent = [] if f"{DNCNN}0.bias" in weights else ["2 bias"]
    absent += [] if counted else ["15 num_batches_tracked"]
    said = ["stripped module.", f"matched {len(weights)} of 94 tensors by structure"]
    said += [f"absent in the file (set to 0): {', '.join(absent)}"] if absent else []
    assert line == ", ".join(said)
    assert net.get_buffer("body.3.num_batches_tracked") == (20 if counted else 0)
    x = torch.rand(2, 1, 40, 50, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        noise = published(x)
        assert noise.abs().max() > 1e-3
        assert torch.allclose(net.eval()(x), x - noise, rtol=0, atol=1e-5)


Change = Callable[[Weights], Weights]


def swapped(one: str, two: str) -> Change:
    """Exchange the places of two tensors in the order, each with its name."""
    places = {DNCNN + one: DNCNN + two, DNCNN + two: DNCNN + one}
    return lambda weights: {places.get(key, key): weights[places.get(key, key)] for key in weights}


def renamed(one: str, two: str) -> Change:
    return lambda weights: {DNCNN + two if key == DNCNN + one else key: weights[key] for key in weights}


def without(gone: str) -> Change:
    return lambda weights: {key: value for key, value in weights.items() if key != DNCNN + gone}


def with_zeros(key: str, *shape: int) -> Change:
    return lambda weights: {**weights, DNCNN + key: torch.zeros(shape)}


UNFIT_CHANGES = {
    "order_of_layers": swapped("0.weight", "2.weight"),
    "order_within_a_layer": swapped("3.running_mean", "3.running_var"),
    "two_layers_mixed": swapped("3.weight", "6.weight"),
    "a_layer_of_two_names": renamed("3.running_mean", "4.running_mean"),
    "a_weight_less": without("5.weight"),
    "a_norm_without_bias": without("3.bias"),
    "a_norm_without_statistics": without("3.running_var"),
    "a_layer_more": with_zeros("60.weight", 1, 1, 3, 3),
    "a_bias_more": with_zeros("2.bias", 64),
    "another_shape": with_zeros("5.weight", 64, 64, 3, 1),
    "another_last_part": renamed("3.weight", "3.gamma"),
}


@pytest.mark.parametrize("change", UNFIT_CHANGES.values(), ids=UNFIT_CHANGES)
def test_an_uneven_sequence_of_layers_does_not_fit(
    path: Path, published: nn.Sequential, change: Change
) -> None:
    weights = change(wrapped(DNCNN, published))
    assert refused(weights, path, ours()).startswith(sizes(94, len(weights)))


def test_other_flags_than_those_of_the_file_do_not_fit(path: Path, published: nn.Sequential) -> None:
    for flags in ({"depth": 18}, {"width": 32}, {"norm": "none"}):
        why = refused(wrapped(DNCNN, published), path, ours(**flags))
        assert " missing: body." in why and why.count("dncnn.") == 5, flags


@pytest.mark.parametrize("extra", ["", "module."])
def test_where_the_names_are_the_networks_own_they_decide_and_not_the_order(path: Path, extra: str) -> None:
    """Also under a prefix; without `net.`, which is the network's own, layers would be matched in order."""
    own, source = (nn.ModuleDict({"net": small_net(seed)}) for seed in (1, 0))
    line = load_weights(own, write_weights(wrapped(extra, source), path))
    assert line == ("stripped module." if extra else "")
    assert same_state(own.state_dict(), source.state_dict())
    own, source = (nn.ModuleDict({"net": nn.Sequential(*small_net(seed)[:3])}) for seed in (1, 0))
    weights = {key: v for key, v in reversed(wrapped(extra, source).items()) if "num_batches" not in key}
    line = load_weights(own, write_weights(weights, path))
    stripped = "stripped module., " if extra else ""
    assert line == f"{stripped}absent in the file (set to 0): 1 num_batches_tracked"
    assert same_state(own.state_dict(), source.state_dict())


def test_layers_of_equal_shapes_are_not_matched_against_their_names(path: Path) -> None:
    """In order, b would become a; by name, a is missing."""
    net = nn.ModuleDict({name: nn.Conv2d(4, 4, 3) for name in "abc"})
    state = net.state_dict()
    why = refused({key: state[key] for key in ("b.weight", "b.bias", "c.weight", "c.bias")}, path, net)
    assert why == sizes(6, 4) + "2 missing: a.bias, a.weight"


def test_a_bias_that_is_not_a_convolutions_is_not_made_up(path: Path) -> None:
    weights = {"head.weight": torch.ones(3, 5)}
    assert "; 2 missing: 0.bias, 0.weight; " in refused(weights, path, nn.Sequential(nn.Linear(5, 3)))
    net = nn.Sequential(nn.Conv2d(5, 3, 1))
    line = load_weights(net, write_weights({"head.weight": torch.ones(3, 5, 1, 1)}, path))
    assert line == "matched 1 of 2 tensors by structure, absent in the file (set to 0): 1 bias"
    assert net.get_parameter("0.weight").eq(1).all() and net.get_parameter("0.bias").eq(0).all()


# --------------------------------------------------------------------------------------------------- spandrel


def recognised(net: nn.Module, path: Path, channels: int = 3) -> SpandrelNet:
    return SpandrelNet(channels, channels, str(write_weights({"params_ema": wrapped("module.", net)}, path)))


@pytest.mark.parametrize(
    ("name", "scale", "multiple"),
    [("x4", 4, 1), ("x2_of_8", 2, 8), ("x1", 1, 1), ("x1_of_8_noise_map", 1, 8)],
)
def test_a_published_network_gives_what_it_gave(path: Path, name: str, scale: int, multiple: int) -> None:
    source = published_nets()[name]
    channels = 1 if "noise_map" in name else 3
    net = recognised(source, path, channels).eval()
    assert net.size == (multiple, 1, scale) and (net.input_nc, net.output_nc) == (channels, channels)
    draw = torch.Generator().manual_seed(0)

    def reference(x: Tensor) -> Tensor:
        level = torch.full_like(x[:, :1], 15 / 255)  # spandrel's own default, see its DRUNet
        return source(torch.cat([x, level], dim=1) if "noise_map" in name else x)

    for height, width in ((16, 24), (13, 17), (9, 24), (16, 15)):
        x = torch.rand(1, channels, height, width, generator=draw)
        down, right = -height % multiple, -width % multiple
        padded = np.pad(x.numpy(), ((0, 0), (0, 0), (0, down), (0, right)), mode="reflect")
        with torch.inference_mode():
            expected = reference(torch.from_numpy(padded))[..., : scale * height, : scale * width]
            output = net(x)
        assert output.shape == (1, channels, scale * height, scale * width)
        assert torch.allclose(output, expected, rtol=0, atol=1e-6)


def test_a_published_network_can_be_trained_and_saved(path: Path) -> None:
    net, twin = (recognised(published_nets()["x2_of_8"], path) for _ in range(2))
    net(torch.rand(2, 3, 8, 8)).mean().backward()
    with torch.no_grad():
        for parameter in net.parameters():
            assert parameter.grad is not None and parameter.requires_grad
            parameter.sub_(parameter.grad)
    assert not same_state(net.state_dict(), twin.state_dict())
    assert load_weights(twin, write_weights(net, path)) == ""
    assert same_state(net.state_dict(), twin.state_dict())
    assert same_state(copy.deepcopy(net).state_dict(), net.state_dict())


def test_weights_of_other_channels_or_of_no_known_network_are_an_error(path: Path) -> None:
    write_weights(published_nets()["x1"], path)
    for channels in ((1, 3), (3, 1), (1, 1)):
        with pytest.raises(UserError, match="other channels") as caught:
            SpandrelNet(*channels, str(path))
        assert "3 to 3" in caught.value.why and caught.value.fix == "--input_nc 3 --output_nc 3"
    for value in (wrapped(), dict(list(wrapped("", published_nets()["x4"]).items())[:-1])):
        with pytest.raises(UserError, match="of no network that spandrel knows") as caught:
            SpandrelNet(3, 3, str(write_weights(value, path)))
        assert str(path) in caught.value.what


def test_spandrel_is_loaded_on_demand_and_may_be_missing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, models.spandrel; sys.exit('spandrel' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(UserError, match="needs the extra") as caught:
        SpandrelNet(3, 3, str(path))
    assert caught.value.fix == "pip install spandrel"
