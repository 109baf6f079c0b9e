"""The same scores step by step: one output for each step, with a row for each text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from inseq.text.example import Token

if TYPE_CHECKING:
    from inseq.result.output import FeatureAttributionSequenceOutput


@dataclass(kw_only=True, eq=False)
class FeatureAttributionStepOutput:
    """Scores of one step of each text; of a text that has no such step, NaN.

    Attributes:
        source: the source tokens of each text, or its prompt.
        prefix: what of ``target`` stands before the step.
        target: what the step explains, a single token for each text, or none.
        source_attributions: scores of source tokens, padded with NaN, or None.
        target_attributions: scores of the prefix, padded with NaN, or None.
        step_scores: values of step functions.
    """

    source: list[list[Token]]
    prefix: list[list[Token]]
    target: list[list[Token]]
    source_attributions: Float[Tensor, "text source *extra"] | None = None
    target_attributions: Float[Tensor, "text prefix *extra"] | None = None
    step_scores: dict[str, Shaped[Tensor, " text"]] = field(default_factory=dict)


def step_outputs(outputs: Sequence[FeatureAttributionSequenceOutput]) -> list[FeatureAttributionStepOutput]:
    """Cut the outputs of a call into steps, the first of every text first."""
    return [_step(outputs, k) for k in range(max(len(output.positions) for output in outputs))]


def _step(outputs: Sequence[FeatureAttributionSequenceOutput], k: int) -> FeatureAttributionStepOutput:
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
    )


def _padded(columns: Sequence[Tensor | None]) -> Tensor | None:
    known = [column for column in columns if column is not None]
    if not known:
        return None
    length = max(len(column) for column in known)
    rows = known[0].new_full((len(columns), length, *known[0].shape[1:]), torch.nan)
    for row, column in zip(rows, columns, strict=True):
        if column is not None:
            row[: len(column)] = column
    return rows
