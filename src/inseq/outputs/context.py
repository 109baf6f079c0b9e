"""The reliance of an output on its context, with methods that show it."""

from __future__ import annotations

from pathlib import Path

from inseq.errors import writing
from inseq.results.context import ContextScores
from inseq.views import surface
from inseq.views.context import context_table
from inseq.views.page import html


class AttributeContextOutput(ContextScores):
    """Which tokens of an output depend on the context, and on which of the context's tokens.

    The fields are those of ``ContextScores``.
    """

    def show(self, *, display: bool = True, return_html: bool = False, title: str | None = None) -> str | None:
        """Show the cues of each selected token: as HTML in a notebook, as text elsewhere."""
        tables = [context_table(self)]
        if display:
            surface.show(tables, title)
        return html.page(tables, title) if return_html else None

    def save_html(self, path: str | Path, *, title: str | None = None) -> None:
        """Write a page that stands alone."""
        page = self.show(display=False, return_html=True, title=title)
        with writing(path):
            Path(path).write_text(page or "", encoding="utf-8")
