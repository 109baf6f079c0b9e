"""What a view says beside the scores: what was done, how far to believe it, what is hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from inseq.results.scores import SequenceScores
from inseq.views.table import Label, Matrix, Scale
from inseq.views.words import visible

MAX_FACT = 200
NAMES = {
    "attribution_method": "Method",
    "attributed_fn": "Explains",
    "baseline": "Baseline",
    "model_name": "Model",
    "dtype": "Precision",
}
DIAGNOSTICS = {"delta": "Completeness gap", "fit": "Fit of the surrogate"}
LARGE_IS_GOOD = frozenset({"fit", "converged"})


def facts(
    sequence: SequenceScores,
    info: Mapping[str, Any],
    rows: Sequence[Label],
    values: Matrix,
    scale: Scale,
    left_out: Sequence[str] = (),
) -> tuple[tuple[str, str], ...]:
    """Return (label, text) pairs in which nothing is hidden.

    Args:
        sequence: the output.
        info: facts of the call.
        rows: input tokens.
        values: a row for each of them.
        scale: colours of the values.
        left_out: sentences on what the view leaves out.
    """
    options = info.get("options")
    known = {**(options if isinstance(options, Mapping) else {}), **info}
    found = [(label, known[key]) for key, label in NAMES.items() if known.get(key) not in (None, "")]
    found += _compared(info)
    if sequence.spans:
        found.append(("Spans", " | ".join(token.shown for token in sequence.generated)))
    if sequence.reduced:
        found.append(("Scores", ", ".join(sequence.reduced)))
    found += [_trust(name, scores.double().numpy(force=True)) for name, scores in sequence.diagnostics.items()]
    found += _beyond(rows, values, scale) + _broken(sequence) + [("Left out", text) for text in left_out]
    notes = info.get("notes")
    found += [("Note", note) for note in (notes if isinstance(notes, (list, tuple)) else [])]
    return tuple((visible(label), visible(_short(str(text)))) for label, text in found)


def _compared(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The outputs that contrastive functions compare with."""
    contrasts = info.get("contrast")
    texts = [c.get("text") for c in contrasts if isinstance(c, Mapping)] if isinstance(contrasts, (list, tuple)) else []
    return [("Compared with", text) for text in texts if isinstance(text, str)]


def _short(text: str) -> str:
    return text if len(text) <= MAX_FACT else text[: MAX_FACT - 1] + "…"


def _trust(name: str, values: Matrix) -> tuple[str, str]:
    """The diagnostic of the step that can be trusted least."""
    numbers = values[np.isfinite(values)]
    label = DIAGNOSTICS.get(name, name)
    if not numbers.size:
        return label, "not a number"
    return label, f"at least {numbers.min():.2g}" if name in LARGE_IS_GOOD else f"at most {np.abs(numbers).max():.2g}"


def _beyond(rows: Sequence[Label], values: Matrix, scale: Scale) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for label, row in zip(rows, values, strict=True):
        if not label.counted and (np.abs(row[np.isfinite(row)]) > scale.maximum).any():
            found[label.label] = "special" if label.special else "first"
    if not found:
        return []
    named = [f"the {kind} {', '.join(sorted(k for k in found if found[k] == kind))}" for kind in sorted(set(found.values()))]
    return [("Colours", f"the scale leaves out {' and '.join(named)}")]


def _broken(sequence: SequenceScores) -> list[tuple[str, str]]:
    """Count scores that are no number although the token had been read."""
    count = 0
    if (source := sequence.source_attributions) is not None:
        count += int((~source.isfinite()).sum())
    if (target := sequence.target_attributions) is not None:
        for column, (_, end) in enumerate(sequence.positions):
            count += int((~target[: end - 1, column].isfinite()).sum())
    said = "1 score is" if count == 1 else f"{count} scores are"
    return [("Missing", f"{said} NaN or infinite and left blank")] if count else []
