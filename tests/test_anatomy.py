"""Attention taken to pieces: they sum to what the model computed, or the model is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import harness
import pytest
import reference as ref
import reference_internals as inside
import torch
import transformers
import zoo
from harness import relative
from reference import Case
from rows import METHODS
from test_guest import unchanged
from test_internals import ENTRIES, TOLERANCE, adapted
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm
from transformers.pytorch_utils import Conv1D

import inseq
from inseq.engine.batches import pack
from inseq.engine.inside.pieces import Sublayer, dissecting, freeze, linear_map
from inseq.engine.jobs import jobs_of
from inseq.errors import UnsupportedModelError
from inseq.methods import flow
from inseq.requests import Attended, Score

SERVED = [(name, kind) for name, kind in ENTRIES if name not in METHODS["alti"].refuses]
ADDITIVE = [(name, kind) for name, kind in ENTRIES if name not in METHODS["alti_logit"].refuses]


@pytest.mark.parametrize("name", dict.fromkeys(name for name, _ in SERVED))
def test_the_referee_s_vectors_are_the_model_s_own(name: str) -> None:
    """What the slow definition writes out is really what the next part of the layer is given, or what is added to it."""
    case = harness.cases(name)[0]
    t = case.first
    _, tape = inside.taped(case, t)
    values = [value for value in tape.values() if value.ndim == 2]
    for m in inside.mixed(case, t):
        stack = "encoder" if m.site == "encoder" else "decoder"
        after = tape[id(inside.layers(case, stack)[m.index]), "out"] - m.y
        wanted = (m.y, after)
        assert any(relative(v, w) < 1e-5 for w in wanted for v in values if v.shape == w.shape)


def sublayers(name: str, attention: str) -> tuple[list[Case], list[Sublayer]]:
    """Every attention of a padded batch of three unequal examples."""
    made, _ = harness.adapter(name, attention)
    chosen = harness.cases(name, attention)
    examples = [
        made.example([] if c.source is None else c.source.tolist(), c.target.tolist(), c.first, c.positions) for c in chosen
    ]
    found: list[Sublayer] = []
    packed = pack([job for x in examples for job in jobs_of(Score(x), causal=True, overhead=0)])
    with dissecting(made, found.append):
        made.read(packed.inputs)
    return chosen, found


@pytest.mark.parametrize(("name", "attention"), SERVED)
def test_pieces_sum_to_the_residual_stream(name: str, attention: str) -> None:
    """Each vector, residual and bias are those written out from the weights, in a batch padded on the right."""
    chosen, found = sublayers(name, attention)
    for row, case in enumerate(chosen):
        eager = Case(zoo.build(name), case.source, case.target, case.first)
        slow = inside.mixed(eager, len(case.target) - 1)
        assert [(s.site, s.layer) for s in found] == [(m.site, m.index) for m in slow]
        for s, m in zip(found, slow, strict=True):
            assert relative(s.total[row, : len(m.y)], m.y) < 5 * TOLERANCE
            assert relative(s.residual[row, : len(m.y)], m.residual) < 5 * TOLERANCE
            assert relative(m.pieces.sum(1) + m.rest + (m.residual if m.site == "cross" else 0), m.y) < 1e-9


@pytest.mark.parametrize(("name", "attention"), SERVED)
def test_rows_of_alti_sum_to_1(name: str, attention: str) -> None:
    made, _ = harness.adapter(name, attention)
    for found, _ in harness.run(made, harness.cases(name, attention), "alti")[0]:
        assert (found.scores >= 0).all()
        torch.testing.assert_close(found.scores.sum(0), torch.ones(found.scores.shape[1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "attention"), ADDITIVE)
def test_parts_of_a_logit_sum_to_it(name: str, attention: str) -> None:
    """Tokens, feed-forward layers and biases: the first are the scores, the others the diagnostic."""
    made, _ = harness.adapter(name, attention)
    case = harness.cases(name, attention)[0]
    ((found, _),), _ = harness.run(made, [case], "alti_logit")
    eager = Case(zoo.build(name), case.source, case.target, case.first)
    for step, t in enumerate(case.positions[:3]):
        _, parts = inside.logit_parts(eager, t)
        rest = parts["feed_forward"] + parts["biases"]
        assert parts["tokens"] + rest == pytest.approx(parts["logit"], abs=1e-5, rel=1e-5)
        assert float(found.diagnostics["unassigned"][step]) == pytest.approx(rest, abs=1e-4, rel=1e-4)
        assert float(found.scores[:, step].sum()) == pytest.approx(parts["tokens"], abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "m2m100"])
def test_scores_and_rest_are_the_logit(name: str) -> None:
    made, _ = harness.adapter(name)
    for case, (found, _) in zip(harness.cases(name), harness.run(made, harness.cases(name), "alti_logit")[0], strict=True):
        whole = found.scores.sum(0) + found.diagnostics["unassigned"]
        expected = ref.step_scores(case, ref.logit)
        torch.testing.assert_close(whole, expected, atol=1e-4, rtol=1e-4)


def test_of_the_source_alone_the_rest_stays_the_rest() -> None:
    made, _ = harness.adapter("t5")
    case = harness.cases("t5")[0]
    ((whole, _),), _ = harness.run(made, [case], "alti_logit")
    ((source, _),), _ = harness.run(made, [case], "alti_logit", only_source=True)
    assert torch.equal(source.scores, whole.scores[: case.n_source])
    assert torch.equal(source.diagnostics["unassigned"], whole.diagnostics["unassigned"])


def test_a_model_of_one_linear_attention_layer_is_explained_exactly() -> None:
    """Without feed-forward layer and second layer a token's part in the logit is what its value adds, by arithmetic."""
    model = copy.deepcopy(zoo.build("llama"))
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    model.model.layers[0].mlp.down_proj.weight.data.zero_()
    case = Case(model, None, harness.cases("llama")[0].target, 4)
    ((found, _),), _ = harness.run(adapted(model), [case], "alti_logit")
    assert found.diagnostics["unassigned"].abs().max() < 1e-5
    torch.testing.assert_close(found.scores.sum(0), ref.step_scores(case, ref.logit), atol=1e-5, rtol=1e-5)


