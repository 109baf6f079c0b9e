"""Palettes: 33 fills a scale, each with a text colour that can be read on it. Plain integers throughout."""

from __future__ import annotations

from typing import Literal

RGB = tuple[int, int, int]
Theme = Literal["light", "dark"]
LEVELS = 33
CONTRAST = 4.5

PAPER: dict[Theme, RGB] = {"light": (255, 255, 255), "dark": (22, 24, 29)}
ORANGE: dict[Theme, list[RGB]] = {
    "light": [(254, 236, 217), (253, 196, 138), (240, 140, 58), (192, 84, 16)],
    "dark": [(58, 40, 27), (116, 67, 28), (190, 105, 34), (255, 170, 92)],
}
BLUE: dict[Theme, list[RGB]] = {
    "light": [(225, 237, 250), (160, 202, 240), (80, 150, 215), (24, 92, 168)],
    "dark": [(26, 42, 62), (28, 72, 118), (46, 112, 182), (122, 186, 255)],
}
INKS: tuple[RGB, ...] = ((31, 35, 40), (240, 243, 246))
EXTREMES: tuple[RGB, ...] = ((0, 0, 0), (255, 255, 255))


def palette(kind: Literal["sequential", "diverging"], theme: Theme) -> list[RGB]:
    """Return the fills of a scale from its minimum to its maximum; zero has the colour of the paper."""
    paper = PAPER[theme]
    if kind == "sequential":
        return _blend([paper, *ORANGE[theme]], LEVELS)
    half = LEVELS // 2 + 1
    return _blend([paper, *BLUE[theme]], half)[:0:-1] + _blend([paper, *ORANGE[theme]], half)


def ink(fill: RGB) -> RGB:
    """Return a text colour whose contrast with the fill is at least 4.5 to 1."""
    best = max(INKS, key=lambda colour: contrast(colour, fill))
    return best if contrast(best, fill) >= CONTRAST else max(EXTREMES, key=lambda colour: contrast(colour, fill))


def contrast(a: RGB, b: RGB) -> float:
    """Return the contrast ratio of two colours as WCAG 2 defines it."""
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def css(colour: RGB) -> str:
    """Return ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _luminance(colour: RGB) -> float:
    red, green, blue = (c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _blend(stops: list[RGB], n: int) -> list[RGB]:
    colours: list[RGB] = []
    for i in range(n):
        at = i * (len(stops) - 1) / (n - 1)
        left = min(int(at), len(stops) - 2)
        (r, g, b), (R, G, B), share = stops[left], stops[left + 1], at - left
        colours.append((round(r + (R - r) * share), round(g + (G - g) * share), round(b + (B - b) * share)))
    return colours
