"""Where the features of a variant stand in the rows of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from inseq.engine.requests import Request, Rows, Score
from inseq.models.adapter import Inputs


def place(request: Request[Any], variants: range, steps: range, n_decoder: int) -> Inputs:
    """The rows of some variants of one request, with the first ``n_decoder`` tokens of the decoder.

    Raises:
        ValueError: if anything but scores is asked of variants that lack features: answers are indexed by feature.
    """
    x = request.example
    made = request.variants.rows(x, variants.start, variants.stop)
    rows = made if isinstance(made, Rows) else Rows(made)
    n = x.n_source
    end = n + (len(x.features) - n if len(x.context) else n_decoder)
    decoder = x.context[:n_decoder].expand(len(variants), -1, -1) if len(x.context) else rows.embeds[:, n:end]
    source = rows.embeds[:, :n] if n else None
    keep = torch.ones_like(rows.embeds[:, :n, 0], dtype=torch.bool) if n else None
    at = x.at[steps.start : steps.stop].expand(len(variants), -1)
    if rows.hidden is not None:
        hidden = rows.hidden
        keep = None if keep is None else ~hidden[:, :n]
        shown = None if len(x.context) or not hidden[:, n:end].any() else ~hidden[:, n:end]
        return Inputs(source, keep, decoder, at, shown)
    if rows.deleted is not None:
        if not isinstance(request, Score):
            raise ValueError(f"{type(request).__name__} is asked of variants that lack features, which can only be scored")
        if source is not None:
            source, keep = _closed(source, rows.deleted[:, :n])
        if not len(x.context):
            deleted = rows.deleted[:, n:end]
            decoder, _ = _closed(decoder, deleted)
            at = at - deleted.cumsum(1).gather(1, at)
    return Inputs(source, keep, decoder, at)


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
        shown = padded(
            [
                torch.ones_like(part.decoder[:, :, 0], dtype=torch.bool) if part.decoder_keep is None else part.decoder_keep
                for part in parts
            ]
        )
    sources = [part.source for part in parts if part.source is not None]
    keeps = [part.source_keep for part in parts if part.source_keep is not None]
    return Inputs(
        padded(sources) if sources else None,
        padded(keeps) if keeps else None,
        padded([part.decoder for part in parts]),
        padded([part.at for part in parts]),
        shown,
    )


def padded(parts: Sequence[Tensor]) -> Tensor:
    """Join along rows, padding the second axis with zeros."""
    length = max(part.shape[1] for part in parts)
    if all(part.shape[1] == length for part in parts):
        return torch.cat(list(parts)) if len(parts) > 1 else parts[0]
    return torch.cat([pad(part, (0, 0) * (part.ndim - 2) + (0, length - part.shape[1])) for part in parts])
