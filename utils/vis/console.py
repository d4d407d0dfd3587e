"""A progress bar on a terminal, lines elsewhere, and numbers in words."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from tqdm import tqdm

from utils.system.errors import printable

Say = Callable[[str], None]  # prints a line
PLAIN_LINE_S = 10.0  # between two lines where stderr is no terminal
BAR = "{desc} {n_fmt}/{total_fmt} |{bar}| {figures}"
BAR_COLUMNS, MIN_BAR = 80, 8  # of a terminal of unknown width; of the bar itself


class Bar(tqdm):
    """A bar with figures behind it that leave it room."""

    figures = ""

    @property
    def format_dict(self) -> Any:
        known = super().format_dict
        fixed = len(known["prefix"] or "") + len(f" {known['n']}/{known['total']} || ") + MIN_BAR
        room = max(0, (known["ncols"] or BAR_COLUMNS) - fixed)
        return known | {"figures": whole_parts(self.figures, room)}


def whole_parts(text: str, room: int) -> str:
    """The leading parts of `text`, separated by commas, that fit into `room` columns.

    >>> whole_parts("0:14 left, PSNR 17.32, loss 0.1", 25)
    '0:14 left, PSNR 17.32'
    """
    while len(text) > room and text:
        text = text.rpartition(", ")[0]
    return text


class Progress:
    """One bar for the whole run on stderr, or a line now and then where stderr is no terminal.

    Args:
        title: in front of the bar.
        done, total: steps; infinite while the total is unknown.
        quiet: show nothing.
        until_end: upper bound of the seconds left.
    """

    def __init__(
        self,
        title: str,
        done: int,
        total: float,
        quiet: bool = False,
        until_end: Callable[[], float] = lambda: math.inf,
    ):
        self.title, self.done, self.quiet, self.until_end = title, done, quiet, until_end
        self.terminal = sys.stderr.isatty()
        self.printed_at = self.began = time.monotonic()
        self.first = done
        how: dict[str, Any] = {"disable": quiet or not self.terminal, "leave": True, "dynamic_ncols": True}
        self.bar = Bar(desc=title, initial=done, bar_format=BAR, **how)
        self.resize(title, total)

    def step(self, title: str = "", total: float | None = None) -> None:
        """Count a step; the title and the total may have changed."""
        self.resize(title or self.title, self.total if total is None else total)
        self.done += 1
        self.bar.update()

    def resize(self, title: str, total: float) -> None:
        """Change the title and the total."""
        self.title, self.total = title, total
        if not self.bar.disable:
            self.bar.total = None if math.isinf(total) else total
            self.bar.set_description_str(title, refresh=False)

    def left(self) -> str:
        """The time until the end of the run, by all that it did so far, validations included."""
        taken = self.done - self.first
        seconds = self.until_end()
        if not math.isinf(self.total) and taken:
            seconds = min(seconds, (time.monotonic() - self.began) / taken * (self.total - self.done))
        return "?" if math.isinf(seconds) else clock(max(0, seconds))

    def show(self, text: str) -> None:
        """Show the latest figures behind the bar, or print them at most every 10 s and at the end."""
        self.bar.figures = f"{self.left()} left, {text}" if text else f"{self.left()} left"
        due = time.monotonic() - self.printed_at >= PLAIN_LINE_S or self.done == self.total
        if not self.terminal and not self.quiet and due:
            self.printed_at = time.monotonic()
            steps = f"step {self.done}" if math.isinf(self.total) else f"{self.done}/{self.total}"
            figures = ", ".join(filter(None, [text, f"{self.left()} left"]))
            print(f"{self.title} {steps} {figures}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self.bar.close()


def describe_step(values: Mapping[str, float], lr: float) -> str:
    """One line of running means, the most important first."""
    terms = [f"{key[5:]} {value:.3f}" for key, value in values.items() if key.startswith("loss_")]
    if "D_right" in values:
        scores = f"real {values['D_real']:.2f} fake {values['D_fake']:.2f}"
        terms.append(f"D right {values['D_right']:.0%} ({scores})")
    if "train_psnr" in values:
        terms.append(f"PSNR {values['train_psnr']:.2f}")
    speed = f"{values['images_s']:.1f} images/s, lr {lr:.1e}, wait {values['wait']:.0%}"
    return ", ".join([f"loss {values['loss']:.4f}", *terms, speed])


def millions(parameters: Iterable[Tensor]) -> str:
    """The number of values in all tensors, as `1.05 M`."""
    return f"{sum(parameter.numel() for parameter in parameters) / 1e6:.2f} M"


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`.

    >>> clock(3723), clock(123.4)
    ('1:02:03', '2:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def say_on(first: bool) -> Say:
    """A function that prints a line on stderr, above a progress bar; silent on all other processes."""
    return print_line if first else lambda text: None


def print_line(text: str) -> None:
    """Print on stderr, above a progress bar, with control characters escaped."""
    tqdm.write("\n".join(map(printable, text.split("\n"))), file=sys.stderr)
