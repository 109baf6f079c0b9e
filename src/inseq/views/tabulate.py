"""An output as a table: the only place where views compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.results.scores import SequenceScores
from inseq.text.tokens import Token
from inseq.views.budget import folded
from inseq.views.facts import facts
from inseq.views.groups import groupings
from inseq.views.look import Look
from inseq.views.planes import planes
from inseq.views.table import Cells, Label, Line, Matrix, Place, Scale, Side, Table, cells
from inseq.views.words import visible

CALM = 1.6
END = 30
"""How much of the beginning and the end of a long stretch stands in a margin."""

SINK = 3.0
"""How many times the mean magnitude of every other token the first one's must be, to be a sink."""


def table(
    sequence: SequenceScores,
    *,
    info: Mapping[str, Any] | None = None,
    title: str = "",
    look: Look = Look(),  # noqa: B008
    granular: SequenceScores | None = None,
) -> Table:
    """Return the intermediate form of an aggregated output.

    Special tokens, and a first token that draws most of the scores (a sink), are shown, but do not stretch the colour
    scale; the facts say so where it matters. Signed scores have a scale with 0 in the middle: of two given limits the larger
    magnitude counts.

    Args:
        sequence: an output without trailing axes.
        info: facts of the call; those of the sequence by default.
        title: a heading.
        look: how the view shall look.
        granular: the same output with its layers and heads, where single ones shall be shown.

    Raises:
        ArgumentError: if trailing axes are left, or there is no such axis or step score.
    """
    if sequence.axes:
        raise ArgumentError(
            f"A view shows one score for each pair of tokens, but the axes {', '.join(sequence.axes)} are left; "
            "leave do_aggregation on, call aggregate(), or select with select_idx."
        )
    known = sequence.info if info is None else info
    if look.highlight and look.highlight not in sequence.step_scores:
        there = ", ".join(sequence.step_scores) or "none; name it in step_scores= of attribute()"
        raise ArgumentError(f"There is no step score {look.highlight!r} to highlight; there is {there}.")
    sequence, left_out = folded(sequence, look.max_show_size)
    sequence = _exchanged(sequence, look.replace_char)
    axes, chosen, unshown = planes(None if left_out else granular, look.show_dim)
    rows, values = _rows(sequence)
    totals = tuple(map(_total, values))
    rows = _counted(rows, totals)
    scale = _scale(rows, values, sequence.signed, look.min_val, look.max_val)
    columns = _labels(sequence.generated, "target")
    tokens = _places(sequence, rows)
    return Table(
        title=title,
        rows=rows,
        columns=columns,
        values=values,
        totals=totals,
        scale=scale,
        total_scale=_calm(_scale(rows, np.array(totals, float).reshape(-1, 1), sequence.signed, None, None)),
        step_scores=_by_name(sequence.step_scores),
        diagnostics=_by_name(sequence.diagnostics),
        facts=facts(sequence, known, rows, values, scale, [*left_out, *unshown]),
        matrices=tuple(dict.fromkeys(row.matrix for row in rows)),
        remark=_remark(rows, values, len(columns)),
        places=_wrapped([place for place, _ in tokens], look.wrap_after),
        groupings=groupings(sequence, [token for _, token in tokens], known),
        shares=_shares(rows, values),
        highlight=visible(look.highlight or next(iter(sequence.step_scores))) if sequence.step_scores else "",
        axes=axes,
        alternatives=tuple(tuple((a.token.shown, a.probability) for a in step) for step in sequence.alternatives),
        planes=tuple(replace(plane, values=_rows(output)[1]) for plane, output in chosen),
    )


def _rows(sequence: SequenceScores) -> tuple[tuple[Label, ...], Matrix]:
    """Labels and scores of all tokens that were read. The last generated token of a decoder was not."""
    rows: tuple[Label, ...] = ()
    parts = []
    if sequence.source_attributions is not None:
        rows = _labels(sequence.source, "source")
        parts.append(_matrix(sequence.source_attributions))
    if sequence.target_attributions is not None:
        scores = _matrix(sequence.target_attributions)
        read = len(scores) if not len(scores) or np.isfinite(scores[-1]).any() else len(scores) - 1
        after = rows[-1].group + 1 if rows else 0
        labels = _labels(sequence.target, "target")[:read]
        rows += tuple(replace(label, group=label.group + after) for label in labels)
        parts.append(scores[:read])
    return rows, np.concatenate(parts) if parts else np.zeros((0, len(sequence.positions)))


def _places(sequence: SequenceScores, rows: tuple[Label, ...]) -> list[tuple[Place, Token]]:
    """The running text: the source, or the prompt of a decoder, then what was generated."""
    row_of = {(row.matrix, at): i for side in ("source", "target") for at, (i, row) in enumerate(_of_side(rows, side))}
    column_of = {at: i for i, (start, end) in enumerate(sequence.positions) for at in range(start, end)}
    encoder = any(token.role == "source" for token in sequence.source)
    found: list[tuple[Place, Token]] = []
    sides: list[tuple[Side, list[Token]]] = [("source", sequence.source)] if encoder else []
    for side, tokens in [*sides, ("target", sequence.target)]:
        after = found[-1][0].label.group + 1 if found else 0
        for at, (token, label) in enumerate(zip(tokens, _labels(tokens, side), strict=True)):
            row, column = row_of.get((side, at)), column_of.get(at) if side == "target" else None
            if row is None and column is None and token.special and side == "target":
                continue
            counted = rows[row].counted if row is not None else label.counted
            line: Line = "output" if side == "target" and (encoder or token.role == "generated") else "input"
            found.append((Place(replace(label, group=label.group + after, counted=counted), line, row, column), token))
    return found


