"""Spans of generated tokens, explained at once: scores of the summed target, from one product each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import harness
import pytest
import reference as ref
import torch
import zoo
from harness import relative
from reference import Case
from rows import METHODS, TINY, TOLERANCE, unknown
from test_engine import Bidirectional
from torch import Tensor

import inseq
from inseq import FeatureAttributionOutput
from inseq.engine.scheduler import Engine
from inseq.errors import ArgumentError, FileFormatError, UnsupportedModelError
from inseq.methods import gradient, reagent, surrogate
from inseq.methods import method as methods
from inseq.models.adapter import DecoderOnly
from inseq.models.check import check
from inseq.text.encode import Encoder

QUIET: dict[str, Any] = {"show_progress": False}
NOT_LINEAR = {
    "saliency": "the magnitude comes after the sum",
    "smooth_grad": "so does the square",
    "lime": "a fit sees what stands before the span's last token",
    "kernel_shap": "so does this one",
}
SUMMED = [m for m in METHODS if methods[m].facts["uses_target"] and methods[m].facts["needs"] is None and m not in NOT_LINEAR]


def spans_of(case: Case) -> list[tuple[int, int]]:
    """Spans of several tokens that overlap, or a single one."""
    a, b = case.first, len(case.target)
    return [(a, min(a + 3, b)), (a + 1, b)] if b - a > 2 else [(a, b)]


def summed(case: Case, columns: Tensor) -> Tensor:
    """Columns of tokens, added up to those of spans."""
    a = case.first
    return torch.stack([columns[:, start - a : end - a].sum(1) for start, end in spans_of(case)], 1)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_saliency_is_the_gradient_of_the_sum(name: str) -> None:
    made, _ = harness.adapter(name)
    chosen = harness.cases(name)
    found, engine = harness.run(made, chosen, "saliency", spans=[spans_of(case) for case in chosen])
    cut, _ = harness.run(made, chosen, "saliency", spans=[spans_of(case) for case in chosen], budget=TINY)
    for case, (attribution, _), (other, _) in zip(chosen, found, cut, strict=True):
        expected = summed(case, ref.gradients(case, ref.probability)).abs()
        assert relative(attribution.scores, expected) < 5 * TOLERANCE
        assert relative(other.scores, expected) < 5 * TOLERANCE
    assert engine.counters.vjps == 2


@pytest.mark.parametrize("name", ["gpt2", "marian"])
@pytest.mark.parametrize("method", SUMMED)
def test_scores_of_a_sum_are_sums_of_scores(name: str, method: str) -> None:
    made, _ = harness.adapter(name, dtype=torch.float64)
    chosen = harness.cases(name, dtype=torch.float64)
    options = METHODS[method].options
    alone, _ = harness.run(made, chosen, method, **options)
    found, _ = harness.run(made, chosen, method, spans=[spans_of(case) for case in chosen], **options)
    for case, (attribution, _), (tokens, _) in zip(chosen, found, alone, strict=True):
        assert relative(attribution.scores, summed(case, tokens.scores)) < 1e-9


@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_every_method_explains_a_span_of_one_token_as_the_token(name: str) -> None:
    made, _ = harness.adapter(name)
    chosen = harness.cases(name)
    spans = [[(t, t + 1) for t in case.positions] for case in chosen]
    for method, row in METHODS.items():
        if methods[method].facts["needs"] is None:
            alone, _ = harness.run(made, chosen, method, **row.options)
            found, _ = harness.run(made, chosen, method, spans=spans, **row.options)
            for (attribution, _), (tokens, _) in zip(found, alone, strict=True):
                assert relative(attribution.scores, tokens.scores) < TOLERANCE, method


def test_lime_fits_the_summed_target() -> None:
    made, _ = harness.adapter("gpt2")
    case = harness.cases("gpt2")[0]
    span = (case.first, len(case.target))
    ((found, _),), _ = harness.run(made, [case], "lime", "logit", n_samples=12, seed=3, spans=[[span]])
    x, replacement = ref.embeddings(case), unknown(case)
    kept = surrogate.draw_kept(12, case.n_features, seed=3) | (replacement == x).all(1)
    values = [[ref.value(case, x, replacement, row, t, ref.logit) for t in range(*span)] for row in kept]
    y = torch.tensor(values, dtype=torch.float64).sum(1)
    distance = 1 - (kept.double().mean(1)).sqrt()
    weights, _ = surrogate.weighted_ridge(kept.double(), y, (-((distance / 0.25) ** 2)).exp(), 1.0)
    assert relative(found.scores[:, 0], weights) < 5 * TOLERANCE


def test_kernel_shap_by_enumeration_gives_the_sum_of_the_values() -> None:
    made, _ = harness.adapter("gpt2")
    case = Case(zoo.build("gpt2"), None, zoo.random_ids(6, seed=4), 4)
    exact = ref.shapley_values(case, ref.logit, unknown(case)).sum(1)
    ((found, _),), _ = harness.run(made, [case], "kernel_shap", "logit", spans=[[(4, 6)]])
    assert relative(found.scores[:, 0], exact) < 50 * TOLERANCE


def test_smooth_grad_takes_the_variance_of_the_summed_gradient() -> None:
    made, _ = harness.adapter("gpt2")
    case = harness.cases("gpt2")[2]
    spans = spans_of(case)
    ((found, _),), _ = harness.run(made, [case], "smooth_grad", n_samples=3, seed=3, statistic="variance", spans=[spans])
    x = ref.embeddings(case)
    spread = 0.1 * float(x[: case.first].max() - x[: case.first].min())
    draws = [x + spread * gradient.draw(x, 3, k)[1] for k in range(3)]
    each = torch.stack([summed(case, ref.gradients(case, ref.probability, at)) for at in draws]).double()
    assert relative(found.scores, each.var(0, unbiased=False)) < 5 * TOLERANCE


def test_the_whole_response_as_a_span_is_what_context_cite_says_of_it() -> None:
    made, _ = harness.adapter("gpt2")
    case = harness.cases("gpt2")[0]
    options = METHODS["context_cite"].options
    ((tokens, _),), _ = harness.run(made, [case], "context_cite", **options)
    ((found, _),), _ = harness.run(made, [case], "context_cite", spans=[[(case.first, len(case.target))]], **options)
    assert relative(found.scores, tokens.sequence_scores["response"]) < TOLERANCE
    assert relative(found.sequence_scores["response"], tokens.sequence_scores["response"]) < TOLERANCE


def test_reagent_asks_for_all_tokens_of_a_span() -> None:
    made, _ = harness.adapter("gpt2")
    case = harness.cases("gpt2")[0]
    x = made.example([], case.target.tolist(), case.first, case.positions, spans=spans_of(case))
    plan = reagent._probability(x, reagent.Original())
    ((found, _),) = Engine(made).run([(x, plan)], harness.function("logit"))
    p, a = ref.step_scores(case, ref.probability), case.first
    expected = torch.stack([p[start - a : end - a].prod() for start, end in spans_of(case)])
    assert relative(found[0], expected) < TOLERANCE
    ((attribution, _),), _ = harness.run(made, [case], "reagent", spans=[spans_of(case)], n_runs=2, max_probes=2)
    torch.testing.assert_close(attribution.scores.sum(0), torch.ones(2, dtype=attribution.scores.dtype))


@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_integrated_gradients_of_a_span_are_complete(name: str) -> None:
    made, _ = harness.adapter(name)
    chosen = harness.cases(name)
    spans = [spans_of(case) for case in chosen]
    found, _ = harness.run(made, chosen, "integrated_gradients", "logit", n_steps=200, tolerance=0.01, spans=spans)
    for attribution, _ in found:
        total = attribution.scores.sum((0, 2))
        assert (attribution.diagnostics["delta"].abs() <= 0.0101 * (total - attribution.diagnostics["delta"]).abs()).all()


@pytest.mark.parametrize("method", ["attention", "attention_rollout", "value_zeroing", "alti", "alti_logit"])
def test_methods_without_a_target_refuse_spans(method: str) -> None:
    made, _ = harness.adapter("gpt2")
    with pytest.raises(ArgumentError, match=r"(?s)this method has no target.*Leave target_spans out.*'occlusion'"):
        harness.run(made, harness.cases("gpt2")[:1], method, spans=[[(4, 7)]], **METHODS[method].options)


@pytest.fixture(scope="module")
def bidirectional() -> DecoderOnly:
    twin = zoo.build("llama")
    model = Bidirectional(twin.config)
    model.load_state_dict(twin.state_dict())
    made = DecoderOnly(model.eval(), Encoder(zoo.tokenizer("words")))
    check(made)
    return made


def test_a_model_that_is_not_causal_adds_up_the_gradients_of_each_prefix(bidirectional: DecoderOnly) -> None:
    chosen = [Case(bidirectional.model, None, c.target, c.first) for c in harness.cases("llama")]
    spans = [spans_of(case) for case in chosen]
    found, _ = harness.run(bidirectional, chosen, "saliency", spans=spans)
    lost, _ = harness.run(bidirectional, chosen, "occlusion", spans=spans)
    for case, (attribution, _), (losses, _) in zip(chosen, found, lost, strict=True):
        assert relative(attribution.scores, summed(case, ref.gradients(case, ref.probability)).abs()) < 5 * TOLERANCE
        assert relative(losses.scores, summed(case, ref.occlusion(case, ref.probability, unknown(case)))) < 5 * TOLERANCE
    for method, options in (("smooth_grad", {"statistic": "square"}), ("integrated_gradients", {"tolerance": 0.01})):
        with pytest.raises(UnsupportedModelError, match=r"needs the gradient of a whole span.*without a tolerance"):
            harness.run(bidirectional, chosen, method, spans=spans, **options)
    harness.run(bidirectional, chosen[:1], "smooth_grad", spans=spans[:1], n_samples=2)


@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_an_answer_costs_one_forward_and_one_product(name: str) -> None:
    made, _ = harness.adapter(name)
    for chosen in ([harness.cases(name)[0]], harness.cases(name)):
        whole = [[(case.first, len(case.target))] for case in chosen]
        _, engine = harness.run(made, chosen, "saliency", recorded=["entropy"], spans=whole)
        assert (engine.counters.forwards, engine.counters.rows, engine.counters.vjps) == (1, len(chosen), 1)


@pytest.fixture(scope="module")
def gpt2() -> Any:
    return inseq.load_model(zoo.build("gpt2"), tokenizer=zoo.tokenizer("words"))


@pytest.fixture(scope="module")
def marian() -> Any:
    return inseq.load_model(zoo.build("marian"), tokenizer=zoo.tokenizer("words_eos"))


INPUTS = ["w1 w2 w3", "w4 w5"]
OUTPUTS = ["w1 w2 w3 w9 w8 w7 w6", "w4 w5 w20 w21"]


def by_hand(columns: Tensor, spans: Sequence[tuple[int, int]], start: int) -> Tensor:
    return torch.stack([columns[:, a - start : b - start].sum(1) for a, b in spans], 1)


def test_texts_of_unequal_length_with_spans_of_their_own(gpt2: Any) -> None:
    spans = [[(3, 5), (5, None)], [(2, None)]]
    resolved = [[(3, 5), (5, 7)], [(2, 4)]]
    scores = ["probability", "crossentropy", "rank"]
    found = gpt2.attribute(INPUTS, OUTPUTS, "input_x_gradient", target_spans=spans, step_scores=scores, **QUIET)
    alone = gpt2.attribute(INPUTS, OUTPUTS, "input_x_gradient", step_scores=scores, **QUIET)
    assert found.info["target_spans"] == [[list(span) for span in text] for text in resolved]
    for own, one, text in zip(found, alone, resolved, strict=True):
        assert own.spans == tuple(text)
        assert own.info["target_spans"] == [[list(span) for span in text]]
        expected = by_hand(one.target_attributions.nan_to_num(0), text, one.attr_pos_start)
        got = own.target_attributions
        assert relative(got.nan_to_num(0), expected) < TOLERANCE
        for k, (_, end) in enumerate(text):
            assert not got[: end - 1, k].isnan().any()
            assert got[end - 1 :, k].isnan().all()
        merges = {"probability": torch.prod, "crossentropy": torch.sum, "rank": torch.amax}
        for name, merge in merges.items():
            parts = [merge(one.step_scores[name][a - own.attr_pos_start : b - own.attr_pos_start]) for a, b in text]
            torch.testing.assert_close(own.step_scores[name], torch.stack(parts))


def test_logarithms_of_probabilities_are_added(gpt2: Any) -> None:
    arguments: dict[str, Any] = {"step_scores": "probability", "logprob": True, **QUIET}
    found = gpt2.attribute(INPUTS[0], OUTPUTS[0], "dummy", target_spans=[(None, None)], **arguments)[0]
    alone = gpt2.attribute(INPUTS[0], OUTPUTS[0], "dummy", **arguments)[0]
    torch.testing.assert_close(found.step_scores["probability"][0], alone.step_scores["probability"].sum())
    assert found.target_attributions is None


def test_positions_count_from_the_end_and_stay_in_the_window(gpt2: Any) -> None:
    arguments: dict[str, Any] = {"attr_pos_start": -4, "attr_pos_end": -1, **QUIET}
    found = gpt2.attribute(INPUTS[0], OUTPUTS[0], target_spans=[(None, -2), (-3, None)], **arguments)[0]
    assert found.spans == ((3, 5), (4, 6))
    assert (found.attr_pos_start, found.attr_pos_end) == (3, 6)
    inside = gpt2.attribute(INPUTS[0], OUTPUTS[0], target_spans=[(4, 6)], **QUIET)[0]
    assert (inside.attr_pos_start, inside.attr_pos_end) == (4, 6)
    assert inside.target_attributions.shape[:2] == (6, 1)
    torch.testing.assert_close(inside.target_attributions[:5, 0], found.target_attributions[:5, 1])


@pytest.mark.parametrize("attribute_target", [False, True])
def test_encoder_decoder(marian: Any, attribute_target: bool) -> None:
    arguments: dict[str, Any] = {"attribute_target": attribute_target, **QUIET}
    found = marian.attribute(INPUTS, OUTPUTS, "input_x_gradient", target_spans=[(1, 3), (3, None)], **arguments)
    alone = marian.attribute(INPUTS, OUTPUTS, "input_x_gradient", **arguments)
    for own, one in zip(found, alone, strict=True):
        text = [(1, 3), (3, len(own.target))]
        assert relative(own.source_attributions, by_hand(one.source_attributions, text, 1)) < TOLERANCE
        assert (own.target_attributions is not None) is attribute_target
        if attribute_target:
            got, expected = (x.target_attributions.nan_to_num(0) for x in (own, one))
            assert relative(got, by_hand(expected, text, 1)) < TOLERANCE


@pytest.mark.parametrize("fn", ["contrast_prob_diff", "kl_divergence"])
def test_contrasts(gpt2: Any, fn: str) -> None:
    contrast = {"contrast_targets": ["w11 w2 w3 w9 w8 w30 w7 w6"], "attributed_fn": fn, "step_scores": "pcxmi"}
    found = gpt2.attribute(INPUTS[0], OUTPUTS[0], "input_x_gradient", target_spans=[(4, 6), (5, 7)], **contrast, **QUIET)
    alone = gpt2.attribute(INPUTS[0], OUTPUTS[0], "input_x_gradient", **contrast, **QUIET)
    got, expected = (x[0].target_attributions.nan_to_num(0) for x in (found, alone))
    assert relative(got, by_hand(expected, [(4, 6), (5, 7)], 3)) < 5 * TOLERANCE
    assert found.info["contrast"][0]["positions"] == alone.info["contrast"][0]["positions"][1:]
    each = alone[0].step_scores["pcxmi"]
    torch.testing.assert_close(found[0].step_scores["pcxmi"], torch.stack([each[1:3].sum(), each[2:4].sum()]))


def test_functions_that_are_run_step_by_step(gpt2: Any) -> None:
    def surprise(args: Any) -> Tensor:
        found: Tensor = -args.forward_output.logits[:, -1].log_softmax(-1).gather(-1, args.target_ids[:, None])[:, 0]
        return found

    spans = [(3, 5), (4, 7)]
    found = gpt2.attribute(INPUTS[0], OUTPUTS[0], attributed_fn=surprise, target_spans=spans, **QUIET)[0]
    named = gpt2.attribute(INPUTS[0], OUTPUTS[0], attributed_fn="crossentropy", target_spans=spans, **QUIET)[0]
    assert relative(found.target_attributions.nan_to_num(0), named.target_attributions.nan_to_num(0)) < 5 * TOLERANCE
    lost = gpt2.attribute(
        INPUTS[0], OUTPUTS[0], "occlusion", attributed_fn=surprise, step_scores=[surprise], target_spans=spans, **QUIET
    )[0]
    all_lost = gpt2.attribute(
        INPUTS[0],
        OUTPUTS[0],
        "occlusion",
        attributed_fn="crossentropy",
        step_scores="crossentropy",
        target_spans=spans,
        **QUIET,
    )[0]
    assert relative(lost.target_attributions.nan_to_num(0), all_lost.target_attributions.nan_to_num(0)) < 5 * TOLERANCE


def test_views_files_and_edits(gpt2: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = gpt2.attribute(INPUTS[0], OUTPUTS[0], target_spans=[(3, 5), (5, 7)], step_scores="probability", **QUIET)
    own = found[0]
    assert [token.text.strip() for token in own.generated] == ["w9w8", "w7w6"]
    assert [token.id for token in own.generated] == [-1, -1]
    found.show()
    shown = capsys.readouterr().out
    assert "w9w8" in shown
    assert "Spans: w9w8 | w7w6" in shown.replace("\n", " ")
    page = found.show(display=False, return_html=True)
    assert "w9w8" in page
    found.save(tmp_path / "spans.json")
    again = FeatureAttributionOutput.load(tmp_path / "spans.json")
    assert again == found
    assert again[0].spans == ((3, 5), (5, 7))
    assert again[0].aggregate() == own.aggregate()
    assert own.to_dict()["spans"] == [[3, 5], [5, 7]]
    steps = own.get_scores_dicts()["step_scores"]
    assert [position for position, _ in steps] == [3, 5]
    own.target[3].token = "upon"
    assert own.generated[0].shown.startswith("upon")
    assert "2 spans" in repr(own)


@pytest.mark.parametrize("spans", [[[3]], [[5, 3]], [[0, 9]], "x", [["a", 4]]])
def test_damaged_spans_in_a_file(gpt2: Any, tmp_path: Any, spans: Any) -> None:
    import json

    path = tmp_path / "spans.json"
    gpt2.attribute(INPUTS[0], OUTPUTS[0], target_spans=[(3, 5)], **QUIET).save(path)
    document = json.loads(path.read_text())
    document["sequences"][0]["spans"] = spans
    path.write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match="Damaged result file"):
        FeatureAttributionOutput.load(path)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ("3:5", "must be a list of half-open spans"),
        ([], "must be a list of half-open spans"),
        ([(3, 5, 6)], "must be a list of half-open spans"),
        ([(3, 5), 6], "must be a list of half-open spans"),
        ([[(3, 5)], []], "must be a list of half-open spans"),
        ([(3.0, 5)], "must be a list of half-open spans"),
        ([[(3, 5)]], "spans for 1 texts, and input_texts 2"),
        ([(2, 4)], r"target_spans\[0\]=\(2, 4\) is the span 2 to 4 of text 0, whose explained tokens stand at 3 to 6"),
        ([[(3, 4)], [(2, 3), (3, 5)]], r"target_spans\[1\]\[1\]=\(3, 5\) is the span 3 to 5 of text 1, .* stand at 2 to 3"),
        ([(3, 3)], "hold one token at least"),
        ([[(4, 5), (3, 6)], [(2, 3)]], r"the span \[3, 6\] comes after \[4, 5\]; expected spans in ascending order"),
        ([[(4, 5), (4, 5)], [(2, 3)]], "each once"),
    ],
)
def test_errors(gpt2: Any, spans: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        gpt2.attribute(INPUTS, OUTPUTS, target_spans=spans, **QUIET)
