"""What a vocabulary piece looks like to a reader.

A piece is a string of the tokenizer's own alphabet (``Ġworld``, ``▁I``, ``##ing``, ``<0xE4>``). Pieces that hold part of
a character are shown as one group: the first piece of the group carries the text, the others an empty string.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache

_BYTE_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Alphabet(Enum):
    """How pieces are written."""

    BYTES = "byte-level"
    SENTENCEPIECE = "sentencepiece"
    WORDPIECE = "wordpiece"
    PLAIN = "plain"


@lru_cache(maxsize=1)
def byte_of_char() -> dict[str, int]:
    """Return the byte behind each character of the byte-level alphabet (radford2019language).

    Printable bytes stand for themselves; the others follow, in order, from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in printable}
    hidden = [b for b in range(256) if b not in set(printable)]
    return table | {chr(0x100 + n): b for n, b in enumerate(hidden)}


def detect(vocabulary: Sequence[str]) -> Alphabet:
    """Tell the alphabet from the vocabulary itself.

    Args:
        vocabulary: all pieces; special tokens do no harm.
    """
    if any(piece.startswith("##") for piece in vocabulary) and "[UNK]" in vocabulary:
        return Alphabet.WORDPIECE
    marked = sum("▁" in piece for piece in vocabulary)
    spaced = sum("Ġ" in piece for piece in vocabulary)
    if marked > spaced or any(_BYTE_FALLBACK.fullmatch(piece) for piece in vocabulary):
        return Alphabet.SENTENCEPIECE
    return Alphabet.BYTES if spaced else Alphabet.PLAIN


def readable(pieces: Sequence[str], special: Sequence[bool], alphabet: Alphabet) -> list[str]:
    """Return the text of each piece; joined they give the text back, up to the special tokens.

    Args:
        pieces: raw vocabulary pieces, in order.
        special: whether a piece is a special token, which is shown as it is.
        alphabet: how the pieces are written.
    """
    chunks = [None if s else _bytes(piece, alphabet) for piece, s in zip(pieces, special, strict=True)]
    texts: list[str] = []
    i = 0
    while i < len(pieces):
        chunk = chunks[i]
        if chunk is None:
            texts.append(pieces[i])
            i += 1
            continue
        group = chunk
        end = i + 1
        while _cut(group) and end < len(chunks) and (more := chunks[end]) is not None:
            group += more
            end += 1
        texts += [group.decode("utf-8", errors="replace"), *[""] * (end - i - 1)]
        i = end
    return texts


@lru_cache(maxsize=2**16)
def _bytes(piece: str, alphabet: Alphabet) -> bytes:
    if alphabet is Alphabet.BYTES:
        table = byte_of_char()
        if all(char in table for char in piece):
            return bytes(table[char] for char in piece)
    if alphabet is Alphabet.SENTENCEPIECE:
        if fallback := _BYTE_FALLBACK.fullmatch(piece):
            return bytes([int(fallback[1], 16)])
        piece = piece.replace("▁", " ")
    if alphabet is Alphabet.WORDPIECE:
        piece = piece[2:] if piece.startswith("##") else f" {piece}"
    return piece.encode("utf-8", errors="replace")


def _cut(data: bytes) -> bool:
    """Whether the bytes end inside a character that further bytes could complete."""
    if data.isascii():
        return False
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            need = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back < need
        if byte < 0x80:
            return False
    return False
