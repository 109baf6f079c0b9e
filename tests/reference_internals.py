"""Slow definitions of the methods that look inside: plain forwards over the growing prefix, one at a time."""

from __future__ import annotations

from typing import Any

import torch
from reference import Case
from torch import Tensor


def outputs(case: Case, t: int) -> Any:
    """The model's own outputs for the prefix that predicts position ``t``, attention weights included."""
    if case.model.config._attn_implementation != "eager":
        raise ValueError("attention weights need a model with eager attention")
    prefix = case.target[None, :t]
    with torch.no_grad():
        if case.source is None:
            return case.model(input_ids=prefix, output_attentions=True, use_cache=False)
        return case.model(input_ids=case.source[None], decoder_input_ids=prefix, output_attentions=True, use_cache=False)


def columns(case: Case, rows: list[Tensor], *, only_source: bool = False) -> Tensor:
    """[feature, step]: each step's row over the tokens it has read, zeros after it."""
    n = case.n_source if only_source else case.n_features
    return torch.stack([torch.cat([row, row.new_zeros(case.n_features - len(row))])[:n] for row in rows], 1)


def attention_rollout(case: Case, *, only_source: bool = False) -> Tensor:
    """[feature, step]: (A + I) / 2, heads averaged, multiplied over layers (Abnar and Zuidema 2020).

    One large matrix over source and decoder positions for each sublayer of an encoder-decoder: the same product.
    """
    return columns(case, [_rollout_row(case, t) for t in case.positions], only_source=only_source)


def _rollout_row(case: Case, t: int) -> Tensor:
    found, n = outputs(case, t), case.n_source
    product = torch.eye(n + t, dtype=torch.float64)
    if case.source is None:
        for weights in found.attentions:
            product = (weights[0].double().mean(0) + torch.eye(t)) / 2 @ product
        return product[-1].to(case.model.dtype)
    for weights in found.encoder_attentions:
        product = _sublayer(n, t, weights, slice(0, n), slice(0, n)) @ product
    for own, cross in zip(found.decoder_attentions, found.cross_attentions, strict=True):
        product = _sublayer(n, t, own, slice(n, n + t), slice(n, n + t)) @ product
        product = _sublayer(n, t, cross, slice(n, n + t), slice(0, n)) @ product
    return product[-1].to(case.model.dtype)


def _sublayer(n: int, t: int, weights: Tensor, queries: slice, keys: slice) -> Tensor:
    """The mixing matrix of one attention: other positions stay as they are."""
    mix = torch.eye(n + t, dtype=torch.float64)
    mix[queries] /= 2
    mix[queries, keys] += weights[0].double().mean(0) / 2
    return mix
