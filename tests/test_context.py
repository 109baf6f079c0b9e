"""PECoRe against a plain re-derivation: one public forward for each token and each context, no ids but the output's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import zoo
from torch import Tensor

import inseq
from inseq.commands import attribute_context as paths
from inseq.compat.language import with_language
from inseq.context.layout import lay_out
from inseq.context.texts import filled
from inseq.demo import gold_scenes
from inseq.errors import ArgumentError, FileFormatError, UnknownArgumentError
from inseq.outputs.context import AttributeContextOutput
from inseq.results.context import selected

CONTEXT, CURRENT = "Anna gave the red ball to Tom.", "Now"
LENGTHS = {"min_new_tokens": 3, "max_new_tokens": 4}


@pytest.fixture(scope="module")
def gpt2() -> Any:
    """In double precision: the model is so sure of its words that gradients of probabilities drown in float32's rounding."""
    return inseq.load_model("demo/gpt2", "saliency", dtype="float64")


@pytest.fixture(scope="module")
def marian() -> Any:
    return inseq.load_model("demo/zh-en", "saliency")


def _predicted(model: Any, source: str, prefix: list[int], prompt: str = "") -> Tensor:
    """The log-probabilities of the token after a prefix, by one forward of the model itself."""
    with torch.no_grad():
        if model.is_encoder_decoder:
            ids = torch.tensor([model.tokenizer(source).input_ids])
            start = model.model.generation_config.decoder_start_token_id
            return model.model(input_ids=ids, decoder_input_ids=torch.tensor([[start, *prefix]])).logits[0, -1].log_softmax(-1)
        ids = torch.tensor([[*model.tokenizer(prompt).input_ids, *prefix]])
        return model.model(input_ids=ids).logits[0, -1].log_softmax(-1)


def test_both_steps_equal_their_definitions_on_a_decoder_only_model(gpt2: Any) -> None:
    found = inseq.attribute_context(
        gpt2, CURRENT, CONTEXT, attributed_fn="contrast_prob_diff", context_sensitivity_std_threshold=0.5
    )
    current = gpt2.tokenizer.convert_tokens_to_ids(found.output_current_tokens)
    assert found.output_current == "Tom has the red ball."
    expected, other = [], []
    for i in range(len(current)):
        with_ = _predicted(gpt2, "", current[:i], f"{CONTEXT} {CURRENT}")
        without = _predicted(gpt2, "", current[:i], CURRENT)
        expected.append(float((with_.exp() * (with_ - without)).sum()))
        other.append(int(without.argmax()))
    assert found.cti_scores == pytest.approx(expected, abs=1e-4)
    limit = torch.tensor(expected).mean() + 0.5 * torch.tensor(expected).std()
    assert sorted(cci.cti_idx for cci in found.cci_scores) == [i for i, s in enumerate(expected) if s >= limit]
    prompt = gpt2.tokenizer(f"{CONTEXT} {CURRENT}").input_ids
    for cci in found.cci_scores:
        i = cci.cti_idx
        assert cci.contrast_token == gpt2.tokenizer.convert_ids_to_tokens(other[i])
        embeds = gpt2.model.get_input_embeddings()(torch.tensor([prompt + current[:i]])).detach().requires_grad_()
        p = gpt2.model(inputs_embeds=embeds).logits[0, -1].softmax(-1)
        (gradient,) = torch.autograd.grad(p[current[i]] - p[other[i]], embeds)
        n = len(gpt2.tokenizer(CONTEXT).input_ids)
        assert cci.input_context_scores == pytest.approx(gradient[0, :n].norm(dim=-1).tolist(), rel=1e-3, abs=1e-7)
        assert cci.output_context_scores is None


