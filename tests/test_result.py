"""Aggregation numbers by hand, and what every output promises."""

from __future__ import annotations

import json
import math

import pytest
import torch
from results import NAN, continuation, translation

from inseq.errors import ArgumentError, UnknownArgumentError, UnknownNameError
from inseq.outputs.output import FeatureAttributionOutput, merge_attributions
from inseq.outputs.sequence import FeatureAttributionSequenceOutput
from inseq.results.labelled import Labelled, aggregation_functions

GRADIENT = {"axes": ("dim",), "reduce_by": ("vnorm",), "normalize": True, "signed": True}
ATTENTION = {"axes": ("layer", "head"), "reduce_by": ("mean", "mean"), "normalize": True}


def gradient() -> FeatureAttributionSequenceOutput:
    """Norms 5, 0 | 3, 4 | 2, 4."""
    scores = [[[3.0, -4.0], [0.0, 0.0]], [[0.0, 3.0], [-4.0, 0.0]], [[2.0, 0.0], [0.0, -4.0]]]
    return translation(scores, **GRADIENT, step_scores={"probability": torch.tensor([0.5, 0.25])})


def attention() -> FeatureAttributionSequenceOutput:
    torch.manual_seed(0)
    return translation(torch.rand(3, 2, 2, 4), **ATTENTION)


def close(found: torch.Tensor | None, expected: object) -> bool:
    return found is not None and torch.allclose(found, torch.as_tensor(expected), atol=1e-6, equal_nan=True)


# ----------------------------------------------------------------------------- named axes


@pytest.mark.parametrize(
    ("name", "expected"),
    [("mean", 0.0), ("max", 3.0), ("min", -4.0), ("sum", 0.0), ("prod", -12.0), ("absmax", -4.0), ("vnorm", 26**0.5)],
)
def test_each_function_by_hand(name: str, expected: float) -> None:
    function = aggregation_functions[name].function
    values = torch.tensor([[3.0, -4.0, 1.0]])
    assert close(function(values, 1), [expected])
    readable = torch.tensor([[3.0, NAN, -4.0, 1.0], [NAN] * 4])
    assert close(function(readable, 1), [expected, NAN])


@pytest.mark.parametrize("name", sorted(aggregation_functions))
def test_a_broken_number_stays_visible_in_a_reduced_axis(name: str) -> None:
    values = Labelled(torch.tensor([[1.0, NAN], [1.0, 2.0]]), ("feature", "dim"))
    assert values.reduce("dim", aggregation_functions[name].function).values.isnan().tolist() == [True, False]


def test_select_drops_or_keeps_the_axis() -> None:
    values = Labelled(torch.arange(6.0).reshape(2, 3), ("feature", "head"))
    assert values.select("head", -1).axes == ("feature",)
    assert close(values.select("head", -1).values, [2.0, 5.0])
    assert close(values.select("head", [2, 0]).values, [[2.0, 0.0], [5.0, 3.0]])


@pytest.mark.parametrize("indices", [3, -4, [], [0, 0], [1, -2], [0, 5]])
def test_select_refuses(indices: int | list[int]) -> None:
    with pytest.raises(ArgumentError, match="head"):
        Labelled(torch.zeros(2, 3), ("feature", "head")).select("head", indices)


def test_merge_folds_spans_and_keeps_the_rest() -> None:
    values = Labelled(torch.tensor([1.0, 2.0, NAN, 4.0, NAN, NAN]), ("feature",))
    merged = values.merge("feature", [(1, 4), (4, 6)], aggregation_functions["sum"].function)
    assert close(merged.values, [1.0, 6.0, NAN])


