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
from test_properties import ENTRIES, TOLERANCE

from inseq.engine import reuse
from inseq.engine.packing import Budget
from inseq.errors import UnsupportedModelError

CANNOT_HIDE = {
    "bloom": "counts positions from the attention mask",
}
"""Architectures that cannot hide a token, and why."""


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


@pytest.mark.parametrize(("name", "attention"), [e for e in ENTRIES if e[0] not in CANNOT_HIDE])
def test_hiding_equals_a_plain_forward_with_a_mask(name: str, attention: str) -> None:
    case = small(name, attention)
    got = scores(case, "occlusion", attention=attention, removal="hide")
    assert relative(got, slow.occlusion_without(case, ref.log_probability, "hide")) < 5 * TOLERANCE


@pytest.mark.parametrize(("name", "reason"), CANNOT_HIDE.items())
def test_architectures_that_cannot_hide_say_so(name: str, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason) as refused:
        scores(small(name), "occlusion", removal="hide")
    assert "Use removal='replace'" in str(refused.value)


EAGER_TO_GO_ON = Budget(tokens=2**12, logits=2**25, cotangents=2**19, overhead=0)
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


REMOVALS = [(*entry, how) for entry in ENTRIES for how in ("replace", "hide") if how == "replace" or entry[0] not in CANNOT_HIDE]


@pytest.mark.parametrize(("name", "attention", "removal"), REMOVALS)
def test_going_on_from_what_does_not_change_equals_running_all(name: str, attention: str, removal: str) -> None:
    made, _ = harness.adapter(name, attention)
    cases = [long(name, attention), small(name, attention)]
    plain, before = harness.run(made, cases, "occlusion", "logit", removal=removal)
    reused, engine = harness.run(made, cases, "occlusion", "logit", removal=removal, budget=EAGER_TO_GO_ON)
    assert made.reuses
    assert engine.counters.tokens < before.counters.tokens
    for (a, _), (b, _) in zip(plain, reused, strict=True):
        assert relative(b.scores, a.scores) < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "gemma3"])
def test_tokens_are_those_from_the_first_change_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "SMALLEST", 1)
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