def _exchanged(sequence: SequenceScores, texts: Mapping[str, str] | None) -> SequenceScores:
    """Other texts in what tokens show; the scores and the output itself stay."""
    if not texts:
        return sequence
    sequence = sequence.copy()
    for token in sequence.tokens:
        shown = token.shown
        for old, new in texts.items():
            shown = shown.replace(old, new)
        token.text, token.token = shown, shown if token.token != token._piece else token.token
    return sequence


def _wrapped(places: list[Place], after: int | str | Sequence[str] | None) -> tuple[Place, ...]:
    """Lines end after a newline, and where it was asked for."""
    if isinstance(after, int) and after < 1:
        raise ArgumentError(f"wrap_after={after} must be a number of tokens of at least 1, a text or a list of texts.")
    ends = ("\n",) if after is None or isinstance(after, int) else ("\n", *([after] if isinstance(after, str) else after))
    found, at = [], 0
    for i, place in enumerate(places):
        at = 1 if i and places[i - 1].line != place.line else at + 1
        full = isinstance(after, int) and at % after == 0
        found.append(replace(place, breaks=full or (bool(place.label.text) and place.label.text.endswith(ends))))
    return tuple(found)


def _of_side(rows: Sequence[Label], side: str) -> list[tuple[int, Label]]:
    return [(i, row) for i, row in enumerate(rows) if row.matrix == side]


def _labels(tokens: Sequence[Token], matrix: Side) -> tuple[Label, ...]:
    """Pieces of one character, which have no text after the first, share a group and are numbered."""
    groups: list[list[Token]] = []
    for token in tokens:
        if token.shown or token.token != token._piece or not groups:
            groups.append([token])
        else:
            groups[-1].append(token)
    return tuple(
        Label(_read(token), _label(group, i), token.role, token.special, n, matrix, not token.special)
        for n, group in enumerate(groups)
        for i, token in enumerate(group)
    )


def _read(token: Token) -> str:
    """An edited token keeps the blank before it, so that words stay apart."""
    blank = " " if token.text.startswith(" ") and token.shown[:1].strip() else ""
    return blank + token.shown


def _label(group: list[Token], i: int) -> str:
    shown = group[0].shown
    text = visible(_short(shown.strip(" ") or shown))
    return text if len(group) == 1 else f"{text} {i + 1}/{len(group)}"


def _short(text: str) -> str:
    return text if len(text) <= 2 * END else f"{text[:END]} … {text[-END:]}"


def _counted(rows: tuple[Label, ...], totals: Cells) -> tuple[Label, ...]:
    """Mark a sink: the first token of a side whose mean magnitude is several times every other's."""
    marked = list(rows)
    for side in ("source", "target"):
        sizes = [(abs(totals[i] or 0.0), i) for i, row in _of_side(rows, side) if row.counted]
        (size, first), rest = sizes[0] if sizes else (0.0, 0), sizes[1:]
        if len(rest) > 1 and first == _of_side(rows, side)[0][0] and size > SINK * max(rest)[0]:
            marked[first] = replace(rows[first], counted=False)
    return tuple(marked)


def _matrix(values: Tensor) -> Matrix:
    found: Matrix = values.double().numpy(force=True).copy()
    found[~np.isfinite(found)] = np.nan
    return found


def _by_name(scores: Mapping[str, Tensor]) -> dict[str, Cells]:
    return {visible(name): cells(values.double().numpy(force=True)) for name, values in scores.items()}


def _total(row: Matrix) -> float | None:
    """The mean over all explained tokens; those that came before the input token have nothing of it."""
    return float(np.nansum(row) / len(row)) if np.isfinite(row).any() else None


def _largest(values: Matrix) -> float | None:
    numbers = values[np.isfinite(values)]
    return float(np.abs(numbers).max()) if numbers.size else None


def _scale(rows: Sequence[Label], values: Matrix, signed: bool, min_val: float | None, max_val: float | None) -> Scale:
    found = _largest(values[[i for i, row in enumerate(rows) if row.counted]])
    largest = found if found is not None else _largest(values) or 0.0
    if signed:
        given = [abs(limit) for limit in (min_val, max_val) if limit is not None]
        limit = max(given, default=largest)
        return Scale(-limit, limit, "diverging")
    weakest = 0.0 if min_val is None else float(min_val)
    return Scale(weakest, max(weakest, largest if max_val is None else float(max_val)), "sequential")


def _calm(scale: Scale) -> Scale:
    """Words are read, not only seen: the strongest of them stays clear of the strongest colour."""
    return Scale(scale.minimum * CALM, scale.maximum * CALM, scale.kind)


def _shares(rows: Sequence[Label], values: Matrix) -> Cells:
    """What the source has of each column's magnitudes, where both matrices are there."""
    if len({row.matrix for row in rows}) < 2:
        return ()
    sizes = np.nan_to_num(np.abs(values))
    whole = sizes.sum(0)
    part = sizes[[i for i, row in enumerate(rows) if row.matrix == "source"]].sum(0)
    return tuple(float(p / w) if w > 0 else None for p, w in zip(part, whole, strict=True))


def _remark(rows: Sequence[Label], values: Matrix, steps: int) -> str:
    if not steps:
        return "No generated token was explained, so there are no scores."
    if not rows:
        return "There are no scores of input tokens."
    if not np.isfinite(values).any():
        return "No score is a finite number."
    return "" if np.nan_to_num(values).any() else "Every score is zero."
