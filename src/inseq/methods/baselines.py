"""Where a path starts, and what a removed feature is replaced by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inseq.errors import ArgumentError, near
from inseq.requests.example import Example
from inseq.text.tokens import Role

Baseline = str | int | Sequence[int] | Tensor | Callable[[Example], Any]
"""What stands for nothing at each feature.

* ``"unk"``, ``"pad"``, ``"mask"``: a special token. A tokenizer without ``unk`` uses its ``pad``, or else its ``eos``.
* ``"zero"``, ``"mean"``: the zero embedding, the mean embedding of the vocabulary.
* a text: one token for all features, or as many tokens as there are features, one for each.
* an id, or ids (a list or an integer tensor): one for all features, or one for each.
* embeddings in first-layer units: Float["dim"] for all features, or Float["feature dim"].
* a function of the :class:`~inseq.requests.example.Example` that returns any of these.

Texts, ids and embeddings that name one thing for each feature follow the features' order: the encoder's tokens, then the
decoder's, if they receive scores. The default is a token, because a model that normalises by the root mean square jumps
near a zero embedding: on such models a path from ``"zero"`` does not converge.
"""

_SPECIAL: tuple[Literal["unk", "pad", "mask"], ...] = ("unk", "pad", "mask")
_EXPECTED = (
    "'unk', 'pad', 'mask', 'zero', 'mean', a text, an id, ids, embeddings Float[feature, dim] or [dim], or a function of the "
    "example that returns one of these"
)


def baseline_embeds(x: Example, baseline: Any, *, include_eos_baseline: bool = False) -> Float[Tensor, "feature dim"]:
    """Embeddings of the baseline of every feature, in first-layer units.

    End-of-sequence tokens and the decoder's start are their own baseline, as the model never reads without them; with
    ``include_eos_baseline`` the former are replaced too.

    Raises:
        ArgumentError: if the tokenizer has no such token, an id has no embedding, or a length or a shape is wrong.
    """
    replaced = _replaced(x, baseline(x) if callable(baseline) else baseline)
    return torch.where(kept(x, include_eos=include_eos_baseline)[:, None], x.embeds, replaced)


def kept(x: Example, *, include_eos: bool) -> Bool[Tensor, " feature"]:
    """Features that are never removed: the decoder's start, and ends of sequence unless they are included."""
    eos = None if include_eos else x.vocabulary.special_id("eos")
    never = x.ids == eos if eos is not None else torch.zeros_like(x.ids, dtype=torch.bool)
    if x.n_source and len(x.features) > x.n_source:
        never[x.n_source] = True
    return never


def _replaced(x: Example, baseline: Any) -> Float[Tensor, "feature dim"]:
    if isinstance(baseline, Tensor) and baseline.is_floating_point():
        return _of_embeddings(x, baseline)
    if isinstance(baseline, str) and baseline in ("zero", "mean"):
        return torch.cat([_constant(x, baseline, role).expand_as(x.embeds[side]) for role, side in x.sides])
    ids = _ids(x, baseline)
    for role, side in x.sides:
        _check_range(ids[side], x.vocabulary.size(role), role, baseline)
    return torch.cat([x.vocabulary.embed(ids[side], role).to(x.embeds) for role, side in x.sides])


def _of_embeddings(x: Example, baseline: Tensor) -> Float[Tensor, "feature dim"]:
    shape = tuple(x.embeds.shape)
    if tuple(baseline.shape) not in (shape, shape[1:]):
        raise ArgumentError(
            f"baseline is a tensor of shape {tuple(baseline.shape)}, expected {shape} (feature, dim) or {shape[1:]} (dim)."
        )
    return baseline.to(x.embeds).expand_as(x.embeds)


def _constant(x: Example, name: str, role: Role) -> Float[Tensor, " dim"]:
    return torch.zeros_like(x.embeds[0]) if name == "zero" else x.vocabulary.mean(role).to(x.embeds)


def _ids(x: Example, baseline: Any) -> Int[Tensor, " feature"]:
    """One id for each feature."""
    n = len(x.features)
    if isinstance(baseline, str):
        named = _named_id(x, baseline)
        ids = _of_text(x, baseline) if named is None else [named]
    elif isinstance(baseline, Tensor) and baseline.ndim < 2 and not (baseline.dtype == torch.bool or baseline.is_complex()):
        ids = baseline.flatten().tolist()
    else:
        ids = list(baseline) if isinstance(baseline, list | tuple | range) else [baseline]
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
            raise ArgumentError(f"baseline must be {_EXPECTED}; got {type(baseline).__name__} ({str(baseline)[:60]}).")
    if len(ids) not in (1, n):
        raise ArgumentError(
            f"baseline has {len(ids)} ids, and there are {n} features: pass one id, or one for each feature "
            f"({_order(x)}) in their order."
        )
    if any(abs(i) >= 2**62 for i in ids):
        raise ArgumentError(f"baseline={str(baseline)[:60]} names an id far beyond every vocabulary.")
    return torch.tensor(ids).expand(n)


def _named_id(x: Example, name: str) -> int | None:
    """The id of the one token that a baseline names."""
    if name not in _SPECIAL:
        found = x.vocabulary.id_of(name)
        if found is not None and found == x.vocabulary.special_id("unk") and name != x.vocabulary.special_piece("unk"):
            raise ArgumentError(
                f"baseline={name!r} is no token of this tokenizer, which reads it as unknown."
                f"{near(name, (*_SPECIAL, 'zero', 'mean'))} Pass {_EXPECTED}."
            )
        return found
    found = x.vocabulary.special_id(name)
    if found is None and name == "unk":
        found = next((i for other in ("pad", "eos") if (i := x.vocabulary.special_id(other)) is not None), None)
    if found is None:
        raise ArgumentError(f"baseline={name!r}: this tokenizer has no such token. Pass {_EXPECTED}.")
    return found


def _of_text(x: Example, text: str) -> list[int]:
    """Ids of a text that has as many tokens as there are features, with or without the tokenizer's special tokens."""
    n = len(x.features)
    readings = [x.vocabulary.ids_of(text, special=special) for special in (False, True)]
    if (ids := next((ids for ids in readings if len(ids) == n), None)) is not None:
        return ids
    lengths = " or ".join(dict.fromkeys(str(len(ids)) for ids in readings))
    raise ArgumentError(
        f"baseline={text[:60]!r} is a text of {lengths} tokens, and there are {n} features ({_order(x)}): pass one token, "
        f"which stands for all, or a text of as many tokens as there are features.{near(text, (*_SPECIAL, 'zero', 'mean'))}"
    )


def _order(x: Example) -> str:
    return ", then ".join(
        f"{side.stop - side.start} tokens of the {'source' if role == 'source' else 'decoder'}" for role, side in x.sides
    )


def _check_range(ids: Tensor, size: int, role: Role, baseline: Any) -> None:
    wrong = ids[(ids < 0) | (ids >= size)]
    if len(wrong):
        side = "source" if role == "source" else "decoder"
        raise ArgumentError(
            f"baseline={str(baseline)[:60]} names the id {int(wrong[0])}, and the vocabulary of the {side} has {size} "
            f"embeddings: ids are 0 to {size - 1}."
        )
