"""Results as text: the running text first. The numbers carry the information, colours only help."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import IO

from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.text import Text

from inseq.errors import ArgumentError
from inseq.views.table import Cells, Scale, Table
from inseq.views.terminal.ansi import BOLD, DIM, PLAIN, look
from inseq.views.terminal.flow import Piece, cut, drawn, flow, left, paragraph, weightiest
from inseq.views.terminal.grid import MARGIN, grid, largest
from inseq.views.terminal.listing import Scene, Word, listed, ranked, scores, strongest, unit, words
from inseq.views.words import exponent, number, visible

TOP = 5
NARROWEST, INDENT = 12, 8
LONGEST, MOST_LINES = 160, 24
MARKED = Style(bold=True, underline=True)


def render(
    tables: Sequence[Table],
    width: int | None = None,
    file: IO[str] | None = None,
    title: str | None = None,
    *,
    token: int | None = None,
    top: int | None = None,
) -> None:
    """Write tables as text: with colours to a terminal that has them, plain elsewhere.

    Below the running text is the matrix where it fits, and a line for each output token with its strongest input tokens
    elsewhere.

    Args:
        tables: what to draw.
        width: characters to a line, at least 12; that of the terminal by default.
        file: where to write; standard output by default.
        title: a heading.
        token: shade the text by the scores of this explained token, and list its strongest input tokens. They are counted
            from 1; -1 is the last one.
        top: how many input tokens to list, in place of the matrix.

    Raises:
        ArgumentError: for a token that is not there, and for a top below 1.
    """
    if top is not None and top < 1:
        raise ArgumentError(f"Got top {top}; it is how many input tokens to list, at least 1.")
    of = [f" of text {i + 1}" if len(tables) > 1 else "" for i in range(len(tables))]
    columns = [None if token is None else _column(table, token, name) for table, name in zip(tables, of, strict=True)]
    console = Console(width=width, file=file, highlight=False, markup=False, emoji=False)
    room = max(console.width, NARROWEST)
    for i, (table, column) in enumerate(zip(tables, columns, strict=True)):
        own = table.title or (f"Text {i + 1} of {len(tables)}" if len(tables) > 1 else "")
        for heading in filter(None, (title if i == 0 else None, own)):
            _print(console, paragraph(visible(heading), room, BOLD))
        _print(console, _lines(Scene(table, words(table), room, look(console)), column, top))
    if not tables:
        _print(console, [Text("There is no result to show.")])


def _column(table: Table, token: int, of: str) -> int:
    size = len(table.columns)
    if not size:
        raise ArgumentError(f"Got token {token}, but no output token{of} was explained.")
    if token == 0 or abs(token) > size:
        raise ArgumentError(
            f"Got token {token}, but the explained tokens{of} are 1 to {size}, or -{size} to -1 counted from the end."
        )
    return token - 1 if token > 0 else size + token


def _print(console: Console, lines: Iterable[Text]) -> None:
    for line in lines:
        line.rstrip()
        if not console.encoding.startswith("utf"):
            safe = line.plain.encode(console.encoding, "replace").decode(console.encoding)
            line = Text(safe) if safe != line.plain else line
        console.print(line, no_wrap=True, overflow="ignore", crop=False, soft_wrap=True)


def _lines(scene: Scene, column: int | None, top: int | None) -> Iterator[Text]:
    table, width = scene.table, scene.width
    if table.remark:
        yield from paragraph(table.remark, width)
    values = scores(table, scene.text, column)
    scale = table.total_scale if column is None else table.scale
    yield from _running(scene, values, scale, column)
    legend = [_text_legend(scene, values, scale, column)]
    if column is not None:
        yield from ranked(scene, values, column, top or TOP)
    elif table.columns:
        matrix = grid(table, width, scene.look) if top is None else None
        yield from matrix if matrix is not None else listed(scene, top or TOP, whole=top is not None)
        legend.append(_legend(scene, top, fits=matrix is not None))
    yield from paragraph(" · ".join(filter(None, legend)), width, DIM)
    yield from paragraph(" · ".join(f"{label}: {said}" for label, said in table.facts), width, DIM)
    yield Text()


def _running(scene: Scene, values: Cells, scale: Scale, column: int | None) -> Iterator[Text]:
    """What was read and what was written, shaded; the strongest scores are in brackets where there are no colours."""
    power = exponent(largest(scale))
    numbered = set() if scene.look.depth else _in_brackets(values, power)
    room = scene.width if scene.narrow else scene.width - INDENT
    for name in ("input", "output"):
        found: list[Piece] = []
        for i, (word, value) in enumerate(zip(scene.text, values, strict=True)):
            if word.line == name:
                marked = column is not None and column in word.columns
                piece = _piece(word, scene.look.shade(value, scale), abs(value or 0.0), marked)
                found += _numbered(piece, f"[{number(value, power)}]" if i in numbered else "", room)
        lines = weightiest(flow(found, room), MOST_LINES)
        if lines and scene.narrow:
            yield Text(name.title())
        for i, line in enumerate(lines):
            yield drawn(line, "" if scene.narrow else left("" if i else name.title(), INDENT))
    if scene.text:
        yield Text()


def _in_brackets(values: Cells, power: int) -> set[int]:
    return {i for i in strongest(values, TOP) if number(values[i], power) != number(0.0)}


def _piece(word: Word, shade: Style, weight: float, marked: bool) -> Piece:
    text, special = word.label.text, word.label.special
    seen = cut(word.text, LONGEST)
    gap = " " if special or (text.startswith(" ") and text.strip(" ")) else ""
    if marked:
        return Piece(f"»{seen}«", shade + MARKED, gap, float("inf"), text.endswith("\n"))
    return Piece(seen, shade + (DIM if special and shade == PLAIN else PLAIN), gap, weight, text.endswith("\n"))


def _numbered(piece: Piece, shown: str, room: int) -> list[Piece]:
    """A number stays on the line of its word wherever a line can hold both."""
    if not shown or cell_len(piece.text) + len(shown) <= room:
        return [piece._replace(text=piece.text + shown)]
    return [piece._replace(ends=False), Piece(shown, weight=piece.weight, ends=piece.ends)]


def _text_legend(scene: Scene, values: Cells, scale: Scale, column: int | None) -> str:
    power = exponent(largest(scale))
    count = len(_in_brackets(values, power))
    if not count:
        return ""
    named = "means over the output tokens" if column is None else f"scores of {cut(scene.table.columns[column].label, MARGIN)}"
    if scene.look.depth:
        return f"shades of the text: {named}, {_range(scale, power)}{unit(power)}"
    return f"in brackets: the {count} strongest {named}{unit(power)}" if count > 1 else f"in brackets: {named}{unit(power)}"


def _legend(scene: Scene, top: int | None, *, fits: bool) -> str:
    table = scene.table
    if not table.rows:
        return ""
    power = exponent(largest(table.scale))
    if fits:
        kind = "colours" if scene.look.depth else "scores"
        return f"rows: input, columns: output, {kind}: {_range(table.scale, power)}{unit(power)}"
    reason = "" if top is not None else f"the matrix, {len(table.rows)} × {len(table.columns)}, does not fit; "
    return f"{reason}after each output token: its {top or TOP} strongest input tokens{unit(power)}"


def _range(scale: Scale, power: int) -> str:
    return f"{number(scale.minimum, power)} to {number(scale.maximum, power)}"
