"""How large everything in a table's figure is, and what stands for what there is no room for. Lengths are points."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from inseq.views.figure.measures import width
from inseq.views.figure.shapes import SLANT
from inseq.views.table import Cells, Label, Matrix, Table, cells
from inseq.views.words import exponent, number, power_sign

WIDEST, TALLEST_MAP = 700.0, 720.0
MOST_ROWS, MOST_COLUMNS, MOST_SCORES, MOST_BLOCKS = 1200, 600, 12, 4
MARGIN, BESIDE, APART = 12.0, 6.0, 5.0
GAP, LEAST_WITH_GAP = 1.2, 7.0
CELL, WIDE_CELL, ROW, SCORE_ROW = 34.0, 68.0, 18.0, 15.0
LABEL, NUMBER, SMALL, LEAST_NUMBER = 9.0, 8.0, 7.0, 6.0
LEAST_LEFT, LONGEST_ROW, LONGEST_COLUMN, OVERHANG = 64.0, 130.0, 90.0, 24.0
LINE_HEIGHT = 1.2
RISE = math.sin(math.radians(SLANT))


@dataclass(frozen=True, eq=False)
class Block:
    """Input tokens that stay together: those of the source, those of the prompt, or the generated ones."""

    labels: tuple[Label, ...]
    values: Matrix


@dataclass(frozen=True, eq=False)
class ScoreRow:
    """A step score or diagnostic, in units of ``10 ** power``."""

    name: str
    values: Cells
    power: int


@dataclass(frozen=True, eq=False)
class FigureSizes:
    """Sizes of the figure of a table that has rows and columns.

    Attributes:
        blocks: the rows.
        columns: the columns.
        scores: the rows beneath.
        power: the power of ten that numbers are shown in.
        left: where the cells begin.
        cell: width of a cell.
        row: height of a cell.
        every_row: each so many-th row has a label.
        every_column: each so many-th column has a label.
        slanted: whether the labels of columns rise to the right.
        label: size of labels.
        head: height of the labels of columns.
        number: size of numbers in cells, or 0 where they do not fit.
        said: sentences on what was thinned.
    """

    blocks: list[Block]
    columns: tuple[Label, ...]
    scores: list[ScoreRow]
    power: int
    left: float
    cell: float
    row: float
    every_row: int
    every_column: int
    slanted: bool
    label: float
    head: float
    number: float
    said: list[str]

    @property
    def gap(self) -> float:
        """White between cells, or 0 where they are too small for it."""
        return GAP if min(self.cell, self.row) >= LEAST_WITH_GAP else 0.0

    @property
    def right(self) -> float:
        """Where the cells end."""
        return self.left + self.cell * len(self.columns)

    def middle(self, column: int) -> float:
        """Where the middle of a column is."""
        return self.left + (column + 0.5) * self.cell


def plan(table: Table) -> FigureSizes:
    """Fit a table into the page: cells shrink, then labels are thinned, then cells are pooled."""
    said: list[str] = []
    blocks, columns, scores = _pooled(table, said)
    power = exponent(max(abs(table.scale.minimum), abs(table.scale.maximum)))
    names = [width(label.label, LABEL) for block in blocks for label in block.labels]
    names += [width(score.name, NUMBER) for score in scores]
    left = MARGIN + min(max(LEAST_LEFT, *names), LONGEST_ROW) + BESIDE
    longest = min(max(width(label.label, LABEL) for label in columns), LONGEST_COLUMN)
    cell = _cell(longest, WIDEST - left, len(columns))
    slanted = longest + 3 > cell
    row = min(ROW, (TALLEST_MAP - APART * len(blocks)) / sum(len(block.labels) for block in blocks))
    between = cell * RISE if slanted else ROW
    label = LABEL if min(row, between) >= LABEL * LINE_HEIGHT else SMALL
    every_row, every_column = (math.ceil(LINE_HEIGHT * label / distance) for distance in (row, between))
    thinned = [f"one in {n} {which} tokens" for n, which in ((every_row, "input"), (every_column, "output")) if n > 1]
    said += [f"{' and '.join(thinned)} are labelled"] if thinned else []
    shown = {number(value, power) for block in blocks for value in cells(block.values)}
    return FigureSizes(
        blocks=blocks,
        columns=columns,
        scores=scores,
        power=power,
        left=left,
        cell=cell,
        row=row,
        every_row=every_row,
        every_column=every_column,
        slanted=slanted,
        label=label,
        head=(longest * RISE + 0.6 * label if slanted else label) + BESIDE,
        number=number_size(shown, cell, row),
        said=said,
    )


def number_size(numbers: Iterable[str], cell: float, row: float) -> float:
    """The size in which all numbers fit into cells, or 0."""
    widest = max((width(text, 1.0) for text in numbers if text), default=1.0)
    size = min(NUMBER, (cell - 3) / widest, (row - 2) / LINE_HEIGHT)
    return size if size >= LEAST_NUMBER else 0.0


def _cell(longest: float, room: float, n: int) -> float:
    """Width of a cell: the labels', where all fit beside each other; otherwise what is left beside slanted ones."""
    own = max(longest + 8, CELL)
    if own <= WIDE_CELL and own * n <= room:
        return own
    return min(CELL, (room - max(longest * RISE, OVERHANG)) / n)


def _pooled(table: Table, said: list[str]) -> tuple[list[Block], tuple[Label, ...], list[ScoreRow]]:
    """Blocks, columns and step scores as many as an eye can tell apart, and a sentence where there are more."""
    high, wide = -(-len(table.rows) // MOST_ROWS), -(-len(table.columns) // MOST_COLUMNS)
    if high * wide > 1:
        said.append(f"each cell is the strongest of up to {high} input × {wide} output tokens")
    parts = [list(part) for _, part in groupby(range(len(table.rows)), key=lambda i: _kind(table.rows[i]))]
    if len(parts) > MOST_BLOCKS:
        parts = [list(range(len(table.rows)))]
    blocks = [Block(tuple(table.rows[i] for i in part[::high]), _strongest(table.values[part], high, wide)) for part in parts]
    scores = [*table.step_scores.items(), *table.diagnostics.items()]
    if len(scores) > MOST_SCORES:
        said.append(f"{len(scores) - MOST_SCORES} further step scores are left out")
    return blocks, table.columns[::wide], [_score(name, values, wide) for name, values in scores[:MOST_SCORES]]


def _kind(label: Label) -> tuple[str, bool]:
    return label.matrix, label.role == "generated"


def _score(name: str, values: Cells, wide: int) -> ScoreRow:
    pooled = cells(_strongest(np.array([values], float), 1, wide))
    power = exponent(max((abs(value) for value in pooled if value is not None), default=0.0))
    return ScoreRow(name + power_sign(power), pooled, power)


def _strongest(values: Matrix, high: int, wide: int) -> Matrix:
    """Of each ``high`` by ``wide`` values the one of the largest magnitude, NaN where none is a number."""
    rows, columns = -(-values.shape[0] // high), -(-values.shape[1] // wide)
    padded = np.full((rows * high, columns * wide), np.nan)
    padded[: values.shape[0], : values.shape[1]] = values
    apart = padded.reshape(rows, high, columns, wide).swapaxes(1, 2).reshape(rows, columns, high * wide)
    sizes = np.nan_to_num(np.abs(apart), nan=-1.0)
    return np.take_along_axis(apart, sizes.argmax(-1)[..., None], -1)[..., 0]
