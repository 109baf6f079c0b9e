"""The contextual run as ids: what is read, what was written, and where contexts and the current output stand in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from inseq.context.texts import PLACE, Chars, filled, generated_text, spans_of, split_context, with_separator, within
from inseq.errors import ArgumentError
from inseq.models.generation import generate

if TYPE_CHECKING:
    from inseq.call.model import AttributionModel
    from inseq.context.arguments import AttributeContextArgs


@dataclass
class Laid:
    """A run with context, and what the decoder reads in its stead without.

    Attributes:
        source: what an encoder reads.
        target: the decoder's ids up to the last current token; of a decoder-only model the input first.
        input_context: where the input's context stands: in ``source``, or of a decoder-only model in ``target``.
        output_context: where the output's context stands in ``target``.
        current: where the examined output stands in ``target``.
        plain_source: what an encoder reads without context.
        plain_prefix: what the decoder reads before the current output without context.
        output_context_text: the output's context.
        output_current_text: the examined output.
    """

    source: list[int]
    target: list[int]
    input_context: list[int]
    output_context: list[int]
    current: list[int]
    plain_source: list[int]
    plain_prefix: list[int]
    output_context_text: str | None
    output_current_text: str

    @property
    def body(self) -> list[int]:
        """The ids from the first current token on."""
        return self.target[self.current[0] :]

    def plain(self, position: int) -> int:
        """Where a position of ``target`` is without context."""
        return len(self.plain_prefix) + position - self.current[0]


def lay_out(model: AttributionModel, args: AttributeContextArgs, ask: Callable[[str], str]) -> Laid:
    """Read the texts, and generate what is not given.

    Raises:
        ArgumentError: for templates and texts that do not fit each other, and for an output without tokens.
    """
    encoder, sourced = model.adapter.encoder, model.is_encoder_decoder
    kept = args.special_tokens_to_keep
    read, at = filled(
        args.input_template or "", "input_template", current=args.input_current_text, context=args.input_context_text
    )
    places = [place[1] for place in PLACE.finditer(args.output_template or "")]
    given = {"context": args.output_context_text, "current": args.output_current_text}
    missing = next((place for place in places if given[place] is None), None)
    source, shift = (encoder.input_ids(read), 0) if sourced else ([], 0)
    in_source = within(spans_of(encoder, source, read, kept), at.get("context"))
    head, stands = _head(args.output_template or "", given, missing)
    joined = missing is None or bool(head)
    if sourced:
        begun = encoder.target_ids(head or " ")
        begun = begun if missing is None else _without_end(begun, encoder.special_ids, kept)
        text, chars = head, stands
        spans = [(0, 0), *spans_of(encoder, begun[1:], head, kept)]
    else:
        text = with_separator(read, head, args.decoder_input_output_separator) if joined else read
        shift = len(text) - len(head) if joined else 0
        text = text if missing is None else text.rstrip(" ")
        begun = encoder.input_ids(text)
        chars = {name: (a + shift, b + shift) for name, (a, b) in stands.items()}
        spans = spans_of(encoder, begun, text, kept)
        in_source = within(spans, at.get("context"))
    target, contexts = begun, within(spans, chars.get("context"))
    current = within(spans, chars.get("current"))
    if missing is not None:
        target, context, current, given = _written(model, args, source, begun, missing, ask, forced=bool(head.strip()))
        contexts = contexts or context
    if not current:
        raise ArgumentError("The current output has no token, so there is nothing to examine.")
    target = target[: current[-1] + 1]
    lead = list(takewhile(encoder.special_ids.__contains__, target)) if sourced else []
    plain_source, prefix = _plain(model, args, lead, joined)
    return Laid(
        source=source,
        target=target,
        input_context=in_source,
        output_context=[i for i in contexts if i < current[0]],
        current=current,
        plain_source=plain_source,
        plain_prefix=prefix,
        output_context_text=given["context"],
        output_current_text=given["current"] or "",
    )


def _head(template: str, given: dict[str, str | None], missing: str | None) -> tuple[str, dict[str, Chars]]:
    """What of the output is known before anything is generated."""
    if missing is None:
        return filled(template, "output_template", **given)
    before = template[: template.index(f"{{{missing}}}")]
    text, spans = filled(before + "{current}", "output_template", context=given["context"], current="")
    return text, {name: span for name, span in spans.items() if name == "context"}


def _written(
    model: AttributionModel,
    args: AttributeContextArgs,
    source: list[int],
    begun: list[int],
    missing: str,
    ask: Callable[[str], str],
    *,
    forced: bool,
) -> tuple[list[int], list[int], list[int], dict[str, str | None]]:
    """Generate what is missing: all ids, where context and current output stand, and their texts."""
    encoder, sourced = model.adapter.encoder, model.is_encoder_decoder
    template = args.output_template or ""
    prefixes = [begun] if sourced and forced else None
    inputs = [source] if sourced else [begun]
    ids = generate(model.adapter, inputs, args.generation_kwargs, None, prefixes)[0]
    first = len(begun) if not sourced or forced else 1
    found = generated_text(encoder, ids[first:], args.special_tokens_to_keep)
    suffix = template[template.index("{current}") + len("{current}") :].strip()
    end = len(found.text.rstrip())
    if suffix:
        if not found.text.rstrip().endswith(suffix):
            raise ArgumentError(f"output_template ends with {suffix!r}, and the output does not: {found.text!r}.")
        end -= len(suffix)
    if missing == "current":
        current = [first + i for i in within(found.spans, (0, end))]
        return ids, [], current, {"context": args.output_context_text, "current": found.text[:end].strip()}
    between = template[template.index("{context}") + len("{context}") : template.index("{current}")]
    stop, start = split_context(found.text[:end], between, args.input_context_text, args.handle_output_context_strategy, ask)
    context = [first + i for i in within(found.spans, (0, stop))]
    texts: dict[str, str | None] = {"context": found.text[:stop].strip(), "current": found.text[start:end].strip()}
    if args.output_current_text is None:
        current = [first + i for i in within(found.spans, (start, end)) if first + i not in context]
        return ids, context, current, texts
    said = between + args.output_current_text
    tail = encoder.target_ids(said, special=False)[1:] if sourced else encoder.input_ids(said, special=False)
    known = ids[: context[-1] + 1]
    shown = generated_text(encoder, tail, args.special_tokens_to_keep)
    at = max(shown.text.rfind(args.output_current_text.strip()), 0)
    current = [len(known) + i for i in within(shown.spans, (at, len(shown.text)))]
    return known + tail, context, current, {**texts, "current": args.output_current_text}


def _plain(model: AttributionModel, args: AttributeContextArgs, lead: list[int], joined: bool) -> tuple[list[int], list[int]]:
    """What encoder and decoder read without context, before the current output."""
    encoder = model.adapter.encoder
    read = (args.contextless_input_current_text or "").replace("{current}", args.input_current_text)
    before = (args.contextless_output_current_text or "").partition("{current}")[0]
    if model.is_encoder_decoder:
        return encoder.input_ids(read), lead + (encoder.target_ids(before, special=False)[1:] if before.strip() else [])
    text = with_separator(read, before, args.decoder_input_output_separator) if joined or before else read
    return [], encoder.input_ids(text.rstrip(" "))


def _without_end(ids: list[int], special: frozenset[int], kept: list[str]) -> list[int]:
    """Ids without the special tokens that end them; the decoder's start stays."""
    end = len(ids)
    while end > 1 and ids[end - 1] in special and not kept:
        end -= 1
    return ids[:end]
