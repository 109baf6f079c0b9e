"""Each rule of relevance by itself, against the formula of its paper; and the ways in which model code may write it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inseq.engine.rules.relevance import RelevanceRules
from inseq.engine.rules.rescale import RescaleRules
from inseq.errors import UnsupportedModelError
from inseq.methods.relevance import ATTNLRP, CP_LRP, FROZEN, GIM
from inseq.requests import Relevance, Rescale

EDITS = (ATTNLRP, CP_LRP, FROZEN, GIM)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def passed(edit: Relevance, function: Callable[..., Tensor], g: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """What arrives at each input when ``g`` goes backward; the value is checked to be the function's own."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    rules = RelevanceRules(nn.Linear(1, 1), edit)
    with rules:
        out = function(*leaves)
    rules.check(out, "it")
    assert torch.equal(out, function(*inputs))
    return torch.autograd.grad(out, leaves, g, materialize_grads=True)


@pytest.mark.parametrize("phi", [F.gelu, F.silu, torch.tanh, F.relu, lambda u: F.gelu(u, approximate="tanh")])
@pytest.mark.parametrize("edit", [ATTNLRP, CP_LRP, FROZEN])
def test_an_activation_keeps_its_ratio(edit: Relevance, phi: Callable[[Tensor], Tensor]) -> None:
    u, g = drawn(5), drawn(5, seed=1)
    torch.testing.assert_close(passed(edit, phi, g, u)[0], g * phi(u) / u)


@pytest.mark.parametrize(("phi", "slope"), [(F.gelu, 0.5), (F.silu, 0.5), (torch.tanh, 1.0), (torch.sigmoid, 0.25)])
def test_at_zero_the_ratio_is_the_derivative(phi: Callable[[Tensor], Tensor], slope: float) -> None:
    """What a sigmoid gives at zero counts as a bias: its ratio stays finite."""
    got = passed(ATTNLRP, phi, torch.ones(3).double(), torch.tensor([0.0, 1e-9, -1e-12]).double())[0]
    torch.testing.assert_close(got, torch.full((3,), slope).double(), atol=1e-5, rtol=1e-5)


def test_an_activation_of_gim_passes_its_gradient() -> None:
    u, g = drawn(5).requires_grad_(), drawn(5, seed=1)
    torch.testing.assert_close(passed(GIM, F.gelu, g, u.detach())[0], torch.autograd.grad(F.gelu(u), u, g)[0])


@pytest.mark.parametrize("edit", EDITS)
def test_norms_hold_their_statistic(edit: Relevance) -> None:
    x, w, g = drawn(3, 8), drawn(8, seed=1), drawn(3, 8, seed=2)
    deviation = x.var(-1, unbiased=False, keepdim=True).add(1e-5).sqrt()
    expected = g * w / deviation
    layer = passed(edit, lambda x: F.layer_norm(x, (8,), w, drawn(8, seed=3), 1e-5), g, x)[0]
    torch.testing.assert_close(layer, expected - expected.mean(-1, keepdim=True))
    root = x.square().mean(-1, keepdim=True).add(1e-5).sqrt()
    for function in (
        lambda x: F.rms_norm(x, (8,), w, 1e-5),
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * w,
        lambda x: x * ((x * x).mean(-1, keepdim=True) + 1e-5) ** -0.5 * w,
        lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w,
    ):
        torch.testing.assert_close(passed(edit, function, g, x)[0], g * w / root)


def test_factors_of_a_product_get_half_each_whatever_their_size() -> None:
    """Not by |a| / (|a| + |b|)."""
    a, b, g = drawn(4), 100 * drawn(4, seed=1), drawn(4, seed=2)
    for edit in (ATTNLRP, CP_LRP, GIM):
        for function in (torch.mul, lambda a, b: a * b, lambda a, b: torch.einsum("i,i->i", a, b)):
            to_a, to_b = passed(edit, function, g, a, b)
            torch.testing.assert_close(to_a, g * b / 2)
            torch.testing.assert_close(to_b, g * a / 2)


def test_frozen_holds_the_factor_that_is_an_activation() -> None:
    a, b, g = drawn(4), drawn(4, seed=1), drawn(4, seed=2)
    for function in (lambda a, b: F.silu(a) * b, lambda a, b: b * F.silu(a), lambda a, b: b * (torch.sigmoid(a) * a)):
        to_a, to_b = passed(FROZEN, function, g, a, b)
        assert not to_a.any()
        torch.testing.assert_close(to_b, g * F.silu(a))
    with pytest.raises(UnsupportedModelError, match="MulBackward0"):
        passed(FROZEN, torch.mul, g, a, b)


def test_the_softmax_of_each_method() -> None:
    s, g = drawn(2, 5), drawn(2, 5, seed=1)
    p, half = s.softmax(-1), (s / 2).softmax(-1)
    expected = {
        "attnlrp": p * (g - (g * p).sum(-1, keepdim=True)),
        "gim": half * (g - (g * half).sum(-1, keepdim=True)),
        "cp_lrp": torch.zeros_like(s),
        "frozen": torch.zeros_like(s),
    }
    for edit in EDITS:
        for function in (lambda s: F.softmax(s, dim=-1), lambda s: s.softmax(-1), lambda s: torch.softmax(s, 1)):
            if edit in (CP_LRP, FROZEN):
                rules = RelevanceRules(nn.Linear(1, 1), edit)
                with rules:
                    assert not function(s.clone().requires_grad_()).requires_grad
            else:
                torch.testing.assert_close(passed(edit, function, g, s)[0], expected[edit.name])


