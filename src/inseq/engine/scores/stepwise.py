"""Step functions that want to see each step by itself: the whole model is called on the prefix that ends at the step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from inseq.engine.answers import by_feature
from inseq.engine.batches import Packed
from inseq.engine.scores.evaluate import called, no_gradient, refuse_nan
from inseq.errors import ArgumentError
from inseq.models.adapter import Adapter
from inseq.models.inputs import Inputs
from inseq.requests import Gradient, StepForward, Target
from inseq.text.tokens import Role


def step_values(
    target: Target, adapter: Adapter, packed: Packed, inputs: Inputs, is_target: bool
) -> tuple[Float[Tensor, " row"], Float[Tensor, "row 1 vocab"]]:
    """The value of a stepwise target for every row of a batch, and the predictions it was given.

    Args:
        target: what is evaluated.
        adapter: the model.
        packed: a batch whose jobs are of one step and one prefix length each.
        inputs: its inputs, or the same with leaves of a graph.
        is_target: whether the target is attributed, and not recorded.

    Raises:
        ArgumentError: if the function fails, or returns what cannot be a target.
    """
    arguments = adapter.arguments(inputs)
    output = adapter.model(**arguments, use_cache=False, return_dict=True)
    _refuse_gaps(target, packed, inputs)
    ids, source_ids, decoder_ids = _ids(packed)
    values = called(target, StepForward(output, arguments, ids, source_ids, decoder_ids, is_target), len(ids))
    refuse_nan(target, values, "value")
    return values, output.logits[:, -1:]


def step_gradients(
    target: Target, packed: Packed, values: Float[Tensor, " row"], leaves: Sequence[Tensor], sides: Sequence[Role]
) -> list[Tensor]:
    """Each job's combined gradients, from the rows' values straight to the leaves.

    Raises:
        ArgumentError: if the values do not depend on the leaves by anything that can be differentiated.
    """
    if not values.requires_grad:
        raise no_gradient(target)
    grads = torch.autograd.grad(values.sum(), list(leaves), allow_unused=True)
    if all(grad is None for grad in grads):
        raise no_gradient(target)
    whole = [torch.zeros_like(x)[None] if grad is None else grad[None] for x, grad in zip(leaves, grads, strict=True)]
    found = []
    for job, rows in packed.jobs:
        assert isinstance(job.request, Gradient)
        taken = by_feature(job, rows, [leaf.detach() for leaf in leaves], sides)
        found.append(job.request.combine(by_feature(job, rows, whole, sides), taken, job.variants))
    return found


def _refuse_gaps(target: Target, packed: Packed, inputs: Inputs) -> None:
    """Refuse rows from which tokens were left out: their prefix would not end at the last position, nor fit the ids."""
    keep = inputs.source_keep
    whole = bool((inputs.at == inputs.decoder.shape[1] - 1).all())
    for job, rows in packed.jobs:
        whole = whole and (keep is None or bool((keep[rows.start : rows.stop].sum(1) == job.example.n_source).all()))
    if not whole:
        raise ArgumentError(
            f"Step function {target.name!r} is run on whole prefixes, step by step, and this method leaves tokens out of "
            "them. Let the method replace tokens instead, or write the function of a Prediction."
        )


def _ids(packed: Packed) -> tuple[Tensor, Tensor | None, Tensor]:
    """Ids of each row: the written token, the encoder's tokens, the decoder's prefix."""
    length = packed.inputs.decoder.shape[1]
    n_source = 0 if packed.inputs.source is None else packed.inputs.source.shape[1]
    sources, decoders = [], []
    for job, rows in packed.jobs:
        x = job.example
        assert x.decoder_ids is not None
        decoders.append(x.decoder_ids[:length].expand(len(rows), -1))
        sources.append(pad(x.ids[: x.n_source], (0, n_source - x.n_source)).expand(len(rows), -1))
    return packed.ids[:, 0], torch.cat(sources) if n_source else None, torch.cat(decoders)
