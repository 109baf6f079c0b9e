"""Outputs as a terminal shows them, for the tests of text."""

from __future__ import annotations

import io
from typing import Any

import pytest

from inseq.outputs.sequence import FeatureAttributionSequenceOutput
from inseq.views.table import Table
from inseq.views.tabulate import table
from inseq.views.terminal import render as terminal

WAYS: list[dict[str, Any]] = [{}, {"token": 1}, {"token": -1, "top": 2}, {"top": 1}]


def plain(output: FeatureAttributionSequenceOutput | Table, width: int = 60, **options: Any) -> str:
    file = io.StringIO()
    terminal.render([output if isinstance(output, Table) else table(output)], width=width, file=file, **options)
    return file.getvalue()


def coloured(
    output: FeatureAttributionSequenceOutput, monkeypatch: pytest.MonkeyPatch, environment: str, **options: Any
) -> str:
    """What a terminal gets in an environment such as ``"TERM=xterm COLORTERM=truecolor"``."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "COLORTERM", "TTY_COMPATIBLE", "COLORFGBG"):
        monkeypatch.delenv(name, raising=False)
    for setting in environment.split():
        name, _, value = setting.partition("=")
        monkeypatch.setenv(name, value)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    file = Terminal()
    terminal.render([table(output)], width=60, file=file, **options)
    return file.getvalue()
