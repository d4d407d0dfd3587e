"""A resume on other data, from the state of another run or on another machine; processes that disagree."""

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.builders import (
    FAST,
    TINY,
    TINY_NET,
    assert_same_state,
    image,
    largest_difference,
    network,
    same_state,
    save,
    tree,
    words,
    write_set,
    write_weights,
)
from tests.cli import (
    Ended,
    InProcess,
    Job,
    Workplace,
    free_port,
    log,
    options,
    records,
    state,
    step_of,
    weights,
)
from tests.seams import wrap
from utils.system import tensorfile

PLAIN = (*FAST, *words("--gpu_ids -1 --amp off --n_epochs 2"))
NET = (*PLAIN, *TINY_NET)
PLACED = ("--dataroot", ".")  # with folders elsewhere
LAYOUTS = {  # name: flags
    "pairs": ("--dataroot", "photos"),
    "suffix": ("--dataroot", "photos"),
    "aligned": ("--dataroot", "photos", "--layout", "aligned"),
    "clean": ("--dataroot", "photos", "--degrade", "noise:25"),
    "manifest": ("--dataroot", "photos/pairs.csv"),
}


def begun(cli: InProcess, layout: str = "pairs", *flags: str) -> Path:
    """A finished run of two epochs on images in `photos`."""
    write_set(cli.folder / "photos", layout, count=10, splits=["train"])
    return cli.train(*LAYOUTS[layout], *NET, *flags).run


def files_of(layout: str, number: int) -> list[Path]:
    """The files of a pair that `begun` wrote."""
    names = {
        "pairs": ("input/{}.png", "target/{}.png"),
        "suffix": ("{}_input.png", "{}_target.png"),
        "aligned": ("{}.png",),
        "clean": ("{}.png",),
        "manifest": ("input/{}.png", "target/{}.png"),
    }
    return [Path("photos/train", name.format(number)) for name in names[layout]]


def longer(cli: InProcess, *flags: str, code: int | None = 0) -> Ended:
    return cli.train("--resume", "--n_epochs", "3", "--visdom", "off", *flags, code=code)


# ----------------------------------------------------------------------------------------------- changed data


def add(layout: str) -> None:
    for number in range(6):
        for old, new in zip(files_of(layout, 0), files_of(layout, 90 + number), strict=True):
            shutil.copy(old, new)
    if layout == "manifest":
        with Path("photos/pairs.csv").open("a") as file:
            file.writelines(f"train,train/input/{n}.png,train/target/{n}.png\n" for n in range(90, 96))


def remove(layout: str) -> None:
    for path in files_of(layout, 4):
        path.unlink()
    if layout == "manifest":
        table = Path("photos/pairs.csv")
        rows = table.read_text().splitlines()
        table.write_text("".join(f"{row}\n" for row in rows if "/4.png" not in row))


def replace(layout: str) -> None:
    """Other pixels, as many bytes."""
    path = files_of(layout, 7)[-1]
    size, time_ns = path.stat().st_size, path.stat().st_mtime_ns
    save(image(40, 80 if layout == "aligned" else 40, seed=99, smooth=True), path)
    data = path.read_bytes()
    path.write_bytes(data[:size] + bytes(max(0, size - len(data))))
    os.utime(path, ns=(time_ns, time_ns + 10**7))


@pytest.mark.risk(36)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (add, " added: train/"),
        (remove, " removed: train/"),
        (replace, "1 replaced (size or time differ): train/"),
    ],
)
def test_a_resume_on_changed_data_is_refused(
    cli: InProcess, layout: str, change: Callable[[str], None], said: str
) -> None:
    run = begun(cli, layout)
    before = tree(run)
    change(layout)
    refused = longer(cli, code=2)
    assert refused.refused("the data of run changed", said, "--data_changed ok"), refused.err
    assert tree(run) == before | {".lock": tree(run)[".lock"]}


