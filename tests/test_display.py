"""What tokens show, joined, is the text: on four kinds of tokenizers, for any text."""

from __future__ import annotations

import string
from functools import cache

import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from inseq.text.encode import Encoder
from inseq.text.pieces import Alphabet

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ["▁the", "▁", "he", "ll", "o", "我", "喜歡", "é", *string.ascii_letters, *string.punctuation]
ANY = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="▁"), max_size=40)
HARD = ["", "a\u0301e\u0301", "👩‍👩‍👧‍👦 x", "שלום עולם", "\x00\n\t", "我喜歡機器學習", "  two  spaces "]


@cache
def encoder(kind: str) -> Encoder:
    if kind == "byte-level":
        return Encoder(zoo.tokenizer("bytes"))
    if kind == "wordpiece":
        letters = [*string.ascii_letters, *string.punctuation]
        pieces = ["[UNK]", "un", "##able", *letters, *(f"##{letter}" for letter in letters)]
        core = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
        core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        core.decoder = decoders.WordPiece()
        return Encoder(PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]"))
    pieces = ["<unk>", *BYTES, *WORDS]
    if kind == "unigram":
        core = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], 0, byte_fallback=True))
    else:
        vocabulary = {piece: i for i, piece in enumerate([*pieces, "hell"])}
        core = Tokenizer(models.BPE(vocabulary, [("he", "ll")], unk_token="<unk>", byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    return Encoder(PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>"))


def shown(kind: str, text: str) -> str:
    own = encoder(kind)
    ids = own.input_ids(text)
    return "".join(token.text for token in own.tokens(ids, ["source"] * len(ids)))


@pytest.mark.parametrize("kind", ["byte-level", "unigram", "bpe", "wordpiece"])
def test_alphabets_are_told(kind: str) -> None:
    expected = {"byte-level": Alphabet.BYTES, "wordpiece": Alphabet.WORDPIECE}
    assert encoder(kind).alphabet is expected.get(kind, Alphabet.SENTENCEPIECE)


@settings(max_examples=150, deadline=None)
@given(ANY)
def test_byte_level_pieces_show_the_text(text: str) -> None:
    assert shown("byte-level", text) == text


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@settings(max_examples=150, deadline=None)
@given(ANY.filter(lambda text: text.strip(" ") and "<0x" not in text))
def test_pieces_of_words_show_the_text_after_a_space(kind: str, text: str) -> None:
    """A space before the first word is the tokenizer's own; characters that it has no piece for are pieced together."""
    assert shown(kind, text).removeprefix(" ") == text.removeprefix(" ")


@settings(max_examples=150, deadline=None)
@given(st.text(string.ascii_letters + string.punctuation + " ", max_size=40))
def test_pieces_that_go_on_show_the_words(text: str) -> None:
    assert shown("wordpiece", text).split() == text.split()


@pytest.mark.parametrize("text", HARD)
@pytest.mark.parametrize("kind", ["byte-level", "unigram", "bpe"])
def test_hard_texts(kind: str, text: str) -> None:
    assert shown(kind, text).removeprefix(" ") == text.removeprefix(" ")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["byte-level", "unigram", "bpe"])
def test_a_million_characters(kind: str) -> None:
    text = "the 我喜歡é " * 100_000
    assert shown(kind, text).removeprefix(" ") == text
