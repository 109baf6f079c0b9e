"""Where a path starts, and what a removed feature is replaced by."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.text.example import Example, Role

Baseline = str | int | Tensor
"""``"unk"``, ``"pad"``, ``"mask"``, ``"zero"``, ``"mean"``, a token, an id, or embeddings Float["feature dim"] or ["dim"]."""

_SPECIAL: tuple[Literal["unk", "pad", "mask"], ...] = ("unk", "pad", "mask")


def baseline_embeds(x: Example, baseline: Baseline, *, include_eos_baseline: bool = False) -> Float[Tensor, "feature dim"]:
    """Embeddings of the baseline of every feature, in first-layer units.

    End-of-sequence tokens and the decoder's start are their own baseline, as the model never reads without them; with
    ``include_eos_baseline`` the former are replaced too.

    Raises:
        ArgumentError: if the tokenizer has no such token, or a tensor has the wrong shape.
    """
    sides: list[tuple[Role, slice]] = [
        ("source", slice(0, x.n_source)),
        ("generated", slice(x.n_source, len(x.features))),
    ]
    replaced = torch.cat([_of_side(x, baseline, role, side) for role, side in sides if x.embeds[side].numel()])
    return torch.where(_kept(x, include_eos_baseline)[:, None], x.embeds, replaced)


def _kept(x: Example, include_eos: bool) -> Tensor:
    eos = None if include_eos else x.vocabulary.special_id("eos")
    kept = x.ids == eos if eos is not None else torch.zeros_like(x.ids, dtype=torch.bool)
    if x.n_source and len(x.features) > x.n_source:
        kept[x.n_source] = True
    return kept


def _of_side(x: Example, baseline: Baseline, role: Role, side: slice) -> Tensor:
    own = x.embeds[side]
    if isinstance(baseline, Tensor):
        shape = tuple(x.embeds.shape)
        if tuple(baseline.shape) not in (shape, shape[1:]):
            raise ArgumentError(
                f"baseline is a tensor of shape {tuple(baseline.shape)}, expected {shape} (feature, dim) or {shape[1:]} (dim)."
            )
        return baseline.to(x.embeds).expand_as(x.embeds)[side]
    if baseline == "zero":
        return torch.zeros_like(own)
    if baseline == "mean":
        return x.vocabulary.mean(role).to(own).expand_as(own)
    return x.vocabulary.embed(torch.tensor([baseline_id(x, baseline)]), role).to(own).expand_as(own)


def baseline_id(x: Example, baseline: str | int) -> int:
    """The id of the token that a baseline names; a tokenizer without ``unk`` uses its ``pad``, or else its ``eos``."""
    if isinstance(baseline, int):
        return baseline
    if baseline in _SPECIAL:
        found = x.vocabulary.special_id(baseline)
        if found is None and baseline == "unk":
            found = next((i for name in ("pad", "eos") if (i := x.vocabulary.special_id(name)) is not None), None)
    else:
        found = x.vocabulary.id_of(baseline)
    if found is None:
        raise ArgumentError(
            f"baseline={baseline!r} is not a token of this tokenizer: pass 'zero', 'mean', a token's text that is exactly "
            "one token, an id, or embeddings."
        )
    return found
