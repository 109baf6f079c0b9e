"""Asking a model: arbitrary rows, whether two answers agree, and what its code may raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from inseq.errors import UnsupportedModelError
from inseq.models.adapter import Adapter
from inseq.models.guest import guest, is_out_of_memory
from inseq.models.inputs import Inputs

T = TypeVar("T")

FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, UnsupportedModelError)
"""Errors of model code that does not fit a question. Missing kernels raise RuntimeError too."""

TOLERANCE = 1e-4
TOLERANCE_HALF = 5e-2
"""For half precision: bfloat16 has 8 bits of mantissa, and errors add up over a few layers."""


def answer(adapter: Adapter, question: Callable[[], T], otherwise: T) -> T:
    """Ask a model as its guest, and return ``otherwise`` where its code fails.

    A question undoes by itself what it changes, by an :class:`~inseq.models.guest.UndoList`, so that a failure leaves
    nothing behind. Running out of memory is no answer and is raised.
    """
    try:
        with guest(adapter.model):
            return question()
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        return otherwise


def rows(adapter: Adapter, side: str, n: int, count: int = 1) -> Float[Tensor, "row position dim"]:
    """Return embeddings of ``count`` rows of arbitrary tokens, no row like another."""
    table = adapter.tables[side]
    # 7919 is a prime above the length of any question, so that no token repeats within a row of a usual vocabulary.
    ids = torch.tensor([[(7919 * k + 13 + 31 * row) % len(table.weight) for k in range(n)] for row in range(count)])
    return table.embed(ids)


def inputs(adapter: Adapter, n: int, at: Tensor, n_source: int = 5) -> Inputs:
    """Return a batch of arbitrary tokens that asks for predictions ``at`` positions; its rows are as many as ``at`` has.

    Args:
        adapter: the model.
        n: positions of the decoder.
        at: Int["row step"].
        n_source: positions of an encoder.
    """
    source = rows(adapter, "source", n_source, len(at)) if "source" in adapter.tables else None
    keep = None if source is None else torch.ones_like(source[:, :, 0], dtype=torch.bool)
    decoder = rows(adapter, "decoder", n, len(at))
    return Inputs(source, keep, decoder, at.to(decoder.device))


def longest(adapter: Adapter, n: int) -> int:
    """Return ``n``, or the length that the model has positions for."""
    return min(n, *(adapter.max_positions(side) or n for side in adapter.tables))


def tolerance_of(dtype: torch.dtype) -> float:
    """Return how far two results of a type may be apart, relative to their size."""
    return TOLERANCE if torch.finfo(dtype).bits >= 32 else TOLERANCE_HALF


def near(a: Tensor, b: Tensor, computed_in: torch.dtype | None = None) -> bool:
    """Return whether two tensors agree, relative to the largest number of the second.

    Args:
        a: one.
        b: the other.
        computed_in: the type of the model they come from, where it is not that of ``a``.
    """
    allowed = tolerance_of(computed_in or a.dtype) * b.abs().max().clamp_min(1e-30)
    return a.shape == b.shape and bool((a - b).abs().max() <= allowed)


def gap(a: Tensor, b: Tensor) -> float:
    """Return the largest difference of two tensors of logits, relative to the spread of the second."""
    a, b = a.double().cpu(), b.double().cpu()
    return ((a - b).abs().max() / b.std().clamp_min(1e-12)).item()
