"""Chats: a model's own template, and where in it the messages stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from inseq.errors import ArgumentError
from inseq.text.encode import Encoder


class Turn(TypedDict):
    """A message's place: who speaks, and the half-open span of its tokens."""

    role: str
    span: list[int]


def is_chat(value: Any) -> bool:
    """Whether a value is one chat: messages with a role and a content."""
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(each, Mapping) for each in value)


def read_chat(
    encoder: Encoder, messages: Sequence[Mapping[str, Any]], argument: str
) -> tuple[str, list[int], tuple[Turn, ...]]:
    """Put a chat into the model's own template.

    Tokens that no turn holds are the template's. A chat that ends with the assistant's message is one to go on from.

    Args:
        encoder: the tokenizer.
        messages: each with ``"role"`` and ``"content"``.
        argument: what errors call them.

    Returns:
        The templated text, its ids, and the turns; none where the tokenizer cannot tell where in the text its tokens stand.

    Raises:
        ArgumentError: for a tokenizer without a template, and messages that it does not take.
    """
    contents = [_content(message, f"{argument}[{i}]") for i, message in enumerate(messages)]
    if not getattr(encoder.tokenizer, "chat_template", None):
        raise ArgumentError(
            f"{argument} is a chat, and this {type(encoder.tokenizer).__name__} has no chat template: set its "
            "chat_template, or pass the text as the model was trained to read it."
        )
    answered = messages[-1]["role"] == "assistant"
    try:
        text = encoder.tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=not answered,
            continue_final_message=answered,
        )
    except Exception as error:
        raise ArgumentError(
            f"{argument} is not a chat that this model's template takes: {type(error).__name__}: {error}"
        ) from error
    if not encoder.tokenizer.is_fast:
        return text, encoder.input_ids(text, special=False), ()
    encoded = encoder.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False, return_offsets_mapping=True)
    return text, list(encoded["input_ids"]), _turns(text, messages, contents, encoded["offset_mapping"])


def _content(message: Mapping[str, Any], name: str) -> str:
    """What a message says; of one in parts, the texts."""
    content = message.get("content")
    if isinstance(content, list | tuple):
        content = "".join(part["text"] for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str))
    if not isinstance(message.get("role"), str) or not isinstance(content, str):
        raise ArgumentError(f"{name} must be a message with the texts 'role' and 'content', got {dict(message)!r}.")
    return content


def _turns(
    text: str, messages: Sequence[Mapping[str, Any]], contents: Sequence[str], offsets: Sequence[tuple[int, int]]
) -> tuple[Turn, ...]:
    """Where each message's tokens stand; a token that the template shares with it is the message's."""
    turns: list[Turn] = []
    at = 0
    for message, content in zip(messages, contents, strict=True):
        said = content if content in text[at:] else content.strip()
        start = text.find(said, at)
        if not said or start < 0:
            continue
        at = start + len(said)
        inside = [i for i, (a, b) in enumerate(offsets) if a < at and b > start]
        if inside:
            turns.append({"role": message["role"], "span": [inside[0], inside[-1] + 1]})
    return tuple(turns)
