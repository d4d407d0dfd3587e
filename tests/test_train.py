"""train.py, row by row: what each flag does to at least 20 real steps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data.datasets import ImageSpec, TrainDataset, WholeDataset
from data.degrade import parse_degradation
from data.loader import no_collate
from data.pairs import Source
from data.sampler import EpochSampler
from data.splits import find_pairs, hold_out
from models import LOSSES, build_network, network_defaults
from tests.conftest import FAST, OURS, TINY, dataset, pixels, records
from utils.optim.optimizers import OPTIMIZERS
from utils.optim.schedules import SCHEDULES
from utils.options.flags import parse_train
from utils.system.errors import UserError

Trained = Callable[..., Path]
STEPS = ("--repeat", "8", "--n_epochs", "1", "--gpu_ids", "-1")  # 30 steps of TINY
SMALL = {  # a small version of each network
    "resnet": ("--width", "8", "--depth", "2"),
    "unet": ("--width", "8", "--depth", "3"),
    "dncnn": ("--width", "16", "--depth", "5"),
    "resunet": ("--width", "16", "--depth", "1", "--levels", "2"),
}


def plain_training(
    steps: int,
    optimizer: Callable[[Any], torch.optim.Optimizer],
    lr: Callable[[int], float],
    clip: float = 0.0,
) -> dict[str, torch.Tensor]:
    """TINY trained by an independent ten-line loop; the state_dict it ends with."""
    pairs, _ = hold_out(find_pairs(Source("demo:6:48"), "train"), 0.1, seed=3)
    data = TrainDataset(pairs, ImageSpec(3, 3, seed=3), crop_size=32, augment="flip", repeat=8)
    sampler = EpochSampler(len(data), 4, seed=3)
    torch.manual_seed(3)
    own = network_defaults("resunet") | {"width": 8, "depth": 1, "levels": 2}
    net = build_network("resunet", input_nc=3, output_nc=3, **own)
    opt = optimizer(net.parameters())
    loader = DataLoader(data, batch_size=4, sampler=sampler, collate_fn=no_collate)
    for step, batch in zip(range(steps), loader, strict=False):
        opt.param_groups[0]["lr"] = lr(step)
        loss = torch.nn.functional.l1_loss(net(batch["input"]), batch["target"])
        opt.zero_grad()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
        opt.step()
    return net.state_dict()


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def weights(run: Path, tag: str = "latest") -> dict[str, torch.Tensor]:
    return torch.load(run / f"{tag}_net.pth")


# ------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("model", OURS)
def test_each_network_learns(trained: Trained, model: str) -> None:
    demo = ("--dataroot", "demo:6:48", "--model", model, *SMALL[model])
    run = trained(*demo, *FAST, *STEPS, "--lr", "2e-3", "--n_epochs", "2")
    losses = records(run, "loss")
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


# ------------------------------------------------------------------- optimizers, schedules, loss, gradients


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("adam", lambda p: torch.optim.Adam(p, betas=(0.5, 0.999), weight_decay=0.01, fused=True)),
        ("adamw", lambda p: torch.optim.AdamW(p, betas=(0.5, 0.999), weight_decay=0.01, fused=True)),
        ("sgd", lambda p: torch.optim.SGD(p, momentum=0.9, weight_decay=0.01, fused=True)),
        ("rmsprop", lambda p: torch.optim.RMSprop(p, momentum=0.9, weight_decay=0.01)),
    ],
)
def test_optimizer_is_the_plain_loop(trained: Trained, name: str, reference: Callable[[Any], Any]) -> None:
    """The same bits as an independent loop: zero_grad, backward, step and the lr are where they should be."""
    assert name in OPTIMIZERS
    flags = (
        "--optimizer",
        name,
        "--weight_decay",
        "0.01",
        "--schedule",
        "step",
        "--step_size",
        "9",
        "--amp",
        "off",
    )
    run = trained(*TINY, *FAST, *STEPS, *flags)
    assert equal(weights(run), plain_training(30, reference, lambda step: 0.0002))


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_linear_decay_and_clipping_are_the_plain_loop(trained: Trained, clip: float) -> None:
    run = trained(
        *TINY, *FAST, *STEPS, "--amp", "off", "--optimizer", "sgd", "--lr", "0.1", "--clip", str(clip)
    )
    lr = [0.1 * (1 if step <= 15 else (30 - step) / 15) for step in range(30)]
    assert records(run, "lr") == pytest.approx(lr, rel=1e-12)
    reference = plain_training(
        30, lambda p: torch.optim.SGD(p, momentum=0.9, fused=True), records(run, "lr").__getitem__, clip
    )
    assert equal(weights(run), reference)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_step_is_taken_at_lr_zero(trained: Trained, schedule: str) -> None:
    run = trained(*TINY, *FAST, *STEPS, "--schedule", schedule, "--warmup", "0.1", "--milestones", ".5,.8")
    lr = records(run, "lr")
    assert len(lr) == 30 and all(value > 0 for value in lr)
    assert lr[0] < 0.0002 * 0.3 and max(lr) <= 0.0002 * (1 + 1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_of_the_first_step(trained: Trained, loss: str, reduction: str) -> None:
    """resunet starts as the identity, so the first loss is that of doing nothing."""
    run = trained(
        *TINY, *FAST, *STEPS, "--loss", loss, "--reduction", reduction, "--amp", "off", "--lr", "1e-4"
    )
    pairs, _ = hold_out(find_pairs(Source("demo:6:48"), "train"), 0.1, seed=3)
    data = TrainDataset(pairs, ImageSpec(3, 3, seed=3), crop_size=32, augment="flip", repeat=8)
    sampler = EpochSampler(len(data), 4, seed=3)
    batch = next(iter(DataLoader(data, batch_size=4, sampler=sampler, collate_fn=no_collate)))
    d = (batch["input"] - batch["target"]).double()
    each = {"l1": d.abs(), "mse": d**2, "charbonnier": (d**2 + 1e-6).sqrt()}[loss]
    expected = (each.mean() if reduction == "mean" else each.sum()).item()
    losses = records(run, "loss")
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert len(losses) == 30 and losses[-1] != losses[0]


def test_frozen_weights_stay_and_the_optimizer_leaves_them_out(trained: Trained) -> None:
    first = trained(*TINY, *FAST, *STEPS, "--lr", "1e-3", name="first")
    tuned = trained(
        *TINY,
        *FAST,
        *STEPS,
        "--weights",
        str(first / "best_net.pth"),
        "--freeze",
        r"^(stem|encoders)\.",
        name="tuned",
    )
    before, after = weights(first, "best"), weights(tuned)
    frozen = {key for key in before if key.startswith(("stem.", "encoders."))}
    assert frozen and all(torch.equal(before[key], after[key]) for key in frozen)
    assert all(not torch.equal(before[key], after[key]) for key in before.keys() - frozen if "weight" in key)
    state = torch.load(tuned / "latest_state.pth", weights_only=True)
    assert len(state["optimizer"]["param_groups"][0]["params"]) == len(before) - len(frozen)


def test_ema_is_what_is_saved_and_evaluated(trained: Trained) -> None:
    run = trained(*TINY, *FAST, *STEPS, "--ema", "0.9", "--lr", "1e-3")
    state = torch.load(run / "latest_state.pth", weights_only=True)
    saved = weights(run)
    assert equal(saved, {k.removeprefix("module."): v for k, v in state["ema"].items() if k != "n_averaged"})
    assert not equal(saved, state["net"])
    assert not [key for key in saved if "module" in key or "n_averaged" in key]


# ---------------------------------------------------------------------------------------------------- layouts


def write_images(folder: Path, names: list[str], seed: int = 0, channels: int = 3, width: int = 40) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for name in names:
        coarse = rng.integers(0, 255, (4, 5, channels), dtype=np.uint8).squeeze()
        Image.fromarray(coarse).resize((width, 36), Image.Resampling.BICUBIC).save(folder / name)


def layout_on_disk(root: Path, layout: str) -> tuple[str, ...]:
    """A small set of one layout, and the flags that train on it."""
    stems = [f"{i}" for i in range(1, 7)]
    if layout == "reside":
        write_images(root / "train" / "clear", [f"{s}.png" for s in stems])
        write_images(
            root / "train" / "hazy", [f"{s}_{level}_0.9.png" for s in stems for level in (1, 2)], seed=1
        )
        return ("--dataroot", str(root))
    if layout == "aligned":
        write_images(root / "train", [f"{s}.jpg" for s in stems], width=80)
        return ("--dataroot", str(root), "--direction", "BtoA")
    write_images(root, [f"{s}.png" for s in stems], channels=1)
    return (
        "--dataroot",
        str(root),
        "--degrade",
        {"noise": "noise:25", "haze": "haze", "both": "haze+noise:5"}[layout],
    )


@pytest.mark.parametrize("layout", ["reside", "aligned", "noise", "haze", "both"])
def test_each_layout_trains(trained: Trained, tmp_path: Path, layout: str) -> None:
    flags = layout_on_disk(tmp_path / "set", layout)
    run = trained(*flags, *FAST, *STEPS, *TINY[2:], "--repeat", "16", "--val_share", "0.2")
    assert len(records(run, "loss")) >= 20
    described = json.loads((run / "options.json").read_text())["data"]
    assert {"reside": "pairs", "aligned": "aligned"}.get(layout, "clean") in described[0]


@pytest.mark.parametrize("workers, cache", [("0", "none"), ("2", "none"), ("2", "ram"), ("0", "device")])
def test_workers_and_caches_change_nothing(trained: Trained, workers: str, cache: str) -> None:
    run = trained(*TINY, *FAST, *STEPS, "--amp", "off", "--num_workers", workers, "--cache", cache)
    state = weights(run)
    assert equal(
        state, plain_training(30, lambda p: torch.optim.Adam(p, betas=(0.5, 0.999), fused=True), lr_of(run))
    )


def lr_of(run: Path) -> Callable[[int], float]:
    return records(run, "lr").__getitem__


def test_size_resizes_and_input_nc_grays(trained: Trained) -> None:
    flags = ("--dataroot", "demo:6:48", *TINY[2:], "--size", "32", "--input_nc", "1", "--batchSize", "4")
    run = trained(*flags, *FAST[4:], *STEPS)
    options = json.loads((run / "options.json").read_text())
    assert (options["input_nc"], options["output_nc"]) == (1, 3)
    assert weights(run)["stem.1.weight"].shape[1] == 4  # one channel, unshuffled by 2
    assert len(records(run, "loss")) == 30


def test_defaults_of_the_owner() -> None:
    opt = parse_train(["--dataroot", "demo", "--name", "not_there"])
    expected = {"epoch": 0, "n_epochs": 40, "batchSize": 1, "lr": 0.0002, "gpu_ids": "0", "model": "resnet"}
    assert {key: getattr(opt, key) for key in expected} == expected
    assert opt.norm == "instance" and opt.optimizer == "adam" and (opt.beta1, opt.beta2) == (0.5, 0.999)


# ------------------------------------------------------------------------------------------------ checkpoints


def test_checkpoint_files(trained: Trained) -> None:
    run = trained(*TINY, *FAST, "--n_epochs", "8", "--save_freq", "2", "--keep", "2", "--gpu_ids", "-1")
    states = sorted(path.name for path in run.glob("*_state.pth"))
    assert states == [f"{tag}_state.pth" for tag in ("epoch_0006", "epoch_0008", "latest", "previous")]
    assert len(list(run.glob("epoch_*_net.pth"))) == 4
    assert equal(weights(run), weights(run, "epoch_0008"))
    best_step = max(zip(records(run, "val_psnr"), range(3, 25, 3), strict=True))[1]
    assert torch.load(run / "latest_state.pth", weights_only=True)["best"]["step"] == best_step
    if best_step % 6 == 0:
        assert equal(weights(run, "best"), weights(run, f"epoch_{best_step // 3:04d}"))
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    assert [path.name for path in run.glob(".*")] == [".lock"]


def test_epoch_goes_on_from_that_state(trained: Trained) -> None:
    flags = (*TINY, *FAST, "--n_epochs", "4", "--save_freq", "2", "--gpu_ids", "-1")
    run = trained(*flags)
    whole = weights(run)
    again = trained("--epoch", "2")
    assert equal(weights(again), whole)
    assert records(run, "epoch")[-1] == 4 and len(records(run, "loss")) == 12
    with pytest.raises(UserError, match="saved: 2, 4"):
        trained("--epoch", "1")
    with pytest.raises(UserError, match="nothing to train"):
        trained("--epoch", "4", "--n_epochs", "4")


def test_a_finished_run_can_grow(trained: Trained) -> None:
    run = trained(*TINY, *FAST, "--n_epochs", "4", "--gpu_ids", "-1")
    with pytest.raises(UserError, match="may grow"):
        trained("--resume")
    trained("--resume", "--n_epochs", "8")
    lr = records(run, "lr")
    assert len(lr) == 24
    assert lr[12] == pytest.approx(0.0002) and lr[-1] == pytest.approx(0.0002 / 12)


@pytest.mark.parametrize(
    "change",
    [
        ("--batchSize", "8"),
        ("--model", "unet"),
        ("--seed", "9"),
        ("--dataroot", "demo:7:48"),
        ("--ema", ".5"),
    ],
)
def test_resume_refuses_what_would_be_another_run(trained: Trained, change: tuple[str, str]) -> None:
    trained(*TINY, *FAST, "--n_epochs", "1", "--gpu_ids", "-1")
    with pytest.raises(UserError, match=f"{change[0]} cannot change"):
        trained("--resume", *change)


def test_a_run_is_never_overwritten_in_silence(trained: Trained) -> None:
    trained(*TINY, *FAST, "--n_epochs", "1")
    with pytest.raises(UserError, match="exists") as refusal:
        trained(*TINY, *FAST, "--n_epochs", "1")
    assert refusal.value.code == 2 and "--resume" in refusal.value.fix


def test_max_steps_ends_run_and_schedule(trained: Trained) -> None:
    run = trained(*TINY, *FAST, "--n_epochs", "99", "--max_steps", "20", "--schedule", "cosine")
    assert len(records(run, "loss")) == 20
    assert records(run, "lr")[-1] < 0.02 * 0.0002


def test_dry_run_leaves_nothing(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(*TINY, *FAST, "--dry_run")
    said = capsys.readouterr().err
    assert "saved and loaded" in said and "MiB" in said and "120 steps" in said
    assert list(tmp_path.iterdir()) == []


def test_not_finite_stops_before_the_weights(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not finite at step") as refusal:
        trained(*TINY, *FAST, *STEPS, "--lr", "1e30", "--optimizer", "sgd", "--loss", "mse")
    run = tmp_path / "checkpoints" / "run"
    assert refusal.value.code == 1 and ".png" in refusal.value.why
    state = torch.load(run / "latest_state.pth", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state["net"].values())
    assert json.loads((run / "status.json").read_text())["state"] == "failed"


# ------------------------------------------------------------------------------------------- seeing, devices


def test_tensorboard_events_hold_the_log(trained: Trained) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = trained(*TINY, *FAST, *STEPS, "--tensorboard")
    events = event_accumulator.EventAccumulator(str(run / "tb"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == list(range(1, 31))
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(records(run, "loss"), rel=1e-6)
    assert [e.value for e in events.Scalars("val_psnr")] == pytest.approx(records(run, "val_psnr"), rel=1e-6)
    assert events.Images("grid")[0].width == 728


def test_validation_grid_shows_input_output_target(trained: Trained) -> None:
    run = trained(*TINY, *FAST, *STEPS)
    grid = pixels(run / "val_grid.png").astype(float)
    left, middle, right = (grid[4:244, 4 + 240 * i : 244 + 240 * i] for i in range(3))
    _, held = hold_out(find_pairs(Source("demo:6:48"), "train"), 0.1, seed=3)
    hazy, clear = held.read(held.pairs[0])
    assert clear is not None
    for shown, expected in ((left, hazy), (right, clear)):
        picture = Image.fromarray(expected).resize((240, 240), Image.Resampling.BILINEAR)
        enlarged = np.asarray(picture, dtype=float)
        assert np.abs(shown - enlarged).mean() < 2
    assert np.abs(middle - left).mean() > 1


@pytest.mark.parametrize("ids", ["0", "0,1", "-1"])
def test_without_a_gpu_it_is_the_cpu_said_in_one_line(
    trained: Trained, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ids: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    trained(*TINY, *FAST, "--gpu_ids", ids, "--max_steps", "20")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("device ")]
    assert len(lines) == 1 and "CPU" in lines[0]


@pytest.mark.parametrize("flags", [("--amp", "on"), ("--channels_last",), ("--deterministic",)])
def test_speed_flags_change_the_figures_little(trained: Trained, flags: tuple[str, ...]) -> None:
    common = (*TINY, *FAST, *STEPS, "--lr", "1e-3")
    plain = records(trained(*common, "--amp", "off", name="plain"), "val_psnr")[-1]
    fast = records(
        trained(*common, *(("--amp", "off") if "--amp" not in flags else ()), *flags, name="fast"), "val_psnr"
    )
    assert fast[-1] == pytest.approx(plain, abs=0.15)


@pytest.mark.slow
def test_compiled_training(trained: Trained) -> None:
    common = (*TINY, *FAST, *STEPS, "--amp", "off")
    plain, fast = trained(*common, name="plain"), trained(*common, "--compile", name="fast")
    assert records(fast, "loss") == pytest.approx(records(plain, "loss"), rel=1e-3)


# ------------------------------------------------------------------------------------------------ real images


def test_doing_nothing_on_set12_is_the_papers_figure() -> None:
    folder = dataset("set12")
    spec = ImageSpec(1, 1, degrade=parse_degradation("noise:25"))
    data = WholeDataset(find_pairs(Source(str(folder), degraded=True), "test"), spec)
    wholes = [data.whole(i) for i in range(12)]
    mse = [
        np.mean((w.input - w.target.astype(np.float64) / 255) ** 2) for w in wholes if w.target is not None
    ]
    assert np.mean([-10 * np.log10(m) for m in mse]) == pytest.approx(20.17, abs=0.03)


def test_real_layouts_are_found() -> None:
    dehaze = find_pairs(Source(str(dataset("sots-indoor"))), "train")
    assert (dehaze.layout, len(dehaze.pairs), len({p.group for p in dehaze.pairs})) == ("pairs", 42, 24)
    derain = find_pairs(Source(str(dataset("rain100L"))), "test")
    assert (derain.layout, len(derain.pairs)) == ("pairs", 3)
    facades = find_pairs(Source(str(dataset("facades")), direction="BtoA"), "train")
    assert (facades.layout, len(facades.pairs)) == ("aligned", 400)
