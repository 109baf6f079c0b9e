"""The reliance on context as a table: a row for each token of the context, a column for each context-sensitive token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from inseq.results.context import ContextScores, selected
from inseq.text.pieces import detect, readable
from inseq.views.table import Label, Place, Scale, Table, cells
from inseq.views.words import exact, visible


def context_table(output: ContextScores) -> Table:
    """The intermediate form; what was selected is in its facts."""
    contexts = [(output.input_context_tokens or [], "source"), (output.output_context_tokens or [], "prompt")]
    rows = [label for tokens, role in contexts for label in _labels(tokens, role)]
    current = _labels(output.output_current_tokens or [], "generated")
    columns = tuple(current[cci.cti_idx] for cci in output.cci_scores)
    values = np.array([cci.all_scores for cci in output.cci_scores], float).reshape(len(columns), -1 if columns else 0).T
    read = rows
    rows = rows if len(values) else []
    largest = max(abs(output.min_cci), output.max_cci)
    signed = output.min_cci < 0
    scale = Scale(-largest if signed else 0.0, largest, "diverging" if signed else "sequential")
    totals = cells(np.nansum(values, 1) / max(1, len(columns)))
    info = output.info or {}
    limit, topk = info.get("attribution_std_threshold", 1.0), info.get("attribution_topk")
    facts = [("Current output", output.output_current or "")]
    for cci, column in zip(output.cci_scores, columns, strict=True):
        cues = [rows[i] for i in selected(cci.all_scores, limit, topk)] if rows else []
        said = f"CTI {exact(cci.cti_score)}; cues: {', '.join(cue.label for cue in cues) or 'none'}"
        facts.append((f"{cci.cti_idx} {column.label}", said))
    for key, name in (("attribution_method", "Method"), ("attributed_fn", "Explains"), ("model_name_or_path", "Model")):
        if info.get(key):
            facts.append((name, str(info[key])))
    return Table(
        title="Context reliance",
        rows=tuple(rows),
        columns=columns,
        values=values,
        totals=totals,
        scale=scale,
        total_scale=scale,
        step_scores={"context sensitivity": tuple(cci.cti_score for cci in output.cci_scores)} if columns else {},
        diagnostics={},
        facts=tuple((visible(name), visible(said)) for name, said in facts),
        matrices=("source",) if rows else (),
        places=tuple(_places(output, read, current)),
        remark="" if columns else "No token of the output is sensitive to the context.",
    )


def _places(output: ContextScores, read: Sequence[Label], current: Sequence[Label]) -> Iterator[Place]:
    yield from (Place(label, "input", i if output.cci_scores else None, None) for i, label in enumerate(read))
    columns = {cci.cti_idx: i for i, cci in enumerate(output.cci_scores)}
    yield from (Place(label, "output", None, columns.get(i)) for i, label in enumerate(current))


def _labels(tokens: Sequence[str], role: str) -> list[Label]:
    texts = readable(tokens, [False] * len(tokens), detect(tokens))
    start = {"source": 0, "prompt": 10**6, "generated": 2 * 10**6}[role]
    matrix = "source" if role == "source" else "target"
    labels: list[Label] = []
    for text in texts:
        group = start + len(labels) if text or not labels else labels[-1].group
        labels.append(Label(text, visible(text.strip(" ") or text), role, False, group, matrix))  # type: ignore[arg-type]
    return labels
