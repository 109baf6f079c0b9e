"""One table: methods x models x properties. A method joins by a row in METHODS, a model by a recipe in the zoo."""

from __future__ import annotations

import harness
import pytest
import reference as ref
import rows
import torch
import zoo
from harness import relative
from reference import Case
from rows import DETERMINED, ENTRIES, METHODS, TINY, TOLERANCE, served, spared, unknown, unknown_but_ends

from inseq.errors import UnsupportedModelError
from inseq.methods import method as methods
from inseq.methods import surrogate

FAMILIES = ("gpt2", "llama", "marian", "t5")


def test_every_method_has_a_row() -> None:
    assert set(METHODS) == set(methods) - {"dummy"}


@pytest.mark.parametrize(("method", "name"), [(m, name) for m, row in METHODS.items() for name in sorted(row.refuses)])
def test_a_method_that_cannot_be_right_refuses_with_the_reason(method: str, name: str) -> None:
    made, _ = harness.adapter(name)
    with pytest.raises(UnsupportedModelError, match=r"(?s)^.{40,}('saliency'|[Uu]se '\w+')"):
        harness.run(made, harness.cases(name), method, **METHODS[method].options)


@pytest.mark.parametrize(("method", "name", "attention"), served(ENTRIES))
def test_equals_its_slow_definition(name: str, attention: str, method: str) -> None:
    made, _ = harness.adapter(name, attention)
    chosen = harness.cases(name, attention)
    row = METHODS[method]
    found, _ = harness.run(made, chosen, method, recorded=["probability"], **row.options)
    for i, (case, (attribution, scores)) in enumerate(zip(chosen, found, strict=True)):
        assert relative(scores["probability"], ref.step_scores(case, ref.probability)) < 5 * TOLERANCE
        if i in row.compared:
            assert relative(attribution.scores, row.slow(case, ref.probability)) < 5 * TOLERANCE


@pytest.mark.parametrize("method", DETERMINED)
@pytest.mark.parametrize("target", rows.TARGETS)
@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_every_target(name: str, method: str, target: str) -> None:
    made, _ = harness.adapter(name)
    row = METHODS[method]
    case = harness.cases(name)[row.compared[0]]
    ((attribution, scores),), _ = harness.run(made, [case], method, target, recorded=[target], **row.options)
    fn = ref.STEP_FUNCTIONS[target]
    assert relative(attribution.scores, row.slow(case, fn)) < 5 * TOLERANCE
    assert relative(scores[target], ref.step_scores(case, fn)) < TOLERANCE


@pytest.mark.parametrize(("method", "name"), served(zoo.ENCODER_DECODERS))
def test_source_alone(name: str, method: str) -> None:
    made, _ = harness.adapter(name)
    row = METHODS[method]
    case = harness.cases(name)[row.compared[0]]
    ((attribution, _),), _ = harness.run(made, [case], method, only_source=True, **row.options)
    assert relative(attribution.scores, row.slow(case, ref.probability, only_source=True)) < 5 * TOLERANCE


@pytest.mark.parametrize(("method", "name", "attention"), served(ENTRIES))
def test_future_features_score_exactly_nothing(name: str, attention: str, method: str) -> None:
    made, _ = harness.adapter(name, attention)
    chosen = harness.cases(name, attention)
    found, _ = harness.run(made, chosen, method, **METHODS[method].options)
    for case, (attribution, _) in zip(chosen, found, strict=True):
        for step, t in enumerate(case.positions):
            assert not attribution.scores[case.seen(t) :, step].any()


@pytest.mark.parametrize(("method", "name", "attention"), spared(ENTRIES))
def test_batch_order_and_chunks_change_no_number(name: str, attention: str, method: str) -> None:
    """In double precision: in single, rounding moves a point of a path across the kink of a ReLU now and then."""
    made, _ = harness.adapter(name, attention, torch.float64)
    chosen = harness.cases(name, attention, torch.float64)
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


@pytest.mark.parametrize(("method", "name"), served(FAMILIES))
def test_two_runs_give_the_same_bits(name: str, method: str) -> None:
    made, _ = harness.adapter(name)
    first, second = (harness.run(made, harness.cases(name), method, **METHODS[method].options)[0] for _ in range(2))
    assert all(torch.equal(a.scores, b.scores) for (a, _), (b, _) in zip(first, second, strict=True))


@pytest.mark.parametrize(("method", "name"), served(FAMILIES))
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


@pytest.mark.parametrize(("method", "name"), served(FAMILIES))
def test_float64(name: str, method: str) -> None:
    made, _ = harness.adapter(name, dtype=torch.float64)
    row = METHODS[method]
    case = harness.cases(name, dtype=torch.float64)[row.compared[0]]
    ((attribution, _),), _ = harness.run(made, [case], method, **row.options)
    assert attribution.scores.dtype == torch.float64
    tolerance = 1e-5 if name in ("llama", "t5") else 1e-10  # their norms compute in float32 whatever the weights are
    assert relative(attribution.scores, row.slow(case, ref.probability)) < tolerance


@pytest.mark.parametrize(("method", "name"), served(FAMILIES))
def test_bfloat16(name: str, method: str) -> None:
    """Half precision keeps the picture: scores are float32, and correlate with those of the float32 model."""
    half, full = (harness.adapter(name, dtype=dtype)[0] for dtype in (torch.bfloat16, torch.float32))
    case = harness.cases(name)[0]
    twin = harness.cases(name, dtype=torch.bfloat16)[0]
    options = METHODS[method].options | METHODS[method].half
    ((rough, _),), _ = harness.run(half, [twin], method, "logit", **options)
    ((exact, _),), _ = harness.run(full, [case], method, "logit", **options)
    assert rough.scores.dtype == torch.float32
    assert torch.corrcoef(torch.stack([rough.scores.flatten(), exact.scores.flatten()]))[0, 1] > METHODS[method].alike


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
