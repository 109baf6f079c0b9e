"""What looking inside costs: which layers are run, at which positions, and where a forward ends."""

from __future__ import annotations

import copy
from typing import Any

import harness
import pytest
import torch
import zoo
from harness import relative

from inseq.engine.inside import zeroing as replay
from inseq.engine.inside.shortcut import Shortcut
from inseq.models.adapter import DecoderOnly
from inseq.models.check import check
from inseq.text.encode import Encoder


@pytest.mark.parametrize("name", ["gpt2", "llama", "marian"])
def test_positions_of_single_layers_are_a_formula_of_the_lengths(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each layer, step and token that the step has read; and a few to find out how a layer can be run again.

    These are all the steps with none zeroed, once as the layer runs and once by the shortcut, and two tokens at (up to) four
    steps, both ways.
    """
    monkeypatch.setattr(replay, "SLACK", 0)
    monkeypatch.setattr(replay, "SHARE", 10**6)
    made, _ = harness.adapter(name)
    case = harness.cases(name)[0]
    n, first, steps = case.n_source, case.positions[0], len(case.positions)

    def asked(pairs: int, queries: int, together: int) -> int:
        return pairs + 2 * queries + 2 * min(2, together) * min(4, queries)

    own = asked(sum(case.positions), steps, first)
    cross, encoder = (asked(n * steps, steps, n), asked(n * n, n, n)) if n else (0, 0)
    for options, layers, encoders in (({}, 2, 2), ({"layers": 0}, 1, 0), ({"granular": False}, 2, 0)):
        _, engine = harness.run(made, [case], "value_zeroing", **options)
        assert engine.counters.replays == layers * (own + cross) + encoders * encoder
        assert (engine.counters.forwards, engine.counters.rows, engine.counters.vjps) == (1, 1, 0)


def test_groups_of_tokens_stay_within_their_size_and_pad_little() -> None:
    """Here every token reaches what comes after it, and a text of two tokens shares the last group."""
    causal = torch.ones(40, 30, dtype=torch.bool).tril(-1).flip(0).flip(1)
    for size in (1, 50, 400):
        groups = list(replay._groups([causal, causal[-2:, -1:]], size))
        assert [(s.part, t) for g in groups for s in g for t in s.tokens] == [
            *((0, t) for t in range(40) if causal[t].any()),
            *((1, t) for t in range(2) if causal[-2 + t, -1]),
        ]
        for group in groups:
            n, width = sum(len(span.tokens) for span in group), max(span.width for span in group)
            real = sum(int(causal[t].sum()) if span.part == 0 else 1 for span in group for t in span.tokens)
            assert n == 1 or n * width <= size
            assert n * width - real <= max(replay.SLACK, n * width // 16)
            for span in (span for span in group if span.part == 0):
                assert all(causal[t, span.start : span.stop].sum() == causal[t].sum() for t in span.tokens)


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_what_comes_after_the_last_attention_is_not_run(name: str) -> None:
    made, _ = harness.adapter(name)
    case = harness.cases(name)[0]
    last = [m for path, m in made.model.named_modules() if path.endswith(("mlp", "DenseReluDense"))][-2:]
    ((whole, _),), _ = harness.run(made, [case], "attention", recorded=("logit",))  # what is asked of the model is asked now
    calls: list[int] = []
    handles = [part.register_forward_hook(lambda *_, k=k: calls.append(k)) for k, part in enumerate(last)]
    for options, recorded, expected in (({}, (), [0]), ({"layers": 0}, (), []), ({"layers": 0}, ("logit",), [0, 1])):
        calls.clear()
        ((found, _),), _ = harness.run(made, [case], "attention", recorded=recorded, **options)
        assert calls == expected
        assert torch.equal(found.scores, whole.scores[..., : found.scores.shape[2], :])
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "marian", "t5"])
def test_shortcuts_give_what_the_layers_give(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = harness.adapter(name)
    case = harness.cases(name)[1]
    taken = _taken(monkeypatch)
    ((short, _),), _ = harness.run(made, [case], "value_zeroing")
    assert taken
    monkeypatch.setattr(replay, "shortcuts", lambda *_: iter(()))
    ((plain, _),), _ = harness.run(made, [case], "value_zeroing")
    assert relative(short.scores, plain.scores) < 2e-5


def test_a_shortcut_that_would_give_something_else_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a hook makes one attention's output another than its projection's."""
    model = copy.deepcopy(zoo.build("gpt2"))
    model.transformer.h[1].attn.register_forward_hook(lambda _, __, output: (output[0] * output[0].abs(), *output[1:]))
    made = DecoderOnly(model, Encoder(zoo.tokenizer("words")))
    check(made)
    case = harness.Case(model, None, harness.cases("gpt2")[0].target, 4)
    taken = _taken(monkeypatch)
    ((short, _),), _ = harness.run(made, [case], "value_zeroing")
    assert {shortcut.layer.index for shortcut in taken} == {0}
    monkeypatch.setattr(replay, "shortcuts", lambda *_: iter(()))
    ((plain, _),), _ = harness.run(made, [case], "value_zeroing")
    assert relative(short.scores, plain.scores) < 2e-5


def _taken(monkeypatch: pytest.MonkeyPatch) -> list[Shortcut]:
    """The shortcuts that the engine takes."""
    found: list[Shortcut] = []
    choose = replay.Replays._shortcut

    def noting(self: Any, visit: Any) -> Any:
        run = choose(self, visit)
        if run is not None:
            found.append(run.__self__)
        return run

    monkeypatch.setattr(replay.Replays, "_shortcut", noting)
    return found
