"""Jobs are packed into batches of padded rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from inseq.engine.budget import Budget
from inseq.engine.jobs import ExampleCache, Job
from inseq.models.inputs import Inputs
from inseq.requests import Placed, Request, Rows, Score
from inseq.requests.example import Example
from inseq.text.tokens import Role


def batches(jobs: Iterable[Job], budget: Callable[[], Budget], vocabulary: int, causal: bool) -> Iterator[list[Job]]:
    """Pack jobs of one kind into batches within a budget; jobs with many variants are cut, batches are filled.

    Blocks of one request follow each other, so that what was summed over variants can be handed on early.
    """
    batch: list[Job] = []
    for job in jobs:
        rest = job
        while rest.rows:
            room = _room(batch, rest, budget(), vocabulary, causal)
            if room <= 0 and batch:
                yield batch
                batch = []
                continue
            take = max(1, min(room, rest.rows))
            batch.append(replace(rest, variants=rest.variants[:take]))
            rest = replace(rest, variants=rest.variants[take:])
    if batch:
        yield batch


def _room(batch: Sequence[Job], job: Job, budget: Budget, vocabulary: int, causal: bool) -> int:
    """Return the number of a job's rows that a batch still takes."""
    if batch and (batch[0].skipped > 0 or job.skipped > 0) and not _go_on_together(batch[0], job):
        return 0
    if batch and batch[0].block != job.block:
        return 0
    if batch and not causal and batch[0].n_decoder != job.n_decoder:
        return 0
    together = [*batch, job]
    width = max(j.width for j in together)
    steps = max(len(j.steps) for j in together)
    rows = sum(j.rows for j in batch)
    real = sum(j.rows * j.width for j in batch) + job.width
    if (rows + 1) * width - real > max(budget.overhead, real // 16):
        return 0
    held = max(j.width + j.skipped for j in together)
    tokens = min(budget.tokens, budget.graph) if job.sums else budget.tokens
    return min(tokens // held, budget.logits // (steps * vocabulary), budget.rows) - rows


def _go_on_together(a: Job, b: Job) -> bool:
    """Rows that go on from remembered keys and values share their number; any encoder outputs can be padded."""
    if a.example.n_source:
        return a.skipped > 0 and b.skipped > 0
    return a.skipped == b.skipped


@dataclass(frozen=True)
class Packed:
    """A batch ready to run: the model's inputs, and which rows belong to which job."""

    inputs: Inputs
    jobs: tuple[tuple[Job, range], ...]
    ids: Tensor
    real: Tensor

    def placed(self, side: Role) -> Float[Tensor, "row position width"] | None:
        """Return the values that replace a layer's on ``side``, where the variants alter a layer."""
        parts = []
        for job, _ in self.jobs:
            if not isinstance(job.request.variants, Placed):
                return None
            values = job.request.variants.values(job.variants.start, job.variants.stop)
            n = job.example.n_source
            parts.append(values[:, :n] if side == "source" else values[:, n : n + job.n_decoder])
        return padded(parts)

    @property
    def sums(self) -> list[tuple[Tensor, Tensor | int]]:
        """For each product, in which rows it starts at which predictions: as many pairs as there are."""
        if all(job.example.spans is None for job, _ in self.jobs):
            every = torch.arange(len(self.ids), device=self.ids.device)
            return [(every, step) for step in range(self.ids.shape[1])]
        pairs: list[list[Tensor]] = [[] for _ in range(max(len(job.sums) for job, _ in self.jobs))]
        for job, rows in self.jobs:
            for of_sum, part in zip(pairs, job.parts, strict=False):
                of_sum.append(torch.cartesian_prod(torch.tensor(rows), torch.tensor(part)))
        joined_pairs = [torch.cat(of_sum).to(self.ids.device) for of_sum in pairs]
        return [(pair[:, 0], pair[:, 1]) for pair in joined_pairs]

    @property
    def tokens(self) -> int:
        source = self.inputs.source
        return self.inputs.decoder.shape[:2].numel() + (0 if source is None else source.shape[:2].numel())


def pack(jobs: Sequence[Job]) -> Packed:
    """Make the rows of a batch and pad them on the right."""
    rows = [place(job.request, job.variants, job.steps, job.n_decoder, job.start, job.memory) for job in jobs]
    ids = [job.example.written_ids[job.steps.start : job.steps.stop].expand(job.rows, -1) for job in jobs]
    ends = accumulate(job.rows for job in jobs)
    placed = tuple((job, range(end - job.rows, end)) for job, end in zip(jobs, ends, strict=True))
    real = padded([torch.ones_like(each, dtype=torch.bool) for each in ids])
    return Packed(joined(rows), placed, padded(ids), real)


def place(
    request: Request[Any], variants: range, steps: range, n_decoder: int, start: int = 0, memory: ExampleCache | None = None
) -> Inputs:
    """The rows of some variants of one request, with the first ``n_decoder`` tokens of the decoder.

    With a ``start``, the features before it are those of the example: the encoder's output, or the keys and values of the
    decoder's first positions, come from its memory.

    Raises:
        ValueError: if anything but scores is asked of variants that lack features: answers are indexed by feature.
    """
    x = request.example
    made = request.variants.rows(x, variants.start, variants.stop)
    rows = made if isinstance(made, Rows) else Rows(made)
    n, r = x.n_source, len(variants)
    end = n + (len(x.features) - n if len(x.context) else n_decoder)
    decoder = x.context[:n_decoder].expand(r, -1, -1) if len(x.context) else rows.embeds[:, n:end]
    placed = Inputs(
        source=rows.embeds[:, :n] if n else None,
        source_keep=torch.ones_like(rows.embeds[:, :n, 0], dtype=torch.bool) if n else None,
        decoder=decoder,
        at=x.at[steps.start : steps.stop].expand(r, -1),
    )
    if rows.hidden is not None:
        placed = _hiding(x, placed, rows.hidden[:, :end])
    if rows.deleted is not None:
        if not isinstance(request, Score):
            raise ValueError(f"{type(request).__name__} is asked of variants that lack features, which can only be scored")
        placed = _deleting(x, placed, rows.deleted[:, :end])
    if memory is None or not start:
        return placed
    if n:
        return replace(placed, source=None, memory=tuple(t.expand(r, -1, -1) for t in memory.tensors))
    tensors = tuple(t[:, :, :start].expand(r, -1, -1, -1) for t in memory.tensors)
    return replace(placed, decoder=placed.decoder[:, start:], at=placed.at - start, memory=tensors)


def _hiding(x: Example, placed: Inputs, hidden: Bool[Tensor, "row feature"]) -> Inputs:
    n = x.n_source
    if n:
        placed = replace(placed, source_keep=~hidden[:, :n])
    return placed if len(x.context) or not hidden[:, n:].any() else replace(placed, decoder_keep=~hidden[:, n:])


def _deleting(x: Example, placed: Inputs, deleted: Bool[Tensor, "row feature"]) -> Inputs:
    n = x.n_source
    if placed.source is not None:
        source, keep = _closed(placed.source, deleted[:, :n])
        placed = replace(placed, source=source, source_keep=keep)
    if len(x.context):
        return placed
    decoder, _ = _closed(placed.decoder, deleted[:, n:])
    return replace(placed, decoder=decoder, at=placed.at - deleted[:, n:].cumsum(1).gather(1, placed.at))


def _closed(embeds: Tensor, deleted: Bool[Tensor, "row feature"]) -> tuple[Tensor, Bool[Tensor, "row left"]]:
    """Move up what stands after a deleted feature; also which places are then real."""
    left = (~deleted).sum(1)
    order: Int[Tensor, "row left"] = deleted.int().argsort(dim=1, stable=True)[:, : max(1, int(left.max()))]
    moved = embeds.gather(1, order[..., None].expand(-1, -1, embeds.shape[2]))
    return moved, torch.arange(order.shape[1], device=left.device) < left[:, None]


def joined(parts: Sequence[Inputs]) -> Inputs:
    """One batch of the rows of several jobs, padded on the right."""
    shown = None
    if any(part.decoder_keep is not None for part in parts):
        shown = padded([_all(part) if part.decoder_keep is None else part.decoder_keep for part in parts])
    sources = [part.source for part in parts if part.source is not None]
    keeps = [part.source_keep for part in parts if part.source_keep is not None]
    return Inputs(
        padded(sources) if sources else None,
        padded(keeps) if keeps else None,
        padded([part.decoder for part in parts]),
        padded([part.at for part in parts]),
        shown,
        tuple(padded(tensors) for tensors in zip(*(part.memory for part in parts), strict=True)),
    )


def _all(part: Inputs) -> Bool[Tensor, "row decoder"]:
    """That every position may be attended to."""
    return torch.ones(len(part.decoder), part.past + part.decoder.shape[1], dtype=torch.bool, device=part.decoder.device)


def padded(parts: Sequence[Tensor]) -> Tensor:
    """Join along rows, padding the second axis with zeros."""
    length = max(part.shape[1] for part in parts)
    if all(part.shape[1] == length for part in parts):
        return torch.cat(list(parts)) if len(parts) > 1 else parts[0]
    return torch.cat([pad(part, (0, 0) * (part.ndim - 2) + (0, length - part.shape[1])) for part in parts])