def test_both_steps_equal_their_definitions_on_an_encoder_decoder(marian: Any) -> None:
    found = inseq.attribute_context(
        marian,
        "把自己的帽子放在桌子上了。",
        "安娜",
        input_template="{context}{current}",
        output_context_text="Anna",
        attribution_method="occlusion",
        context_sensitivity_metric="pcxmi",
        context_sensitivity_topk=1,
    )
    assert found.output_context_tokens == ["▁Anna"]
    assert found.output_current == "put her own hat on the table."
    current = marian.tokenizer.convert_tokens_to_ids(found.output_current_tokens)
    context = marian.tokenizer.convert_tokens_to_ids(["▁Anna"])
    expected = []
    for i, token in enumerate(current):
        with_ = _predicted(marian, "安娜把自己的帽子放在桌子上了。", context + current[:i])[token]
        expected.append(float(with_ - _predicted(marian, "把自己的帽子放在桌子上了。", current[:i])[token]))
    assert found.cti_scores == pytest.approx(expected, abs=1e-4)
    (cci,) = found.cci_scores
    assert cci.cti_idx == max(range(len(expected)), key=lambda i: abs(expected[i]))
    assert (len(cci.input_context_scores or []), len(cci.output_context_scores or [])) == (1, 1)
    plain = marian.attribute(
        "安娜把自己的帽子放在桌子上了。",
        f"Anna {found.output_current}",
        method="occlusion",
        attribute_target=True,
        positions=[2 + cci.cti_idx],
        show_progress=False,
    ).aggregate(normalize=False)[0]
    assert cci.input_context_scores == pytest.approx(plain.source_attributions[:1, 0].tolist(), abs=1e-6)
    assert cci.output_context_scores == pytest.approx(plain.target_attributions[1:2, 0].tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("context", "current", "word", "cue"),
    [
        ("Anna gave the red ball to Tom.", "Now", "Ġball", "Ġball"),
        ("The secret word is kite.", "Alice asked Mary about the secret word and Mary said", "Ġkite", "Ġkite"),
    ],
)
def test_known_cues_are_found(gpt2: Any, context: str, current: str, word: str, cue: str) -> None:
    found = inseq.attribute_context(
        gpt2, current, context, context_sensitivity_std_threshold=0.0, attributed_fn="contrast_prob_diff"
    )
    cci = next(cci for cci in found.cci_scores if cci.cti_token == word)
    scores = cci.input_context_scores or []
    assert found.input_context_tokens is not None
    assert found.input_context_tokens[max(range(len(scores)), key=scores.__getitem__)] == cue


def test_the_strongest_cue_is_one_that_decided_the_word(gpt2: Any) -> None:
    """Scenes whose cues are known; one token of the context taken at random is a cue in about one case of eight."""
    scenes = [scene for scene in gold_scenes() if scene.cues[0].kind in ("gave", "password", "location", "lost")]
    hits = []
    for scene in scenes[:12]:
        cut = scene.text.index(". ") + 1
        begin, _, rest = scene.text[cut + 1 :].partition(" ")
        found = inseq.attribute_context(
            gpt2,
            begin,
            scene.text[:cut],
            output_current_text=rest,
            attributed_fn="contrast_prob_diff",
            context_sensitivity_std_threshold=None,
        )
        offsets = gpt2.tokenizer(scene.text, return_offsets_mapping=True)["offset_mapping"]
        first = len(offsets) - len(found.output_current_tokens or [])
        for cci in found.cci_scores:
            start, end = offsets[first + cci.cti_idx]
            cue = next((cue for cue in scene.cues if cue.word[0] < end and start < cue.word[1]), None)
            sure = [span for span in cue.sure if span[1] <= cut] if cue and cci.cti_score > 1 else []
            if sure:
                scores = cci.input_context_scores or []
                a, b = offsets[max(range(len(scores)), key=scores.__getitem__)]
                hits.append(any(span[0] < b and a < span[1] for span in sure))
    assert len(hits) > 15
    assert sum(hits) > 0.8 * len(hits)


def test_the_pronoun_of_a_translation_depends_on_the_name_in_the_context(marian: Any) -> None:
    found = inseq.attribute_context(
        marian,
        "把自己的帽子放在桌子上了。",
        "安娜",
        input_template="{context}{current}",
        context_sensitivity_topk=2,
        context_sensitivity_std_threshold=None,
    )
    assert [cci.cti_token for cci in found.cci_scores] == ["▁Anna", "▁her"]


