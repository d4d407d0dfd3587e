"""The progress bar: one for the whole run, within the columns of the terminal."""

import io
import math
import time

import pytest

from utils.vis.console import BAR, MIN_BAR, Bar, Progress

FIGURES = "1:23:45 left, loss 0.1234, PSNR 31.20, 123.4 images/s, lr 1.0e-03, wait 3%"


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_bar_keeps_its_room_and_drops_the_least_important(columns: int) -> None:
    bar = Bar(
        desc="epoch 12/40", total=50000, initial=12345, bar_format=BAR, ncols=columns, file=io.StringIO()
    )
    bar.figures = FIGURES
    text = str(bar)
    head, drawn, figures = text.split("|")
    assert len(text) <= columns and head == "epoch 12/40 12345/50000 " and len(drawn) >= MIN_BAR
    assert figures.strip() and FIGURES.startswith(figures.strip())
    assert ("PSNR" in figures, "wait" in figures) == (columns > 60, columns > 110)


def test_the_time_left_is_that_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress("epoch 1/2", 20, 100, quiet=True)  # a resumed run: 20 steps were taken before
    assert progress.left() == "?"
    for _ in range(40):
        now[0] += 0.5
        progress.step()
    now[0] += 10.0  # a validation counts
    assert progress.left() == "0:30"
    endless = Progress("epoch 1", 0, math.inf, quiet=True, until_end=lambda: 90.0)
    assert endless.left() == "1:30"
