"""`python -m utils.compare` as a user runs it, on run folders written by hand."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import builders
from tests.builders import ROOT
from tests.cli import Ended, Workplace

BLUE, ORANGE, GRAY = (31, 119, 180), (255, 127, 14), (102, 102, 102)  # the first two runs; the input
OPTIONS = {"model": "resunet", "dataroot": "demo", "lr": 0.0002, "milestones": [20.0, 30.0]}


def compare(work: Workplace, *flags: str, code: int = 0) -> Ended:
    """The command in the workplace."""
    command = (sys.executable, "-W", "error", "-m", "utils.compare", *flags)
    done = work.process(*command, PYTHONPATH=str(ROOT), PYTHONIOENCODING="utf-8").wait(code)
    assert "Traceback" not in done.err
    return done


def write_run(
    work: Workplace, name: str, values: Sequence[float | None] = (), psnr_input: float = 20.0, **options: Any
) -> None:
    """A run that validated every 10 steps, with weights from an hour ago."""
    records = [
        {"step": 10 * epoch, "epoch": float(epoch), **measured}
        for epoch, value in enumerate(values, 1)
        for measured in ({"loss": 0.1, "train_psnr": 24.0}, {"val_psnr": value, "val_psnr_input": psnr_input})
    ]
    builders.write_run(work.run(name), {**OPTIONS, **options}, records)
    weights = work.file(name, "best_net.pth")
    weights.touch()
    os.utime(weights, (time.time() - 3600,) * 2)


def write_summary(work: Workplace, run: str, dataset: str, mean: float | None, **more: Any) -> Path:
    path = work.folder / "results" / run / more.pop("folder", dataset) / "summary.json"
    path.parent.mkdir(parents=True)
    summary: dict[str, Any] = {"run": run, "dataset": dataset, "split": "test", "protocol": "text"}
    summary |= {"degrade": None, "scale": 1, "images": 12, "weights": f"checkpoints/{run}/best_net.pth"}
    summary |= {"psnr": {"mean": mean, "identical": 0}, "psnr_input": {"mean": 20.125}}
    path.write_text(json.dumps({**summary, **more}))
    return path


def row(out: str, name: str) -> list[str]:
    """The cells of the only line that begins with `name`."""
    (line,) = [line for line in out.splitlines() if line.split()[:1] == [name]]
    return line.split()


def drawn(path: Path, *colors: tuple[int, int, int]) -> list[np.ndarray]:
    """Where a PNG has exactly each of these colors: `(H, W)`, bool."""
    with Image.open(path) as image:
        assert image.format == "PNG" and image.size == (1080, 660)
        picture = np.asarray(image.convert("RGB"))
    return [np.all(picture == np.uint8(color), axis=-1) for color in colors]


def test_figures_stars_and_options(work: Workplace) -> None:
    write_run(work, "plain", [21, 25.5, None, 24], model="unet")
    write_run(work, "wide_one", [22.25, 23.75], lr=0.001, width=64, visdom="off", versions={"torch": "9"})
    write_summary(work, "plain", "set12", 29.714, ssim={"mean": 0.8512})
    write_summary(work, "wide_one", "set12", 29.5, ssim={"mean": 0.87649})
    write_summary(work, "wide_one", "rain", 31.0, psnr_input=None)
    done = compare(work, "wide_one", "plain", "--wide")
    assert done.err == ""
    lines = done.out.splitlines()
    assert lines[0].replace("-", "").split() == ["validation", "rain", "set12"]
    titles = "PSNR gain SSIM images"
    assert lines[1].split() == f"run model steps PSNR at step {titles} {titles}".split()
    wide = "wide_one resunet 20 23.75 20 31.00 - - 12 29.50 +9.38 0.8765* 12"
    assert row(done.out, "wide_one") == wide.split()
    other = "plain unet 40 25.50* 20 - - - - 29.71* +9.59* 0.8512 12"
    assert row(done.out, "plain") == other.split()
    ends = [[i for i in range(len(line)) if line[i] == "." and line[i - 1].isdigit()] for line in lines[2:4]]
    assert set(ends[1]) < set(ends[0])  # decimal points stand below each other
    assert all(line == line.rstrip() for line in lines)
    assert row(done.out, "option") == ["option", "wide_one", "plain"]
    first = next(i for i, line in enumerate(lines) if line.startswith("option"))
    options = [line.split() for line in lines[first + 1 : lines.index("", first)]]
    assert options == [["model", "resunet", "unet"], ["lr", "0.001", "0.0002"], ["width", "64", "-"]]
    assert lines[-1] == "curve results/compare.png" and (work.folder / "results/compare.png").is_file()
    assert "not comparable" not in done.out
    assert sorted(path.name for path in work.folder.iterdir()) == ["checkpoints", "results"]


def test_equal_figures_share_the_star(work: Workplace) -> None:
    for name, psnr in (("a", 30.001), ("b", 30.004), ("c", 29.0)):
        write_run(work, name)
        write_summary(work, name, "set12", psnr)
    out = compare(work, "a", "b", "c").out
    assert [row(out, name)[5] for name in "abc"] == ["30.00*", "30.00*", "29.00"]
    assert "the runs have the same options" in out


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({"protocol": "rgb"}, "protocol text (a, c), rgb (b)"),
        ({"degrade": "noise:25"}, "degrade none (a, c), noise:25 (b)"),
        ({"images": 8}, "images 12 (a, c), 8 (b)"),
        ({"split": "val"}, "split test (a, c), val (b)"),
        ({"psnr": {"mean": 40.0, "identical": 2}}, "identical images 0 (a, c), 2 (b)"),
        ({"protocol": "y", "scale": 4}, "protocol text (a, c), y (b); scale 1 (a, c), 4 (b)"),
    ],
)
def test_other_conditions_are_said_and_get_no_star(
    work: Workplace, condition: dict[str, Any], words: str
) -> None:
    for name in "abc":
        write_run(work, name)
        write_summary(work, name, "set12", 30.0, **(condition if name == "b" else {}))
        write_summary(work, name, "alike", 30.0 + (name == "c"))
    out = compare(work, "a", "b", "c", "--wide").out
    (said,) = [line for line in out.splitlines() if "not comparable" in line]
    assert said == f"set12: measured differently, not comparable, no star: {words}"
    assert ["*" in "".join(row(out, name)[9:]) for name in "abc"] == [False] * 3  # set12, after `alike`
    assert [row(out, name)[5] for name in "abc"] == ["30.00", "30.00", "31.00*"]


def test_validation_on_other_images_gets_no_star(work: Workplace) -> None:
    write_run(work, "a", [25.0], psnr_input=20.0)
    write_run(work, "b", [26.0], psnr_input=18.0)
    out = compare(work, "a", "b").out
    assert "validation: not comparable, no star: input 20.00 dB (a), 18.00 dB (b)" in out.splitlines()
    assert (row(out, "a")[3], row(out, "b")[3]) == ("25.00", "26.00")


def test_two_results_on_one_data_set_keep_their_folders(work: Workplace) -> None:
    write_run(work, "a")
    write_summary(work, "a", "set12", 30.0)
    write_summary(work, "a", "set12", 26.0, folder="set12-50", degrade="noise:50")
    out = compare(work, "a", "--wide").out
    assert [word for word in out.splitlines()[0].split() if "-" * 5 not in word][-2:] == ["set12", "set12-50"]
    assert [cell for cell in row(out, "a") if cell in ("30.00", "26.00")] == ["30.00", "26.00"]


def test_curves_are_drawn(work: Workplace) -> None:
    write_run(work, "low", [21 + i / 6 for i in range(10)])
    write_run(work, "high", [27 + i / 6 for i in range(10)])
    compare(work, "low", "high", "--curve", "both.png")
    blue, orange, gray = (mask[:, :900] for mask in drawn(work.folder / "both.png", BLUE, ORANGE, GRAY))
    assert blue.sum() > 300 and orange.sum() > 300  # left of the legend
    blue_y, orange_y = (np.nonzero(mask)[0] for mask in (blue, orange))
    assert orange_y.max() < blue_y.min()  # higher PSNR stands higher
    dashes = int(gray.sum(axis=1).argmax())
    assert gray[dashes].sum() > 300 and dashes > blue_y.max()


def test_a_single_point_is_a_mark_beside_the_training_and_different_inputs_are_no_line(
    work: Workplace,
) -> None:
    write_run(work, "long", [21 + i / 6 for i in range(10)], psnr_input=20.0)
    write_run(work, "_short", [26], psnr_input=15.0)
    write_run(work, "untrained")
    compare(work, "long", "_short", "untrained", "--curve", "one.png")
    orange, gray = drawn(work.folder / "one.png", ORANGE, GRAY)
    rows, columns = np.nonzero(orange[:, :900])
    blob = orange[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = blob.shape
    assert 4 <= height <= 12 and abs(height - width) <= 1 and blob.mean() > 0.6  # a disc less its soft rim
    assert orange[:, 900:].sum() > 30  # its line of the legend
    assert gray.sum(axis=1).max() < 50
    write_run(work, "rare", [21, 22], psnr_input=20.0)
    compare(work, "rare", "--curve", "rare.png")
    assert blue_lines(work.folder / "rare.png") == 2  # training at 24 dB, validations from 21 to 22
    compare(work, "long", "--curve", "long.png")
    assert blue_lines(work.folder / "long.png") == 1


def blue_lines(path: Path) -> int:
    """How many bluish curves lie above each other in the middle of a picture."""
    with Image.open(path) as picture:
        middle = np.asarray(picture.convert("RGB"), int)[:, 300:700]
    rows = np.nonzero((middle[..., 2] - middle[..., 0] > 40).any(axis=1))[0]
    return 1 + int((np.diff(rows) > 50).sum())


def test_the_table_fits_the_terminal_unless_it_is_to_be_wide(work: Workplace) -> None:
    for name in ("first_run", "second_run"):
        write_run(work, name, [25.0], dataroot=f"/somewhere/far/away/in/a/long/folder/of/{name}/" + "x" * 40)
        for dataset in ("rain100L", "set12", "sots-indoor", "bsd"):
            write_summary(work, name, dataset, 30.0, ssim={"mean": 0.9})
    done = compare(work, "first_run", "second_run")
    assert max(map(len, done.out.splitlines())) <= 100
    heads = [line.split() for line in done.out.splitlines() if "SSIM" in line]
    assert [cells[0] for cells in heads] == ["run"] * len(heads) and len(heads) > 1  # each names its rows
    assert sum(cells.count("SSIM") for cells in heads) == 4  # nothing is left out
    wide = compare(work, "first_run", "second_run", "--wide").out.splitlines()
    assert sum("SSIM" in line for line in wide) == 1 and max(map(len, wide)) > 100


def test_figures_of_other_weights_get_a_note_and_no_star(work: Workplace) -> None:
    for name in "abc":
        write_run(work, name)
        write_summary(work, name, "set12", 30.0 + (name == "b"))
        write_summary(work, name, "rain", 30.0 + (name == "b"))
    assert "31.00*" in compare(work, "a", "b", "c").out
    later = time.time() + 60
    os.utime(work.file("a", "best_net.pth"), (later, later))
    work.file("b", "best_net.pth").unlink()
    out = compare(work, "a", "b", "c").out
    assert "*" not in out and "31.00" in out
    assert "set12: the weights changed after the test: test again (a)" in out.splitlines()
    assert "rain: the tested weights are gone (b)" in out.splitlines()


def test_what_test_py_said_beside_its_figures_is_a_note(work: Workplace) -> None:
    for name in "ab":
        write_run(work, name)
        write_summary(work, name, "set12", 30.0, caveats=["these images are what the network was trained on"])
    out = compare(work, "a", "b").out
    assert "set12: these images are what the network was trained on (a, b)" in out.splitlines()
    assert "set12: text; none; split test (a, b)" in out.splitlines()  # protocol, data, split


def test_a_reader_that_leaves_is_no_error(work: Workplace) -> None:
    for i in range(40):
        write_run(work, f"run{i}", [25.0], lr=i)
    command = f"{sys.executable} -m utils.compare checkpoints/* --wide"
    command = command.replace("checkpoints/*", " ".join(f"run{i}" for i in range(40)))
    done = work.process("bash", "-c", f"{command} | true", PYTHONPATH=str(ROOT)).wait(0)
    assert done.err == ""


def test_names_in_any_script_and_more_runs_than_colors(work: Workplace) -> None:
    names = ["雨", *(f"run{i}" for i in range(11))]
    for name in names:
        write_run(work, name, [21.0, 22.0])
    assert compare(work, *names).err == "" and (work.folder / "results/compare.png").is_file()


def test_without_validation_there_is_no_curve(work: Workplace) -> None:
    """A log that is missing, torn, binary or of other things counts as far as it can be read."""
    logs = {"b": b'{"step": 5, "val_ps', "c": b"\xff\xfe", "d": b'3\n{"loss": 1}\n', "e": b"[" * 99999}
    logs["f"] = b'{"step": 5, "loss": 0.5}\n{"step": 6, "val_psnr": NaN, "val_psnr_input": 1e999}\n{"st'
    for name in "abcdef":
        write_run(work, name)
        log = work.file(name, "log.jsonl")
        log.unlink() if name == "a" else log.write_bytes(logs[name])
    out = compare(work, *"abcdef").out
    assert out.splitlines()[-1] == "no validation value in any log: no results/compare.png"
    assert [row(out, name)[2:] for name in "abcde"] == [["-", "-", "-"]] * 5
    assert row(out, "f")[2:] == ["6", "-", "-"]
    assert not list(work.folder.glob("*.png*"))


@pytest.mark.parametrize("content", [b"", b'{"psnr": ', b"[1, 2]", b"\xff\xfe\x00", b"[" * 99999])
def test_unreadable_summary_is_refused(work: Workplace, content: bytes) -> None:
    write_run(work, "a", [25.0])
    write_summary(work, "a", "set12", 30.0).write_bytes(content)
    done = compare(work, "a", code=2)
    assert done.err.startswith("error: cannot read results/a/set12/summary.json\n") and done.out == ""


def test_odd_values_in_a_summary_are_none(work: Workplace) -> None:
    write_run(work, "a", model="x\x1b[31m")
    odd = {"psnr_input": 7, "ssim": {"mean": "0.9"}, "images": True, "protocol": []}
    write_summary(work, "a", "se\tt", None, **odd)
    out = compare(work, "a").out
    assert row(out, "a") == ["a", "x?[31m", "-", "-", "-", "-", "-", "-", "-"]
    assert "se?t" in out.splitlines()[0] and "\x1b" not in out


def test_what_cannot_be_compared_is_refused(work: Workplace) -> None:
    write_run(work, "known", [25.0])
    assert compare(work, "known", "unknown", code=2).refused("no run 'unknown'", "checkpoints/ holds known")
    for words, flags in {
        "bad run name": ["../known"],
        "RUN": [],
        "[--curve a.jpg]": ["known", "--curve", "a.jpg"],
        "[--curve no/a.png]": ["known", "--curve", "no/a.png"],
    }.items():
        assert compare(work, *flags, code=2).refused(words)
    work.file("known", "options.json").write_text("{")
    assert compare(work, "known", code=2).refused("cannot read checkpoints/known/options.json")


def test_results_elsewhere(work: Workplace) -> None:
    write_run(work, "a")
    write_summary(work, "a", "set12", 30.0)
    (work.folder / "results").rename(work.folder / "other")
    assert "set12" not in compare(work, "a").out
    assert row(compare(work, "a", "--results_dir", "other").out, "a")[5:7] == ["30.00", "+9.88"]


def test_import_is_light() -> None:
    probe = "import sys, utils.compare; print({'torch', 'matplotlib'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", probe], cwd=ROOT, text=True).strip() == "set()"