@pytest.mark.parametrize("spans", [[(2, 2)], [(1, 3), (2, 4)], [(3, 4), (0, 1)], [(0, 7)], [(-1, 2)]])
def test_merge_refuses(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(ArgumentError, match="spans"):
        Labelled(torch.zeros(6), ("feature",)).merge("feature", spans, aggregation_functions["sum"].function)


def test_axes_must_fit() -> None:
    for axes in [("feature",), ("feature", "feature")]:
        with pytest.raises(ArgumentError, match="axes"):
            Labelled(torch.zeros(2, 2), axes)
    with pytest.raises(ArgumentError, match="'layer'"):
        Labelled(torch.zeros(2), ("feature",)).dim("layer")


# ----------------------------------------------------------------------------- aggregation


def test_gradient_norms_by_hand() -> None:
    out = gradient().aggregate()
    assert close(out.source_attributions, [[0.5, 0.0], [0.3, 0.5], [0.2, 0.5]])
    assert (out.axes, out.signed) == ((), False)
    assert close(out.step_scores["probability"], [0.5, 0.25])
    raw = gradient().aggregate(normalize=False)
    assert close(raw.source_attributions, [[5.0, 0.0], [3.0, 4.0], [2.0, 4.0]])
    assert close(gradient().aggregate(rescale=True).source_attributions, [[1.0, 0.0], [0.6, 0.8], [0.4, 0.8]])
    assert gradient().aggregate(rescale=True) == gradient().aggregate(rescale=True, normalize=False)


def test_sums_keep_their_sign_and_are_normalised_by_magnitude() -> None:
    out = gradient().aggregate("sum")
    assert close(out.source_attributions, [[-1 / 6, 0.0], [0.5, -0.5], [1 / 3, -0.5]])
    assert out.signed


def test_normalised_over_source_and_target_rows_together() -> None:
    out = translation(
        [[1.0, 3.0], [1.0, 1.0], [0.0, 0.0]],
        target_attributions=torch.tensor([[2.0, 2.0], [NAN, -2.0], [NAN, NAN]]),
        normalize=True,
        signed=True,
    ).aggregate()
    assert close(out.source_attributions, [[0.25, 0.375], [0.25, 0.125], [0.0, 0.0]])
    assert close(out.target_attributions, [[0.5, 0.25], [NAN, -0.25], [NAN, NAN]])


def test_a_column_of_zeros_stays_zero() -> None:
    out = translation([[0.0, 1.0], [0.0, 1.0], [0.0, 2.0]], normalize=True).aggregate()
    assert close(out.source_attributions, [[0.0, 0.25], [0.0, 0.25], [0.0, 0.5]])


def test_attention_is_folded_from_the_last_axis_and_normalised_after_each() -> None:
    raw = attention().source_attributions
    assert raw is not None
    heads = raw.mean(-1)
    layers = (heads / heads.sum(0)).mean(-1)
    assert close(attention().aggregate().source_attributions, layers / layers.sum(0))
    plain = attention().aggregate(normalize=False)
    assert close(plain.source_attributions, raw.mean((-1, -2)))


def test_selection_of_heads() -> None:
    raw = attention().source_attributions
    assert raw is not None
    out = attention()
    assert close(out.aggregate(select_idx=1, normalize=False).source_attributions, raw[..., 1].mean(-1))
    assert close(out.aggregate(select_idx=(1, 3), normalize=False).source_attributions, raw[..., 1:3].mean((-1, -2)))
    assert close(
        out.aggregate("max", select_idx=[0, 3], normalize=False).source_attributions,
        raw[..., [0, 3]].amax((-1, -2)),
    )
    assert out.aggregate(select_idx=1).reduced[:2] == ("head 1", "mean over layer")


def test_lists_and_parts() -> None:
    raw = attention().source_attributions
    assert raw is not None
    out = attention().aggregate(["max", "min"], normalize=False)
    assert close(out.source_attributions, raw.amax(-1).amin(-1))
    partly = attention().aggregate(["scores"])
    assert partly.axes == ("layer",)
    assert partly.aggregate() == attention().aggregate()
    assert attention().aggregate([]) == attention()
    assert close(attention().aggregate([], select_idx=1).source_attributions, attention().source_attributions[..., 1])
    assert attention().aggregate("scores", ["max", "min"], normalize=False) == out
    own = attention().aggregate(lambda values, dim: values.amax(dim), normalize=False)
    assert close(own.source_attributions, raw.amax((-1, -2)))


def test_sequence_scores_are_folded_along() -> None:
    out = attention()
    out.sequence_scores = {"encoder_self_attentions": torch.ones(3, 3, 2, 4)}
    assert close(out.aggregate().sequence_scores["encoder_self_attentions"], torch.ones(3, 3))


@pytest.mark.parametrize("options", [{}, {"normalize": False}, {"rescale": True}, {"aggregator": "absmax"}])
def test_a_second_aggregation_changes_nothing(options: dict[str, object]) -> None:
    for out in (gradient(), attention(), continuation(normalize=True)):
        once = out.aggregate(**options)
        assert once.aggregate() == once
        assert once.aggregate().aggregate().reduced == once.reduced


def test_the_input_is_left_alone() -> None:
    out, twin = gradient(), gradient()
    folded = out.aggregate()
    folded.target[1].token = "changed"
    folded.step_scores["more"] = torch.zeros(2)
    assert out == twin


def test_future_rows_stay_missing() -> None:
    out = continuation(normalize=True).aggregate()
    assert close(out.target_attributions, [[0.5, 0.1], [0.5, 0.2], [NAN, 0.7], [NAN, NAN]])


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda out: out.aggregate(normalise=True), UnknownArgumentError, "'normalize'"),
        (lambda out: out.show(select=1), UnknownArgumentError, "'select_idx'"),
        (lambda out: out.show(titel="x"), UnknownArgumentError, "'title'"),
        (lambda out: out.get_scores_dicts(rescal=True), UnknownArgumentError, "'rescale'"),
        (lambda out: out.aggregate("maen"), UnknownNameError, "'mean'"),
        (lambda out: out.aggregate(["mean"] * 3), ArgumentError, "last axis first"),
        (lambda out: out.aggregate("mean", "max"), ArgumentError, "aggregate_fn"),
        (lambda out: out.aggregate(select_idx=9), ArgumentError, "out of range"),
        (lambda out: out.aggregate().aggregate(select_idx=0), ArgumentError, "no axis left"),
        (lambda out: out.show(do_aggregation=False, display=False, return_html=True), ArgumentError, "layer, head"),
        (lambda out: out.get_scores_dicts(do_aggregation=False), ArgumentError, "aggregate"),
    ],
)
def test_errors_name_the_remedy(call: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(attention())  # type: ignore[operator]
    with pytest.raises(error, match=text):
        call(attention().aggregate([]))  # type: ignore[operator]


# ----------------------------------------------------------------------------- outputs


@pytest.mark.parametrize(
    "changes",
    [
        {"scores": [[1.0, 2.0]]},
        {"scores": [[1.0]] * 3},
        {"axes": ("dim",)},
        {"step_scores": {"p": torch.zeros(3)}},
        {"diagnostics": {"delta": torch.zeros(1)}},
        {"target_attributions": torch.zeros(2, 2)},
        {"sequence_scores": {"encoder_self_attentions": torch.zeros(3, 3, 1)}},
    ],
)
def test_tensors_must_fit_the_tokens(changes: dict[str, object]) -> None:
    with pytest.raises(ArgumentError, match="shape"):
        translation(**changes)  # type: ignore[arg-type]


def test_generated_are_the_tokens_of_the_target() -> None:
    out = continuation()
    out.generated[0].token = "was"
    assert out.target[2].token == "was"
    assert "4 target tokens" in repr(out)


def test_scores_by_token() -> None:
    found = continuation(step_scores={"probability": torch.tensor([0.5, 0.25])}).get_scores_dicts()
    assert found["source_attributions"] == {}
    assert list(found["target_attributions"]) == [(2, "▁is"), (3, "▁blue")]
    assert list(found["target_attributions"][2, "▁is"]) == [(0, "The"), (1, "▁sky")]
    assert found["target_attributions"][3, "▁blue"][2, "▁is"] == pytest.approx(0.7)
    assert found["step_scores"][3, "▁blue"] == {"probability": 0.25}
    assert not any(math.isnan(v) for column in found["target_attributions"].values() for v in column.values())


def test_plain_values_are_json() -> None:
    plain = json.loads(json.dumps(continuation(info={"dtype": torch.float32}).to_dict(), allow_nan=False))
    assert plain["target_attributions"][3] == [None, None]
    assert plain["target"][3]["text"] == " blue"
    assert plain["info"]["dtype"] == "torch.float32"


def test_equality_is_of_what_was_found() -> None:
    a, b = translation(info={"exec_time": 1.0}), translation(info={"exec_time": 2.0})
    assert a == b
    assert a != translation([[0.6, 0.0], [0.3, 0.8], [0.1, 0.3]])
    assert a != translation(signed=True)
    b.source[0].token = "I"
    assert a != b
    assert a != "an output"


def container(**info: object) -> FeatureAttributionOutput:
    facts = {"attribution_method": "saliency", "model_name": "m", "exec_time": 1.0, "input_texts": ["我喜欢"]}
    return FeatureAttributionOutput([translation(normalize=True)], info={**facts, **info})


def test_a_container_is_a_sequence_of_outputs() -> None:
    out = container()
    assert (len(out), next(iter(out)), out[0]) == (1, translation(normalize=True), translation(normalize=True))
    assert out.aggregate()[0] == translation(normalize=True).aggregate()
    assert out.get_scores_dicts(rescale=True) == [translation().get_scores_dicts(rescale=True)]


def test_merging() -> None:
    both = container() + container(exec_time=2.0, seed=1)
    assert len(both) == 2
    assert both.info["exec_time"] == 3.0
    assert both.info["input_texts"] == ["我喜欢", "我喜欢"]
    assert "seed" not in both.info
    with pytest.raises(ArgumentError, match="attribution_method"):
        merge_attributions([container(), container(attribution_method="attention")])
    with pytest.raises(ArgumentError, match="empty"):
        merge_attributions([])
