"""Weights of others load where they fit, the line says how, and nothing else loads."""

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

from models import build_network, network_defaults
from models.spandrel import Zoo
from models.weights import bare_weights, load_weights, read_weights
from utils.system.errors import UserError

from .test_checkpoint import Payload, equal, small_net


def written(value: Any, folder: Path, **options: Any) -> Path:
    path = folder / "foreign.pth"
    torch.save(value, path, **options)
    return path


def loaded(value: Any, folder: Path, **options: Any) -> tuple[str, nn.Module]:
    """The line of loading `value` into a network that began elsewhere, and that network."""
    net = small_net(seed=1)
    return load_weights(net, written(value, folder, **options)), net


def refused(value: Any, folder: Path, net: nn.Module | None = None) -> str:
    """Why `value` is not loaded; the network is checked to stay as it was."""
    net = net or small_net(seed=1)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    path = written(value, folder)
    with pytest.raises(UserError, match="does not fit the network") as caught:
        load_weights(net, path)
    assert equal(net.state_dict(), before)
    assert str(path) in caught.value.what
    assert caught.value.fix == "give the network's flags that the file was made with"
    return caught.value.why


def wrapped(prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in small_net().state_dict().items()}


# ------------------------------------------------------------------------------------- containers, prefixes

OTHER = small_net(2).state_dict()
COUNT = {"n_averaged": torch.tensor(5)}
FOREIGN: dict[str, tuple[Any, str]] = {
    "bare": (wrapped(""), ""),
    "ddp": (wrapped("module."), "stripped module."),
    "compiled": (wrapped("_orig_mod."), "stripped _orig_mod."),
    "ddp_of_compiled": (wrapped("module._orig_mod."), "stripped module._orig_mod."),
    "compiled_ddp": (wrapped("_orig_mod.module."), "stripped _orig_mod.module."),
    "average": ({**COUNT, **wrapped("module.")}, "stripped module., left out n_averaged"),
    "average_unwrapped": ({**COUNT, **wrapped("")}, "left out n_averaged"),
    "ddp_of_average": (
        {"module.n_averaged": torch.tensor(5), **wrapped("module.module.")},
        "stripped module.module., left out n_averaged",
    ),
    "params": ({"params": wrapped("")}, ""),
    "basicsr": (
        {"params": OTHER, "params_ema": wrapped("module.")},
        "took params_ema (the EMA), not params, stripped module.",
    ),
    "basicsr_within": (
        {"state": {"params": OTHER, "params_ema": wrapped("")}},
        "took params_ema (the EMA), not params",
    ),
    "only_ema": ({"params_ema": wrapped("")}, ""),
    "empty_ema": ({"params_ema": {}, "params": wrapped("")}, ""),
    "lightning": (
        {"epoch": 3, "state_dict": wrapped("model."), "lr": [0.1], "optimizer_states": [{"state": {0: {}}}]},
        "stripped model.",
    ),
    "ours": ({"format": 1, "net": wrapped(""), "ema": OTHER, "optimizer": {"state": {0: {"a": COUNT}}}}, ""),
    "model": (
        {"model": wrapped("module."), "optimizer": {"state": {}, "param_groups": []}},
        "stripped module.",
    ),
    "nested": ({"model": {"state_dict": wrapped("netG.")}}, "stripped netG."),
}
for container in ("model_state_dict", "state", "net", "netG", "generator", "G", "ema", "weights"):
    FOREIGN[f"in_{container}"] = ({container: wrapped(""), "epoch": 1}, "")
for prefix in ("ema.", "ema_model.", "net.", "generator.", "module.net.module.generator."):
    FOREIGN[f"under_{prefix}"] = (wrapped(prefix), f"stripped {prefix}")


@pytest.mark.parametrize(("value", "line"), FOREIGN.values(), ids=FOREIGN)
def test_containers_and_prefixes_of_others_come_off(tmp_path: Path, value: Any, line: str) -> None:
    said, net = loaded(value, tmp_path)
    assert equal(net.state_dict(), small_net().state_dict())
    assert said == line


