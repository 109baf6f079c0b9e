"""The engine counted, interrupted, starved of memory and given a model that is not causal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import harness
import pytest
import reference as ref
import torch
import zoo
from harness import relative
from reference import Case
from rows import METHODS, TOLERANCE, served
from transformers import LlamaForCausalLM

from inseq.engine.answers import GradientAnswer
from inseq.engine.batches import batches
from inseq.engine.budget import Budget
from inseq.engine.gradients.graphs import Graph
from inseq.engine.jobs import block_size, jobs_of
from inseq.engine.scheduler import Engine, _rest
from inseq.errors import UnsupportedModelError
from inseq.methods import method as methods
from inseq.models.adapter import DecoderOnly
from inseq.models.check import check
from inseq.requests import Gradient, Path, Score, gather
from inseq.text.encode import Encoder


@pytest.mark.parametrize(("method", "name"), served(["gpt2", "marian", "t5"]))
def test_forwards_of_three_unequal_examples(name: str, method: str) -> None:
    """Everything expensive happens once: for all texts, steps and step scores together."""
    made, _ = harness.adapter(name)
    ample = Budget(tokens=2**13, logits=2**25, cotangents=2**19, overhead=2**12)
    for recorded in ([], ["probability", "entropy"]):
        _, engine = harness.run(made, harness.cases(name), method, recorded=recorded, budget=ample, **METHODS[method].options)
        assert engine.counters.forwards == METHODS[method].forwards[bool(recorded)]


@pytest.mark.parametrize("method", METHODS)
def test_rows_and_products_are_formulas_of_the_lengths(method: str) -> None:
    made, _ = harness.adapter("gpt2")
    case = harness.cases("gpt2")[0]
    row = METHODS[method]
    _, engine = harness.run(made, [case], method, recorded=["probability"], **(row.options | row.counted))
    assert engine.counters.rows == row.rows(case.n_features, len(case.positions))
    assert engine.counters.vjps == (len(case.positions) if row.products else 0)


def test_methods_share_batches() -> None:
    """Two methods on two examples, outstanding at once, run in one batch."""
    made, _ = harness.adapter("gpt2")
    examples = [made.example([], c.target.tolist(), c.first, c.positions) for c in harness.cases("gpt2")[:2]]
    engine = Engine(made)
    plans = [(x, methods[m].function(x)) for x in examples for m in ("saliency", "input_x_gradient")]
    engine.run(plans, harness.function("probability"))
    assert engine.counters.forwards == 1
    assert engine.counters.rows == 4


def test_gather_awaits_several_requests_at_once() -> None:
    made, _ = harness.adapter("gpt2")
    case = harness.cases("gpt2")[0]
    x = made.example([], case.target.tolist(), case.first, case.positions)

    async def both() -> tuple[Any, ...]:
        return await gather(Score(x), Gradient(x))

    (((scores, gradient), _),) = Engine(made).run([(x, both())], harness.function("logit"))
    assert relative(scores[0], ref.step_scores(case, ref.logit)) < TOLERANCE
    assert relative(gradient.transpose(0, 1), ref.gradients(case, ref.logit)) < TOLERANCE


def test_long_outputs_are_cut_into_blocks_of_similar_prefix() -> None:
    made, _ = harness.adapter("gpt2")
    short = made.example([], zoo.random_ids(9, 0).tolist(), 4, range(4, 9))
    assert block_size(short, overhead=64) == 5
    long = made.example([], zoo.random_ids(64, 0).tolist(), 2, range(2, 64))
    assert 2 <= block_size(long, overhead=64) < 62
    assert block_size(long, overhead=10**6) == 62


def test_blocks_with_forwards_of_their_own_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = harness.adapter("gpt2")
    monkeypatch.setattr(made.facts, "graph_kind", "plain")
    case = Case(zoo.build("gpt2"), None, zoo.random_ids(60, 3), 2)
    ample = Budget(tokens=10**6, logits=10**9, cotangents=10**9, overhead=8)
    ((found, _),), engine = harness.run(made, [case], "saliency", budget=ample)
    assert engine.counters.forwards > 1
    assert relative(found.scores, ref.saliency(case, ref.probability)) < 5 * TOLERANCE


@pytest.fixture
def starved(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A device that holds 40 tokens."""
    made, _ = harness.adapter("gpt2")
    refused: list[int] = []
    read = made.read

    def checked(inputs: Any, **kwargs: Any) -> Any:
        tokens = inputs.decoder.shape[0] * inputs.decoder.shape[1]
        if tokens > 40:
            refused.append(tokens)
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        return read(inputs, **kwargs)

    monkeypatch.setattr(made, "read", checked)
    yield refused
    monkeypatch.undo()


