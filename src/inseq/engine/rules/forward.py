"""Forwards whose backward pass is edited, and references that run beside the inputs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inseq.engine.batches import Packed, pack
from inseq.engine.rules.blocks import eager_attention
from inseq.engine.rules.relevance import RelevanceRules
from inseq.engine.rules.rescale import RescaleRules
from inseq.models.adapter import Adapter
from inseq.models.inputs import Inputs, Reading
from inseq.requests import Edit, Gradient, Relevance
from inseq.requests.example import Example


def edited_reading(
    adapter: Adapter,
    edit: Edit,
    inputs: Inputs,
    evaluate: Callable[[Tensor], Tensor],
    watch: AbstractContextManager[Any] | None = None,
    weights: int = 2**62,
) -> tuple[Reading, Float[Tensor, "row step"]]:
    """Run one forward under an edit's rules; every operation on the way is checked to be covered.

    The attention is the eager one, whose operations can be seen, by blocks of queries where it has more than so many
    ``weights``. Rules of relevance end at the logits, from which the target's ordinary gradient goes on; the rescale rule
    goes through the target too. What ``watch``es the forward sees values as the rules make them.

    Raises:
        UnsupportedModelError: if an operation is not linear and no rule covers it.
    """
    model = adapter.model
    rules = RelevanceRules(model, edit) if isinstance(edit, Relevance) else RescaleRules(model, edit)
    with eager_attention(adapter, inputs, rules, weights), rules.whole_activations(model), watch or nullcontext(), rules:
        reading = adapter.read(inputs, differentiable=True)
    rules.check(reading.hidden, "its body")
    rules.check(reading.logits, "its head")
    rules.check_met()
    if isinstance(edit, Relevance):
        return reading, evaluate(reading.logits)
    with rules:
        scores = evaluate(reading.logits)
    rules.check(scores, "the attributed function")
    return reading, scores


@dataclass(frozen=True, eq=False)
class _Always:
    """The same embeddings as every variant."""

    embeds: Float[Tensor, "feature dim"]
    n: int
    original: int | None = None

    def __len__(self) -> int:
        return self.n

    def rows(self, x: Example, i: int, j: int) -> Float[Tensor, "row feature dim"]:
        return self.embeds.expand(j - i, -1, -1)


def with_references(packed: Packed) -> Packed:
    """Append to a batch the reference of every row; its steps count as padding, so that no gradient starts there."""
    jobs = []
    for job, _ in packed.jobs:
        request = job.request
        assert isinstance(request, Gradient)
        assert request.reference is not None
        always = _Always(request.reference.to(job.example.embeds), len(request.variants))
        jobs.append(replace(job, request=replace(request, variants=always)))
    other = pack(jobs)
    a, b = packed.inputs, other.inputs
    sourced = a.source is not None and b.source is not None and a.source_keep is not None and b.source_keep is not None
    inputs = Inputs(
        source=torch.cat([a.source, b.source]) if sourced else None,  # type: ignore[list-item]
        source_keep=torch.cat([a.source_keep, b.source_keep]) if sourced else None,  # type: ignore[list-item]
        decoder=torch.cat([a.decoder, b.decoder]),
        at=torch.cat([a.at, b.at]),
    )
    real = torch.cat([packed.real, torch.zeros_like(other.real)])
    return Packed(inputs, packed.jobs, torch.cat([packed.ids, other.ids]), real)
