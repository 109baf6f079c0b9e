"""The one intermediate form of every view: a result as plain, frozen values. ``table.schema.json`` describes its JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Cells = tuple[float | None, ...]
Matrix = NDArray[np.float64]
Side = Literal["source", "target"]
Line = Literal["input", "output"]
Kind = Literal["diverging", "sequential"]
VERSION = 1


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
        counted: whether its scores stretch the colour scale; not those of special tokens and of a sink.
    """

    text: str
    label: str
    role: str
    special: bool
    group: int
    matrix: Side
    counted: bool = True


@dataclass(frozen=True)
class Place:
    """One token of the running text, and where its scores are.

    Attributes:
        label: the token.
        line: ``input`` or ``output``.
        row: the row of its scores as an input token, or None.
        column: the column that explains it, or None. Tokens explained at once have the same one.
        breaks: whether the line ends after it.
    """

    label: Label
    line: Line
    row: int | None
    column: int | None
    breaks: bool = False


@dataclass(frozen=True)
class Grouping:
    """Tokens that belong together, such as those of a word; the scores of a group are the sums of its members'.

    Attributes:
        name: ``word``, ``sentence`` or ``turn``.
        groups: for each place of the running text the number of its group, ascending.
    """

    name: str
    groups: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Plane:
    """Scores at one layer or head, or at one of each.

    Attributes:
        index: for each of the table's axes the chosen index, or None where it is folded as the default aggregation does.
        values: as ``Table.values``.
    """

    index: tuple[int | None, ...]
    values: Matrix


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
    kind: Kind

    def level(self, value: float, levels: int) -> int:
        """Return which of ``levels`` colours a score has, the weakest being 0."""
        width = self.maximum - self.minimum
        share = (value - self.minimum) / width if width > 0 else 0.5 if self.kind == "diverging" else 0.0
        return round(min(max(share, 0.0), 1.0) * (levels - 1))


@dataclass(frozen=True, eq=False)
class Table:
    """A result as every view draws it; JSON can hold it.

    Attributes:
        title: a heading, or nothing.
        rows: input tokens.
        columns: explained tokens.
        values: a row for each input token, a column for each explained token; NaN where there is no number.
        totals: for each row the mean over all columns, where no number counts as nothing.
        scale: colours of the values.
        total_scale: colours of the totals.
        step_scores: name -> a value for each column.
        diagnostics: name -> a value for each column.
        shares: for each column the part of all magnitudes that falls on the source, where the target prefix has scores too.
        highlight: name of the step score that underlines the output, or nothing.
        places: the running text.
        groupings: what belongs together in it.
        axes: (name, size) of the axes that ``planes`` chooses from.
        planes: scores at single layers and heads, where the result has them.
        alternatives: for each column the most probable tokens with their probabilities, where they were recorded.
        facts: what was done and how far to believe it, as (label, text).
        matrices: which matrices the rows come from.
        remark: a sentence where there is little to see, or nothing.
    """

    title: str
    rows: tuple[Label, ...]
    columns: tuple[Label, ...]
    values: Matrix
    totals: Cells
    scale: Scale
    total_scale: Scale
    step_scores: dict[str, Cells]
    diagnostics: dict[str, Cells]
    facts: tuple[tuple[str, str], ...]
    matrices: tuple[str, ...]
    remark: str
    highlight: str = ""
    places: tuple[Place, ...] = ()
    groupings: tuple[Grouping, ...] = ()
    shares: Cells = ()
    axes: tuple[tuple[str, int], ...] = ()
    planes: tuple[Plane, ...] = ()
    alternatives: tuple[tuple[tuple[str, float], ...], ...] = ()

    def cell(self, row: int, column: int) -> float | None:
        """One score, or None where there is no number."""
        return _cell(float(self.values[row, column]))

    def row(self, index: int) -> Cells:
        """The scores of one input token."""
        return cells(self.values[index])

    def column(self, index: int) -> Cells:
        """The scores of one explained token."""
        return cells(self.values[:, index])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("values", "planes")}
        tuples = ("rows", "columns", "places", "groupings")
        plain |= {name: [asdict(item) for item in plain[name]] for name in tuples}
        plain |= {name: asdict(plain[name]) for name in ("scale", "total_scale")}
        planes = [{"index": plane.index, "values": _nested(plane.values)} for plane in self.planes]
        return {"version": VERSION, **plain, "values": _nested(self.values), "planes": planes}


def cells(values: Matrix) -> Cells:
    """Numbers, and None for what is none."""
    return tuple(map(_cell, values.reshape(-1).tolist()))


def _cell(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _nested(values: Matrix) -> list[Cells]:
    return [cells(row) for row in values]
