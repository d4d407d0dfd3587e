"""A progress bar on a terminal, lines elsewhere, and numbers in words."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor
from tqdm import tqdm

from utils.system.errors import printable

Say = Callable[[str], None]  # prints a line
PLAIN_LINE_S = 10.0  # between two lines where stderr is no terminal


class Progress:
    """One bar for the whole run on stderr, or a line now and then where stderr is no terminal.

    Args:
        title: in front of the bar.
        done, total: steps; infinite while the total is unknown.
        quiet: show nothing.
    """

    def __init__(self, title: str, done: int, total: float, quiet: bool = False):
        self.title, self.done, self.quiet = title, done, quiet
        self.terminal = sys.stderr.isatty()
        self.printed_at = time.monotonic()
        self.bar = tqdm(
            desc=title, initial=done, disable=quiet or not self.terminal, leave=True, dynamic_ncols=True
        )
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

    def show(self, text: str) -> None:
        """Show the latest figures behind the bar, or print them at most every 10 s and at the end."""
        if not self.bar.disable:
            self.bar.set_postfix_str(text, refresh=False)
        due = time.monotonic() - self.printed_at >= PLAIN_LINE_S or self.done == self.total
        if not self.terminal and not self.quiet and due:
            self.printed_at = time.monotonic()
            total = "?" if math.isinf(self.total) else self.total
            print(f"{self.title} {self.done}/{total} {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self.bar.close()


def describe_step(values: Mapping[str, float], lr: float, images_left: float) -> str:
    """One line of running means, with the time that is left; `images_left` is infinite if unknown."""
    left = "?" if math.isinf(images_left) else clock(images_left / values["images_s"])
    terms = "".join(f"{key[5:]} {value:.3f} " for key, value in values.items() if key.startswith("loss_"))
    if "D_right" in values:
        scores = f"real {values['D_real']:.2f} fake {values['D_fake']:.2f}"
        terms += f"D right {values['D_right']:.0%} ({scores}) "
    psnr = f"PSNR {values['train_psnr']:.2f} " if "train_psnr" in values else ""
    return (
        f"loss {values['loss']:.4f} {terms}{psnr}lr {lr:.1e} "
        f"{values['images_s']:.1f} images/s wait {values['wait']:.0%} ETA {left}"
    )


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
