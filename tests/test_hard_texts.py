"""Texts and tokenizers that are hard, from the call to the result: nothing is dropped, doubled or cut silently."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import MBart50Tokenizer, PreTrainedTokenizerFast

import inseq
from inseq.errors import ArgumentError

QUIET: dict[str, Any] = {"show_progress": False}


@pytest.fixture(scope="module")
def multilingual() -> inseq.AttributionModel:
    """A language tag begins what is read, and what is written by force."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁w{i}", -1.0 - i) for i in range(20))]
    tokenizer = MBart50Tokenizer(vocab=[*pieces, ("▁", -30.0)], src_lang="en_XX", tgt_lang="fr_XX")
    return inseq.load_model(zoo.build("mbart"), "saliency", tokenizer=tokenizer)


def _said(tokens: Any) -> list[str]:
    return [str(token) for token in tokens]


def test_language_tags_stand_on_both_sides(multilingual: inseq.AttributionModel) -> None:
    (found,) = multilingual.attribute("w1 w2", "w3", attribute_target=True, **QUIET)
    start = multilingual.convert_ids_to_tokens([multilingual.bos_token_id], skip_special_tokens=False)
    assert _said(found.source) == ["en_XX", "▁w1", "▁w2", "</s>"]
    assert _said(found.target) == [*start, "fr_XX", "▁w3", "</s>"]
    assert [token.special for token in found.target] == [True, True, False, True]
    assert found.attr_pos_start == 1, "the tag is written, and explained"
    assert found.source_attributions is not None
    assert not found.source_attributions.isnan().any()


def test_a_forced_first_token_is_what_was_generated(multilingual: inseq.AttributionModel) -> None:
    tag = multilingual.convert_tokens_to_ids("fr_XX")
    arguments = {"generation_args": {"forced_bos_token_id": tag, "max_new_tokens": 4}, **QUIET}
    (found,) = multilingual.attribute("w1 w2", **arguments)
    assert found.generated[0].id == tag
    ids = [token.id for token in found.target]
    assert multilingual.attribute("w1 w2", [ids], **QUIET)[0] == found


def test_a_target_prefix_begins_with_its_tag(multilingual: inseq.AttributionModel) -> None:
    tag = multilingual.convert_tokens_to_ids("fr_XX")
    arguments = {"generate_from_target_prefix": True, "generation_args": {"max_new_tokens": 3}, **QUIET}
    (found,) = multilingual.attribute("w1 w2", [[tag, multilingual.convert_tokens_to_ids("▁w3")]], **arguments)
    assert _said(found.generated[:2]) == ["fr_XX", "▁w3"]
    assert len(found.generated) > 2


def test_starts_that_are_written_out_are_kept_beside_the_tokenizer_s_own() -> None:
    model = inseq.load_model(zoo.build("llama"), "saliency", tokenizer=zoo.tokenizer("words_bos"))
    texts = ["<s> w1 w2", "<s> <s> w1"]
    together = model.attribute(texts, [f"{text} w3 <s> w4" for text in texts], **QUIET)
    assert [[token.id for token in found.target] for found in together] == [[0, 0, 5, 6, 7, 0, 8], [0, 0, 0, 5, 7, 0, 8]]
    for found, text in zip(together, texts, strict=True):
        assert found == model.attribute(text, f"{text} w3 <s> w4", **QUIET)[0]
        assert found.target_attributions is not None
        assert found.target_attributions.shape[:2] == (7, 3)


def test_without_an_unknown_token_the_baseline_is_padding() -> None:
    tokenizer = zoo.tokenizer("bytes")
    model = inseq.load_model(zoo.build("gpt2", vocab=zoo.BYTES_VOCAB), "occlusion", tokenizer=tokenizer)
    assert tokenizer.unk_token_id is None
    found = model.attribute("ab", "ab cd", **QUIET)
    assert found == model.attribute("ab", "ab cd", baseline="pad", **QUIET)
    assert tokenizer.unk_token_id is None, "the tokenizer is a guest"
    assert model.encode("ab", return_baseline=True).baseline_ids.unique().tolist() == [tokenizer.pad_token_id]


@pytest.mark.parametrize("text", ["a\x00b", "\x00", "a\x00\x00 שלום 👩‍👩‍👧", "e\u0301 \u202e x"])
def test_odd_characters_come_back_from_the_result(text: str) -> None:
    model = inseq.load_model(zoo.build("gpt2", vocab=zoo.BYTES_VOCAB), "saliency", tokenizer=zoo.tokenizer("bytes"))
    (found,) = model.attribute(text, f"{text}!\x00", **QUIET)
    assert "".join(token.text for token in found.target) == f"{text}!\x00"
    assert found.target_attributions is not None
    assert len(found.target) == found.target_attributions.shape[0]


@pytest.mark.parametrize("text", ["a\ud800", "\udc80"])
def test_lone_surrogates_are_refused_wherever_a_text_may_stand(text: str) -> None:
    model = inseq.load_model(zoo.build("gpt2"), "saliency", tokenizer=zoo.tokenizer("words"))
    for arguments in ((text,), ("w1", f"w1 {text}"), (["w1", text],)):
        with pytest.raises(ArgumentError, match="lone surrogate"):
            model.attribute(*arguments, **QUIET)
    with pytest.raises(ArgumentError, match=r"contrast_targets\[0\] holds a lone surrogate"):
        model.attribute("w1", "w1 w2", attributed_fn="contrast_prob_diff", contrast_targets=text, **QUIET)


def _sentencepiece() -> PreTrainedTokenizerFast:
    pieces = ["<unk>", "</s>", *(f"▁w{i}" for i in range(10)), "▁", "w", *"0123456789"]
    core = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], 0))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="</s>", pad_token="</s>")


@pytest.mark.parametrize("text", ["w1 " * 333_334, "w" * 10**6], ids=["words", "one word"])
@pytest.mark.parametrize("kind", ["words", "sentencepiece"])
def test_a_million_characters_are_refused_by_a_model_that_has_no_room_for_them(kind: str, text: str) -> None:
    """Before anything runs, with the number; where a tokenizer reads them as one unknown word, that is what is explained."""
    tokenizer = zoo.tokenizer("words") if kind == "words" else _sentencepiece()
    model = inseq.load_model(zoo.build("gpt2"), "saliency", tokenizer=tokenizer)
    if len(model.encode(text).input_tokens[0]) == 1:
        (found,) = model.attribute(text, continuations=" w2", **QUIET)
        assert found.source[0].id == tokenizer.unk_token_id
        return
    forwards: list[int] = []
    handle = model.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    try:
        for arguments in ({}, {"continuations": " w2"}):
            with pytest.raises(ArgumentError, match=r"needs \d{6,7} positions .* never cut silently"):
                model.attribute(text, **arguments, **QUIET)
    finally:
        handle.remove()
    assert not forwards


def test_a_long_text_within_the_positions_is_right() -> None:
    model = inseq.load_model(zoo.build("bloom"), "saliency", tokenizer=_sentencepiece())
    text = "w1 w2 " * 150
    (found,) = model.attribute(text.strip(), continuations=" w3", **QUIET)
    assert "".join(token.text for token in found.target).split() == [*text.split(), "w3"]
    assert found.target_attributions is not None
    assert torch.isfinite(found.target_attributions[:-1]).all()
