"""Methods that look inside: choices of layers and heads, rows that sum to 1, layers replayed, pieces that sum."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import harness
import pytest
import reference as ref
import reference_internals as inside
import torch
import zoo
from harness import relative
from reference import Case
from test_guest import unchanged

import inseq
from inseq.engine.inside.choices import chosen
from inseq.engine.scheduler import Engine
from inseq.errors import ArgumentError, UnsupportedModelError
from inseq.methods import method as methods
from inseq.models.adapter import DecoderOnly
from inseq.models.check import check
from inseq.text.encode import Encoder

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


def test_attention_equals_eager_where_queries_and_keys_are_normed() -> None:
    """Defect D6 of a peer: recomputed attention of Qwen3 without its query and key norms, half of a weight off."""
    case = harness.cases("qwen3")[0]
    made, _ = harness.adapter("qwen3", "sdpa")
    ((found, _),), _ = harness.run(made, [case], "attention")
    expected = ref.attention(case)
    assert relative(found.scores, expected) < TOLERANCE
    plain = copy.deepcopy(case.model)
    for layer in plain.model.layers:
        layer.self_attn.q_norm = layer.self_attn.k_norm = torch.nn.Identity()
    assert relative(ref.attention(Case(plain, None, case.target, case.first)), expected) > 0.1


def adapted(model: Any) -> DecoderOnly:
    made = DecoderOnly(model, Encoder(zoo.tokenizer("words")))
    check(made)
    return made


def mixing_rows(case: Case, index: int, groups: list[int] | None = None, metric: str = "cosine") -> torch.Tensor:
    """[feature, step] of one decoder-only layer, slowly."""
    at = [t - 1 for t in case.positions]
    return inside.context_mixing(case, len(case.target) - 1, index, "decoder", metric, groups)[at].T


def test_values_are_zeroed_for_the_chosen_heads() -> None:
    case = harness.cases("gpt2")[0]
    found = only("gpt2", "value_zeroing", heads=[1, -1]).scores
    mapped = only("gpt2", "value_zeroing", heads={1: (0, 2)}).scores
    for layer in (0, 1):
        assert relative(found[..., layer], mixing_rows(case, layer, [1, 3])) < 5 * TOLERANCE
    assert relative(mapped[..., 0], mixing_rows(case, 0)) < 5 * TOLERANCE
    assert relative(mapped[..., 1], mixing_rows(case, 1, [0, 1])) < 5 * TOLERANCE
    with pytest.raises(ArgumentError, match=r"heads=4: 4 is out of range, the 4 heads 0 to 3"):
        only("gpt2", "value_zeroing", heads={0: 4})
    with pytest.raises(ArgumentError, match=r"layers=\[7\]: 7 is out of range, the 2 layers 0 to 1"):
        only("gpt2", "value_zeroing", heads={7: [0]})


def test_grouped_heads_are_zeroed_one_query_head_at_a_time() -> None:
    """Against a twin whose value heads are repeated, so that each query head has one of its own."""
    case = harness.cases("llama")[0]
    config = copy.deepcopy(case.model.config)
    config.num_key_value_heads = config.num_attention_heads
    twin = type(case.model)(config).eval()
    weights = case.model.state_dict()
    for name in [n for n in weights if n.endswith(("k_proj.weight", "v_proj.weight"))]:
        weights[name] = weights[name].view(2, -1, weights[name].shape[1]).repeat_interleave(2, 0).flatten(0, 1)
    twin.load_state_dict(weights)
    apart = Case(twin, None, case.target, case.first)
    for head in range(4):
        found = only("llama", "value_zeroing", heads=head).scores
        for layer in (0, 1):
            assert relative(found[..., layer], mixing_rows(apart, layer, [head])) < 10 * TOLERANCE


def test_layers_metric_and_the_encoder_s_own_scores() -> None:
    case = harness.cases("t5")[0]
    whole = only("t5", "value_zeroing")
    assert torch.equal(only("t5", "value_zeroing", layers=-1).scores, whole.scores[..., 1:])
    own = torch.stack([inside.context_mixing(case, case.first, i, "encoder").T for i in (0, 1)], -1)
    assert relative(whole.sequence_scores["encoder_self_scores"], own) < 5 * TOLERANCE
    assert not only("t5", "value_zeroing", layers=-1).sequence_scores
    assert not only("t5", "value_zeroing", granular=False).sequence_scores
    far = only("t5", "value_zeroing", metric="euclidean").scores
    assert relative(far, inside.value_zeroing(case, "euclidean")) < 5 * TOLERANCE
    with pytest.raises(ArgumentError, match="metric='dot' is not one of 'cosine', 'euclidean'"):
        only("t5", "value_zeroing", metric="dot")


@pytest.mark.parametrize("name", ["marian", "gpt2", "t5"])
def test_one_pass_equals_each_step_from_its_own_prefix(name: str) -> None:
    case = harness.cases(name)[2]
    assert relative(inside.value_zeroing(case), inside.value_zeroing(case, by_step=True)) < 5 * TOLERANCE


@pytest.mark.parametrize(("name", "sliding"), [("mistral", (0, 1)), ("gemma3", (0,)), ("gemma2", (0,))])
def test_a_token_outside_the_window_changes_exactly_nothing(name: str, sliding: tuple[int, ...]) -> None:
    made, _ = harness.adapter(name)
    case = harness.cases(name)[1]
    ((found, _),), _ = harness.run(made, [case], "value_zeroing")
    for step, t in enumerate(case.positions):
        outside = max(0, t - zoo.WINDOW)
        assert outside > 0
        assert not found.scores[:outside, step, list(sliding)].any()
        assert (found.scores[outside:t, step, list(sliding)] > 0).all()


def test_a_head_that_nothing_reads_moves_nothing() -> None:
    model = copy.deepcopy(zoo.build("llama"))
    width = model.config.hidden_size // model.config.num_attention_heads
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data[:, :width] = 0
    case = Case(model, None, harness.cases("llama")[0].target, 4)
    ((found, _),), _ = harness.run(adapted(model), [case], "value_zeroing", heads=0)
    assert not found.scores.any()
    assert not found.scores.isnan().any()


@pytest.mark.parametrize("method", ["value_zeroing", "alti", "alti_logit"])
@pytest.mark.parametrize("name", ["llama", "m2m100", "t5"])
def test_sdpa_models_give_what_eager_models_give(name: str, method: str) -> None:
    found = [harness.run(harness.adapter(name, kind)[0], harness.cases(name, kind), method)[0] for kind in zoo.BOTH]
    for (eager, _), (sdpa, _) in zip(*found, strict=True):
        assert relative(sdpa.scores, eager.scores) < 5 * TOLERANCE


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_a_model_is_as_it_was_after_a_failure_amid_a_replay(name: str, error: BaseException) -> None:
    model, tokenizer = copy.deepcopy(zoo.build(name, "sdpa")), copy.deepcopy(zoo.tokenizer("words"))
    loaded = inseq.load_model(model, "value_zeroing", tokenizer=tokenizer)
    part = next(m for path, m in reversed(list(model.named_modules())) if path.endswith(("mlp", "DenseReluDense")))
    seen: list[int] = []

    def fail(_: Any, args: Any, output: torch.Tensor) -> None:
        seen.append(len(output))
        if len(output) > 1:
            raise error

    handle = part.register_forward_hook(fail)
    with unchanged(model, tokenizer), pytest.raises(type(error)):
        loaded.attribute("w1 w2", generation_args={"max_new_tokens": 3, "min_new_tokens": 3}, show_progress=False)
    assert max(seen) > 1
    handle.remove()


@pytest.mark.parametrize("name", ["bart", "t5", "pegasus"])
def test_source_and_target_of_one_length_are_not_confused(name: str) -> None:
    """A layer is run at the steps' positions alone, of its own vectors and not of the encoder's."""
    made, _ = harness.adapter(name)
    plain = harness.cases(name)[0]
    case = Case(plain.model, plain.source, plain.target[: plain.n_source + 1], 5)
    ((found, _),), _ = harness.run(made, [case], "value_zeroing", granular=False)
    assert relative(found.scores, inside.value_zeroing(case).mean(-1)) < 5 * TOLERANCE


def test_a_layer_that_needs_all_positions_is_given_them() -> None:
    """Here the feed-forward layer counts the positions; the check of the shorter run finds out."""
    model = copy.deepcopy(zoo.build("llama"))

    def count(_: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output + torch.arange(output.shape[1])[:, None]

    for layer in model.model.layers:
        layer.mlp.register_forward_hook(count)
    case = Case(model, None, harness.cases("llama")[0].target, 4)
    ((found, _),), engine = harness.run(adapted(model), [case], "value_zeroing")
    assert relative(found.scores, inside.value_zeroing(case)) < 5 * TOLERANCE
    n = case.n_features
    assert engine.counters.replays == 2 * (len(case.positions) + n + n * n)


def test_a_layer_that_keeps_a_state_is_refused() -> None:
    model = copy.deepcopy(zoo.build("gpt2"))
    made = adapted(model)
    calls: list[int] = []

    def grow(_: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return output * len(calls)

    model.transformer.h[1].mlp.register_forward_hook(grow)
    with pytest.raises(UnsupportedModelError, match=r"Layer 1 of GPT2LMHeadModel's decoder gives something else when it is"):
        harness.run(made, harness.cases("gpt2"), "value_zeroing")


def test_the_facade_refuses_before_anything_runs() -> None:
    model = inseq.load_model(zoo.build("bloom"), tokenizer=zoo.tokenizer("words"))
    with pytest.raises(UnsupportedModelError, match=r"'value_zeroing' cannot reach its value vectors. Use 'attention'"):
        model.attribute("w1 w2", method="value_zeroing", show_progress=False)


def test_the_facade_takes_choices_and_files_keep_them(tmp_path: Path) -> None:
    model = inseq.load_model(zoo.build("t5"), "value_zeroing", tokenizer=zoo.tokenizer("words_eos"))
    arguments = {"generation_args": {"max_new_tokens": 3}, "show_progress": False, "attribute_target": True}
    whole = model.attribute("w1 w2", **arguments)
    assert whole[0].sequence_scores["encoder_self_scores"].shape == (3, 3, 2)
    assert whole[0].aggregate().source_attributions.ndim == 2
    for method, options in (
        ("value_zeroing", {"heads": {1: (0, 2)}, "layers": [1]}),
        ("attention", {"layers": (0, 1), "heads": -1}),
    ):
        found = model.attribute("w1 w2", method=method, **options, **arguments)
        assert found[0].source_attributions.shape[2:] == (1, 1)[: found[0].source_attributions.ndim - 2]
        found.save(tmp_path / f"{method}.json")
        again = inseq.FeatureAttributionOutput.load(tmp_path / f"{method}.json")
        assert torch.equal(again[0].source_attributions.nan_to_num(), found[0].source_attributions.nan_to_num())
        assert set(again.info["options"]) == set(found.info["options"])
    with pytest.raises(ArgumentError, match="layers=9: 9 is out of range, the 2 layers 0 to 1"):
        model.attribute("w1 w2", layers=9, **arguments)


INSIDE = ("attention", "attention_rollout", "value_zeroing", "alti", "alti_logit")


@pytest.mark.parametrize("method", INSIDE)
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_some_of_the_steps_have_the_scores_they_have_among_all(name: str, method: str) -> None:
    made, _ = harness.adapter(name)
    case = harness.cases(name)[1]
    source = [] if case.source is None else case.source.tolist()
    chosen = list(case.positions)[::-2][::-1][:-1]
    whole, some = (
        only_scores(made, made.example(source, case.target.tolist(), case.first, steps, attribute_target=True), method)
        for steps in (case.positions, chosen)
    )
    expected = whole[:, [t - case.first for t in chosen]]
    assert relative(some, expected[: len(some)]) < TOLERANCE
    assert not expected[len(some) :].any()


def only_scores(made: Any, x: Any, method: str) -> torch.Tensor:
    ((found, _),) = Engine(made).run([(x, methods[method].function(x))], harness.function("logit"))
    return found.scores


def test_methods_that_look_inside_share_a_forward() -> None:
    """Weights alone and weights with pieces, asked for at once, come from one batch."""
    made, _ = harness.adapter("t5")
    case = harness.cases("t5")[0]
    x = made.example(case.source.tolist(), case.target.tolist(), case.first, case.positions, attribute_target=True)
    engine = Engine(made)
    found = engine.run([(x, methods[m].function(x)) for m in ("attention", "alti")], harness.function("logit"))
    assert engine.counters.forwards == 1
    for (attribution, _), method in zip(found, ("attention", "alti"), strict=True):
        assert relative(attribution.scores, only("t5", method).scores) < TOLERANCE


def test_out_of_memory_amid_a_replay_halves_and_goes_on() -> None:
    model = copy.deepcopy(zoo.build("llama"))
    refused: list[int] = []

    def full(_: Any, args: Any, output: torch.Tensor) -> None:
        if len(output) > 5:
            refused.append(len(output))
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")

    model.model.layers[1].mlp.register_forward_hook(full)
    case = Case(model, None, harness.cases("llama")[0].target, 4)
    ((found, _),), engine = harness.run(adapted(model), [case], "value_zeroing", recorded=["entropy"])
    assert refused
    assert engine.budget.tokens <= 5 * len(case.positions)
    assert relative(found.scores, only("llama", "value_zeroing").scores) < TOLERANCE