@pytest.mark.risk(36)
def test_changed_data_can_be_accepted_once(cli: InProcess) -> None:
    run = begun(cli)
    add("pairs")
    said = longer(cli, "--data_changed", "ok").err
    assert "note    the data changed: 12 added: train/input/90.png" in said
    assert "train/input/90.png" in json.loads((run / "data.json").read_text())
    again = cli.train("--resume", "--n_epochs", "4", "--visdom", "off")
    assert "changed" not in again.err.replace("data_changed", "")
    assert options(run)["n_epochs"] == 4


@pytest.mark.risk(36)
def test_a_manifest_in_another_order_is_other_data(cli: InProcess) -> None:
    begun(cli, "manifest")
    table = Path("photos/pairs.csv")
    first, *rows = table.read_text().splitlines()
    time_ns = table.stat().st_mtime_ns
    table.write_text("\n".join([first, *reversed(rows), ""]))
    os.utime(table, ns=(time_ns, time_ns))
    assert longer(cli, code=2).refused("the same files in another order")


@pytest.mark.risk(36)
@pytest.mark.parametrize(
    "content", ["", "[1]", '{"a": 1}', '{"a": [1]}', '{"a": [1, "2"]}', '{"a": [1, 2', "\0\0"]
)
def test_a_record_of_the_data_that_cannot_be_read_is_named(cli: InProcess, content: str) -> None:
    run = begun(cli)
    sound = (run / "data.json").read_text()
    (run / "data.json").write_text(content)
    assert longer(cli, code=2).refused("data.json", "--data_changed ok")
    longer(cli, "--data_changed", "ok")
    assert json.loads((run / "data.json").read_text()) == json.loads(sound)


@pytest.mark.risk(36)
def test_accepting_changes_is_for_a_run_that_continues(cli: InProcess) -> None:
    assert cli.train(*TINY, *PLAIN, "--data_changed", "ok", code=2).refused("--data_changed", "--resume")


# ------------------------------------------------------------------------------------------------- moved data


def copy_elsewhere(old: str, new: str) -> None:
    """With other times, as cp does."""
    shutil.copytree(old, new, copy_function=shutil.copyfile)
    shutil.rmtree(old)


@pytest.mark.risk(36)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("move", [shutil.move, copy_elsewhere])
def test_moved_data_continue_bit_exactly(
    cli: InProcess, layout: str, move: Callable[[str, str], Any]
) -> None:
    flags = ("--schedule", "step")
    cut = begun(cli, layout, *flags)
    whole = Path(shutil.copytree(cut, cut.with_name("whole")))
    cli.train("--resume", "--n_epochs", "3", "--visdom", "off", name="whole")
    move("photos", "elsewhere/photos")
    assert longer(cli, code=2).refused("no such folder", "new place by --dataroot")
    place = LAYOUTS[layout][1]
    done = longer(cli, "--dataroot", f"elsewhere/{place}")
    assert "note    the data were moved; names and sizes of all" in done.err
    assert_same_state(weights(cut), weights(whole))
    assert options(cut)["dataroot"] == f"elsewhere/{place}"
    cli.train("--resume", "--n_epochs", "4", "--visdom", "off")


@pytest.mark.risk(36)
@pytest.mark.parametrize("side", ["input", "target"])
def test_folders_outside_of_the_data_root_move_by_their_own_flags(cli: InProcess, side: str) -> None:
    write_set(cli.folder / "photos", count=10, splits=[""])
    places = {each: str(cli.folder / "photos" / each) for each in ("input", "target")}
    run = cli.train(*PLACED, *(f"--{each}_dir={place}" for each, place in places.items()), *NET).run
    shutil.move(places[side], "elsewhere")
    assert longer(cli, code=2).refused(f"--{side}_dir")
    assert "the data were moved" in longer(cli, f"--{side}_dir", str(cli.folder / "elsewhere")).err
    assert step_of(run) == 6


