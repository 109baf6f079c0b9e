"""Step functions of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from inseq.errors import ArgumentError, near
from inseq.results.labelled import aggregation_functions
from inseq.targets import InseqForm, is_inseq_form, step_function

AGGREGATORS = ("spans",)
"""The aggregators that combine the values of steps."""


def register_step_function(
    fn: Callable[..., Any],
    identifier: str,
    aggregate_map: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Make a step function known by name, as a target and as a step score.

    Args:
        fn: a function of a :class:`~inseq.requests.Prediction` that returns one number for each of its ``n``
            predictions; or one of ``args``, as Inseq 0.7.1 has them
            (:class:`~inseq.targets.inseq_form.StepFunctionArgs`), which is run step by step. Further parameters are options.
        identifier: the name.
        aggregate_map: how the values of merged steps combine: ``{"spans": "prod"}``; by default the one of largest
            magnitude stands for all.
        overwrite: whether an earlier function of that name is replaced.

    Raises:
        ArgumentError: if the name is taken, or an argument cannot be used.
    """
    if not callable(fn):
        raise ArgumentError(f"fn must be a function, got {type(fn).__name__}.")
    if not isinstance(identifier, str) or not identifier:
        raise ArgumentError(f"identifier must be a name, got {identifier!r}.")
    if identifier in step_function and not overwrite:
        raise ArgumentError(f"Step function {identifier!r} exists: choose another identifier, or pass overwrite=True.")
    facts = {"merge": _merge(aggregate_map)}
    step_function.add(identifier, InseqForm(fn) if is_inseq_form(fn) else fn, facts, overwrite=overwrite)


def _merge(aggregate_map: Mapping[str, str] | None) -> str:
    if aggregate_map is None:
        return DEFAULT_MERGE
    if not isinstance(aggregate_map, Mapping):
        raise ArgumentError(
            f"aggregate_map must be a mapping such as {{'spans': 'prod'}}, got {type(aggregate_map).__name__}."
        )
    for name in aggregate_map:
        if name not in AGGREGATORS:
            raise ArgumentError(
                f"aggregate_map names the aggregator {name!r}.{near(name, AGGREGATORS)} Known: {', '.join(AGGREGATORS)}."
            )
    return aggregation_functions[aggregate_map["spans"]].name if aggregate_map else DEFAULT_MERGE


DEFAULT_MERGE = "absmax"
"""Of a step function that does not say how its values combine."""
