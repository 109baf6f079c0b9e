"""Asking a model: what its code may raise, and when two answers agree."""

from __future__ import annotations

import torch
from torch import Tensor


def near(a: Tensor, b: Tensor, computed_in: torch.dtype | None = None) -> bool:
    """Whether two tensors agree as far as a type can tell: the first one's own, or that of the model they come from."""
    tolerance = 1e-4 if torch.finfo(computed_in or a.dtype).bits >= 32 else 5e-2
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1e-30))


FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
"""What an architecture that does not fit raises."""
