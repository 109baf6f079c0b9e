"""Slow definitions of the methods that look inside: plain forwards over the growing prefix, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from reference import Case
from torch import Tensor, nn
from torch.nn.functional import pad


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


def layers(case: Case, stack: str = "decoder") -> Sequence[nn.Module]:
    side = case.model.get_encoder() if stack == "encoder" else case.model.get_decoder()
    return next(found for name in ("layers", "h", "block") if (found := getattr(side, name, None)) is not None)


def attention_module(layer: nn.Module, site: str) -> nn.Module:
    names = ("encoder_attn", "EncDecAttention") if site == "cross" else ("self_attn", "attn", "attention", "SelfAttention")
    return next(m for path, m in layer.named_modules() if path.rpartition(".")[2] in names)


def value_columns(attention: nn.Module) -> tuple[nn.Module, list[list[int]]]:
    """The projection that makes an attention's values, and the columns of its output that are each value head's."""
    config = attention.config
    heads, dim = config.num_attention_heads, config.hidden_size
    width = getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or dim // heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    start, stride = 0, width
    if "GPTNeoX" in type(attention).__name__:
        name, start, stride = "query_key_value", 2 * width, 3 * width
    elif "GPT2" in type(attention).__name__:
        name, start = "c_attn", 2 * dim
    elif "Phi3" in type(attention).__name__:
        name, start = "qkv_proj", (heads + groups) * width
    else:
        name = next(n for n in ("v_proj", "v") if hasattr(attention, n))
    spans = [range(start + group * stride, start + group * stride + width) for group in range(groups)]
    return getattr(attention, name), [list(span) for span in spans]


@contextmanager
def hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def layer_output(case: Case, t: int, stack: str, index: int, zeroed: tuple[str, int, Sequence[int]] | None = None) -> Tensor:
    """[position, dim]: what a layer gives in a forward of the prefix, with (site, token, value heads) zeroed in it."""
    layer, caught = layers(case, stack)[index], []

    def catch(_: nn.Module, args: Any, output: Any) -> None:
        caught.append((output if isinstance(output, Tensor) else output[0])[0].double())

    with ExitStack() as hooks, torch.no_grad():
        hooks.enter_context(hooked(layer, catch))
        if zeroed is not None:
            site, token, groups = zeroed
            projection, columns_of = value_columns(attention_module(layer, site))

            def zero(_: nn.Module, args: Any, output: Tensor) -> Tensor:
                output = output.clone()
                output[:, token, [c for group in groups for c in columns_of[group]]] = 0
                return output

            hooks.enter_context(hooked(projection, zero))
        if case.source is None:
            case.model(input_ids=case.target[None, :t], use_cache=False)
        else:
            case.model(input_ids=case.source[None], decoder_input_ids=case.target[None, :t], use_cache=False)
    return caught[0]


def context_mixing(
    case: Case, t: int, index: int, site: str, metric: str = "cosine", groups: Sequence[int] | None = None
) -> Tensor:
    """[query, key]: how far a layer's output moves when a token's values are zeroed, rows divided by their sum.

    Mohebbi et al. 2023. `groups` are the value heads that are zeroed, all if None.
    """
    stack = "encoder" if site == "encoder" else "decoder"
    if groups is None:
        groups = range(len(value_columns(attention_module(layers(case, stack)[index], site))[1]))
    clean = layer_output(case, t, stack, index)
    moved = []
    for token in range(t if site == "decoder" else case.n_source):
        altered = layer_output(case, t, stack, index, (site, token, groups))
        if metric == "euclidean":
            moved.append((clean - altered).norm(dim=1))
        else:
            moved.append(1 - torch.nn.functional.cosine_similarity(clean, altered))
    rows = torch.stack(moved, 1)
    if site == "decoder":
        rows = rows.tril()
    return (rows / rows.sum(1, keepdim=True).clamp_min(1e-300)).to(case.model.dtype)


def value_zeroing(case: Case, metric: str = "cosine", *, only_source: bool = False, by_step: bool = False) -> Tensor:
    """[feature, step, layer]: the rows of the positions that predict the steps, source before decoder.

    One forward for each layer and token; with `by_step` also for each step, over its own prefix, as no other way is right
    on a model that is not causal.
    """
    sites = ["decoder"] if case.source is None else ["cross", "decoder"]
    steps = []
    whole = {(i, s): context_mixing(case, len(case.target) - 1, i, s, metric) for i in _indices(case) for s in sites}
    for t in case.positions:
        each = []
        for i in _indices(case):
            parts = [context_mixing(case, t, i, s, metric) if by_step else whole[i, s] for s in sites]
            each.append(
                torch.cat([part[t - 1, : t if s == "decoder" else None] for s, part in zip(sites, parts, strict=True)])
            )
        steps.append(torch.stack(each, 1))
    n = case.n_source if only_source else case.n_features
    return torch.stack([pad(step, (0, 0, 0, case.n_features - len(step)))[:n] for step in steps], 1)


def _indices(case: Case) -> range:
    return range(len(layers(case)))