def test_a_softmax_may_subtract_its_own_maximum() -> None:
    s, g = drawn(2, 5), drawn(2, 5, seed=1)
    plain = passed(ATTNLRP, lambda s: s.softmax(-1), g, s)[0]
    for function in (
        lambda s: (s - s.max(dim=-1, keepdim=True).values).softmax(-1),
        lambda s: (s - s.amax(-1, keepdim=True)).softmax(-1),
    ):
        torch.testing.assert_close(passed(ATTNLRP, function, g, s)[0], plain)
    with pytest.raises(UnsupportedModelError, match="MaxBackward0"):
        passed(ATTNLRP, lambda s: s.max(dim=-1).values, drawn(2), s)


def test_a_floor_under_scores_changes_nothing_above_it() -> None:
    s, g = drawn(2, 5), drawn(2, 5, seed=1)
    floor = torch.tensor(torch.finfo(s.dtype).min, dtype=s.dtype)
    for function in (lambda s: torch.max(s, floor), lambda s: torch.maximum(s, floor), lambda s: s.clamp(min=floor.item())):
        torch.testing.assert_close(passed(ATTNLRP, function, g, s)[0], g)


MASK = torch.tensor([[True, False, True], [True, True, False], [False, True, True]])
ATTENTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "boolean": {"attn_mask": MASK},
    "added": {"attn_mask": torch.zeros(3, 3).masked_fill(~MASK, -torch.inf).double()},
    "scaled": {"scale": 0.3},
    "grouped": {"enable_gqa": True},
}


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention_in_one_operation(kind: str) -> None:
    """AttnLRP: a quarter of the gradient to queries and keys, a half to values. CP-LRP: all to values."""
    options = ATTENTIONS[kind]
    q, k, v = drawn(1, 4, 3, 8), drawn(1, 2 if kind == "grouped" else 4, 3, 8, seed=1), drawn(1, 4, 3, 8, seed=2)
    v = v[:, : k.shape[1]]
    g = drawn(1, 4, 3, 8, seed=3)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, **options)

    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    to_q, to_k, to_v = torch.autograd.grad(attend(*leaves), leaves, g)
    for part, expected in zip(passed(ATTNLRP, attend, g, q, k, v), (to_q / 4, to_k / 4, to_v / 2), strict=True):
        torch.testing.assert_close(part, expected)
    for part, expected in zip(passed(CP_LRP, attend, g, q, k, v), (0 * to_q, 0 * to_k, to_v), strict=True):
        torch.testing.assert_close(part, expected)


def test_chosen_experts_keep_their_weights() -> None:
    x, w = drawn(3, 6), drawn(4, 6, seed=1)

    def route(x: Tensor) -> Tensor:
        values, chosen = F.linear(x, w).softmax(-1).topk(2)
        values = values / values.sum(-1, keepdim=True)
        return sum((values[:, i, None] * x * (chosen[:, i, None] + 1) for i in range(2)), torch.zeros_like(x))

    values, chosen = F.linear(x, w).softmax(-1).topk(2)
    factor = (values / values.sum(-1, keepdim=True) * (chosen + 1)).sum(-1, keepdim=True)
    for edit in EDITS:
        torch.testing.assert_close(passed(edit, route, torch.ones_like(x), x)[0], factor.expand_as(x))


@pytest.mark.parametrize("choose", [lambda x: x.topk(1), lambda x: x.argmax(-1), lambda x: x.max(-1), lambda x: x > 0])
def test_the_rescale_rule_refuses_choices_even_where_gradients_are_off(choose: Callable[[Tensor], Any]) -> None:
    x = drawn(2, 4).requires_grad_()
    for flag in (True, False):
        rules = RescaleRules(nn.Linear(1, 1), Rescale("deeplift"))
        with rules, torch.set_grad_enabled(flag), pytest.raises(UnsupportedModelError, match="chooses by its input"):
            choose(x)


@pytest.mark.parametrize("edit", [*EDITS, Rescale("deeplift")])
def test_rules_let_go_of_the_graph_at_once(edit: Relevance | Rescale) -> None:
    """No cycle keeps a batch's graph in memory until the garbage collector comes."""
    model = nn.Linear(1, 1)
    rules = RelevanceRules(model, edit) if isinstance(edit, Relevance) else RescaleRules(model, edit)
    x = drawn(2, 5).requires_grad_()
    with rules.whole_activations(model), rules:
        out = F.gelu(x) * x
        rules.check(out, "it")
    gc.collect()
    gc.disable()
    try:
        held = weakref.ref(rules)
        del rules
        assert held() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_matrices_are_linear(bits: int) -> None:
    """The gradient times the input is the output, to float32's rounding."""
    kinds = pytest.importorskip("bitsandbytes", reason="quantised models need the extra 'quant'").nn
    made = kinds.Linear4bit(32, 64, bias=False) if bits == 4 else kinds.Linear8bitLt(32, 64, False, has_fp16_weights=False)
    made.load_state_dict({"weight": drawn(64, 32).float()})
    made = made.to("cpu")
    x = drawn(3, 32, seed=1).float().requires_grad_()
    for edit in EDITS:
        rules = RelevanceRules(made, edit)
        with rules:
            out = made(x)
        rules.check(out, "it")
        (gradient,) = torch.autograd.grad(out.sum(), x)
        torch.testing.assert_close((gradient * x).sum(), out.sum(), atol=1e-4, rtol=1e-4)
