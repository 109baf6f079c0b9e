"""What outputs are compared with: contexts, alignments, cost, and what cannot be compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import compared
import harness
import pytest
import reference as ref
import reference_targets as slow
import torch
import zoo
from compared import FUNCTIONS, METHODS, QUIET
from harness import relative
from rows import TINY, TOLERANCE
from test_engine import Bidirectional
from test_guest import unchanged
from torch import Tensor

import inseq
from inseq.engine.batches import pack
from inseq.engine.jobs import Job
from inseq.engine.scores.evaluate import evaluate
from inseq.requests import Score, Target
from inseq.requests.example import Contrast
from inseq.views.tabulate import table


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("function", ["contrast_prob_diff", "kl_divergence", "pcxmi"])
@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_forced_inputs_compare_with_the_contrast_s_own_context(name: str, function: str, method: str) -> None:
    model, chosen = compared.load(name), compared.texts(name)
    definition, options = METHODS[method]
    found = model.attribute(
        chosen.inputs,
        chosen.outputs,
        method=method,
        attributed_fn=function,
        attribute_target=True,
        contrast_targets=list(chosen.contrasts),
        contrast_force_inputs=True,
        **options,
        **QUIET,
    )
    for i, (case, contrast) in enumerate(compared.cases(model, name)):
        pairs = compared.pairs(found.info["contrast"][i]["positions"])
        expected = slow.attribution(definition, case, contrast, pairs, FUNCTIONS[function], "own")
        assert relative(compared.scores(found[i]), expected) < 10 * TOLERANCE


def test_what_forcing_changes() -> None:
    """Without it the altered input predicts both tokens, with it the contrast's prediction stands still."""
    model, chosen = compared.load("gpt2"), compared.texts("gpt2")

    def removed(function: str, **more: bool) -> Tensor:
        arguments: dict[str, Any] = {"method": "occlusion", "attributed_fn": function, **more, **QUIET}
        if function != "logit":
            arguments["contrast_targets"] = chosen.contrasts[0]
        return compared.scores(model.attribute(chosen.inputs[0], chosen.outputs[0], **arguments)[0])

    free = removed("logit") - removed("contrast_logits")
    torch.testing.assert_close(removed("contrast_logits_diff"), free, atol=1e-5, rtol=1e-4)
    forced = removed("contrast_logits_diff", contrast_force_inputs=True)
    torch.testing.assert_close(forced, removed("logit"), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_a_contrast_costs_one_forward_for_all_texts(name: str) -> None:
    model, chosen = compared.load(name), compared.texts(name)

    def forwards(**arguments: Any) -> int:
        found = model.attribute(chosen.inputs, chosen.outputs, **arguments, **QUIET)
        return found.info["counters"]["forwards"]

    contrasts = list(chosen.contrasts)
    forwards(method="occlusion", step_scores=["entropy"])
    for method in ("saliency", "occlusion", "dummy"):
        plain, bare = forwards(method=method, step_scores=["entropy"]), forwards(method=method)
        scores = list(slow.TWO)
        assert forwards(method=method, step_scores=scores, contrast_targets=contrasts) == plain + 1
        target = "contrast_prob_diff"
        assert forwards(method=method, attributed_fn=target, contrast_targets=contrasts) == bare
        forced = forwards(
            method=method, attributed_fn=target, step_scores=scores, contrast_targets=contrasts, contrast_force_inputs=True
        )
        assert forced == plain + 1


def test_another_source_alone_compares_the_output_with_itself() -> None:
    """What P-CXMI asks: the same ids, never tokenised again, without the context."""
    model = compared.load("marian")
    arguments: dict[str, Any] = {"method": "dummy", "step_scores": ["pcxmi", "in_context_pvi", "kl_divergence"], **QUIET}
    found = model.attribute(
        ["w1 w2 w8", "w5"], generation_args={"max_new_tokens": 4}, contrast_sources=["w8", "w7 w6"], **arguments
    )
    for i, source in enumerate(["w8", "w7 w6"]):
        target = torch.tensor([token.id for token in found[i].target])
        own, other = (
            ref.Case(model.model, torch.tensor(compared.ids(model, text, output=False)), target, 1)
            for text in (["w1 w2 w8", "w5"][i], source)
        )
        pairs = {t: t for t in own.positions}
        assert compared.pairs(found.info["contrast"][i]["positions"]) == pairs
        for function in ("pcxmi", "in_context_pvi", "kl_divergence"):
            expected = slow.step_scores(own, other, pairs, FUNCTIONS[function])
            assert relative(found[i].step_scores[function], expected) < 5 * TOLERANCE


def test_information_is_above_zero_where_the_context_helps() -> None:
    model = compared.load("marian")
    (found,) = model.attribute(
        "w1 w2 w8",
        generation_args={"max_new_tokens": 4},
        method="dummy",
        step_scores=["probability", "contrast_prob", "pcxmi", "in_context_pvi"],
        contrast_sources="w8",
        **QUIET,
    )
    scores = found.step_scores
    torch.testing.assert_close(scores["pcxmi"], (scores["probability"] / scores["contrast_prob"]).log())
    torch.testing.assert_close(scores["in_context_pvi"], (scores["probability"] / scores["contrast_prob"]).log2())
    assert ((scores["pcxmi"] > 0) == (scores["probability"] > scores["contrast_prob"])).all()
    assert (scores["pcxmi"] > 0).any()


@pytest.mark.parametrize("options", [{"top_k": 3}, {"top_p": 0.7}, {"top_k": 5, "top_p": 0.4, "min_tokens_to_keep": 9}])
def test_divergence_over_the_likeliest_tokens(options: dict[str, Any]) -> None:
    model, chosen = compared.load("gpt2"), compared.texts("gpt2")
    found = model.attribute(
        chosen.inputs,
        chosen.outputs,
        attributed_fn="kl_divergence",
        step_scores=["kl_divergence"],
        contrast_targets=list(chosen.contrasts),
        **options,
        **QUIET,
    )
    for i, (case, contrast) in enumerate(compared.cases(model, "gpt2")):
        pairs = compared.pairs(found.info["contrast"][i]["positions"])

        def fn(z: Tensor, y: int, other: Tensor, foil: int) -> Tensor:
            return slow.kl_divergence(z, y, other, foil, **options)

        assert relative(found[i].step_scores["kl_divergence"], slow.step_scores(case, contrast, pairs, fn)) < 5 * TOLERANCE
        expected = slow.attribution(ref.saliency, case, contrast, pairs, fn, "differing")
        assert relative(compared.scores(found[i]), expected) < 10 * TOLERANCE


@pytest.mark.parametrize("name", ["gpt2", "marian"])
@pytest.mark.parametrize("function", ["mc_dropout_prob_avg", "kl_divergence", "contrast_prob_diff"])
def test_model_and_tokenizer_stay_as_they_were(name: str, function: str) -> None:
    model, chosen = compared.load(name), compared.texts(name)
    contrasts = list(chosen.contrasts)
    with unchanged(model.model, model.tokenizer):
        model.attribute(
            chosen.inputs,
            chosen.outputs,
            attributed_fn=function,
            step_scores=[function],
            **({"contrast_targets": contrasts} if function in slow.TWO else {}),
            **QUIET,
        )
    assert contrasts == list(chosen.contrasts)


def test_the_alignment_is_shown_and_explicit_pairs_go_first() -> None:
    model = compared.load("marian")
    arguments: dict[str, Any] = {"contrast_targets": "w3 w7 w5 w6", "step_scores": ["contrast_prob"], **QUIET}
    found = model.attribute("w1 w2", "w3 w4 w5", **arguments)
    assert found.info["contrast"] == [
        {
            "text": "w3 w7 w5 w6",
            "positions": [[1, 1], [2, 2], [3, 3], [4, 5]],
            "tokens": [["w3", "w3"], ["w4", "w7"], ["w5", "w5"], ["</s>", "</s>"]],
            "same_context": False,
        }
    ]
    flat = model.attribute("w1 w2", "w3 w4 w5", contrast_targets_alignments=[(2, 4), (3, 2)], **arguments)
    assert flat.info["contrast"][0]["positions"] == [[1, 1], [2, 4], [3, 2], [4, 5]]
    nested = model.attribute("w1 w2", "w3 w4 w5", contrast_targets_alignments=[[(2, 4), (3, 2)]], **arguments)
    assert nested.info["contrast"] == flat.info["contrast"]
    auto = model.attribute("w1 w2", "w3 w4 w5", contrast_targets_alignments="auto", **arguments)
    assert auto.info["contrast"] == found.info["contrast"]
    case, contrast = compared.case(model, "w1 w2", "w3 w4 w5"), compared.case(model, "w1 w2", "w3 w7 w5 w6")
    expected = slow.step_scores(case, contrast, {1: 1, 2: 4, 3: 2, 4: 5}, slow.contrast_prob)
    assert relative(flat[0].step_scores["contrast_prob"], expected) < 5 * TOLERANCE
    assert [token.token for token in flat[0].target] == ["<pad>", "w3", "w4", "w5", "</s>"]
    window = model.attribute("w1 w2", "w3 w4 w5", attr_pos_start=2, attr_pos_end=4, **arguments)
    assert window.info["contrast"][0]["positions"] == [[2, 2], [3, 3]]


def test_alignments_of_several_texts() -> None:
    model, chosen = compared.load("gpt2"), compared.texts("gpt2")
    pairs = [[(4, 1), (5, 1)], None]
    found = model.attribute(
        chosen.inputs,
        chosen.outputs,
        attributed_fn="contrast_logits_diff",
        step_scores=["contrast_logits_diff"],
        contrast_targets=list(chosen.contrasts),
        contrast_targets_alignments=pairs,
        **QUIET,
    )
    assert found.info["contrast"][0]["positions"] == [[3, 3], [4, 1], [5, 1]]
    for i, (case, contrast) in enumerate(compared.cases(model, "gpt2")):
        aligned = compared.pairs(found.info["contrast"][i]["positions"])
        fn = slow.contrast_logits_diff
        assert relative(found[i].step_scores[fn.__name__], slow.step_scores(case, contrast, aligned, fn)) < 5 * TOLERANCE
        expected = slow.attribution(ref.saliency, case, contrast, aligned, fn, "token")
        assert relative(compared.scores(found[i]), expected) < 10 * TOLERANCE


def test_a_prompt_without_its_context_is_aligned_from_the_end() -> None:
    model = compared.load("llama")
    found = model.attribute("w9 w8 w1 w2", "w9 w8 w1 w2 w3 w4", step_scores=["pcxmi"], contrast_targets="w1 w2 w3 w4", **QUIET)
    assert found.info["contrast"][0]["positions"] == [[4, 2], [5, 3]]
    case, contrast = compared.case(model, "", "w9 w8 w1 w2 w3 w4", 4), compared.case(model, "", "w1 w2 w3 w4")
    expected = slow.step_scores(case, contrast, {4: 2, 5: 3}, slow.pcxmi)
    assert relative(found[0].step_scores["pcxmi"], expected) < 5 * TOLERANCE


@pytest.mark.parametrize("as_ids", [[8, 7, 11], torch.tensor([8, 7, 11])])
def test_a_contrast_may_be_given_as_ids(as_ids: Any) -> None:
    for name, output, text in (("gpt2", "w4 w3 w5", "w4 w3 w7"), ("marian", "w4 w3", "w4 w3 w7")):
        model = compared.load(name)
        arguments: dict[str, Any] = {"step_scores": ["contrast_prob"], **QUIET}
        by_ids = model.attribute("w4", output, contrast_targets=as_ids, **arguments)
        ids = compared.ids(model, text, output=True)
        same = ids if name == "gpt2" else ids[:-1]
        again = model.attribute("w4", output, contrast_targets=same, **arguments)
        assert torch.equal(by_ids[0].step_scores["contrast_prob"], again[0].step_scores["contrast_prob"])
        assert by_ids.info["contrast"][0]["text"] == text


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_small_batches_change_no_number(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, chosen = compared.load(name), compared.texts(name)
    arguments: dict[str, Any] = {
        "method": method,
        "attributed_fn": "kl_divergence",
        "step_scores": list(slow.TWO),
        "contrast_targets": list(chosen.contrasts),
        "contrast_force_inputs": True,
        "show_progress": False,
        **METHODS[method][1],
    }
    whole = model.attribute(chosen.inputs, chosen.outputs, **arguments)
    monkeypatch.setattr(model._engine, "budget", TINY)
    cut = model.attribute(chosen.inputs, chosen.outputs, **arguments)
    assert cut.info["counters"]["forwards"] > whole.info["counters"]["forwards"]
    for one, other in zip(cut, whole, strict=True):
        assert relative(compared.scores(one), compared.scores(other)) < 10 * TOLERANCE
        for function in slow.TWO:
            assert relative(one.step_scores[function], other.step_scores[function]) < 10 * TOLERANCE


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("function", ["contrast_prob_diff", "kl_divergence"])
def test_a_model_that_is_not_causal(function: str, method: str) -> None:
    """Each step and each contrast's token is predicted from a prefix of its own."""
    twin = zoo.build("llama")
    bidirectional = Bidirectional(twin.config)
    bidirectional.load_state_dict(twin.state_dict())
    model = inseq.load_model(bidirectional.eval(), tokenizer=zoo.tokenizer("words"))
    chosen, (definition, options) = compared.texts("llama"), METHODS[method]
    found = model.attribute(
        chosen.inputs,
        chosen.outputs,
        method=method,
        attributed_fn=function,
        step_scores=[function],
        contrast_targets=list(chosen.contrasts),
        **options,
        **QUIET,
    )
    way: slow.Way = "differing" if function == "kl_divergence" else "token"
    for i, (case, contrast) in enumerate(compared.cases(model, "llama")):
        pairs = compared.pairs(found.info["contrast"][i]["positions"])
        recorded = slow.step_scores(case, contrast, pairs, FUNCTIONS[function])
        assert relative(found[i].step_scores[function], recorded) < 5 * TOLERANCE
        expected = slow.attribution(definition, case, contrast, pairs, FUNCTIONS[function], way)
        assert relative(compared.scores(found[i]), expected) < 10 * TOLERANCE


@pytest.mark.parametrize("forced", [False, True])
def test_the_source_alone(forced: bool) -> None:
    model, chosen = compared.load("marian"), compared.texts("marian")
    found = model.attribute(
        chosen.inputs,
        chosen.outputs,
        attributed_fn="contrast_prob_diff",
        contrast_targets=list(chosen.contrasts),
        contrast_sources=["w4 w1", "w3"],
        contrast_force_inputs=forced,
        **QUIET,
    )
    for i, (case, _) in enumerate(compared.cases(model, "marian")):
        contrast = compared.case(model, ["w4 w1", "w3"][i], chosen.contrasts[i])
        pairs = compared.pairs(found.info["contrast"][i]["positions"])
        expected = slow.attribution(
            ref.saliency, case, contrast, pairs, slow.contrast_prob_diff, "own" if forced else "token", only_source=True
        )
        assert relative(found[i].source_attributions, expected) < 10 * TOLERANCE


def test_a_contrast_of_a_decoder_only_model_ends_as_the_output_does() -> None:
    model = compared.load("gpt2")
    ended, cut = (
        model.attribute("w1", output, step_scores=["contrast_prob"], contrast_targets="w1 w4", **QUIET)
        for output in ("w1 w2 </s>", "w1 w2 w3")
    )
    assert ended.info["contrast"][0]["tokens"] == [["w2", "w4"], ["</s>", "</s>"]]
    assert cut.info["contrast"][0]["tokens"] == [["w2", "w4"], ["w3", "w4"]]


def test_what_is_always_zero_is_noted() -> None:
    model = compared.load("marian")
    arguments: dict[str, Any] = {"contrast_sources": "w8", "attributed_fn": "pcxmi", **QUIET}
    found = model.attribute("w1 w8", "w3 w4", **arguments)
    assert "the same tokens, so the target is 0 at every step; contrast_force_inputs=True" in found.info["notes"][0]
    assert found[0].source_attributions.abs().max() == 0
    forced = model.attribute("w1 w8", "w3 w4", contrast_force_inputs=True, **arguments)
    assert forced.info["notes"] == []
    assert forced[0].source_attributions.abs().max() > 0


def test_half_precision_keeps_equal_tokens_at_exactly_zero() -> None:
    model = compared.load("gpt2", torch.bfloat16)
    (found,) = model.attribute(
        "w1 w2", "w1 w2 w3 w4", step_scores=["contrast_prob_diff"], contrast_targets="w1 w2 w3 w9", **QUIET
    )
    assert found.step_scores["contrast_prob_diff"][0] == 0
    assert found.step_scores["contrast_prob_diff"][1] != 0


def test_rows_that_are_there_again_have_the_same_contrasts() -> None:
    """As the references of a rescale rule are: behind all rows of their batch."""
    made, _ = harness.adapter("gpt2")
    examples = []
    for case in harness.cases("gpt2"):
        x = made.example([], case.target.tolist(), case.first, case.positions)
        n = len(x.steps)
        every = torch.arange(n)
        contrast = Contrast(zoo.random_ids(n, seed=n), torch.ones(n, dtype=torch.bool), x, every)
        examples.append(replace(x, contrast=contrast))
    packed = pack([Job(Score(x), range(1), range(len(x.steps))) for x in examples])
    twice = replace(packed, ids=packed.ids.repeat(2, 1), real=torch.cat([packed.real, ~packed.real & False]))
    logits = torch.randn(*twice.ids.shape, zoo.VOCAB, generator=torch.Generator().manual_seed(0))
    found = evaluate(Target(slow_contrast_logits, contrast="token"), logits, twice, {})
    for k, x in enumerate(examples * 2):
        n = len(x.steps)
        assert x.contrast is not None
        assert torch.equal(found[k, :n], logits[k, :n].gather(-1, x.contrast.ids[:, None])[:, 0])


def slow_contrast_logits(p: Any) -> Tensor:
    return torch.stack([logits[i] for logits, i in zip(p.contrast.logits, p.contrast.ids, strict=True)])


def test_a_contrast_survives_a_file(tmp_path: Any) -> None:
    found = compared.load("gpt2").attribute("w1 w2", "w1 w2 w3", step_scores=["pcxmi"], contrast_targets="w9 w2 w3", **QUIET)
    found.save(tmp_path / "result.json")
    assert inseq.FeatureAttributionOutput.load(tmp_path / "result.json").info["contrast"] == found.info["contrast"]
    assert inseq.merge_attributions([found, found]).info["contrast"] == found.info["contrast"] * 2


def test_the_views_say_what_was_compared() -> None:
    model = compared.load("gpt2")
    (found,) = model.attribute("w1 w2", "w1 w2 w3", contrast_targets="w1 w2 w4", step_scores="contrast_prob", **QUIET)
    assert "Compared with" in (found.show(display=False, return_html=True) or "")
    assert ("Compared with", "w1 w2 w4") in table(found.aggregate()).facts


@pytest.mark.parametrize("function", ["pcxmi", "contrast_logits"])
def test_refined_steps_keep_their_own_contrast(function: str) -> None:
    model = compared.load("gpt2")
    arguments = {"attributed_fn": function, "contrast_targets": "w1 w2 w3 w9 w10 w11 w12 w13", **QUIET}
    arguments |= {"method": "integrated_gradients", "n_steps": 64}
    whole, refined = (
        model.attribute("w1 w2 w3", "w1 w2 w3 w4 w5 w6 w7 w8", **arguments, **more)[0] for more in ({}, {"tolerance": 1e-5})
    )
    scores = (each.target_attributions.nan_to_num() for each in (refined, whole))
    assert relative(*scores) < 2e-2