@pytest.mark.risk(36)
@pytest.mark.parametrize("spelled", ["photos/", "./photos", "link", "ABSOLUTE"])
def test_the_same_place_in_other_words_is_not_another(cli: InProcess, spelled: str) -> None:
    """A file that was replaced is still noticed."""
    begun(cli)
    Path("link").symlink_to("photos")
    place = str(cli.folder / "photos") if spelled == "ABSOLUTE" else spelled
    assert "moved" not in longer(cli, "--dataroot", place).err
    replace("pairs")
    assert longer(cli, "--dataroot", place, code=2).refused("1 replaced")


@pytest.mark.risk(36)
@pytest.mark.parametrize("other", ["seed", "count", "names"])
def test_other_data_are_not_the_moved_ones(cli: InProcess, other: str) -> None:
    begun(cli)
    count, seed = 9 if other == "count" else 10, 50 if other == "seed" else 0
    names = [f"x{i}.png" for i in range(10)] if other == "names" else ()
    write_set(cli.folder / "others", count=count, seed=seed, names=names, splits=["train"])
    assert longer(cli, "--dataroot", "others", code=2).refused("the data of run changed [--dataroot]")


@pytest.mark.risk(36)
def test_a_run_without_a_record_of_its_data_resumes_where_it_was(cli: InProcess) -> None:
    """As runs of older versions are."""
    run = begun(cli)
    (run / "data.json").unlink()
    shutil.copytree("photos", "others")
    assert longer(cli, "--dataroot", "others", code=2).refused("data.json", "--data_changed ok")
    longer(cli)
    assert (run / "data.json").is_file()


# -------------------------------------------------------------------------------- another run, other machines


@pytest.mark.risk(36)
@pytest.mark.parametrize(
    "other",
    [("--seed", "9"), ("--lr", "0.01"), ("--dataroot", "demo:6:64"), ("--augment", "none"), ("--clip", "1")],
)
@pytest.mark.parametrize("tag", ["latest", "epoch_0001"])
def test_the_state_of_another_run_is_refused(cli: InProcess, other: tuple[str, ...], tag: str) -> None:
    """Of the same network: nothing else would tell."""
    flags = (*TINY, *PLAIN, "--save_freq", "1")
    run, foreign = cli.train(*flags).run, cli.train(*flags, *other, name="other").run
    shutil.copy(foreign / f"{tag}_state.pth", run)
    before = weights(run)
    epoch = ("--epoch", "1") if tag == "epoch_0001" else ()
    assert longer(cli, *epoch, code=2).refused(f"run/{tag}_state.pth", "another run")
    assert same_state(weights(run), before)


@pytest.mark.risk(36)
def test_a_copied_folder_is_the_same_run(cli: InProcess) -> None:
    run = cli.train(*TINY, *PLAIN).run
    shutil.copytree(run, run.with_name("copy"))
    said = cli.train("--resume", "--n_epochs", "3", "--lr", "0.01", "--visdom", "off", name="copy").err
    assert "note" not in said
    cli.train("--resume", "--n_epochs", "4", "--visdom", "off", name="copy")  # lr is not what it began with


@pytest.mark.risk(36)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("threads", 64),
        ("torch", "2.10.0"),
        ("device", "NVIDIA H100"),
        ("processes", 4),
        ("precision", "bfloat16"),
    ],
)
def test_another_machine_is_said(cli: InProcess, key: str, value: Any) -> None:
    run = cli.train(*TINY, *PLAIN).run
    now = state(run)["origin"][key]
    tensorfile.save(state(run) | {"origin": state(run)["origin"] | {key: value}}, run / "latest_state.pth")
    said = longer(cli).err
    assert f"note    {key} {value}, now {now}: the results may differ in the last bits" in said
    assert state(run)["origin"][key] == now and said.count("note  ") == 1


