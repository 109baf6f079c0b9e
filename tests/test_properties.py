"""One table: methods x models x properties. A method joins by a row in METHODS, a model by a recipe in the zoo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import harness
import numpy as np
import pytest
import reference as ref
import reference_perturbation as slow
import torch
import zoo
from harness import relative
from reference import Case
from torch import Tensor

from inseq.engine.packing import Budget
from inseq.methods import method as methods
from inseq.methods import reagent, shapley, surrogate

N_STEPS = 6
TOLERANCE = 2e-5
ENTRIES = [(name, kind) for name, recipe in zoo.ZOO.items() for kind in recipe.attention]
FAMILIES = ("gpt2", "llama", "marian", "t5")
TINY = Budget(tokens=30, logits=2 * zoo.VOCAB, cotangents=1500)


@dataclass(frozen=True)
class Row:
    """A method, its slow definition and what else is true of it.

    `half` holds options under which half precision takes the same decisions: what a method decides on a threshold, it may
    decide otherwise where the numbers are rounded.
    """

    slow: Callable[..., Tensor]
    options: dict[str, Any]
    targets: tuple[str, ...] = ("probability", "logit", "entropy", "crossentropy", "perplexity")
    half: dict[str, Any] = field(default_factory=dict)


def unknown(case: Case) -> Tensor:
    """What the default baseline is: every token ``<unk>``, except ends of sequence and the decoder's start."""
    target = torch.full_like(case.target, zoo.UNK)
    source = None if case.source is None else torch.full_like(case.source, zoo.UNK)
    embeds = ref.embeddings(Case(case.model, source, target, case.first))
    own = ref.embeddings(case)
    if case.source is not None:
        embeds[case.n_source] = own[case.n_source]
    return embeds


def unknown_but_ends(case: Case) -> Tensor:
    embeds, own = unknown(case), ref.embeddings(case)
    ids = case.target[:-1] if case.source is None else torch.cat([case.source, case.target[:-1]])
    return torch.where((ids == zoo.EOS)[:, None], own, embeds)


def slow_ig(case: Case, fn: ref.StepFunction, **kwargs: Any) -> Tensor:
    nodes, weights = np.polynomial.legendre.leggauss(N_STEPS)
    return ref.integrated_gradients(case, fn, unknown_but_ends(case), (nodes + 1) / 2, weights / 2, **kwargs)


