"""What a step function gets and gives; what it gives is checked, since anybody may have written it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inseq.engine.answers import wide
from inseq.engine.packing import Packed
from inseq.engine.requests import Prediction, Target
from inseq.errors import ArgumentError, InseqError
from inseq.models.edits import is_out_of_memory

FREE_OF_GRADIENTS = ("occlusion", "lime", "shapley_sampling")
"""Methods that take any target."""


def evaluate(target: Target, logits: Tensor, packed: Packed, kept: Mapping[int, Tensor]) -> Float[Tensor, "row step *extra"]:
    """The target's value for every row and step of a batch.

    Args:
        target: what is evaluated.
        logits: Float["row step vocab"] of the batch.
        packed: the batch.
        kept: predictions under the contrasts' own contexts, by the identity of the contrast's example.

    Raises:
        ArgumentError: if the step function fails, or returns what cannot be a target.
    """
    prediction = prediction_of(target, logits, packed, kept)
    values = called(target, prediction, packed.ids.numel())
    values = values.reshape(*packed.ids.shape, *values.shape[1:])
    refuse_nan(target, values[packed.real.to(values.device)], "value")
    return values


def prediction_of(target: Target, logits: Tensor, packed: Packed, kept: Mapping[int, Tensor]) -> Prediction:
    """What a target is given: all rows and steps along one axis."""
    logits = wide(logits)
    contrast = _contrast(target, logits, packed, kept)
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
    """What is said of a target that a gradient method cannot use."""
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


def _contrast(target: Target, logits: Tensor, packed: Packed, kept: Mapping[int, Tensor]) -> Prediction | None:
    """What each row and step is compared with; a batch may hold all its rows again, as references, with the same contrasts."""
    contrasts = [job.example.contrast for job, _ in packed.jobs]
    if target.contrast == "none" or any(contrast is None for contrast in contrasts):
        return None
    ids = torch.zeros_like(packed.ids)
    others = logits if target.contrast == "token" or not kept else logits.clone()
    n_rows = packed.jobs[-1][1].stop
    for (job, rows), contrast in zip(packed.jobs, contrasts, strict=True):
        assert contrast is not None
        steps, n = slice(job.steps.start, job.steps.stop), len(job.steps)
        own = kept.get(id(contrast.example))
        for first in range(rows.start, len(ids), n_rows):
            ids[first : first + len(rows), :n] = contrast.ids[steps]
            if others is not logits and own is not None:
                (at,) = (contrast.differs[steps] | (target.contrast == "own")).nonzero(as_tuple=True)
                elsewhere = own[contrast.index[steps][at].to(own.device)]
                others[first : first + len(rows), at.to(others.device)] = elsewhere.to(others)
    return Prediction(others.flatten(0, 1), ids.to(logits.device).flatten())
