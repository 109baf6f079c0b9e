"""Spans of tokens that belong together: words, sentences, turns and what a pattern leaves between its matches."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from inseq.errors import ArgumentError
from inseq.results.aggregate.axes import aggregators
from inseq.results.aggregate.spans import Span, spans
from inseq.results.scores import S, SequenceScores
from inseq.text.pieces import Alphabet
from inseq.text.tokens import Token

UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff]"
)
"""Characters of scripts that are written without spaces: each piece stands for itself."""

ENDS = re.compile(r"[.!?…。！？]+[\"'”’»)\]）」』]*\s*$")
"""How a sentence ends."""

Starts = Callable[[Token, Token], bool]
"""Whether a token starts something new after another one."""


@aggregators("subwords")
def subwords(
    output: S,
    *,
    aggregate_source: bool = True,
    aggregate_target: bool = True,
    special_chars: Any = None,
    is_suffix_symbol: bool = False,
    aggregate_fn: Any = None,
) -> S:
    """Merge the pieces of each word: a word begins at a space, at a special token, and beside scripts without spaces.

    Args:
        output: the output.
        aggregate_source: whether source tokens are merged.
        aggregate_target: whether target tokens are merged.
        special_chars: what marks words in pieces, one or several texts; by default the tokenizer's own way is known.
        is_suffix_symbol: whether it marks pieces that go on, as ``##`` does, in place of those that begin.
        aggregate_fn: how scores are merged; the one of largest magnitude by default.
    """
    starts = _word_starts(output) if special_chars is None else _marked(special_chars, is_suffix_symbol)
    return _merged(output, starts, aggregate_source, aggregate_target, aggregate_fn)


@aggregators("words")
def words(output: S, *, aggregate_fn: Any = None) -> S:
    """Merge the pieces of each word, punctuation apart."""
    return _merged(output, _starts_of_words(output), True, True, aggregate_fn)


def _starts_of_words(output: SequenceScores) -> Starts:
    starts = _word_starts(output)
    return lambda before, token: starts(before, token) or _is_mark(before) != _is_mark(token)


@aggregators("sentences")
def sentences(output: S, *, aggregate_fn: Any = None) -> S:
    """Merge the tokens of each sentence: it ends at a mark such as ``.`` or ``。`` that a space or its script follows."""
    return _merged(output, _begins_sentence, True, True, aggregate_fn)


def _begins_sentence(before: Token, token: Token) -> bool:
    if _apart(before, token):
        return True
    ended = ENDS.search(before.text) is not None
    return ended and (token.text[:1].isspace() or before.text[-1:].isspace() or UNSPACED.match(token.text) is not None)


STARTS: dict[str, Callable[[SequenceScores], Starts]] = {
    "word": _starts_of_words,
    "sentence": lambda output: _begins_sentence,
}
"""What begins a word and a sentence of an output."""


@aggregators("split")
def split(
    output: S,
    *,
    split_pattern: str | None = None,
    split_mode: str = "single",
    aggregate_source: bool = True,
    aggregate_target: bool = True,
    aggregate_fn: Any = None,
) -> S:
    """Merge the tokens between matches of a pattern, which is looked for in what tokens say.

    Args:
        output: the output.
        split_pattern: a regular expression.
        split_mode: whether the tokens of a match are merged by themselves (``"single"``), with what follows (``"start"``) or
            with what precedes (``"end"``).
        aggregate_source: whether source tokens are merged.
        aggregate_target: whether target tokens are merged.
        aggregate_fn: how scores are merged; the one of largest magnitude by default.
    """
    if split_mode not in ("single", "start", "end"):
        raise ArgumentError(f"split_mode={split_mode!r} must be 'single', 'start' or 'end'.")
    try:
        pattern = re.compile(split_pattern or "")
    except (re.error, TypeError) as error:
        raise ArgumentError(f"split_pattern={split_pattern!r} is no regular expression: {error}.") from error
    if not split_pattern:
        raise ArgumentError("aggregate('split') needs split_pattern=, a regular expression such as r'\\n'.")
    return spans(
        output,
        source_spans=_between(output.source, pattern, split_mode) if aggregate_source else None,
        target_spans=_between(output.target, pattern, split_mode) if aggregate_target else None,
        aggregate_fn=aggregate_fn,
    )


@aggregators("turns")
def turns(output: S, *, aggregate_fn: Any = None) -> S:
    """Merge the tokens of each message of a chat; what was generated stays as it is.

    Raises:
        ArgumentError: where the input was no chat.
    """
    found = (output.info.get("turns") or [[]])[0]
    if not found:
        raise ArgumentError(
            "This output has no turns: they are known where input_texts was a chat, a list of messages with 'role' and "
            "'content', and its tokenizer tells where in the text its tokens stand."
        )
    said = [(a, b) for a, b in (turn["span"] for turn in found)]
    side = "target_spans" if output.source_attributions is None else "source_spans"
    return spans(output, **{side: said}, aggregate_fn=aggregate_fn)


def _merged(output: S, starts: Starts, source: bool, target: bool, aggregate_fn: Any) -> S:
    sides = {
        "source_spans": grouped(output.source, starts) if source else None,
        "target_spans": grouped(output.target, starts) if target else None,
    }
    return spans(output, **sides, aggregate_fn=aggregate_fn)


def grouped(tokens: Sequence[Token], starts: Starts) -> list[Span]:
    """Spans of tokens that follow each other without a new start; a token without a text belongs to the one before."""
    at: list[int] = []
    said = None
    for i, token in enumerate(tokens):
        if said is None or (token.text and starts(said, token)):
            at.append(i)
        said = token if token.text or said is None else said
    return list(zip(at, [*at[1:], len(tokens)], strict=True)) if at else []


def _word_starts(output: SequenceScores) -> Starts:
    """Where words begin, by what is known of the tokenizer."""
    tokens = [*output.source, *output.target]
    written = output.info.get("alphabet")
    if written == Alphabet.PLAIN.value or (written is None and not any(re.search("[▁Ġ]|^##", t._piece) for t in tokens)):
        return lambda before, token: True
    return _begins_word


def _begins_word(before: Token, token: Token) -> bool:
    if _apart(before, token):
        return True
    if before.text.isspace():
        return token.text[0].isspace()
    return token.text[0].isspace() or UNSPACED.match(token.text) is not None or UNSPACED.match(before.text[-1:]) is not None


def _apart(before: Token, token: Token) -> bool:
    return before.special or token.special or before.role != token.role


def _is_mark(token: Token) -> bool:
    """Whether a token says nothing but punctuation; what joins letters inside a word does not count."""
    said = token.text.strip()
    return bool(said) and said not in ("'", "’", "-") and all(unicodedata.category(c)[0] in "PS" for c in said)


def _marked(given: Any, goes_on: bool) -> Starts:
    marks = tuple(given) if isinstance(given, list | tuple) else (given,)
    if not marks or any(not isinstance(mark, str) or not mark for mark in marks):
        raise ArgumentError(f"special_chars must be one or several texts such as '▁', got {given!r}.")
    return lambda before, token: _apart(before, token) or any(mark in token._piece for mark in marks) != goes_on


def _between(tokens: Sequence[Token], pattern: re.Pattern[str], mode: str) -> list[Span]:
    text = "".join(token.text for token in tokens)
    ends, at = [], 0
    for token in tokens:
        at += len(token.text)
        ends.append(at)
    matched = [m.span() for m in pattern.finditer(text) if m.end() > m.start()]
    held = [any(a < end and b > end - len(token.text) for a, b in matched) for token, end in zip(tokens, ends, strict=True)]
    cuts = {0}
    for i in range(1, len(tokens)):
        enters, leaves = held[i] and not held[i - 1], held[i - 1] and not held[i]
        if (enters and mode in ("single", "start")) or (leaves and mode in ("single", "end")):
            cuts.add(i)
    at_cuts = sorted(cuts) if tokens else []
    return list(zip(at_cuts, [*at_cuts[1:], len(tokens)], strict=True))
