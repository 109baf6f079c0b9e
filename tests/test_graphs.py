"""Cheap backward passes, the last layer's shortcut and graphs of beginnings, against the model's own graph."""

from __future__ import annotations

from typing import Any

import harness
import pytest
import reference as ref
import torch
import zoo
from harness import relative
from reference import Case
from rows import ENTRIES, TOLERANCE
from torch import Tensor, nn
from transformers.activations import ClippedGELUActivation
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from inseq.engine.answers import GradientAnswer
from inseq.engine.budget import Budget
from inseq.engine.gradients.graphs import Graphs, prepare_graphs
from inseq.engine.gradients.kept import ACTIVATIONS, PARTS, SHORT, ForwardCache, SavedAttention, fused
from inseq.engine.jobs import WHOLE, Job, graph_size

FUSED = {"gemma2", "gpt_neo", "bloom", "falcon"}
"""Soft-capped attention, and attentions that do not go through transformers' interface."""


@pytest.mark.parametrize(("name", "attention"), ENTRIES)
def test_the_last_layer_is_cut_wherever_that_is_right(name: str, attention: str) -> None:
    made, _ = harness.adapter(name, attention)
    assert prepare_graphs(made) == ("saved_slopes" if name in FUSED else "without_last_layer")


def test_a_shortcut_that_gives_other_gradients_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = harness.adapter("gpt2")
    monkeypatch.setattr(made.facts, "graph_kind", None)
    monkeypatch.setattr("inseq.engine.gradients.last_layer.scaling_of", lambda query, kwargs: 0.5)
    assert prepare_graphs(made) == "saved_slopes"
    monkeypatch.setattr(made.facts, "graph_kind", None)
    monkeypatch.setattr("inseq.engine.gradients.kept.SavedActivation.backward", lambda ctx, g: (g, None, None))
    assert prepare_graphs(made) == "plain"


def products(module: Any, x: Tensor, seeds: Tensor, batched: bool) -> Tensor:
    leaf = x.clone().requires_grad_()
    y = module(leaf)
    if batched:
        return torch.autograd.grad(y, leaf, seeds, is_grads_batched=True)[0]
    return torch.stack([torch.autograd.grad(y, leaf, seed, retain_graph=True)[0] for seed in seeds])


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("kind", sorted(set(ACTIVATIONS), key=lambda kind: kind.__name__))
def test_activations_keep_their_slope(kind: type[nn.Module], batched: bool) -> None:
    module = kind(-1.0, 1.0) if kind is ClippedGELUActivation else kind()
    x, seeds = (torch.randn(n, 5, 8, generator=torch.Generator().manual_seed(n)) for n in (1, 3))
    seeds = seeds[:, None]
    own = products(module, x, seeds, False)
    holder = nn.Sequential(module)
    with fused(holder):
        assert relative(products(holder, x, seeds, batched), own) < 1e-6
    assert "forward" not in vars(module)


@pytest.mark.parametrize("batched", [False, True])
def test_norms_by_the_root_mean_square(batched: bool) -> None:
    holder = nn.Sequential(LlamaRMSNorm(8))
    nn.init.normal_(holder[0].weight)
    x, seeds = torch.randn(1, 5, 8), torch.randn(3, 1, 5, 8)
    own = products(holder, x, seeds, False)
    with fused(holder):
        assert "SavedRMSNorm" in type(holder(x.requires_grad_()).grad_fn).__name__
        assert relative(products(holder, x.detach(), seeds, batched), own) < 1e-6


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(("n", "causal"), [(7, True), (SHORT + 5, True), (SHORT + 5, False)])
def test_attention_goes_back_from_its_weights(n: int, causal: bool, batched: bool) -> None:
    """With query heads that share keys and values; where nobody looks ahead, in parts."""
    drawn = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, h, n, 4, generator=drawn).requires_grad_() for h in (6, 3, 3))
    mask = torch.zeros(n, n).masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf) if causal else torch.zeros(n, n)
    weights = (query @ key.repeat_interleave(2, 1).transpose(-1, -2) * 0.3 + mask).softmax(-1)
    output = (weights @ value.repeat_interleave(2, 1)).transpose(1, 2)
    seeds = torch.randn(2, *output.shape, generator=drawn)
    own = [torch.autograd.grad(output, (query, key, value), seed, retain_graph=True) for seed in seeds]
    cheap: Tensor = SavedAttention.apply(
        query, key, value, output, weights.detach(), 0.3, PARTS if causal and n > SHORT else 1
    )
    if batched:
        found = torch.autograd.grad(cheap, (query, key, value), seeds, is_grads_batched=True)
    else:
        each = [torch.autograd.grad(cheap, (query, key, value), seed, retain_graph=True) for seed in seeds]
        found = tuple(torch.stack(parts) for parts in zip(*each, strict=True))
    for a, b in zip(found, zip(*own, strict=True), strict=True):
        assert relative(a, torch.stack(b)) < 1e-5


