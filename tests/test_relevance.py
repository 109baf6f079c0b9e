"""Methods that edit the backward pass: what they keep, what they refuse, and that they leave nothing behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import harness
import pytest
import reference as ref
import torch
import zoo
from harness import relative
from reference import Case
from rows import METHODS, unknown_but_ends
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode
from transformers.activations import QuickGELUActivation

from inseq.engine.batches import pack
from inseq.engine.jobs import jobs_of
from inseq.engine.rules import blocks
from inseq.engine.rules import forward as edited
from inseq.engine.scheduler import Engine
from inseq.errors import UnsupportedModelError
from inseq.methods import method as methods
from inseq.methods.relevance import ATTNLRP, CP_LRP, FROZEN, GIM
from inseq.models.adapter import Adapter
from inseq.models.attention import attention_implementation
from inseq.models.guest import fused_activations, guest
from inseq.requests import Gradient, Relevance

EDITS = {edit.name: edit for edit in (ATTNLRP, CP_LRP, FROZEN, GIM)}
ALL = (*EDITS, "deeplift")
PLAIN = Relevance("plain")
KEEPING = ("cp_lrp", "frozen")
BIAS_FREE = ("llama", "llama_one_layer", "mistral", "qwen3", "gemma2", "gemma3", "phi3", "mixtral", "t5", "mt5")


def example(made: Adapter, case: Case) -> Any:
    source = [] if case.source is None else case.source.tolist()
    return made.example(source, case.target.tolist(), case.first, case.positions, attribute_target=True)


def gradient(made: Adapter, case: Case, edit: Relevance | None) -> Tensor:
    """[step, feature, dim], through the engine."""
    x = example(made, case)

    async def ask() -> Tensor:
        return await Gradient(x, edit=edit)

    (((found, _),)) = Engine(made).run([(x, ask())], harness.function("logit"))
    return found


def scores(made: Adapter, case: Case, method: str, target: str = "logit", **options: Any) -> Tensor:
    return harness.run(made, [case], method, target, **options)[0][0][0].scores


def changed(name: str, change: Callable[[Any], None], attention: str = "eager") -> tuple[Adapter, Case]:
    """An adapter of a copy of a model that was changed, and a case of it."""
    twin, _ = harness.adapter(name, attention)
    made = copy.copy(twin)
    model = copy.deepcopy(twin.model)
    change(model)
    made.__init__(model, twin.encoder)  # type: ignore[misc]
    for side, table in made.tables.items():
        table.feed = twin.tables[side].feed
    return made, replace(harness.cases(name, attention)[0], model=model)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_predictions_are_the_same_bits(name: str) -> None:
    made, _ = harness.adapter(name)
    inputs = pack(jobs_of(Gradient(example(made, harness.cases(name)[0])), True, 10**9)).inputs
    inputs = replace(inputs, decoder=inputs.decoder.requires_grad_())
    with guest(made.model), fused_activations(made.model):
        with attention_implementation(made.model, "eager"):
            expected = made.read(inputs, differentiable=True).logits
        for edit in (PLAIN, *EDITS.values()):
            reading, _ = edited.edited_reading(made, edit, inputs, lambda logits: logits[..., 0])
            assert torch.equal(reading.logits, expected)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_rules_that_pass_the_gradient_give_the_gradient(name: str) -> None:
    made, _ = harness.adapter(name)
    case = harness.cases(name)[0]
    expected = gradient(made, case, None)
    routed = "mixtral"  # the weights of its experts are always held
    for edit in (PLAIN, replace(PLAIN, softmax="tempered", temperature=1.0)):
        assert (relative(gradient(made, case, edit), expected) < 1e-5) is (name != routed)


def test_neutral_gim_is_the_gradient_times_the_difference_from_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = harness.adapter("llama")
    case = harness.cases("llama")[0]
    monkeypatch.setattr("inseq.methods.relevance.GIM", replace(PLAIN, softmax="tempered"))
    found = scores(made, case, "gim", temperature=1)
    expected = (ref.gradients(case, ref.logit) * (ref.embeddings(case) - unknown_but_ends(case))[:, None]).sum(-1)
    assert relative(found, expected) < 1e-5


TOGGLED = [
    *((m, "llama", rule) for m in ("attnlrp", "cp_lrp") for rule in ("norm", "activation", "product")),
    *(("attnlrp", "gpt2", rule) for rule in ("norm", "activation", "product")),
    *(("gim", name, rule) for name in ("llama", "t5") for rule in ("norm", "softmax", "product")),
    *(("frozen", "gpt2", rule) for rule in ("norm", "activation")),
    ("cp_lrp", "llama", "softmax"),
    ("frozen", "llama", "product"),
]


@pytest.mark.parametrize(("method", "name", "rule"), TOGGLED)
def test_every_rule_is_active(method: str, name: str, rule: str) -> None:
    """Each alone changes the scores."""
    edit = EDITS[method]
    made, _ = harness.adapter(name)
    case = harness.cases(name)[0]
    assert getattr(edit, rule) != "gradient"
    without = gradient(made, case, replace(edit, **{rule: "gradient"}))
    assert relative(without, gradient(made, case, edit)) > 1e-2


def test_the_table_above_is_of_all_rules() -> None:
    rules = {(m, r) for m, edit in EDITS.items() for r, value in vars(edit).items() if isinstance(value, str) and r != "name"}
    rules -= {(m, r) for m, r in rules if getattr(EDITS[m], r) == "gradient"}
    held = {("frozen", "softmax")}  # held weights leave one factor; without that, two are left and frozen has no rule
    assert {(m, r) for m, _, r in TOGGLED} == rules - held
    made, _ = harness.adapter("llama")
    with pytest.raises(UnsupportedModelError, match="BmmBackward0"):
        gradient(made, harness.cases("llama")[0], replace(FROZEN, softmax="gradient"))


@pytest.mark.parametrize("method", KEEPING)
@pytest.mark.parametrize("name", BIAS_FREE)
def test_relevance_sums_to_the_logit_without_biases(name: str, method: str) -> None:
    made, _ = harness.adapter(name)
    for case in harness.cases(name):
        values = ref.step_scores(case, ref.logit)
        assert relative(scores(made, case, method).sum(0), values) < 1e-4


@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name not in BIAS_FREE])
def test_what_is_unassigned_is_of_biases_and_positions(name: str) -> None:
    """A model without them keeps everything; with them, the diagnostic is what the scores lack."""

    @torch.no_grad()
    def strip(model: nn.Module) -> None:
        for key, value in (*model.named_parameters(), *model.named_buffers()):
            if "bias" in key.split(".")[-1] or "wpe" in key or "embed_positions" in key:
                value.zero_()

    bare, case = changed(name, strip)
    made, _ = harness.adapter(name)
    own = harness.cases(name)[0]
    for method in KEEPING:
        ((stripped, _),), _ = harness.run(bare, [case], method, "logit")
        assert relative(stripped.scores.sum(0), ref.step_scores(case, ref.logit)) < 1e-4
        ((found, _),), _ = harness.run(made, [own], method, "logit")
        missing = ref.step_scores(own, ref.logit) - found.scores.sum(0)
        torch.testing.assert_close(found.diagnostics["unassigned"], missing, atol=1e-4, rtol=1e-4)
        assert found.diagnostics["unassigned"].abs().max() > 1e-2


@pytest.mark.parametrize("method", [*EDITS, "deeplift"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "marian", "t5"])
def test_scores_of_a_sum_of_targets_are_the_sum_of_scores(name: str, method: str) -> None:
    made, _ = harness.adapter(name)
    case = harness.cases(name)[0]

    def of(target: Callable[[Any], Tensor]) -> Tensor:
        x = example(made, case)
        return Engine(made).run([(x, methods[method].function(x))], target)[0][0].scores

    both = of(lambda p: 2 * p.logits[:, 5] - p.logits[:, 9])
    assert relative(both, 2 * of(lambda p: p.logits[:, 5]) - of(lambda p: p.logits[:, 9])) < 1e-5


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("name", [n for n, r in zoo.ZOO.items() if "sdpa" in r.attention])
def test_attention_implementations_agree(name: str, method: str) -> None:
    if name in METHODS[method].refuses:
        with pytest.raises(UnsupportedModelError, match="cannot be right on MixtralForCausalLM: it chooses by its input"):
            scores(harness.adapter(name, "sdpa")[0], harness.cases(name, "sdpa")[0], method)
        return
    eager, sdpa = (scores(harness.adapter(name, a)[0], harness.cases(name, a)[0], method) for a in ("eager", "sdpa"))
    assert relative(sdpa, eager) < 1e-5


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("name", ["gpt2", "llama", "falcon", "marian", "t5"])
def test_attention_in_one_operation_is_taken_apart(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left at sdpa, the model gives the same scores: not every family lets its attention be switched."""
    made, _ = harness.adapter(name, "sdpa")
    case = harness.cases(name, "sdpa")[0]
    expected = scores(made, case, method)
    monkeypatch.setattr(blocks, "attention_implementation", lambda model, name: attention_implementation(model, "sdpa"))
    assert relative(scores(made, case, method), expected) < 1e-5


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("method", ALL)
def test_nothing_is_left_behind(method: str, error: BaseException) -> None:
    """After success, and after an error inside an activation, plain gradients are the same bits as before."""
    made, case = changed("gpt2", lambda model: None, "sdpa")
    before = gradient(made, case, None)
    scores(made, case, method)
    assert torch.equal(gradient(made, case, None), before)

    def fail(*_: Any) -> None:
        raise error

    block = made.model.transformer.h[1].mlp
    handle = block.c_fc.register_forward_hook(fail)
    with pytest.raises(type(error)):
        scores(made, case, method)
    handle.remove()
    assert _get_current_function_mode() is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in made.model.modules())
    assert made.model.config._attn_implementation == "sdpa"
    assert torch.equal(gradient(made, case, None), before)
    assert scores(made, case, method).isfinite().all()


