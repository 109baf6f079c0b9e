"""Edited attention by blocks of queries, and double precision by parts: the same numbers in less memory."""

from __future__ import annotations

from functools import partial

import harness
import pytest
import torch
from harness import relative

from inseq.engine.budget import Budget
from inseq.engine.memory.footprint import Allocated
from inseq.engine.rules import forward as edited
from inseq.engine.rules import rescale
from inseq.engine.rules.blocks import eager_attention, splits
from inseq.errors import UnsupportedModelError
from inseq.models.attention import own_attention

BLOCK = 200
"""Entries of a block: a few queries of the short rows here."""

BY_BLOCKS = Budget(tokens=2**14, logits=2**25, cotangents=2**19, weights=0)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edited, "eager_attention", partial(eager_attention, block=BLOCK))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("method", ["attnlrp", "gim", "deeplift"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gptj", "marian", "t5"])
def test_blocks_change_no_number(name: str, method: str) -> None:
    made, _ = harness.adapter(name)
    chosen = harness.cases(name)
    whole, _ = harness.run(made, chosen, method)
    blocks, _ = harness.run(made, chosen, method, budget=BY_BLOCKS)
    assert made.facts.can_split_attention
    for (one, _), (other, _) in zip(blocks, whole, strict=True):
        assert relative(one.scores, other.scores) < 1e-5
        assert not torch.equal(one.scores, other.scores)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", ["bloom", "gpt_neo"])
def test_attention_that_cannot_be_reached_stays_whole(name: str) -> None:
    made, _ = harness.adapter(name)
    assert not splits(made)
    whole, _ = harness.run(made, harness.cases(name), "attnlrp")
    same, _ = harness.run(made, harness.cases(name), "attnlrp", budget=BY_BLOCKS)
    assert all(torch.equal(one.scores, other.scores) for (one, _), (other, _) in zip(same, whole, strict=True))


@pytest.mark.usefixtures("small_blocks")
def test_what_no_rule_covers_is_refused_in_blocks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = harness.adapter("gpt2")
    splits(made)

    def odd(*args: object, **kwargs: object) -> tuple[torch.Tensor, torch.Tensor]:
        output, weights = own_attention(*args, **kwargs)
        return output.sin(), weights

    monkeypatch.setattr("inseq.engine.rules.blocks.own_attention", odd)
    with pytest.raises(UnsupportedModelError, match="its attention uses the operation 'SinBackward0'"):
        harness.run(made, harness.cases("gpt2"), "attnlrp", budget=BY_BLOCKS)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("method", ["attnlrp", "gim", "deeplift"])
def test_blocks_leave_nothing_behind(method: str) -> None:
    """Rules note what they allow in a graph: noted in blocks, it would keep the graph forever."""
    made, _ = harness.adapter("gpt2")
    harness.run(made, harness.cases("gpt2"), method, budget=BY_BLOCKS)
    with Allocated() as allocated:
        found, engine = harness.run(made, harness.cases("gpt2"), method, budget=BY_BLOCKS)
        kept = allocated.live
        del found, engine
    assert max(allocated.moments) > 2 * kept
    assert allocated.live < 1000


@pytest.mark.parametrize("axis", [-1, 2, 1])
def test_parts_change_no_bit(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(4, 3, 5, 7, generator=draws)
    rules = rescale.RescaleRules(torch.nn.Identity(), rescale.Rescale("deeplift"))

    def gradient() -> torch.Tensor:
        leaf = x.clone().requires_grad_()
        weights = rules.softmax(partial(torch.softmax, dim=axis), leaf, axis)
        return torch.autograd.grad((weights * x.cos()).sum(), leaf)[0]

    whole = gradient()
    monkeypatch.setattr(rescale, "PART", 30)
    assert torch.equal(gradient(), whole)
