"""The head in closed form: its numbers, its gradients, when it is proven, and what it spares."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import harness
import pytest
import torch
import zoo
from harness import relative
from reference import Case
from torch import nn

from inseq.engine.scores import head as heads
from inseq.engine.scores.head import LinearHead, prepare_head
from inseq.models.adapter import Adapter
from inseq.models.check import check
from inseq.requests import Prediction, WrittenLogits
from inseq.targets import step_function

VOCAB, DIM, N = 101, 16, 23
OF_WRITTEN = [name for name in step_function if step_function[name].facts.get("of_written")]
CHANGED = {"gemma2", "cohere", "granite"}
"""Families that cap or scale their logits."""


def drawn(dtype: torch.dtype, *, bias: bool, shift: bool) -> tuple[LinearHead, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A head of many tiles and its whole logits, hidden states, and ids."""
    draws = torch.Generator().manual_seed(0)
    module = nn.Linear(DIM, VOCAB, bias=bias).to(dtype).requires_grad_(False)
    for weight in module.parameters():
        weight.copy_(torch.randn(weight.shape, generator=draws))
    more = torch.randn(VOCAB, generator=draws).to(dtype) if shift else None
    hidden = (3 * torch.randn(N, DIM, generator=draws)).to(dtype)
    logits = module(hidden) if more is None else module(hidden) + more
    return LinearHead(module, more), logits.float() if dtype == torch.bfloat16 else logits, hidden, torch.arange(N) * 4


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(heads.TILE, "cpu", (5, 7))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("bias", "shift"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-14), (torch.bfloat16, 1e-2)])
def test_chosen_and_normalizer_are_those_of_all_logits(
    dtype: torch.dtype, tolerance: float, *, bias: bool, shift: bool
) -> None:
    head, logits, hidden, ids = drawn(dtype, bias=bias, shift=shift)
    expected = Prediction(logits, ids)
    assert relative(head.chosen(hidden, ids), expected.written) < tolerance
    assert relative(head.normalizer(hidden), expected.normalizer) < tolerance
    assert (
        relative((head.chosen(hidden, ids) - head.normalizer(hidden)).exp(), logits.softmax(-1)[range(N), ids])
        < 10 * tolerance
    )


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("k", [1, 5, 20, VOCAB])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_logits_are_found_tile_by_tile(dtype: torch.dtype, k: int) -> None:
    head, logits, hidden, ids = drawn(dtype, bias=True, shift=True)
    (values, whose), (expected, best) = head.top(hidden, k), Prediction(logits, ids).top(k)
    assert torch.equal(whose, best)
    assert relative(values, expected) < 2e-6


@pytest.mark.usefixtures("small_tiles")
def test_large_logits_and_those_of_words_that_cannot_be() -> None:
    """The shift of some models forbids a word: here two tiles' words and more."""
    head, _, hidden, _ = drawn(torch.float32, bias=False, shift=False)
    quiet = LinearHead(head.module, torch.zeros(VOCAB).index_fill(0, torch.arange(15), -torch.inf))
    plain = head.module(100 * hidden).index_fill(1, torch.arange(15), -torch.inf)
    torch.testing.assert_close(quiet.normalizer(100 * hidden), plain.logsumexp(-1))
    assert quiet.normalizer(hidden * torch.nan).isnan().all()


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("name", ["probability", "logit", "crossentropy", "contrast_prob_diff"])
def test_cotangents_are_the_gradients_through_all_logits(name: str) -> None:
    """Any function of chosen logits and normalizers, by its own derivatives at these."""
    head, _, hidden, ids = drawn(torch.float64, bias=True, shift=True)
    others = (ids + 1) % VOCAB
    function = step_function[name].function
    leaf = hidden.clone().requires_grad_()
    logits = head.logits(leaf)
    (expected,) = torch.autograd.grad(function(Prediction(logits, ids, Prediction(logits, others))).sum(), leaf)
    known = [t.requires_grad_() for t in (head.chosen(hidden, ids), head.chosen(hidden, others), head.normalizer(hidden))]
    own, other, normalizer = known
    top = Prediction(logits, ids).top
    value = function(
        WrittenLogits(own, lambda: normalizer, ids, top, WrittenLogits(other, lambda: normalizer, others, top))
    ).sum()
    by = torch.autograd.grad(value, known, materialize_grads=True)
    found = head.cotangents(hidden, normalizer.detach(), by[2], [(ids, by[0]), (others, by[1])])
    assert relative(found, expected) < 1e-12


