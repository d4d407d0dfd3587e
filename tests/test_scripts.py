"""The two scripts as a user runs them: processes, their output, files and exit codes."""

import csv
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from data.pairs import Source
from data.splits import find_pairs
from tests.builders import FAST, ROOT, TINY, TINY_NET, pixels, write_set
from tests.cli import Workplace, options, status
from utils.eval.results import Results, read_csv


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Workplace]:
    """Each process is started from nothing, as by a user."""
    place = Workplace(tmp_path)
    yield place
    place.close()


@pytest.mark.parametrize("script", ["train.py", "test.py"])
def test_help_imports_no_torch(work: Workplace, script: str) -> None:
    text = work.call(script, "--help", name="").out
    assert "--gpu_ids" in text and max(map(len, text.splitlines())) <= 80
    probe = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))"
    assert work.call(script, "--help", name="", before=probe).out.splitlines()[-1] == "False"


@pytest.mark.timing
@pytest.mark.parametrize("script", ["train.py", "test.py"])
def test_help_takes_less_than_300_ms(script: str) -> None:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, str(ROOT / script), "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.3


def test_an_error_of_a_process_is_short(work: Workplace) -> None:
    assert work.train("--nepochs", "3", code=2).refused("did you mean --n_epochs?")
    assert work.train("--dataroot", "nowhere", code=2).refused("--dataroot nowhere", "no such folder")


def test_train_then_test_on_demo(work: Workplace) -> None:
    """The whole main job: the figures in the CSV are scikit-image's of the files on the disk."""
    err = work.train(*TINY, *FAST, "--n_epochs", "20", "--lr", "2e-3", name="").err
    run = work.run("demo_resunet")
    assert status(run).items() >= {"state": "done", "code": 0, "step": 60}.items()
    assert options(run).items() >= {"width": 8, "norm": "none", "input_nc": 3}.items()
    assert options(run)["versions"]["torch"] and options(run)["data"]
    assert "\r" not in err and "\x1b" not in err  # no bar without a terminal
    assert " dataroot=demo:6:48" in err and " lr=0.0002" not in err
    command = next(line for line in err.splitlines() if line.startswith("next"))
    assert command.split()[1:3] == ["python", "test.py"]
    done = work.test(*command.split()[3:])
    folder = work.folder / "results" / "demo_resunet" / "demo"
    assert done.results == folder
    assert done.comment.startswith("# per image, all channels, clamped, rounded to the bit depth")
    listing = find_pairs(Source("demo:6:48"), "test")
    assert [row["name"] for row in done.rows] == [pair.name for pair in listing.pairs]
    for row, pair in zip(done.rows, listing.pairs, strict=True):
        hazy, clear = (np.asarray(image) for image in listing.read(pair))
        output = done.output(row["name"])
        assert output.shape == clear.shape
        assert float(row["psnr"]) == pytest.approx(peak_signal_noise_ratio(clear, output), abs=1e-6)
        assert float(row["psnr_input"]) == pytest.approx(peak_signal_noise_ratio(clear, hazy), abs=1e-6)
    psnr, of_input = done.numbers("psnr").mean(), done.numbers("psnr_input").mean()
    assert f"PSNR {psnr:.2f} dB (input {of_input:.2f}, {psnr - of_input:+.2f})" in done.out
    assert pixels(folder / "grid.png").shape[1] == 728


def test_clean_images_with_degradation_and_no_leak(work: Workplace) -> None:
    write_set(work.folder / "clean", "clean", 6, splits=[""], channels=1)
    write_set(work.folder / "other", "clean", 3, splits=[""], channels=1, seed=20)
    degrade = ("--degrade", "noise:25")
    work.train("--dataroot", "clean", *degrade, *TINY_NET, *FAST, "--n_epochs", "2")
    assert work.test(*degrade).summary["seen"] == "validated on"
    assert work.test(*degrade, "--dataroot", "clean/0.png", code=2).refused("trained on")
    first, second = (work.test("--dataroot", "other", *degrade).out for _ in range(2))
    assert first == second and "(input 20." in first


def test_aligned_val_split(work: Workplace) -> None:
    names = [f"{i}.jpg" for i in range(6)]
    write_set(work.folder / "facades", "aligned", names=names, splits=("train", "val"))
    flags = ("--dataroot", "facades", "--direction", "BtoA", "--val_share", "0.2")
    assert "held out of train" in work.train(*flags, *TINY_NET, *FAST, "--n_epochs", "1").err
    for flags in ((), ("--split", "val")):  # the folder, which the run did not use
        done = work.test(*flags)
        assert "6 images" in done.out and done.summary["seen"] == ""


def test_csv_is_plain_csv_below_its_comment(tmp_path: Path) -> None:
    results = Results()
    results.add('#a, "b".png', {"psnr": float("inf"), "psnr_input": 20.0, "ssim": float("nan")}, 0.1)
    results.write(tmp_path, {"protocol": "how", "degrade": None, "weights": "net.pth"})
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "# how; input as given; net.pth"
    assert list(csv.reader(lines[1:]))[1] == ['#a, "b".png', "inf", "20.000000", "inf", "", "0.100000"]
    assert read_csv(tmp_path / "metrics.csv")[0]["name"] == '#a, "b".png'