def test_a_tape_multiplies_nothing_again() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4), nn.SiLU(), nn.Linear(4, 4))
    x, cache = torch.randn(2, 5, 4), ForwardCache()
    calls: list[int] = []
    for module in model:
        if isinstance(module, nn.Linear):
            own = module.forward
            module.forward = lambda y, own=own: (calls.append(1), own(y))[1]
    with fused(model, cache):
        whole = model(x.requires_grad_())
        assert len(calls) == 3
        with cache.read():
            leaf = x[:, :3].detach().requires_grad_()
            short = model(leaf)
    assert len(calls) == 3
    assert torch.equal(short, whole[:, :3])
    own_leaf = x[:, :3].detach().requires_grad_()
    (own_gradient,) = torch.autograd.grad(model(own_leaf).sum(), own_leaf)
    assert relative(torch.autograd.grad(short.sum(), leaf)[0], own_gradient) < 1e-6


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "gemma2", "mixtral", "marian", "t5"])
def test_long_outputs_take_one_forward_and_short_graphs(name: str) -> None:
    made, _ = harness.adapter(name)
    sourced = zoo.ZOO[name].encoder_decoder
    target = zoo.random_ids(44, 3, vocab=zoo.ZOO[name].target_vocab)
    source = zoo.random_ids(9, 5) if sourced else None
    if sourced:
        target[0] = zoo.ZOO[name].start
    case = Case(zoo.build(name), source, target, 1 if sourced else 2)
    ample = Budget(tokens=10**6, logits=10**9, cotangents=4000, overhead=8)
    ((found, _),), engine = harness.run(made, [case], "saliency", budget=ample)
    x = made.example([] if source is None else source.tolist(), target.tolist(), case.first, case.positions)
    assert graph_size(x, 8) < len(x.steps)
    assert engine.counters.forwards == engine.counters.rows == 1
    assert engine.counters.vjps == len(x.steps)
    assert relative(found.scores, ref.saliency(case, ref.probability)) < 5 * TOLERANCE


def test_blocks_are_smaller_the_longer_the_output() -> None:
    made, _ = harness.adapter("gpt2")
    x = made.example([], zoo.random_ids(60, 0).tolist(), 2, range(2, 60))
    assert graph_size(x, 10**6) == WHOLE
    assert 2 <= graph_size(x, 8) <= 16


def test_out_of_memory_between_blocks_repeats_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was answered of a job stays; the rest is run again."""
    made, _ = harness.adapter("gpt2")
    prepare_graphs(made)
    own, refused = Graphs.beginning, []

    def beginning(graphs: Graphs, n: int) -> Any:
        if n < 30 and not refused:
            refused.append(n)
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        return own(graphs, n)

    monkeypatch.setattr(Graphs, "beginning", beginning)
    case = Case(zoo.build("gpt2"), None, zoo.random_ids(50, 3), 2)
    ample = Budget(tokens=10**6, logits=10**9, cotangents=4000, overhead=8)
    ((found, scores),), engine = harness.run(made, [case], "saliency", recorded=["probability"], budget=ample)
    assert refused
    assert engine.counters.forwards == 2
    assert engine.counters.vjps == len(case.positions)
    assert relative(found.scores, ref.saliency(case, ref.probability)) < 5 * TOLERANCE
    assert relative(scores["probability"], ref.step_scores(case, ref.probability)) < TOLERANCE


def test_out_of_memory_amid_a_block_repeats_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """What some products of a block gave stays; those before and after it are run."""
    made, _ = harness.adapter("gpt2")
    prepare_graphs(made)
    own, asked = GradientAnswer.add, []

    def add(answer: GradientAnswer, job: Job, part: Tensor) -> None:
        asked.append(job.sums)
        if len(asked) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        own(answer, job, part)

    monkeypatch.setattr(GradientAnswer, "add", add)
    case = Case(zoo.build("gpt2"), None, zoo.random_ids(50, 3), 2)
    ample = Budget(tokens=10**6, logits=10**9, cotangents=4000, overhead=8)
    ((found, _),), _ = harness.run(made, [case], "saliency", budget=ample)
    del asked[3]
    assert sorted(k for sums in asked for k in sums) == list(range(len(case.positions)))
    assert asked[2].stop < len(case.positions)
    assert relative(found.scores, ref.saliency(case, ref.probability)) < 5 * TOLERANCE
