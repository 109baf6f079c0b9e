"""Aggregation: fold the trailing axes of an output one after the other, normalising after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.registry import Registry, bind
from inseq.results.labelled import AggregationFunction, Labelled, aggregation_functions
from inseq.results.scores import S, SequenceScores

Function = str | AggregationFunction
Names = Function | Sequence[Function | None] | None
SelectIdx = int | tuple[int, int] | list[int] | None

aggregators: Registry[Callable[..., Any]] = Registry("aggregator")
"""``@inseq.aggregator("name")`` on a function from a sequence output to another; its keyword-only parameters are options."""

NORMALISED = "columns normalised (L1)"
RESCALED = "largest magnitude is 1"


@dataclass(frozen=True)
class AxisFold:
    """One function over one trailing axis."""

    axis: str
    name: str
    function: AggregationFunction
    unsigned: bool


def aggregate_scores(
    output: S,
    aggregator: Names = None,
    aggregate_fn: Names = None,
    *,
    normalize: bool | None = None,
    rescale: bool = False,
    select_idx: SelectIdx = None,
) -> S:
    """Return a new output with trailing axes folded; see ``FeatureAttributionSequenceOutput.aggregate``."""
    selected = _select(output, select_idx)
    if aggregator is not None and not callable(aggregator) and len(aggregator) == 0:
        return selected
    folds = plan(selected.axes, selected.reduce_by, aggregator, aggregate_fn)
    normal = (output.normalize if normalize is None else normalize) and not rescale
    result = _normalised(selected) if normal and not folds else selected
    for fold in folds:
        result = _folded(result, fold)
        result = _normalised(result) if normal else result
    result = _rescaled(result) if rescale else result
    return replace(result, normalize=normal and bool(result.axes))


def aggregate_by(output: S, aggregator: Names, aggregate_fn: Names, options: dict[str, Any]) -> S | None:
    """Apply an aggregator of that name, if there is one.

    Raises:
        ArgumentError: if a function is named beside it, or it returns something else.
        UnknownArgumentError: for an option that it does not take.
    """
    if not isinstance(aggregator, str) or aggregator not in aggregators:
        return None
    entry = aggregators[aggregator]
    if aggregate_fn is not None and "aggregate_fn" in entry.options:
        options = {**options, "aggregate_fn": aggregate_fn}
    elif aggregate_fn is not None:
        raise ArgumentError(f"aggregate_fn goes with aggregator='scores'; {aggregator!r} combines scores in its own way.")
    bind(options, {entry.name: entry.options})
    found = entry.function(output, **options)
    if not isinstance(found, type(output)):
        raise ArgumentError(
            f"Aggregator {aggregator!r} returned {type(found).__name__}; expected a {type(output).__name__}, such as "
            "dataclasses.replace(output, ...) makes."
        )
    return found


def plan(axes: tuple[str, ...], reduce_by: tuple[str, ...], aggregator: Names, aggregate_fn: Names) -> list[AxisFold]:
    """Pair functions with axes, from the last axis to the first.

    Raises:
        ArgumentError: if both arguments name functions, or a list is longer than there are axes.
        UnknownNameError: for a function nobody registered.
    """
    asked = _asked(aggregator, aggregate_fn)
    if isinstance(asked, list) and len(asked) > len(axes):
        raise ArgumentError(
            f"Got {len(asked)} aggregation functions for {len(axes)} axes to fold "
            f"({', '.join(axes) or 'none is left'}); give one function for all axes, "
            "or a list no longer than the axes, the last axis first."
        )
    defaults = list(reduce_by) + ["mean"] * (len(axes) - len(reduce_by))
    wanted = asked if isinstance(asked, list) else [asked] * len(axes)
    return [_fold(axis, name or default) for axis, name, default in zip(axes[::-1], wanted, defaults, strict=False)]


def _asked(aggregator: Names, aggregate_fn: Names) -> Function | list[Function | None] | None:
    kinds, functions = _plain(aggregator), _plain(aggregate_fn)
    if functions is None:
        return kinds
    if kinds is not None and kinds != [None] * len(functions if isinstance(functions, list) else [0]):
        raise ArgumentError(
            f"Got aggregator={aggregator!r} together with aggregate_fn={aggregate_fn!r}; "
            "name the function in one of them, for instance aggregate('mean')."
        )
    return functions


def _plain(names: Names) -> Function | list[Function | None] | None:
    """``"scores"`` means the default function, as None does."""
    if names is None or isinstance(names, str) or callable(names):
        return None if names == "scores" else names
    return [None if name == "scores" else name for name in names]


def _fold(axis: str, function: Function) -> AxisFold:
    if not isinstance(function, str):
        return AxisFold(axis, getattr(function, "__name__", "custom"), function, False)
    entry = aggregation_functions[function]
    return AxisFold(axis, entry.name, entry.function, bool(entry.facts.get("unsigned")))


def _select(output: S, select_idx: SelectIdx) -> S:
    if select_idx is None:
        return output.copy()
    if not output.axes:
        raise ArgumentError(f"Got select_idx={select_idx!r}, but there is no axis left beyond feature and step.")
    axis = output.axes[-1]
    indices = list(range(*select_idx)) if isinstance(select_idx, tuple) else select_idx
    drops = isinstance(indices, int)
    return _map(
        output,
        lambda scores: scores.select(axis, indices),
        axes=output.axes[:-1] if drops else output.axes,
        reduce_by=output.reduce_by[1:] if drops else output.reduce_by,
        reduced=(*output.reduced, f"{axis} {select_idx}"),
    )


def picked(output: S, axis: str, index: int) -> S:
    """Return a new output with one index of a trailing axis in place of all of them."""
    at = output.axes[::-1].index(axis)
    return _map(
        output,
        lambda scores: scores.select(axis, index),
        axes=tuple(name for name in output.axes if name != axis),
        reduce_by=output.reduce_by[:at] + output.reduce_by[at + 1 :],
        reduced=(*output.reduced, f"{axis} {index}"),
    )


def ranged(output: S, axis: str, start: int, end: int) -> S:
    """Return a new output with a range of a trailing axis."""
    return _map(
        output, lambda scores: scores.select(axis, range(start, end)), reduced=(*output.reduced, f"{axis}s {start} to {end}")
    )


def _folded(output: S, fold: AxisFold) -> S:
    return _map(
        output,
        lambda scores: scores.reduce(fold.axis, fold.function),
        axes=output.axes[:-1],
        reduce_by=output.reduce_by[1:],
        signed=output.signed and not fold.unsigned,
        reduced=(*output.reduced, f"{fold.name} over {fold.axis}"),
    )


def _map(output: S, function: Callable[[Labelled], Labelled], **changes: Any) -> S:
    """Apply a function of the trailing axes to every tensor that has them."""
    axes = ("feature", "step", *output.axes)

    def apply_to(values: Tensor) -> Tensor:
        return function(Labelled(values, axes)).values

    def apply(values: Tensor | None) -> Tensor | None:
        return None if values is None else apply_to(values)

    return replace(
        output,
        source_attributions=apply(output.source_attributions),
        target_attributions=apply(output.target_attributions),
        sequence_scores={name: apply_to(values) for name, values in output.sequence_scores.items()},
        **changes,
    )


def _normalised(output: S) -> S:
    """Make the magnitudes of each step sum to 1, source and target rows together. A column of zeros stays."""
    norms = [scores.abs().nansum(0) for scores in scores_of(output)]
    result = _divided(output, torch.stack(norms).sum(0)) if norms else output
    return replace(result, reduced=(*(r for r in output.reduced if r != NORMALISED), NORMALISED))


def _rescaled(output: S) -> S:
    """Divide by the largest magnitude of the whole output."""
    sizes = [scores.abs().nan_to_num(0.0).amax() for scores in scores_of(output) if scores.numel()]
    result = _divided(output, torch.stack(sizes).amax()) if sizes else output
    return replace(result, reduced=(*(r for r in output.reduced if r != RESCALED), RESCALED))


def scores_of(output: SequenceScores) -> list[Float[Tensor, "feature step *extra"]]:
    return [s for s in (output.source_attributions, output.target_attributions) if s is not None]


def _divided(output: S, divisor: Float[Tensor, "*step_extra"]) -> S:
    safe = divisor.masked_fill(divisor == 0, 1.0)
    source, target = output.source_attributions, output.target_attributions
    return replace(
        output,
        source_attributions=None if source is None else source / safe,
        target_attributions=None if target is None else target / safe,
    )


def weighted(output: S, name: str) -> S:
    """Multiply each step's attributions by its step score."""
    factor = output.step_scores[name]
    source, target = output.source_attributions, output.target_attributions
    over = [factor.reshape(-1, *(1,) * (s.ndim - 2)).to(s) for s in scores_of(output)[:1]]
    return replace(
        output,
        source_attributions=None if source is None else source * over[0],
        target_attributions=None if target is None else target * over[0],
        normalize=False,
        signed=output.signed or bool((factor < 0).any()),
        reduced=(*output.reduced, f"weighted by {name}"),
    )
