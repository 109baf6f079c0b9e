"""Figures of outputs: SVG written by ourselves, everything else through matplotlib, which is needed only then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inseq.errors import ArgumentError
from inseq.outputs.tables import Shown, tables
from inseq.results.aggregate.axes import Names
from inseq.results.files import containers
from inseq.views.look import Look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from inseq.views.table import Table

SUFFIXES = (".svg", ".png", ".pdf")


def plot(
    self: Shown,
    min_val: float | None = None,
    max_val: float | None = None,
    *,
    aggregator: Names = None,
    do_aggregation: bool = True,
    title: str | None = None,
    **options: Any,
) -> Figure:
    """Draw the scores with matplotlib, the texts one below the other; docs/figures.md shows how it looks.

    Args:
        min_val: score at the weak end of the colour scale; None takes it from the scores.
        max_val: score at the strong end.
        aggregator: see ``aggregate``, which also takes the other options.
        do_aggregation: whether to aggregate first. Without it no trailing axis may be left.
        title: a heading.

    Returns:
        A ``matplotlib.figure.Figure``, no wider than 10 inches, which pyplot does not know.

    Raises:
        ArgumentError: if scores of more than two axes are left, or matplotlib is not installed.
        UnknownArgumentError: for an option that ``aggregate`` does not take.

    Warns:
        UserWarning: once, where no installed font has a script that the text needs.
    """
    return figure(tables(self, Look(min_val, max_val), None, aggregator, do_aggregation, options), title)


def save(output: Shown, path: Path) -> None:
    """Write a figure, aggregated by default, as the path's ending says.

    Raises:
        ArgumentError: if matplotlib is needed and not installed, or the path cannot be written.
    """
    drawn = tables(output)
    if path.suffix == ".svg":
        from inseq.views.figure import svg

        data = svg.document(drawn).encode("utf-8")
    else:
        made = figure(drawn)
        from inseq.views.figure.figure import written

        data = written(made, path.suffix.removeprefix("."))
    containers.write(path, data)


def figure(drawn: Sequence[Table], title: str | None = None) -> Figure:
    """Return the figure of tables.

    Raises:
        ArgumentError: if matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ArgumentError(
            "Figures other than .svg need matplotlib, which is not installed: pip install inseq[plot], or save as .svg."
        ) from error
    from inseq.views.figure.figure import plot

    return plot(drawn, title)
