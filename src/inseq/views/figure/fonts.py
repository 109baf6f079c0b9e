"""Fonts of figures: those of the machine that have the letters of a text. Needs matplotlib."""

from __future__ import annotations

import contextlib
import unicodedata
import warnings
from collections.abc import Iterator
from functools import cache

import matplotlib
from matplotlib import font_manager
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font

LATIN = ("Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans")
"""The last one comes with matplotlib."""

FURTHER = (
    *("PingFang", "Hiragino Sans", "Microsoft YaHei", "Noto Sans CJK SC", "Source Han Sans SC", "Noto Sans CJK"),
    *("Source Han Sans", "WenQuanYi", "SimHei", "SimSun"),
    *("Yu Gothic", "Malgun Gothic", "Apple SD Gothic", "AR PL", "Droid Sans Fallback", "Noto Sans", "Geeza Pro", "Nirmala UI"),
    *("Leelawadee UI", "Segoe UI", "Noto Emoji", "Symbola", "FreeSans", "Arial Unicode MS", "Unifont"),
)
"""How the names of fonts with other scripts begin, the better looking first."""

TOFU = "□"
MOST_NAMES = 8
SHAPED = (3, 11)
"""The first matplotlib that joins and orders the letters of every script."""


def families(text: str) -> tuple[list[str], str]:
    """Return the families to draw a text with, in order of preference, and the characters that none of them has."""
    chosen, missing = _chosen(text)
    if missing and _look_again():
        chosen, missing = _chosen(text)
    return chosen, missing


def _chosen(text: str) -> tuple[list[str], str]:
    known = {entry.name: entry.fname for entry in reversed(fontManager.ttflist) if entry.style == "normal"}
    missing, chosen = {char for char in text if not char.isspace()}, []
    for name in _candidates(known):
        covered = _covered(known[name])
        if name in LATIN or any(ord(char) in covered for char in missing):
            chosen.append(name)
            missing = {char for char in missing if ord(char) not in covered}
        if not missing and name not in LATIN:
            break
    return chosen, "".join(sorted(missing))


def warn(text: str, missing: str) -> None:
    """Say once which scripts cannot be drawn, or not in their order."""
    svg = "or save as .svg, which uses the reader's fonts"
    if missing:
        names = sorted({_script(char) for char in missing})
        warnings.warn(
            f"No installed font has {', '.join(names[:MOST_NAMES])}{' and more' if len(names) > MOST_NAMES else ''}: what has "
            f"no glyph is drawn as {TOFU}. Install a font that has it, such as Noto Sans (on Debian fonts-noto-cjk or "
            f"fonts-noto-core), {svg}.",
            stacklevel=6,
        )
    if matplotlib.__version_info__ < SHAPED and any(unicodedata.bidirectional(char) in ("R", "AL") for char in text):
        warnings.warn(
            f"matplotlib {matplotlib.__version__} draws what is read from right to left in the wrong order; "
            f"update it to {'.'.join(map(str, SHAPED))}, {svg}.",
            stacklevel=6,
        )


def _candidates(known: dict[str, str]) -> Iterator[str]:
    yield from (name for name in LATIN if name in known)
    for start in FURTHER:
        yield from sorted(name for name in known if name.startswith(start) and name not in LATIN)


@cache
def _look_again() -> bool:
    """Tell whether there are fonts that were installed after matplotlib wrote its list of them; they are added to it, once."""
    known = {entry.fname for entry in fontManager.ttflist}
    added = False
    for path in sorted(set(font_manager.findSystemFonts()) - known):
        with contextlib.suppress(OSError, RuntimeError):  # no font, or one that FreeType cannot read
            fontManager.addfont(path)
            added = True
    return added


@cache
def _covered(path: str) -> frozenset[int]:
    return frozenset(FT2Font(path).get_charmap())


def _script(char: str) -> str:
    """The script of a letter, as its name begins; ``symbols`` for what is none."""
    word = unicodedata.name(char, "SYMBOLS").split()[0]
    letter = unicodedata.category(char)[0] in "LM"
    return (word if word == "CJK" else word.capitalize()) if letter else f"U+{ord(char):04X}"
