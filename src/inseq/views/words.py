"""Model text and numbers as a reader can see them."""

from __future__ import annotations

import math
import unicodedata

NAMED = {"\n": "↵", "\r": "␍", "\t": "⇥", "\x7f": "␡"}
JOINERS = "\u200c\u200d"
MAX_BLANKS = 4


def visible(text: str) -> str:
    """Return text in which nothing is hidden: controls, direction marks and bare blanks have a sign."""
    if not text:
        return "∅"
    if not text.strip(" \u00a0\u3000"):
        return "␣" * len(text) if len(text) <= MAX_BLANKS else f"␣×{len(text)}"
    signs = text if text.isprintable() else _signs(text)
    return f"◌{signs}" if unicodedata.category(text[0]).startswith("M") else signs


def _signs(text: str) -> str:
    lone = all(unicodedata.category(char) == "Cf" for char in text)
    return "".join(char if char in JOINERS and not lone else _sign(char) for char in text)


def _sign(char: str) -> str:
    if char in NAMED:
        return NAMED[char]
    if char < " ":
        return chr(0x2400 + ord(char))
    if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") or ord(char) & 0xFFFE == 0xFFFE:
        return f"⟨U+{ord(char):04X}⟩"
    return char


def exponent(largest: float) -> int:
    """The power of ten that cells are shown in: 0 unless the numbers would be too long or all look like zero."""
    if largest == 0 or not math.isfinite(largest) or 0.05 <= largest < 1000:
        return 0
    return math.floor(math.log10(largest))


def number(value: float | None, power: int = 0) -> str:
    """Return a cell's number with two decimals, in units of ``10 ** power``; nothing for a missing value."""
    if value is None:
        return ""
    text = f"{value / 10.0**power:.2f}" if power > -300 else f"{value:.1e}"
    return text.replace("-", "−") if float(text) else "0.00"


def exact(value: float) -> str:
    """Return a number to six significant digits."""
    return f"{value:.6g}".replace("-", "−", 1) if value < 0 else f"{value:.6g}"


def power_sign(power: int) -> str:
    """Return ``" × 10⁻⁵"``, or nothing for a power of 0."""
    return f" × 10{str(power).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}" if power else ""
