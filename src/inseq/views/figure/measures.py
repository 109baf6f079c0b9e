"""How much room text takes, without a font: a sans-serif as it is on most systems, rather too wide than too narrow."""

from __future__ import annotations

import unicodedata

NARROW, BROAD = frozenset("fijlrtI .,:;'|!()[]{}/\\-·"), frozenset("mwMW@%—…")
MAX_CHARS = 200


def width(text: str, size: float) -> float:
    """Return an estimate of a line's width, in the unit of the font size."""
    return size * sum(map(_advance, text))


def cut(text: str, room: float, size: float) -> str:
    """Return as much of a text as there is room for, with an ellipsis where it ends early."""
    used, kept = 0.0, 0
    room -= width("…", size)
    for i, char in enumerate(text[: MAX_CHARS + 1]):
        used += size * _advance(char)
        kept = i + 1 if used <= room and i < MAX_CHARS else kept
    short = len(text) <= MAX_CHARS and used <= room + width("…", size)
    return text if short else text[:kept].rstrip() + "…"


def wrapped(text: str, room: float, size: float) -> list[str]:
    """Break a text into lines, between words, and within those that are longer than a line."""
    lines = [""]
    used, blank = 0.0, width(" ", size)
    for word in text.split():
        wide = width(word, size)
        if lines[-1] and used + blank + wide <= room:
            lines[-1] += f" {word}"
            used += blank + wide
            continue
        pieces = [word] if wide <= room else _pieces(word, room, size)
        lines += pieces
        used = width(pieces[-1], size)
    return lines[1:]


def _pieces(word: str, room: float, size: float) -> list[str]:
    """Pieces of a word as long as a line."""
    starts, used = [0], 0.0
    for i, char in enumerate(word):
        used += size * _advance(char)
        if used > room and i > starts[-1]:
            starts.append(i)
            used = size * _advance(char)
    return [word[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


def from_right(text: str) -> bool:
    """Whether a text is read from right to left, as its first letter says."""
    sides = (unicodedata.bidirectional(char) for char in text)
    return next((side != "L" for side in sides if side in ("L", "R", "AL")), False)


def _advance(char: str) -> float:
    category = unicodedata.category(char)
    if category in ("Mn", "Me", "Cf"):
        return 0.0
    if unicodedata.east_asian_width(char) in "WF":
        return 1.0
    if char in NARROW:
        return 0.34
    if char in BROAD:
        return 0.95
    return 0.72 if category == "Lu" else 0.58
