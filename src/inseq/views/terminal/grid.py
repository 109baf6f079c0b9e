"""The matrix as text, in blocks of columns that fit the width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from inseq.views.table import Cells, Label, Scale, Table
from inseq.views.terminal.ansi import ColourDepth
from inseq.views.terminal.flow import cut, left, right
from inseq.views.words import exponent, number, power_sign

MARGIN, COLUMN = 24, 12
NARROWEST = 6
MOST_BLOCKS, MOST_LINES = 3, 120
"""What is still a picture of the whole."""


def grid(table: Table, width: int, look: ColourDepth) -> list[Text] | None:
    """Return the lines of the matrix, with the values of each column under it; None where it does not fit."""
    names = beside(table)
    height = len(table.rows) + len(names) + 2
    if height > MOST_LINES or len(table.columns) * NARROWEST > MOST_BLOCKS * width:
        return None
    power = exponent(largest(table.scale))
    under = [_scaled(name, values) for name, values in names.items()]
    labels = [row.label for row in table.rows] + [name for name, _ in under]
    margin = min(max((cell_len(cut(label, MARGIN)) for label in labels), default=0), MARGIN, max(width // 3, 1))
    sizes = [_size(column, [number(value, power) for value in table.column(i)], [row[i] for _, row in under])
             for i, column in enumerate(table.columns)]  # fmt: skip
    blocks = list(_fitting(sizes, width - margin))
    if len(blocks) > MOST_BLOCKS or len(blocks) * height > MOST_LINES:
        return None
    lines = []
    for start, end in blocks:
        block = range(start, end)
        lines.append(_joined("", margin, [Text(right(table.columns[i].label, sizes[i])) for i in block]))
        for at, row in enumerate(table.rows):
            filled = [_cell(table.cell(at, i), table.scale, power, sizes[i], look) for i in block]
            lines.append(_joined(row.label, margin, filled))
        for name, values in under:
            lines.append(_joined(name, margin, [Text(right(values[i], sizes[i])) for i in block], "dim"))
        lines.append(Text())
    return lines


def beside(table: Table) -> dict[str, Cells]:
    """Name -> a value for each column, of all that is not a score of an input token."""
    return {**table.step_scores, **table.diagnostics, **({"source share": table.shares} if table.shares else {})}


def largest(scale: Scale) -> float:
    """The largest magnitude that has a colour of its own."""
    return max(abs(scale.minimum), abs(scale.maximum))


def _scaled(name: str, values: Cells) -> tuple[str, list[str]]:
    power = exponent(max((abs(value) for value in values if value is not None), default=0.0))
    return name + power_sign(power), [number(value, power) for value in values]


def _size(column: Label, numbers: Sequence[str], under: Sequence[str]) -> int:
    label = min(cell_len(cut(column.label, COLUMN)), COLUMN)
    return max(NARROWEST, label + 1, *(len(text) + 1 for text in [*numbers, *under, ""]))


def _fitting(sizes: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """Cut the columns into blocks no wider than the room, each with one column at least."""
    start, used = 0, 0
    for i, size in enumerate(sizes):
        if used + size > room and i > start:
            yield start, i
            start, used = i, 0
        used += size
    yield start, len(sizes)


def _cell(value: float | None, scale: Scale, power: int, size: int, look: ColourDepth) -> Text:
    text = Text(right(number(value, power), size))
    text.stylize(look.shade(value, scale), 1)
    return text


def _joined(name: str, margin: int, cells: Sequence[Text], style: str = "") -> Text:
    return Text.assemble(left(name, margin), *cells, style=style)
