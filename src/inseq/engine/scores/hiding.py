"""Whether a token can be hidden from attention while every other token keeps its position: asked of the model itself."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from inseq.errors import UnsupportedModelError
from inseq.models.adapter import Adapter
from inseq.models.guest import guest
from inseq.models.inputs import Inputs

TOLERANCE = 1e-3
TOLERANCE_HALF = 5e-2


def prepare_hiding(adapter: Adapter) -> None:
    """Find out, once, how the model is told which tokens may be attended to; further calls cost nothing.

    Three things must be true of the other tokens' predictions: what the hidden token is does not matter; hiding it does;
    and it is not the same as deleting it, as it is where positions are counted from the mask.

    Raises:
        UnsupportedModelError: if the model cannot do it.
    """
    if adapter.facts.cannot_hide is None:
        with guest(adapter.model):
            adapter.facts.cannot_hide = _find(adapter)
    if adapter.facts.cannot_hide:
        raise UnsupportedModelError(
            f"{type(adapter.model).__name__} cannot hide a token from attention: {adapter.facts.cannot_hide}. Use "
            "removal='replace', or removal='delete', which moves the tokens that follow."
        )


def _find(adapter: Adapter) -> str:
    """Why the model cannot hide tokens: empty if it can."""
    reason = ""
    for explicit in (True, False) if "source" not in adapter.tables else (False,):
        adapter.facts.explicit_positions = explicit
        try:
            reason = _wrong(adapter, "decoder") or ("source" in adapter.tables and _wrong(adapter, "source")) or ""
        except (TypeError, ValueError, RuntimeError) as error:
            reason = f"its forward does not take an attention mask with embeddings ({type(error).__name__}: {error})"
        if not reason:
            return ""
    adapter.facts.explicit_positions = False
    return reason


def _wrong(adapter: Adapter, side: str) -> str:
    """What is wrong with hiding the second of some tokens of one side."""
    half = adapter.tables["decoder"].weight.dtype in (torch.float16, torch.bfloat16)
    tolerance = TOLERANCE_HALF if half else TOLERANCE
    whole = _inputs(adapter, side, [0, 1, 2, 3])
    keep = torch.tensor([[True, False, True, True]], device=adapter.device)

    def masked(inputs: Inputs) -> Inputs:
        return replace(inputs, decoder_keep=keep) if side == "decoder" else replace(inputs, source_keep=keep)

    others = [0, 2, 3] if side == "decoder" else [0]
    hidden = _logits(adapter, masked(whole), others)
    other = _logits(adapter, masked(_inputs(adapter, side, [0, 4, 2, 3])), others)
    deleted = _logits(adapter, _inputs(adapter, side, [0, 2, 3]), list(range(len(others))))
    effect = _gap(hidden, _logits(adapter, whole, others))
    scale = hidden.std().item()
    if not _gap(hidden, other) <= tolerance * scale:
        return "its predictions still depend on what the hidden token is"
    if not effect > tolerance * scale:
        return "its attention mask changes nothing"
    if not _gap(hidden, deleted) > tolerance * effect:
        return "it counts positions from the attention mask, so that the tokens after a hidden one move up"
    return ""


def _inputs(adapter: Adapter, side: str, chosen: list[int]) -> Inputs:
    size = min(len(table.weight) for table in adapter.tables.values())
    ids = torch.tensor([(7919 * k + 13) % size for k in range(5)], device=adapter.device)
    varied, plain = ids[None, chosen], ids[None, :1]
    decoder = adapter.tables["decoder"].embed(varied if side == "decoder" else plain)
    source = None
    if "source" in adapter.tables:
        source = adapter.tables["source"].embed(varied if side == "source" else plain)
    keep = None if source is None else torch.ones_like(source[:, :, 0], dtype=torch.bool)
    return Inputs(source, keep, decoder, torch.zeros(1, 1, dtype=torch.long, device=adapter.device))


def _logits(adapter: Adapter, inputs: Inputs, at: list[int]) -> Tensor:
    return adapter.read(replace(inputs, at=torch.tensor([at], device=adapter.device))).logits[0].cpu().double()


def _gap(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()
