"""What people wrote for Inseq runs here: its documented calls, written afresh on bundled and tiny models."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import zoo
from harness import relative
from test_guest import unchanged

import inseq
from inseq import demo
from inseq.errors import ArgumentError, UnknownArgumentError

QUIET: dict[str, Any] = {"show_progress": False}


@pytest.fixture(scope="module")
def gpt2() -> inseq.AttributionModel:
    return inseq.load_model("demo/gpt2", "saliency")


@pytest.fixture(scope="module")
def zh_en() -> inseq.AttributionModel:
    return inseq.load_model("demo/zh-en", attribution_method="integrated_gradients", framework="hf_transformers")


@pytest.fixture
def words() -> Iterator[inseq.AttributionModel]:
    model, tokenizer = zoo.build("gpt2"), zoo.tokenizer("words")
    with unchanged(model, tokenizer):
        yield inseq.load_model(model, "saliency", tokenizer=tokenizer)


TEXT = "Anna thanked Tom because"


def test_a_readme_s_first_call(zh_en: inseq.AttributionModel) -> None:
    out = zh_en.attribute(
        "我喜歡機器學習和人工智慧。", n_steps=20, internal_batch_size=5, return_convergence_delta=True, **QUIET
    )
    assert torch.equal(out[0].step_scores["deltas"], out[0].diagnostics["delta"])
    assert "internal_batch_size has no effect" in " ".join(out.info["notes"])
    assert "deltas" not in zh_en.attribute("我喜歡機器學習。", n_steps=2, **QUIET)[0].step_scores


def test_positional_arguments_stand_as_in_inseq(gpt2: inseq.AttributionModel) -> None:
    (whole,) = gpt2.attribute(TEXT, f"{TEXT} she was kind.", **QUIET)
    first = whole.attr_pos_start
    out = gpt2.attribute(
        TEXT,
        f"{TEXT} she was kind.",
        "input_x_gradient",
        False,
        first + 1,
        first + 3,
        False,
        False,
        True,
        False,
        ["probability"],
        False,
        "logit",
        "cpu",
        2,
    )
    assert (out[0].attr_pos_start, out[0].attr_pos_end) == (first + 1, first + 3)
    assert out.info["attribution_method"] == "input_x_gradient"
    assert out.info["attributed_fn"] == "logit"
    assert out.step_attributions is not None
    assert len(out.step_attributions) == 2


def test_a_method_can_become_the_model_s_own(words: inseq.AttributionModel) -> None:
    words.attribute("w1 w2", "w1 w2 w3", method="input_x_gradient", **QUIET)
    assert words.method == "saliency"
    words.attribute("w1 w2", "w1 w2 w3", method="integrated_gradients", n_steps=3, override_default_attribution=True, **QUIET)
    out = words.attribute("w1 w2", "w1 w2 w3", **QUIET)
    assert (out.info["attribution_method"], out.info["options"]["n_steps"]) == ("integrated_gradients", 3)


def test_the_default_target_can_be_set(words: inseq.AttributionModel) -> None:
    words.default_attributed_fn_id = "logit"
    assert words.attribute("w1 w2", "w1 w2 w3", **QUIET).info["attributed_fn"] == "logit"
    with pytest.raises(inseq.errors.UnknownNameError, match="Did you mean 'logit'"):
        words.default_attributed_fn_id = "logits"


def test_options_of_one_function_alone(words: inseq.AttributionModel) -> None:
    texts: tuple[str, str] = ("w1 w2", "w1 w2 w3 w4")
    log = words.attribute(*texts, attributed_fn_args={"logprob": True}, step_scores=["probability"], **QUIET)
    plain = words.attribute(*texts, step_scores=["probability"], step_scores_args={"logprob": True}, **QUIET)
    both = words.attribute(*texts, logprob=True, step_scores=["probability"], **QUIET)
    assert relative(log[0].step_scores["probability"].log(), plain[0].step_scores["probability"]) < 1e-5
    by_log, by_plain, by_both = (out[0].target_attributions.nan_to_num(0.0) for out in (log, plain, both))
    assert relative(by_log, by_both) < 1e-6
    assert relative(by_plain, by_both) > 1e-2
    options: dict[str, Any] = {"method": "integrated_gradients", "n_steps": 4, **QUIET}
    left = words.attribute(*texts, attribution_args={"method": "riemann_left"}, **options)
    assert left[0] == words.attribute(*texts, quadrature="riemann_left", **options)[0]
    with pytest.raises(ArgumentError, match="given twice"):
        words.attribute(*texts, attribution_args={"n_steps": 5}, **options)
    with pytest.raises(UnknownArgumentError, match="Unknown argument 'n_steps'"):
        words.attribute(*texts, attributed_fn_args={"n_steps": 5}, method="integrated_gradients", **QUIET)


def test_occlusion_s_former_options(words: inseq.AttributionModel) -> None:
    texts = ("w1 w2 w3", "w1 w2 w3 w4")
    former = words.attribute(
        *texts, method="occlusion", sliding_window_shapes=(2, 32), strides=(2, 32), perturbations_per_eval=3, **QUIET
    )
    assert former[0] == words.attribute(*texts, method="occlusion", window=2, stride=2, **QUIET)[0]


def test_ends_in_the_baseline(words: inseq.AttributionModel) -> None:
    texts = ("w1 </s> w2", "w1 </s> w2 w3")
    kept = words.attribute(*texts, method="integrated_gradients", n_steps=4, **QUIET)
    replaced = words.attribute(*texts, method="integrated_gradients", n_steps=4, include_eos_baseline=True, **QUIET)
    column = [out[0].target_attributions[1].norm() for out in (kept, replaced)]
    assert column[0] == 0 < column[1]
    saliency = words.attribute(*texts, include_eos_baseline=True, **QUIET)
    assert "include_eos_baseline has no effect: saliency has no baseline" in saliency.info["notes"]


def test_step_outputs_are_the_columns(words: inseq.AttributionModel) -> None:
    out = words.attribute(
        ["w1 w2", "w3 w4 w5"],
        ["w1 w2 w6 w7 w8", "w3 w4 w5 w9"],
        step_scores=["probability"],
        output_step_attributions=True,
        **QUIET,
    )
    first, second, third = out.step_attributions or []
    assert [[str(t) for t in row] for row in first.prefix] == [["w1", "w2"], ["w3", "w4", "w5"]]
    assert [[str(t) for t in row] for row in first.target] == [["w6"], ["w9"]]
    assert torch.equal(first.target_attributions[1, :3], out[1].target_attributions[:3, 0])
    assert first.target_attributions[0, 2].isnan().all()
    assert [len(row) for row in third.target] == [1, 0]
    assert third.target_attributions[1].isnan().all()
    assert second.step_scores["probability"][0] == out[0].step_scores["probability"][1]


def test_a_call_on_another_device_comes_back(words: inseq.AttributionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One processor with two names stands for two devices."""
    monkeypatch.setattr(inseq.AttributionModel, "_movable", lambda self, device: torch.device("cpu", 0))
    texts, moves = ("w1 w2", "w1 w2 w3"), []
    own = words.model.to
    words.model.to = lambda device: (moves.append(str(device)), own(device))[1]
    try:
        there = words.attribute(*texts, device="cpu:0", **QUIET)
        with pytest.raises(ArgumentError):
            words.attribute("w1", "w2", device="cpu:0", **QUIET)
    finally:
        del words.model.to
    assert moves == ["cpu:0", "cpu"] * 2
    assert there[0] == words.attribute(*texts, **QUIET)[0]


