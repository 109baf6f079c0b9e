"""Slow definitions of the methods that look inside: plain forwards over the growing prefix, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Mixed:
    """One attention written out: y_i is the sum over j of T[i, j], and what is no token's; T[i, i] holds the residual of a
    self-attention, `residual` that of a cross-attention."""

    site: str
    index: int
    x: Tensor
    pieces: Tensor
    residual: Tensor
    y: Tensor
    rest: Tensor


AFTER = ("marian", "bart")
"""Families whose residual sum is normed."""
SANDWICH = ("gemma2", "gemma3_text")
"""Families whose attention output is normed before it joins the residual, by root mean square and with gains of 1 + w."""


def taped(case: Case, t: int) -> tuple[Any, dict[tuple[int, str], Tensor]]:
    """A forward of the prefix, and what went into and came out of every module: [position, dim], by module and way."""
    tape: dict[tuple[int, str], Tensor] = {}

    def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = next((v for v in (*args, kwargs.get("hidden_states"), *kwargs.values()) if isinstance(v, Tensor)), None)
        found = output if isinstance(output, Tensor) else output[0] if isinstance(output, tuple) else None
        for way, value in (("in", given), ("out", found)):
            if isinstance(value, Tensor) and value.is_floating_point():
                tape[id(module), way] = value.flatten(0, -2).double()

    handles = [m.register_forward_hook(record, with_kwargs=True) for m in case.model.modules()]
    try:
        return outputs(case, t), tape
    finally:
        for handle in handles:
            handle.remove()


def named(parent: nn.Module, *names: str) -> nn.Module:
    return next(m for path, m in parent.named_modules() if path.rpartition(".")[2] in names)


def matrix(projection: nn.Module) -> tuple[Tensor, Tensor | float]:
    """[in, out] and the bias."""
    weight = projection.weight.detach().double()
    bias = getattr(projection, "bias", None)
    return (weight if "Conv1D" in type(projection).__name__ else weight.T), 0.0 if bias is None else bias.detach().double()


def mixed(case: Case, t: int) -> list[Mixed]:
    """Every attention of the model in a forward of the prefix, encoder first."""
    found, tape = taped(case, t)
    stacks = ["decoder"] if case.source is None else ["encoder", "decoder"]
    every = []
    for stack in stacks:
        for index, layer in enumerate(layers(case, stack)):
            x = tape[id(layer), "in"]
            for site in [stack, "cross"] if case.source is not None and stack == "decoder" else [stack]:
                every.append(_mixed(case, found, tape, layer, site, index, x))
                x = every[-1].y
    return every


def _mixed(case: Case, found: Any, tape: Any, layer: nn.Module, site: str, index: int, x: Tensor) -> Mixed:
    name = {"encoder": "encoder_attentions", "cross": "cross_attentions"}.get(site, "decoder_attentions")
    weights = getattr(found, name if case.source is not None else "attentions")[index][0].double()
    attention = attention_module(layer, site)
    projection, columns_of = value_columns(attention)
    groups = [tape[id(projection), "out"][:, columns] for columns in columns_of]
    matrix_of, bias = matrix(named(attention, "o_proj", "out_proj", "c_proj", "dense", "o"))
    width, share = groups[0].shape[1], len(weights) // len(groups)
    pieces = x.new_zeros(len(x), weights.shape[2], x.shape[1])
    for head, each in enumerate(weights):
        carried = groups[head // share] @ matrix_of[head * width : (head + 1) * width]
        pieces += each[:, :, None] * carried[None]
    rest, residual, kind = torch.zeros_like(x) + bias, x, case.model.config.model_type
    if kind in SANDWICH:
        norm, a = named(layer, "post_attention_layernorm"), pieces.sum(1) + rest
        gain = (1 + norm.weight.double()) / (a.square().mean(1, keepdim=True) + norm.eps).sqrt()
        pieces, rest = pieces * gain[:, None], rest * gain
    total = pieces.sum(1) + rest + residual
    if kind in AFTER:
        norm = named(layer, "encoder_attn_layer_norm" if site == "cross" else "self_attn_layer_norm")
        gain = norm.weight.double() / (total.var(1, keepdim=True, correction=0) + norm.eps).sqrt()
        pieces, residual, rest = (v - v.mean(-1, keepdim=True) for v in (pieces, residual, rest))
        pieces, residual, rest = pieces * gain[:, None], residual * gain, rest * gain + norm.bias.double()
        total = pieces.sum(1) + rest + residual
    if site != "cross":
        pieces = pieces.clone()
        pieces[range(len(x)), range(len(x))] += residual
    return Mixed(site, index, x, pieces.detach(), residual.detach(), total.detach(), rest.detach())


def alti_row(m: Mixed, i: int) -> tuple[Tensor, Tensor]:
    """What each token, and the residual of a cross-attention, contributes to one vector (Ferrando et al. 2022)."""
    parts = [*m.pieces[i], *([m.residual[i]] if m.site == "cross" else [])]
    near = torch.stack([(m.y[i].abs().sum() - (m.y[i] - part).abs().sum()).clamp_min(0) for part in parts])
    near = near / near.sum()
    return near[: m.pieces.shape[1]], near[m.pieces.shape[1] :].sum()


def alti_flows(case: Case, t: int) -> Iterator[tuple[Mixed, Tensor]]:
    """Each attention, and the shares of all tokens, source first, in all positions' vectors before it."""
    n = case.n_source
    flow = torch.eye(n + t, dtype=torch.float64)
    for m in mixed(case, t):
        yield m, flow
        queries = slice(0, n) if m.site == "encoder" else slice(n, n + t)
        keys = queries if m.site != "cross" else slice(0, n)
        rows = [alti_row(m, i) for i in range(len(m.y))]
        before, flow = flow, flow.clone()
        flow[queries] = torch.stack([shares @ before[keys] for shares, _ in rows])
        if m.site == "cross":
            flow[queries] += torch.stack([kept for _, kept in rows])[:, None] * before[queries]
    yield m, flow


