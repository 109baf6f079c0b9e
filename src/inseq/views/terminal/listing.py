"""Which words of a running text are strongest, and lists of them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from rich.cells import cell_len
from rich.text import Text

from inseq.views.table import Cells, Label, Line, Table
from inseq.views.terminal.ansi import BOLD, DIM, ColourDepth
from inseq.views.terminal.flow import Piece, cut, drawn, flow, left, paragraph
from inseq.views.terminal.grid import MARGIN, beside, largest
from inseq.views.words import exponent, number, power_sign, visible

NARROW = 40
"""Below so many cells, names stand on lines of their own."""
MOST_COLUMNS = 60


class Word(NamedTuple):
    """One token, or the pieces of one character.

    Attributes:
        label: the token, or the first piece.
        line: ``input`` or ``output``.
        rows: rows of the table with its scores.
        columns: columns that explain it.
    """

    label: Label
    line: Line
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def text(self) -> str:
        """What a reader reads, with nothing hidden and without the blank before it."""
        return visible(self.label.text.strip(" ") or self.label.text)


class Scene(NamedTuple):
    """What is drawn, and where.

    Attributes:
        table: the result.
        text: its words.
        width: cells to a line.
        look: what the terminal can show.
    """

    table: Table
    text: Sequence[Word]
    width: int
    look: ColourDepth

    @property
    def narrow(self) -> bool:
        return self.width < NARROW


def words(table: Table) -> list[Word]:
    """The running text; what shares a character is one word."""
    found = []
    for _, members in groupby(table.places, key=lambda place: (place.line, place.label.group)):
        places = list(members)
        rows = tuple(place.row for place in places if place.row is not None)
        columns = tuple(dict.fromkeys(place.column for place in places if place.column is not None))
        found.append(Word(places[0].label, places[0].line, rows, columns))
    return found


def scores(table: Table, text: Sequence[Word], column: int | None = None) -> Cells:
    """For each word the sum of its members' scores: those of a column, or their means over all columns."""
    values = table.totals if column is None else table.column(column)
    return tuple(values[word.rows[0]] if len(word.rows) == 1 else _sum([values[row] for row in word.rows]) for word in text)


def strongest(values: Cells, k: int) -> list[int]:
    """Indices of the largest magnitudes above zero, the largest first."""
    found = ((i, abs(value)) for i, value in enumerate(values) if value)
    return [i for i, _ in heapq.nlargest(k, found, key=lambda pair: pair[1])]


def ranked(scene: Scene, values: Cells, column: int, top: int) -> Iterator[Text]:
    """The strongest input tokens of one explained token, a line for each, and what else might have been written."""
    table, width = scene.table, scene.width
    heading = [cut(table.columns[column].label, MARGIN), f"explained token {column + 1} of {len(table.columns)}"]
    yield from paragraph(" · ".join([*heading, *_known(table, column)]), width, BOLD)
    order = strongest(values, top)
    power = exponent(max((abs(values[i] or 0.0) for i in order), default=0.0))
    numbers = [number(values[i], power) for i in order]
    places = [] if scene.narrow else _places(scene.text)
    size = max(map(len, numbers), default=0) + 2
    room = max(width - size - max((len(places[i]) + 2 for i in order if places), default=0), 2)
    shown = [cut(scene.text[i].text, room) for i in order]
    longest = max(map(cell_len, shown), default=0)
    for i, value, label in zip(order, numbers, shown, strict=True):
        line = Text(f"{value:>{size - 2}}  ")
        line.append(label, scene.look.shade(values[i], table.scale))
        line.append(f"{' ' * (longest - cell_len(label))}  {places[i]}" if places else "", DIM)
        yield line
    yield from paragraph((f"numbers{power_sign(power)}" if power else "") if order else _nothing(values), width, DIM)
    if table.alternatives and table.alternatives[column]:
        others = [f"{visible(token.strip(' ') or token)} {number(share)}" for token, share in table.alternatives[column]]
        yield from paragraph(f"most probable: {' · '.join(others)}", width)
    yield Text()


def listed(scene: Scene, top: int, *, whole: bool) -> Iterator[Text]:
    """For each explained token its strongest input tokens in a line; for the first ones alone unless all are wanted."""
    table, width = scene.table, scene.width
    count = len(table.columns) if whole else min(len(table.columns), MOST_COLUMNS)
    labels = [cut(column.label, width if scene.narrow else min(MARGIN, width // 3)) for column in table.columns[:count]]
    margin = 2 if scene.narrow else max(map(cell_len, labels)) + 2
    for column, label in enumerate(labels):
        values = scores(table, scene.text, column)
        pieces = [_source(scene, i, values[i], width - margin) for i in strongest(values, top)] or [
            Piece(_nothing(values), DIM)
        ]
        pieces += [piece for said in _known(table, column) for piece in _split(Piece(said, DIM, " | "), width - margin)]
        if scene.narrow:
            yield Text(label)
        for i, line in enumerate(flow(pieces, width - margin)):
            yield drawn(line, left("" if i or scene.narrow else label, margin))
    if count < len(table.columns):
        yield from paragraph(f"and {len(table.columns) - count} further output tokens", width, DIM)
    yield Text()


def unit(power: int) -> str:
    """What is said of numbers that are shown in units of a power of ten."""
    return f", numbers{power_sign(power)}" if power else ""


def _source(scene: Scene, word: int, value: float | None, room: int) -> Piece:
    shown = f" {number(value, exponent(largest(scene.table.scale)))}"
    label = cut(scene.text[word].text, max(min(room - len(shown), MARGIN), 1))
    return Piece(label + shown, scene.look.shade(value, scene.table.scale), " · ")


def _split(piece: Piece, room: int) -> list[Piece]:
    """A piece that no line can hold is broken between its words."""
    if cell_len(piece.text) <= room:
        return [piece]
    return [piece._replace(text=word, gap=" " if i else piece.gap) for i, word in enumerate(piece.text.split())]


def _known(table: Table, column: int) -> list[str]:
    """What is known of an explained token beside its scores."""
    found = []
    for name, values in beside(table).items():
        power = exponent(max((abs(value) for value in values if value is not None), default=0.0))
        if values[column] is not None:
            found.append(f"{name} {number(values[column], power)}{power_sign(power)}")
    return found


def _nothing(values: Cells) -> str:
    return "no score" if all(value is None for value in values) else "only zeros"


def _places(text: Sequence[Word]) -> list[str]:
    counted: dict[str, int] = {}
    found = []
    for word in text:
        counted[word.line] = counted.get(word.line, 0) + 1
        found.append(f"{word.line} {counted[word.line]}")
    return found


def _sum(values: list[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) if numbers else None
