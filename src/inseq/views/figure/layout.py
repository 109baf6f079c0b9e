"""Tables as a drawing: where everything goes. Every figure is made of it, whoever draws."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from inseq.views.colours import LEVELS, RGB, ink, palette
from inseq.views.figure.measures import MAX_CHARS, cut, width, wrapped
from inseq.views.figure.shapes import BLANK, Anchor, Box, Drawing, Grid, Levels, Mark, Rule, Text
from inseq.views.figure.sizes import (
    APART,
    BESIDE,
    LABEL,
    LEAST_NUMBER,
    LONGEST_COLUMN,
    LONGEST_ROW,
    MARGIN,
    NUMBER,
    RISE,
    SCORE_ROW,
    SMALL,
    WIDEST,
    Block,
    FigureSizes,
    ScoreRow,
    number_size,
    plan,
)
from inseq.views.table import Label, Matrix, Scale, Table
from inseq.views.words import number, power_sign, visible

TALLEST, LEAST = 3600.0, 300.0
FEW_LINES, MOST_LINES = 4, 12
HEADING, CAPTION = 11.0, 7.5
BAR_HEIGHT, BAR_STEP = 8.0, 4.0
DARK: RGB = (31, 35, 40)
SOFT: RGB = (91, 100, 112)
LINE: RGB = (205, 211, 218)
BAR: RGB = (158, 167, 178)
MIDDLE = 0.35
"""How far the middle of a line of text lies above its baseline, in units of the font size."""

Placed = tuple[list[Mark], float]
"""Marks, and where the next ones begin below them."""


def drawing(tables: Sequence[Table], title: str | None = None) -> Drawing:
    """Return one drawing of all tables, one below the other.

    It is no wider than 10 and no taller than about 65 inches, whatever there is to draw: cells shrink, then labels are
    thinned, then the strongest score stands for its neighbours, and the caption says so.

    Args:
        tables: what to draw.
        title: a heading.
    """
    marks: list[Mark] = []
    y = MARGIN
    for i, table in enumerate(tables):
        if y > TALLEST:
            marks.append(_text(f"{len(tables) - i} further texts are left out; draw them by themselves.", MARGIN, y))
            break
        for heading in filter(None, (title if i == 0 else None, table.title or _numbered(i, len(tables)))):
            line = cut(visible(heading), WIDEST - MARGIN, HEADING)
            marks.append(_text(line, MARGIN, y + HEADING, HEADING, DARK, bold=True))
            y += HEADING + 8
        found, y = _table(table, y)
        marks += found
        y += 2 * MARGIN if i + 1 < len(tables) else MARGIN
    if not tables:
        y += LABEL
        marks.append(_text("There is no result to show.", MARGIN, y))
        y += MARGIN
    named = visible(title or next((table.title for table in tables if table.title), "") or "Inseq attribution")
    return Drawing(math.ceil(max([LEAST, *map(_end, marks)]) + MARGIN), math.ceil(y), tuple(marks), named[:MAX_CHARS])


def _numbered(i: int, n: int) -> str:
    return f"Text {i + 1} of {n}" if n > 1 else ""


def _table(table: Table, y: float) -> Placed:
    marks: list[Mark] = []
    facts = list(table.facts)
    if table.remark:
        y += LABEL
        marks.append(_text(table.remark, MARGIN, y))
        y += BESIDE
    if table.rows and table.columns:
        sizes = plan(table)
        head, y = _head(sizes, y)
        body, y = _body(sizes, table.scale, y)
        under, y = _scores(sizes, y)
        bar, y = _bar(sizes, table.scale, y)
        marks += [*head, *body, *under, *bar]
        facts += [("Drawing", "; ".join(sizes.said))] if sizes.said else []
    caption, y = _caption(" · ".join(f"{label}: {text}" for label, text in facts), max([LEAST, *map(_end, marks)]), y)
    return [*marks, *caption], y


def _head(sizes: FigureSizes, y: float) -> Placed:
    """The labels of the columns, and what they are."""
    y += sizes.head
    marks: list[Mark] = [_text("input ↓ output →", sizes.left - BESIDE, y - 5, SMALL, SOFT, "end")]
    for i, label in list(enumerate(sizes.columns))[:: sizes.every_column]:
        text, size, colour = cut(label.label, LONGEST_COLUMN, sizes.label), sizes.label, _colour(label)
        if sizes.slanted:
            marks.append(_text(text, sizes.middle(i) + MIDDLE * size * RISE, y - 4, size, colour, slanted=True))
        else:
            marks.append(_text(text, sizes.middle(i), y - 5, size, colour, "middle"))
    return marks, y


def _body(sizes: FigureSizes, scale: Scale, y: float) -> Placed:
    """The cells with their numbers, and the labels of the rows."""
    marks: list[Mark] = []
    fills, at = tuple(palette(scale.kind, "light")), 0
    for block in sizes.blocks:
        levels = _levels(block.values, scale)
        marks += _blanks(sizes, levels, y) if sizes.gap else []
        marks.append(Grid(sizes.left, y, sizes.cell, sizes.row, levels, fills, sizes.gap))
        marks += _numbers(sizes, block, levels, fills, y) if sizes.number else []
        for i, label in enumerate(block.labels, at):
            if i % sizes.every_row == 0:
                base = y + (i - at + 0.5) * sizes.row + MIDDLE * sizes.label
                marks.append(_name(sizes, label.label, base, sizes.label, _colour(label)))
        at += len(block.labels)
        y += sizes.row * len(block.labels) + APART
    return marks, y - APART


def _levels(values: Matrix, scale: Scale) -> Levels:
    found = [[scale.level(v, LEVELS) if math.isfinite(v) else BLANK for v in row] for row in values.tolist()]
    return np.array(found, np.int64).reshape(values.shape)


def _blanks(sizes: FigureSizes, levels: Levels, y: float) -> Iterator[Mark]:
    """A stroke where there is no number."""
    for i, j in np.argwhere(levels == BLANK).tolist():
        x, middle = sizes.middle(j), y + (i + 0.5) * sizes.row
        yield Rule(x - 3, middle + 3, x + 3, middle - 3, LINE)


def _numbers(sizes: FigureSizes, block: Block, levels: Levels, fills: tuple[RGB, ...], y: float) -> Iterator[Mark]:
    for i, j in np.argwhere(levels != BLANK).tolist():
        text, colour = number(float(block.values[i, j]), sizes.power), ink(fills[levels[i, j]])
        base = y + (i + 0.5) * sizes.row + MIDDLE * sizes.number
        yield _text(text, sizes.middle(j), base, sizes.number, colour, "middle")


def _scores(sizes: FigureSizes, y: float) -> Placed:
    """A row for each step score and diagnostic: numbers where they fit, bars elsewhere."""
    if not sizes.scores:
        return [], y
    marks: list[Mark] = [Rule(sizes.left, y + 6, sizes.right, y + 6, LINE)]
    y += 8
    for score in sizes.scores:
        texts = [number(value, score.power) for value in score.values]
        size = number_size(texts, sizes.cell, SCORE_ROW)
        middle = y + SCORE_ROW / 2
        marks.append(_name(sizes, score.name, middle + MIDDLE * NUMBER, NUMBER, SOFT))
        if size:
            placed = [(text, sizes.middle(i)) for i, text in enumerate(texts) if text]
            marks += [_text(text, x, middle + MIDDLE * size, size, SOFT, "middle") for text, x in placed]
        else:
            marks += _bars(sizes, score, y)
        y += SCORE_ROW
    return marks, y


def _bars(sizes: FigureSizes, score: ScoreRow, y: float) -> list[Mark]:
    """Bars from zero, and to their right what the edges of the row stand for."""
    known = [value for value in score.values if value is not None]
    low, high = min([0.0, *known]), max([0.0, *known])
    unit = (SCORE_ROW - 4) / (high - low or 1.0)
    zero = y + 2 + high * unit
    bars = [
        Box(sizes.left + i * sizes.cell, zero - max(value, 0.0) * unit, sizes.cell * 0.8, abs(value) * unit, BAR)
        for i, value in enumerate(score.values)
        if value
    ]
    edges = ((high, y + LEAST_NUMBER), (low, y + SCORE_ROW - 1))
    ends = [_text(number(value, score.power), sizes.right + 3, base, LEAST_NUMBER) for value, base in edges]
    return [*bars, Rule(sizes.left, zero, sizes.right, zero, LINE), *ends]


def _bar(sizes: FigureSizes, scale: Scale, y: float) -> Placed:
    """The colours with their numbers."""
    y += 10
    left, right, below = sizes.left, sizes.left + BAR_STEP * LEVELS, y + BAR_HEIGHT
    levels = np.arange(LEVELS, dtype=np.int64)[None]
    frame = [(left, y, right, y), (left, below, right, below), (left, y, left, below), (right, y, right, below)]
    ends: list[tuple[float, float, Anchor]] = [(left, scale.minimum, "start"), (right, scale.maximum, "end")]
    if scale.kind == "diverging":
        ends.append(((left + right) / 2, 0.0, "middle"))
    return [
        Grid(left, y, BAR_STEP, BAR_HEIGHT, levels, tuple(palette(scale.kind, "light")), 0.0),
        *(Rule(*edge, LINE) for edge in frame),
        *(_text(number(value, sizes.power), x, below + SMALL + 2, SMALL, SOFT, anchor) for x, value, anchor in ends),
        _name(sizes, f"score{power_sign(sizes.power)}", y + BAR_HEIGHT / 2 + MIDDLE * NUMBER, NUMBER, SOFT),
    ], below + SMALL + 4


def _caption(text: str, right: float, y: float) -> Placed:
    """What was done: as wide as the rest, or wider where there is much to say."""
    lines: list[str] = []
    for end in (right, max(right, 2 * LEAST)):
        lines = wrapped(visible(text), end - MARGIN, CAPTION) if text else []
        if len(lines) <= FEW_LINES:
            break
    lines = lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 1], "…"]
    y += BESIDE if lines else 0
    height = CAPTION + 3.5
    marks: list[Mark] = [_text(line, MARGIN, y + (i + 1) * height, CAPTION) for i, line in enumerate(lines)]
    return marks, y + len(lines) * height


def _end(mark: Mark) -> float:
    """How far to the right a mark reaches, if it may be the last one."""
    if isinstance(mark, Text) and mark.anchor == "start":
        return mark.x + (width(mark.text, mark.size) + 0.5 * mark.size * mark.slanted) * (RISE if mark.slanted else 1.0)
    return mark.x + mark.width * mark.levels.shape[1] if isinstance(mark, Grid) else 0.0


def _colour(label: Label) -> RGB:
    return SOFT if label.special else DARK


def _name(sizes: FigureSizes, name: str, y: float, size: float, colour: RGB) -> Text:
    """What stands to the left of a row."""
    return _text(cut(name, LONGEST_ROW, size), sizes.left - BESIDE, y, size, colour, "end")


def _text(
    text: str,
    x: float,
    y: float,
    size: float = LABEL,
    colour: RGB = SOFT,
    anchor: Anchor = "start",
    *,
    bold: bool = False,
    slanted: bool = False,
) -> Text:
    return Text(visible(text), x, y, size, colour, anchor, bold, slanted)