def test_a_second_backward_gives_the_same() -> None:
    made, _ = harness.adapter("llama")
    inputs = pack(jobs_of(Gradient(example(made, harness.cases("llama")[0])), True, 10**9)).inputs
    leaf = inputs.decoder.requires_grad_()
    with guest(made.model):
        reading, _ = edited.edited_reading(made, ATTNLRP, replace(inputs, decoder=leaf), lambda logits: logits[..., 0])
    first, second = (torch.autograd.grad(reading.hidden.sum(), leaf, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_different_edits_share_no_batch_and_disturb_no_number() -> None:
    made, _ = harness.adapter("llama")
    chosen = harness.cases("llama")[:2]
    names = ("saliency", *ALL)
    examples = [(example(made, case), m) for case in chosen for m in names]
    engine = Engine(made)
    together = engine.run([(x, methods[m].function(x)) for x, m in examples], harness.function("logit"))
    for ((_, m), (found, _)), case in zip(
        zip(examples, together, strict=True), [c for c in chosen for _ in names], strict=True
    ):
        assert relative(found.scores, scores(made, case, m)) < 2e-5
    assert engine.counters.forwards >= len(names)
    assert len(made.facts.can_batch_products) >= len(names)


@pytest.mark.parametrize("method", EDITS)
def test_step_scores_come_from_the_model_s_own_attention(method: str) -> None:
    """An edited forward attends eagerly, and the last bits show it."""
    recorded = {}
    for attention in ("eager", "sdpa"):
        made, _ = harness.adapter("llama", attention)
        cases = harness.cases("llama", attention)
        recorded[attention] = [harness.run(made, [c], "dummy", recorded=["entropy"])[0][0][1]["entropy"] for c in cases]
    found = [harness.run(made, [c], method, recorded=["entropy"])[0][0][1]["entropy"] for c in cases]
    assert all(torch.equal(a, b) for a, b in zip(found, recorded["sdpa"], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(found, recorded["eager"], strict=True))


class Inline(nn.Module):
    """A function that model code writes out; unlike modules that are known to be activations."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def new_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * torch.pow(x, 3.0))))


COMPOSED = {
    "quick": (lambda x: x * torch.sigmoid(1.702 * x), QuickGELUActivation),
    "new": (new_gelu, lambda: nn.GELU(approximate="tanh")),
    "silu": (lambda x: torch.sigmoid(x) * x, nn.SiLU),
}


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("name", COMPOSED)
def test_an_activation_may_be_composed_of_several_operations(name: str, method: str) -> None:
    found = []
    for make in (lambda: Inline(COMPOSED[name][0]), COMPOSED[name][1]):

        def change(model: Any, make: Any = make) -> None:
            for layer in model.model.layers:
                layer.mlp.act_fn = make()

        found.append(scores(*changed("llama", change), method))
    assert relative(found[0], found[1]) < 1e-5


class Hidden(torch.autograd.Function):
    """What a compiled kernel looks like from outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


UNKNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "SinBackward0": torch.sin,
    "ErfBackward0": lambda x: x + torch.erf(x / 2**0.5),
    "LinalgVectorNormBackward0": lambda x: x + torch.linalg.vector_norm(x, dim=-1, keepdim=True),
    "ProdBackward1": lambda x: x + x.prod(-1, keepdim=True),
    "MulBackward0": lambda x: x.clone().mul_(x.flip(-1)),
    "HiddenBackward": Hidden.apply,
}


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("node", UNKNOWN)
def test_an_unknown_operation_is_refused_by_name(node: str, method: str) -> None:
    def change(model: Any) -> None:
        model.model.layers[0].mlp.down_proj = nn.Sequential(model.model.layers[0].mlp.down_proj, Inline(UNKNOWN[node]))

    made, case = changed("llama", change)
    with pytest.raises(UnsupportedModelError, match=node) as caught:
        scores(made, case, method)
    message = str(caught.value)
    assert message.startswith(f"'{method}' cannot be right on LlamaForCausalLM: its body uses the operation ")
    assert "'saliency' and 'integrated_gradients' need no rules" in message


@pytest.mark.parametrize("method", ALL)
def test_a_part_that_never_passed_its_rules_is_refused(method: str) -> None:
    """Every transformer normalises: if no norm was met, something else made it."""

    def bare(model: Any) -> None:
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if type(child).__name__ == "LlamaRMSNorm":
                    setattr(module, name, nn.Identity())

    made, case = changed("llama", bare)
    with pytest.raises(UnsupportedModelError, match="no norm passed its rules"):
        scores(made, case, method)
