"""From what a method found to the output that users hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from inseq.call.positions import Explained
from inseq.errors import ArgumentError
from inseq.methods import Attribution
from inseq.outputs.sequence import FeatureAttributionSequenceOutput
from inseq.requests.example import Example
from inseq.results.alternatives import Alternatives
from inseq.text.tokens import Token


def sequence_output(
    x: Example,
    job: Explained,
    found: Attribution,
    step_scores: dict[str, Tensor],
    tokens: tuple[Sequence[Token], Sequence[Token]],
    facts: dict[str, Any],
    info: dict[str, Any],
    alternatives: Alternatives = (),
) -> FeatureAttributionSequenceOutput:
    """Build the output of one example.

    Args:
        x: the example.
        job: the text it was made of.
        found: what its method returned.
        step_scores: what was recorded, by name.
        tokens: all tokens of the input (``source``) and of the decoder (``target``); the latter are the output's from now on.
        facts: what the method declares.
        info: what was done.
        alternatives: what was recorded of the most probable tokens.
    """
    _check(x, found, info["attribution_method"])
    source, target = tokens
    by_side = _by_side(x, found.scores)
    reduce_by = tuple(facts["reduce_by"]) if x.granular else ()
    folded = not x.granular and "vnorm" in facts["reduce_by"]
    return FeatureAttributionSequenceOutput(
        source=[token.copy() for token in source],
        target=list(target),
        source_attributions=by_side[0],
        target_attributions=by_side[1],
        step_scores=step_scores,
        sequence_scores=dict(found.sequence_scores),
        attr_pos_start=job.window[0],
        attr_pos_end=job.window[1],
        spans=job.spans or (),
        axes=tuple(facts["axes"]) if x.granular else (),
        reduce_by=reduce_by,
        normalize=facts["normalize"],
        signed=facts["signed"] and not folded,
        diagnostics=dict(found.diagnostics),
        alternatives=alternatives,
        info=info,
    )


def _check(x: Example, found: Any, method: str) -> None:
    """What a method of anybody's returned.

    Raises:
        ArgumentError: unless it is an attribution with a row for each feature and a column for each step.
    """
    if not isinstance(found, Attribution):
        raise ArgumentError(f"Method {method!r} returned {type(found).__name__}; expected an inseq.methods.Attribution.")
    expected = (len(x.features), len(x.steps))
    if found.scores is not None and tuple(found.scores.shape[:2]) != expected:
        raise ArgumentError(
            f"Method {method!r} returned scores of shape {tuple(found.scores.shape)}; expected {expected} (feature, step) and "
            "its further axes."
        )


def _by_side(x: Example, found: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Scores of the encoder's and of the decoder's tokens; what a step has not read is no number."""
    if found is None:
        return None, None
    unseen = ~_like(x.seen, found)
    source = found[: x.n_source].masked_fill(unseen[: x.n_source], torch.nan) if x.n_source else None
    if len(x.context):
        return source, None
    target = _with_last_row(found[x.n_source :])
    target[:-1].masked_fill_(unseen[x.n_source :], torch.nan)
    return source, target


def _like(seen: Tensor, scores: Tensor) -> Tensor:
    return seen.reshape(*seen.shape, *[1] * (scores.ndim - 2))


def _with_last_row(scores: Tensor) -> Tensor:
    """The last explained token is nobody's input: its row stands empty."""
    return torch.cat([scores, scores.new_full((1, *scores.shape[1:]), torch.nan)])