NORMS = {
    "layer": lambda d: nn.LayerNorm(d, eps=1e-3),
    "llama": lambda d: LlamaRMSNorm(d, eps=1e-3),
    "gemma": lambda d: Gemma2RMSNorm(d, eps=1e-3),
    "t5": lambda d: T5LayerNorm(d, eps=1e-3),
}


@pytest.mark.parametrize("dim", [7, 16])
@pytest.mark.parametrize("kind", NORMS)
def test_a_frozen_norm_is_linear_in_pieces(kind: str, dim: int) -> None:
    draws = torch.Generator().manual_seed(dim)
    norm = NORMS[kind](dim)
    for parameter in norm.parameters():
        parameter.data = parameter + 0.3 * torch.randn(dim, generator=draws)
        parameter.requires_grad_(False)
    parts = torch.randn(4, 2, 3, dim, generator=draws)
    frozen = freeze(norm, parts.sum(0), norm(parts.sum(0)))
    assert frozen.centered is (kind == "layer")
    pieces = sum(frozen.linear(part, frozen.scale) for part in parts) + frozen.shift
    torch.testing.assert_close(pieces, norm(parts.sum(0)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [lambda: nn.Linear(5, 3), lambda: nn.Linear(5, 3, bias=False), lambda: Conv1D(3, 5)])
def test_a_linear_map_is_found_by_calling_it(make: Callable[[], nn.Module]) -> None:
    module = make().requires_grad_(False)
    x = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    matrix, bias = linear_map(module, x)
    torch.testing.assert_close(x @ matrix + bias, module(x))


class Odd(nn.Module):
    """A part that does something more than the original's work."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found = self.plain(*args, **kwargs)
        return found + found.sin() if isinstance(found, torch.Tensor) else (found[0] + found[0].sin(), *found[1:])


class OddNorm(Gemma2RMSNorm):
    """A norm that is none."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = super().forward(x)
        return found + found.sin()


def odd(plain: nn.Module) -> nn.Module:
    if isinstance(plain, Gemma2RMSNorm):
        plain.__class__ = OddNorm
        return plain
    return Odd(plain)


@pytest.mark.parametrize(
    ("name", "part", "reason"),
    [
        ("llama", "self_attn.o_proj", "the pieces do not sum to its output"),
        ("llama", "self_attn", "what it adds to the residual stream was not seen again in the layer"),
        ("gemma2", "post_attention_layernorm", "OddNorm is not linear once its statistics are held"),
    ],
)
def test_an_architecture_whose_pieces_are_unknown_is_refused(name: str, part: str, reason: str) -> None:
    """Parts of a model are replaced by what a future architecture might do there."""
    model = copy.deepcopy(zoo.build(name))
    layer = model.model.layers[1]
    parent, _, last = part.rpartition(".")
    setattr(layer.get_submodule(parent), last, odd(layer.get_submodule(part)))
    pattern = f"{type(model).__name__}, layer 1, decoder attention: {reason}.* Use 'attention_rollout'"
    with pytest.raises(UnsupportedModelError, match=pattern):
        harness.run(adapted(model), harness.cases(name), "alti")


class Gated(nn.Module):
    """An output projection behind a gate, as some recent models have."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.plain(x * x.sigmoid())


FURTHER = {
    "OlmoConfig": "post_attention_layernorm",
    "Olmo2Config": "mlp",
    "GlmConfig": "post_attention_layernorm",
    "Starcoder2Config": "post_attention_layernorm",
}
"""Families beyond the zoo, and what in their layers is given the residual stream after the attention."""


def further(config: str, **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = getattr(transformers, config)(**zoo.GROUPED, **options)
        return transformers.AutoModelForCausalLM.from_config(made, dtype=torch.float32).eval()


@pytest.mark.parametrize("config", FURTHER)
def test_families_that_nobody_named(config: str) -> None:
    """Norms without parameters, norms after the attention alone, partial rotations, biases."""
    made = adapted(further(config))
    case = Case(made.model, None, harness.cases("llama")[0].target, 4)
    x = made.example([], case.target.tolist(), 4, case.positions)
    seen: list[torch.Tensor] = []
    found: list[Sublayer] = []
    with ExitStack() as hooks:
        for layer in inside.layers(case):
            part = layer.get_submodule(FURTHER[config])
            hooks.callback(part.register_forward_pre_hook(lambda _, args: seen.append(args[0])).remove)
        hooks.enter_context(dissecting(made, found.append))
        made.read(pack(jobs_of(Score(x), causal=True, overhead=0)).inputs)
    assert len(found) == len(seen) == 2
    for sublayer, given in zip(found, seen, strict=True):
        assert sublayer.additive
        assert relative(sublayer.total, given) < TOLERANCE
    ((attribution, _),), _ = harness.run(made, [case], "alti_logit")
    whole = attribution.scores.sum(0) + attribution.diagnostics["unassigned"]
    torch.testing.assert_close(whole, ref.step_scores(case, ref.logit), atol=1e-4, rtol=1e-4)


def test_a_residual_that_is_scaled_is_refused() -> None:
    made = adapted(further("GraniteConfig", residual_multiplier=0.22))
    case = Case(made.model, None, harness.cases("llama")[0].target, 4)
    with pytest.raises(UnsupportedModelError, match="layer 0, decoder attention: what it adds to the residual stream was not"):
        harness.run(made, [case], "alti")
    ((found, _),), _ = harness.run(made, [case], "value_zeroing")
    torch.testing.assert_close(found.scores.sum(0), torch.ones(len(case.positions), 2))


def test_attention_within_windows_of_its_own_is_refused_by_a_rollout() -> None:
    fold = flow._Rollout(harness.adapter("t5")[0].example([5, 6], [2, 7, 8], 1, [2]))
    with pytest.raises(UnsupportedModelError, match=r"Layer 0 of the encoder gives its attention weights as \(7, 5\)"):
        fold.add(Attended("encoder", 0, torch.ones(1, 7, 5), torch.tensor([1])))


def test_a_gate_before_the_projection_is_refused() -> None:
    model = copy.deepcopy(zoo.build("llama"))
    model.model.layers[0].self_attn.o_proj = Gated(model.model.layers[0].self_attn.o_proj)
    with pytest.raises(UnsupportedModelError, match="layer 0, decoder attention: the pieces do not sum to its output"):
        harness.run(adapted(model), harness.cases("llama"), "alti")


def test_adapters_on_the_projection_are_part_of_it() -> None:
    """A module around the projection that adds a linear path, as low-rank adapters do, is read from outside."""
    model = copy.deepcopy(zoo.build("llama"))
    for layer in model.model.layers:
        layer.self_attn.o_proj = Adapted(layer.self_attn.o_proj)
    twin = copy.deepcopy(zoo.build("llama"))
    for layer in twin.model.layers:
        layer.self_attn.o_proj.weight.data *= 1.5
    case = harness.cases("llama")[0]
    found, expected = (harness.run(adapted(m), [case], "alti")[0][0][0].scores for m in (model, twin))
    assert relative(found, expected) < TOLERANCE


class Adapted(Gated):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.plain(x) + 0.5 * self.plain(x)


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("method", ["alti", "alti_logit", "value_zeroing"])
@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_a_model_is_as_it_was_after_a_failure_deep_inside(name: str, method: str, error: BaseException) -> None:
    model, tokenizer = copy.deepcopy(zoo.build(name, "sdpa")), copy.deepcopy(zoo.tokenizer("words"))
    loaded = inseq.load_model(model, method, tokenizer=tokenizer)
    part = next(m for path, m in reversed(list(model.named_modules())) if path.endswith(("mlp", "DenseReluDense")))
    config = next(m for m in model.modules() if hasattr(m, "config")).config

    def fail(*_: Any) -> None:
        if config._attn_implementation == "inseq":
            raise error

    handle = part.register_forward_hook(fail)
    with unchanged(model, tokenizer), pytest.raises(type(error)):
        loaded.attribute("w1 w2", generation_args={"max_new_tokens": 3, "min_new_tokens": 3}, show_progress=False)
    handle.remove()
