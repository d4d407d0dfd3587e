"""`python -m utils.compare` as a user runs it, on run folders written by hand."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import builders
from tests.builders import ROOT
from tests.cli import Ended, Workplace

BLUE, ORANGE, GRAY = (31, 119, 180), (255, 127, 14), (102, 102, 102)  # matplotlib's C0 and C1; the input
OPTIONS = {"model": "resunet", "dataroot": "demo", "lr": 0.0002, "milestones": [20.0, 30.0]}
MATPLOTLIB = pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is absent")


def compare(work: Workplace, *flags: str, code: int = 0, first: str = "") -> Ended:
    """The command in the workplace, modules in the folder `first` before all others."""
    path = os.pathsep.join([first] * bool(first) + [str(ROOT)])
    command = (sys.executable, "-W", "error", "-m", "utils.compare", *flags)
    done = work.process(*command, PYTHONPATH=path, PYTHONIOENCODING="utf-8").wait(code)
    assert "Traceback" not in done.err
    return done


def write_run(
    work: Workplace, name: str, values: Sequence[float | None] = (), psnr_input: float = 20.0, **options: Any
) -> None:
    """A run that validated every 10 steps."""
    records = [
        {"step": 10 * epoch, "epoch": float(epoch), **measured}
        for epoch, value in enumerate(values, 1)
        for measured in ({"loss": 0.1, "train_psnr": 99.0}, {"val_psnr": value, "val_psnr_input": psnr_input})
    ]
    builders.write_run(work.run(name), {**OPTIONS, **options}, records)


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


def no_matplotlib(work: Workplace) -> str:
    stub = work.folder / "stub" / "matplotlib" / "__init__.py"
    stub.parent.mkdir(parents=True)
    stub.write_text("raise ImportError('no matplotlib here')\n")
    return str(stub.parent.parent)


def drawn(path: Path, *colors: tuple[int, int, int]) -> list[np.ndarray]:
    """Where a PNG has exactly each of these colors: `(H, W)`, bool."""
    with Image.open(path) as image:
        assert image.format == "PNG" and image.size == (1080, 660)
        picture = np.asarray(image.convert("RGB"))
    return [np.all(picture == np.uint8(color), axis=-1) for color in colors]


@MATPLOTLIB
def test_figures_stars_and_options(work: Workplace) -> None:
    write_run(work, "plain", [21, 25.5, None, 24], model="unet")
    write_run(work, "wide_one", [22.25, 23.75], lr=0.001, width=64, visdom="off", versions={"torch": "9"})
    write_summary(work, "plain", "set12", 29.714, ssim={"mean": 0.8512})
    write_summary(work, "wide_one", "set12", 29.5, ssim={"mean": 0.87649})
    write_summary(work, "wide_one", "rain", 31.0, psnr_input=None)
    done = compare(work, "wide_one", "plain")
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
    assert lines[-1] == "curve compare.png" and (work.folder / "compare.png").is_file()
    assert "not comparable" not in done.out
    assert sorted(path.name for path in work.folder.iterdir()) == ["checkpoints", "compare.png", "results"]


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
    out = compare(work, "a", "b", "c").out
    (said,) = [line for line in out.splitlines() if "not comparable" in line]
    assert said == f"set12: measured differently, not comparable, no star: {words}"
    assert ["*" in "".join(row(out, name)[9:]) for name in "abc"] == [False] * 3  # set12, after `alike`
    assert [row(out, name)[5] for name in "abc"] == ["30.00", "30.00", "31.00*"]


def test_validation_on_other_images_gets_no_star(work: Workplace) -> None:
    write_run(work, "a", [25.0], psnr_input=20.0)
    write_run(work, "b", [26.0], psnr_input=18.0)
    out = compare(work, "a", "b", first=no_matplotlib(work)).out
    assert "validation: not comparable, no star: input 20.00 dB (a), 18.00 dB (b)" in out.splitlines()
    assert (row(out, "a")[3], row(out, "b")[3]) == ("25.00", "26.00")


def test_two_results_on_one_data_set_keep_their_folders(work: Workplace) -> None:
    write_run(work, "a")
    write_summary(work, "a", "set12", 30.0)
    write_summary(work, "a", "set12", 26.0, folder="set12-50", degrade="noise:50")
    out = compare(work, "a").out
    assert [word for word in out.splitlines()[0].split() if "-" * 5 not in word][-2:] == ["set12", "set12-50"]
    assert [cell for cell in row(out, "a") if cell in ("30.00", "26.00")] == ["30.00", "26.00"]


@MATPLOTLIB
def test_curves_are_drawn(work: Workplace) -> None:
    write_run(work, "low", [21, 22, 23])
    write_run(work, "high", [27, 28, 29])
    compare(work, "low", "high", "--curve", "both.png")
    blue, orange, gray = drawn(work.folder / "both.png", BLUE, ORANGE, GRAY)
    assert blue.sum() > 300 and orange.sum() > 300
    right = 900  # right of the legend's place at the upper left, where the lines end
    blue_y, orange_y = (np.nonzero(mask[:, right:])[0] for mask in (blue, orange))
    assert orange_y.max() < blue_y.min()  # higher PSNR stands higher
    dashes = int(gray.sum(axis=1).argmax())
    assert gray[dashes].sum() > 300 and dashes > blue_y.max()


@MATPLOTLIB
def test_a_single_point_is_a_marker_and_different_inputs_are_no_line(work: Workplace) -> None:
    write_run(work, "long", [21, 22, 23], psnr_input=20.0)
    write_run(work, "_short", [26], psnr_input=15.0)
    write_run(work, "untrained")
    compare(work, "long", "_short", "untrained")
    orange, gray = drawn(work.folder / "compare.png", ORANGE, GRAY)
    rows, columns = np.nonzero(orange[:, :500])
    blob = orange[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = blob.shape
    assert 4 <= height <= 12 and abs(height - width) <= 1 and blob.mean() > 0.6  # a disc less its soft rim
    assert orange[:, 500:].sum() > 30  # its line of the legend, though the name begins with _
    assert gray.sum(axis=1).max() < 50


@MATPLOTLIB
def test_names_in_any_script_and_more_runs_than_colors(work: Workplace) -> None:
    names = ["雨", *(f"run{i}" for i in range(11))]
    for name in names:
        write_run(work, name, [21.0, 22.0])
    assert compare(work, *names).err == "" and (work.folder / "compare.png").is_file()


def test_without_matplotlib_the_table_stands(work: Workplace) -> None:
    write_run(work, "a", [25.0, 26.0])
    done = compare(work, "a", first=no_matplotlib(work))
    assert row(done.out, "a") == ["a", "resunet", "20", "26.00", "20"]
    assert done.lines[-1] == 'no compare.png: matplotlib is not installed: pip install -e ".[plot]"'
    assert not list(work.folder.glob("*.png*")) and "option" not in done.out


def test_without_validation_there_is_no_curve(work: Workplace) -> None:
    """A log that is missing, torn, binary or of other things counts as far as it can be read."""
    logs = {"b": b'{"step": 5, "val_ps', "c": b"\xff\xfe", "d": b'3\n{"loss": 1}\n', "e": b"[" * 99999}
    logs["f"] = b'{"step": 5, "loss": 0.5}\n{"step": 6, "val_psnr": NaN, "val_psnr_input": 1e999}\n{"st'
    for name in "abcdef":
        write_run(work, name)
        log = work.file(name, "log.jsonl")
        log.unlink() if name == "a" else log.write_bytes(logs[name])
    out = compare(work, *"abcdef").out
    assert out.splitlines()[-1] == "no validation value in any log: no compare.png"
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