@pytest.mark.risk(36)
@pytest.mark.parametrize(("first", "then"), [(2, 3), (3, 1), (1, 2), (2, 2)])
def test_another_number_of_threads_is_said(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, first: int, then: int
) -> None:
    before = torch.get_num_threads()
    try:
        for number, count in enumerate((first, then)):
            monkeypatch.setattr("utils.system.distributed.available_cores", lambda count=count: count)
            done = longer(cli) if number else cli.train(*TINY, *PLAIN)
    finally:
        torch.set_num_threads(before)
    assert (f"note    threads {first}, now {then}" in done.err) == (first != then)


@pytest.mark.risk(36)
def test_a_state_that_does_not_tell_its_origin_resumes(cli: InProcess) -> None:
    run = cli.train(*TINY, *PLAIN).run
    older = state(run)
    del older["origin"]
    older["best"] = {key: older["best"][key] for key in ("psnr", "psnr_input", "step")}
    tensorfile.save(older, run / "latest_state.pth")
    saved = options(run)
    del saved["run_id"]
    (run / "options.json").write_text(json.dumps(saved))
    assert "note" not in longer(cli).err
    assert options(run)["run_id"] == state(run)["origin"]["run"]


# ------------------------------------------------------------------------------------------ the best of a run


def worse_later(patch: pytest.MonkeyPatch, *psnrs: float) -> None:
    """Let the validations find these values."""
    found = iter(psnrs)
    wrap("mean_psnr", lambda honest, *given: honest(*given)._replace(psnr=next(found)), patch)


def stated_best(run: Path) -> dict[str, Any]:
    return state(run)["best"]


def best_agrees(run: Path) -> bool:
    """Whether best_net.pth has the weights that the state calls the best."""
    return tensorfile.digest(weights(run, "best")) == stated_best(run)["weights"]


KEPT = (*TINY, *PLAIN, "--save_freq", "1", "--n_epochs", "3")  # epochs of 3 steps


