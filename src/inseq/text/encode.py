"""From text to ids, and from ids to tokens. Ids that were generated are never turned into text and back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from inseq.errors import ArgumentError
from inseq.text.pieces import Alphabet, detect, readable
from inseq.text.tokens import Role, Token


class Encoder:
    """A tokenizer as this library uses it; none of its fields is ever set.

    Args:
        tokenizer: a transformers tokenizer, slow or fast.
        start: the decoder's start id of an encoder-decoder model; None for a decoder-only model.
    """

    def __init__(self, tokenizer: Any, start: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.start = start

    @cached_property
    def alphabet(self) -> Alphabet:
        return detect(list(self.tokenizer.get_vocab()))

    @cached_property
    def special_ids(self) -> frozenset[int]:
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        ids = {i for i, token in added.items() if token.special} | set(self.tokenizer.all_special_ids)
        return frozenset(ids if self.start is None else ids | {self.start})

    def input_ids(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of a source or a prompt, with or without the special tokens the tokenizer adds to it."""
        return list(self.tokenizer(text, add_special_tokens=special, truncation=False, verbose=False)["input_ids"])

    def target_ids(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of a forced translation, the decoder's start first."""
        assert self.start is not None
        written = self.tokenizer(text_target=text, add_special_tokens=special, truncation=False, verbose=False)
        return [self.start, *written["input_ids"]]

    def without_specials(self, text: str) -> str:
        """The text without the texts of special tokens."""
        for token in sorted(self.tokenizer.all_special_tokens, key=len, reverse=True):
            text = text.replace(token, "")
        return text

    def continued_ids(self, prompt: str, text: str, argument: str, *, special: bool = True) -> tuple[list[int], int]:
        """Ids of ``text``, which continues ``prompt``, and the index of the first token of the continuation.

        The whole text is tokenised once; a token that straddles the end of the prompt belongs to the continuation.

        Raises:
            ArgumentError: if ``text`` does not begin with ``prompt``, or adds nothing to it.
        """
        if not text.startswith(prompt):
            raise ArgumentError(
                f"{argument} must begin with its input text for a decoder-only model: got {_short(text)}, expected it to "
                f"begin with {_short(prompt)}. Pass the prompt followed by its continuation."
            )
        if self.tokenizer.is_fast:
            encoded = self.tokenizer(
                text, add_special_tokens=special, truncation=False, verbose=False, return_offsets_mapping=True
            )
            ids, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
            beyond = [i for i, (start, end) in enumerate(offsets) if end > len(prompt) and end > start]
            first = beyond[0] if beyond else len(ids)
        else:
            before = self.input_ids(prompt, special=special)
            ids = self.input_ids(text, special=special)
            first = len(before)
            if ids[:first] != before:
                ids = before + list(self.tokenizer(text[len(prompt) :], add_special_tokens=False)["input_ids"])
        if first == 0:
            raise ArgumentError(
                f"{argument}: the prompt {_short(prompt)} is only a part of the first token of {_short(text)}, so nothing was "
                "read before it. Pass a prompt of at least one token."
            )
        if first >= len(ids):
            raise ArgumentError(f"{argument} adds no token to its input text {_short(prompt)}: there is nothing to explain.")
        return ids, first

    def tokens(self, ids: Sequence[int], roles: Sequence[Role]) -> tuple[Token, ...]:
        """Tokens of one sequence, with their readable texts."""
        pieces = self._pieces(ids)
        special = [i in self.special_ids for i in ids]
        texts = readable(pieces, special, self.alphabet)
        return tuple(
            Token(piece, i, role, text, is_special)
            for piece, i, role, text, is_special in zip(pieces, ids, roles, texts, special, strict=True)
        )

    def _pieces(self, ids: Sequence[int]) -> list[str]:
        """The pieces of ids; an id itself where the model has more of them than the tokenizer."""
        try:
            pieces = self.tokenizer.convert_ids_to_tokens(list(ids))
        except IndexError:
            return [self._piece(i) for i in ids]
        return [f"<{i}>" if piece is None else str(piece) for i, piece in zip(ids, pieces, strict=True)]

    def _piece(self, i: int) -> str:
        try:
            (piece,) = self.tokenizer.convert_ids_to_tokens([i])
        except IndexError:
            piece = None
        return f"<{i}>" if piece is None else str(piece)

    def special_id(self, name: str) -> int | None:
        """The id of the tokenizer's ``unk``, ``pad``, ``mask``, ``eos`` or ``bos`` token, where it has one."""
        value = getattr(self.tokenizer, f"{name}_token_id", None)
        return None if value is None else int(value)

    def id_of(self, token: str) -> int | None:
        """The id of a token given by its piece or its text, where it is exactly one."""
        vocabulary = self.tokenizer.get_vocab()
        if token in vocabulary:
            return int(vocabulary[token])
        ids = self.tokenizer(token, add_special_tokens=False)["input_ids"]
        return int(ids[0]) if len(ids) == 1 else None


def checked_texts(value: object, argument: str) -> list[str]:
    """Return a text or a list of texts as a new list.

    Raises:
        ArgumentError: naming the argument, for anything but non-empty text.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        raise ArgumentError(f"{argument} must be a text or a list of texts, got {type(value).__name__} ({_short(value)}).")
    if not texts:
        raise ArgumentError(f"{argument} is an empty list: pass at least one text.")
    return [checked_text(text, argument if isinstance(value, str) else f"{argument}[{i}]") for i, text in enumerate(texts)]


def checked_text(text: object, name: str) -> str:
    """Return a text that can be read.

    Raises:
        ArgumentError: by its name, for anything but non-empty text.
    """
    if not isinstance(text, str):
        raise ArgumentError(f"{name} must be a text, got {type(text).__name__} ({_short(text)}).")
    if not text.strip():
        raise ArgumentError(f"{name} is empty ({text!r}): pass a text with at least one visible character.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ArgumentError(
            f"{name} holds a lone surrogate at character {error.start}, which no tokenizer can read: "
            "decode the original bytes again, with errors='replace'."
        ) from None
    return text


def are_ids(value: Any) -> bool:
    """Whether a value is one sequence of ids."""
    if isinstance(value, Tensor):
        return value.ndim == 1 and not value.is_floating_point() and len(value) > 0
    return isinstance(value, list | tuple) and len(value) > 0 and all(type(i) is int for i in value)


def known_ids(ids: Any, size: int, argument: str) -> list[int]:
    """Ids as a list of their own.

    Raises:
        ArgumentError: for an id that the model's vocabulary does not have.
    """
    listed = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    unknown = next((i for i in listed if not 0 <= i < size), None)
    if unknown is not None:
        raise ArgumentError(f"{argument} holds the id {unknown}, and the model's vocabulary has ids 0 to {size - 1}.")
    return listed


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
