"""Generation by transformers: from ids to ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from itertools import groupby
from typing import Any

import torch
from transformers import GenerationConfig

from inseq.errors import ArgumentError, first_line, near
from inseq.models.adapter import Adapter
from inseq.models.guest import guest

LENGTHS = ("max_new_tokens", "max_length", "generation_config")
"""Arguments of ``generate`` that say how long an output may be."""


USUAL_LENGTH = 20
"""New tokens that transformers generates where nothing says how many."""


STOP_A_ROW = ("stopping_criteria", "stop_strings")
"""Arguments of ``generate`` that may end one row of a batch before the others, which pads it with tokens nobody wrote."""


def generate(
    adapter: Adapter,
    inputs: Sequence[Sequence[int]],
    arguments: Mapping[str, Any],
    batch_size: int | None = None,
    prefixes: Sequence[Sequence[int]] | None = None,
    told: Callable[[list[int], Any], None] | None = None,
) -> list[list[int]]:
    """Generate from ids to ids: for each input the decoder's whole sequence, cut after its end-of-sequence token.

    What the decoder reads first is batched by equal length, so that no padding can change a prediction; encoder inputs are
    padded and masked.

    Args:
        adapter: the model.
        inputs: ids of prompts, or of sources.
        arguments: keyword arguments of transformers' ``generate``; one sequence an input.
        batch_size: how many inputs at a time; all by default, and one where a row may stop by itself.
        prefixes: how each output of an encoder-decoder begins, the decoder's start first; by default with that alone.
        told: called after each batch with the places of its inputs and what transformers returned; only inputs that follow
            each other are then batched.
    """
    if arguments.get("num_return_sequences", 1) != 1:
        raise ArgumentError("generation_args: num_return_sequences must be 1, each input has one output to explain.")
    sourced = "source" in adapter.tables
    if any(arguments.get(name) for name in STOP_A_ROW):
        batch_size = 1
    read = [1] * len(inputs) if sourced and prefixes is None else [len(ids) for ids in prefixes or inputs]
    order = list(range(len(inputs)))
    if told is None:
        order.sort(key=lambda i: (read[i], len(inputs[i])))
    groups = [list(group) for _, group in groupby(order, key=lambda i: read[i])]
    results: dict[int, list[int]] = {}
    with guest(adapter.model), torch.no_grad():
        for group in groups:
            size = batch_size or len(group)
            for a in range(0, len(group), size):
                rows = group[a : a + size]
                begun = None if prefixes is None else [prefixes[i] for i in rows]
                output = _generate_rows(adapter, [inputs[i] for i in rows], arguments, begun)
                if told is not None:
                    told(rows, output)
                for i, ids in zip(rows, output.sequences.tolist(), strict=True):
                    results[i] = _cut(ids, read[i], _eos_ids(adapter, arguments))
    return [results[i] for i in range(len(inputs))]


def _generate_rows(
    adapter: Adapter,
    rows: Sequence[Sequence[int]],
    arguments: Mapping[str, Any],
    prefixes: Sequence[Sequence[int]] | None,
) -> Any:
    config = adapter.model.generation_config
    eos = next(iter(_eos_ids(adapter, arguments)), 0)
    padding = next(i for i in (config.pad_token_id, adapter.special_id("pad"), eos) if i is not None)
    length = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[padding] * (length - len(row))] for row in rows], device=adapter.device)
    keep = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=adapter.device)
    begun = len(prefixes[0]) if prefixes else 1
    options = {
        "pad_token_id": padding,
        **_room(adapter, rows, arguments, begun),
        **arguments,
        "return_dict_in_generate": True,
    }
    if prefixes is not None:
        options["decoder_input_ids"] = torch.tensor([list(ids) for ids in prefixes], device=adapter.device)
    try:
        return adapter.model.generate(input_ids=ids, attention_mask=keep, **options)
    except (ValueError, TypeError) as error:
        known = [*GenerationConfig().to_dict(), *signature(adapter.model.generate).parameters]
        hints = "".join(near(name, known) for name in arguments if name not in known)
        raise ArgumentError(f"generation_args were refused by transformers: {first_line(error)}{hints}") from error


def _room(adapter: Adapter, rows: Sequence[Sequence[int]], arguments: Mapping[str, Any], begun: int) -> dict[str, int]:
    """Return the positions that are left, where the caller sets no length and the model's own would exceed them.

    Args:
        adapter: the model.
        rows: what it reads.
        arguments: what the caller set.
        begun: how many tokens an encoder-decoder's output has already.
    """
    limit = adapter.max_positions()
    if limit is None or any(arguments.get(name) is not None for name in LENGTHS):
        return {}
    before = begun if "source" in adapter.tables else max(len(row) for row in rows)
    config = adapter.model.generation_config
    end = before + config.max_new_tokens if config.max_new_tokens else config.max_length or before + USUAL_LENGTH
    return {"max_new_tokens": limit - before} if max(end, before + 1) > limit else {}


def _eos_ids(adapter: Adapter, arguments: Mapping[str, Any]) -> frozenset[int]:
    config = arguments.get("generation_config") or adapter.model.generation_config
    eos = arguments.get("eos_token_id", config.eos_token_id)
    if eos is None:
        eos = adapter.special_id("eos")
    return frozenset([] if eos is None else [eos] if isinstance(eos, int) else eos)


def _cut(ids: list[int], first: int, eos: frozenset[int]) -> list[int]:
    end = next((i + 1 for i in range(first, len(ids)) if ids[i] in eos), len(ids))
    return ids[:end]
