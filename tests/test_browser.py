"""The page as a user sees it: scripts on a real visdom server, read and watched in a real Chromium."""

import itertools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.browser import FLAGS, chromium
from tests.builders import FAST, TINY
from tests.cli import Ended, Workplace, log, wait_until
from tests.visdom_server import Server, need_page_files, visdom_server
from utils.vis import visdom as visdom_plot
from utils.vis.visdom import VisdomPlot, Window

pytestmark = pytest.mark.browser

READ = """() => {
    const seen = (e) => e.getBoundingClientRect().width > 0 && e.getBoundingClientRect().height > 0;
    const words = (plot, query) => [...plot.querySelectorAll(query)].filter(seen).map((e) => e.textContent);
    const plots = [...document.querySelectorAll('.js-plotly-plot')].map((plot) => ({
        title: words(plot, '.gtitle').join(), xlabel: words(plot, '.xtitle').join(),
        ylabel: words(plot, '.ytitle').join(), range: plot.layout.yaxis.range,
        legend: words(plot, '.legendtext'),
        curves: Object.fromEntries(plot.data.map((t) => [t.name, [...t.x].map((x, i) => [x, t.y[i]])])),
        // plotly draws the traces in the order of their data
        marks: [...plot.querySelectorAll('.scatterlayer .trace')].map((t) =>
            [...t.querySelectorAll('.points path')].filter(seen).length),
        lines: [...plot.querySelectorAll('.scatterlayer .trace')].map((t) =>
            [...t.querySelectorAll('.lines path.js-line')].filter((l) => l.getTotalLength() > 0).length),
    }));
    const images = [...document.querySelectorAll('.react-grid-item img')].filter(seen).map((i) => ({
        title: i.closest('.window').querySelector('.bar .pull-right').textContent.trim(),
        loaded: i.complete && i.naturalWidth > 0, width: i.naturalWidth, height: i.naturalHeight,
    }));
    const panels = [...document.querySelectorAll('.react-grid-item .content-text')].filter(seen);
    const texts = panels.map((e) => [
        e.closest('.window').querySelector('.bar .pull-right').textContent.trim(), e.textContent]);
    const boxes = [...document.querySelectorAll('.react-grid-item .window')].map((e) => {
        const box = e.getBoundingClientRect(); return [box.left, box.top, box.right, box.bottom]; });
    return { plots: Object.fromEntries(plots.map((p) => [p.title + ' ' + p.xlabel, p])), images, boxes,
             texts: Object.fromEntries(texts) };
}"""


class Page:
    """A page of the server in a browser, and everything that went wrong on it."""

    def __init__(self, page: Any, server: Server):
        self.page, self.server = page, server
        self.troubles: list[str] = []
        page.on("pageerror", lambda error: self.note(f"page error: {error}"))
        page.on("requestfailed", self.note_failed)
        page.on("response", lambda answer: self.note(f"{answer.status}: {answer.url}", answer.status >= 400))
        page.on("console", lambda line: self.note(f"console: {line.text}", line.type == "error"))

    def note(self, text: str, trouble: bool = True) -> None:
        self.troubles += [text] if trouble else []

    def note_failed(self, request: Any) -> None:
        """Note a request without an answer, unless the browser itself gave it up to open another page."""
        self.note(f"failed: {request.url} {request.failure}", request.failure != "net::ERR_ABORTED")

    def open(self, env: str) -> None:
        # not until the network is idle: the page's websocket stays open
        self.page.goto(f"http://127.0.0.1:{self.server.port}/env/{env}", wait_until="domcontentloaded")

    def open_bare(self) -> None:
        """Open the server's bare address, and wait for the links to its runs."""
        self.page.goto(f"http://127.0.0.1:{self.server.port}", wait_until="domcontentloaded")
        self.page.wait_for_selector("a[href='/env/run']")

    def read(self) -> dict[str, Any]:
        found: dict[str, Any] = self.page.evaluate(READ)
        return found

    def shows(self, expected: dict[str, Any]) -> dict[str, Any]:
        """Wait for exactly these curves, loaded pictures and panes at their places; return what is seen."""
        curves: dict[str, Any] = {}
        for _ in range(400):
            curves = {title: plot["curves"] for title, plot in self.read()["plots"].items()}
            if curves == expected:
                break
            self.page.wait_for_timeout(50)
        assert curves == expected
        self.page.wait_for_timeout(700)
        wait_until(lambda: all(image["loaded"] for image in self.read()["images"]))
        return self.read()


@pytest.fixture
def server() -> Iterator[Server]:
    need_page_files()
    chromium()
    with visdom_server() as server:
        yield server


