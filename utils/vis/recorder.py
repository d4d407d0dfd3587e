"""Everything that test.py writes: outputs, figures, page, grid, plots; complete, or marked incomplete."""

import math
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from data.pairs import PairList
from utils.eval.evaluator import Prediction
from utils.eval.folder import CannotWrite, ResultsFolder, write_errors
from utils.eval.metrics import Protocol
from utils.eval.outputs import Outputs
from utils.eval.results import Results
from utils.eval.summary import facts_in_words, headline, in_groups
from utils.system.errors import UserError, printable
from utils.vis.console import Progress, Say
from utils.vis.grids import ROLES, comparison_grid, evenly_spaced, save_grid, side_by_side
from utils.vis.report import Report
from utils.vis.visdom import TEST, VisdomPlot, open_plot

GRID_ROWS = 8


class Live(NamedTuple):
    """Where live plots go: the flags --visdom, --visdom_server, --visdom_port."""

    mode: str
    server: str
    port: int


class Recorder:
    """Takes the predictions of a test one by one, and writes its results at the end.

    Args:
        cleanup: removes what was not finished, and closes the plots.
        folder: of the results.
        run: the name of the run.
        measured: whether the images have targets.
        output: of --output.
        protocol: of the figures.

    Raises:
        UserError: as `Outputs` does.
    """

    def __init__(
        self,
        cleanup: ExitStack,
        folder: ResultsFolder,
        run: str,
        pairs: PairList,
        measured: bool,
        output: str | None,
        protocol: Protocol,
        live: Live,
        say: Say,
    ):
        cleanup.callback(folder.close)
        self.folder, self.run, self.pairs, self.measured = folder, run, pairs, measured
        self.protocol = protocol
        self.outputs = Outputs(folder.part / "outputs", pairs, measured, output, protocol.max_value)
        count = len(pairs.pairs)
        self.results, self.report = Results(count), Report(count)
        self.shown, self.rows = evenly_spaced(count, GRID_ROWS), list[Tensor]()
        self.tiled: dict[int, list[str]] = {}  # names of the images by the side of their tiles
        self.window = f"test_{folder.name}"
        windows = {self.window: TEST}
        self.plot: VisdomPlot | None = (
            open_plot(live.mode, run, windows, live.server, live.port, say) if measured else None
        )
        if self.plot:
            cleanup.callback(self.plot.close)
        self.progress = Progress(folder.name, 0, count)

    def add(self, image: Prediction, more: Mapping[str, float]) -> tuple[str, np.ndarray]:
        """Keep small pictures of a prediction; returns the name and the output, for `save`."""
        self.scored = image.name, {**image.scores, **more}, image.seconds
        if image.tile is not None and image.tile < max(image.input.shape[:2]):
            self.tiled.setdefault(image.tile, []).append(image.name)
        link = self.outputs.link(image.name, image.output.dtype, self.folder.shown / "index.html")
        rank = image.scores.get("psnr", math.inf)
        self.report.add(image.name, image.input, image.output, image.target, rank, link)
        if len(self.results.rows) in self.shown:
            self.rows.append(side_by_side(image.input, image.output, image.target))
        return image.name, image.output

    def save(self, name: str, output: np.ndarray) -> None:
        """Write the output of the image added last, then count its figures; raises as `Outputs.save` does."""
        self.outputs.save(name, output)
        self.results.add(*self.scored)
        if self.plot and "psnr" in self.scored[1]:
            self.plot.add(self.window, "clear", len(self.results.rows), self.scored[1]["psnr"])
        mean = self.results.mean("psnr")
        self.progress.step()
        self.progress.show("" if math.isnan(mean) else f"PSNR {mean:.2f}")

    def finish(self, facts: dict[str, Any], complete: bool, broken: UserError | None) -> None:
        """Write the results, move their folder to its place, and print the figures.

        Args:
            broken: what ended the test early; where a disk is full, at least the figures are written.

        Raises:
            CannotWrite: a file cannot be written; the figures are printed before.
        """
        self.progress.close()
        facts |= {
            "notes": in_groups(facts["notes"], self.tiled),
            "complete": complete,
            "listed": len(self.pairs.pairs),
            "source": self.folder.source,
            "outputs": self.outputs.listed(),
        }
        lost = self._show(facts)
        if lost and complete:
            facts["complete"], broken = False, lost
        try:
            with write_errors(self.folder.part):
                self.folder.free_reserve()
                self.results.write(self.folder.part, facts)
                place = self.folder.publish(facts["complete"])
            self._print_places(place)
        except CannotWrite as error:
            broken = broken or error
            print(printable(f"results are not kept: {error.what}: {error.why}"))
        incomplete = self.results.incomplete(facts["complete"])
        if self.measured or self.results.sets:
            print("\n".join(headline(self.results, self.protocol, incomplete, facts["caveats"])))
        else:
            counted = f"{incomplete}; " if incomplete else ""
            print(printable(f"{counted}no targets in {self.pairs.where}: outputs only, no figures"))
        if broken:
            raise broken

    def _show(self, facts: dict[str, Any]) -> CannotWrite | None:
        """Write page and grid, while space for the figures is reserved; return why they are missing."""
        page, grid = self.folder.part / "index.html", self.folder.part / "grid.png"
        try:
            with write_errors(page):
                words = facts_in_words(facts, self.results)
                self.report.write(page, f"{self.run} on {facts['dataset']}", words, self.results.rows)
            with write_errors(grid):
                self._grid(grid, facts["dataset"])
        except CannotWrite as error:
            with suppress(OSError):
                grid.unlink()
            return error
        return None

    def _grid(self, path: Path, dataset: str) -> None:
        grid = comparison_grid(self.rows, captions=ROLES if self.measured else ROLES[:2])
        save_grid(grid, path)
        mean = self.results.mean("psnr")
        if self.plot and math.isfinite(mean):
            self.plot.add(self.window, "mean", 0, mean)
        if self.plot:
            self.plot.picture(f"grid_{self.folder.name}", f"{dataset}: input | output | target", grid)

    def _print_places(self, place: Path) -> None:
        shown = {"page": place / "index.html", "grid": place / "grid.png"}
        there = [f", {what} {file}" for what, file in shown.items() if file.is_file()]
        print(printable(f"outputs {place}{''.join(there)}"))
        if self.outputs.elsewhere:
            print(printable(f"images  {self.outputs.shown()}"))
        if self.measured:
            print(printable(f"per image {place / 'metrics.csv'}"))
