"""The last layer runs at the predictions alone, where no gradient is wanted, and gives the same there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import harness
import pytest
import reference as ref
import reference_perturbation as slow
import torch
import zoo
from harness import relative
from reference import Case
from rows import ENTRIES, METHODS, TOLERANCE
from torch.utils.flop_counter import FlopCounterMode

from inseq.engine.scores.ending import WORTH, ending_at, is_worth, prepare_ending
from inseq.engine.scores.reuse import prepare_reuse
from inseq.models.inputs import Inputs

WHOLE = {"bloom", "falcon", "gpt_neo"}
"""Attentions that do not go through transformers' interface."""

N, N_READ = 10, 3


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take it for the tiny models of the tests too, where it is not worth while."""
    monkeypatch.setattr("inseq.engine.measures.is_worth", lambda inputs, _: inputs.at.shape[1] < inputs.decoder.shape[1])


def inputs(made: Any, rows: int = 2) -> Inputs:
    """Rows that are read at different positions."""
    drawn = torch.Generator().manual_seed(0)

    def side(name: str, n: int) -> torch.Tensor:
        return made.tables[name].embed(torch.randint(len(made.tables[name].weight), (rows, n), generator=drawn))

    source = side("source", N) if "source" in made.tables else None
    keep = None if source is None else torch.arange(N) < torch.tensor([[N], [N - 2]])[:rows]
    return Inputs(source, keep, side("decoder", N), torch.tensor([[2, 5, N - 1], [N - 2, 1, 0]])[:rows])


@pytest.mark.parametrize(("name", "attention"), ENTRIES)
def test_predictions_are_those_of_the_whole_layer(name: str, attention: str) -> None:
    """Also where as many tokens are in the source as in the output, and where rows go on from keys and values."""
    made, _ = harness.adapter(name, attention)
    assert prepare_ending(made) == (name not in WHOLE)
    if name in WHOLE:
        return
    batch, reuses = inputs(made), prepare_reuse(made, N)
    whole = made.read(batch, remember=True)
    with ending_at(made, batch.at):
        found = made.read(batch, remember=True)
    assert relative(found.logits, whole.logits) < TOLERANCE
    for a, b in zip(found.memory, whole.memory, strict=True):
        assert a.shape == b.shape
    if batch.source is None and reuses:
        known = tuple(t[:, :, :4] for t in found.memory)
        rest = replace(batch, decoder=batch.decoder[:, 4:], at=torch.tensor([[1], [5]]), memory=known)
        expected = made.read(replace(batch, at=torch.tensor([[5], [9]]))).logits
        with ending_at(made, rest.at):
            assert relative(made.read(rest).logits, expected) < 5 * TOLERANCE


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "gemma3", "phi3"])
def test_rows_of_as_many_tokens_as_there_are_heads(name: str) -> None:
    made, _ = harness.adapter(name)
    n, batch = made.axis_size("head"), inputs(made)
    batch = replace(batch, decoder=batch.decoder[:, :n], at=torch.tensor([[n - 1], [1]]))
    whole = made.read(batch).logits
    with ending_at(made, batch.at):
        assert relative(made.read(batch).logits, whole) < TOLERANCE


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("method", ["occlusion", "lime", "shapley_sampling"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "marian", "t5"])
def test_scores_are_those_of_the_definition(name: str, method: str) -> None:
    row = METHODS[method]
    made, _ = harness.adapter(name)
    made.facts.can_end_early = None
    cases = harness.cases(name)
    found, _ = harness.run(made, cases, method, **row.options)
    assert made.facts.can_end_early
    for case, (attribution, _) in zip(cases, found, strict=True):
        assert relative(attribution.scores, row.slow(case, ref.probability)) < 5 * TOLERANCE


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("removal", ["delete", "hide"])
@pytest.mark.parametrize(("name", "attention"), [("gpt2", "sdpa"), ("llama", "eager"), ("mistral", "sdpa")])
def test_with_tokens_deleted_or_hidden(name: str, attention: str, removal: str) -> None:
    case = Case(zoo.build(name, attention), None, zoo.random_ids(12, seed=5, vocab=zoo.ZOO[name].target_vocab), 9)
    made, _ = harness.adapter(name, attention)
    found, _ = harness.run(made, [case], "occlusion", "log_probability", removal=removal)
    assert relative(found[0][0].scores, slow.occlusion_without(case, ref.log_probability, removal)) < 5 * TOLERANCE


def test_what_follows_the_attention_is_multiplied_at_the_predictions_alone() -> None:
    made, _ = harness.adapter("gpt2", "eager")
    assert prepare_ending(made)
    batch, config = inputs(made), made.model.config
    counted = []
    for run in (made.read, lambda batch: _ended(made, batch)):
        with FlopCounterMode(display=False) as counter:
            run(batch)
        counted.append(counter.get_flop_counts()["Global"][torch.ops.aten.addmm])
    spared = len(batch.decoder) * (N - N_READ)
    assert counted[0] - counted[1] == 2 * spared * config.n_embd * (config.n_embd + 2 * (config.n_inner or 4 * config.n_embd))


def _ended(made: Any, batch: Inputs) -> None:
    with ending_at(made, batch.at):
        made.read(batch)


def test_it_is_taken_where_enough_is_spared() -> None:
    def of(rows: int, n: int, n_read: int) -> Inputs:
        return Inputs(None, None, torch.zeros(rows, n, 1), torch.zeros(rows, n_read, dtype=torch.long))

    assert is_worth(of(2, WORTH, 8), 0)
    assert not is_worth(of(1, WORTH, 8), 0)
    assert not is_worth(of(99, 8, 7), 0)
    assert not is_worth(of(2, WORTH, 8), 3 * WORTH)


@pytest.mark.usefixtures("always")
def test_whoever_watches_the_last_layer_sees_all_of_it() -> None:
    made, _ = harness.adapter("gpt2")
    assert prepare_ending(made)
    seen: list[int] = []
    last = made.model.transformer.h[-1].mlp
    handle = last.register_forward_hook(lambda _, __, output: seen.append(output.shape[1]))
    try:
        assert not prepare_ending(made)
        harness.run(made, harness.cases("gpt2")[:1], "lime", n_samples=4)
    finally:
        handle.remove()
    assert seen[-1] == harness.cases("gpt2")[0].positions[-1]
    assert prepare_ending(made)


def test_hooks_that_transformers_leaves_behind_do_not_count() -> None:
    made, _ = harness.adapter("gpt2")
    made.model(torch.tensor([[5, 6, 7]]), output_attentions=True, output_hidden_states=True)
    assert made.model.transformer.h[-1]._forward_hooks
    assert prepare_ending(made)
    batch = inputs(made)
    with ending_at(made, batch.at):
        found = made.read(batch).logits
    assert relative(found, made.read(batch).logits) < TOLERANCE


def test_an_attention_that_is_chosen_later_may_not_take_any_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = harness.adapter("gpt2")
    assert prepare_ending(made)
    monkeypatch.setattr(made.model.config, "_attn_implementation_internal", "flash_attention_2")
    assert not prepare_ending(made)


def test_a_layer_that_gives_something_else_is_run_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = harness.adapter("gpt2")
    monkeypatch.setattr(made.facts, "can_end_early", None)
    monkeypatch.setattr("inseq.engine.scores.ending._Cut.sees", lambda self: None)
    monkeypatch.setattr("inseq.engine.scores.ending._Cut.spread", lambda self, found: torch.zeros_like(self.stream))
    assert not prepare_ending(made)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_the_layer_is_as_before_when_it_fails(failure: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = harness.adapter("gpt2")
    last = made.model.transformer.h[-1]
    hooks = [dict(part._forward_hooks) for part in last.modules()]

    def fail(*_: Any) -> None:
        raise failure("as asked")

    monkeypatch.setattr("inseq.engine.scores.ending._Cut.spread", fail)
    batch = inputs(made)
    with pytest.raises(failure, match="as asked"), ending_at(made, batch.at):
        made.read(batch)
    assert [dict(part._forward_hooks) for part in last.modules()] == hooks
    assert not any("forward" in vars(part) for part in last.modules())
    assert made.model.config._attn_implementation == "eager"
