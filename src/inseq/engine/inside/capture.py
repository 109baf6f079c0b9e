"""Hand the attention of each layer to folds, one per example and block of steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from inseq.engine.answers import wide
from inseq.engine.batches import Packed
from inseq.engine.budget import Budget
from inseq.engine.inside.choices import chosen
from inseq.engine.inside.pieces import Sublayer
from inseq.engine.jobs import Job
from inseq.models.adapter import Adapter
from inseq.models.inputs import Site
from inseq.requests import Attended, Capture, Fold


@dataclass(frozen=True, eq=False)
class _CapturedJob:
    """One job of the batch: its row, its fold, and which of the decoder's layers and heads it sees."""

    job: Job
    request: Capture
    row: int
    fold: Fold
    layers: list[int]
    heads: list[int] | None

    def sees(self, site: Site, layer: int) -> bool:
        return site in self.request.sites and (site == "encoder" or layer in self.layers)

    def cut(self, site: Site, weights: Float[Tensor, "row head query key"]) -> Float[Tensor, "some own_query own_key"]:
        """The example's own weights of the chosen heads."""
        of_row = weights[self.row]
        kept = of_row if self.heads is None or site == "encoder" else of_row[self.heads]
        n_queries, n_keys = lengths(self.job, site)
        return wide(kept[:, :n_queries, :n_keys])


class Enough(Exception):
    """Nothing that a forward would still compute is asked for."""


class Captures:
    """Takes what a forward's attentions compute to the folds of a batch of requests.

    Args:
        adapter: the model.
        packed: the batch.
        budget: how many pieces may stand at a time.
        predicts: whether predictions are asked for too, so that the forward has to go on to its end.

    Attributes:
        folds: one for each job.
        pieces: whether a request wants pieces, and so :meth:`dissected` in place of :meth:`attended`.

    Raises:
        ArgumentError: for layers or heads that the model does not have.
        Enough: by :meth:`attended`, when the last attention has run that is asked for, and no prediction is.
    """

    def __init__(self, adapter: Adapter, packed: Packed, budget: Budget, predicts: bool) -> None:
        self.budget = budget
        self.predicts = predicts
        self.parts = [_part(adapter, job, rows.start) for job, rows in packed.jobs]
        sites = (adapter.facts.attention_sites or {}).values()
        self.awaited = {site for site in sites if any(part.sees(*site) for part in self.parts)}
        self.pieces = any(part.request.pieces for part in self.parts)

    @property
    def folds(self) -> list[Fold]:
        return [part.fold for part in self.parts]

    def attended(self, site: Site, layer: int, weights: Tensor) -> None:
        for part in self.parts:
            if part.sees(site, layer):
                part.fold.add(Attended(site, layer, part.cut(site, weights), at_of(part.job)))
        if (site, layer) in self.awaited:
            self.awaited.remove((site, layer))
            if not self.awaited and not self.predicts:
                raise Enough

    def dissected(self, sublayer: Sublayer) -> None:
        site, layer = sublayer.site, sublayer.layer
        for part in self.parts:
            if part.sees(site, layer):
                pieces = CutPieces(sublayer, part.row, *lengths(part.job, site), self.budget.tokens)
                wanted = pieces if part.request.pieces else None
                part.fold.add(Attended(site, layer, part.cut(site, sublayer.heads.weights), at_of(part.job), wanted))


@dataclass(frozen=True, eq=False)
class CutPieces:
    """The pieces of one row of a sublayer, within its own length."""

    sublayer: Sublayer = field(repr=False)
    row: int
    n_queries: int
    n_keys: int
    at_once: int
    """Return the number of pieces held at a time."""

    @property
    def before(self) -> Float[Tensor, "query dim"]:
        return self.sublayer.before[self.row, : self.n_queries]

    @property
    def total(self) -> Float[Tensor, "query dim"]:
        return self.sublayer.total[self.row, : self.n_queries]

    @property
    def residual(self) -> Float[Tensor, "query dim"]:
        return self.sublayer.residual[self.row, : self.n_queries]

    @property
    def additive(self) -> bool:
        return self.sublayer.additive

    @cached_property
    def projected(self) -> Float[Tensor, "head key dim"]:
        """Each key's value as each head would hand it on alone."""
        heads = self.sublayer.heads
        values = wide(heads.values[self.row, :, : self.n_keys]).repeat_interleave(heads.group_size, 0)
        return values @ self.sublayer.projection.reshape(len(values), values.shape[-1], -1)

    def chunks(self, queries: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`~inseq.requests.Pieces`."""
        weights = wide(self.sublayer.heads.weights[self.row, :, :, : self.n_keys])
        for some in torch.split(queries.to(weights.device), max(1, self.at_once // self.n_keys)):
            pieces = torch.einsum("hqk,hkd->qkd", weights[:, some], self.projected)
            for norm in self.sublayer.norms:
                pieces = norm.linear(pieces, norm.scale[self.row, some, None].expand(pieces.shape[:2]))
            yield some, pieces


def _part(adapter: Adapter, job: Job, row: int) -> _CapturedJob:
    request = job.request
    assert isinstance(request, Capture)
    layers = chosen(request.layers, adapter.axis_size("layer"), "layers")
    heads = None if request.heads is None else chosen(request.heads, adapter.axis_size("head"), "heads")
    return _CapturedJob(job, request, row, request.fold(), layers, heads)


def lengths(job: Job, site: Site) -> tuple[int, int]:
    """Return the number of queries and keys that are the example's own, without padding."""
    n_source = job.example.n_source
    queries = {"encoder": n_source, "decoder": job.n_decoder, "cross": job.n_decoder}
    return queries[site], job.n_decoder if site == "decoder" else n_source


def at_of(job: Job) -> Tensor:
    """The decoder positions that predict the block's steps."""
    return job.example.at[job.steps.start : job.steps.stop]
