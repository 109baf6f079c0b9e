"""Where a result is shown: a notebook if we are in one, the terminal elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from inseq.views.page import html
from inseq.views.table import Table


def show(tables: Sequence[Table], title: str | None = None, theme: html.Theme = None) -> None:
    """Show tables where the reader is."""
    if in_notebook():
        display = sys.modules["IPython"].display.display
        display({"text/html": html.fragment(tables, title, theme), "text/plain": "Inseq attribution"}, raw=True)
    else:
        # rich is imported where it is needed: it takes a while, and draws from Python's global random state.
        from inseq.views.terminal import render as terminal

        terminal.render(tables, title=title)


def in_notebook() -> bool:
    """Whether an IPython kernel runs us. IPython is looked for, never imported."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return getattr(shell, "kernel", None) is not None
