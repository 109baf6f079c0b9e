"""Outputs as data: fields and checks, moved and converted in place as code written for Inseq 0.7.1 does it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.results.alternatives import Alternatives, tokens_of
from inseq.text.tokens import Token, joined

Device = str | torch.device


class Scored:
    """An output with tensors, or mappings from names to tensors, among its attributes."""

    def to(self, device: Device) -> Self:
        """Move all scores, in place."""
        return self._apply(lambda values: values.to(device))

    def detach(self) -> Self:
        """Cut all scores from any graph, in place."""
        return self._apply(Tensor.detach)

    def numpy(self) -> Self:
        """Put NumPy arrays in the place of all tensors, and return the output itself; what NumPy has no type for is float32.

        What is computed from the output, as by ``aggregate``, is as before, and in tensors.
        """
        return self._apply(_array)

    def torch(self) -> Self:
        """Put tensors in the place of all arrays, and return the output itself."""
        return self._apply(lambda values: values)

    def with_tensors(self) -> Self:
        """Return the output itself; where ``numpy()`` has been called, one that shares all with it but has tensors."""
        values = [each for value in vars(self).values() for each in (value.values() if isinstance(value, dict) else [value])]
        return copy.copy(self).torch() if any(isinstance(value, np.ndarray) for value in values) else self

    def _apply(self, change: Callable[[Tensor], Any]) -> Self:
        for name, value in vars(self).items():
            if isinstance(value, Tensor | np.ndarray):
                setattr(self, name, change(torch.as_tensor(value)))
            elif isinstance(value, dict) and name != "info":
                setattr(self, name, {key: change(torch.as_tensor(each)) for key, each in value.items()})
        return self


@dataclass(kw_only=True, eq=False)
class SequenceScores(Scored):
    """Scores of the input tokens of one sequence, for each generated token that was explained.

    A decoder-only model has its prompt in ``source``, prompt and generation in ``target``, and only
    ``target_attributions``. An encoder-decoder model has ``target`` start with the decoder's start token, and
    ``target_attributions`` only where the target prefix was attributed too.

    Attributes:
        source: tokens of the encoder's input, or the prompt.
        target: the whole target sequence.
        source_attributions: scores of the source tokens, or None.
        target_attributions: scores of the first ``min(len(target), attr_pos_end)`` target tokens, or None; NaN where
            the token was not yet written.
        step_scores: values of step functions at each explained token.
        sequence_scores: other matrices of the call, such as ``"encoder_self_attentions"``, with the same trailing axes.
        attr_pos_start: index in ``target`` of the first explained token.
        attr_pos_end: index in ``target`` after the last one.
        spans: for each step the half-open span of ``target`` that it explains at once; none where each is a single token.
        axes: names of the trailing axes, beyond feature and step.
        reduce_by: default function for each trailing axis, the last axis first.
        normalize: whether the default aggregation makes the magnitudes of each step sum to 1.
        signed: whether a score may be negative, as declared by the method.
        reduced: what aggregation has done so far, in words.
        diagnostics: how far each step can be trusted, such as the completeness ``"delta"``.
        alternatives: for each step the most probable tokens with their probabilities, the first choice first, where
            ``attribute(..., alternatives=)`` recorded them; none of a step of several tokens.
        info: facts of the call.

    Raises:
        ArgumentError: if a tensor does not have a row for each token and a column for each explained token.
    """

    source: list[Token]
    target: list[Token]
    source_attributions: Float[Tensor, "source step *extra"] | None = None
    target_attributions: Float[Tensor, "target step *extra"] | None = None
    step_scores: dict[str, Shaped[Tensor, " step"]] = field(default_factory=dict)
    sequence_scores: dict[str, Float[Tensor, "row column *extra"]] = field(default_factory=dict)
    attr_pos_start: int
    attr_pos_end: int
    spans: tuple[tuple[int, int], ...] = ()
    axes: tuple[str, ...] = ()
    reduce_by: tuple[str, ...] = ()
    normalize: bool = False
    signed: bool = False
    reduced: tuple[str, ...] = ()
    diagnostics: dict[str, Shaped[Tensor, " step"]] = field(default_factory=dict)
    alternatives: Alternatives = ()
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.attr_pos_start <= self.attr_pos_end <= len(self.target):
            raise ArgumentError(
                f"Got positions {self.attr_pos_start} to {self.attr_pos_end} for {len(self.target)} target tokens; "
                "expected 0 <= attr_pos_start <= attr_pos_end <= len(target)."
            )
        if any(not self.attr_pos_start <= start < end <= self.attr_pos_end for start, end in self.spans):
            raise ArgumentError(
                f"Got spans {list(self.spans)}; expected half-open (start, end) pairs from {self.attr_pos_start} to "
                f"{self.attr_pos_end}."
            )
        steps = len(self.positions)
        _expect("source_attributions", self.source_attributions, (len(self.source), steps), len(self.axes))
        _expect("target_attributions", self.target_attributions, (self.attr_pos_end, steps), len(self.axes))
        for name, scores in {**self.step_scores, **self.diagnostics}.items():
            _expect(name, scores, (steps,), 0)
        if self.alternatives and len(self.alternatives) != steps:
            raise ArgumentError(
                f"alternatives has {len(self.alternatives)} entries; expected {steps}, one for each explained token, or none."
            )
        for name, scores in self.sequence_scores.items():
            _expect(name, scores, (*scores.shape[:2], -1, -1)[:2], len(self.axes))

    def __repr__(self) -> str:
        spans = f" in {len(self.spans)} spans" if self.spans else ""
        return (
            f"{type(self).__name__}({len(self.source)} source tokens, {len(self.target)} target tokens, "
            f"explained {self.attr_pos_start}:{self.attr_pos_end}{spans}, axes {('feature', 'step', *self.axes)})"
        )

    def __eq__(self, other: object) -> bool:
        """Same tokens, scores (to 1e-5, NaN equal to NaN) and defaults; ``info`` holds times and is not compared."""
        if not isinstance(other, SequenceScores):
            return NotImplemented
        return same(_compared(self), _compared(other))

    __hash__ = None  # type: ignore[assignment]

    @property
    def positions(self) -> list[tuple[int, int]]:
        """For each step what it explains: a half-open span of ``target``."""
        return list(self.spans) or [(i, i + 1) for i in range(self.attr_pos_start, self.attr_pos_end)]

    @property
    def generated(self) -> list[Token]:
        """The tokens that are explained: the very objects in ``target``, or one for each span of several."""
        return [joined(self.target[start:end]) for start, end in self.positions]

    @property
    def tokens(self) -> list[Token]:
        """Every token that the output holds: those of the source and of the target, and alternatives."""
        return [*self.source, *self.target, *tokens_of(self.alternatives)]

    def copy(self) -> Self:
        """Return an output with tokens and dictionaries of its own. Tensors are shared."""
        return replace(
            self,
            source=[token.copy() for token in self.source],
            target=[token.copy() for token in self.target],
            step_scores=dict(self.step_scores),
            sequence_scores=dict(self.sequence_scores),
            diagnostics=dict(self.diagnostics),
            alternatives=tuple(tuple(each.copy() for each in step) for step in self.alternatives),
            info=dict(self.info),
        )

    def clone(self) -> Self:
        """Return an output that shares nothing with this one."""
        return self.copy()._apply(Tensor.clone)


S = TypeVar("S", bound=SequenceScores)
"""The class of an output, which is also that of what aggregation makes of it."""


def _compared(output: SequenceScores) -> list[Any]:
    values = {name: value for name, value in vars(output.with_tensors()).items() if name != "info"}
    values["alternatives"] = [
        ([each.token for each in step], torch.tensor([each.probability for each in step])) for step in output.alternatives
    ]
    return list(values.values())


def same(a: Any, b: Any) -> bool:
    """Return whether two values are equal, tensors to 1e-5, NaN equal to NaN."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.allclose(a.double().cpu(), b.double().cpu(), atol=1e-5, equal_nan=True)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) if not isinstance(a, Tensor) and not isinstance(b, Tensor) else False


def _expect(name: str, values: Tensor | None, leading: tuple[int, ...], extra: int) -> None:
    if values is None:
        return
    if tuple(values.shape[: len(leading)]) != leading or values.ndim != len(leading) + extra:
        raise ArgumentError(
            f"{name} has shape {tuple(values.shape)}; expected {leading} and {extra} further axes: "
            "one row for each token, one column for each explained token."
        )


def _array(values: Tensor) -> Any:
    held = values.detach().cpu()
    return (held.float() if held.dtype is torch.bfloat16 else held).numpy()