@pytest.mark.parametrize("name", OF_WRITTEN)
def test_functions_that_declare_it_need_no_logits(name: str) -> None:
    """What they say of chosen logits and normalizers is what they say of all logits."""
    logits, ids = torch.randn(5, 9, generator=torch.Generator().manual_seed(1)), torch.arange(5)
    whole = Prediction(logits, ids, Prediction(logits, ids + 1))
    contrast = WrittenLogits(logits[range(5), ids + 1], lambda: logits.logsumexp(-1), ids + 1, whole.top)
    some = WrittenLogits(logits[range(5), ids], lambda: logits.logsumexp(-1), ids, whole.top, contrast)
    assert torch.equal(step_function[name].function(some), step_function[name].function(whole))


def test_which_functions_declare_it() -> None:
    assert set(step_function) - set(OF_WRITTEN) == {"entropy", "rank", "margin", "top_p_size", "kl_divergence"}


@pytest.mark.parametrize("name", zoo.ZOO)
def test_the_head_is_proven_where_logits_are_the_matrix_s_own(name: str) -> None:
    made, _ = harness.adapter(name)
    found = prepare_head(made)
    assert (found is None) is (name in CHANGED)
    if found is not None and hasattr(made.model, "final_logits_bias") and made.model.final_logits_bias.any():
        assert found.shift is not None


def test_a_changed_head_is_left_to_the_model() -> None:
    """A hook of the user's, or logits that the model's own forward changes a little."""
    model = copy.deepcopy(zoo.build("gpt2"))
    made = adapted(model)
    assert prepare_head(made) is not None
    handle = model.lm_head.register_forward_hook(lambda *_: None)
    assert prepare_head(made) is None
    handle.remove()
    assert prepare_head(made) is not None
    forward = model.forward

    def capped(*args: Any, **kwargs: Any) -> Any:
        found = forward(*args, **kwargs)
        found.logits = 200 * torch.tanh(found.logits / 200)
        return found

    model.forward = capped
    assert prepare_head(adapted(model)) is None


def adapted(model: Any) -> Adapter:
    from inseq.models.adapter import DecoderOnly
    from inseq.text.encode import Encoder

    made = DecoderOnly(model, Encoder(zoo.tokenizer("words")))
    check(made)
    return made


@contextmanager
def watched(model: nn.Module) -> Iterator[list[int]]:
    """How many predictions the vocabulary matrix was asked for by each forward."""
    seen: list[int] = []
    handle = model.register_forward_hook(lambda *call: seen.append(call[-1].logits.shape[:2].numel()))
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("method", "target", "recorded", "streamed"),
    [
        ("occlusion", "probability", ("crossentropy",), True),
        ("occlusion", "probability", ("entropy",), True),
        ("occlusion", "entropy", (), False),
        ("lime", "logit", (), True),
        ("dummy", "probability", ("probability",), True),
        ("alti", "probability", ("probability",), True),
        ("value_zeroing", "entropy", ("probability",), True),
        ("attention", "probability", ("entropy",), True),
    ],
)
@pytest.mark.parametrize("name", ["llama", "marian"])
def test_no_row_of_logits_stands_where_none_is_asked_for(
    name: str, method: str, target: str, recorded: tuple[str, ...], *, streamed: bool
) -> None:
    made, _ = harness.adapter(name)
    prepare_head(made)
    case = harness.cases(name)[0]
    with watched(made.model) as seen:
        harness.run(made, [case], method, target, recorded=recorded)
    assert seen
    assert (sum(seen) == 0) is streamed


def test_a_model_with_a_cap_runs_its_own_head() -> None:
    """For every row where the target is asked for, and for one position where nothing is."""
    made, _ = harness.adapter("gemma2")
    case = harness.cases("gemma2")[0]
    with watched(made.model) as seen:
        harness.run(made, [case], "dummy", recorded=["probability"])
        harness.run(made, [case], "alti")
    assert seen[-2:] == [len(case.positions), 1]


def test_step_scores_of_streamed_and_whole_predictions_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """A perplexity is e to the thirteenth here: it has that many more rounding errors."""
    made, _ = harness.adapter("gpt2")
    cases = harness.cases("gpt2")
    names = ("probability", "perplexity", "entropy", "logit")
    streamed, _ = harness.run(made, cases, "occlusion", recorded=names)
    monkeypatch.setattr(made.facts, "linear_logits", False)
    whole, _ = harness.run(made, cases, "occlusion", recorded=names)
    for (a, scores), (b, others) in zip(streamed, whole, strict=True):
        assert relative(a.scores, b.scores) < 1e-5
        for name in names:
            assert relative(scores[name], others[name]) < 5e-6


def test_batches_of_streamed_predictions_do_not_count_logits() -> None:
    """The budget of logits, one row's here, cuts what has to stand."""
    made, _ = harness.adapter("gpt2")
    case: Case = harness.cases("gpt2")[0]
    one_row = harness.Budget(tokens=10**6, logits=len(case.positions) * zoo.VOCAB, cotangents=1)
    found = [
        harness.run(made, [case], "lime", t, budget=one_row, n_samples=4)[1].counters.forwards for t in ("logit", "entropy")
    ]
    assert found == [1, 4]
