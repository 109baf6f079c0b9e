"""Whether forwards can go on from what another has kept: asked of the model itself."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from inseq.models.adapter import Adapter
from inseq.models.guest import guest
from inseq.models.inputs import Inputs

TOLERANCE = 1e-4
TOLERANCE_HALF = 5e-2
N_PREDICTIONS = 8
"""How many predictions are compared: over the whole vocabulary, all would take much memory."""

NAMES = ("cache", "past_key_values")
"""What transformers calls the argument, now and before."""


def prepare_reuse(adapter: Adapter, length: int) -> bool:
    """Whether forwards may go on from what another has kept, for sequences up to a length.

    Two rows that begin alike are run whole, and from where they part on: the predictions must be equal. Windows show beyond
    a length only, so that longer sequences are asked again, each time twice as long.
    """
    if adapter.reuses is False or length <= adapter.reuses_up_to:
        return bool(adapter.reuses)
    size = 8
    while size < length:
        size *= 2
    size = max(length, min(size, adapter.max_positions() or size))
    with guest(adapter.model):
        names = NAMES if not adapter.cache_name else (adapter.cache_name,)
        adapter.reuses = any(_equal(adapter, name, size) for name in names)
    adapter.reuses_up_to = size
    return adapter.reuses


def _equal(adapter: Adapter, name: str, size: int) -> bool:
    adapter.cache_name = name
    sourced = "source" in adapter.tables
    half = size // 2
    rows = _rows(adapter, "decoder", size, half)
    source = _rows(adapter, "source", 4, 4)[:1] if sourced else None
    keep = None if source is None else torch.ones_like(source[:, :, 0], dtype=torch.bool)
    at = torch.linspace(half, size - 1, min(N_PREDICTIONS, size - half), device=adapter.device).long()[None]
    one = Inputs(source, keep, rows[:1], at)
    both = replace(
        one,
        source=None if source is None else source.expand(2, -1, -1),
        source_keep=None if keep is None else keep.expand(2, -1),
        decoder=rows,
        at=at.expand(2, -1),
    )
    try:
        plain = adapter.read(both).logits
        memory = adapter.read(one, remember=True).memory
        if sourced:
            tail = replace(both, source=None, memory=tuple(t.expand(2, -1, -1) for t in memory))
        else:
            cut = tuple(t[:, :, :half].expand(2, -1, -1, -1) for t in memory)
            tail = replace(both, decoder=rows[:, half:], at=both.at - half, memory=cut)
        resumed = adapter.read(tail).logits
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError, NotImplementedError):
        return False
    tolerance = TOLERANCE_HALF if plain.dtype in (torch.float16, torch.bfloat16) else TOLERANCE
    return bool((resumed - plain).abs().max() <= tolerance * plain.float().std())


def _rows(adapter: Adapter, side: str, size: int, half: int) -> Tensor:
    """Two rows of tokens that are the same up to a half and differ from there on."""
    table = adapter.tables[side]
    n = len(table.weight)
    ids = torch.tensor([[(7919 * k + 13 + (31 if row and k >= half else 0)) % n for k in range(size)] for row in range(2)])
    return table.embed(ids)
