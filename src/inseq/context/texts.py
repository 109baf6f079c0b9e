"""From templates and texts to ids, and to where in them the contexts and the current output stand."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from inseq.errors import ArgumentError
from inseq.text.encode import Encoder

Chars = tuple[int, int]
PLACE = re.compile(r"\{(context|current)\}")
SENTENCE_END = re.compile(r"[.!?。！？](?=\s|$|\w)")


def filled(template: str, argument: str, **texts: str | None) -> tuple[str, dict[str, Chars]]:
    """The template with its texts, and where each stands; all other braces are themselves.

    Raises:
        ArgumentError: for a placeholder that is missing, twice there, or without a text.
    """
    out, spans, end = "", {}, 0
    for place in PLACE.finditer(template):
        name = place[1]
        text = texts.get(name)
        if text is None or name in spans:
            what = "twice there" if name in spans else f"without a text: pass {argument.replace('template', name)}_text"
            raise ArgumentError(f"{argument}={template!r}: {{{name}}} is {what}.")
        out += template[end : place.start()]
        spans[name] = (len(out), len(out) + len(text))
        out, end = out + text, place.end()
    if "current" not in spans:
        raise ArgumentError(f"{argument}={template!r} has no {{current}}, where the current text goes.")
    return out + template[end:], spans


def with_separator(before: str, after: str, separator: str) -> str:
    """Two texts with the separator between them, unless it is there."""
    return before + after if before.endswith(separator) or after.startswith(separator) else before + separator + after


def spans_of(encoder: Encoder, ids: Sequence[int], text: str, kept: Collection[str] = ()) -> list[Chars]:
    """Where in a text each of its tokens stands; those that are not in it have an empty span.

    A fast tokenizer says so itself if it gives the same ids; otherwise each token's readable text is looked for, in order,
    and one that is not found (an unknown word) has what its neighbours leave.
    """
    tokenizer = encoder.tokenizer
    if tokenizer.is_fast:
        encoded = tokenizer(text, truncation=False, verbose=False, return_offsets_mapping=True)
        if list(encoded["input_ids"]) == list(ids):
            return [tuple(span) for span in encoded["offset_mapping"]]
    found: list[Chars | None] = []
    at = 0
    for token in encoder.tokens(ids, ["generated"] * len(ids)):
        piece = token.text.strip()
        if token.special and token.token not in kept and token.token != tokenizer.unk_token:
            found.append((at, at))
            continue
        if not piece and not token.text and found:
            found.append(found[-1])
            continue
        start = text.find(piece, at) if piece and token.token != tokenizer.unk_token else -1
        found.append(None if start < 0 else (start, start + len(piece)))
        at = at if start < 0 else start + len(piece)
    for i, span in enumerate(found):
        if span is None:
            before = found[i - 1][1] if i and found[i - 1] else 0  # type: ignore[index]
            after = next((s[0] for s in found[i + 1 :] if s is not None), len(text))
            found[i] = (before, max(before, after))
    return [span or (0, 0) for span in found]


def within(spans: Sequence[Chars], chars: Chars | None) -> list[int]:
    """The tokens that a stretch of text touches."""
    return [] if chars is None else [i for i, (a, b) in enumerate(spans) if a < b and a < chars[1] and b > chars[0]]


@dataclass(frozen=True)
class Generated:
    """Generated tokens and the text that they show.

    Attributes:
        text: what the tokens say, without special tokens that are not kept.
        spans: where each token stands in it.
    """

    text: str
    spans: list[Chars]


def generated_text(encoder: Encoder, ids: Sequence[int], kept: Collection[str]) -> Generated:
    """The text of generated ids, token by token: nothing is tokenised again."""
    text = ""
    spans: list[Chars] = []
    for token in encoder.tokens(ids, ["generated"] * len(ids)):
        hidden = token.special and token.token not in kept
        shown = "" if hidden else token.text
        rest_of_a_character = not shown and not hidden and bool(spans)
        spans.append(spans[-1] if rest_of_a_character else (len(text), len(text) + len(shown)))
        text += shown
    return Generated(text, spans)


def split_context(text: str, between: str, context: str | None, strategy: str, ask: Callable[[str], str]) -> Chars:
    """Where the context of a generated text ends, and where what is current begins.

    The template's own words between the two are looked for; then, as many sentences are taken as the input's context has.

    Args:
        text: what was generated.
        between: what the template has between context and current.
        context: the input's context.
        strategy: ``"auto"``, ``"pre"`` (refuse) or ``"manual"`` (ask).
        ask: how a person is asked.

    Raises:
        ArgumentError: where it cannot be told.
    """
    if strategy == "pre":
        raise ArgumentError(
            "handle_output_context_strategy='pre' needs output_context_text, since {context} is in the template."
        )
    found: Chars | None = None
    if between.strip() and between.strip() in text:
        at = text.index(between.strip())
        found = (at, at + len(between.strip()))
    else:
        n = max(1, len(SENTENCE_END.findall(context or "")))
        ends = [m.end() for m in SENTENCE_END.finditer(text) if text[m.end() :].strip()]
        found = (ends[n - 1],) * 2 if len(ends) >= n else None
    if strategy == "manual":
        offered = "" if found is None else text[: found[0]]
        answer = ask(f"The model wrote {text!r}. What of it, from its beginning, is context? [{offered}] ") or offered
        if not answer or not text.lstrip().startswith(answer.strip()):
            raise ArgumentError(f"The context {answer!r} is not how the output begins: {text!r}.")
        end = len(text) - len(text.lstrip()) + len(answer.strip())
        return end, end
    if found is None or not text[found[1] :].strip():
        raise ArgumentError(
            f"It cannot be told where the context of the output {text!r} ends: put a text that the model writes between "
            "{context} and {current} in output_template, or pass output_context_text."
        )
    return found