def alti(case: Case, *, only_source: bool = False, by_step: bool = False) -> Tensor:
    """[feature, step]: the rows of the last layer's shares that predict the steps."""
    whole = None if by_step else list(alti_flows(case, len(case.target) - 1))[-1][1]
    rows = []
    for t in case.positions:
        flow = whole if whole is not None else list(alti_flows(case, t))[-1][1]
        rows.append(flow[case.n_source + t - 1, : case.seen(t)].to(case.model.dtype))
    return columns(case, rows, only_source=only_source)


def logit_parts(case: Case, t: int) -> tuple[Tensor, dict[str, float]]:
    """[token]: what each token adds to the logit of the written token through attention, and the whole sum's parts.

    Ferrando et al. 2023. The final norm is written out with its statistics; the parts are `tokens`, `feed_forward` and
    `biases`, and `logit` is the model's own, before any cap.
    """
    direction, offset = readout(case, t)
    scores = torch.zeros(case.seen(t), dtype=torch.float64)
    _, tape = taped(case, t)
    n, at = case.n_source, t - 1
    parts = {"feed_forward": 0.0, "biases": offset}
    for m, flow in list(alti_flows(case, t))[:-1]:
        if m.site == "encoder":
            continue
        if m.site == "decoder" and m.index == 0:
            scores += flow[n + at] * (m.x[at] @ direction)
        own = m.residual[at] if m.site == "decoder" else 0
        for key in range(m.pieces.shape[1]):
            piece = m.pieces[at, key] - (own if key == at and m.site == "decoder" else 0)
            scores += flow[key if m.site == "cross" else n + key] * (piece @ direction)
        parts["biases"] += float(m.rest[at] @ direction)
        layer = layers(case)[m.index]
        if m.site == "cross" or case.source is None:
            parts["feed_forward"] += float((tape[id(layer), "out"][at] - m.y[at]) @ direction)
    head = case.model.get_output_embeddings()
    parts["tokens"], parts["logit"] = float(scores.sum()), float(tape[id(head), "out"][at, case.written(t)])
    return scores, parts


def readout(case: Case, t: int) -> tuple[Tensor, float]:
    """The direction of a logit in the last layer's output, and what the final norm's and the head's biases add."""
    _, tape = taped(case, t)
    decoder, head = case.model.get_decoder(), case.model.get_output_embeddings()
    row = head.weight[case.written(t)].detach().double()
    offset = 0.0 if getattr(head, "bias", None) is None else float(head.bias[case.written(t)].detach())
    norm = next(
        m for name in ("final_layer_norm", "layer_norm", "ln_f", "norm") if (m := getattr(decoder, name, None)) is not None
    )
    x = tape[id(layers(case)[-1]), "out"][t - 1]
    scaled = case.model.config.model_type in ("t5",) and case.model.config.tie_word_embeddings
    row = row * (case.model.config.d_model**-0.5 if scaled else 1.0)
    if isinstance(norm, nn.LayerNorm):
        gained = row * norm.weight.double() / (x.var(correction=0) + norm.eps).sqrt()
        return (gained - gained.mean()).detach(), offset + float(row @ norm.bias.detach().double())
    eps = getattr(norm, "variance_epsilon", None) or norm.eps
    gain = 1 + norm.weight.double() if "Gemma" in type(norm).__name__ else norm.weight.double()
    return (row * gain / (x.square().mean() + eps).sqrt()).detach(), offset


def alti_logit(case: Case, *, only_source: bool = False) -> Tensor:
    """[feature, step]."""
    rows = [logit_parts(case, t)[0].to(case.model.dtype) for t in case.positions]
    return columns(case, rows, only_source=only_source)
