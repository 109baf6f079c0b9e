"""Hide a token from attention while every other token keeps its position, where the model can."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from inseq.errors import UnsupportedModelError
from inseq.models.adapter import Adapter
from inseq.models.inputs import Inputs
from inseq.models.probes import answer, rows, tolerance_of

REFUSED = "its forward does not take an attention mask with embeddings"


def prepare_hiding(adapter: Adapter) -> None:
    """Find out, once, how the model is told which tokens may be attended to; further calls cost nothing.

    Three things must be true of the other tokens' predictions: what the hidden token is does not matter; hiding it does;
    and it is not the same as deleting it, as it is where positions are counted from the mask.

    Raises:
        UnsupportedModelError: if the model cannot do it.
    """
    if adapter.facts.cannot_hide is None:
        adapter.facts.cannot_hide = _find(adapter)
    if adapter.facts.cannot_hide:
        raise UnsupportedModelError(
            f"{type(adapter.model).__name__} cannot hide a token from attention: {adapter.facts.cannot_hide}. Use "
            "removal='replace', or removal='delete', which moves the tokens that follow."
        )


def _find(adapter: Adapter) -> str:
    """Return the reason why the model cannot hide tokens, empty if it can."""
    reason = ""
    for explicit in (True, False) if "source" not in adapter.tables else (False,):
        adapter.facts.explicit_positions = explicit
        faults = (answer(adapter, partial(_wrong, adapter, side), REFUSED) for side in adapter.tables)
        reason = next(filter(None, faults), "")
        if not reason:
            return ""
    adapter.facts.explicit_positions = False
    return reason


def _wrong(adapter: Adapter, side: str) -> str:
    """Return what goes wrong when the second of some tokens of one side is hidden, empty if nothing does."""
    tolerance = tolerance_of(adapter.tables["decoder"].weight.dtype)
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
    sides = {name: rows(adapter, name, 5)[:, chosen if name == side else [0]] for name in adapter.tables}
    source, decoder = sides.get("source"), sides["decoder"]
    keep = None if source is None else torch.ones_like(source[:, :, 0], dtype=torch.bool)
    return Inputs(source, keep, decoder, torch.zeros(1, 1, dtype=torch.long, device=adapter.device))


def _logits(adapter: Adapter, inputs: Inputs, at: list[int]) -> Tensor:
    return adapter.read(replace(inputs, at=torch.tensor([at], device=adapter.device))).logits[0].cpu().double()


def _gap(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()
