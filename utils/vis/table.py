"""Format tables for the terminal: aligned columns, in several blocks where one would be too wide."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

TERMINAL_WIDTH = 100  # columns that a table fits into


@dataclass
class Column:
    """One column of a table.

    Args:
        values: one per row, None where missing.
        form: format specification of the values.
        star: mark the cells of the highest value, if there are several values.
        left: align to the left.
        group: columns of one group share a heading.
    """

    title: str
    values: Sequence[Any]
    form: str = ""
    star: bool = False
    left: bool = False
    group: str = ""

    def cells(self) -> list[str]:
        """Return the title and a text for each value, all of one width."""
        texts = ["-" if value is None else format(value, self.form) for value in self.values]
        known = [value for value in self.values if value is not None]
        if self.star and len(known) > 1:
            best = format(max(known), self.form)
            texts = [f"{text}*" if text == best else f"{text} " for text in texts]
        texts = [self.title + " " * self.star, *texts]
        width = max(map(len, texts))
        return [text.ljust(width) if self.left else text.rjust(width) for text in texts]


def layout(columns: Sequence[Column], width: int | None = None) -> str:
    """Format a table: a line of groups if there are any, a line of titles, a line per row.

    Args:
        width: columns of the terminal; groups beyond it continue in a table below, which repeats the first
            column. None: one table, however wide.
    """
    first, *others = [_block(members) for members in _by_group(columns)]
    tables = [[first]]
    for block in others:
        if width and sum(len(each[0]) + 3 for each in [*tables[-1], block]) - 3 > width:
            tables.append([_block(columns[:1])])
        tables[-1].append(block)
    return "\n\n".join(_joined(blocks) for blocks in tables)


def _by_group(columns: Sequence[Column]) -> list[list[Column]]:
    """Neighbours of one group; a column without a group stands by itself."""
    found = groupby(enumerate(columns), key=lambda item: item[1].group or item[0])
    return [[column for _, column in members] for _, members in found]


def _block(members: Sequence[Column]) -> list[str]:
    group = members[0].group
    rows = ["  ".join(row) for row in zip(*(column.cells() for column in members), strict=True)]
    width = max(len(group), len(rows[0]))
    heading = f"{group} ".ljust(width, "-")[:width] if group else " " * width
    return [line.rjust(width) for line in (heading, *rows)]


def _joined(blocks: Sequence[list[str]]) -> str:
    lines = ["   ".join(row).rstrip() for row in zip(*blocks, strict=True)]
    return "\n".join(lines if lines[0] else lines[1:])