def slow_attention(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    eager = Case(zoo.build(_name(case), "eager", case.model.dtype), case.source, case.target, case.first)
    found = ref.attention(eager)
    return found[: case.n_source] if only_source else found


def _name(case: Case) -> str:
    return next(n for n, kind in ENTRIES if zoo.build(n, kind, case.model.dtype) is case.model)


METHODS: dict[str, Row] = {
    "saliency": Row(ref.saliency, {}),
    "input_x_gradient": Row(ref.input_x_gradient, {}),
    "integrated_gradients": Row(slow_ig, {"n_steps": N_STEPS}),
    "occlusion": Row(lambda case, fn, **kwargs: ref.occlusion(case, fn, unknown(case), **kwargs), {}),
    "attention": Row(slow_attention, {}, targets=("probability",)),
}
N_SAMPLES, N_ORDERS, N_SETS, N_MASKS = 12, 2, 8, 12


def slow_lime(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    n = case.n_source if only_source else case.n_features
    never = (unknown(case) == ref.embeddings(case)).all(1)[:n]
    kept = surrogate.draw_kept(N_SAMPLES, n, seed=3) | never
    return ref.lime(case, fn, unknown(case), kept, width=0.25, ridge=1.0, only_source=only_source)


def slow_shapley(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    n = case.n_source if only_source else case.n_features
    orders = shapley.draw_orders(N_ORDERS, n, seed=3)
    return ref.shapley_sampling(case, fn, unknown(case), orders, only_source=only_source)


def slow_kernel_shap(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    n = case.n_source if only_source else case.n_features
    players = (unknown(case) != ref.embeddings(case)).any(1)[:n].nonzero()[:, 0].tolist()
    sets = shapley.draw_sets(N_SETS, len(players), seed=3)
    return slow.kernel_shap(case, fn, unknown(case), sets, players, only_source=only_source)


def slow_context_cite(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    """The sources are the tokens of the source but its end, or those of the prompt."""
    n = case.n_source if only_source else case.n_features
    held = torch.eye(n, dtype=torch.bool)[: case.first if case.source is None else case.n_source - 1]
    kept = surrogate.draw_sources(N_MASKS, len(held), 3, some=False)[-N_MASKS:]
    return slow.context_cite(case, unknown(case), kept, held, 0.01, only_source=only_source)


METHODS["context_cite"] = Row(slow_context_cite, {"n_samples": N_MASKS, "sources": "tokens", "seed": 3})


def slow_reagent(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    n = case.n_source if only_source else case.n_features
    draws = reagent.draw_probes(2, 2, n, 0.3, seed=3)
    return slow.reagent(case, draws, True, keep_top_n=3, top_k=20, only_source=only_source).to(case.model.dtype)


METHODS["reagent"] = Row(
    slow_reagent,
    {"n_runs": 2, "max_probes": 2, "keep_top_n": 3, "top_k": 20, "seed": 3},
    half={"replacements": "vocabulary", "n_runs": 1, "max_probes": 1},
)
METHODS["kernel_shap"] = Row(slow_kernel_shap, {"n_samples": N_SETS, "seed": 3})
METHODS["lime"] = Row(slow_lime, {"n_samples": N_SAMPLES, "seed": 3})
METHODS["shapley_sampling"] = Row(slow_shapley, {"n_permutations": N_ORDERS, "seed": 3})
DETERMINED = [m for m in METHODS if methods[m].facts.get("uses_target", True)]


def test_every_method_has_a_row() -> None:
    assert set(METHODS) == set(methods) - {"dummy"}


@pytest.mark.parametrize(("name", "attention"), ENTRIES)
@pytest.mark.parametrize("method", METHODS)
def test_equals_its_slow_definition(name: str, attention: str, method: str) -> None:
    made, _ = harness.adapter(name, attention)
    chosen = harness.cases(name, attention)
    row = METHODS[method]
    found, _ = harness.run(made, chosen, method, recorded=["probability"], **row.options)
    for case, (attribution, scores) in zip(chosen, found, strict=True):
        assert relative(attribution.scores, row.slow(case, ref.probability)) < 5 * TOLERANCE
        assert relative(scores["probability"], ref.step_scores(case, ref.probability)) < 5 * TOLERANCE


@pytest.mark.parametrize("method", DETERMINED)
@pytest.mark.parametrize("target", METHODS["saliency"].targets)
@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_every_target(name: str, method: str, target: str) -> None:
    made, _ = harness.adapter(name)
    case = harness.cases(name)[0]
    row = METHODS[method]
    ((attribution, scores),), _ = harness.run(made, [case], method, target, recorded=[target], **row.options)
    fn = ref.STEP_FUNCTIONS[target]
    assert relative(attribution.scores, row.slow(case, fn)) < 5 * TOLERANCE
    assert relative(scores[target], ref.step_scores(case, fn)) < TOLERANCE


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", zoo.ENCODER_DECODERS)
def test_source_alone(name: str, method: str) -> None:
    made, _ = harness.adapter(name)
    case = harness.cases(name)[0]
    row = METHODS[method]
    ((attribution, _),), _ = harness.run(made, [case], method, only_source=True, **row.options)
    assert relative(attribution.scores, row.slow(case, ref.probability, only_source=True)) < 5 * TOLERANCE


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "attention"), ENTRIES)
def test_future_features_score_exactly_nothing(name: str, attention: str, method: str) -> None:
    made, _ = harness.adapter(name, attention)
    chosen = harness.cases(name, attention)
    found, _ = harness.run(made, chosen, method, **METHODS[method].options)
    for case, (attribution, _) in zip(chosen, found, strict=True):
        for step, t in enumerate(case.positions):
            assert not attribution.scores[case.seen(t) :, step].any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "attention"), ENTRIES)
def test_batch_order_and_chunks_change_no_number(name: str, attention: str, method: str) -> None:
    made, _ = harness.adapter(name, attention)
    chosen = harness.cases(name, attention)
    options = METHODS[method].options
    together, _ = harness.run(made, chosen, method, recorded=["entropy"], **options)
    backwards, _ = harness.run(made, chosen[::-1], method, recorded=["entropy"], **options)
    alone = [harness.run(made, [case], method, recorded=["entropy"], **options)[0][0] for case in chosen]
    cut, engine = harness.run(made, chosen, method, recorded=["entropy"], budget=TINY, **options)
    assert engine.counters.forwards > 1
    for others in (backwards[::-1], alone, cut):
        for (one, scores), (other, other_scores) in zip(together, others, strict=True):
            assert relative(other.scores, one.scores) < TOLERANCE
            assert relative(other_scores["entropy"], scores["entropy"]) < TOLERANCE


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_two_runs_give_the_same_bits(name: str, method: str) -> None:
    made, _ = harness.adapter(name)
    first, second = (harness.run(made, harness.cases(name), method, **METHODS[method].options)[0] for _ in range(2))
    assert all(torch.equal(a.scores, b.scores) for (a, _), (b, _) in zip(first, second, strict=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_reduced_as_it_streams_equals_reduced_afterwards(name: str, method: str) -> None:
    made, _ = harness.adapter(name)
    chosen = harness.cases(name)
    options = METHODS[method].options
    whole, _ = harness.run(made, chosen, method, **options)
    folded, _ = harness.run(made, chosen, method, granular=False, **options)
    for (granular, _), (reduced, _) in zip(whole, folded, strict=True):
        expected = granular.scores
        for function in methods[method].facts["reduce_by"]:
            expected = expected.norm(dim=-1) if function == "vnorm" else expected.mean(-1)
        assert reduced.scores.ndim == 2
        assert relative(reduced.scores, expected) < TOLERANCE


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_float64(name: str, method: str) -> None:
    made, _ = harness.adapter(name, dtype=torch.float64)
    case = harness.cases(name, dtype=torch.float64)[0]
    row = METHODS[method]
    ((attribution, _),), _ = harness.run(made, [case], method, **row.options)
    assert attribution.scores.dtype == torch.float64
    tolerance = 1e-5 if name in ("llama", "t5") else 1e-10  # their norms compute in float32 whatever the weights are
    assert relative(attribution.scores, row.slow(case, ref.probability)) < tolerance


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16(name: str, method: str) -> None:
    """Half precision keeps the picture: scores are float32, and correlate with those of the float32 model."""
    half, full = (harness.adapter(name, dtype=dtype)[0] for dtype in (torch.bfloat16, torch.float32))
    case = harness.cases(name)[0]
    twin = harness.cases(name, dtype=torch.bfloat16)[0]
    options = METHODS[method].options | METHODS[method].half
    ((rough, _),), _ = harness.run(half, [twin], method, "logit", **options)
    ((exact, _),), _ = harness.run(full, [case], method, "logit", **options)
    assert rough.scores.dtype == torch.float32
    assert torch.corrcoef(torch.stack([rough.scores.flatten(), exact.scores.flatten()]))[0, 1] > 0.98


@pytest.mark.parametrize(("name", "attention"), ENTRIES)
def test_integrated_gradients_are_complete(name: str, attention: str) -> None:
    """Scores sum to f(x) - f(b); the delta says by how much they do not, and shrinks with the steps."""
    made, _ = harness.adapter(name, attention)
    case = harness.cases(name, attention)[0]
    x, b = ref.embeddings(case), unknown_but_ends(case)
    with torch.no_grad():
        change = [float(ref.score(case, x, t, ref.logit) - ref.score(case, b, t, ref.logit)) for t in case.positions]
    ((coarse, _),), _ = harness.run(made, [case], "integrated_gradients", "logit", n_steps=4)
    ((fine, _),), _ = harness.run(made, [case], "integrated_gradients", "logit", n_steps=64)
    for found in (coarse, fine):
        missing = found.scores.sum((0, 2)) - torch.tensor(change)
        torch.testing.assert_close(found.diagnostics["delta"], missing, atol=1e-4, rtol=1e-3)
    assert fine.diagnostics["delta"].abs().max() < max(2e-2, 0.2 * float(coarse.diagnostics["delta"].abs().max()))


@pytest.fixture
def short() -> Case:
    """Five features: few enough to enumerate their sets."""
    return Case(zoo.build("gpt2"), None, zoo.random_ids(6, seed=4), 4)


def test_shapley_values_are_efficient_and_converge_to_those_by_enumeration(short: Case) -> None:
    made, _ = harness.adapter("gpt2")
    exact = ref.shapley_values(short, ref.logit, unknown(short))
    errors = []
    for n in (1, 8, 64):
        ((found, _),), _ = harness.run(made, [short], "shapley_sampling", "logit", n_permutations=n)
        torch.testing.assert_close(found.scores.sum(0), exact.sum(0), atol=1e-5, rtol=1e-4)
        errors.append(float((found.scores - exact).abs().max()))
    assert errors[2] < 0.25 * errors[0]
    assert errors[2] < 4 * float(found.diagnostics["standard_error"].max())


def test_equal_tokens_have_equal_shapley_values() -> None:
    """Symmetry: where the model cannot tell two tokens apart, here because both are already the baseline."""
    made, _ = harness.adapter("gpt2")
    case = Case(zoo.build("gpt2"), None, torch.tensor([zoo.UNK, 7, zoo.UNK, 9]), 3)
    ((found, _),), _ = harness.run(made, [case], "shapley_sampling", "logit")
    assert found.scores[0, 0] == found.scores[2, 0] == 0


def test_lime_recovers_a_linear_target_and_says_how_well() -> None:
    z = surrogate.draw_kept(200, 6, seed=1).double()
    true = torch.tensor([3.0, -2.0, 0.5, 0.0, 1.0, 4.0]).double()
    weights = torch.rand(200, generator=torch.Generator().manual_seed(0)).double()
    got, fit = surrogate.weighted_ridge(z, z @ true + 7, weights, ridge=1e-9)
    torch.testing.assert_close(got, true)
    assert fit > 0.999999
    noise = torch.randn(200, generator=torch.Generator().manual_seed(1)).double()
    assert surrogate.weighted_ridge(z, noise, weights, ridge=1e-9)[1] < 0.2


@pytest.mark.parametrize("method", ["lime", "shapley_sampling"])
def test_the_seed_decides_the_draws(method: str, short: Case) -> None:
    made, _ = harness.adapter("gpt2")
    one, same, other = (harness.run(made, [short], method, seed=s)[0][0][0].scores for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_dummy_records_step_scores_alone() -> None:
    made, _ = harness.adapter("gpt2")
    chosen = harness.cases("gpt2")
    found, engine = harness.run(made, chosen, "dummy", recorded=["entropy"])
    assert engine.counters.forwards == 1
    for case, (attribution, scores) in zip(chosen, found, strict=True):
        assert attribution.scores is None
        assert relative(scores["entropy"], ref.step_scores(case, ref.entropy)) < TOLERANCE
