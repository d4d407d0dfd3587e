"""The two scripts as a user runs them: subprocesses, their output, files and exit codes."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from data.pairs import Source
from data.splits import find_pairs
from tests.conftest import FAST, ROOT, TINY, Workplace, pixels
from tests.test_train import write_images
from utils.eval.results import read_csv


@pytest.mark.parametrize("script", ["train.py", "test.py"])
def test_help_is_quick_and_imports_no_torch(script: str) -> None:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(ROOT / script), "--help"], capture_output=True, text=True, check=True
        )
        seconds.append(time.perf_counter() - started)
        assert "--gpu_ids" in done.stdout and max(map(len, done.stdout.splitlines())) <= 80
    assert min(seconds) < 0.3
    probe = "import sys; from utils.options.flags import train_parser; train_parser();"
    probe += "print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", probe], cwd=ROOT, text=True).strip() == "False"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--nepochs", "3"), ("--nepochs", "did you mean --n_epochs?")),
        (("--lr", "nan"), ("--lr", "nan")),
        (("--lr", "0"), ("--lr", "above 0")),
        (("--batch", "4"), ("--batch", "did you mean --batch")),
        (("--model", "resent"), ("--model", "resnet")),
        (("--gpu_ids", "a"), ("--gpu_ids", "0,1")),
        (("--stem", "2"), ("--stem", "resnet")),
        (("--dataroot", "nowhere"), ("--dataroot nowhere", "no such folder")),
        (("--dataroot", "demo:0:9"), ("--dataroot demo:0:9", "demo:SCENES:SIZE")),
        (("--degrade", "nose:25"), ("nose", "noise")),
        (("--degrade", "noise:x"), ("noise:x",)),
        (("--crop_size", "999"), ("--crop_size 999", "larger")),
        (("--batchSize", "99"), ("--batchSize 99", "--repeat")),
        (("--freeze", "zzz"), ("--freeze zzz", "no parameter")),
        (("--freeze", "("), ("--freeze", "regular expression")),
        (("--weights", "none.pth"), ("none.pth",)),
        (("--epoch", "3", "--n_epochs", "3"), ("no run",)),
        (("--resume",), ("no run",)),
        (("--name", "../x"), ("--name ../x",)),
        (("--layout", "aligned"), ("demo",)),
    ],
)
def test_wrong_options_are_refused(work: Workplace, flags: tuple[str, ...], words: tuple[str, ...]) -> None:
    base = () if "--dataroot" in flags else ("--dataroot", "demo:6:48")
    err = work.train(*base, *flags, code=2).stderr
    assert all(word in err for word in words), err
    errors = err[err.index("error:") :]
    assert "Traceback" not in err and len(errors.strip().splitlines()) <= 6
    assert not list(work.folder.glob("checkpoints/*/*.pth"))


def test_train_then_test_on_demo(work: Workplace) -> None:
    """The whole main job: the figures in the CSV are scikit-image's of the files on the disk."""
    err = work.train(*TINY, *FAST, "--n_epochs", "20", "--lr", "2e-3").stderr
    assert "\r" not in err and "\x1b" not in err  # no bar without a terminal
    assert "*dataroot=demo:6:48" in err and " lr=0.0002" not in err
    command = next(line for line in err.splitlines() if line.startswith("next"))
    assert command.split()[1:3] == ["python", "test.py"]
    out = work.test(*command.split()[3:], "--visdom", "off").stdout
    folder = work.folder / "results" / "demo_resunet" / "demo"
    text = (folder / "metrics.csv").read_text()
    assert text.startswith("# per image, all channels, clamped, rounded to the bit depth")
    rows = read_csv(folder / "metrics.csv")
    listing = find_pairs(Source("demo:6:48"), "test")
    assert [row["name"] for row in rows] == [pair.name for pair in listing.pairs]
    for row, pair in zip(rows, listing.pairs, strict=True):
        hazy, clear = (np.asarray(image) for image in listing.read(pair))
        output = pixels(folder / "outputs" / row["name"])
        assert output.shape == clear.shape
        assert float(row["psnr"]) == pytest.approx(peak_signal_noise_ratio(clear, output), abs=1e-6)
        assert float(row["psnr_input"]) == pytest.approx(peak_signal_noise_ratio(clear, hazy), abs=1e-6)
    means = [np.mean([float(row[key]) for row in rows]) for key in ("psnr", "psnr_input")]
    assert f"PSNR {means[0]:.2f} dB (input {means[1]:.2f}, {means[0] - means[1]:+.2f})" in out
    assert pixels(folder / "grid.png").shape[1] == 728


def test_clean_images_with_degradation_and_no_leak(work: Workplace) -> None:
    write_images(work.folder / "clean", [f"{i}.png" for i in range(6)], channels=1)
    write_images(work.folder / "other", [f"{i}.png" for i in range(3)], seed=2, channels=1)
    degrade = ("--degrade", "noise:25")
    work.train("--dataroot", "clean", *degrade, *TINY[2:], *FAST, "--n_epochs", "2", "--name", "dn")
    leak = work.test("--name", "dn", *degrade, "--visdom", "off", code=2).stderr
    assert "trained on" in leak
    first = work.test("--name", "dn", "--dataroot", "other", *degrade, "--visdom", "off").stdout
    assert first == work.test("--name", "dn", "--dataroot", "other", *degrade, "--visdom", "off").stdout
    assert "(input 20." in first


def test_aligned_val_split(work: Workplace) -> None:
    for split in ("train", "val"):
        write_images(work.folder / "facades" / split, [f"{i}.jpg" for i in range(6)], width=80)
    flags = ("--dataroot", "facades", "--direction", "BtoA", "--val_from", "train")
    err = work.train(*flags, *TINY[2:], *FAST, "--n_epochs", "1", "--name", "f").stderr
    assert "held out of train" in err
    out = work.test("--name", "f", "--split", "val", "--visdom", "off").stdout
    assert "6 images" in out
    missing = work.test("--name", "f", "--visdom", "off", code=2).stderr
    assert "no split 'test'" in missing and "train, val" in missing


def test_status_and_options_are_json_for_scripts(work: Workplace) -> None:
    work.train(*TINY, *FAST, "--n_epochs", "1", "--name", "run")
    status = json.loads(work.file("run", "status.json").read_text())
    assert (status["state"], status["code"], status["step"]) == ("done", 0, 3)
    options = json.loads(work.file("run", "options.json").read_text())
    assert options["width"] == 8 and options["norm"] == "none" and options["input_nc"] == 3
    assert options["versions"]["torch"] and options["data"]


def test_csv_is_plain_csv_below_its_comment(tmp_path: Path) -> None:
    from utils.eval.results import Results, read_csv

    results = Results(tmp_path, "my set")
    results.add('#a, "b".png', {"psnr": float("inf"), "psnr_input": 20.0, "ssim": float("nan")}, 0.1)
    results.write({"protocol": "how", "degrade": None, "weights": "net.pth"})
    lines = results.csv.read_text().splitlines()
    assert lines[0] == "# how; input as given; net.pth"
    assert list(csv.reader(lines[1:]))[1] == ['#a, "b".png', "inf", "20.000000", "inf", "", "0.100000"]
    assert read_csv(results.csv)[0]["name"] == '#a, "b".png'
