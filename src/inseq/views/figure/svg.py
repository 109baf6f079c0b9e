"""SVG: shapes and text. Nothing in it runs, refers to anything, or could be started by model text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

from inseq.views.colours import PAPER, css
from inseq.views.figure.layout import drawing
from inseq.views.figure.measures import from_right
from inseq.views.figure.shapes import SLANT, Anchor, Box, Grid, Mark, Rule, Text
from inseq.views.table import Table

FAMILY = (
    "'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', 'Noto Sans', 'DejaVu Sans', 'PingFang SC', 'Hiragino Sans', "
    "'Microsoft YaHei', 'Noto Sans CJK SC', 'Source Han Sans SC', 'WenQuanYi Micro Hei', sans-serif"
)
SWAPPED: dict[Anchor, Anchor] = {"start": "end", "middle": "middle", "end": "start"}


def document(tables: Sequence[Table], title: str | None = None) -> str:
    """Return an SVG document of all tables, one below the other."""
    drawn = drawing(tables, title)
    marks = "\n".join(_mark(mark) for mark in drawn.marks)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{drawn.width:g}pt" height="{drawn.height:g}pt" '
        f'viewBox="0 0 {drawn.width:g} {drawn.height:g}" role="img" aria-label="{_escaped(drawn.title)}" '
        f'font-family="{FAMILY}" xml:space="preserve">\n'
        f'<rect width="{drawn.width:g}" height="{drawn.height:g}" fill="#ffffff"/>\n{marks}\n</svg>\n'
    )


def _mark(mark: Mark) -> str:
    match mark:
        case Box():
            return _box(mark)
        case Text():
            return _text(mark)
        case Rule():
            ends = f'x1="{_n(mark.x)}" y1="{_n(mark.y)}" x2="{_n(mark.to_x)}" y2="{_n(mark.to_y)}"'
            return f'<line {ends} stroke="{css(mark.colour)}" stroke-width="{_n(mark.width)}"/>'
        case Grid():
            return "\n".join(map(_box, mark.boxes())) if mark.gap else _dense(mark)


def _box(box: Box) -> str:
    place = f'x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" height="{_n(box.height)}"'
    return f'<rect {place} fill="{css(box.fill)}"/>'


def _text(text: Text) -> str:
    right = from_right(text.text)
    anchor = SWAPPED[text.anchor] if right else text.anchor
    kinds = [f'x="{_n(text.x)}" y="{_n(text.y)}" font-size="{_n(text.size)}" fill="{css(text.colour)}"']
    kinds += [f'text-anchor="{anchor}"'] if anchor != "start" else []
    kinds += ['font-weight="600"'] if text.bold else []
    kinds += ['direction="rtl" unicode-bidi="isolate"'] if right else []
    kinds += [f'transform="rotate({-SLANT:g} {_n(text.x)} {_n(text.y)})"'] if text.slanted else []
    return f"<text {' '.join(kinds)}>{_escaped(text.text)}</text>"


def _dense(grid: Grid) -> str:
    """Many small cells: a path for each colour, whose strokes are as long as neighbours have that colour."""
    strokes: dict[int, list[str]] = {}
    for i, row in enumerate(grid.levels.tolist()):
        for level, start, end in _runs(row):
            strokes.setdefault(level, []).append(f"M{start} {i}h{end - start}")
    place = f"translate({_n(grid.x)} {_n(grid.y + grid.height / 2)}) scale({grid.width:.5g} {grid.height:.5g})"
    paths = [
        f'<path d="{"".join(strokes[level])}" stroke="{css(grid.fill(level))}"/>'
        for level in sorted(strokes)
        if grid.fill(level) != PAPER["light"]
    ]
    return "\n".join([f'<g transform="{place}" fill="none" stroke-width="1" shape-rendering="crispEdges">', *paths, "</g>"])


def _runs(levels: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    at = 0
    for level, members in groupby(levels):
        end = at + len(list(members))
        yield level, at, end
        at = end


def _n(value: float) -> str:
    """A length to a hundredth of a point."""
    return f"{round(value, 2):.7g}"


def _escaped(text: str) -> str:
    return escape(text, quote=True)