@pytest.mark.parametrize("method", METHODS)
def test_out_of_memory_halves_and_goes_on_with_the_same_numbers(starved: list[int], method: str) -> None:
    made, _ = harness.adapter("gpt2")
    chosen = harness.cases("gpt2") * 2
    found, engine = harness.run(made, chosen, method, recorded=["probability"], **METHODS[method].options)
    assert starved
    assert engine.budget != Engine(made).budget
    for case, (attribution, scores) in zip(chosen, found, strict=True):
        assert relative(attribution.scores, METHODS[method].slow(case, ref.probability)) < 5 * TOLERANCE
        assert relative(scores["probability"], ref.step_scores(case, ref.probability)) < TOLERANCE


def test_out_of_memory_on_a_single_row_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = harness.adapter("gpt2")

    def never(inputs: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory (pretended)")

    monkeypatch.setattr(made, "read", never)
    with pytest.raises(torch.OutOfMemoryError):
        harness.run(made, harness.cases("gpt2"), "saliency")


class Bidirectional(LlamaForCausalLM):
    """A model whose earlier predictions change with later tokens, as those of a prefix LM do."""

    def forward(self, input_ids: Any = None, inputs_embeds: Any = None, **kwargs: Any) -> Any:
        x = input_ids if inputs_embeds is None else inputs_embeds
        everything = torch.zeros(x.shape[0], 1, x.shape[1], x.shape[1])
        kwargs["attention_mask"] = everything
        return super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **kwargs)


@pytest.fixture(scope="module")
def bidirectional() -> DecoderOnly:
    twin = zoo.build("llama")
    model = Bidirectional(twin.config)
    model.load_state_dict(twin.state_dict())
    return DecoderOnly(model.eval(), Encoder(zoo.tokenizer("words")))


def test_a_model_that_is_not_causal_is_found_out(bidirectional: DecoderOnly) -> None:
    found = check(bidirectional)
    assert not found.causal
    assert "every step is run by itself" in found.notes[0]


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_is_not_causal_gets_a_prefix_for_every_step(bidirectional: DecoderOnly, method: str) -> None:
    check(bidirectional)
    chosen = [Case(bidirectional.model, None, c.target, c.first) for c in harness.cases("llama")]
    if METHODS[method].causal is not None:
        with pytest.raises(UnsupportedModelError, match=METHODS[method].causal):
            harness.run(bidirectional, chosen, method, **METHODS[method].options)
        return
    found, _ = harness.run(bidirectional, chosen, method, recorded=["probability"], **METHODS[method].options)
    for i, (case, (attribution, scores)) in enumerate(zip(chosen, found, strict=True)):
        if i in METHODS[method].compared:
            assert relative(attribution.scores, METHODS[method].slow(case, ref.probability)) < 5 * TOLERANCE
        assert relative(scores["probability"], ref.step_scores(case, ref.probability)) < TOLERANCE


