"""From what a user passes to ids: texts, ids or chats, and what follows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from inseq.errors import ArgumentError
from inseq.methods import method as methods
from inseq.models.adapter import Adapter
from inseq.models.generation import generate
from inseq.text.chat import Turn, is_chat, read_chat
from inseq.text.encode import Encoder, are_ids, checked_text, checked_texts, known_ids

Ids = tuple[list[int], list[int], int]
"""Source ids, the decoder's ids, and where the generated ones begin."""


@dataclass(frozen=True)
class Input:
    """One source or prompt.

    Attributes:
        text: as it was given; of ids and chats, what they say.
        ids: what the model reads.
        turns: where a chat's messages stand in ``ids``.
        is_text: whether it was given as text, and is tokenised together with what follows it.
    """

    text: str
    ids: list[int]
    turns: tuple[Turn, ...] = ()
    is_text: bool = True


@dataclass(frozen=True)
class RequestedOutput:
    """What follows the inputs, as it was asked for.

    Attributes:
        texts: the outputs, each beginning with its prompt where the model is decoder-only; texts or ids.
        continuations: the outputs without their prompts; texts or ids.
        is_prefix: whether the outputs are to be continued by the model.
        special: whether special tokens are added to texts.
        generation: arguments of ``generate``.
        batch_size: how many are generated at a time.
        told: called after each batch that was generated, see :func:`inseq.models.generation.generate`.
    """

    texts: Any = None
    continuations: Any = None
    is_prefix: bool = False
    special: bool = True
    generation: Mapping[str, Any] | None = None
    batch_size: int | None = None
    told: Callable[[list[int], Any], None] | None = None

    @property
    def forced(self) -> bool:
        """Whether nothing is generated."""
        return not self.is_prefix and (self.texts is not None or self.continuations is not None)


def read_inputs(adapter: Adapter, given: Any, *, special: bool = True) -> list[Input]:
    """Read texts, ids and chats.

    Args:
        adapter: the model.
        given: one of them, or a list.
        special: whether the tokenizer adds its special tokens to texts; otherwise theirs are removed, too.

    Raises:
        ArgumentError: for what is none of them.
    """
    found = []
    for i, each in enumerate(_listed(given, "input_texts")):
        name = "input_texts" if isinstance(given, str) else f"input_texts[{i}]"
        if is_chat(each):
            found.append(Input(*read_chat(adapter.encoder, each, name), is_text=False))
        elif are_ids(each):
            ids = known_ids(each, len(adapter.tables["source" if "source" in adapter.tables else "decoder"].weight), name)
            found.append(Input(adapter.encoder.tokenizer.decode(ids), ids, is_text=False))
        else:
            text = checked_text(each, name)
            text = text if special else _stripped(adapter.encoder, text, name)
            found.append(Input(text, adapter.encoder.input_ids(text, special=special)))
    return found


def read_outputs(adapter: Adapter, inputs: Sequence[Input], written: RequestedOutput) -> list[Ids]:
    """For each input, the ids of both sides: forced, or generated from it.

    Raises:
        ArgumentError: for outputs that do not fit the inputs, or the model.
    """
    sourced = "source" in adapter.tables
    if written.texts is not None and written.continuations is not None:
        raise ArgumentError("Got generated_texts and continuations: pass outputs with their prompts, or without, not both.")
    if written.continuations is not None and sourced:
        raise ArgumentError(
            "continuations is for decoder-only models, whose output follows the prompt: pass an encoder-decoder's output as "
            "generated_texts."
        )
    if written.is_prefix:
        return _continued(adapter, inputs, written)
    if written.forced:
        argument = "generated_texts" if written.continuations is None else "continuations"
        entries = _outputs(written.texts if written.continuations is None else written.continuations, argument, inputs)
        read = _target if sourced else _whole if written.continuations is None else _following
        ids = [
            read(adapter, each, entry, f"{argument}[{i}]", written.special)
            for i, (each, entry) in enumerate(zip(inputs, entries, strict=True))
        ]
        check_lengths(adapter, ids)
        return ids
    return _generated(adapter, inputs, written)


def _generated(
    adapter: Adapter, inputs: Sequence[Input], written: RequestedOutput, prefixes: Sequence[list[int]] | None = None
) -> list[Ids]:
    arguments = dict(written.generation or {})
    wanted = arguments.get("max_new_tokens")
    if wanted is not None and (not isinstance(wanted, int) or wanted < 1):
        raise ArgumentError(f"generation_args: max_new_tokens={wanted!r} must be a whole number of at least 1.")
    sourced, more = "source" in adapter.tables, [0] * (wanted or 1)
    before = [[0]] * len(inputs) if prefixes is None else prefixes
    check_lengths(
        adapter,
        [(x.ids, p + more, 1) if sourced else ([], x.ids + more, len(x.ids)) for x, p in zip(inputs, before, strict=True)],
    )
    outputs = generate(adapter, [x.ids for x in inputs], arguments, written.batch_size, prefixes, written.told)
    ids = [(x.ids, o, 1) if sourced else ([], o, len(x.ids)) for x, o in zip(inputs, outputs, strict=True)]
    for i, (_, target, first) in enumerate(ids):
        if first >= len(target):
            raise ArgumentError(f"input_texts[{i}]: the model generated no token, so there is nothing to explain.")
    check_lengths(adapter, ids)
    return ids