def test_forced_and_generated_outputs_are_the_same(gpt2: Any, marian: Any) -> None:
    texts = {"input_context_text": CONTEXT, "context_sensitivity_topk": 2, "context_sensitivity_std_threshold": None}
    free = inseq.attribute_context(gpt2, CURRENT, **texts)
    forced = inseq.attribute_context(gpt2, CURRENT, output_current_text="Tom has the red ball.", **texts)
    assert free.cti_scores == forced.cti_scores
    assert free.cci_scores == forced.cci_scores
    begun = inseq.attribute_context(gpt2, CURRENT, output_context_text="Tom has", **texts)
    assert (begun.output_context_tokens, begun.output_current) == (["ĠTom", "Ġhas"], "the red ball.")
    whole = inseq.attribute_context(gpt2, CURRENT, output_context_text="Tom has", output_current_text="the red ball.", **texts)
    assert whole.cti_scores == begun.cti_scores


def test_a_generated_output_is_split_at_the_template_s_own_words(gpt2: Any) -> None:
    arguments = {"output_template": "{context} the {current}", "context_sensitivity_topk": 1}
    found = inseq.attribute_context(gpt2, CURRENT, CONTEXT, **arguments)
    assert (found.output_context, found.output_current) == ("Tom has", "red ball.")
    other = inseq.attribute_context(gpt2, CURRENT, CONTEXT, output_current_text="blue ball.", **arguments)
    assert (other.output_context, other.output_current_tokens) == ("Tom has", ["Ġblue", "Ġball", "."])
    with pytest.raises(ArgumentError, match="needs output_context_text"):
        inseq.attribute_context(gpt2, CURRENT, CONTEXT, handle_output_context_strategy="pre", **arguments)


def test_nobody_is_asked_unless_it_is_wanted(gpt2: Any) -> None:
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return "Tom has the"

    args = paths.AttributeContextArgs(
        CURRENT, CONTEXT, output_template="{context} {current}", handle_output_context_strategy="manual"
    )
    found = paths.attribute_context_with_model(args, gpt2, answer)
    assert (len(asked), found.output_current) == (1, "red ball.")


def test_tokens_to_compare_with_are_named(gpt2: Any) -> None:
    options = {"attributed_fn": "contrast_prob_diff", "context_sensitivity_topk": 1, "context_sensitivity_std_threshold": None}
    found = inseq.attribute_context(gpt2, CURRENT, CONTEXT, contextless_output_next_tokens=["Mary"], **options)
    assert found.cci_scores[0].contrast_token == "ĠMary"
    assert found.cci_scores[0].contextless_output == "Now Mary"
    with pytest.raises(ArgumentError, match="has 2 tokens, and 1 were selected"):
        inseq.attribute_context(gpt2, CURRENT, CONTEXT, contextless_output_next_tokens=["Mary", "Tom"], **options)


def test_targets_of_one_s_own(gpt2: Any) -> None:
    """One of a prediction is compared like ours, one written for Inseq compares nothing."""

    def gain(p: inseq.Prediction) -> Tensor:
        return p.written - (p if p.contrast is None else p.contrast).written

    def confidence(args: inseq.StepFunctionArgs) -> Tensor:
        return args.forward_output.logits[:, -1].softmax(-1).gather(-1, args.target_ids[:, None])[:, 0]

    options = {"context_sensitivity_topk": 2, "context_sensitivity_std_threshold": None}
    own = inseq.attribute_context(gpt2, CURRENT, CONTEXT, attributed_fn=gain, **options)
    same = inseq.attribute_context(gpt2, CURRENT, CONTEXT, attributed_fn="contrast_logits_diff", **options)
    assert own.cci_scores == same.cci_scores
    assert own.info is not None
    assert own.info["attributed_fn"] == "gain"
    written = inseq.attribute_context(gpt2, CURRENT, CONTEXT, attributed_fn=confidence, **options)
    plain = inseq.attribute_context(gpt2, CURRENT, CONTEXT, attributed_fn="probability", **options)
    for a, b in zip(written.cci_scores, plain.cci_scores, strict=True):
        assert a.contrast_token is None
        assert a.input_context_scores == pytest.approx(b.input_context_scores, rel=1e-6)


