"""Shades for terminals with 24-bit, 256 or 16 colours, and with none."""

from __future__ import annotations

import os
from functools import cache
from typing import NamedTuple

from rich.color import Color
from rich.console import Console
from rich.style import Style

from inseq.views.colours import LEVELS, RGB, Theme, contrast, ink, palette
from inseq.views.table import Kind, Scale

BLACK, WHITE = 16, 231
"""Of the 256 colours."""

FILLS: dict[tuple[str, Theme], tuple[int, ...]] = {
    ("warm", "light"): (230, 223, 215, 208, 166, 130),
    ("cool", "light"): (195, 153, 117, 75, 32, 25),
    ("warm", "dark"): (236, 94, 130, 172, 208, 215),
    ("cool", "dark"): (236, 24, 25, 32, 75, 117),
}
"""Of the 256 colours, from the weakest to the strongest."""

SIXTEEN: dict[str, tuple[tuple[int, int], ...]] = {
    "warm": ((11, 0), (9, 0), (1, 15)),
    "cool": ((14, 0), (12, 15), (4, 15)),
}
"""Fills with the ink that can be read on them, from the weakest to the strongest on light ground."""

LIGHT_GROUNDS = {"7", *map(str, range(9, 16))}
PLAIN, BOLD, DIM = Style(), Style(bold=True), Style(dim=True)


class ColourDepth(NamedTuple):
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


def look(console: Console) -> ColourDepth:
    """What is known of a terminal. Of its ground only ``COLORFGBG`` tells; most are dark."""
    ground = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    return ColourDepth(None if console.no_color else console.color_system, "light" if ground in LIGHT_GROUNDS else "dark")


@cache
def _shade(level: int, kind: Kind, depth: str, theme: Theme) -> Style:
    zero = LEVELS // 2 if kind == "diverging" else 0
    if level == zero:
        return PLAIN
    if depth == "truecolor":
        fill = palette(kind, theme)[level]
        return Style.from_color(Color.from_rgb(*ink(fill)), Color.from_rgb(*fill))
    side, share = "cool" if level < zero else "warm", abs(level - zero) / (LEVELS - 1 - zero)
    return _of_256(FILLS[side, theme], share) if depth == "256" else _of_16(SIXTEEN[side], share, theme)


def _of_256(fills: tuple[int, ...], share: float) -> Style:
    fill = Color.from_ansi(fills[min(int(share * len(fills)), len(fills) - 1)])
    ground: RGB = tuple(fill.get_truecolor())  # type: ignore[assignment]
    dark = contrast((0, 0, 0), ground) >= contrast((255, 255, 255), ground)
    return Style.from_color(Color.from_ansi(BLACK if dark else WHITE), fill)


def _of_16(stops: tuple[tuple[int, int], ...], share: float, theme: Theme) -> Style:
    """Three shades, for what is not weak."""
    at = min(int(share * (len(stops) + 1)), len(stops)) - 1
    if at < 0:
        return PLAIN
    fill, ink_on_it = stops[at if theme == "light" else len(stops) - 1 - at]
    return Style.from_color(Color.from_ansi(ink_on_it), Color.from_ansi(fill))
