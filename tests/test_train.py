"""train.py, row by row: what each flag does to at least 20 real steps."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data.datasets import ImageSpec, TrainDataset
from data.loader import no_collate
from data.pairs import PairList, Source
from data.sampler import EpochSampler
from data.splits import find_pairs, hold_out
from tests.builders import (
    FAST,
    OURS,
    TINY,
    TINY_NET,
    dataset,
    network,
    same_state,
    tiny_flags,
    words,
    write_set,
)
from tests.cli import InProcess, options, records, state, status, step_of, weights
from utils.optim.optimizers import OPTIMIZERS
from utils.optim.schedules import SCHEDULES
from utils.options import parse_train

SHORT = (*TINY, *FAST, "--gpu_ids", "-1")
STEPS = ("--repeat", "8", "--n_epochs", "1", "--gpu_ids", "-1")  # 30 steps of TINY
RUN = (*TINY, *FAST, *STEPS)
PLAIN = (*RUN, "--amp", "off")


def held_out() -> tuple[PairList, PairList]:
    """The training and validation pairs of TINY."""
    return hold_out(find_pairs(Source("demo:6:48"), "train"), 0.1, seed=3)


def batches() -> DataLoader[Any]:
    """The batches of the first epoch of TINY, FAST and STEPS."""
    data = TrainDataset(held_out()[0], ImageSpec(3, 3, seed=3), crop_size=32, augment="flip", repeat=8)
    return DataLoader(data, batch_size=4, sampler=EpochSampler(len(data), 4, seed=3), collate_fn=no_collate)


def plain_training(optimizer: Callable[[Any], Any], lr: list[float], clip: float = 0.0) -> dict[str, Any]:
    """TINY trained by an independent ten-line loop; the state_dict it ends with."""
    net = network("resunet", seed=3, width=8, depth=1, levels=2)
    opt = optimizer(net.parameters())
    for now, batch in zip(lr, batches(), strict=True):
        opt.param_groups[0]["lr"] = now
        loss = torch.nn.functional.l1_loss(net(batch["input"]), batch["target"])
        opt.zero_grad()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
        opt.step()
    return net.state_dict()


# ------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("model", OURS)
def test_each_network_learns(cli: InProcess, model: str) -> None:
    done = cli.train(*TINY[:2], *tiny_flags(model), *FAST, *STEPS, "--lr", "2e-3", "--n_epochs", "2")
    losses = records(done.run, "loss")
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
def test_optimizer_is_the_plain_loop(cli: InProcess, name: str, reference: Callable[[Any], Any]) -> None:
    """The same bits as an independent loop: zero_grad, backward, step and the lr are where they should be."""
    assert name in OPTIMIZERS
    schedule = ("--schedule", "step", "--step_size", "9")
    run = cli.train(*PLAIN, "--optimizer", name, "--weight_decay", "0.01", *schedule).run
    assert same_state(weights(run), plain_training(reference, [0.0002] * 30))


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_linear_decay_and_clipping_are_the_plain_loop(cli: InProcess, clip: float) -> None:
    run = cli.train(*PLAIN, "--optimizer", "sgd", "--lr", "0.02", "--clip", str(clip)).run
    lr = records(run, "lr")
    assert lr == pytest.approx([0.02 * min(1, (30 - step) / 15) for step in range(30)], rel=1e-12)
    reference = plain_training(lambda p: torch.optim.SGD(p, momentum=0.9, fused=True), lr, clip)
    assert same_state(weights(run), reference)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_step_is_taken_at_lr_zero(cli: InProcess, schedule: str) -> None:
    flags = ("--schedule", schedule, "--warmup", "0.1", "--milestones", ".5,.8")
    lr = records(cli.train(*RUN, *flags).run, "lr")
    assert len(lr) == 30 and all(value > 0 for value in lr)
    assert lr[0] < 0.0002 * 0.3 and max(lr) <= 0.0002 * (1 + 1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", ["l1", "mse", "charbonnier"])
def test_loss_of_the_first_step(cli: InProcess, loss: str, reduction: str) -> None:
    """resunet starts as the identity, so the first loss is that of the input."""
    losses = records(cli.train(*PLAIN, "--loss", loss, "--reduction", reduction, "--lr", "1e-4").run, "loss")
    batch = next(iter(batches()))
    d = (batch["input"] - batch["target"]).double()
    each = {"l1": d.abs(), "mse": d**2, "charbonnier": (d**2 + 1e-6).sqrt()}[loss]
    expected = (each.mean() if reduction == "mean" else each.sum()).item()
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert len(losses) == 30 and losses[-1] != losses[0]


def test_frozen_weights_stay_and_the_optimizer_leaves_them_out(cli: InProcess) -> None:
    first = cli.train(*RUN, "--lr", "1e-3", name="first").run
    freeze = ("--weights", str(first / "best_net.pth"), "--freeze", r"^(stem|encoders)\.")
    tuned = cli.train(*RUN, *freeze).run
    before, after = weights(first, "best"), weights(tuned)
    frozen = {key for key in before if key.startswith(("stem.", "encoders."))}
    assert frozen and all(torch.equal(before[key], after[key]) for key in frozen)
    assert all(not torch.equal(before[key], after[key]) for key in before.keys() - frozen if "weight" in key)
    (group,) = state(tuned)["optimizer_G"]["param_groups"]
    assert len(group["params"]) == len(before) - len(frozen)


def test_ema_is_what_is_saved_and_evaluated(cli: InProcess) -> None:
    run = cli.train(*RUN, "--ema", "0.9", "--lr", "1e-3").run
    held, saved = state(run), weights(run)
    ema = {k.removeprefix("module."): v for k, v in held["ema"].items() if k != "n_averaged"}
    assert same_state(saved, ema)
    assert not same_state(saved, held["net"])
    assert not [key for key in saved if "module" in key or "n_averaged" in key]


# ---------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("layout", "kind", "flags"),
    [
        ("reside", "pairs", ()),
        ("aligned", "aligned", ("--direction", "BtoA")),
        ("clean", "clean", ("--degrade", "noise:25")),
        ("clean", "clean", ("--degrade", "haze")),
        ("clean", "clean", ("--degrade", "haze+noise:5")),
    ],
)
def test_each_layout_trains(cli: InProcess, layout: str, kind: str, flags: tuple[str, ...]) -> None:
    channels, split = (1, "") if layout == "clean" else (3, "train")
    write_set(Path("set"), layout, 6, splits=[split], channels=channels)
    common = (*FAST, *STEPS, *TINY_NET, "--repeat", "16", "--val_share", "0.2")
    run = cli.train("--dataroot", "set", *common, *flags).run
    assert len(records(run, "loss")) >= 20
    assert kind in options(run)["data"][0]


@pytest.mark.parametrize("workers, cache", [("0", "none"), ("2", "none"), ("2", "ram"), ("0", "device")])
def test_workers_and_caches_change_nothing(cli: InProcess, workers: str, cache: str) -> None:
    run = cli.train(*PLAIN, "--num_workers", workers, "--cache", cache).run
    adam = partial(torch.optim.Adam, betas=(0.5, 0.999), fused=True)
    assert same_state(weights(run), plain_training(adam, records(run, "lr")))


def test_size_resizes_and_input_nc_grays(cli: InProcess) -> None:
    run = cli.train(*TINY, "--size", "32", "--input_nc", "1", *FAST[2:], *STEPS).run
    assert (options(run)["input_nc"], options(run)["output_nc"]) == (1, 3)
    assert weights(run)["stem.1.weight"].shape[1] == 4  # one channel, unshuffled by 2
    assert len(records(run, "loss")) == 30


def test_defaults_of_the_owner() -> None:
    opt = parse_train(["--dataroot", "demo", "--name", "not_there"])
    assert (opt.epoch, opt.n_epochs, opt.batchSize, opt.lr, opt.gpu_ids) == (0, 40, 1, 0.0002, "0")
    assert (opt.model, opt.norm, opt.optimizer) == ("resnet", "instance", "adam")
    assert (opt.beta1, opt.beta2) == (0.5, 0.999)


# ------------------------------------------------------------------------------------------------ checkpoints


def test_checkpoint_files(cli: InProcess) -> None:
    run = cli.train(*SHORT, "--n_epochs", "8", "--save_freq", "2", "--keep", "2").run
    states = sorted(path.name for path in run.glob("*_state.pth"))
    assert states == [f"{tag}_state.pth" for tag in ("epoch_0006", "epoch_0008", "latest", "previous")]
    assert len(list(run.glob("epoch_*_net.pth"))) == 4
    assert same_state(weights(run), weights(run, "epoch_0008"))
    best_step = max(zip(records(run, "val_psnr"), range(3, 25, 3), strict=True))[1]
    assert state(run)["best"]["step"] == best_step
    if best_step % 6 == 0:
        assert same_state(weights(run, "best"), weights(run, f"epoch_{best_step // 3:04d}"))
    assert status(run)["state"] == "done"
    assert [path.name for path in run.glob(".*")] == [".lock"]


def test_epoch_resumes_from_that_state(cli: InProcess) -> None:
    run = cli.train(*SHORT, "--n_epochs", "4", "--save_freq", "2").run
    whole = weights(run)
    cli.train("--epoch", "2")
    assert same_state(weights(run), whole)
    assert records(run, "epoch")[-1] == 4 and len(records(run, "loss")) == 12
    assert cli.train("--epoch", "1", code=2).refused("saved: 2, 4")
    assert cli.train("--epoch", "4", "--n_epochs", "4", code=2).refused("nothing to train")


@pytest.mark.parametrize(
    ("first", "then", "steps"),
    [
        ("--n_epochs 2", "--max_steps 9", 9),
        ("--n_epochs 3 --max_steps 4", "--n_epochs 3", 9),
        ("--n_epochs 2 --max_steps 20", "--max_steps 11", 11),
        ("--n_epochs 2", "--n_epochs 4 --max_steps 7", 7),
    ],
)
def test_the_length_that_is_typed_for_a_resumed_run_holds(
    cli: InProcess, first: str, then: str, steps: int
) -> None:
    run = cli.train(*SHORT, *words(first)).run
    cli.train("--resume", *words(then))
    assert step_of(run) == steps
    ended_by = "--n_epochs 3, steps an epoch: 3" if then == "--n_epochs 3" else f"--max_steps {steps}"
    assert cli.train("--resume", code=2).refused("is finished", ended_by, f"raise {ended_by.split()[0]}")


def test_texture_needs_random_crops(cli: InProcess) -> None:
    flags = words("--dataroot demo:2:32 --model resunet --augment flip+texture:4 --max_steps 2 --gpu_ids -1")
    assert cli.train(*flags, "--visdom", "off", code=2).refused("--augment flip+texture:4", "--crop_size")


def test_max_steps_alone_is_not_cut_by_the_default_number_of_epochs(cli: InProcess) -> None:
    flags = (*SHORT, "--batchSize", "6", "--max_steps", "45", "--val_freq", "45", "--save_freq", "0")
    assert step_of(cli.train(*flags).run) == 45


def test_a_finished_run_can_grow_but_not_become_another(cli: InProcess) -> None:
    run = cli.train(*SHORT, "--n_epochs", "4").run
    assert cli.train("--resume", code=2).refused("raise --n_epochs")
    assert "--resume" in cli.train(*SHORT, "--n_epochs", "4", code=2).fix
    for change in ("--batchSize 8", "--model unet", "--seed 9", "--dataroot demo:7:48", "--ema .5"):
        flag, value = change.split()
        assert cli.train("--resume", flag, value, code=2).refused(f"{flag} cannot change")
    cli.train("--resume", "--n_epochs", "8")
    lr = records(run, "lr")
    assert len(lr) == 24
    assert lr[12] == pytest.approx(0.0002) and lr[-1] == pytest.approx(0.0002 / 12)


def test_max_steps_ends_run_and_schedule(cli: InProcess) -> None:
    run = cli.train(*TINY, *FAST, "--n_epochs", "99", "--max_steps", "20", "--schedule", "cosine").run
    assert len(records(run, "loss")) == 20
    assert records(run, "lr")[-1] < 0.02 * 0.0002


def test_dry_run_leaves_nothing(cli: InProcess, tmp_path: Path) -> None:
    said = cli.train(*TINY, *FAST, "--dry_run").err
    assert "saved and loaded" in said and "MiB" in said and "120 steps" in said
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------- seeing, devices


def test_tensorboard_events_hold_the_log(cli: InProcess) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = cli.train(*RUN, "--tensorboard").run
    events = event_accumulator.EventAccumulator(str(run / "tb" / "run"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == list(range(1, 31))
    for key in ("loss", "val_psnr"):
        assert [e.value for e in events.Scalars(key)] == pytest.approx(records(run, key), rel=1e-6)
    assert events.Images("grid")[0].width == 728
    assert not {"epoch", "step", "time"} & {*events.Tags()["scalars"]}  # no cards of their own


def test_validation_grid_shows_input_output_target(cli: InProcess) -> None:
    with Image.open(cli.train(*RUN).run / "val_grid.png") as file:
        grid = np.asarray(file, dtype=float)
    left, middle, right = (grid[30:270, 4 + 240 * i : 244 + 240 * i] for i in range(3))
    _, held = held_out()
    hazy, clear = held.read(held.pairs[0])
    assert clear is not None
    for shown, expected in ((left, hazy), (right, clear)):
        enlarged = Image.fromarray(expected).resize((240, 240), Image.Resampling.BILINEAR)
        assert np.abs(shown - np.asarray(enlarged, dtype=float)).mean() < 2
    assert np.abs(middle - left).mean() > 1
    heading = grid[:26].mean(axis=2)
    dark = [int((heading[:, 8 + 240 * i : 240 + 240 * i] < 128).sum()) for i in range(3)]
    assert min(dark) > 20 and np.median(heading) == 255  # a word over each column


@pytest.mark.parametrize("ids", ["0", "0,1", "-1"])
def test_without_a_gpu_it_is_the_cpu_said_in_one_line(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, ids: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    err = cli.train(*TINY, *FAST, "--gpu_ids", ids, "--max_steps", "20").err
    lines = [line for line in err.splitlines() if line.startswith("device ")]
    assert len(lines) == 1 and "CPU" in lines[0]


@pytest.mark.parametrize("flags", [("--amp", "on"), ("--channels_last",), ("--deterministic",)])
def test_speed_flags_change_the_figures_little(cli: InProcess, flags: tuple[str, ...]) -> None:
    common = (*PLAIN, "--lr", "1e-3")
    plain, fast = cli.train(*common, name="plain").run, cli.train(*common, *flags, name="fast").run
    assert records(fast, "val_psnr")[-1] == pytest.approx(records(plain, "val_psnr")[-1], abs=0.15)


@pytest.mark.slow
def test_compiled_training(cli: InProcess) -> None:
    plain, fast = cli.train(*PLAIN, name="plain").run, cli.train(*PLAIN, "--compile", name="fast").run
    assert records(fast, "loss") == pytest.approx(records(plain, "loss"), rel=1e-3)


# ------------------------------------------------------------------------------------------------ real images


@pytest.mark.parametrize(
    ("name", "split", "direction", "layout", "count"),
    [
        ("sots-indoor", "train", "AtoB", "pairs", 42),
        ("rain100L", "test", "AtoB", "pairs", 3),
        ("facades", "train", "BtoA", "aligned", 400),
    ],
)
def test_real_layouts_are_found(name: str, split: str, direction: str, layout: str, count: int) -> None:
    found = find_pairs(Source(str(dataset(name)), direction=direction), split)
    assert (found.layout, len(found.pairs)) == (layout, count)
    assert name != "sots-indoor" or len({pair.group for pair in found.pairs}) == 24
