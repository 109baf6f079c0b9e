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
