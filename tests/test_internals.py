"""Methods that look inside: choices of layers and heads, rows that sum to 1, layers replayed, pieces that sum."""

from __future__ import annotations

from typing import Any

import harness
import pytest
import torch
import zoo
from harness import relative

from inseq.engine.choices import chosen
from inseq.errors import ArgumentError

TOLERANCE = 2e-5
ENTRIES = [(name, kind) for name, recipe in zoo.ZOO.items() for kind in recipe.attention]


def only(name: str, method: str, **kwargs: Any) -> Any:
    """What a method finds on the first case of a model."""
    made, _ = harness.adapter(name)
    ((found, _),), _ = harness.run(made, harness.cases(name)[:1], method, **kwargs)
    return found


@pytest.mark.parametrize("granular", [True, False])
@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_chosen_layers_and_heads_are_those_of_the_whole(name: str, granular: bool) -> None:
    whole = only(name, "attention").scores
    choices: list[tuple[Any, Any, list[int], list[int]]] = [
        (-1, None, [1], [0, 1, 2, 3]),
        ([1, 0], (1, 3), [0, 1], [1, 2]),
        (None, [-1, 0], [0, 1], [0, 3]),
        ((0, 1), 2, [0], [2]),
    ]
    for layers, heads, kept_layers, kept_heads in choices:
        found = only(name, "attention", layers=layers, heads=heads, granular=granular).scores
        expected = whole[:, :, kept_layers][..., kept_heads]
        assert relative(found, expected if granular else expected.mean((-2, -1))) < TOLERANCE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 2}, r"layers=2: 2 is out of range, the 2 layers 0 to 1"),
        ({"heads": [0, -5]}, r"heads=\[0, -5\]: -5 is out of range, the 4 heads 0 to 3"),
        ({"layers": (1, 3)}, r"layers=\(1, 3\) is not a range within the 2 layers 0 to 1"),
        ({"heads": [1, 1]}, r"must name at least one, and each once"),
        ({"layers": []}, r"must name at least one, and each once"),
    ],
)
def test_choices_that_mean_nothing_are_diagnosed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        only("gpt2", "attention", **options)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ((0, 1, 2), r"heads=\(0, 1, 2\): a tuple is a half-open range \(start, end\); pass a list for single indices"),
        ("last", r"heads must be None for all, a whole number, a list of them, or a .* got 'last'"),
        (True, r"heads must be None for all, a whole number, .* got True"),
    ],
)
def test_choices_of_the_wrong_kind_are_diagnosed(choice: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        chosen(choice, 4, "heads")


@pytest.mark.parametrize("name", ["marian", "t5"])
def test_the_encoder_s_own_attention_comes_with_the_whole_alone(name: str) -> None:
    own = only(name, "attention").sequence_scores["encoder_self_attentions"]
    torch.testing.assert_close(own.sum(0), torch.ones(own.shape[1:]))
    assert not only(name, "attention", layers=0).sequence_scores
    assert not only(name, "attention", granular=False).sequence_scores


@pytest.mark.parametrize(("name", "attention"), ENTRIES)
def test_rows_of_rollout_sum_to_1(name: str, attention: str) -> None:
    made, _ = harness.adapter(name, attention)
    for found, _ in harness.run(made, harness.cases(name, attention), "attention_rollout")[0]:
        assert (found.scores >= 0).all()
        torch.testing.assert_close(found.scores.sum(0), torch.ones(found.scores.shape[1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["marian", "t5"])
def test_rollout_of_the_source_alone_keeps_the_source_s_share(name: str) -> None:
    whole, source = only(name, "attention_rollout").scores, only(name, "attention_rollout", only_source=True).scores
    assert torch.equal(source, whole[: len(source)])
    assert (source.sum(0) < 0.999).all()
