"""Shapley values, ContextCite and ReAGent: what their papers promise, and what they say where they cannot be believed."""

from __future__ import annotations

import math
from typing import Any

import captum.attr
import harness
import pytest
import reference as ref
import reference_perturbation as slow
import torch
import zoo
from reference import Case
from rows import unknown
from torch import Tensor

from inseq.engine.scheduler import Engine
from inseq.errors import ArgumentError
from inseq.methods import reagent, shapley, surrogate
from inseq.methods.sources import find_sources
from inseq.requests import Prediction, Score, Target, gather
from inseq.text.tokens import Token


def case_of(name: str, n_target: int = 6, n_source: int = 3, first: int = 3) -> Case:
    recipe = zoo.ZOO[name]
    target = zoo.random_ids(n_target, seed=4, vocab=recipe.target_vocab)
    source = None
    if recipe.encoder_decoder:
        source = torch.cat([zoo.random_ids(n_source - 1, seed=14), torch.tensor([zoo.EOS])])
        target[0] = recipe.start
    return Case(zoo.build(name), source, target, first)


def attribution(name: str, case: Case, method: str, target: str = "logit", **options: Any) -> Any:
    return harness.run(harness.adapter(name)[0], [case], method, target, **options)[0][0][0]


@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_enumerated_sets_give_exact_shapley_values(name: str) -> None:
    case = case_of(name)
    found = attribution(name, case, "kernel_shap")
    torch.testing.assert_close(found.scores, ref.shapley_values(case, ref.logit, unknown(case)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["kernel_shap", "shapley_sampling"])
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_step_s_values_sum_to_the_change_from_the_baseline(name: str, method: str) -> None:
    """However few sets or orders are drawn."""
    case = case_of(name, n_target=12, n_source=5, first=6)
    options = {"n_samples": 10} if method == "kernel_shap" else {"n_permutations": 1}
    found = attribution(name, case, method, **options)
    x, b = ref.embeddings(case), unknown(case)
    with torch.no_grad():
        change = torch.stack([ref.score(case, x, t, ref.logit) - ref.score(case, b, t, ref.logit) for t in case.positions])
    torch.testing.assert_close(found.scores.sum(0), change, atol=1e-4, rtol=1e-4)


def test_drawn_sets_converge_to_exact_shapley_values() -> None:
    """Seven players, and at most 126 of their 128 sets: more than are drawn, each by its chance."""
    case = case_of("gpt2", n_target=8, first=5)
    exact = ref.shapley_values(case, ref.logit, unknown(case))
    errors = []
    for n in (16, 126):
        each = [attribution("gpt2", case, "kernel_shap", n_samples=n, seed=s).scores - exact for s in range(8)]
        errors.append(float(torch.stack(each).square().mean().sqrt()))
    assert errors[1] < 0.5 * errors[0]


def test_what_the_model_cannot_tell_apart_has_equal_values() -> None:
    """Dummy: two tokens that are the baseline already. Symmetry: features that enter a game alike."""
    case = Case(zoo.build("gpt2"), None, torch.tensor([zoo.UNK, 7, zoo.UNK, 9, 8]), 4)
    found = attribution("gpt2", case, "kernel_shap")
    assert found.scores[0, 0] == found.scores[2, 0] == 0
    sets = shapley.draw_sets(16, 4, seed=0)
    y = sets.double() @ torch.tensor([1.0, 1.0, 0.0, 2.0]).double() + (sets[:, 0] & sets[:, 1]) * 3.0
    weights = shapley.set_weights(sets.sum(1), 4, 4, drawn=False)
    values, _ = shapley.constrained_fit(sets[2:], y[2:], weights[2:], y[1], y[0])
    torch.testing.assert_close(values, torch.tensor([2.5, 2.5, 0.0, 2.0]).double())


def test_the_fit_is_the_share_explained() -> None:
    sets = shapley.draw_sets(64, 6, seed=0)
    weights = shapley.set_weights(sets.sum(1), 6, 6, drawn=False)
    linear = sets.double() @ torch.arange(6.0).double() + 5
    assert shapley.constrained_fit(sets[2:], linear[2:], weights[2:], linear[1], linear[0])[1] > 1 - 1e-9
    parity = (sets.sum(1) % 2).double()
    assert shapley.constrained_fit(sets[2:], parity[2:], weights[2:], parity[1], parity[0])[1] < 0.1


@pytest.mark.parametrize(
    ("oracle", "options", "tolerance"),
    [("ShapleyValues", {}, 1e-5), ("KernelShap", {"n_samples": 2000}, 0.05)],
)
def test_captum_agrees(oracle: str, options: dict[str, Any], tolerance: float) -> None:
    """Its Shapley values are exact; its KernelSHAP draws sets."""
    case = case_of("gpt2")
    x, b = ref.embeddings(case), unknown(case)
    ours = attribution("gpt2", case, "kernel_shap").scores
    for step, t in enumerate(case.positions):

        def forward(kept: Tensor, t: int = t) -> Tensor:
            rows = torch.where(kept.bool()[:, :, None], x[:t], b[:t])
            with torch.no_grad():
                return case.model(inputs_embeds=rows).logits[:, -1, case.written(t)]

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            theirs = getattr(captum.attr, oracle)(forward).attribute(
                torch.ones(1, t), baselines=torch.zeros(1, t), perturbations_per_eval=500, **options
            )
        assert (theirs[0] - ours[:t, step]).abs().max() < tolerance * ours[:t, step].abs().max()


def test_lasso_recovers_a_planted_model_and_its_support() -> None:
    kept = surrogate.draw_sources(64, 20, seed=1, some=False)
    z = kept.double()
    planted = torch.zeros(20).double()
    planted[[3, 11, 17]] = torch.tensor([4.0, -2.0, 1.0]).double()
    noise = 0.05 * torch.randn(len(z), generator=torch.Generator().manual_seed(0)).double()
    y = (z @ planted + 7 + noise)[:, None]
    w = surrogate.lasso(z[16:], y[16:], alpha=0.05)[:, 0]
    assert set(w.abs().topk(3).indices.tolist()) == {3, 11, 17}
    assert (w[planted == 0].abs() < 0.05).all()
    assert (w - planted).abs().max() < 0.25
    assert surrogate.rank_correlation(z[:16] @ w[:, None], y[:16]) > 0.95
    torch.testing.assert_close(w, slow.lasso(z[16:], y[16:, 0], 0.05))


def test_the_penalty_removes_everything_in_the_end() -> None:
    z = surrogate.draw_sources(16, 4, seed=1, some=False).double()
    assert not surrogate.lasso(z, z @ torch.ones(4, 2).double(), alpha=100.0).any()


@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_more_sources_than_samples(alpha: float) -> None:
    z = surrogate.draw_sources(8, 30, seed=1, some=False).double()
    y = torch.randn(len(z), 3, generator=torch.Generator().manual_seed(2)).double()
    assert surrogate.lasso(z, y, alpha).isfinite().all()


def test_two_sources_that_stand_in_for_each_other_have_a_low_fit() -> None:
    """Either of two sources suffices: no linear model can say so. Where only one says it, the fit is high."""
    z = surrogate.draw_sources(64, 6, seed=0, some=False)
    either, one = (z[:, 0] | z[:, 1]).double() * 8, z[:, 0].double() * 8
    noise = 0.2 * torch.randn(len(z), generator=torch.Generator().manual_seed(0)).double()
    y = torch.stack([either, one], 1) + noise[:, None]
    w = surrogate.lasso(z[16:].double(), y[16:], 0.01)
    low, high = surrogate.rank_correlation(z[:16].double() @ w, y[:16])
    assert low < 0.6
    assert high > 0.75


def test_log_odds_are_finite_however_sure_the_model_is() -> None:
    """The naive target overflows at 24.3, where a probability rounds to 1 in single precision (D7)."""
    for odds in (0.0, 5.0, 24.3, 80.0):
        p = Prediction(torch.tensor([[odds, 0.0, -torch.inf]]), torch.tensor([0]))
        torch.testing.assert_close(surrogate.log_odds(p), torch.tensor([odds]))
    alone = Prediction(torch.tensor([[0.0, -torch.inf]]).expand(2, -1), torch.tensor([0, 1]))
    assert surrogate.log_odds(alone).isfinite().all()
    together = surrogate.joint_log_odds(torch.tensor([[24.3, 80.0], [100.0, 100.0], [-100.0, 3.0]]))
    assert together.isfinite().all()
    assert together[0] == pytest.approx(24.3, abs=1e-4)
    p = torch.tensor([[0.9, 0.8]]).double()
    expected = math.log(0.72 / 0.28)
    assert surrogate.joint_log_odds((p / (1 - p)).log()).item() == pytest.approx(expected)


def test_a_source_s_tokens_share_its_weight() -> None:
    case = case_of("gpt2", n_target=9, first=6)
    found = attribution("gpt2", case, "context_cite", sources=[(0, 2), (2, 5)], n_samples=16)
    assert (found.scores[:2] == found.scores[0]).all()
    assert (found.scores[2:5] == found.scores[2]).all()
    assert not found.scores[5:].any()
    assert found.sequence_scores["response"].shape == (case.n_features, 1)
    assert found.diagnostics["fit"].shape == (len(case.positions),)
    tokens = attribution("gpt2", case, "context_cite", sources="tokens", n_samples=16)
    assert not torch.equal(tokens.scores[0], tokens.scores[1])


def test_one_step_s_response_is_its_own_score() -> None:
    case = case_of("gpt2", n_target=7, first=6)
    found = attribution("gpt2", case, "context_cite", sources="tokens", n_samples=16)
    torch.testing.assert_close(found.sequence_scores["response"], found.scores, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("removal", ["delete", "hide"])
@pytest.mark.parametrize("name", ["llama", "bart"])
def test_sources_can_be_deleted_or_hidden(name: str, removal: str) -> None:
    """A sample that leaves something to read is drawn instead of one that leaves nothing."""
    case = case_of(name, n_target=7, n_source=4, first=5)
    found = attribution(name, case, "context_cite", sources="tokens", removal=removal, n_samples=16)
    kept = surrogate.draw_sources(16, 5 if name == "llama" else 3, 0, some=True)
    assert kept.any(1).all()
    y = torch.zeros(len(kept), len(case.positions)).double()
    for row, stays in enumerate(kept):
        gone = (~stays).nonzero()[:, 0].tolist()
        for step, t in enumerate(case.positions):
            y[row, step] = slow.log_odds(slow.logits_without(case, gone, t, removal), case.written(t))
    expected = torch.stack([slow.lasso(kept[4:].double(), column, 0.01) for column in y[4:].T], 1)
    torch.testing.assert_close(found.scores[: len(expected)].double(), expected, atol=1e-3, rtol=1e-3)


def example(*texts: str) -> Any:
    tokens = tuple(Token(t, i, "prompt", t, special=t.startswith("<")) for i, t in enumerate(texts))
    none = torch.zeros(0, dtype=torch.long)
    made, _ = harness.adapter("gpt2")
    plain = made.example([], [5, 6, 7], 2, [2])
    return type(plain)(tokens, (), torch.zeros(len(texts), 2), none, none, 0, torch.zeros(0, 2), made)


def spans(sources: Any, *texts: str) -> list[str]:
    held = find_sources(example(*texts), sources)
    return ["".join(texts[i] for i in row.nonzero()[:, 0].tolist()) for row in held]


def test_words_and_sentences_are_found_in_the_tokens() -> None:
    english = ("<s>", "I", " like", " mach", "ines", ".", " They", " said", ' "', "no", '!"', " 3", ".", "5", " is\n", "ok")
    assert spans("words", *english) == ["I", " like", " machines.", " They", " said", ' "no!"', " 3.5", " is\n", "ok"]
    assert spans("sentences", *english) == ["I like machines.", ' They said "no!"', " 3.5 is\n", "ok"]
    assert spans("sentences", "我", "喜歡", "。", "他", "也是", "！", "好") == ["我喜歡。", "他也是！", "好"]
    assert spans("words", " 我", "喜歡", " tea", "pots") == [" 我", "喜歡", " teapots"]
    assert spans("words", "a", "b") == ["a", "b"]
    assert spans("sentences", "<s>", "Hi", ".", "<turn>", "Ok", "</s>") == ["Hi.", "Ok"]
    assert spans([(0, 1), (2, 4)], "a", "b", "c", "d") == ["a", "cd"]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ("lines", r"must be 'sentences', 'words', 'tokens' or a list of spans \(start, end\), got 'lines'"),
        (3, "got int"),
        ([3], "3 is not a span"),
        ([(0, 9)], r"\(0, 9\) is not a span \(start, end\) of the 2 tokens"),
        ([(0, 2), (1, 2)], r"\(1, 2\) is not a span"),
        ([(1, 1)], r"\(1, 1\) is not a span"),
        ([], "finds no source"),
    ],
)
def test_sources_that_cannot_be_used_are_named(sources: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        find_sources(example("a", "b"), sources)


@pytest.mark.parametrize("replacements", ["model", "vocabulary"])
@pytest.mark.parametrize("name", ["llama", "marian"])
def test_reagent_s_scores_are_shares_and_it_says_what_converged(name: str, replacements: str) -> None:
    case = case_of(name, n_target=9, n_source=4, first=4)
    easy = attribution(name, case, "reagent", replacements=replacements, top_k=zoo.VOCAB, max_probes=2)
    never = attribution(name, case, "reagent", replacements=replacements, top_k=1, keep_top_n=1, max_probes=2, n_runs=2)
    assert (easy.diagnostics["converged"] == 1).all()
    assert (never.diagnostics["converged"] < 1).any()
    for found in (easy, never):
        assert found.scores.isfinite().all()
        torch.testing.assert_close(found.scores.sum(0), torch.ones(len(case.positions)), atol=1e-5, rtol=0)


def test_reagent_equals_its_slow_definition_by_vocabulary() -> None:
    case = case_of("marian", n_target=7, n_source=4, first=3)
    draws = reagent.draw_probes(3, 3, case.n_features, 0.3, seed=1)
    options = {"n_runs": 3, "max_probes": 3, "keep_top_n": 2, "top_k": 10, "seed": 1}
    found = attribution("marian", case, "reagent", replacements="vocabulary", **options)
    torch.testing.assert_close(found.scores.double(), slow.reagent(case, draws, False, 2, 10), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["kernel_shap", "context_cite", "reagent"])
def test_the_seed_decides_the_draws_and_nothing_else_does(method: str) -> None:
    case = case_of("gpt2", n_target=12, first=9)
    options = {"kernel_shap": {"n_samples": 12}, "context_cite": {"sources": "tokens", "n_samples": 12}}.get(
        method, {"n_runs": 1}
    )
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, same, other = (attribution("gpt2", case, method, seed=s, **options).scores for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("kernel_shap", {"n_samples": 3}, "n_samples=3 must be at least 4"),
        ("context_cite", {"n_samples": 1}, "n_samples=1 must be at least 2"),
        ("context_cite", {"alpha": -1.0}, "alpha=-1.0 must not be below 0"),
        ("reagent", {"max_probes": 0}, "max_probes=0 must be at least 1"),
        ("reagent", {"replace_ratio": 1.0}, "replace_ratio=1.0 must be above 0 and below 1"),
        ("reagent", {"replacements": "nltk"}, "replacements='nltk' is not one of 'model', 'vocabulary'"),
    ],
)
def test_options_that_cannot_be_used_are_named(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        attribution("gpt2", case_of("gpt2"), method, **options)


def test_a_method_s_own_function_runs_beside_the_target() -> None:
    """Functions of several axes too; requests with different functions keep to themselves."""
    made, _ = harness.adapter("gpt2")
    case = case_of("gpt2")
    x = made.example([], case.target.tolist(), case.first, case.positions)

    def best_two(p: Prediction) -> Tensor:
        return p.logits.topk(2).values

    async def both() -> Any:
        return await gather(Score(x), Score(x, target=Target(best_two, contrast="none", axes=1)))

    engine = Engine(made)
    (((own, two), _),) = engine.run([(x, both())], harness.function("logit"))
    assert engine.counters.forwards == 2
    torch.testing.assert_close(own[0], ref.step_scores(case, ref.logit))
    expected = torch.stack([ref.logits_from_ids(case, t).topk(2).values for t in case.positions])
    torch.testing.assert_close(two[0], expected)
