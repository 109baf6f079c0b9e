"""Where the features of a variant stand in the rows of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from inseq.models.inputs import Inputs
from inseq.requests import Request, Rows, Score
from inseq.requests.example import Example


@dataclass(eq=False)
class Memory:
    """What the run of an example leaves for variants that begin alike; empty before it has run."""

    tensors: tuple[Tensor, ...] = ()


def place(
    request: Request[Any], variants: range, steps: range, n_decoder: int, start: int = 0, memory: Memory | None = None
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
