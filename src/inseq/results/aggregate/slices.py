"""Some of the input's tokens alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.results.aggregate.axes import aggregators, ranged
from inseq.results.aggregate.spans import listed
from inseq.results.labelled import tile
from inseq.results.scores import S


@aggregators("slices")
def slices(output: S, *, source_spans: Any = None, target_spans: Any = None) -> S:
    """Keep the tokens of some spans of the input, and all that are explained.

    Args:
        output: the output.
        source_spans: one half-open (start, end) of positions in ``source``, or several; for an encoder-decoder.
        target_spans: the same of ``target``, of what stands before the first explained token.
    """
    start = output.attr_pos_start
    decoder_only = output.source_attributions is None
    if decoder_only and source_spans is not None:
        raise ArgumentError("source_spans is for outputs with source_attributions: of a decoder-only model pass target_spans.")
    source = _kept(source_spans, len(output.source))
    before = _kept(target_spans, start)
    target = [*before, *range(start, len(output.target))]
    lost = start - len(before)
    rows = [i for i in target if i < output.attr_pos_end]
    prompt = [i for i in before if i < len(output.source)] if decoder_only else source

    def matrix(name: str, values: Tensor) -> Tensor:
        sides = {"encoder": (source, source), "decoder": (target, target)}
        left, right = sides.get(name.partition("_")[0], (source, None))
        taken = _taken(values, left)
        return taken if right is None else _taken(taken.transpose(0, 1), right).transpose(0, 1)

    return replace(
        output,
        source=[output.source[i] for i in prompt],
        target=[output.target[i] for i in target],
        source_attributions=None if output.source_attributions is None else _taken(output.source_attributions, source),
        target_attributions=None if output.target_attributions is None else _taken(output.target_attributions, rows),
        sequence_scores={name: matrix(name, values) for name, values in output.sequence_scores.items()},
        attr_pos_start=start - lost,
        attr_pos_end=output.attr_pos_end - lost,
        spans=tuple((a - lost, b - lost) for a, b in output.spans),
        reduced=(*output.reduced, "some input tokens alone"),
    )


def dimensions(output: S, given: Any) -> S:
    """Keep a range of some dimensions: ``{dimension: (start, end)}``.

    Args:
        output: the output.
        given: dimensions by name (``"feature"`` or ``"source"``, ``"step"`` or ``"target"``, or a trailing axis) or by
            number, in that order.

    Raises:
        ArgumentError: for a dimension that is not there, or anything but a range of it.
    """
    if given is None:
        return output
    if not isinstance(given, Mapping):
        raise ArgumentError(f"slice_dims={given!r} must be a mapping such as {{'layer': (0, 4)}}.")
    names = ["feature", "step", *output.axes]
    for key, bounds in given.items():
        known = type(key) is int and -len(names) <= key < len(names)
        name = names[key] if known else {"source": "feature", "target": "step"}.get(key, key)
        if name not in names:
            raise ArgumentError(f"slice_dims has {key!r}; the dimensions are {', '.join(names)}, numbered from 0.")
        ((start, end),) = listed(bounds)
        if name == "feature":
            output = part(output, slice(start, end))
        elif name == "step":
            output = steps(output, start, end)
        else:
            output = ranged(output, name, start, end)
    return output


def steps(output: S, start: int, end: int) -> S:
    """The output with some of its explained tokens.

    Raises:
        ArgumentError: where none is left.
    """
    positions = output.positions[start:end]
    if not positions:
        raise ArgumentError(f"Steps {start} to {end} leave none of {len(output.positions)} explained tokens.")
    first, last = positions[0][0], positions[-1][1]
    source, target = output.source_attributions, output.target_attributions
    return replace(
        output,
        source_attributions=None if source is None else source[:, start:end],
        target_attributions=None if target is None else target[:last, start:end],
        step_scores={name: values[start:end] for name, values in output.step_scores.items()},
        diagnostics={name: values[start:end] for name, values in output.diagnostics.items()},
        alternatives=output.alternatives[start:end],
        sequence_scores={},
        attr_pos_start=first,
        attr_pos_end=last,
        spans=tuple(positions) if output.spans else (),
    )


def part(output: S, chosen: int | slice) -> S:
    """The output with some of its input tokens: of the source, or of a decoder-only model's prompt.

    Raises:
        ArgumentError: for anything but a position or a plain slice, and where no token is left.
    """
    side = "target_spans" if output.source_attributions is None else "source_spans"
    size = output.attr_pos_start if side == "target_spans" else len(output.source)
    if isinstance(chosen, int) and not isinstance(chosen, bool):
        if not -size <= chosen < size:
            raise ArgumentError(f"Position {chosen} is out of range for {size} input tokens.")
        chosen = slice(chosen % size, chosen % size + 1)
    if not isinstance(chosen, slice) or chosen.step not in (None, 1):
        raise ArgumentError(f"An output is sliced by a position or by first:last, got {chosen!r}.")
    start, end, _ = chosen.indices(size)
    if start >= end:
        raise ArgumentError(f"[{chosen.start}:{chosen.stop}] leaves none of {size} input tokens.")
    return slices(output, **{side: (start, end)})


def _kept(given: Any, size: int) -> list[int]:
    if given is None:
        return list(range(size))
    return [i for start, end, merged in tile(listed(given), size) if merged for i in range(start, end)]


def _taken(values: Tensor, rows: Sequence[int]) -> Tensor:
    return values.index_select(0, torch.tensor(list(rows), dtype=torch.long, device=values.device))
