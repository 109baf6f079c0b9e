"""Outputs as tables, the intermediate form that every view draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

from inseq.results.aggregate.axes import Names
from inseq.results.aggregate.pipeline import aggregated, merges_tokens, refuse
from inseq.results.aggregate.slices import dimensions
from inseq.results.scores import SequenceScores
from inseq.views.look import Look
from inseq.views.table import Table
from inseq.views.tabulate import table


class Outputs(Protocol):
    """Outputs of one call, and facts that they have in common."""

    @property
    def info(self) -> dict[str, Any]: ...

    def __iter__(self) -> Iterator[SequenceScores]: ...


Shown: TypeAlias = SequenceScores | Outputs
"""An output, or a container of several."""

TELLING = ("Method", "Model", "Explains", "Compared with", "Baseline")
"""Facts that tell results apart."""

SHOW_ARGUMENTS = {
    *("min_val", "max_val", "max_show_size", "show_dim", "slice_dims", "display", "return_html", "return_figure"),
    *("aggregator", "do_aggregation", "title", "theme"),
}


def tables(
    self: Shown,
    look: Look | None = None,
    slice_dims: Any = None,
    aggregator: Names = None,
    do_aggregation: bool = True,
    options: dict[str, Any] | None = None,
) -> list[Table]:
    """Return the intermediate form of each output, aggregated by default: what every view draws.

    ``Table.to_dict`` makes JSON of it, which ``inseq/views/table.schema.json`` describes.

    Args:
        self: an output, or a container of several.
        look: how a view shall look.
        slice_dims: ranges of dimensions, see ``show``.
        aggregator: see ``aggregate``.
        do_aggregation: whether to aggregate first.
        options: further arguments of ``aggregate``.
    """
    look, options = look or Look(), options or {}
    merges = merges_tokens(aggregator)
    if not merges:
        refuse(options, "aggregate", SHOW_ARGUMENTS)
    default = aggregator is None and not options and do_aggregation
    made = []
    for whole in [self] if isinstance(self, SequenceScores) else self:
        cut = dimensions(whole.with_tensors(), slice_dims)
        output = aggregated(cut, aggregator, None, options) if do_aggregation else cut
        output = aggregated(output) if merges and do_aggregation else output
        made.append(table(output, info={**self.info, **whole.info}, look=look, granular=cut if default else None))
    return _told_apart(made)


def _told_apart(made: list[Table]) -> list[Table]:
    """Results of several methods, models or targets are called by what is different in them."""
    facts = [dict(each.facts) for each in made]
    names = [name for name in TELLING if len({fact.get(name, "") for fact in facts}) > 1]
    titles = [", ".join(filter(None, (fact.get(name, "") for name in names))) for fact in facts]
    return [replace(each, title=title) for each, title in zip(made, titles, strict=True)] if names else made