@pytest.mark.parametrize("extra", ["", "module."])
def test_a_network_whose_own_names_begin_with_a_prefix_keeps_them(tmp_path: Path, extra: str) -> None:
    own, source = (nn.ModuleDict({"net": small_net(seed)}) for seed in (1, 0))
    said = load_weights(own, written({extra + k: v for k, v in source.state_dict().items()}, tmp_path))
    assert equal(own.state_dict(), source.state_dict())
    assert said == ("stripped module." if extra else "")


def test_a_prefix_within_a_name_stays() -> None:
    weights = {"encoder.module.weight": torch.ones(1), "my_module.bias": torch.zeros(1)}
    assert bare_weights(weights).keys() == weights.keys()


def test_a_container_that_holds_itself_ends(tmp_path: Path) -> None:
    value: dict[str, Any] = {"epoch": 1}
    value["model"] = value
    assert refused(value, tmp_path).startswith("the network has 11 tensors, the file 0; ")


def test_reading_keeps_the_names(tmp_path: Path) -> None:
    assert equal(read_weights(written({"params": wrapped("module.")}, tmp_path)), wrapped("module."))
    with pytest.raises(UserError, match="holds no weights"):
        read_weights(written({"epoch": 3}, tmp_path))


# ------------------------------------------------------------------------------------------ what does not fit


def test_what_does_not_fit_is_counted_and_named(tmp_path: Path) -> None:
    weights = dict(small_net().state_dict())
    del weights["0.bias"], weights["3.weight"]
    weights |= {"head.weight": torch.zeros(2), "2.bias": torch.zeros(7)}
    assert refused(weights, tmp_path) == (
        "the network has 11 tensors, the file 10; 2 missing: 0.bias, 3.weight; 1 left over: head.weight; "
        "1 of another shape: 2.bias (7,) for (40,)"
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"3.weight": None}, "1 missing: 3.weight"),
        ({"1.bias": None}, "1 missing: 1.bias"),
        ({"1.running_mean": None}, "1 missing: 1.running_mean"),
        ({"4.bias": torch.zeros(1)}, "1 left over: 4.bias"),
        ({"3.bias": torch.zeros(1)}, "1 of another shape: 3.bias (1,) for (3,)"),
        (
            {"3.bias": torch.zeros(3, dtype=torch.int8)},
            "1 of another shape: 3.bias torch.int8 for torch.float32",
        ),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "other."])
def test_one_thing_that_does_not_fit_is_enough(
    tmp_path: Path, change: dict[str, Tensor | None], why: str, prefix: str
) -> None:
    weights = {prefix + key: v for key, v in {**small_net().state_dict(), **change}.items() if v is not None}
    said = refused(weights, tmp_path)
    assert said.endswith("; " + why) == (prefix != "other.")
    assert said.startswith(f"the network has 11 tensors, the file {len(weights)}; ")


def test_only_five_names_of_each_kind_are_listed(tmp_path: Path) -> None:
    weights = {f"layer{i}.weight": torch.zeros(1) for i in range(8)}
    head, missing, extra = refused(weights, tmp_path).split("; ")
    assert head == "the network has 11 tensors, the file 8"
    assert missing == "11 missing: 0.bias, 0.weight, 1.bias, 1.num_batches_tracked, 1.running_mean"
    assert extra == "8 left over: " + ", ".join(f"layer{i}.weight" for i in range(5))
    shapes = {key: torch.zeros(*value.shape, 2) for key, value in small_net().state_dict().items()}
    why = refused(shapes, tmp_path).split("; ")[1]
    assert why.startswith("11 of another shape: 0.bias (40, 2) for (40,), ") and why.count(" for ") == 5


@pytest.mark.parametrize("value", [{}, [torch.ones(2)], 3, torch.ones(2), {"net": {}}, {0: torch.ones(2)}])
def test_a_file_without_weights_does_not_fit(tmp_path: Path, value: Any) -> None:
    assert "; 11 missing: " in refused(value, tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["2.weight", "1.running_var"])
