"""A table as the page's script reads it: texts as JSON, scores as base64 of little-endian floats."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from inseq.views.table import Label, Matrix, Place, Table
from inseq.views.words import visible

HALF_FROM = 1_000_000
"""From so many scores on, they are sent with 16 bits each."""

BLANK, SPECIAL, OUTPUT, BREAK, UNCOUNTED = 1, 2, 4, 8, 16
ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def payload(table: Table) -> str:
    """Return JSON in which no character can end the element that holds it."""
    half = table.values.size * (len(table.planes) + 1) > HALF_FROM
    unit = _unit([table.values, *(plane.values for plane in table.planes)]) if half else 1.0
    told: dict[str, Any] = {
        "title": visible(table.title) if table.title else "",
        "rows": [row.label for row in table.rows],
        "columns": [column.label for column in table.columns],
        "places": [[_read(p.label), _flags(p), p.row, p.column, p.label.group] for p in table.places],
        "groupings": [[grouping.name, grouping.groups] for grouping in table.groupings],
        "half": half,
        "unit": unit,
        "values": _encoded([table.values], unit, half),
        "axes": table.axes,
        "planes": [plane.index for plane in table.planes],
        "planeValues": _encoded([plane.values for plane in table.planes], unit, half),
        "kind": table.scale.kind,
        "limits": [table.scale.minimum, table.scale.maximum],
        "steps": [[name, cells] for name, cells in {**table.step_scores, **table.diagnostics}.items()],
        "highlight": table.highlight,
        "shares": table.shares,
        "alternatives": [[[visible(text), p] for text, p in step] for step in table.alternatives],
    }
    return json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(ESCAPES)


def _read(label: Label) -> str:
    return visible(label.text.strip(" ") or label.text) if label.text else ""


def _flags(place: Place) -> int:
    text = place.label.text
    flags = BLANK * (text.startswith(" ") and bool(text.strip())) + SPECIAL * place.label.special
    return flags + OUTPUT * (place.line == "output") + BREAK * place.breaks + UNCOUNTED * (not place.label.counted)


def _unit(matrices: list[Matrix]) -> float:
    """The largest magnitude: 16 bits hold what is about as large as 1."""
    return max((float(np.nanmax(np.abs(m))) for m in matrices if np.isfinite(m).any()), default=1.0) or 1.0


def _encoded(matrices: list[Matrix], unit: float, half: bool) -> str:
    values = np.stack(matrices) / unit if matrices else np.zeros(0)
    return base64.b64encode(values.astype("<f2" if half else "<f4").tobytes()).decode()
