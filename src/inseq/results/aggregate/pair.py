"""The difference of two outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from inseq.errors import ArgumentError
from inseq.results.aggregate.axes import aggregators
from inseq.results.scores import S


@aggregators("pair")
def pair(output: S, *, paired_attr: Any = None) -> S:
    """This output's attributions minus those of ``paired_attr``, which has the same shapes; the rest is this output's.

    Alternatives are left out: a difference has no predictions of its own.
    """
    changes: dict[str, Any] = {"signed": True, "alternatives": (), "reduced": (*output.reduced, "difference of a pair")}
    other = paired_attr.with_tensors() if type(paired_attr) is type(output) else None
    for name in ("source_attributions", "target_attributions"):
        a, b = getattr(output, name), getattr(other, name, None)
        if other is None or getattr(a, "shape", None) != getattr(b, "shape", None):
            raise ArgumentError(f"paired_attr must be an output with the same shapes: {name} differ. Merge or slice first.")
        changes[name] = None if a is None else a - b
    return replace(output.copy(), **changes)
