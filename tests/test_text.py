"""Pieces as a reader sees them, and tokens as the encoder makes them."""

from __future__ import annotations

import pytest
import zoo
from hypothesis import given
from hypothesis import strategies as st

from inseq.errors import ArgumentError
from inseq.text.encode import Encoder, checked_texts
from inseq.text.pieces import Alphabet, byte_of_char, detect, readable
from inseq.text.tokens import Token


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_byte_level_pieces_give_the_text_back(text: str) -> None:
    tokenizer = zoo.tokenizer("bytes")
    ids = tokenizer(text)["input_ids"]
    tokens = Encoder(tokenizer).tokens(ids, ["prompt"] * len(ids))
    assert "".join(token.text for token in tokens) == text


def test_a_character_cut_over_pieces_is_shown_once() -> None:
    char_of_byte = {byte: char for char, byte in byte_of_char().items()}
    pieces = [char_of_byte[byte] for byte in "學a".encode()]
    assert readable(pieces, [False] * 4, Alphabet.BYTES) == ["學", "", "", "a"]


def test_a_broken_character_is_shown_as_one() -> None:
    char_of_byte = {byte: char for char, byte in byte_of_char().items()}
    assert readable([char_of_byte[0xE5], "a"], [False, False], Alphabet.BYTES) == ["\ufffda", ""]


@pytest.mark.parametrize(
    ("pieces", "alphabet", "texts"),
    [
        (["▁I", "▁li", "ke", "。"], Alphabet.SENTENCEPIECE, [" I", " li", "ke", "。"]),
        (["<0xE5>", "<0xAD>", "<0xB8>", "▁x"], Alphabet.SENTENCEPIECE, ["學", "", "", " x"]),
        (["play", "##ing"], Alphabet.WORDPIECE, [" play", "ing"]),
        (["w1"], Alphabet.PLAIN, ["w1"]),
    ],
)
def test_other_alphabets(pieces: list[str], alphabet: Alphabet, texts: list[str]) -> None:
    assert readable(pieces, [False] * len(pieces), alphabet) == texts


def test_special_tokens_are_shown_as_they_are() -> None:
    assert readable(["<0x41>", "</s>", "ä"], [False, True, False], Alphabet.SENTENCEPIECE) == ["A", "</s>", "ä"]


@pytest.mark.parametrize(
    ("vocabulary", "alphabet"),
    [
        (["Ġthe", "a"], Alphabet.BYTES),
        (["▁the", "a"], Alphabet.SENTENCEPIECE),
        (["[UNK]", "##ing"], Alphabet.WORDPIECE),
        (["w1"], Alphabet.PLAIN),
    ],
)
def test_alphabets_are_told_from_the_vocabulary(vocabulary: list[str], alphabet: Alphabet) -> None:
    assert detect(vocabulary) is alphabet


def test_an_edited_token_is_what_is_shown() -> None:
    token = Token("▁I", 5, "source", " I")
    assert token.shown == " I"
    token.token = "we"
    assert token.shown == "we"
    assert token.copy().shown == "we"
    assert token == "we"
    assert token == 5
    assert token.copy() == token


def test_the_continuation_begins_where_the_prompt_ends() -> None:
    encoder = Encoder(zoo.tokenizer("words_bos"))
    assert encoder.continued_ids("w0 w1", "w0 w1 w2 w3", "generated_texts") == ([zoo.BOS, 4, 5, 6, 7], 3)


def test_a_token_across_the_border_belongs_to_the_continuation() -> None:
    encoder = Encoder(zoo.tokenizer("words"))
    assert encoder.continued_ids("w0 w1", "w0 w15 w3", "generated_texts") == ([4, 19, 7], 1)


def test_a_prompt_inside_the_first_token_is_refused() -> None:
    with pytest.raises(ArgumentError, match="is only a part of the first token"):
        Encoder(zoo.tokenizer("words")).continued_ids("w1", "w15 w3", "generated_texts")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "texts must be a text or a list of texts, got NoneType"),
        (7, "texts must be a text or a list of texts, got int"),
        ([], "texts is an empty list: pass at least one text"),
        ("", "texts is empty"),
        (["a", " \n"], r"texts\[1\] is empty"),
        (["a", 3], r"texts\[1\] must be a text, got int \(3\)"),
        ("a\ud800", "texts holds a lone surrogate at character 1"),
    ],
)
def test_what_is_no_text_is_named(value: object, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        checked_texts(value, "texts")


def test_texts_are_copied() -> None:
    texts = ["a", "b"]
    assert checked_texts(texts, "texts") == texts
    assert checked_texts(texts, "texts") is not texts