@contextmanager
def browsing(server: Server) -> Iterator[Page]:
    """A page in a fresh browser; at the end nothing must have gone wrong on it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            page = Page(browser.new_page(viewport={"width": 1400, "height": 1500}), server)
            yield page
            assert page.troubles == []
        finally:
            browser.close()


def test_the_page_shows_what_was_measured(server: Server, work: Workplace) -> None:
    seeing = ("--visdom", "auto", "--visdom_server", "http://127.0.0.1", "--visdom_port", str(server.port))
    work.train(*TINY, *FAST, *seeing, "--n_epochs", "3")
    tested = work.test(*seeing)
    with browsing(server) as page:
        page.open("run")
        expected = measured(tested)
        found = page.shows(expected)
        if path := os.environ.get("CLEARPAIR_SCREENSHOT"):
            page.page.screenshot(path=path, full_page=True)
        check_drawing(found["plots"], expected)
        check_axes(found["plots"])
        titles = {image["title"] for image in found["images"] if image["loaded"]}
        assert titles == {"input | output | target, step 9", "demo: input | output | target"}
        check_apart(found["boxes"])
        panel = found["texts"]["run"]
        assert "ended after 0:" in panel and "images/s" in panel and "val PSNR" in panel
        assert "checkpoints/run/report.md" in panel and "resunet" in panel

        # the page at the bare address leads to the run
        page.open_bare()
        page.page.click("a[href='/env/run']")
        page.page.wait_for_url("**/env/run")
        page.open("run")

        # the resumed run is shown without loading the page again
        work.train("--resume", "--n_epochs", "4", *seeing)
        longer = measured(tested)
        assert len(longer["loss step"]["train"]) == 12
        found = page.shows(longer)
        check_drawing(found["plots"], longer)
        assert "input | output | target, step 12" in {image["title"] for image in found["images"]}


def test_the_open_page_follows_what_happens_to_a_window(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New curves, infinite values, thinning, and a second script in the same window."""
    monkeypatch.setattr(visdom_plot, "PAUSE_S", 0.02)
    monkeypatch.setattr(visdom_plot, "MAX_PAUSE_S", 0.1)
    monkeypatch.setattr(visdom_plot, "MAX_POINTS", 20)
    windows = {"one": Window("title", "x", "y", {"markers": True})}
    with browsing(server) as page:
        for start in (0, 100):
            plot = VisdomPlot("live", windows, "http://127.0.0.1", server.port)
            plot.add("one", "a", start, 1.0)
            if start == 0:
                wait_until(lambda: server.curves("live") == {"one": {"a": [(0, 1)]}})
                page.open("live")
            page.shows({"title x": {"a": [[start, 1]]}})
            plot.add("one", "a", start + 1, math.inf)
            plot.add("one", "b", start, 2.0)
            page.shows({"title x": {"a": [[start, 1], [start + 1, None]], "b": [[start, 2]]}})
            for i in range(2, 21):
                plot.add("one", "a", start + i, i)
            thinned = [[start + i, i or 1] for i in range(0, 21, 2)]
            found = page.shows({"title x": {"a": thinned, "b": [[start, 2]]}})
            assert found["plots"]["title x"]["marks"] == [11, 1]
            assert plot.close()


def measured(tested: Ended) -> dict[str, Any]:
    """What the page must show, from the run's log and the test's table; by title and label of x."""

    def curve(x: str, y: str) -> list[Any]:
        return [[record[x], record[y]] for record in log(tested.run) if y in record]

    values = tested.numbers("psnr")
    return {
        "loss step": {"train": curve("step", "loss")},
        "learning rate step": {"lr": curve("step", "lr")},
        "PSNR of the run epoch": {
            "train": curve("epoch", "train_psnr"),
            "validation": curve("epoch", "val_psnr"),
            "input": curve("epoch", "val_psnr_input"),
        },
        "PSNR i": {
            "clear": [[i + 1, pytest.approx(value, abs=1e-6)] for i, value in enumerate(values)],
            "mean": [[0, pytest.approx(values.mean(), abs=1e-6)]],
        },
    }


def check_drawing(plots: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every curve has its line, or a mark a point, and a legend that can be read."""
    for title, curves in expected.items():
        plot = plots[title]
        assert plot["legend"] == list(curves)
        counts = [len(points) for points in curves.values()]
        if "PSNR" in title:
            assert plot["marks"] == [len(points) * (name != "train") for name, points in curves.items()]
        assert plot["lines"] == [int(count > 1) for count in counts]


def check_axes(plots: dict[str, Any]) -> None:
    assert plots["PSNR i"]["range"] == [0, 90]
    labels = {title: plot["ylabel"] for title, plot in plots.items()}
    assert labels == {
        "loss step": "loss",
        "learning rate step": "lr",
        "PSNR of the run epoch": "PSNR (dB)",
        "PSNR i": "PSNR",
    }


def check_apart(boxes: list[list[float]]) -> None:
    """No pane covers another."""
    assert len(boxes) == 7
    for one, two in itertools.combinations(boxes, 2):
        beside = one[2] <= two[0] or two[2] <= one[0] or one[3] <= two[1] or two[3] <= one[1]
        assert beside, (one, two)