def test_generation_goes_on_from_a_target_prefix(zh_en: inseq.AttributionModel) -> None:
    text = "我喜歡機器學習和人工智慧。"
    out = zh_en.attribute(text, "I like", method="saliency", generate_from_target_prefix=True, **QUIET)
    whole = zh_en.attribute(text, method="saliency", **QUIET)
    assert out.info["generated_texts"] == whole.info["generated_texts"]
    assert out[0] == whole[0]
    two = zh_en.attribute([text, text], ["We", "I like"], method="saliency", generate_from_target_prefix=True, **QUIET)
    assert two[1] == whole[0]
    assert two.info["generated_texts"][0].startswith("We")


def test_without_special_tokens(zh_en: inseq.AttributionModel) -> None:
    (out,) = zh_en.attribute("我喜歡機器學習。</s>", "I like</s>", method="saliency", skip_special_tokens=True, **QUIET)
    assert not any(token.special for token in [*out.source, *out.target[1:]])


def test_clean_tokens(zh_en: inseq.AttributionModel) -> None:
    (out,) = zh_en.attribute("我喜歡機器學習。", method="saliency", clean_special_chars=True, **QUIET)
    assert not any("▁" in token.token for token in [*out.source, *out.target])


def test_continuations_ids_and_positions(gpt2: inseq.AttributionModel) -> None:
    whole = gpt2.attribute(TEXT, f"{TEXT} she was kind.", **QUIET)[0]
    assert gpt2.attribute(TEXT, continuations=" she was kind.", **QUIET)[0] == whole
    ids, first = [token.id for token in whole.target], whole.attr_pos_start
    assert gpt2.attribute(ids[:first], ids, **QUIET)[0] == whole
    assert gpt2.attribute(torch.tensor(ids[:first]), continuations=ids[first:], **QUIET)[0] == whole
    logit = {"attributed_fn": "logit", **QUIET}
    (some,) = gpt2.attribute(TEXT, f"{TEXT} she was kind.", positions=[-1, first], **logit)
    assert some.positions == [(first, first + 1), (len(ids) - 1, len(ids))]
    columns = gpt2.attribute(TEXT, f"{TEXT} she was kind.", **logit)[0].target_attributions[:, [0, -1]]
    assert relative(some.target_attributions.nan_to_num(0.0), columns.nan_to_num(0.0)) < 1e-5