def _continued(adapter: Adapter, inputs: Sequence[Input], written: RequestedOutput) -> list[Ids]:
    """Outputs of an encoder-decoder that begin as they were given and go on as the model likes."""
    if "source" not in adapter.tables:
        raise ArgumentError(
            "generate_from_target_prefix is for encoder-decoder models: a decoder-only model goes on from its input text, so "
            "put the prefix at the end of that."
        )
    if written.texts is None:
        raise ArgumentError("generate_from_target_prefix=True goes on from generated_texts, which are missing.")
    entries = _outputs(written.texts, "generated_texts", inputs)
    prefixes = [
        _target(adapter, x, entry, f"generated_texts[{i}]", False)[1]
        for i, (x, entry) in enumerate(zip(inputs, entries, strict=True))
    ]
    return _generated(adapter, inputs, written, prefixes)


def _target(adapter: Adapter, given: Input, entry: Any, name: str, special: bool) -> Ids:
    """An encoder-decoder's output."""
    encoder = adapter.encoder
    if isinstance(entry, str):
        return given.ids, encoder.target_ids(entry if special else encoder.without_specials(entry), special=special), 1
    ids = known_ids(entry, len(adapter.tables["decoder"].weight), name)
    assert encoder.start is not None
    return given.ids, ids if ids[0] == encoder.start else [encoder.start, *ids], 1


def _whole(adapter: Adapter, given: Input, entry: Any, name: str, special: bool) -> Ids:
    """A decoder-only model's prompt and output in one."""
    if isinstance(entry, str):
        if not given.is_text:
            raise ArgumentError(f"{name} is a text and its input is not: pass what follows the prompt as continuations.")
        entry = entry if special else _stripped(adapter.encoder, entry, name)
        return [], *adapter.encoder.continued_ids(given.text, entry, name, special=special)
    ids, first = known_ids(entry, len(adapter.tables["decoder"].weight), name), len(given.ids)
    if ids[:first] != given.ids or len(ids) == first:
        raise ArgumentError(
            f"{name} must be the {first} ids of its input followed by those of the output; pass the output alone as "
            "continuations."
        )
    return [], ids, first


def _following(adapter: Adapter, given: Input, entry: Any, name: str, special: bool) -> Ids:
    """A decoder-only model's output without its prompt."""
    if isinstance(entry, str):
        if given.is_text:
            whole = given.text + (entry if special else adapter.encoder.without_specials(entry))
            return [], *adapter.encoder.continued_ids(given.text, whole, name, special=special)
        entry = adapter.encoder.input_ids(entry, special=False)
        if not entry:
            raise ArgumentError(f"{name} has no token: there is nothing to explain.")
    return [], given.ids + known_ids(entry, len(adapter.tables["decoder"].weight), name), len(given.ids)


def check_lengths(adapter: Adapter, ids: Sequence[Ids]) -> None:
    """Refuse what the model has no positions or embeddings for.

    Raises:
        ArgumentError: nothing is ever cut silently.
    """
    for i, (source, target, _) in enumerate(ids):
        for side, found in (("source", source), ("decoder", target)):
            if not found:
                continue
            limit = adapter.max_positions(side)
            if limit is not None and len(found) > limit:
                raise ArgumentError(
                    f"input_texts[{i}] needs {len(found)} positions (what is generated included), and "
                    f"{type(adapter.model).__name__} has {limit}. Shorten the text, or lower max_new_tokens in "
                    "generation_args: it is never cut silently."
                )
            size = len(adapter.tables[side].weight)
            if (largest := max(found)) >= size:
                raise ArgumentError(
                    f"input_texts[{i}] has the id {largest}, and {type(adapter.model).__name__} has embeddings for {size}: "
                    "the tokenizer is not this model's. Pass the one it was trained with as tokenizer=."
                )


def _listed(given: Any, argument: str) -> list[Any]:
    """One text, chat or sequence of ids as a list of one."""
    if isinstance(given, Tensor) and given.ndim == 2:
        return list(given)
    if isinstance(given, str) or are_ids(given) or is_chat(given):
        return [given]
    if isinstance(given, list | tuple) and given:
        return list(given)
    return list(checked_texts(given, argument))


def _outputs(given: Any, argument: str, inputs: Sequence[Input]) -> list[Any]:
    """A text or ids for each input."""
    if isinstance(given, str) and given in methods and given not in inputs[0].text:
        raise ArgumentError(f"{argument}={given!r} is the name of a method: pass method={given!r}.")
    entries = _listed(given, argument)
    for i, entry in enumerate(entries):
        if not are_ids(entry):
            checked_text(entry, argument if given is entry else f"{argument}[{i}]")
    if len(entries) != len(inputs):
        raise ArgumentError(
            f"{argument} has {len(entries)} texts and input_texts {len(inputs)}: pass one output for each input."
        )
    return entries


def _stripped(encoder: Encoder, text: str, name: str) -> str:
    """The text without special tokens.

    Raises:
        ArgumentError: where nothing else was in it.
    """
    left = encoder.without_specials(text)
    if not left.strip():
        raise ArgumentError(f"{name} holds special tokens alone, which skip_special_tokens=True removes.")
    return left
