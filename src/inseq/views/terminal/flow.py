"""Text that flows: pieces that are broken into lines at their borders, measured in cells of a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.style import Style
from rich.text import Text

from inseq.views.terminal.ansi import DIM, PLAIN

NARROWEST = 2
"""Cells of a line at least: those of a wide character."""


class Piece(NamedTuple):
    """What stays on one line wherever it fits.

    Attributes:
        text: what is written.
        style: how.
        gap: what parts it from the piece before, on the same line.
        weight: how much it matters.
        ends: whether a line ends after it.
    """

    text: str
    style: Style = PLAIN
    gap: str = ""
    weight: float = 0.0
    ends: bool = False


def flow(pieces: Iterable[Piece], room: int) -> list[list[Piece]]:
    """Break pieces into lines of so many cells. Only a piece that no line can hold is broken itself."""
    room = max(room, NARROWEST)
    lines: list[list[Piece]] = [[]]
    used = 0
    for piece in pieces:
        size, gap = cell_len(piece.text), cell_len(piece.gap)
        if lines[-1] and used + gap + size > room:
            lines.append([])
        if size > room:
            parts = [part for part in chop_cells(piece.text, room) if part]
            lines[-1] = [piece._replace(text=parts[0])]
            lines.extend([piece._replace(text=part)] for part in parts[1:])
            used = cell_len(parts[-1])
        else:
            used = used + gap + size if lines[-1] else size
            lines[-1].append(piece)
        if piece.ends:
            lines.append([])
    return [line for line in lines if line]


def drawn(line: Sequence[Piece], before: str = "", style: Style = PLAIN) -> Text:
    """Return a line, which may begin with something else."""
    text = Text(before, style)
    for i, piece in enumerate(line):
        text.append(piece.gap if i else "")
        text.append(piece.text, piece.style)
    return text


def weightiest(lines: Sequence[list[Piece]], most: int) -> list[list[Piece]]:
    """Return no more than so many lines, the first, the last and those that matter; the rest is counted."""
    if len(lines) <= most:
        return list(lines)
    weights = [max(piece.weight for piece in line) for line in lines]
    order = sorted(range(1, len(lines) - 1), key=lambda i: -weights[i])
    kept = sorted({0, len(lines) - 1, *order[: most - 2]})
    found = [lines[0]]
    for before, at in pairwise(kept):
        if hidden := at - before - 1:
            found.append([Piece(f"⋯ {hidden} line{'s' * (hidden > 1)} ⋯", DIM)])
        found.append(lines[at])
    return found


def paragraph(text: str, width: int, style: Style = PLAIN) -> Iterator[Text]:
    """Return the lines of a text that is broken between words."""
    return (drawn(line, style=style) for line in flow((Piece(word, gap=" ") for word in text.split()), width))


def cut(text: str, width: int) -> str:
    """Return a text of no more than so many cells, with a sign where something is missing."""
    head = text[: 4 * max(width, 1)]
    return text if head == text and cell_len(text) <= width else set_cell_size(head, max(width - 1, 0)).rstrip() + "…"


def left(text: str, width: int) -> str:
    """Return a text in the left of so many cells."""
    return set_cell_size(cut(text, width), width)


def right(text: str, width: int) -> str:
    """Return a text in the right of so many cells, with a blank before it."""
    short = cut(text, width - 1)
    return " " * (width - cell_len(short)) + short
