"""The one intermediate form of every view: a result as plain, frozen values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from torch import Tensor

from inseq.errors import ArgumentError
from inseq.result.output import FeatureAttributionSequenceOutput
from inseq.text.example import Token
from inseq.views.words import visible

Cells = tuple[float | None, ...]
MAX_FACT = 200
CALM = 1.6
FACTS = {
    "attribution_method": "Method",
    "attributed_fn": "Explains",
    "baseline": "Baseline",
    "model_name": "Model",
    "dtype": "Precision",
}
DIAGNOSTICS = {"delta": "Completeness gap", "fit": "Fit of the surrogate"}
LARGE_IS_GOOD = frozenset({"fit", "converged"})


@dataclass(frozen=True)
class Label:
    """One token as it is shown.

    Attributes:
        text: what a reader reads; empty for the later pieces of a character.
        label: the same with nothing hidden, for the margin of a table.
        role: ``source``, ``prompt`` or ``generated``.
        special: whether it is a special token.
        group: number of its group; pieces that share a character have the same one.
        matrix: ``source`` or ``target``, the matrix its scores come from.
    """

    text: str
    label: str
    role: str
    special: bool
    group: int
    matrix: Literal["source", "target"]


@dataclass(frozen=True)
class Scale:
    """What the colours mean.

    Attributes:
        minimum: score of the weakest colour; the negative of the maximum where scores are signed.
        maximum: score of the strongest colour. What lies beyond has it too.
        kind: ``diverging`` for signed scores, ``sequential`` for others; declared by the method.
    """

    minimum: float
    maximum: float
    kind: Literal["diverging", "sequential"]

    def level(self, value: float, levels: int) -> int:
        """Return which of ``levels`` colours a score has, the weakest being 0."""
        width = self.maximum - self.minimum
        share = (value - self.minimum) / width if width > 0 else 0.5 if self.kind == "diverging" else 0.0
        return round(min(max(share, 0.0), 1.0) * (levels - 1))


@dataclass(frozen=True)
class Table:
    """A result as every view draws it; JSON can hold it.

    Attributes:
        title: a heading, or nothing.
        rows: input tokens.
        columns: explained tokens.
        values: a row for each input token, a column for each explained token; None where there is no number.
        totals: for each row the mean of its numbers.
        scale: colours of the values.
        total_scale: colours of the totals.
        step_scores: name -> a value for each column.
        diagnostics: name -> a value for each column.
        facts: what was done and how far to believe it, as (label, text).
        matrices: which matrices the rows come from.
        remark: a sentence where there is little to see, or nothing.
    """

    title: str
    rows: tuple[Label, ...]
    columns: tuple[Label, ...]
    values: tuple[Cells, ...]
    totals: Cells
    scale: Scale
    total_scale: Scale
    step_scores: dict[str, Cells]
    diagnostics: dict[str, Cells]
    facts: tuple[tuple[str, str], ...]
    matrices: tuple[str, ...]
    remark: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return asdict(self)


def table(
    sequence: FeatureAttributionSequenceOutput,
    *,
    info: Mapping[str, Any] | None = None,
    title: str = "",
    min_val: float | None = None,
    max_val: float | None = None,
) -> Table:
    """Return the intermediate form of an aggregated output.

    Special tokens are shown, but do not stretch the colour scale; the facts say so where it matters.

    Args:
        sequence: an output without trailing axes.
        info: facts of the call; those of the sequence by default.
        title: a heading.
        min_val: score of the weakest colour. Signed scores have a scale with 0 in the middle: the larger of the two
            magnitudes counts.
        max_val: score of the strongest colour.

    Raises:
        ArgumentError: if trailing axes are left.
    """
    if sequence.axes:
        raise ArgumentError(
            f"A view shows one score for each pair of tokens, but the axes {', '.join(sequence.axes)} are left; "
            "leave do_aggregation on, call aggregate(), or select with select_idx."
        )
    rows, values = _rows(sequence)
    totals = tuple(_mean(row) for row in values)
    scale = _scale(rows, values, sequence.signed, min_val, max_val)
    return Table(
        title=title,
        rows=rows,
        columns=_labels(sequence.generated, "target"),
        values=values,
        totals=totals,
        scale=scale,
        total_scale=_calm(_scale(rows, [(total,) for total in totals], sequence.signed, None, None)),
        step_scores={visible(name): _cells(scores) for name, scores in sequence.step_scores.items()},
        diagnostics={visible(name): _cells(scores) for name, scores in sequence.diagnostics.items()},
        facts=_facts(sequence, sequence.info if info is None else info, rows, values, scale),
        matrices=tuple(dict.fromkeys(row.matrix for row in rows)),
        remark=_remark(rows, values, len(sequence.generated)),
    )


def _rows(sequence: FeatureAttributionSequenceOutput) -> tuple[tuple[Label, ...], tuple[Cells, ...]]:
    rows: tuple[Label, ...] = ()
    values: tuple[Cells, ...] = ()
    if sequence.source_attributions is not None:
        rows, values = _labels(sequence.source, "source"), _matrix(sequence.source_attributions)
    if sequence.target_attributions is not None:
        scores = _matrix(sequence.target_attributions)
        read = len(scores) if not scores or _numbers(scores[-1:]) else len(scores) - 1
        after = rows[-1].group + 1 if rows else 0
        labels = _labels(sequence.target, "target")[:read]
        rows += tuple(replace(label, group=label.group + after) for label in labels)
        values += scores[:read]
    return rows, values


def _labels(tokens: Sequence[Token], matrix: Literal["source", "target"]) -> tuple[Label, ...]:
    """Pieces of one character, which have no text after the first, share a group and are numbered."""
    groups: list[list[Token]] = []
    for token in tokens:
        if token.shown or token.token != token._piece or not groups:
            groups.append([token])
        else:
            groups[-1].append(token)
    return tuple(
        Label(token.shown, _label(group, i), token.role, token.special, n, matrix)
        for n, group in enumerate(groups)
        for i, token in enumerate(group)
    )


def _label(group: list[Token], i: int) -> str:
    shown = group[0].shown
    text = visible(shown.strip(" ") or shown)
    return text if len(group) == 1 else f"{text} {i + 1}/{len(group)}"


def _cells(values: Tensor) -> Cells:
    return tuple(value if math.isfinite(value) else None for value in values.double().reshape(-1).tolist())


def _matrix(values: Tensor) -> tuple[Cells, ...]:
    return tuple(_cells(row) for row in values)


def _numbers(values: Sequence[Cells]) -> list[float]:
    return [value for row in values for value in row if value is not None]


def _mean(row: Cells) -> float | None:
    numbers = _numbers([row])
    return sum(numbers) / len(numbers) if numbers else None


def _scale(
    rows: Sequence[Label], values: Sequence[Cells], signed: bool, min_val: float | None, max_val: float | None
) -> Scale:
    counted = [row for label, row in zip(rows, values, strict=True) if not label.special]
    largest = max(map(abs, _numbers(counted) or _numbers(values) or [0.0]))
    if signed:
        given = [abs(limit) for limit in (min_val, max_val) if limit is not None]
        limit = max(given, default=largest)
        return Scale(-limit, limit, "diverging")
    weakest = 0.0 if min_val is None else float(min_val)
    return Scale(weakest, max(weakest, largest if max_val is None else float(max_val)), "sequential")


def _calm(scale: Scale) -> Scale:
    """Words are read, not only seen: the strongest of them stays clear of the strongest colour."""
    return Scale(scale.minimum * CALM, scale.maximum * CALM, scale.kind)


def _facts(
    sequence: FeatureAttributionSequenceOutput,
    info: Mapping[str, Any],
    rows: Sequence[Label],
    values: Sequence[Cells],
    scale: Scale,
) -> tuple[tuple[str, str], ...]:
    options = info.get("options")
    known = {**(options if isinstance(options, Mapping) else {}), **info}
    facts = [(label, known[key]) for key, label in FACTS.items() if known.get(key) not in (None, "")]
    facts += _compared(info)
    if sequence.spans:
        facts.append(("Spans", " | ".join(token.shown for token in sequence.generated)))
    if sequence.reduced:
        facts.append(("Scores", ", ".join(sequence.reduced)))
    facts += [_trust(name, _cells(scores)) for name, scores in sequence.diagnostics.items()]
    facts += _hidden(rows, values, scale) + _broken(sequence)
    notes = info.get("notes")
    facts += [("Note", note) for note in (notes if isinstance(notes, (list, tuple)) else [])]
    return tuple((visible(label), visible(_short(str(text)))) for label, text in facts)


def _compared(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The outputs that contrastive functions compare with."""
    contrasts = info.get("contrast")
    texts = [c.get("text") for c in contrasts if isinstance(c, Mapping)] if isinstance(contrasts, (list, tuple)) else []
    return [("Compared with", text) for text in texts if isinstance(text, str)]