CHAT = "{% for m in messages %}<s> {{ m['role'] }} {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}w0 {% endif %}"


def test_chats(words: inseq.AttributionModel) -> None:
    tokenizer = copy.deepcopy(zoo.tokenizer("words"))
    tokenizer.chat_template = CHAT.replace("{{ m['role'] }}", "w9")
    words = inseq.load_model(words.model, tokenizer=tokenizer)
    chat = [{"role": "system", "content": "w1 w2"}, {"role": "user", "content": [{"type": "text", "text": "w3 w4 w1 w2"}]}]
    chat[1]["content"] = "w3 w4 w1 w2"
    out = words.attribute(chat, continuations="w5 w6", **QUIET)
    said = [str(token) for token in out[0].target]
    assert said == ["<s>", "w9", "w1", "w2", "<s>", "w9", "w3", "w4", "w1", "w2", "w0", "w5", "w6"]
    assert out.info["turns"] == [[{"role": "system", "span": [2, 4]}, {"role": "user", "span": [6, 10]}]]
    merged = out[0].aggregate("turns")
    assert [str(token) for token in merged.target] == ["<s>", "w9", "w1w2", "<s>", "w9", "w3w4w1w2", "w0", "w5", "w6"]
    several = words.attribute([chat, "w1 w2"], continuations=["w5", "w6"], **QUIET)
    assert several.info["turns"][1] == []
    with pytest.raises(ArgumentError, match="no turns"):
        several[1].aggregate("turns")


def test_generated_texts_are_what_generate_gives(gpt2: inseq.AttributionModel) -> None:
    (text,) = gpt2.generate(TEXT)
    assert text.startswith(TEXT)
    assert gpt2.generate(TEXT, output_generated_only=True) == [text.removeprefix(TEXT)]
    assert gpt2.attribute(TEXT, text, **QUIET).info["generated_texts"] == [text.removeprefix(TEXT)]


def test_helpers_of_the_model(gpt2: inseq.AttributionModel, zh_en: inseq.AttributionModel) -> None:
    encoded = gpt2.encode(TEXT)
    assert gpt2.decode(encoded.input_ids) == [TEXT]
    assert gpt2.tokenize(TEXT) == encoded.input_tokens
    assert torch.equal(gpt2.embed(TEXT), gpt2.embed_ids(encoded.input_ids))
    assert "".join(gpt2.convert_ids_to_tokens(encoded.input_ids[0], decode_tokens=True)) == TEXT
    assert gpt2.convert_tokens_to_ids(encoded.input_tokens) == encoded.input_ids.tolist()
    target = zh_en.encode("I like", as_targets=True)
    assert target.input_ids[0, 0] == zh_en.bos_token_id
    with pytest.raises(ArgumentError, match="encoder-decoder"):
        gpt2.encode(TEXT, as_targets=True)
    assert gpt2.info["model_class"] == "GPT2LMHeadModel"


def test_a_custom_step_function_with_a_forward_of_its_own(zh_en: inseq.AttributionModel) -> None:
    """As in Inseq's how-to: the probability minus that of another output."""
    from inseq.attr.step_functions import probability_fn

    def difference(args: Any, contrast_ids: torch.Tensor, contrast_attention_mask: torch.Tensor) -> torch.Tensor:
        n = args.decoder_input_ids.shape[1]
        other = args.attribution_model.model(
            inputs_embeds=args.encoder_input_embeds,
            attention_mask=args.encoder_attention_mask,
            decoder_input_ids=contrast_ids[:, :n].expand(len(args.target_ids), -1),
            decoder_attention_mask=contrast_attention_mask[:, :n].expand(len(args.target_ids), -1),
        )
        here = probability_fn(args)
        args.forward_output, args.target_ids = other, contrast_ids[:, n].expand(len(args.target_ids))
        return here - probability_fn(args)

    contrast = zh_en.encode("I hate machine learning.", as_targets=True)
    text, output = "我喜歡機器學習。", "I like machine learning."
    out = zh_en.attribute(
        text,
        output,
        method="saliency",
        attributed_fn=difference,
        contrast_ids=contrast.input_ids,
        contrast_attention_mask=contrast.attention_mask,
        **QUIET,
    )
    named = zh_en.attribute(
        text,
        output,
        method="saliency",
        attributed_fn="contrast_prob_diff",
        contrast_targets="I hate machine learning.",
        contrast_targets_alignments=[(i, i) for i in range(1, len(out[0].target))],
        contrast_force_inputs=False,
        **QUIET,
    )
    assert relative(out[0].source_attributions[:, :2], named[0].source_attributions[:, :2]) < 1e-4


