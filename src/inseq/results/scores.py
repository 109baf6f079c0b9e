"""What holds scores: moved and converted in place, as code written for Inseq 0.7.1 does it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

Device = str | torch.device


class Scored:
    """An output whose attributes are tensors, or mappings from names to tensors, beside other things."""

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
        """The output itself; where ``numpy()`` has been called, one that shares all with it but has tensors."""
        values = [each for value in vars(self).values() for each in (value.values() if isinstance(value, dict) else [value])]
        return copy.copy(self).torch() if any(isinstance(value, np.ndarray) for value in values) else self

    def _apply(self, change: Callable[[Tensor], Any]) -> Self:
        for name, value in vars(self).items():
            if isinstance(value, Tensor | np.ndarray):
                setattr(self, name, change(torch.as_tensor(value)))
            elif isinstance(value, dict) and name != "info":
                setattr(self, name, {key: change(torch.as_tensor(each)) for key, each in value.items()})
        return self


def _array(values: Tensor) -> Any:
    held = values.detach().cpu()
    return (held.float() if held.dtype is torch.bfloat16 else held).numpy()
