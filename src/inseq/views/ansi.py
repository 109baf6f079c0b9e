"""Shades for terminals with 24-bit, 256 or 16 colours, and with none."""

from __future__ import annotations

import os
from functools import cache
from typing import NamedTuple

from rich.color import Color, ColorSystem
from rich.console import Console
from rich.style import Style

from inseq.views.colours import LEVELS, RGB, Theme, contrast, ink, palette
from inseq.views.table import Kind, Scale

BLACK, WHITE = 16, 231
"""Of the 256 colours."""

SIXTEEN: dict[str, tuple[tuple[int, int], ...]] = {
    "warm": ((11, 0), (9, 0), (1, 15)),
    "cool": ((14, 0), (12, 15), (4, 15)),
}
"""Fills with the ink that can be read on them, from the weakest to the strongest on light ground."""

LIGHT_GROUNDS = {"7", *map(str, range(9, 16))}
PLAIN, BOLD, DIM = Style(), Style(bold=True), Style(dim=True)


class Look(NamedTuple):
    """What a terminal can show.

    Attributes:
        depth: ``truecolor``, ``256``, ``standard`` or ``windows``, the last two of 16 colours; None for no colours.
        theme: whether the ground is light or dark.
    """

    depth: str | None
    theme: Theme

    def shade(self, value: float | None, scale: Scale) -> Style:
        """The style of a score."""
        if value is None or self.depth is None:
            return PLAIN
        return _shade(scale.level(value, LEVELS), scale.kind, self.depth, self.theme)


def look(console: Console) -> Look:
    """What is known of a terminal. Of its ground only ``COLORFGBG`` tells; most are dark."""
    ground = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    return Look(None if console.no_color else console.color_system, "light" if ground in LIGHT_GROUNDS else "dark")


@cache
def _shade(level: int, kind: Kind, depth: str, theme: Theme) -> Style:
    zero = LEVELS // 2 if kind == "diverging" else 0
    if level == zero:
        return PLAIN
    if depth in ("truecolor", "256"):
        fill = palette(kind, theme)[level]
        return _exact(fill) if depth == "truecolor" else _nearest(fill)
    stops = SIXTEEN["cool" if level < zero else "warm"]
    share = abs(level - zero) / (LEVELS - 1 - zero)
    at = min(int(share * len(stops)), len(stops) - 1)
    fill_number, ink_number = stops[at if theme == "light" else len(stops) - 1 - at]
    return Style.from_color(Color.from_ansi(ink_number), Color.from_ansi(fill_number))


def _exact(fill: RGB) -> Style:
    return Style.from_color(Color.from_rgb(*ink(fill)), Color.from_rgb(*fill))


def _nearest(fill: RGB) -> Style:
    """The nearest of 256 colours; the ink is chosen for that one."""
    near = Color.from_rgb(*fill).downgrade(ColorSystem.EIGHT_BIT)
    ground: RGB = tuple(near.get_truecolor())  # type: ignore[assignment]
    dark = contrast((0, 0, 0), ground) >= contrast((255, 255, 255), ground)
    return Style.from_color(Color.from_ansi(BLACK if dark else WHITE), near)