def _short(text: str) -> str:
    return text if len(text) <= MAX_FACT else text[: MAX_FACT - 1] + "…"


def _trust(name: str, cells: Cells) -> tuple[str, str]:
    """The diagnostic of the step that can be trusted least."""
    numbers = _numbers([cells])
    label = DIAGNOSTICS.get(name, name)
    if not numbers:
        return label, "not a number"
    return label, f"at least {min(numbers):.2g}" if name in LARGE_IS_GOOD else f"at most {max(map(abs, numbers)):.2g}"


def _hidden(rows: Sequence[Label], values: Sequence[Cells], scale: Scale) -> list[tuple[str, str]]:
    beyond = {
        label.label
        for label, row in zip(rows, values, strict=True)
        if label.special and any(abs(value) > scale.maximum for value in _numbers([row]))
    }
    return [("Colours", f"the scale leaves out the special {', '.join(sorted(beyond))}")] if beyond else []


def _broken(sequence: FeatureAttributionSequenceOutput) -> list[tuple[str, str]]:
    """Count scores that are no number although the token had been read."""
    count = 0
    if (source := sequence.source_attributions) is not None:
        count += int((~source.isfinite()).sum())
    if (target := sequence.target_attributions) is not None:
        for column, (_, end) in enumerate(sequence.positions):
            count += int((~target[: end - 1, column].isfinite()).sum())
    return [("Missing", f"{count} scores are NaN or infinite and left blank")] if count else []


def _remark(rows: Sequence[Label], values: Sequence[Cells], steps: int) -> str:
    if not steps:
        return "No generated token was explained, so there are no scores."
    if not rows:
        return "There are no scores of input tokens."
    if not (numbers := _numbers(values)):
        return "No score is a finite number."
    return "" if any(numbers) else "Every score is zero."