@pytest.mark.risk(36)
@pytest.mark.parametrize(
    ("psnrs", "best_step", "back"),
    [((10, 20, 30), 9, 6), ((10, 20, 30), 9, 3), ((20, 10, 30), 9, 6), ((10, 30, 20), 6, 3)],
)
def test_going_back_keeps_later_best_weights(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, psnrs: tuple[float, ...], best_step: int, back: int
) -> None:
    with monkeypatch.context() as patch:
        worse_later(patch, *psnrs)
        run = cli.train(*KEPT).run
    assert stated_best(run)["step"] == best_step and best_agrees(run)
    later = weights(run, "best")
    with monkeypatch.context() as patch:
        worse_later(patch, 5, 5)
        said = cli.train("--epoch", str(back // 3), "--visdom", "off").err
    assert f"note    best_net.pth of step {best_step} is now best_step_{best_step}_net.pth" in said
    assert_same_state(weights(run, f"best_step_{best_step}"), later)
    assert cli.test("--load", f"best_step_{best_step}").summary["images"]
    expected = max((psnr, -3 * number) for number, psnr in enumerate(psnrs[: back // 3], 1))
    assert (stated_best(run)["psnr"], stated_best(run)["step"]) == (expected[0], -expected[1])
    assert best_agrees(run)
    assert same_state(weights(run, "best"), weights(run, f"epoch_{-expected[1] // 3:04d}"))


@pytest.mark.risk(36)
def test_going_back_to_where_the_best_is_gone_begins_anew(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        worse_later(patch, 20, 10, 30)
        run = cli.train(*KEPT).run
    for tag in ("net", "state"):
        (run / f"epoch_0001_{tag}.pth").unlink()
    with monkeypatch.context() as patch:
        worse_later(patch, 5)
        said = cli.train("--epoch", "2", "--visdom", "off").err
    assert "that of step 3 is gone, so the next validation sets a new one" in said
    assert (stated_best(run)["psnr"], stated_best(run)["step"]) == (5, 9) and best_agrees(run)


@pytest.mark.risk(36)
@pytest.mark.parametrize("damage", ["missing", "damaged", "of an earlier step", "of another network"])
def test_best_weights_that_are_not_those_of_the_state_are_restored(cli: InProcess, damage: str) -> None:
    """As after a kill between the state and best_net.pth, or when somebody has changed it."""
    run = cli.train(*KEPT, "--lr", "0.002").run
    assert stated_best(run)["step"] == 9
    best, file = weights(run, "best"), run / "best_net.pth"
    if damage == "missing":
        file.unlink()
    elif damage == "damaged":
        file.write_bytes(file.read_bytes()[:3000])
    elif damage == "of an earlier step":
        shutil.copy(run / "epoch_0001_net.pth", file)
    else:
        torch.save({"x": torch.ones(3)}, file)
    cli.train("--resume", "--n_epochs", "4", "--lr", "1e-9", "--schedule", "step", "--visdom", "off")
    assert best_agrees(run)
    if stated_best(run)["step"] == 9:
        assert_same_state(weights(run, "best"), best)


@pytest.mark.risk(36)
def test_a_best_of_other_validation_images_is_not_compared(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        worse_later(patch, 20, 30)
        run = begun(cli)
    before = weights(run, "best")
    number = int(Path(options(run)["held_out"]["val"][0]).stem)
    for other, validated in zip(files_of("pairs", 9 - number), files_of("pairs", number), strict=True):
        shutil.copy(other, validated)
    with monkeypatch.context() as patch:
        worse_later(patch, 7, 6)
        said = longer(cli, "--data_changed", "ok").err
    assert "the best so far" in said and "is now best_step_" in said
    assert stated_best(run)["psnr"] == 7 and best_agrees(run)
    assert any(same_state(torch.load(path), before) for path in run.glob("best_step_*_net.pth"))


# ------------------------------------------------------------------- nothing is cut before something is saved


@pytest.mark.risk(36)
@pytest.mark.parametrize("flags", [("--epoch", "1"), ("--epoch", "2"), ("--resume", "--n_epochs", "9")])
def test_a_resume_that_cannot_save_leaves_the_run_as_it_was(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    run = cli.train(*KEPT).run
    kept = ("log.jsonl", "latest_state.pth", "best_net.pth")
    before = tree(run)

    def fail(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        wrap("save", fail, patch)
        assert cli.train(*flags, "--visdom", "off", code=1).refused("No space left", code=1)
    after = tree(run)
    assert all(before[name] in after.values() for name in kept)  # best_net.pth perhaps under another name
    cli.train("--resume", "--n_epochs", "4", "--visdom", "off")
    assert best_agrees(run) and len(records(run, "val_psnr")) == 4


BAD_LINES = {
    "text": "epoch 3, loss 0.01",
    "half a record": '{"step": 2, "lo',
    "another object": '{"loss": 0.5}',
    "a step in words": '{"step": "2", "loss": 0.5}',
    "a list": "[1, 2]",
    "a value in words": '{"step": 2, "epoch": "one"}',
    "not UTF-8": "\udcff\udcfe",
    "deeply nested": "[" * 100_000,
}


@pytest.mark.risk(29)
@pytest.mark.parametrize("bad", BAD_LINES)
def test_a_bad_line_in_the_log_neither_bars_the_resume_nor_deletes_later_ones(
    cli: InProcess, bad: str
) -> None:
    run = cli.train(*KEPT).run
    before, file = log(run), run / "log.jsonl"
    lines = file.read_text().splitlines()
    lines[2:2] = [BAD_LINES[bad]]
    lines[7:7] = [BAD_LINES[bad]]
    file.write_bytes("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))
    said = cli.train("--resume", "--n_epochs", "4", "--visdom", "off").err
    assert said.count("log.jsonl: 2 lines are no records, left out") == 1
    assert log(run)[: len(before)] == before and len(log(run)) > len(before)


# ----------------------------------------------------------------------------------------- what a resume says


@pytest.mark.risk(42)
@pytest.mark.parametrize(
    "flags",
    [
        ("--n_epochs", "8"),
        ("--max_steps", "7"),
        ("--n_epochs", "3", "--lr", "0.1"),
        ("--n_epochs", "3", "--schedule", "cosine"),
    ],
)
def test_a_run_that_continues_at_another_lr_says_so(cli: InProcess, flags: tuple[str, ...]) -> None:
    run = cli.train(*TINY, *PLAIN).run
    came_to = records(run, "lr")[-1]
    text = cli.train("--resume", *flags, "--visdom", "off").err
    now = records(run, "lr")[6]
    assert f"lr      {now:.2e} (of the saved state: {came_to:.2e})" in text


@pytest.mark.risk(42)
@pytest.mark.parametrize(
    ("prefix", "container", "said"),
    [
        ("", "", "every tensor by its name"),
        ("module.", "", "stripped module."),
        ("_orig_mod.", "", "stripped _orig_mod."),
        ("", "params_ema", "every tensor by its name"),
    ],
)
def test_weights_to_begin_with_are_named(cli: InProcess, prefix: str, container: str, said: str) -> None:
    run = cli.train(*TINY, *PLAIN).run
    net = {f"{prefix}{key}": value for key, value in weights(run).items()}
    torch.save({container: net} if container else net, "net.pth")
    text = cli.train(*TINY, *PLAIN, "--weights", "net.pth", "--lr", "1e-12", name="new").err
    (line,) = (line for line in text.splitlines() if line.startswith("weights net.pth: "))
    assert said in line
    begun = weights(run.with_name("new"))
    assert largest_difference(begun, weights(run)) < 1e-6


@pytest.mark.risk(42)
def test_a_run_that_continues_at_its_lr_says_nothing(cli: InProcess) -> None:
    run = cli.train(*TINY, *PLAIN, "--schedule", "step").run
    text = cli.train("--resume", "--n_epochs", "3", "--visdom", "off").err
    assert "of the saved state" not in text and len(set(records(run, "lr"))) == 1


# ------------------------------------------------------------------------------------ processes that disagree


def two(
    work: Workplace,
    *flags: str,
    each: Sequence[Sequence[str]] = ((), ()),
    before: Sequence[str] = ("", ""),
) -> list[Job]:
    """Two processes without a launcher, each in a folder of its own; `each` has flags of one of them."""
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    env |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [
        work.at(rank).start("train.py", *flags, *own, before=code, RANK=rank, LOCAL_RANK=rank, **env)
        for rank, own, code in zip("01", each, before, strict=True)
    ]


@pytest.mark.dist
@pytest.mark.risk(37)
@pytest.mark.parametrize(
    ("own", "words_of_it"),
    [
        (("--seed", "4"), ("--seed", "'3' on process 0, '4' on process 1")),
        (("--val_freq", "2"), ("--val_freq",)),
        (("--lr", "0.1", "--clip", "1"), ("--clip", "--lr")),
    ],
)
def test_processes_with_other_flags_are_refused(
    work: Workplace, own: tuple[str, ...], words_of_it: tuple[str, ...]
) -> None:
    for job in two(work, *TINY, *PLAIN, each=((), own)):
        assert job.wait(2, seconds=60).refused("the processes of the run differ", *words_of_it)
        assert not job.run.exists()


@pytest.mark.dist
@pytest.mark.risk(37)
@pytest.mark.parametrize("change", ["a pair less", "a pair more", "another image", "another folder"])
def test_processes_with_other_data_are_refused(work: Workplace, change: str) -> None:
    """Only another folder is no difference."""
    places = [work.at(rank).folder for rank in "01"]
    for place in places:
        write_set(place / "ds", count=6, splits=["train"])
    own, name = [("--dataroot", "ds")] * 2, "5.png"
    if change == "another folder":
        shutil.move(places[1] / "ds", places[1] / "elsewhere")
        own[1] = ("--dataroot", "elsewhere")
    for side in ("input", "target"):
        if change == "a pair less":
            (places[1] / "ds/train" / side / name).unlink()
        elif change == "a pair more":
            shutil.copy(places[1] / "ds/train" / side / name, places[1] / "ds/train" / side / "6.png")
    if change == "another image":
        save(image(40, 40, seed=77), places[1] / "ds/train/input" / name)
    jobs = two(work, *NET, each=(own[0], own[1]))
    ended = [job.wait(None, seconds=60) for job in jobs]
    if change == "another folder":
        assert [each.code for each in ended] == [0, 0]
        return
    for each in ended:
        assert each.refused("differ in data", "6.png" if change == "a pair more" else name)


@pytest.mark.dist
@pytest.mark.risk(37)
def test_processes_that_resume_from_other_steps_are_refused(work: Workplace, cli: InProcess) -> None:
    run = cli.train(*KEPT).run
    for rank in "01":
        shutil.copytree(run, work.at(rank).run())
    other = work.at("1").run()
    shutil.copy(other / "epoch_0002_state.pth", other / "latest_state.pth")
    for job in two(work, "--resume", "--n_epochs", "4"):
        assert job.wait(2, seconds=60).refused("differ in the step to continue from", "'9'", "'6'")


@pytest.mark.dist
@pytest.mark.risk(37)
@pytest.mark.parametrize("refused", [0, 1])
@pytest.mark.parametrize(
    ("own", "what"),
    [
        (("--dataroot", "nowhere"), "no such folder"),  # by the command line
        (("--lr", "-1"), "--lr"),
        (("--name", "../x"), "bad run name"),
    ],
)
def test_one_that_is_refused_does_not_let_the_others_wait(
    work: Workplace, refused: int, own: tuple[str, ...], what: str
) -> None:
    each = (own, ()) if refused == 0 else ((), own)
    began = time.monotonic()
    jobs = two(work, *TINY, *PLAIN, each=each)
    assert jobs[refused].wait(2, seconds=60).refused(what)
    assert jobs[1 - refused].wait(2, seconds=60).refused(f"process {refused} was refused", what)
    assert time.monotonic() - began < 40


@pytest.mark.dist
@pytest.mark.risk(37)
@pytest.mark.parametrize("refused", [0, 1])
def test_one_without_its_gpu_does_not_let_the_others_wait(work: Workplace, refused: int) -> None:
    code = ("import torch; torch.cuda.device_count = lambda: 1", "")
    each = (("--gpu_ids", "5"), ())
    order = 1 if refused == 0 else -1
    jobs = two(work, *TINY, *PLAIN, each=each[::order], before=code[::order])
    assert jobs[refused].wait(2, seconds=60).refused("no GPU")
    assert jobs[1 - refused].wait(2, seconds=60).refused(f"process {refused} was refused: no GPU")


@pytest.mark.dist
@pytest.mark.risk(37)
@pytest.mark.parametrize("at", ["no pairs", "weights of another network", "a damaged state"])
def test_one_that_is_refused_while_it_starts_ends_both(work: Workplace, at: str) -> None:
    places = [work.at(rank) for rank in "01"]
    flags: tuple[str, ...] = (*NET, "--dataroot", "ds")
    for place in places:
        write_set(place.folder / "ds", count=6, splits=["train"])
    if at == "no pairs":
        shutil.rmtree(places[1].folder / "ds/train/target")
    elif at == "weights of another network":
        for place, channels in zip(places, (3, 1), strict=True):
            net = network("resunet", width=8, depth=1, levels=2, input_nc=channels, output_nc=channels)
            write_weights(net, place.folder / "net.pth")
        flags += ("--weights", "net.pth")
    else:
        places[0].train(*flags)
        shutil.copytree(places[0].run(), places[1].run())
        for path in places[1].run().glob("*_state.pth"):
            path.write_bytes(b"damaged")
        flags = ("--resume", "--n_epochs", "5")
    began = time.monotonic()
    ended = [job.wait(None, seconds=90) for job in two(work, *flags)]
    assert ended[1].refused() and "process 1 failed" in ended[0].error, [each.err for each in ended]
    assert time.monotonic() - began < 60