def test_products_one_by_one_where_batched_ones_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose backward cannot be batched gets the same numbers from single products."""
    made, _ = harness.adapter("gpt2")
    case = harness.cases("gpt2")[0]
    grad = torch.autograd.grad

    def refusing(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("is_grads_batched"):
            raise RuntimeError("no batching rule (pretended)")
        return grad(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", refusing)
    monkeypatch.setattr(made.facts, "can_batch_products", answers := {})
    ((found, _),), _ = harness.run(made, [case], "saliency")
    assert answers == {(None, "without_last_layer"): False}
    monkeypatch.undo()
    assert relative(found.scores, ref.saliency(case, ref.probability)) < 5 * TOLERANCE


def test_progress_can_be_switched_off(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inseq.engine.progress.DELAY", 0)
    made, _ = harness.adapter("gpt2")
    case = harness.cases("gpt2")[0]
    x = made.example([], case.target.tolist(), case.first, case.positions)
    for progress in (False, True):
        Engine(made).run([(x, methods["saliency"].function(x))], harness.function("logit"), progress=progress)
        assert bool(capsys.readouterr().err) is progress


@pytest.mark.parametrize("budget", [None, Budget(tokens=1, logits=2**20, cotangents=2**20)], ids=["one batch", "a row each"])
@pytest.mark.parametrize("method", ["saliency", "integrated_gradients"])
def test_out_of_memory_while_an_answer_is_read(method: str, budget: Budget | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was summed over batches before is not lost, nor counted twice."""
    made, _ = harness.adapter("gpt2")
    chosen = harness.cases("gpt2")
    refused = []
    read = GradientAnswer._read

    def once(self: Any, *args: Any) -> Any:
        refused.append(1)
        if len(refused) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        return read(self, *args)

    monkeypatch.setattr(GradientAnswer, "_read", once)
    found, _ = harness.run(made, chosen, method, budget=budget, **METHODS[method].options)
    assert len(refused) > len(chosen)
    for case, (attribution, _) in zip(chosen, found, strict=True):
        assert relative(attribution.scores, METHODS[method].slow(case, ref.probability)) < 5 * TOLERANCE


@pytest.mark.parametrize("spans", [None, [[(4, 8), (6, 9), (9, 12), (12, 13)]]])
def test_what_products_give_is_folded_before_the_next(monkeypatch: pytest.MonkeyPatch, spans: Any) -> None:
    """And a block looks at its own predictions alone."""
    made, _ = harness.adapter("gpt2")
    case = Case(zoo.build("gpt2"), None, zoo.random_ids(14, 3), 4)
    looked, given = [], []
    body, add = Graph.body, GradientAnswer.add
    monkeypatch.setattr(Graph, "body", lambda self, c, at, sums: (looked.append(at.shape[1]), body(self, c, at, sums))[1])
    monkeypatch.setattr(GradientAnswer, "add", lambda self, job, part: (given.append(len(part)), add(self, job, part))[1])
    budget = Budget(tokens=2**16, logits=2**28, cotangents=2 * 13 * 32, overhead=0)
    ((found, _),), engine = harness.run(made, [case], "saliency", budget=budget, granular=False, spans=spans)
    n = 10 if spans is None else 4
    assert engine.counters.vjps == sum(given) == n
    assert max(given) <= 3
    assert len(looked) > 1
    assert max(looked) < len(case.positions)
    ample = Budget(tokens=2**16, logits=2**28, cotangents=2**24, overhead=2**12)
    ((whole, _),), _ = harness.run(made, [case], "saliency", budget=ample, granular=False, spans=spans)
    assert relative(found.scores, whole.scores) < TOLERANCE


def test_what_is_left_of_a_span_whose_tokens_run_apart() -> None:
    """Jobs of one span differ by their predictions alone: one that ran answers for no other."""
    made, _ = harness.adapter("gpt2")
    x = made.example([], zoo.random_ids(8, 0).tolist(), 4, [5, 6, 7], spans=[(5, 8)])
    jobs = jobs_of(Gradient(x), False, 0)
    assert [job.sums for job in jobs] == [range(1)] * 3
    assert [_rest(job, jobs[:1]) for job in jobs] == [[], [jobs[1]], [jobs[2]]]


def test_a_graph_holds_few_rows_whatever_their_number() -> None:
    made, _ = harness.adapter("gpt2")
    x = made.example([], zoo.random_ids(9, 0).tolist(), 4, range(4, 9))
    budget = Budget(tokens=2**16, logits=2**28, cotangents=2**24, overhead=0, graph=24)
    for n in (5, 50):
        request = Gradient(x, Path(torch.zeros_like(x.embeds), torch.linspace(0, 1, n, dtype=torch.float64)))
        jobs = jobs_of(request, True, 0, beginnings=True)
        sizes = [sum(job.rows for job in batch) for batch in batches(jobs, lambda: budget, made.vocabulary_size, causal=True)]
        assert max(sizes) == 3
        assert sum(sizes) == n
