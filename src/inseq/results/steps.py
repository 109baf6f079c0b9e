"""The same scores step by step: one output for each step, with a row for each text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from inseq.results.scores import Scored, SequenceScores
from inseq.text.tokens import Token


@dataclass(kw_only=True, eq=False)
class FeatureAttributionStepOutput(Scored):
    """Scores of one step of each text; of a text that has no such step, NaN.

    Attributes:
        source: the source tokens of each text, or its prompt.
        prefix: what of ``target`` stands before the step.
        target: what the step explains, a single token for each text, or none.
        source_attributions: scores of source tokens, padded with NaN, or None.
        target_attributions: scores of the prefix, padded with NaN, or None.
        step_scores: values of step functions.
        sequence_scores: other matrices of the whole texts, padded with NaN; the same tensors in every step.
    """

    source: list[list[Token]]
    prefix: list[list[Token]]
    target: list[list[Token]]
    source_attributions: Float[Tensor, "text source *extra"] | None = None
    target_attributions: Float[Tensor, "text prefix *extra"] | None = None
    step_scores: dict[str, Shaped[Tensor, " text"]] = field(default_factory=dict)
    sequence_scores: dict[str, Float[Tensor, "text row column *extra"]] = field(default_factory=dict)


def step_outputs(outputs: Sequence[SequenceScores]) -> list[FeatureAttributionStepOutput]:
    """Cut the outputs of a call into steps, the first of every text first."""
    names = dict.fromkeys(name for output in outputs for name in output.sequence_scores)
    matrices = {name: _padded([output.sequence_scores.get(name) for output in outputs]) for name in names}
    shared = {name: found for name, found in matrices.items() if found is not None}
    return [_step(outputs, k, shared) for k in range(max(len(output.positions) for output in outputs))]


def _step(outputs: Sequence[SequenceScores], k: int, matrices: dict[str, Tensor]) -> FeatureAttributionStepOutput:
    here = [k < len(output.positions) for output in outputs]
    starts = [output.positions[k][0] if has else 0 for output, has in zip(outputs, here, strict=True)]
    sides = zip(outputs, here, starts, strict=True)
    columns = [
        (
            None if output.source_attributions is None or not has else output.source_attributions[:, k],
            None if output.target_attributions is None or not has else output.target_attributions[:start, k],
        )
        for output, has, start in sides
    ]
    names = dict.fromkeys(name for output in outputs for name in output.step_scores)
    return FeatureAttributionStepOutput(
        source=[list(output.source) for output in outputs],
        prefix=[list(output.target[:start]) for output, start in zip(outputs, starts, strict=True)],
        target=[[output.generated[k]] if has else [] for output, has in zip(outputs, here, strict=True)],
        source_attributions=_padded([source for source, _ in columns]),
        target_attributions=_padded([target for _, target in columns]),
        step_scores={
            name: torch.stack(
                [
                    output.step_scores[name][k].float() if has and name in output.step_scores else torch.tensor(torch.nan)
                    for output, has in zip(outputs, here, strict=True)
                ]
            )
            for name in names
        },
        sequence_scores=dict(matrices),
    )


def _padded(found: Sequence[Tensor | None]) -> Tensor | None:
    """A row for each text, as long along every axis as the longest."""
    known = [values for values in found if values is not None]
    if not known:
        return None
    shape = [max(sizes) for sizes in zip(*(values.shape for values in known), strict=True)]
    rows = known[0].new_full((len(found), *shape), torch.nan)
    for row, values in zip(rows, found, strict=True):
        if values is not None:
            row[tuple(slice(size) for size in values.shape)] = values
    return rows
