"""What a figure consists of. Lengths are points, 72 to an inch; y grows downwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inseq.views.colours import RGB

Levels = NDArray[np.int64]
Anchor = Literal["start", "middle", "end"]
BLANK = -1
"""The level of a cell without a number."""

SLANT = 45.0
FAINT: RGB = (236, 239, 242)
"""What a blank cell has where cells are too small for anything else."""


@dataclass(frozen=True)
class Box:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    fill: RGB


@dataclass(frozen=True)
class Rule:
    """A straight line."""

    x: float
    y: float
    to_x: float
    to_y: float
    colour: RGB
    width: float = 0.5


@dataclass(frozen=True)
class Text:
    """A line of text.

    Attributes:
        text: in which nothing is hidden.
        x: of its start, middle or end, as the anchor says. What is read from right to left starts at the right, and yet
            ``"start"`` is always its left end.
        y: of its baseline.
        size: of the font.
        colour: of the letters.
        anchor: what is at ``x``.
        bold: whether it is a heading.
        slanted: whether it rises to the right, by ``SLANT`` degrees.
    """

    text: str
    x: float
    y: float
    size: float
    colour: RGB
    anchor: Anchor = "start"
    bold: bool = False
    slanted: bool = False


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells of equal size.

    Attributes:
        x: of its left edge.
        y: of its upper edge.
        width: of a cell.
        height: of a cell.
        levels: for each cell the index of its fill, or ``BLANK``.
        fills: the colours.
        gap: white between the cells, or 0 where they are too small for it.
    """

    x: float
    y: float
    width: float
    height: float
    levels: Levels
    fills: tuple[RGB, ...]
    gap: float

    def fill(self, level: int) -> RGB:
        """The colour of a level."""
        return FAINT if level == BLANK else self.fills[level]

    def boxes(self) -> list[Box]:
        """The cells that have a number, one by one."""
        width, height = self.width - self.gap, self.height - self.gap
        return [
            Box(
                self.x + j * self.width + self.gap / 2,
                self.y + i * self.height + self.gap / 2,
                width,
                height,
                self.fill(level),
            )
            for i, row in enumerate(self.levels.tolist())
            for j, level in enumerate(row)
            if level != BLANK
        ]


Mark = Box | Rule | Text | Grid


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure on white paper; later marks lie on earlier ones."""

    width: float
    height: float
    marks: tuple[Mark, ...]
    title: str
