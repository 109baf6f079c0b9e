"""How outputs are shown, as functions of one output or of a container of several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inseq.errors import ArgumentError, writing
from inseq.outputs.figures import figure
from inseq.outputs.tables import Shown, tables
from inseq.results.aggregate.axes import Names
from inseq.views import surface
from inseq.views.look import Look
from inseq.views.page import html
from inseq.views.table import Table


def show(
    self: Shown,
    min_val: float | None = None,
    max_val: float | None = None,
    max_show_size: int | None = None,
    show_dim: int | str | None = None,
    slice_dims: Any = None,
    display: bool = True,
    return_html: bool = False,
    return_figure: bool = False,
    aggregator: Names = None,
    do_aggregation: bool = True,
    *,
    title: str | None = None,
    theme: str | None = None,
    **options: Any,
) -> Any:
    """Show the scores: as an interactive page in a notebook, as text elsewhere.

    Args:
        self: an output, or a container of several.
        min_val: score at the weak end of the colour scale; None takes it from the scores.
        max_val: score at the strong end.
        max_show_size: how many input tokens are drawn one by one at most: the strongest, with the others in stretches.
        show_dim: the trailing axis, by name or number, whose single indices can be looked at; layers and heads by default.
        slice_dims: ranges of dimensions to show alone, such as ``{"layer": (0, 4)}``.
        display: whether to show anything.
        return_html: whether to return a whole HTML page.
        return_figure: whether to return a matplotlib figure.
        aggregator: see ``aggregate``, which also takes the other options.
        do_aggregation: whether to aggregate first. Without it no trailing axis may be left.
        title: a heading.
        theme: ``"light"`` or ``"dark"``; what the notebook or the reader's system has by default.

    Raises:
        ArgumentError: if scores of more than two axes are left, or an argument is none of these.
        UnknownArgumentError: for an option that ``aggregate`` does not take.
    """
    look = Look(min_val, max_val, max_show_size, show_dim, title, theme)
    made = tables(self, look, slice_dims, aggregator, do_aggregation, options)
    return _shown(made, look, display, return_html, return_figure)


def show_granular(
    self: Shown,
    min_val: float | None = None,
    max_val: float | None = None,
    max_show_size: int | None = None,
    show_dim: int | str | None = None,
    slice_dims: Any = None,
    display: bool = True,
    return_html: bool = False,
    return_figure: bool = False,
) -> Any:
    """Show the scores with a slider for each of layer and head, or for ``show_dim``. The arguments are those of ``show``."""
    return show(self, min_val, max_val, max_show_size, show_dim, slice_dims, display, return_html, return_figure)


def show_tokens(
    self: Shown,
    min_val: float | None = None,
    max_val: float | None = None,
    display: bool = True,
    return_html: bool = False,
    return_figure: bool = False,
    replace_char: dict[str, str] | None = None,
    wrap_after: int | str | list[str] | None = None,
    step_score_highlight: str | None = None,
    aggregator: Names = None,
    do_aggregation: bool = True,
    **options: Any,
) -> Any:
    """Show the running text, with what each generated token owes to it.

    Args:
        self: an output, or a container of several.
        min_val: see ``show``, as for the arguments not named here.
        max_val: score at the strong end of the colour scale.
        display: whether to show anything.
        return_html: whether to return a whole HTML page.
        return_figure: whether to return a matplotlib figure.
        replace_char: texts to exchange in what tokens show.
        wrap_after: break the line after so many tokens, or after tokens that end in a text, or in one of several.
        step_score_highlight: the step score that underlines the output.
        aggregator: see ``aggregate``, which also takes the other options.
        do_aggregation: whether to aggregate first.
    """
    look = Look(min_val, max_val, highlight=step_score_highlight or "", replace_char=replace_char, wrap_after=wrap_after)
    made = tables(self, look, None, aggregator, do_aggregation, options)
    return _shown(made, look, display, return_html, return_figure)


def repr_html(self: Shown) -> str:
    """Return HTML for a notebook, aggregated by default."""
    return html.fragment(tables(self))


def save_html(self: Shown, path: str | Path, *, title: str | None = None) -> None:
    """Write one page, which stands alone: it answers to clicks and keys, and asks for nothing."""
    page = html.page(tables(self), title)
    with writing(path):
        Path(path).write_text(page, encoding="utf-8")


def _shown(made: list[Table], look: Look, display: bool, return_html: bool, return_figure: bool) -> Any:
    if return_html and return_figure:
        raise ArgumentError("Got return_html=True and return_figure=True; a call returns one of them.")
    if display:
        surface.show(made, look.title, look.theme)
    if return_figure:
        return figure(made, look.title)
    return html.page(made, look.title, look.theme) if return_html else None
