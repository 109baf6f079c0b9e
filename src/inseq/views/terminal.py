"""Text: a heat map that fits the width. The numbers carry the information, colours only help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.style import Style
from rich.text import Text

from inseq.views.colours import LEVELS, css, ink, palette
from inseq.views.table import Cells, Label, Scale, Table
from inseq.views.words import exponent, number, power_sign, visible

MARGIN, COLUMN = 24, 12
NARROWEST = 6


def render(tables: Sequence[Table], width: int | None = None, file: IO[str] | None = None, title: str | None = None) -> None:
    """Write tables as text: with colours to a terminal that has them, plain elsewhere.

    Args:
        tables: what to draw.
        width: characters to a line; that of the terminal by default.
        file: where to write; standard output by default.
        title: a heading.
    """
    console = Console(width=width, file=file, highlight=False, markup=False, emoji=False)
    for i, table in enumerate(tables):
        own = table.title or (f"Text {i + 1} of {len(tables)}" if len(tables) > 1 else "")
        for heading in filter(None, (title if i == 0 else None, own)):
            _print(console, Text(visible(heading), style="bold"))
        for line in _lines(table, console.width):
            _print(console, line)
    if not tables:
        _print(console, Text("There is no result to show."))


def _print(console: Console, line: Text) -> None:
    line.rstrip()
    if not console.encoding.startswith("utf"):
        safe = line.plain.encode(console.encoding, "replace").decode(console.encoding)
        line = Text(safe) if safe != line.plain else line
    console.print(line, no_wrap=True, overflow="ignore", crop=False, soft_wrap=True)


def _lines(table: Table, width: int) -> Iterator[Text]:
    if table.remark:
        yield Text(table.remark)
    if table.columns:
        yield from _blocks(table, width)
        yield from _wrapped(_legend(table), width)
    yield from _wrapped(" · ".join(f"{label}: {text}" for label, text in table.facts), width)
    yield Text()


def _blocks(table: Table, width: int) -> Iterator[Text]:
    power = exponent(max(abs(table.scale.minimum), abs(table.scale.maximum)))
    under = [_scaled_row(name, cells) for name, cells in [*table.step_scores.items(), *table.diagnostics.items()]]
    names = [row.label for row in table.rows] + [name for name, _ in under]
    margin = min(max(map(cell_len, names), default=0), MARGIN, max(width // 3, 1))
    sizes = [_size(column, [n for value in table.column(i) if (n := number(value, power))], [c[i] for _, c in under])
             for i, column in enumerate(table.columns)]  # fmt: skip
    for start, end in _fitting(sizes, width - margin):
        block = range(start, end)
        yield _joined(_margin("", margin), [Text(_right(table.columns[i].label, sizes[i])) for i in block])
        for at, label in enumerate(table.rows):
            filled = [_cell(table.cell(at, i), table.scale, power, sizes[i]) for i in block]
            yield _joined(_margin(label.label, margin), filled)
        for name, cells in under:
            yield _joined(_margin(name, margin), [Text(_right(cells[i], sizes[i])) for i in block], "dim")
        yield Text()


def _scaled_row(name: str, cells: Cells) -> tuple[str, list[str]]:
    power = exponent(max((abs(value) for value in cells if value is not None), default=0.0))
    return name + power_sign(power), [number(value, power) for value in cells]


def _size(column: Label, numbers: Sequence[str], under: Sequence[str]) -> int:
    return max(NARROWEST, min(cell_len(column.label), COLUMN) + 1, *(len(text) + 1 for text in [*numbers, *under, ""]))


def _fitting(sizes: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """Cut the columns into blocks no wider than the room, each with one column at least."""
    start, used = 0, 0
    for i, size in enumerate(sizes):
        if used + size > room and i > start:
            yield start, i
            start, used = i, 0
        used += size
    yield start, len(sizes)


def _cell(value: float | None, scale: Scale, power: int, size: int) -> Text:
    text = Text(_right(number(value, power), size))
    level = 0 if value is None else scale.level(value, LEVELS)
    if value is None or level == (LEVELS // 2 if scale.kind == "diverging" else 0):
        return text
    fill = palette(scale.kind, "light")[level]
    text.stylize(Style(color=css(ink(fill)), bgcolor=css(fill)), 1)
    return text


def _joined(margin: Text, cells: Sequence[Text], style: str = "") -> Text:
    return Text.assemble(margin, *cells, style=style)


def _margin(text: str, width: int) -> Text:
    return Text(set_cell_size(_cut(text, width), width))


def _right(text: str, width: int) -> str:
    cut = _cut(text, width - 1)
    return " " * (width - cell_len(cut)) + cut


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, max(width - 1, 0)).rstrip() + "…"


def _legend(table: Table) -> str:
    if not table.rows:
        return ""
    power = exponent(max(abs(table.scale.minimum), abs(table.scale.maximum)))
    unit = f", cells{power_sign(power)}" if power else ""
    low, high = number(table.scale.minimum, power), number(table.scale.maximum, power)
    return f"rows: input, columns: output, colours: {low} to {high}{unit}"


def _wrapped(text: str, width: int) -> Iterator[Text]:
    """Break between words, so that nothing is lost at the edge."""
    line = ""
    for word in text.split():
        if line and cell_len(line) + 1 + cell_len(word) > width:
            yield Text(line, style="dim")
            line = word
        else:
            line = f"{line} {word}".strip()
    if line:
        yield Text(line, style="dim")
