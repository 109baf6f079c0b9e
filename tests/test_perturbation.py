"""What is true of the perturbation methods beyond the property table."""

from __future__ import annotations

from typing import Any

import harness
import pytest
import reference as ref
import reference_perturbation as slow
import torch
import zoo
from harness import relative
from reference import Case
from rows import ENTRIES, TOLERANCE, unknown
from transformers.cache_utils import DynamicCache

from inseq.engine import scheduler
from inseq.engine.budget import Budget
from inseq.engine.scheduler import Engine
from inseq.engine.scores import reuse
from inseq.engine.scores.reuse import prepare_reuse
from inseq.errors import ArgumentError, UnsupportedModelError
from inseq.requests import Deleted, Gradient, Hidden

CANNOT_HIDE = {
    "bloom": "counts positions from the attention mask",
}
"""Architectures that cannot hide a token, and why."""

HIDING = [entry for entry in ENTRIES if entry[0] not in CANNOT_HIDE]


def small(name: str, attention: str = "eager", first: int = 4) -> Case:
    recipe = zoo.ZOO[name]
    target = zoo.random_ids(8, seed=5, vocab=recipe.target_vocab)
    source = None
    if recipe.encoder_decoder:
        source = torch.cat([zoo.random_ids(4, seed=15), torch.tensor([zoo.EOS])])
        target[0] = recipe.start
    return Case(zoo.build(name, attention), source, target, first)


def scores(case: Case, method: str, target: str = "log_probability", attention: str = "eager", **options: Any) -> torch.Tensor:
    name = next(n for n, kind in ENTRIES if zoo.build(n, kind) is case.model)
    made, _ = harness.adapter(name, attention)
    return harness.run(made, [case], method, target, **options)[0][0][0].scores


@pytest.mark.parametrize(("name", "attention"), ENTRIES)
def test_deleting_equals_a_plain_forward_of_the_shorter_input(name: str, attention: str) -> None:
    case = small(name, attention)
    got = scores(case, "occlusion", attention=attention, removal="delete")
    assert relative(got, slow.occlusion_without(case, ref.log_probability, "delete")) < 5 * TOLERANCE


@pytest.mark.parametrize(("name", "attention"), HIDING)
def test_hiding_equals_a_plain_forward_with_a_mask(name: str, attention: str) -> None:
    case = small(name, attention)
    got = scores(case, "occlusion", attention=attention, removal="hide")
    assert relative(got, slow.occlusion_without(case, ref.log_probability, "hide")) < 5 * TOLERANCE


@pytest.mark.parametrize(("name", "reason"), CANNOT_HIDE.items())
def test_architectures_that_cannot_hide_say_so(name: str, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason) as refused:
        scores(small(name), "occlusion", removal="hide")
    assert "Use removal='replace'" in str(refused.value)


EAGER_TO_GO_ON = Budget(tokens=2**12, logits=2**25, cotangents=2**19, overhead=0, smallest=1)
"""A further forward costs nothing, so that nothing is run twice."""


def long(name: str, attention: str = "eager") -> Case:
    """Longer than every window."""
    recipe = zoo.ZOO[name]
    target = zoo.random_ids(16, seed=6, vocab=recipe.target_vocab)
    source = None
    if recipe.encoder_decoder:
        source = torch.cat([zoo.random_ids(4, seed=15), torch.tensor([zoo.EOS])])
        target[0] = recipe.start
    return Case(zoo.build(name, attention), source, target, 6)


REMOVALS = [(*entry, how) for how in ("replace", "delete") for entry in ENTRIES] + [(*entry, "hide") for entry in HIDING]


@pytest.mark.parametrize(("name", "attention", "removal"), REMOVALS)
def test_going_on_from_what_does_not_change_equals_running_all(
    name: str, attention: str, removal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = harness.adapter(name, attention)
    cases = [long(name, attention), small(name, attention)]
    reused, engine = harness.run(made, cases, "occlusion", "logit", removal=removal, budget=EAGER_TO_GO_ON)
    monkeypatch.setattr(scheduler, "reusing", lambda *_: None)
    plain, before = harness.run(made, cases, "occlusion", "logit", removal=removal, budget=EAGER_TO_GO_ON)
    assert made.facts.can_reuse_cache
    assert engine.counters.tokens < before.counters.tokens
    for (a, _), (b, _) in zip(plain, reused, strict=True):
        assert relative(b.scores, a.scores) < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "gemma3"])
def test_tokens_are_those_from_the_first_change_on(name: str) -> None:
    case = long(name)
    _, engine = harness.run(harness.adapter(name)[0], [case], "occlusion", budget=EAGER_TO_GO_ON)
    n = case.n_features
    assert engine.counters.rows == n + 1
    assert engine.counters.tokens == n + sum(n - i for i in range(n))


