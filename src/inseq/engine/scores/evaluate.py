"""Evaluate step functions. Their values are checked, since users write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inseq.engine.answers import wide
from inseq.engine.batches import Packed
from inseq.engine.scores.head import LinearHead
from inseq.errors import ArgumentError, InseqError
from inseq.models.guest import is_out_of_memory
from inseq.requests import Prediction, Target, WrittenLogits
from inseq.requests.example import Contrast

FREE_OF_GRADIENTS = ("occlusion", "lime", "shapley_sampling")
"""Methods that take any target."""


class Streamed:
    """The predictions of a batch as what enters the head: of the logits, only what is asked for is made.

    Args:
        head: the head.
        hidden: what enters it.
    """

    def __init__(self, head: LinearHead, hidden: Float[Tensor, "row step hidden"]) -> None:
        self.head = head
        self.hidden = hidden

    def __getitem__(self, rows: list[int]) -> Streamed:
        """Return the predictions of some rows, sharing what was computed for all."""
        found = Streamed(self.head, self.hidden[rows])
        if "normalizer" in vars(self):
            found.normalizer = self.normalizer.reshape(self.hidden.shape[:2])[rows].flatten()
        return found

    @property
    def logits(self) -> Float[Tensor, "row step vocab"]:
        return self.head.logits(self.hidden)

    @cached_property
    def normalizer(self) -> Float[Tensor, " n"]:
        return self.head.normalizer(self.hidden.flatten(0, 1))

    def written(self, ids: Int[Tensor, "row step"], contrast: Int[Tensor, "row step"] | None) -> WrittenLogits:
        """The predictions of chosen tokens, rows and steps along one axis."""
        hidden = self.hidden.flatten(0, 1)

        def of(ids: Tensor, contrast: WrittenLogits | None = None) -> WrittenLogits:
            ids = ids.to(hidden.device).flatten()
            chosen = self.head.chosen(hidden, ids)
            return WrittenLogits(chosen, lambda: self.normalizer, ids, lambda k: self.head.top(hidden, k), contrast)

        return of(ids, None if contrast is None else of(contrast))


Predicted = Tensor | Streamed
"""Predictions of a batch: Float["row step vocab"], or what they are made of."""


def streams(target: Target, kept: Mapping[int, Tensor]) -> bool:
    """Return whether a target needs no logits beyond those ``kept`` for contrasts."""
    return target.of_written and (target.contrast in ("none", "token") or not kept)


def evaluate(
    target: Target, predicted: Predicted, packed: Packed, kept: Mapping[int, Tensor]
) -> Float[Tensor, "row step *extra"]:
    """The target's value for every row and step of a batch.

    Args:
        target: what is evaluated.
        predicted: the predictions of the batch.
        packed: the batch.
        kept: predictions under the contrasts' own contexts, by the identity of the contrast's example.

    Raises:
        ArgumentError: if the step function fails, or returns what cannot be a target.
    """
    prediction = prediction_of(target, predicted, packed, kept)
    values = called(target, prediction, packed.ids.numel())
    values = values.reshape(*packed.ids.shape, *values.shape[1:])
    refuse_nan(target, values[packed.real.to(values.device)], "value")
    return values


def prediction_of(
    target: Target, predicted: Predicted, packed: Packed, kept: Mapping[int, Tensor]
) -> Prediction | WrittenLogits:
    """Return the argument of a target: all rows and steps along one axis."""
    compared = _contrast_ids(target, packed)
    if isinstance(predicted, Streamed):
        if streams(target, kept):
            return predicted.written(packed.ids, compared)
        predicted = predicted.logits
    logits = wide(predicted)
    contrast = None
    if compared is not None:
        others = _contrast_logits(target, logits, packed, kept)
        contrast = Prediction(others.flatten(0, 1), compared.to(logits.device).flatten())
    return Prediction(logits.flatten(0, 1), packed.ids.to(logits.device).flatten(), contrast)


def called(target: Target, argument: Any, n: int) -> Float[Tensor, "n *extra"]:
    """Call a step function and check what it returns.

    Raises:
        ArgumentError: if it raises, or returns anything but one number for each prediction.
    """
    try:
        values = target.function(argument)
    except InseqError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ArgumentError(
            f"Step function {target.name!r} raised {type(error).__name__}: {str(error) or 'no message'} "
            f"(it was given {n} predictions at once, and is to return one number for each)."
        ) from error
    if not isinstance(values, Tensor):
        got = f"{type(values).__name__}"
    elif tuple(values.shape[:1]) != (n,) or values.ndim != 1 + target.axes:
        got = f"a tensor of shape {list(values.shape)}"
    elif not values.is_floating_point():
        got = f"{str(values.dtype).removeprefix('torch.')} numbers, which have no gradient: convert them with .float()"
    else:
        return values
    raise ArgumentError(
        f"Step function {target.name!r} returned {got}; expected a tensor of shape [{n}], one floating-point number for each "
        "prediction (all texts, steps and variants are given at once, along the first axis)."
    )


def cotangents_of(target: Target, real: Tensor, cotangents: Tensor | None) -> Float[Tensor, "row step hidden"]:
    """The gradient of a target at the hidden states, if there is one.

    Raises:
        ArgumentError: if the target does not depend on the predictions by anything that can be differentiated.
    """
    if cotangents is None:
        raise no_gradient(target)
    refuse_nan(target, cotangents[real.to(cotangents.device)], "gradient")
    return cotangents


def no_gradient(target: Target) -> ArgumentError:
    """Return the error for a target without a gradient."""
    return ArgumentError(
        f"Step function {target.name!r} has no gradient: its value is a count, or was detached from the model's output. "
        f"Attribute it with a method that needs none, such as {', '.join(FREE_OF_GRADIENTS)}, or choose another attributed_fn."
    )


def refuse_nan(target: Target, values: Tensor, what: str) -> None:
    """Name a target whose value or gradient is not a number.

    Raises:
        ArgumentError: if any is.
    """
    if (bad := values.isnan()).any():
        raise ArgumentError(
            f"Step function {target.name!r}: a {what} is not a number (NaN), in {int(bad.sum())} of {bad.numel()} entries. "
            "Likely causes: a logarithm or a quotient of zero in the function, or a model whose own predictions are NaN "
            "(float16 overflows; load it with dtype='float32' or 'bfloat16')."
        )


def _contrast_ids(target: Target, packed: Packed) -> Int[Tensor, "row step"] | None:
    """The token that each row and step is compared with, if there is one."""
    contrasts = [job.example.contrast for job, _ in packed.jobs]
    if target.contrast == "none" or any(contrast is None for contrast in contrasts):
        return None
    ids = torch.zeros_like(packed.ids)
    for rows, steps, contrast in _compared(packed):
        ids[rows, : steps.stop - steps.start] = contrast.ids[steps]
    return ids


def _contrast_logits(target: Target, logits: Tensor, packed: Packed, kept: Mapping[int, Tensor]) -> Tensor:
    """The predictions that the contrast's tokens are looked up in: the batch's own, or those under the contrasts' contexts."""
    if target.contrast == "token" or not kept:
        return logits
    others = logits.clone()
    for rows, steps, contrast in _compared(packed):
        own = kept.get(id(contrast.example))
        if own is not None:
            (at,) = (contrast.differs[steps] | (target.contrast == "own")).nonzero(as_tuple=True)
            elsewhere = own[contrast.index[steps][at].to(own.device)]
            others[rows, at.to(others.device)] = elsewhere.to(others)
    return others


def _compared(packed: Packed) -> Iterator[tuple[slice, slice, Contrast]]:
    """Each job's rows, steps and contrast; a batch may hold all its rows again, as references, with the same contrasts."""
    n_rows = packed.jobs[-1][1].stop
    for job, rows in packed.jobs:
        assert job.example.contrast is not None
        for first in range(rows.start, len(packed.ids), n_rows):
            yield slice(first, first + len(rows)), slice(job.steps.start, job.steps.stop), job.example.contrast
