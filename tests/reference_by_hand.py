"""Four architectures and all rules written out in plain torch, forward in place of backward.

Every intermediate value carries each token's share of it: a linear map passes shares on as they are, and each rule is one
line of arithmetic on values and shares. No gradient goes through a model. Only the weights come from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from reference import Case, embeddings
from torch import Tensor
from torch.nn import functional as F

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Shared:
    """Float["*batch"] values, and Float["token *batch"]: what each token has of them.

    ``start`` are the values of a reference, for DeepLIFT; shares are then of the difference.
    """

    value: Tensor
    parts: Tensor
    rules: dict[str, Any] = field(repr=False)
    start: Tensor | None = None

    def mapped(self, linear: Map, constant: Tensor | float = 0.0) -> Shared:
        start = None if self.start is None else linear(self.start) + constant
        return Shared(linear(self.value) + constant, linear(self.parts), self.rules, start)

    def times(self, weight: Tensor, bias: Tensor | None = None) -> Shared:
        """x W^T + b."""
        return self.mapped(lambda x: x @ weight.double().T, 0.0 if bias is None else bias.double())

    def plus(self, other: Shared) -> Shared:
        start = None if self.start is None else self.start + other.start
        return Shared(self.value + other.value, self.parts + other.parts, self.rules, start)

    def through(self, phi: Map) -> Shared:
        """A function of every number: phi(u) / u, or the derivative, or the quotient of differences."""
        u, v = self.value, self.start
        with torch.enable_grad():
            at = u.clone().requires_grad_()
            (derivative,) = torch.autograd.grad(phi(at).sum(), at)
        if v is not None:
            factor = torch.where((u - v).abs() < 1e-9, derivative, (phi(u) - phi(v)) / (u - v))
            return Shared(phi(u), self.parts * factor, self.rules, phi(v))
        return Shared(phi(u), self.parts * (derivative if self.rules["derivative"] else phi(u) / u), self.rules)

    def joined(self, other: Shared, product: Callable[[Tensor, Tensor], Tensor], *, gate: bool = False) -> Shared:
        """A product of two: half each, or all to the second where the first is a held gate, or at the midpoint."""
        (a, c), (b, d) = (self.value, self.start), (other.value, other.start)
        if c is not None:
            parts = product(self.parts, (b + d) / 2) + product((a + c) / 2, other.parts)
            return Shared(product(a, b), parts, self.rules, product(c, d))
        if gate and self.rules["gated"]:
            return Shared(product(a, b), product(a, other.parts), self.rules)
        parts = (product(self.parts, b) + product(a, other.parts)) / 2
        return Shared(product(a, b), parts, self.rules)

    def normed(self, weight: Tensor, bias: Tensor | None, eps: float, *, centered: bool) -> Shared:
        x = self.mapped(lambda x: x - x.mean(-1, keepdim=True)) if centered else self
        scale = (x.value.square().mean(-1, keepdim=True) + eps).rsqrt()
        if x.start is None:
            out = Shared(x.value * scale, x.parts * scale, self.rules)
        else:
            mean = x.joined(x, torch.mul).mapped(lambda x: x.mean(-1, keepdim=True), eps)
            out = x.joined(mean.through(torch.rsqrt), torch.mul)
        return out.mapped(lambda x: x * weight.double(), 0.0 if bias is None else bias.double())

    def attended(self, values: Shared) -> Shared:
        """softmax(self) values; self is Float["head query key"], masked keys are -inf."""
        p = self.value.softmax(-1)
        if self.start is not None:
            return _exp_of_log_softmax(self).joined(values, torch.matmul)
        if self.rules["softmax"] == "constant":
            return Shared(p @ values.value, p @ values.parts, self.rules)
        q = (self.value / self.rules["softmax"]).softmax(-1)
        weights = Shared(p, q * (self.parts - (q * self.parts).sum(-1, keepdim=True)), self.rules)
        return weights.joined(values, torch.matmul)


def _exp_of_log_softmax(s: Shared) -> Shared:
    assert s.start is not None
    seen = s.value.isfinite()
    top = torch.maximum(s.value, s.start).amax(-1, keepdim=True)
    finite = Shared(torch.where(seen, s.value - top, -1.0), s.parts, s.rules, torch.where(seen, s.start - top, -2.0))
    total = finite.through(torch.exp).mapped(lambda e: torch.where(seen, e, 0).sum(-1, keepdim=True))
    logarithm = total.through(torch.log)
    return finite.plus(logarithm.mapped(torch.neg)).through(torch.exp).mapped(lambda p: torch.where(seen, p, 0))


def heads(x: Shared, n: int) -> Shared:
    return x.mapped(lambda x: x.unflatten(-1, (n, -1)).transpose(-3, -2))


def attend(q: Shared, k: Shared, v: Shared, scale: float, hidden: Tensor | None, bias: Tensor | float = 0.0) -> Shared:
    """Attention of heads that are given; ``hidden`` says which keys a query does not see."""
    scores = q.mapped(lambda x: x * scale).joined(k.mapped(lambda x: x.transpose(-2, -1)), torch.matmul)
    masked = bias if hidden is None else bias + torch.zeros(hidden.shape).double().masked_fill(hidden, -torch.inf)
    return scores.mapped(lambda x: x, masked).attended(v).mapped(lambda x: x.transpose(-3, -2).flatten(-2))


def later(n: int, window: int | None = None) -> Tensor:
    distance = torch.arange(n)[:, None] - torch.arange(n)
    return (distance < 0) | (distance >= (window or n + 1))


def rotated(x: Shared, theta: float) -> Shared:
    n, dim = x.value.shape[-2:]
    angle = torch.arange(n)[:, None] * theta ** (-torch.arange(0, dim, 2) / dim)
    cos, sin = (torch.cat([f(angle.double())] * 2, -1) for f in (torch.cos, torch.sin))
    return x.mapped(lambda x: x * cos + torch.cat([-x[..., dim // 2 :], x[..., : dim // 2]], -1) * sin)


def llama(model: Any, x: Shared) -> Shared:
    """Also Mistral's window, Qwen's biases and Qwen3's norms of queries and keys."""
    c = model.config
    n, n_keys, window = c.num_attention_heads, c.num_key_value_heads, getattr(c, "sliding_window", None)
    window = window if c.model_type == "mistral" else None
    for layer in model.model.layers:
        a = layer.self_attn
        h = x.normed(layer.input_layernorm.weight, None, c.rms_norm_eps, centered=False)
        q, k, v = (heads(h.times(p.weight, p.bias), m) for p, m in ((a.q_proj, n), (a.k_proj, n_keys), (a.v_proj, n_keys)))
        if hasattr(a, "q_norm"):
            q, k = (y.normed(w.weight, None, c.rms_norm_eps, centered=False) for y, w in ((q, a.q_norm), (k, a.k_norm)))
        q, k = (rotated(y, c.rope_parameters["rope_theta"]) for y in (q, k))
        k, v = (y.mapped(lambda x: x.repeat_interleave(n // n_keys, -3)) for y in (k, v))
        mixed = attend(q, k, v, a.head_dim**-0.5, later(x.value.shape[0], window))
        x = x.plus(mixed.times(a.o_proj.weight, a.o_proj.bias))
        h = x.normed(layer.post_attention_layernorm.weight, None, c.rms_norm_eps, centered=False)
        gate, up = (h.times(p.weight, p.bias) for p in (layer.mlp.gate_proj, layer.mlp.up_proj))
        x = x.plus(gate.through(F.silu).joined(up, torch.mul, gate=True).times(layer.mlp.down_proj.weight))
    return x.normed(model.model.norm.weight, None, c.rms_norm_eps, centered=False).times(model.lm_head.weight)


def gpt2(model: Any, x: Shared) -> Shared:
    c, t = model.config, model.transformer
    x = x.mapped(lambda x: x, t.wpe.weight[: len(x.value)].double())
    for layer in t.h:
        h = x.normed(layer.ln_1.weight, layer.ln_1.bias, c.layer_norm_epsilon, centered=True)
        h = h.times(layer.attn.c_attn.weight.T, layer.attn.c_attn.bias)
        q, k, v = (heads(h.mapped(lambda x, i=i: x.chunk(3, -1)[i]), c.n_head) for i in range(3))
        mixed = attend(q, k, v, q.value.shape[-1] ** -0.5, later(len(x.value)))
        x = x.plus(mixed.times(layer.attn.c_proj.weight.T, layer.attn.c_proj.bias))
        h = x.normed(layer.ln_2.weight, layer.ln_2.bias, c.layer_norm_epsilon, centered=True)
        h = h.times(layer.mlp.c_fc.weight.T, layer.mlp.c_fc.bias).through(lambda u: F.gelu(u, approximate="tanh"))
        x = x.plus(h.times(layer.mlp.c_proj.weight.T, layer.mlp.c_proj.bias))
    return x.normed(t.ln_f.weight, t.ln_f.bias, c.layer_norm_epsilon, centered=True).times(model.lm_head.weight)


def marian(model: Any, source: Shared, x: Shared) -> Shared:
    """Norms after each sum."""

    def attention(a: Any, queries: Shared, keys: Shared, hidden: Tensor | None = None) -> Shared:
        q = heads(queries.times(a.q_proj.weight, a.q_proj.bias), a.num_heads)
        k, v = (heads(keys.times(p.weight, p.bias), a.num_heads) for p in (a.k_proj, a.v_proj))
        return attend(q, k, v, a.head_dim**-0.5, hidden).times(a.out_proj.weight, a.out_proj.bias)

    def norm(n: Any, x: Shared) -> Shared:
        return x.normed(n.weight, n.bias, n.eps, centered=True)

    def forward(layer: Any, x: Shared) -> Shared:
        h = x.times(layer.fc1.weight, layer.fc1.bias).through(F.gelu).times(layer.fc2.weight, layer.fc2.bias)
        return norm(layer.final_layer_norm, x.plus(h))

    encoder, decoder = model.model.encoder, model.model.decoder
    source = source.mapped(lambda x: x, encoder.embed_positions.weight[: len(source.value)].double())
    for layer in encoder.layers:
        mixed = attention(layer.self_attn, source, source)
        source = forward(layer, norm(layer.self_attn_layer_norm, source.plus(mixed)))
    x = x.mapped(lambda x: x, decoder.embed_positions.weight[: len(x.value)].double())
    for layer in decoder.layers:
        x = norm(layer.self_attn_layer_norm, x.plus(attention(layer.self_attn, x, x, later(len(x.value)))))
        x = norm(layer.encoder_attn_layer_norm, x.plus(attention(layer.encoder_attn, x, source)))
        x = forward(layer, x)
    return x.times(model.lm_head.weight, model.final_logits_bias[0])


def t5(model: Any, source: Shared, x: Shared) -> Shared:
    """Relative positions, no scale; T5's plain and MT5's gated feed-forward."""
    c = model.config

    def attention(block: Any, a: Any, queries: Shared, keys: Shared, bias: Any, hidden: Tensor | None = None) -> Shared:
        h = queries.normed(block.layer_norm.weight, None, c.layer_norm_epsilon, centered=False)
        keys = h if keys is queries else keys
        q, k, v = (heads(y.times(p.weight), c.num_heads) for y, p in ((h, a.q), (keys, a.k), (keys, a.v)))
        return queries.plus(attend(q, k, v, 1.0, hidden, bias).times(a.o.weight))

    def forward(block: Any, x: Shared) -> Shared:
        d = block.DenseReluDense
        h = x.normed(block.layer_norm.weight, None, c.layer_norm_epsilon, centered=False)
        if c.model_type == "t5":
            return x.plus(h.times(d.wi.weight).through(F.relu).times(d.wo.weight))
        gate = h.times(d.wi_0.weight).through(lambda u: F.gelu(u, approximate="tanh"))
        return x.plus(gate.joined(h.times(d.wi_1.weight), torch.mul, gate=True).times(d.wo.weight))

    def stack(s: Any, x: Shared, source: Shared | None) -> Shared:
        n = len(x.value)
        bias = s.block[0].layer[0].SelfAttention.compute_bias(n, n)[0].double()
        for block in s.block:
            own = block.layer[0]
            x = attention(own, own.SelfAttention, x, x, bias, None if source is None else later(n))
            if source is not None:
                x = attention(block.layer[1], block.layer[1].EncDecAttention, x, source, 0.0)
            x = forward(block.layer[-1], x)
        return x.normed(s.final_layer_norm.weight, None, c.layer_norm_epsilon, centered=False)

    x = stack(model.decoder, x, stack(model.encoder, source, None))
    scale = c.d_model**-0.5 if getattr(c, "scale_decoder_outputs", False) else 1.0
    return x.mapped(lambda x: x * scale).times(model.lm_head.weight)


MODELS: dict[str, Callable[..., Shared]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), llama),
    "gpt2": gpt2,
    **dict.fromkeys(("marian", "marian_separate"), marian),
    **dict.fromkeys(("t5", "mt5"), t5),
}
RULES: dict[str, dict[str, Any]] = {
    "attnlrp": {"softmax": 1.0, "gated": False, "derivative": False},
    "cp_lrp": {"softmax": "constant", "gated": False, "derivative": False},
    "frozen": {"softmax": "constant", "gated": True, "derivative": False},
    "gim": {"softmax": 2.0, "gated": False, "derivative": True},
    "deeplift": {},
}


@torch.no_grad()
def prediction(name: str, case: Case, t: int, method: str, baseline: Tensor) -> Shared:
    """The logits of position ``t``, Float["vocabulary"], and every token's share, Float["token vocabulary"].

    Shares begin as the embeddings, for GIM and DeepLIFT as their difference from the baseline.
    """
    seen = case.seen(t)
    x, b = embeddings(case)[:seen].double(), baseline[:seen].double()
    given = x - b if method in ("gim", "deeplift") else x
    parts = torch.eye(seen).double()[:, :, None] * given
    n, rules = case.n_source, RULES[method]
    sides = [(slice(0, n)), slice(n, seen)] if n else [slice(0, seen)]
    inputs = [Shared(x[s], parts[:, s], rules, b[s] if method == "deeplift" else None) for s in sides]
    return MODELS[name](case.model, *inputs).mapped(lambda z: z[..., -1, :])