@pytest.mark.parametrize("name", ["marian", "t5"])
def test_the_encoder_runs_once_for_all_changes_of_the_decoder_s_tokens(name: str) -> None:
    case = long(name)
    _, engine = harness.run(harness.adapter(name)[0], [case], "occlusion", budget=EAGER_TO_GO_ON)
    n, decoder = case.n_source, case.n_features - case.n_source
    assert engine.counters.tokens == (n + decoder) + n * (n + decoder) + decoder * decoder


@pytest.mark.parametrize("removal", ["replace", "delete", "hide"])
@pytest.mark.parametrize("name", ["llama", "marian"])
def test_going_on_with_little_memory_and_many_examples(name: str, removal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = harness.adapter(name)
    cases = harness.cases(name) * 2
    plain, _ = harness.run(made, cases, "occlusion", "logit", recorded=["entropy"], removal=removal)
    tight = Budget(tokens=40, logits=40 * zoo.VOCAB, cotangents=1, overhead=0, smallest=1)
    read, refused = made.read, []

    def starved(inputs: Any, **kwargs: Any) -> Any:
        if len(inputs.decoder) > 1 and not refused:
            refused.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        return read(inputs, **kwargs)

    made.facts.can_reuse_cache, made.facts.reuse_length = None, 0
    harness.run(made, cases, "occlusion", "logit", removal=removal, budget=EAGER_TO_GO_ON)
    monkeypatch.setattr(made, "read", starved)
    plans: list[Any] = []
    monkeypatch.setattr(scheduler, "reusing", lambda *args: plans.append(reuse.reusing(*args)) or plans[-1])
    reused, engine = harness.run(made, cases, "occlusion", "logit", recorded=["entropy"], removal=removal, budget=tight)
    assert refused
    assert engine.budget.tokens <= 20
    assert len(plans) == len(cases)
    assert all(plan[0].memory.tensors == () for plan in plans)
    for (a, scores), (b, others) in zip(plain, reused, strict=True):
        assert relative(b.scores, a.scores) < 1e-5
        assert relative(others["entropy"], scores["entropy"]) < 1e-5


@pytest.mark.parametrize("options", [{}, {"removal": "delete"}, {"removal": "hide"}, {"window": 3}])
@pytest.mark.parametrize("name", ["gpt2", "gemma3", "t5"])
def test_a_change_leaves_earlier_predictions_exactly_alone(name: str, options: dict[str, Any]) -> None:
    """Both where all runs and where only what changes does."""
    case = long(name)
    for budget in (None, EAGER_TO_GO_ON):
        got = scores(case, "occlusion", budget=budget, **options)
        for step, t in enumerate(case.positions):
            assert not got[case.seen(t) :, step].any()


def test_a_model_that_does_not_take_keys_and_values_runs_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = harness.adapter("llama", "sdpa")
    monkeypatch.setattr(made.facts, "reuse_length", 0)
    monkeypatch.setattr(made.facts, "can_reuse_cache", None)
    monkeypatch.setattr("inseq.models.cache.beginning", lambda tensors: DynamicCache())
    case = long("llama", "sdpa")
    _, engine = harness.run(made, [case], "occlusion", budget=EAGER_TO_GO_ON)
    assert made.facts.can_reuse_cache is False
    assert engine.counters.tokens == (case.n_features + 1) * case.n_features


def test_longer_sequences_are_asked_again() -> None:
    made = harness.adapter("mistral")[0]
    made.facts.can_reuse_cache, made.facts.reuse_length = None, 0
    assert [(prepare_reuse(made, n), made.facts.reuse_length) for n in (3, 8, 9, 64, 70)] == [
        (True, 8), (True, 8), (True, 16), (True, 64), (True, 70),
    ]  # fmt: skip


@pytest.mark.parametrize("removal", ["replace", "delete", "hide"])
@pytest.mark.parametrize(("window", "stride"), [(2, 1), (3, 2), (9, 1)])
@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_windows(name: str, window: int, stride: int, removal: str) -> None:
    case = small(name, first=6)
    if removal != "replace" and window > 4:
        with pytest.raises(ArgumentError, match=r"so that nothing is left to read\. Use removal='replace'"):
            scores(case, "occlusion", window=window, stride=stride, removal=removal)
        return
    if removal == "replace":
        expected = torch.zeros(case.n_features, len(case.positions))
        x, b = ref.embeddings(case), unknown(case)
        covers = slow.windows(case.n_source, window, stride) if case.n_source else []
        covers += [[case.n_source + i for i in w] for w in slow.windows(case.n_features - case.n_source, window, stride)]
        for step, t in enumerate(case.positions):
            plain = ref.score(case, x, t, ref.log_probability).detach()
            for i in range(case.seen(t)):
                if case.n_source and i == case.n_source:
                    continue
                losses = []
                for cover in (c for c in covers if i in c):
                    kept = torch.tensor([j not in cover for j in range(case.n_features)])
                    losses.append(plain - ref.value(case, x, b, kept, t, ref.log_probability))
                expected[i, step] = torch.stack(losses).mean()
    else:
        expected = slow.occlusion_without(case, ref.log_probability, removal, window, stride)
    got = scores(case, "occlusion", window=window, stride=stride, removal=removal)
    assert relative(got, expected) < 5 * TOLERANCE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window=0 must be at least 1"),
        ({"stride": 0}, "stride=0 must be at least 1"),
        ({"window": 2, "stride": 3}, "stride=3 is more than window=2"),
        ({"removal": "remove"}, "removal='remove' is not known"),
    ],
)
def test_options_that_cannot_be_used_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        scores(small("gpt2"), "occlusion", **options)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bart"])
def test_a_predicted_loss_is_what_really_happens(name: str) -> None:
    """By intervention: the ids are really changed, and the model itself is asked."""
    case = small(name)
    got = scores(case, "occlusion", "logit", baseline=9)
    for i in range(case.n_features):
        if case.source is not None and i == case.n_source:
            continue
        target, source = case.target.clone(), None if case.source is None else case.source.clone()
        (target if source is None or i >= case.n_source else source)[i if i < case.n_source else i - case.n_source] = 9
        changed = Case(case.model, source, target, case.first)
        for step, t in enumerate(case.positions):
            if i < case.seen(t):
                before, after = (ref.logits_from_ids(c, t)[case.written(t)] for c in (case, changed))
                torch.testing.assert_close(got[i, step], before - after, atol=1e-4, rtol=1e-4)


