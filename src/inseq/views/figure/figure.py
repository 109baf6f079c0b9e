"""Figures for matplotlib: the drawing that SVG has, as artists. Nothing global is read or changed; needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure

from inseq.views.colours import css
from inseq.views.figure import fonts
from inseq.views.figure.layout import drawing
from inseq.views.figure.shapes import SLANT, Box, Drawing, Grid, Rule, Text
from inseq.views.table import Table

INCH = 72.0
DOTS, SCREEN_DOTS = 200, 96
ALIGNED = {"start": "left", "middle": "center", "end": "right"}


class Picture(Figure):
    """A figure that notebooks show by themselves, whether or not pyplot was imported."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        return written(self, "png"), {"width": round(self.get_figwidth() * SCREEN_DOTS)}


def plot(tables: Sequence[Table], title: str | None = None) -> Figure:
    """Return a figure of all tables, one below the other, on one axes whose unit is the point.

    Warns:
        UserWarning: once, where no installed font has a script that the text needs.
    """
    drawn = drawing(tables, title)
    figure = Picture(figsize=(drawn.width / INCH, drawn.height / INCH), facecolor="white", edgecolor="white")
    figure.set_layout_engine("none")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    for place, mark in enumerate(drawn.marks):
        if isinstance(mark, Grid):
            _grid(axes, mark, place)
    _boxes(axes, [mark for mark in drawn.marks if isinstance(mark, Box)], len(drawn.marks))
    _rules(axes, [mark for mark in drawn.marks if isinstance(mark, Rule)], len(drawn.marks))
    _texts(axes, drawn)
    axes.set(xlim=(0.0, drawn.width), ylim=(drawn.height, 0.0), autoscale_on=False)
    return figure


def written(figure: Figure, kind: str) -> bytes:
    """Return a figure as a PNG or PDF file. Fonts are embedded as outlines that publishers take."""
    buffer = io.BytesIO()
    dated: dict[str, Any] = {"CreationDate": None} if kind == "pdf" else {}
    with matplotlib.rc_context({"pdf.fonttype": 42, "savefig.bbox": "standard"}):
        figure.savefig(buffer, format=kind, dpi=DOTS, facecolor="white", edgecolor="white", metadata=dated)
    return buffer.getvalue()


def _grid(axes: Axes, grid: Grid, order: int) -> None:
    if grid.gap:
        return _boxes(axes, grid.boxes(), order)
    colours = np.array([[grid.fill(level) for level in row] for row in grid.levels.tolist()], np.uint8)
    right, below = grid.x + grid.width * grid.levels.shape[1], grid.y + grid.height * grid.levels.shape[0]
    extent = (grid.x, right, below, grid.y)
    axes.imshow(colours, extent=extent, aspect="auto", interpolation="none", origin="upper", zorder=order)


def _boxes(axes: Axes, boxes: Sequence[Box], order: int) -> None:
    corners = [[(b.x, b.y), (b.x + b.width, b.y), (b.x + b.width, b.y + b.height), (b.x, b.y + b.height)] for b in boxes]
    fills = [css(box.fill) for box in boxes]
    axes.add_collection(PolyCollection(corners, facecolors=fills, edgecolors="none", zorder=order), autolim=False)


def _rules(axes: Axes, rules: Sequence[Rule], order: int) -> None:
    ends = [[(rule.x, rule.y), (rule.to_x, rule.to_y)] for rule in rules]
    colours, widths = [css(rule.colour) for rule in rules], [rule.width for rule in rules]
    axes.add_collection(LineCollection(ends, colors=colours, linewidths=widths, zorder=order), autolim=False)


def _texts(axes: Axes, drawn: Drawing) -> None:
    texts = [mark for mark in drawn.marks if isinstance(mark, Text)]
    whole = "".join(text.text for text in texts)
    families, missing = fonts.families(whole)
    fonts.warn(whole, missing)
    tofu = str.maketrans(dict.fromkeys(missing, fonts.TOFU))
    for text in texts:
        bold = text.bold and fonts.families(text.text)[0][-1] in fonts.LATIN
        axes.text(
            text.x,
            text.y,
            text.text.translate(tofu),
            fontsize=text.size,
            color=css(text.colour),
            family=[name for name in families if name in fonts.LATIN] if bold else families,
            style="normal",
            weight="bold" if bold else "normal",
            horizontalalignment=ALIGNED[text.anchor],
            verticalalignment="baseline",
            rotation=SLANT if text.slanted else 0.0,
            rotation_mode="anchor",
            parse_math=False,
            usetex=False,
            zorder=len(drawn.marks) + 1,
        )
