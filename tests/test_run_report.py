"""What a run leaves to read: report.md and curve.png, and the lines that name them."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.builders import FAST, TINY, pixels
from tests.cli import InProcess, records
from utils.run.run import Run
from utils.vis import training_log
from utils.vis.curves import COLORS, Line, draw_curves, ticks

RUN = (*TINY, *FAST, "--gpu_ids", "-1", "--n_epochs", "3")


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    lines = text.split(heading)[1].strip().splitlines()
    rows = lines[2 : lines.index("") if "" in lines else None]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_a_run_ends_with_its_report_and_curve(cli: InProcess) -> None:
    done = cli.train(*RUN)
    text = (done.run / "report.md").read_text()
    values, inputs = records(done.run, "val_psnr"), records(done.run, "val_psnr_input")
    rows = table(text, "## Validation")
    assert [row[:3] for row in rows] == [
        [f"{3 * (i + 1)}", f"{value:.2f}", f"{given:.2f}"]
        for i, (value, given) in enumerate(zip(values, inputs, strict=True))
    ]
    worst = table(text, "## The worst validation images")
    numbers = [float(row[1]) for row in worst]
    assert numbers == sorted(numbers) and np.mean(numbers) == pytest.approx(values[-1], abs=0.01)
    facts = dict(row[:2] for row in table(text, " --name run\n"))
    assert facts["result"].startswith(f"val PSNR {max(values):.2f} dB")
    assert "demo (48 x 48 pixels" in facts["data"] and facts["network"].startswith("resunet")
    assert {"machine", "time", "torch"} <= facts.keys()
    assert "    python train.py --dataroot demo:6:48" in text
    for picture in ("curve.png", "val_grid.png"):
        assert f"]({picture})" in text and (done.run / picture).is_file()
    last = done.err.strip().splitlines()[-2:]
    assert last[0] == "report  checkpoints/run/report.md, curve checkpoints/run/curve.png"
    assert last[1] == "next    python test.py --name run"


def test_a_stopped_run_leaves_them_and_a_dry_run_nothing(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.train(*RUN, "--dry_run")
    assert not Path("checkpoints/run").exists()

    def full(*given: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_log, "write_report", full)
    done = cli.train(*RUN)  # ends well
    assert "report  none: [Errno 28] No space left on device" in done.err
    assert not (done.run / "report.md").exists()
    assert Run(done.run).states()


@pytest.mark.parametrize("values", [[20.0, 22.0, 24.0], [24.0, 22.0, 20.0]])
def test_a_curve_runs_from_its_first_to_its_last_point(tmp_path: Path, values: list[float]) -> None:
    path = tmp_path / "curve.png"
    points = [(10.0 * i, value) for i, value in enumerate(values)]
    assert draw_curves(path, "title", "step", "PSNR (dB)", [Line("a", points, COLORS[0], width=4)])
    rows, columns = np.nonzero((pixels(path)[:, :950] == COLORS[0]).all(axis=2))
    first, last = rows[columns.argmin()], rows[columns.argmax()]
    assert (first > last) == (values[0] < values[-1]) and abs(int(first) - int(last)) > 300
    with Image.open(path) as image:
        assert image.size == (1080, 660)


def test_what_is_not_finite_is_left_out_and_nothing_is_drawn_without_a_point(tmp_path: Path) -> None:
    nothing = [Line("a", [(1, float("nan")), (2, float("inf"))], COLORS[0])]
    assert not draw_curves(tmp_path / "a.png", "", "", "", nothing)
    assert not (tmp_path / "a.png").exists()
    assert draw_curves(tmp_path / "a.png", "", "", "", [*nothing, Line("b", [(1, 20.0)], COLORS[1])])


@pytest.mark.parametrize(("low", "high"), [(20.001, 20.002), (0, 1e6), (-5, 5), (19.99, 40)])
def test_ticks_are_round_few_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 9 and low <= found[0] and found[-1] <= high
    steps = {round((b - a) / (high - low), 6) for a, b in itertools.pairwise(found)}
    assert len(steps) == 1