def test_hiding_a_token_that_nobody_attends_to_changes_nothing() -> None:
    """Two layers with windows of four read six tokens back."""
    case = long("mistral")
    got = scores(case, "occlusion", removal="hide")
    for step, t in enumerate(case.positions):
        assert not got[: max(0, t - 1 - 2 * (zoo.WINDOW - 1)), step].any()
    assert got.any(1).all()


def test_a_row_for_each_token_and_one_for_the_whole() -> None:
    for name in ("gpt2", "marian"):
        case = small(name)
        for options in ({}, {"removal": "delete"}, {"removal": "hide"}):
            _, engine = harness.run(harness.adapter(name)[0], [case], "occlusion", recorded=["entropy"], **options)
            assert engine.counters.rows == case.n_features + 1


def test_gradients_cannot_be_asked_where_features_are_missing() -> None:
    made, _ = harness.adapter("gpt2")
    x = made.example([], small("gpt2").target.tolist(), 4, range(4, 8))
    removed = torch.eye(7, dtype=torch.bool)

    async def gradients(variants: Any) -> Any:
        return await Gradient(x, variants)

    with pytest.raises(ValueError, match="variants that lack features, which can only be scored"):
        Engine(made).run([(x, gradients(Deleted(removed)))], harness.function("logit"))
    ((hidden, _),) = Engine(made).run([(x, gradients(Hidden(removed)))], harness.function("logit"))
    assert hidden.shape == x.embeds[None].expand(4, -1, -1).shape


def test_a_model_that_is_not_causal_refuses_deletion_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = harness.adapter("gpt2", "eager")
    monkeypatch.setattr(made.facts, "causal", False)
    case = small("gpt2")
    expected = slow.occlusion_without(case, ref.log_probability, "hide")
    assert relative(scores(case, "occlusion", removal="hide"), expected) < 5 * TOLERANCE
    with pytest.raises(UnsupportedModelError, match=r"would read the padding .* Use removal='replace'"):
        scores(case, "occlusion", removal="delete")


@pytest.mark.parametrize("removal", ["delete", "hide"])
@pytest.mark.parametrize("name", ["marian", "t5"])
def test_removing_source_tokens_alone(name: str, removal: str) -> None:
    case = small(name)
    got = scores(case, "occlusion", removal=removal, only_source=True)
    assert relative(got, slow.occlusion_without(case, ref.log_probability, removal, only_source=True)) < 5 * TOLERANCE


def test_ends_of_sequence_stay_where_they_are_not_included() -> None:
    case = small("marian")
    for removal in ("replace", "delete", "hide"):
        got = scores(case, "occlusion", removal=removal, include_eos_baseline=False)
        assert not got[case.n_source - 1].any()
        assert scores(case, "occlusion", removal=removal)[case.n_source - 1].any()


@pytest.mark.parametrize("removal", ["replace", "hide"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "marian"])
def test_half_precision_can_hide_and_go_on(name: str, removal: str) -> None:
    half, _ = harness.adapter(name, dtype=torch.bfloat16)
    case = long(name)
    twin = Case(zoo.build(name, dtype=torch.bfloat16), case.source, case.target, case.first)
    ((rough, _),), _ = harness.run(half, [twin], "occlusion", "logit", removal=removal, budget=EAGER_TO_GO_ON)
    exact = scores(case, "occlusion", "logit", removal=removal)
    assert half.facts.can_reuse_cache
    assert torch.corrcoef(torch.stack([rough.scores.flatten(), exact.flatten()]))[0, 1] > 0.98
