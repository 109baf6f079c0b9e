"""Read scores in the one form in which both sides are compared."""

from __future__ import annotations

from typing import Any

import torch

WIDEST_HEADS = 16
"""More entries than this behind a token and a step are an embedding's; fewer are layers or heads."""


def scored(found: Any) -> Any:
    """Of an encoder-decoder the source's scores, else the prefix's."""
    source = getattr(found, "source_attributions", None)
    return found.target_attributions if source is None else source


def steps(scores: Any) -> list[list[float]]:
    """For each step the magnitude of each token's score: the norm over an embedding, the mean over layers and heads."""
    if scores is None:
        return []
    wide = scores.double()
    if wide.ndim == 3 and wide.shape[-1] > WIDEST_HEADS:
        wide = wide.norm(dim=-1)
    if wide.ndim > 2:
        wide = wide.flatten(2).mean(-1)
    return [[abs(score) for score in column if score == score] for column in wide.T.tolist()]


def facts_of(found: Any) -> dict[str, Any]:
    """What else both sides can be asked for: each step's probability, the nodes it took, and how far from complete it is."""
    read: dict[str, Any] = {"probabilities": [values.tolist() for each in found if (values := _step_score(each)) is not None]}
    diagnostics = [getattr(each, "diagnostics", None) or {} for each in found]
    if all("nodes" in each for each in diagnostics):
        read["nodes"] = torch.cat([each["nodes"].flatten() for each in diagnostics]).tolist()
    if all("delta" in each for each in diagnostics):
        read["shortfall"] = [share for each in found for share in shortfall(each)]
    return read


def shortfall(found: Any) -> list[float]:
    """For each step the share of the target's change that the scores miss; of scores kept for every dimension."""
    delta = found.diagnostics["delta"].double()
    if (scores := scored(found)).ndim < 3:
        return []
    total = scores.double().nansum(dim=(0, 2))
    return (delta / (total - delta)).abs().tolist()


def _step_score(found: Any) -> Any:
    return (getattr(found, "step_scores", None) or {}).get("probability")
