"""Draw curves as a PNG with Pillow alone: every run ends with one, also where matplotlib is not installed."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from utils.system.atomic import atomic_write

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom

COLORS: tuple[Color, ...] = (  # of matplotlib's default cycle
    *((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189)),
    *((140, 86, 75), (227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207)),
)
BASELINE: Color = (102, 102, 102)
INK, GRID, PAPER = (40, 40, 40), (226, 226, 226), (255, 255, 255)
SIZE = (1080, 660)  # pixels
FINER = 2  # drawn so many times larger, then shrunk: smooth lines
TEXT, MARK = 17, 5  # pixels: height of the letters, radius of a single point
DASH = 8  # pixels, of a baseline
MAX_NAME = 30  # letters in the legend


class Line(NamedTuple):
    """A curve of the picture.

    Args:
        points: (x, y) in order of x; what is not finite is left out; a single point becomes a mark.
        width: in pixels.
        level: draw it dashed from side to side, at its last y.
    """

    name: str
    points: Sequence[tuple[float, float]]
    color: Color
    width: int = 3
    level: bool = False


def color_of(number: int) -> Color:
    """The color of a curve by its number; darker from the eleventh on."""
    shade = 0.6 ** (number // len(COLORS))
    red, green, blue = (round(part * shade) for part in COLORS[number % len(COLORS)])
    return red, green, blue


def ticks(low: float, high: float, most: int = 8) -> list[float]:
    """At most `most` round values within [low, high], at a distance of 1, 2 or 5 times a power of ten.

    >>> ticks(20.3, 29.7), ticks(0, 300, most=4)
    ([22.0, 24.0, 26.0, 28.0], [0.0, 100.0, 200.0, 300.0])
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * power for unit in (1, 2, 5, 10) if unit * power >= rough * (1 - 1e-9))
    start, end = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(start, end + 1)]


@cache
def _font(height: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(height)


class _Axes:
    """The plot's rectangle on a drawing, and how values become pixels of it."""

    def __init__(self, draw: ImageDraw.ImageDraw, box: Box, x: tuple[float, float], y: tuple[float, float]):
        self.draw, self.box, self.x, self.y = draw, box, x, y

    def place(self, x: float, y: float) -> tuple[float, float]:
        left, top, right, bottom = self.box
        across, up = (x - self.x[0]) / (self.x[1] - self.x[0]), (y - self.y[0]) / (self.y[1] - self.y[0])
        return left + across * (right - left), bottom - up * (bottom - top)

    def grid(self) -> None:
        left, top, right, bottom = self.box
        font = _font(TEXT * FINER)
        for value in ticks(*self.x):
            at, _ = self.place(value, self.y[0])
            self.draw.line((at, top, at, bottom), GRID, FINER)
            self.draw.text((at, bottom + 6 * FINER), f"{value:g}", INK, font, "ma")
        for value in ticks(*self.y):
            _, at = self.place(self.x[0], value)
            self.draw.line((left, at, right, at), GRID, FINER)
            self.draw.text((left - 8 * FINER, at), f"{value:g}", INK, font, "rm")
        self.draw.rectangle(self.box, outline=INK, width=FINER)

    def line(self, line: Line) -> None:
        points = [self.place(x, y) for x, y in finite(line.points)]
        if line.level and points:
            left, right, dash = self.box[0], self.box[2], DASH * FINER
            for at in range(round(left), round(right), 2 * dash):
                self.draw.line((at, points[-1][1], at + dash, points[-1][1]), line.color, line.width * FINER)
        elif len(points) > 1:
            self.draw.line(points, line.color, line.width * FINER, joint="curve")
        elif points:
            (x, y), radius = points[0], MARK * FINER
            self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), line.color)


def finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _range(values: Sequence[float], margin: float) -> tuple[float, float]:
    """The least and greatest value with a margin, a share of their distance; never empty."""
    low, high = min(values), max(values)
    spare = margin * (high - low) or 0.5
    return low - spare, high + spare


def draw_curves(path: Path, title: str, xlabel: str, ylabel: str, lines: Sequence[Line]) -> bool:
    """Write the curves with axes and a legend beside them, atomically; False where no line has a point.

    Raises:
        OSError: the file cannot be written.
    """
    known = [point for line in lines for point in finite(line.points)]
    if not known:
        return False
    size = SIZE[0] * FINER, SIZE[1] * FINER
    image = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(image), _font(TEXT * FINER)
    names = [line.name if len(line.name) <= MAX_NAME else f"{line.name[: MAX_NAME - 3]}..." for line in lines]
    legend = max(draw.textlength(name, font) for name in names) + 60 * FINER
    box = (76.0 * FINER, 48.0 * FINER, size[0] - legend, size[1] - 66.0 * FINER)
    x, y = _range([x for x, _ in known], 0.02), _range([y for _, y in known], 0.06)
    axes = _Axes(draw, box, x, y)
    axes.grid()
    for line in sorted(lines, key=lambda line: not line.level):
        axes.line(line)
    draw.text((box[2], box[1] - 10 * FINER), title, INK, font, anchor="rb")
    draw.text(((box[0] + box[2]) / 2, size[1] - 12 * FINER), xlabel, INK, font, anchor="mb")
    draw.text((box[0] - 68 * FINER, box[1] - 10 * FINER), ylabel, INK, font, anchor="lb")
    for i, (line, name) in enumerate(zip(lines, names, strict=True)):
        at = box[1] + (12 + 26 * i) * FINER
        draw.line((box[2] + 12 * FINER, at, box[2] + 40 * FINER, at), line.color, line.width * FINER)
        draw.text((box[2] + 48 * FINER, at), name, INK, font, anchor="lm")
    with atomic_write(path) as file:
        image.resize(SIZE, Image.Resampling.BOX).save(file, format="png")
    return True
