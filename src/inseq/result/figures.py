"""Figures of outputs: SVG written by ourselves, everything else through matplotlib, which is needed only then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inseq.errors import ArgumentError
from inseq.result import containers, facade
from inseq.result.aggregate import Names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from inseq.result.output import FeatureAttributionOutput
    from inseq.result.sequence import FeatureAttributionSequenceOutput
    from inseq.views.table import Table

SUFFIXES = (".svg", ".png", ".pdf")


def plot(
    self: FeatureAttributionOutput | FeatureAttributionSequenceOutput,
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
    return figure(_tables(self, (min_val, max_val), aggregator, do_aggregation, options), title)


def save(output: FeatureAttributionOutput, path: Path) -> None:
    """Write a figure, aggregated by default, as the path's ending says.

    Raises:
        ArgumentError: if matplotlib is needed and not installed, or the path cannot be written.
    """
    tables = _tables(output, (None, None), None, True, {})
    if path.suffix == ".svg":
        from inseq.views import svg

        data = svg.document(tables).encode("utf-8")
    else:
        made = figure(tables, None)
        from inseq.views.figure import written

        data = written(made, path.suffix.removeprefix("."))
    containers.write(path, data)


def figure(tables: Sequence[Table], title: str | None) -> Figure:
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
    from inseq.views.figure import plot

    return plot(tables, title)


def _tables(
    output: FeatureAttributionOutput | FeatureAttributionSequenceOutput,
    limits: tuple[float | None, float | None],
    aggregator: Names,
    do_aggregation: bool,
    options: dict[str, Any],
) -> list[Table]:
    from inseq.result.output import FeatureAttributionOutput
    from inseq.result.pipeline import merges_tokens
    from inseq.views.tabulate import table

    sequences = list(output) if isinstance(output, FeatureAttributionOutput) else [output]
    merges = merges_tokens(aggregator)
    if not merges:
        facade.refuse(options, "aggregate", {"min_val", "max_val", "aggregator", "do_aggregation", "title"})
    if do_aggregation:
        sequences = [sequence.aggregate(aggregator, **options) for sequence in sequences]
    if merges and do_aggregation:
        sequences = [sequence.aggregate() for sequence in sequences]
    minimum, maximum = limits
    return [table(s, info={**output.info, **s.info}, min_val=minimum, max_val=maximum) for s in sequences]
