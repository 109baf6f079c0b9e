"""Gradients of packed batches: one forward, and for each block of steps products through a graph of its own length."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inseq.engine.accelerators import pays
from inseq.engine.answers import by_feature
from inseq.engine.batches import Packed
from inseq.engine.budget import Budget
from inseq.engine.gradients.graphs import Graph, Graphs, prepare_graphs
from inseq.engine.gradients.products import Body, Sums, pulled
from inseq.engine.jobs import Job
from inseq.engine.rules.forward import edited_reading, with_references
from inseq.engine.scores.evaluate import cotangents_of, evaluate
from inseq.errors import ArgumentError
from inseq.models.adapter import Adapter, Tap
from inseq.models.guest import is_out_of_memory
from inseq.models.inputs import Inputs, Reading
from inseq.requests import Edit, Gradient, Placed, Request, Rescale, Target
from inseq.text.tokens import Role

ALL = 2**62

Record = Callable[[Tensor, Packed], None]
"""Records step scores from the predictions of a batch."""


@dataclass(frozen=True, eq=False)
class Backward:
    """Takes the gradients of batches.

    Attributes:
        adapter: the model.
        count: counts a forward, and products.
        taps: finds the modules that a batch's gradients are about.
    """

    adapter: Adapter
    count: Callable[[Packed | int], None]
    taps: Callable[[Packed, Sequence[Any]], list[Tap]]

    def in_blocks(
        self, packed: Packed, target: Target, kept: Mapping[int, Tensor], budget: Budget, record: Record
    ) -> Iterator[tuple[Job, Tensor]]:
        """One forward; then block by block of steps, the last one first, so that graphs only become shorter.

        Yields:
            Parts of the batch's jobs, and what each contributes to its answer.
        """
        self.count(packed)
        block, sums = packed.jobs[0][0].block, packed.sums
        inputs = with_leaves(packed)
        starts = range(0, len(sums), block)
        graphs = Graphs(self.adapter, inputs, prepare_graphs(self.adapter), several=len(starts) > 1)
        graph, reading = graphs.whole()
        record(reading.logits, packed)
        cotangents = _cotangents(reading, evaluate(target, reading.logits, packed, kept), packed, target)
        del reading
        for start in reversed(starts):
            own = sums[start : start + block]
            first, beyond = _reach(own)
            asked = torch.zeros_like(packed.real[:, first:beyond])
            own = [(rows, which - first) for rows, which in own]
            for rows, which in own:
                asked[rows, which] = packed.real[rows, first + which]
            asked = asked.to(cotangents.device)
            at = inputs.at[:, first:beyond].to(asked.device).masked_fill(~asked, 0)
            if start + block < len(sums):
                del graph
                graph = graphs.beginning(int(at.max()) + 1)
            body = graph.body(cotangents[:, first:beyond].masked_fill(~asked[..., None], 0), at, own)
            parts = [
                (job.of_sums(job.sums[start : start + block]), rows) for job, rows in packed.jobs if start < len(job.sums)
            ]
            leaves = leaves_of(replace(inputs, decoder=graph.inputs.decoder), packed)
            yield from self._products(parts, graph, body, len(own), leaves, [], None, budget)
            del body, leaves

    def at_once(
        self, packed: Packed, target: Target, kept: Mapping[int, Tensor], budget: Budget, record: Record | None
    ) -> Iterator[tuple[Job, Tensor]]:
        """One forward and the graph that the model itself makes of it, or that an edit makes.

        Yields:
            The batch's jobs, and what each contributes to its answer.
        """
        request = packed.jobs[0][0].request
        assert isinstance(request, Gradient)
        edit = request.edit
        packed = with_references(packed) if isinstance(edit, Rescale) else packed
        self.count(packed)
        inputs = with_leaves(packed, edit)
        taps = self.taps(packed, request.at)
        values: list[Tensor] = []
        watch = self.adapter.tapped(taps, packed.placed(taps[0].side) if taps else None, values)
        value = partial(evaluate, target, packed=packed, kept=kept)
        if edit is None:
            with watch:
                reading = self.adapter.read(inputs, differentiable=True)
            if record is not None:
                record(reading.logits, packed)
            scores = value(reading.logits)
        else:
            reading, scores = edited_reading(self.adapter, edit, inputs, value, watch, budget.weights)
        check_values(values, inputs, differentiable=True)
        cotangents = _cotangents(reading, scores, packed, target)
        graph = Graph(inputs, None, reading.hidden, None)
        leaves = values if taps else leaves_of(inputs, packed)
        sides = [tap.side for tap in taps]
        body = graph.body(cotangents, inputs.at, packed.sums)
        yield from self._products(packed.jobs, graph, body, len(packed.sums), leaves, sides, edit, budget)

    def _products(
        self,
        jobs: Sequence[tuple[Job, range]],
        graph: Graph,
        body: Body,
        n_sums: int,
        leaves: Sequence[Tensor],
        sides: Sequence[Role],
        edit: Edit | None,
        budget: Budget,
    ) -> Iterator[tuple[Job, Tensor]]:
        """Products for all sums, some at a time, handed to the requests' own ``combine``.

        Where all variants of a request are here, what a product gives is complete, and handed on at once.
        """
        room = budget.cotangents
        several = pays("batched_products") and n_sums > 1 and room >= 2 * graph.hidden.numel()
        batched = several and self._can_batch(edit, graph, body, n_sums, leaves)
        found: list[list[Tensor]] = [[] for _ in jobs]
        at = [_taken(leaf.detach(), edit) for leaf in leaves]
        taken = [by_feature(job, rows, at, sides) for job, rows in jobs]
        for some, grads in body_gradients(graph, body, n_sums, leaves, room, batched):
            self.count(len(some))
            for (job, rows), parts, values_at in zip(jobs, found, taken, strict=True):
                if n := max(0, min(len(some), len(job.sums) - some.start)):
                    assert isinstance(job.request, Gradient)
                    gradient = by_feature(job, rows, [g[:n] for g in grads], sides)
                    part = job.request.combine(gradient, values_at, job.variants)
                    if job.rows == len(job.request.variants) and job.n_blocks == 1:
                        yield job.of_sums(job.sums[some.start : some.start + n]), part
                    else:
                        parts.append(part)
        for (job, _), parts in zip(jobs, found, strict=True):
            if parts:
                yield job, torch.cat(parts)

    def _can_batch(self, edit: Edit | None, graph: Graph, body: Body, n_sums: int, leaves: Sequence[Tensor]) -> bool:
        """Return whether batched products equal single ones under this edit. Measured once a model, at first use."""
        key, answers = (edit, graph.kind), self.adapter.facts.can_batch_products
        if key not in answers:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    a, b = (next(body_gradients(graph, body, min(2, n_sums), leaves, ALL, kind))[1] for kind in (True, False))
                answers[key] = all(_close(one, other) for one, other in zip(a, b, strict=True))
            except (RuntimeError, NotImplementedError) as error:
                if is_out_of_memory(error):
                    raise
                answers[key] = False
        return answers[key]


def has_beginnings(request: Request[Any], adapter: Adapter) -> bool:
    """Return whether graphs over the beginnings of rows are to be made from one forward."""
    if not isinstance(request, Gradient) or request.edit is not None or request.at or isinstance(request.variants, Placed):
        return False
    x = request.example
    size = (x.n_source + int(x.at[-1]) + 1) * len(x.steps) * len(request.variants)
    # Graphs of beginnings read what saved slopes have kept.
    wanted = pays("beginnings", size) and pays("saved_slopes", size)
    return wanted and prepare_graphs(adapter, size) != "plain"


def averaged(passes: int, once: Callable[[int], list[tuple[Job, Tensor]]]) -> list[tuple[Job, Tensor]]:
    """The mean contributions of several passes, which are given by their number."""
    found = once(0)
    for k in range(1, passes):
        found = [(job, total + more) for (job, total), (_, more) in zip(found, once(k), strict=True)]
    return [(job, total / passes) for job, total in found]


def _cotangents(reading: Reading, scores: Tensor, packed: Packed, target: Target) -> Float[Tensor, "row step hidden"]:
    real = packed.real.to(scores.device)
    return cotangents_of(target, real, head_cotangents(reading, scores, real))


def with_leaves(packed: Packed, edit: Edit | None = None) -> Inputs:
    """Make the features' embeddings leaves of the graph: the encoder's, the decoder's, or both.

    An edit's rules ask what depends on the input; the context does, though nobody asks for its gradient.
    """
    source, decoder = packed.inputs.source, packed.inputs.decoder
    if source is not None:
        source = source.detach().requires_grad_()
    if not len(packed.jobs[0][0].example.context) or edit is not None:
        decoder = decoder.detach().requires_grad_()
    return replace(packed.inputs, source=source, decoder=decoder)


def leaves_of(inputs: Inputs, packed: Packed) -> list[Tensor]:
    """The leaves that gradients are asked of."""
    leaves = [] if inputs.source is None else [inputs.source]
    return leaves if len(packed.jobs[0][0].example.context) else [*leaves, inputs.decoder]


def check_values(values: Sequence[Tensor], inputs: Inputs, *, differentiable: bool) -> None:
    """Refuse layers that do not stand between the tokens and the predictions.

    Raises:
        ArgumentError: for values that are not those of the rows' positions, or that depend on no token.
    """
    lengths = {side.shape[1] for side in (inputs.source, inputs.decoder) if side is not None}
    for value in values:
        if (
            value.shape[0] != len(inputs.decoder)
            or value.shape[1] not in lengths
            or (differentiable and not value.requires_grad)
        ):
            raise ArgumentError(
                f"target_layer: values of shape {tuple(value.shape)} do not depend on the tokens at their positions, as those "
                "of position tables do not. Choose a block, its attention or its feed-forward part."
            )


def _reach(sums: Sums) -> tuple[int, int]:
    """The first and the last of the predictions that some products start at, half-open."""
    ends = [(which, which) if isinstance(which, int) else (int(which.min()), int(which.max())) for _, which in sums]
    return min(first for first, _ in ends), max(last for _, last in ends) + 1


def _taken(leaf: Tensor, edit: Edit | None) -> Tensor:
    """The values that gradients are taken at; beside references, the differences from theirs."""
    if not isinstance(edit, Rescale):
        return leaf
    own, reference = leaf.chunk(2)
    return own - reference


def _close(a: Tensor, b: Tensor) -> bool:
    scale = b.abs().max().clamp_min(1e-12)
    return bool((a - b).abs().max() <= 1e-2 * scale)


def head_cotangents(
    reading: Reading, scores: Float[Tensor, "row step"], real: Bool[Tensor, "row step"]
) -> Float[Tensor, "row step hidden"] | None:
    """Each score's gradient at its own hidden state: one small backward, the vocabulary matrix touched once.

    None where the scores do not depend on the hidden states, or have no gradient.
    """
    if not scores.requires_grad:
        return None
    total = scores.masked_fill(~real, 0).sum()
    (cotangents,) = torch.autograd.grad(total, reading.chosen, allow_unused=True)
    return cotangents


def body_gradients(
    graph: Graph, body: Body, n_sums: int, leaves: Sequence[Tensor], room: int, batched: bool
) -> Iterator[tuple[range, tuple[Tensor, ...]]]:
    """Yield, some sums at a time, the gradients to each leaf: Float["sum row position dim"].

    Rows are independent, so one product serves the same step of every row; and the sum of several.

    Args:
        graph: from the leaves to the hidden states.
        body: where products enter it.
        n_sums: how many products there are, each of a prediction or of the sum of several.
        leaves: embeddings of the encoder, the decoder, or both; or the values of layers.
        room: how many numbers the products taken at a time may hold at the leaves, or at the hidden states.
        batched: whether they go backward as one batch, or one after the other.
    """
    encoded = graph.encoded
    first = leaves if encoded is None else [encoded.leaf, *leaves[1:]]
    size = graph.hidden.numel() if encoded is not None else max(graph.hidden.numel(), sum(leaf.numel() for leaf in leaves))
    for sums in _some(n_sums, room // size):
        found = pulled(body.outputs, first, body.seeds(sums, batched), batched)
        if encoded is None:
            yield sums, found
            continue
        for part in _some(len(sums), room // leaves[0].numel()):
            chosen = slice(part.start, part.stop)
            through = pulled((encoded.output,), leaves[:1], (found[0][chosen],), batched)
            yield (
                range(sums.start + part.start, sums.start + part.stop),
                (*through, *(gradient[chosen] for gradient in found[1:])),
            )


def _some(n: int, size: int) -> Iterator[range]:
    """As few ranges of at most a size as there can be, of about the same size."""
    pieces = -(-n // max(1, size))
    for i in range(pieces):
        yield range(n * i // pieces, n * (i + 1) // pieces)
