"""Shades for terminals with 24-bit, 256 and 16 colours, and numbers where there are none."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from results import translation
from rich.color import Color, ColorSystem
from rich.style import Style
from rich.text import Text
from screens import WAYS, coloured, plain

from inseq.views.colours import LEVELS, contrast
from inseq.views.table import Scale
from inseq.views.tabulate import table
from inseq.views.terminal import render as terminal
from inseq.views.terminal.ansi import ColourDepth


def grounds(line: str) -> dict[str, Color | None]:
    """Stretches of a line -> what is behind them."""
    text = Text.from_ansi(line)
    return {text.plain[s.start : s.end]: s.style.bgcolor for s in text.spans if isinstance(s.style, Style)}


DEPTHS = {
    "truecolor": ("TERM=xterm-256color COLORTERM=truecolor", "48;2;255;170;92"),
    "256": ("TERM=xterm-256color", "48;5;215"),
    "16": ("TERM=xterm", "103"),
}


@pytest.mark.parametrize("depth", DEPTHS)
def test_colours_go_to_terminals_that_have_them(depth: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment, strongest = DEPTHS[depth]
    out = translation([[0.5, 0.2], [0.7, 0.8], [0.0, 0.0]])
    shown = coloured(out, monkeypatch, environment)
    assert re.search(rf"{strongest}m *0\.80", shown)
    assert "[0.35]" not in shown
    first = grounds(shown.splitlines()[0])
    assert first["我"] is not None
    assert first["喜欢"] not in (None, first["我"])
    assert first["</s>"] is None
    token = coloured(out, monkeypatch, environment, token=2)
    assert f"{strongest}m喜欢" in token
    assert "\x1b[1;4m»like«" in token


@pytest.mark.parametrize("environment", ["NO_COLOR=1 TERM=xterm-256color COLORTERM=truecolor", "TERM=dumb"])
def test_without_colours_the_numbers_stand_in_the_text(environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = coloured(translation(), monkeypatch, environment)
    assert not re.search(r"\x1b\[[\d;]*[34]\d", shown)
    assert "我[0.30]喜欢[0.55]" in Text.from_ansi(shown).plain


def test_what_is_no_terminal_gets_no_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert not any("\x1b" in plain(translation(), **way) for way in WAYS)


def test_a_light_ground_has_the_colours_of_the_light_page(monkeypatch: pytest.MonkeyPatch) -> None:
    light = coloured(translation(), monkeypatch, "TERM=xterm COLORTERM=truecolor COLORFGBG=0;default;15")
    assert "48;2;192;84;16m" in light
    dark = coloured(translation(), monkeypatch, "TERM=xterm COLORTERM=truecolor COLORFGBG=15;0")
    assert "48;2;255;170;92m" in dark


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["sequential", "diverging"])
@pytest.mark.parametrize("depth", ["truecolor", "256", "standard", "windows"])
def test_every_shade_can_be_read_and_strong_ones_stand_out(depth: str, kind: Any, theme: Any) -> None:
    scale = Scale(-1.0 if kind == "diverging" else 0.0, 1.0, kind)
    values = [scale.minimum + i * (1.0 - scale.minimum) / (LEVELS - 1) for i in range(LEVELS)]
    styles = [ColourDepth(depth, theme).shade(value, scale) for value in values]
    middle = LEVELS // 2 if kind == "diverging" else 0
    assert (
        styles[middle] == ColourDepth(depth, theme).shade(None, scale) == ColourDepth(None, theme).shade(1.0, scale) == Style()
    )
    filled = [(style.color, style.bgcolor) for style in styles if style != Style()]
    assert len(filled) >= LEVELS * 0.7
    assert all(contrast(rgb(ink), rgb(fill)) >= 4.5 for ink, fill in filled)
    systems = {"truecolor": ColorSystem.TRUECOLOR, "256": ColorSystem.EIGHT_BIT}
    assert {fill.system for _, fill in filled if fill} == {systems.get(depth, ColorSystem.STANDARD)}
    paper = (255, 255, 255) if theme == "light" else (0, 0, 0)
    for side in (styles[middle:], styles[middle::-1]):
        apart = [contrast(rgb(style.bgcolor), paper) for style in side if style.bgcolor is not None]
        assert apart == sorted(apart)
        assert not apart or apart[-1] > 4


def rgb(colour: Color | None) -> tuple[int, int, int]:
    assert colour is not None
    return tuple(colour.get_truecolor())  # type: ignore[return-value]


def test_a_terminal_without_unicode_gets_question_marks() -> None:
    for way in WAYS:
        raw = io.BytesIO()
        file = io.TextIOWrapper(raw, encoding="ascii")
        terminal.render([table(translation())], width=60, file=file, **way)
        file.flush()
        assert b"0.80" in raw.getvalue() or b"0.60" in raw.getvalue()
        assert b"?" in raw.getvalue()