def test_a_value_that_is_not_finite_is_refused_by_its_key(tmp_path: Path, bad: float, key: str) -> None:
    weights = wrapped("module.")
    weights[f"module.{key}"] = weights[f"module.{key}"].clone()
    weights[f"module.{key}"].view(-1)[-1] = bad
    net = small_net(seed=1)
    with pytest.raises(UserError, match=f"module.{key} is not finite"):
        load_weights(net, written(weights, tmp_path))
    assert equal(net.state_dict(), small_net(seed=1).state_dict())


@pytest.mark.filterwarnings(
    "ignore:Validating sparse tensor invariants:UserWarning"
)  # torch's, on reading one
@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(3, dtype=torch.complex64), torch.zeros(3).to_sparse(), torch.zeros(3, device="meta")],
)
def test_tensors_that_are_not_plain_are_refused(tmp_path: Path, tensor: Tensor) -> None:
    with pytest.raises(UserError, match=r"3\.bias is no plain tensor"):
        load_weights(small_net(), written({**wrapped(""), "3.bias": tensor}, tmp_path))


def test_a_double_beyond_float32_is_not_finite(tmp_path: Path) -> None:
    huge = torch.full((3,), 1e300, dtype=torch.float64)
    with pytest.raises(UserError, match=r"3\.bias is not finite"):
        load_weights(small_net(), written({**wrapped(""), "3.bias": huge}, tmp_path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_cast(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = {key: value.to(dtype) for key, value in wrapped("").items()}
    said, net = loaded(weights, tmp_path)
    wanted = small_net().state_dict()
    assert said == ""
    for key, value in net.state_dict().items():
        assert value.dtype == wanted[key].dtype
        assert torch.equal(value, weights[key].to(wanted[key].dtype))


# --------------------------------------------------------------------------------------------------- the file


def damage_refused(path: Path) -> None:
    net = small_net(seed=1)
    with pytest.raises(UserError) as caught:
        load_weights(net, path)
    assert str(path) in caught.value.what and "\n" not in caught.value.why
    assert equal(net.state_dict(), small_net(seed=1).state_dict())


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    damage_refused(tmp_path)
    path = tmp_path / "a.pth"
    damage_refused(path)
    for content in (b"", b"weights\n" * 50, b"PK\3\4", bytes(5000), pickle.dumps({"a": 1})):
        path.write_bytes(content)
        damage_refused(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_wants_to_run_code_is_refused(tmp_path: Path, zipped: bool) -> None:
    marker = tmp_path / "ran"
    value = {**wrapped(""), "x": Payload(marker)}
    path = written(value, tmp_path, _use_new_zipfile_serialization=zipped)
    damage_refused(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the payload is a real one
    assert marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_refused(tmp_path: Path, zipped: bool) -> None:
    path = written(wrapped(""), tmp_path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for part in (0.001, 0.01, 0.1, 0.5, 0.9, 0.9999):
        path.write_bytes(whole[: int(part * len(whole))])
        damage_refused(path)


def test_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    path = written(wrapped(""), tmp_path)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0x10
    path.write_bytes(whole)
    damage_refused(path)


# ----------------------------------------------------------------------------------------------- by structure


def published_dncnn(biased: bool) -> nn.Sequential:
    """As DnCNN-PyTorch lays it out, 17 convolutions of 64; the output is the noise."""
    layers: list[nn.Module] = [nn.Conv2d(1, 64, 3, padding=1, bias=biased), nn.ReLU()]
    for _ in range(15):
        layers += [nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(64, 1, 3, padding=1, bias=biased))


@pytest.fixture(scope="module", params=[True, False], ids=["biased", "bias_free"])
def published(request: pytest.FixtureRequest) -> nn.Sequential:
    """Trained for 20 steps, so that the statistics of its batch norms have moved."""
    torch.manual_seed(7)
    net = published_dncnn(request.param)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    for _ in range(20):
        clean = torch.rand(4, 1, 1, 1) * torch.ones(4, 1, 16, 16)
        noise = 0.1 * torch.randn_like(clean)
        optimizer.zero_grad()
        (net(clean + noise) - noise).square().mean().backward()
        optimizer.step()
    return net.eval()


def as_published(net: nn.Module) -> dict[str, Tensor]:
    return {f"module.dncnn.{key}": value for key, value in net.state_dict().items()}


def ours() -> nn.Module:
    return build_network("dncnn", input_nc=1, output_nc=1, **network_defaults("dncnn"))


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_published_dncnn_denoises_as_it_did(
    tmp_path: Path, published: nn.Sequential, zipped: bool, counted: bool
) -> None:
    weights = as_published(published)
    assert not torch.allclose(weights["module.dncnn.3.running_var"], torch.ones(64), atol=0.01)
    if not counted:
        weights = {key: value for key, value in weights.items() if "num_batches" not in key}
    net = ours()
    nn.init.constant_(net.get_parameter("body.0.bias"), 3.0)  # which a file without it has to take back
    line = load_weights(net, written(weights, tmp_path, _use_new_zipfile_serialization=zipped))
    said = ["stripped module.", f"matched {len(weights)} tensors by structure"]
    said += [] if "module.dncnn.0.bias" in weights else ["2 biases absent in the file are 0"]
    said += [] if counted else ["15 counts of batches absent in the file are 0"]
    assert line == ", ".join(said)
    assert net.get_buffer("body.3.num_batches_tracked") == (20 if counted else 0)
    x = torch.rand(2, 1, 40, 50, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        noise = published(x)
        assert noise.abs().max() > 1e-3
        assert torch.allclose(net.eval()(x), x - noise, rtol=0, atol=1e-5)


def swap(one: str, two: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Let two tensors trade their places in the order, each with its name."""

    def change(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        places = {one: two, two: one}
        return {places.get(key, key): weights[places.get(key, key)] for key in weights}

    return change


def renamed(one: str, two: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {two if key == one else key: value for key, value in weights.items()}


def without(gone: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {key: value for key, value in weights.items() if key != gone}


def with_more(key: str, *shape: int) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {**weights, key: torch.zeros(shape)}


DNCNN = "module.dncnn."
UNFIT: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "order_of_layers": swap(f"{DNCNN}0.weight", f"{DNCNN}2.weight"),
    "order_within_a_layer": swap(f"{DNCNN}3.running_mean", f"{DNCNN}3.running_var"),
    "two_layers_mixed": swap(f"{DNCNN}3.weight", f"{DNCNN}6.weight"),
    "a_layer_of_two_names": renamed(f"{DNCNN}3.running_mean", f"{DNCNN}4.running_mean"),
    "a_weight_less": without(f"{DNCNN}5.weight"),
    "a_norm_without_bias": without(f"{DNCNN}3.bias"),
    "a_norm_without_statistics": without(f"{DNCNN}3.running_var"),
    "a_layer_more": with_more(f"{DNCNN}60.weight", 1, 1, 3, 3),
    "a_bias_more": with_more(f"{DNCNN}2.bias", 64),
    "another_shape": lambda weights: {**weights, f"{DNCNN}5.weight": torch.zeros(64, 64, 3, 1)},
    "another_last_part": renamed(f"{DNCNN}3.weight", f"{DNCNN}3.gamma"),
}


@pytest.mark.parametrize("change", UNFIT.values(), ids=UNFIT)
def test_a_sequence_that_does_not_come_out_even_is_refused(
    tmp_path: Path, published: nn.Sequential, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    weights = change(as_published(published))
    assert f"the network has 94 tensors, the file {len(weights)}; " in refused(weights, tmp_path, ours())


@pytest.mark.parametrize(("depth", "width", "norm"), [(18, 64, "batch"), (17, 32, "batch"), (17, 64, "none")])
def test_other_flags_than_those_of_the_file_are_refused(
    tmp_path: Path, published: nn.Sequential, depth: int, width: int, norm: str
) -> None:
    flags = network_defaults("dncnn") | {"depth": depth, "width": width, "norm": norm}
    net = build_network("dncnn", input_nc=1, output_nc=1, **flags)
    why = refused(as_published(published), tmp_path, net)
    assert " missing: body." in why and why.count("dncnn.") == 5


def test_where_the_names_are_the_networks_own_they_decide_and_not_the_order(tmp_path: Path) -> None:
    weights = {key: value for key, value in reversed(wrapped("").items()) if "num_batches" not in key}
    said, net = loaded(weights, tmp_path)
    assert said == "1 count of batches absent in the file is 0"
    assert equal(net.state_dict(), small_net().state_dict())


def test_own_names_under_a_prefix_decide_too(tmp_path: Path) -> None:
    """Without `net.`, which is the network's own, the layers would be matched in their order."""
    own, source = (nn.ModuleDict({"net": nn.Sequential(*small_net(seed)[:3])}) for seed in (1, 0))
    state = source.state_dict()
    weights = {f"module.{key}": state[key] for key in reversed(state) if "num_batches" not in key}
    said = load_weights(own, written(weights, tmp_path))
    assert said == "stripped module., 1 count of batches absent in the file is 0"
    assert equal(own.state_dict(), source.state_dict())


def test_layers_of_equal_shapes_are_not_matched_against_their_names(tmp_path: Path) -> None:
    """In order, b would become a; by name, a is missing."""
    net = nn.ModuleDict({name: nn.Conv2d(4, 4, 3) for name in "abc"})
    state = net.state_dict()
    why = refused({key: state[key] for key in ("b.weight", "b.bias", "c.weight", "c.bias")}, tmp_path, net)
    assert why == "the network has 6 tensors, the file 4; 2 missing: a.bias, a.weight"


def test_a_bias_that_is_not_a_convolutions_is_not_made_up(tmp_path: Path) -> None:
    weights = {"head.weight": torch.ones(3, 5)}
    assert "; 2 missing: 0.bias, 0.weight; " in refused(weights, tmp_path, nn.Sequential(nn.Linear(5, 3)))
    net = nn.Sequential(nn.Conv2d(5, 3, 1))
    line = load_weights(net, written({"head.weight": torch.ones(3, 5, 1, 1)}, tmp_path))
    assert line == "matched 1 tensor by structure, 1 bias absent in the file is 0"
    assert net.get_parameter("0.weight").eq(1).all() and net.get_parameter("0.bias").eq(0).all()


# ---------------------------------------------------------------------------------------------------- the zoo


@pytest.fixture
def spandrel() -> Any:
    return pytest.importorskip("spandrel")


def zoo_nets() -> dict[str, nn.Module]:
    """Tiny ones of spandrel's own, by scale and what their sides must be a multiple of."""
    from spandrel.architectures.Compact import Compact
    from spandrel.architectures.DnCNN import DnCNN
    from spandrel.architectures.DRUNet import DRUNet
    from spandrel.architectures.SAFMN import SAFMN

    torch.manual_seed(0)
    nets = {
        "x4": Compact(num_feat=8, num_conv=2, upscale=4),
        "x2_of_8": SAFMN(dim=8, n_blocks=2, upscaling_factor=2),
        "x1": DnCNN(in_nc=3, out_nc=3, nc=8, nb=9),
        "x1_of_8_noise_map": DRUNet(in_nc=2, out_nc=1, nc=[4, 8, 8, 8], nb=4),
    }
    return {name: net.eval() for name, net in nets.items()}


def zoo_file(net: nn.Module, folder: Path) -> str:
    return str(written({"params_ema": {f"module.{k}": v for k, v in net.state_dict().items()}}, folder))


@pytest.mark.parametrize(
    ("name", "scale", "multiple"),
    [("x4", 4, 1), ("x2_of_8", 2, 8), ("x1", 1, 1), ("x1_of_8_noise_map", 1, 8)],
)
def test_a_network_of_the_zoo_gives_what_it_gave(
    tmp_path: Path, spandrel: Any, name: str, scale: int, multiple: int
) -> None:
    source = zoo_nets()[name]
    channels = 1 if "noise_map" in name else 3
    zoo = Zoo(channels, channels, zoo_file(source, tmp_path)).eval()
    assert zoo.size == (multiple, 1, scale)
    assert (zoo.input_nc, zoo.output_nc) == (channels, channels)
    draw = torch.Generator().manual_seed(0)

    def referee(x: Tensor) -> Tensor:
        level = torch.full_like(x[:, :1], 15 / 255)  # spandrel's own default, see its DRUNet
        return source(torch.cat([x, level], dim=1) if "noise_map" in name else x)

    with torch.inference_mode():
        x = torch.rand(1, channels, 16, 24, generator=draw)
        assert torch.allclose(zoo(x), referee(x), rtol=0, atol=1e-6)
        for height, width in ((13, 17), (9, 24), (16, 15)):
            x = torch.rand(1, channels, height, width, generator=draw)
            down, right = -height % multiple, -width % multiple
            padded = np.pad(x.numpy(), ((0, 0), (0, 0), (0, down), (0, right)), mode="reflect")
            wanted = referee(torch.from_numpy(padded))[..., : scale * height, : scale * width]
            found = zoo(x)
            assert found.shape == (1, channels, scale * height, scale * width)
            assert torch.allclose(found, wanted, rtol=0, atol=1e-6)


def test_a_network_of_the_zoo_can_be_trained_and_saved(tmp_path: Path, spandrel: Any) -> None:
    path = zoo_file(zoo_nets()["x2_of_8"], tmp_path)
    zoo, twin = Zoo(3, 3, path), Zoo(3, 3, path)
    zoo(torch.rand(2, 3, 8, 8)).mean().backward()
    with torch.no_grad():
        for parameter in zoo.parameters():
            assert parameter.grad is not None and parameter.requires_grad
            parameter.sub_(parameter.grad)
    assert not equal(zoo.state_dict(), twin.state_dict())
    assert load_weights(twin, written(zoo.state_dict(), tmp_path)) == ""
    assert equal(zoo.state_dict(), twin.state_dict())
    assert equal(copy.deepcopy(zoo).state_dict(), zoo.state_dict())


@pytest.mark.parametrize("given", [(1, 3), (3, 1), (1, 1)])
def test_other_channels_than_the_networks_are_refused(
    tmp_path: Path, spandrel: Any, given: tuple[int, int]
) -> None:
    with pytest.raises(UserError, match="other channels") as caught:
        Zoo(*given, zoo_file(zoo_nets()["x1"], tmp_path))
    assert "3 to 3" in caught.value.why and caught.value.fix == "--input_nc 3 --output_nc 3"


def test_weights_that_spandrel_does_not_know_are_refused(tmp_path: Path, spandrel: Any) -> None:
    half = {key: value for key, value in zoo_nets()["x4"].state_dict().items() if key != "body.2.bias"}
    for value in (wrapped(""), half):
        with pytest.raises(UserError, match="of no network that spandrel knows") as caught:
            Zoo(3, 3, str(written(value, tmp_path)))
        assert str(tmp_path) in caught.value.what


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_the_zoo_runs_no_code(tmp_path: Path, spandrel: Any, zipped: bool) -> None:
    marker = tmp_path / "ran"
    value = {**zoo_nets()["x4"].state_dict(), "x": Payload(marker)}
    with pytest.raises(UserError, match="damaged or no checkpoint"):
        Zoo(3, 3, str(written(value, tmp_path, _use_new_zipfile_serialization=zipped)))
    assert not marker.exists()


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(UserError, match="needs the extra") as caught:
        Zoo(3, 3, str(tmp_path / "a.pth"))
    assert caught.value.fix == "pip install spandrel"


def test_the_zoo_is_listed_without_its_library() -> None:
    code = "import sys, models.spandrel; sys.exit('spandrel' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0