def test_tokens_are_explained_in_one_call(gpt2: Any) -> None:
    """What each is compared with is its own; none changes the scores of another."""
    options = {"attributed_fn": "contrast_prob_diff", "context_sensitivity_std_threshold": None}
    all_ = inseq.attribute_context(gpt2, CURRENT, CONTEXT, **options)
    assert len(all_.cci_scores) == 6
    for cci in all_.cci_scores[:3]:
        ids = gpt2.tokenizer(f"{CONTEXT} {CURRENT}").input_ids
        n, body = len(ids), gpt2.tokenizer.convert_tokens_to_ids(all_.output_current_tokens)
        other = gpt2.tokenizer.convert_tokens_to_ids(cci.contrast_token)
        alone = gpt2.attribute(
            [ids],
            [ids + body],
            attributed_fn="contrast_prob_diff",
            contrast_targets=[ids + body[: cci.cti_idx] + [other]],
            contrast_force_inputs=False,
            positions=[n + cci.cti_idx],
            contrast_targets_alignments=[(n + cci.cti_idx, n + cci.cti_idx)],
            show_progress=False,
        )[0].aggregate(normalize=False)
        if other != body[cci.cti_idx]:
            assert cci.input_context_scores == pytest.approx(alone.target_attributions[:8, 0].tolist(), rel=1e-5)


def test_what_is_read_without_context_may_be_anything(gpt2: Any) -> None:
    found = inseq.attribute_context(
        gpt2,
        "Anna gave the red ball to Tom. Now",
        contextless_input_current_text="Anna gave the blue ball to Tom. Now",
        context_sensitivity_topk=1,
    )
    assert [cci.cti_token for cci in found.cci_scores] == ["Ġred"]
    assert found.input_context_tokens is None
    assert found.cci_scores[0].input_context_scores is None


def test_what_the_template_says_before_a_generated_text_is_forced(gpt2: Any) -> None:
    found = inseq.attribute_context(
        gpt2, "Now", CONTEXT, output_template="Tom {current}", contextless_output_current_text="Tom {current}"
    )
    assert found.output_current == "has the red ball."
    with pytest.raises(ArgumentError, match="ends with '!!', and the output does not"):
        inseq.attribute_context(gpt2, "Now", CONTEXT, output_template="{current}!!")


