"""Baselines by every name they have."""

from __future__ import annotations

from typing import Any

import harness
import pytest
import torch
import zoo

from inseq.errors import ArgumentError
from inseq.methods.baselines import baseline_embeds
from inseq.requests.example import Example


def example(name: str, *, only_source: bool = False) -> Example:
    """Three source tokens and three of the decoder, or four of the decoder."""
    made, _ = harness.adapter(name)
    if zoo.ZOO[name].encoder_decoder:
        start = zoo.ZOO[name].start
        return made.example([7, 8, zoo.EOS], [start, 9, 10, 11], 1, [1, 2, 3], attribute_target=not only_source)
    return made.example([], [5, 6, 7, 8, 9], 3, [3, 4])


def of_ids(x: Example, ids: list[int]) -> torch.Tensor:
    return torch.cat([x.vocabulary.embed(torch.tensor(ids)[side], role) for role, side in x.sides])


ALIKE: list[tuple[Any, list[int]]] = [
    ("unk", [zoo.UNK] * 4),
    ("pad", [zoo.PAD] * 4),
    ("w8", [12] * 4),
    (12, [12] * 4),
    ([12], [12] * 4),
    (torch.tensor(12), [12] * 4),
    (torch.tensor([12]), [12] * 4),
    ("w1 w2 w3 w4", [5, 6, 7, 8]),
    ([12, 13, 14, 15], [12, 13, 14, 15]),
    ((12, 13, 14, 15), [12, 13, 14, 15]),
    (torch.tensor([12, 13, 14, 15]), [12, 13, 14, 15]),
    (lambda x: [token.id + 1 for token in x.features], [6, 7, 8, 9]),
]


@pytest.mark.parametrize(("baseline", "ids"), ALIKE, ids=lambda value: str(value)[:20])
def test_tokens_texts_ids_and_functions(baseline: Any, ids: list[int]) -> None:
    x = example("gpt2")
    torch.testing.assert_close(baseline_embeds(x, baseline), of_ids(x, ids))


def test_embeddings_and_constants() -> None:
    x = example("gpt2")
    table = x.vocabulary.embed(torch.arange(zoo.VOCAB), "generated")
    for baseline, expected in [
        ("zero", torch.zeros(4, 32)),
        ("mean", table.mean(0).expand(4, -1)),
        (torch.ones(32), torch.ones(4, 32)),
        (2 * x.embeds, 2 * x.embeds),
        (lambda e: e.embeds.flip(0), x.embeds.flip(0)),
    ]:
        torch.testing.assert_close(baseline_embeds(x, baseline), expected)


@pytest.mark.parametrize("name", ["marian", "marian_separate"])
def test_an_encoder_decoder_s_ids_go_to_source_then_decoder(name: str) -> None:
    """The decoder's start stays, and so does the end unless it is included."""
    x = example(name)
    own = x.ids.tolist()
    ids = [20, 21, 22, 23, 24, 25]
    expected = of_ids(x, [20, 21, own[2], own[3], 24, 25])
    torch.testing.assert_close(baseline_embeds(x, ids), expected)
    torch.testing.assert_close(baseline_embeds(x, ids, include_eos_baseline=True)[2], of_ids(x, ids)[2])
    alone = example(name, only_source=True)
    torch.testing.assert_close(baseline_embeds(alone, "w16 w17")[:2], of_ids(alone, [20, 21, 1])[:2])


def test_each_side_has_its_own_vocabulary() -> None:
    x = example("marian_separate")
    last = zoo.TARGET_VOCAB
    assert baseline_embeds(example("marian_separate", only_source=True), last).shape == (3, 32)
    with pytest.raises(ArgumentError, match=f"the vocabulary of the decoder has {zoo.TARGET_VOCAB} embeddings"):
        baseline_embeds(x, last)


WRONG: list[tuple[Any, str]] = [
    ("w1 w2", r"is a text of 2 tokens, and there are 4 features \(4 tokens of the decoder\): pass one token"),
    ("mask", "this tokenizer has no such token"),
    ([12, 13], r"baseline has 2 ids, and there are 4 features"),
    ([], "baseline has 0 ids"),
    (97, r"names the id 97, and the vocabulary of the decoder has 97 embeddings: ids are 0 to 96"),
    (-1, "names the id -1"),
    ([5, 6, 7, 1000], "names the id 1000"),
    (torch.zeros(3), r"shape \(3,\), expected \(4, 32\)"),
    (torch.zeros(4, 32, dtype=torch.bool), "got Tensor"),
    (torch.zeros(2, 2, dtype=torch.long), "got Tensor"),
    (True, "got bool"),
    (None, "got NoneType"),
    ([1.5], "got list"),
    (lambda x: None, "got NoneType"),
    (lambda x: torch.zeros(2, 3), r"shape \(2, 3\), expected"),
]


@pytest.mark.parametrize(("baseline", "message"), WRONG, ids=lambda value: str(value)[:20])
def test_what_cannot_be_a_baseline_is_named(baseline: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        baseline_embeds(example("gpt2"), baseline)
