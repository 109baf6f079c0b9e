"""Several aggregations one after the other, by every name that Inseq has for them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from inseq.errors import ArgumentError
from inseq.registry import bind
from inseq.results.aggregate.axes import aggregate_by, aggregate_scores, aggregators
from inseq.results.scores import S

SCORING = {
    name: parameter.default
    for name, parameter in inspect.signature(aggregate_scores).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
}
"""Options of what folds trailing axes; at its default one says nothing, and an aggregator need not take it."""

Stage = tuple[Any, Any]
"""An aggregator, or a function over an axis, and the function that goes with it."""


class Aggregator:
    """An aggregator by its class, as Inseq 0.7.1 has them; ours are functions, registered with ``inseq.aggregator``.

    Attributes:
        aggregator_name: what it is called.
    """

    aggregator_name = "scores"


class AggregatorPipeline:
    """Aggregators to be applied from left to right.

    Args:
        aggregators: their names, classes or functions.
        aggregate_fn: for each, the function that goes with it.
    """

    def __init__(self, aggregators: Sequence[Any], aggregate_fn: Sequence[Any] | None = None) -> None:
        self.stages = list(zip(aggregators, aggregate_fn or [None] * len(aggregators), strict=True))


def aggregated(output: S, aggregator: Any = None, aggregate_fn: Any = None, options: Mapping[str, Any] | None = None) -> S:
    """Return a new output, aggregated by name, by function, or by several of both one after the other.

    Args:
        output: the output.
        aggregator: see ``FeatureAttributionSequenceOutput.aggregate``.
        aggregate_fn: likewise.
        options: its further arguments.

    Raises:
        ArgumentError: for functions that do not fit.
        UnknownArgumentError: for an option that nothing takes.
    """
    options = {name: value for name, value in (options or {}).items() if name not in SCORING or value is not SCORING[name]}
    scores = output.with_tensors()
    if (result := _staged(scores, aggregator, aggregate_fn, options)) is not None:
        return result
    refuse(options, "aggregate")
    return aggregate_scores(scores, aggregator, aggregate_fn, **options)


def refuse(options: dict[str, Any], taker: str, also: set[str] | None = None) -> None:
    """Check keywords against the options of aggregation.

    Raises:
        UnknownArgumentError: for the first keyword that it does not take, with the near ones.
    """
    parameters = inspect.signature(aggregate_scores).parameters.values()
    known = {p.name: p.default for p in parameters if p.default is not p.empty}
    bind(options, {taker: known}, also)


def _staged(output: S, aggregator: Any, aggregate_fn: Any, options: dict[str, Any]) -> S | None:
    """Apply what is not one function for all trailing axes, or one for each; None where it is.

    Options go to every stage that takes them. Functions that follow each other fold the trailing axes, the last axis first;
    one by itself folds them all.

    Raises:
        ArgumentError: for functions that do not fit.
        UnknownArgumentError: for an option that no stage takes.
    """
    stages = _stages(aggregator, aggregate_fn)
    if stages is None or not any(_merges(name) for name, _ in stages):
        return None
    folds = any(not _merges(name) for name, _ in stages)
    takers = {name: aggregators[name].options for name, _ in stages if _merges(name)} | ({"scores": SCORING} if folds else {})
    bind(options, takers)
    for merges, group in groupby(stages, key=lambda stage: _merges(stage[0])):
        if not merges:
            functions = [_function(*stage) for stage in group]
            given = {name: value for name, value in options.items() if name in SCORING}
            output = aggregate_scores(output, functions[0] if len(functions) == 1 else functions, **given)
            continue
        for name, function in group:
            taken = {key: value for key, value in options.items() if key in aggregators[name].options}
            found = aggregate_by(output, name, function, taken)
            assert found is not None
            output = found
    return output


def aggregate_at(output: S, aggregator: Sequence[str] | None, selectors: Sequence[int] | None, **options: Any) -> S:
    """Aggregate as Inseq's command line does, with an index for each aggregator in place of its function.

    Args:
        output: the output.
        aggregator: aggregators and functions.
        selectors: the index along the last axis, then that along the axis before, and so on. What is left of the axes is
            folded by the last of the functions, or by the method's own.
        **options: ``normalize`` and ``rescale``.
    """
    names, indices = list(aggregator or []), list(selectors or [])
    for index in indices:
        output = aggregated(output, [], None, {"select_idx": index})
    functions = [i for i, name in enumerate(names) if not merges_tokens(name)]
    replaced = functions[: min(len(indices), max(0, len(functions) - len(output.axes)))]
    names = [name for i, name in enumerate(names) if i not in replaced]
    names += ["scores"] if len(functions) == len(replaced) else []
    return aggregated(output, names[0] if len(names) == 1 else names, None, options)


def merges_tokens(aggregator: Any) -> bool:
    """Whether anything but trailing axes is aggregated."""
    stages = _stages(aggregator, None)
    return stages is not None and any(_merges(name) for name, _ in stages)


def _stages(aggregator: Any, aggregate_fn: Any) -> list[Stage] | None:
    """What is asked for, stage by stage; None for nothing, and for what is not a list."""
    if isinstance(aggregator, AggregatorPipeline):
        return [(_named(name), function) for name, function in aggregator.stages]
    if isinstance(aggregator, str) or inspect.isclass(aggregator):
        return [(_named(aggregator), aggregate_fn)]
    if not isinstance(aggregator, list | tuple) or not aggregator:
        return None
    if all(isinstance(each, list | tuple) and len(each) == 2 for each in aggregator):
        return [(_named(name), function) for name, function in aggregator]
    functions = [aggregate_fn] * len(aggregator) if aggregate_fn is None else aggregate_fn
    if not isinstance(functions, list | tuple) or len(functions) != len(aggregator):
        raise ArgumentError(
            f"aggregate_fn must have an entry for each of {len(aggregator)} aggregators (None for its own), got "
            f"{aggregate_fn!r}."
        )
    return [(_named(name), function) for name, function in zip(aggregator, functions, strict=True)]


def _named(each: Any) -> Any:
    """The name of an aggregator that is given by its class."""
    return getattr(each, "aggregator_name", each) if inspect.isclass(each) else each


def _merges(name: Any) -> bool:
    return isinstance(name, str) and name in aggregators


def _function(name: Any, function: Any) -> Any:
    """The function of a stage that folds an axis; None is the method's own."""
    if function is not None and name not in (None, "scores"):
        raise ArgumentError(f"Got {name!r} together with {function!r}: both name a function.")
    return function if name in (None, "scores") else name