def test_braces_are_themselves() -> None:
    text, spans = filled("{x} {context} {{ {current}", "input_template", context="{current}", current="a {b}")
    assert text == "{x} {current} {{ a {b}"
    assert {name: text[a:b] for name, (a, b) in spans.items()} == {"context": "{current}", "current": "a {b}"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_current_text": " "}, "is empty"),
        ({"input_template": "{context}"}, "no {current}"),
        ({"input_template": "{current}", "input_context_text": "x"}, "has no place"),
        ({"input_template": "{context} {current}"}, "without a text"),
        ({"output_template": "{current} {context}"}, "must come before"),
        ({"context_sensitivity_metric": "logit", "input_context_text": "x"}, "choose from contrast_"),
        ({}, "reads the same with and without context"),
        ({"handle_output_context_strategy": "maybe"}, "auto, manual, pre"),
    ],
)
def test_what_cannot_be_done_is_said(gpt2: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as stopped:
        inseq.attribute_context(gpt2, **{"input_current_text": "Hello", **arguments})
    assert message in str(stopped.value)


def test_unknown_arguments_are_refused(gpt2: Any) -> None:
    with pytest.raises(UnknownArgumentError, match="input_template"):
        inseq.attribute_context(gpt2, "Hello", input_templat="{current}")


def test_results_are_saved_loaded_and_shown(gpt2: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = inseq.attribute_context(
        gpt2,
        CURRENT,
        CONTEXT,
        attributed_fn="contrast_prob_diff",
        context_sensitivity_std_threshold=0.5,
        output_context_text="Tom",
    )
    before = json.dumps(found.to_dict())
    page = paths.visualize_attribute_context(found, show_viz=True)
    assert "cues" in capsys.readouterr().out
    assert json.dumps(found.to_dict()) == before
    found.save(tmp_path / "context.json")
    assert AttributeContextOutput.load(tmp_path / "context.json") == found
    assert found.min_cci <= found.mean_cci <= found.max_cci
    assert found.std_cti > 0 < found.std_cci
    assert "data-line" in page
    (tmp_path / "bad.json").write_text('{"cci_scores": [{"x": 1}]}')
    with pytest.raises(FileFormatError, match="Damaged"):
        AttributeContextOutput.load(tmp_path / "bad.json")


def test_hostile_text_is_inert() -> None:
    evil = "</style><script>alert(1)</script>\x1b[2J"
    found = AttributeContextOutput(
        evil, [evil], None, None, evil, [evil], [1.0], [paths.CCIOutput(0, evil, 1.0, evil, None, None, [1.0])]
    )
    page = found.show(display=False, return_html=True) or ""
    assert "<script>alert" not in page
    assert page.count("<script") == 2
    assert "\x1b" not in page


def test_selection() -> None:
    assert selected([1.0, -5.0, 2.0], None, None) == [1, 2, 0]
    assert selected([1.0, -5.0, 2.0], None, 1) == [1]
    assert selected([3.0], 1.0, None) == [0]
    assert selected([], 1.0, None) == []


def test_the_language_to_write_is_the_first_token() -> None:
    class Tokenizer:
        lang_code_to_token: ClassVar = {"fr": "__fr__"}
        unk_token_id = 3

        def convert_tokens_to_ids(self, token: str) -> int:
            return {"__fr__": 7, "it_IT": 8}.get(token, 3)

    given = {"max_new_tokens": 2}
    assert with_language(given, {"tgt_lang": "fr"}, Tokenizer()) == {**given, "forced_bos_token_id": 7}
    assert with_language({}, {"tgt_lang": "it_IT"}, Tokenizer()) == {"forced_bos_token_id": 8}
    assert with_language(given, {}, Tokenizer()) == given
    with pytest.raises(ArgumentError, match="no token for tgt_lang='xx'"):
        with_language({}, {"tgt_lang": "xx"}, Tokenizer())


@pytest.mark.parametrize(
    ("name", "kind"),
    [("llama", "words_bos"), ("gpt2", "words"), ("gpt2", "bytes"), ("marian", "words_eos"), ("bart", "words_bos")],
)
def test_where_things_stand_with_every_kind_of_tokenizer(name: str, kind: Any) -> None:
    built = zoo.build(name, vocab=zoo.BYTES_VOCAB) if kind == "bytes" else zoo.build(name)
    model = inseq.load_model(built, tokenizer=zoo.tokenizer(kind))
    encoder = model.adapter.encoder

    def said(ids: list[int], positions: list[int]) -> str:
        return " ".join(
            "".join(t.text for t in encoder.tokens([ids[i] for i in positions], ["generated"] * len(positions))).split()
        )

    def laid(**texts: str) -> Any:
        return lay_out(model, paths.AttributeContextArgs("w1 w2", "w4 w5", generation_kwargs=LENGTHS, **texts), input)

    forced = laid(output_context_text="w7 w8", output_current_text="w9 w10")
    read = forced.source if model.is_encoder_decoder else forced.target
    spaced = "{}{}" if kind.startswith("words") else "{} {}"
    assert said(read, forced.input_context) == spaced.format("w4", "w5")
    assert said(forced.target, forced.output_context) == spaced.format("w7", "w8")
    assert said(forced.target, forced.current) == spaced.format("w9", "w10")
    start = {"llama": [0], "bart": [model.model.generation_config.decoder_start_token_id, 0]}.get(name, [])
    alone = encoder.input_ids("w1 w2", special=False)
    if not model.is_encoder_decoder:
        assert forced.plain_prefix == start + alone
    generated = laid()
    written = [i for i, id_ in enumerate(generated.target) if i >= generated.current[0] and id_ not in encoder.special_ids]
    assert generated.current == written
    given = generated.source or generated.target[: generated.current[0]]
    whole = model.attribute([given], method="dummy", generation_args=LENGTHS, show_progress=False)[0]
    assert generated.target == [token.id for token in whole.target if not token.special or token.id in generated.target[:1]]