def test_names_that_people_import() -> None:
    from inseq.attr import STEP_SCORES_MAP, list_step_functions
    from inseq.data import merge_attributions
    from inseq.data.aggregator import AggregatorPipeline, SubwordAggregator
    from inseq.data.attribution import GranularFeatureAttributionSequenceOutput
    from inseq.models import HuggingfaceModel

    assert HuggingfaceModel is inseq.AttributionModel
    assert GranularFeatureAttributionSequenceOutput is inseq.FeatureAttributionSequenceOutput
    assert merge_attributions is inseq.merge_attributions
    assert STEP_SCORES_MAP["logit"].__name__ == "logit_fn"
    assert list_step_functions() == inseq.list_step_functions()
    assert SubwordAggregator.aggregator_name in inseq.list_aggregators()
    assert len(AggregatorPipeline(["subwords", "scores"]).stages) == 2
    assert inseq.list_supported_frameworks() == ["hf_transformers"]
    with pytest.raises(AttributeError, match="no attribute 'LoadModel'"):
        inseq.models.LoadModel  # noqa: B018


def test_explain_prints_what_a_name_is(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("saliency", "probability", "subwords", "vnorm"):
        inseq.explain(name)
        assert name in capsys.readouterr().out
    with pytest.raises(inseq.errors.UnknownNameError, match="Did you mean 'saliency'"):
        inseq.explain("salency")


def test_a_model_config_is_accepted() -> None:
    with pytest.warns(UserWarning, match="is no longer needed"):
        inseq.register_model_config("MyModel", {"self_attention_module": "attn"})
    with pytest.raises(ArgumentError, match="takes the name of a model class and a mapping"):
        inseq.register_model_config("MyModel", ["attn"])


def test_a_multilingual_model_writes_its_language_first() -> None:
    model = inseq.load_model(zoo.build("m2m100"), "saliency", tokenizer=zoo.tokenizer("words_eos"))
    language = model.convert_tokens_to_ids("w20")
    out = model.attribute("w1 w2", generation_args={"forced_bos_token_id": language, "max_new_tokens": 4}, **QUIET)
    assert (out[0].target[1].id, out[0].attr_pos_start) == (language, 1)
    (text,) = model.generate("w1 w2", forced_bos_token_id=language, max_new_tokens=4)
    assert text.split()[0] == "w20"


def test_a_layer_of_an_8_bit_model() -> None:
    pytest.importorskip("bitsandbytes", reason="8-bit models need the extra 'quant'")
    model = inseq.load_model(
        str(demo.directory("demo/gpt2")),
        "layer_gradient_x_activation",
        target_layer="transformer.h[0].mlp",
        model_kwargs={"load_in_8bit": True, "device_map": {"": "cpu"}},
    )
    (out,) = model.attribute(TEXT, f"{TEXT} she was kind.", **QUIET)
    assert out.aggregate().target_attributions.nansum(0).tolist() == pytest.approx([1.0] * len(out.positions), abs=1e-5)
    plain = inseq.load_model("demo/gpt2", "layer_gradient_x_activation", target_layer="transformer.h[0].mlp")
    (near,) = plain.attribute(TEXT, f"{TEXT} she was kind.", **QUIET)
    a, b = (each.aggregate().target_attributions.nan_to_num(0.0) for each in (out, near))
    assert relative(a, b) < 0.2


def test_two_outputs_compared_by_spans() -> None:
    """As in Inseq's example of gendered translations: words merged, then one output minus the other."""
    from inseq.data.aggregator import AggregatorPipeline, PairAggregator, SequenceAttributionAggregator, SubwordAggregator

    model = inseq.load_model("demo/zh-en", "saliency")
    english = "I like machine learning."
    out = model.attribute(["我喜歡機器學習。", "他喜歡機器學習。"], [english, english], **QUIET)
    words = AggregatorPipeline([SequenceAttributionAggregator, SubwordAggregator])
    mine, his = (each.aggregate(aggregator=words) for each in out.sequence_attributions)
    found = mine.aggregate(aggregator=PairAggregator, paired_attr=his, do_post_aggregation_checks=False)
    assert found == mine - his
    assert [token.text for token in found.generated] == [" I", " like", " machine", " learning.", "</s>"]
    assert found.show(do_aggregation=False, display=False, return_html=True)
    shown = mine.aggregate("spans", source_spans=[(0, 2)], target_spans=[(3, 5)])
    assert [token.text for token in shown.generated][2] == " machine learning."
