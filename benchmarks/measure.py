"""What a run costs: seconds, memory, model calls, and the speed of the machine at that time. For both environments."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

PRODUCT = 768
"""Rows and columns of the matrices whose product's rate is the machine's peak."""


class Calls:
    """Counts a model's forwards, the token positions in them, and the vector-Jacobian products of `torch.autograd.grad`."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.forwards = self.tokens = self.vjps = 0
        model.base_model.register_forward_pre_hook(self._count, with_kwargs=True)
        self._grad = torch.autograd.grad
        torch.autograd.grad = self._count_grad  # type: ignore[assignment]

    def _count(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = ("decoder_inputs_embeds", "decoder_input_ids", "inputs_embeds", "input_ids")
        given = [kwargs.get(name) for name in names] + list(args)
        shape = next(each for each in given if each is not None).shape
        self.forwards += 1
        self.tokens += shape[0] * shape[1]

    def _count_grad(self, *args: Any, **kwargs: Any) -> Any:
        self.vjps += 1
        return self._grad(*args, **kwargs)

    def seen(self) -> dict[str, int]:
        """The counts so far."""
        return {"forwards": self.forwards, "tokens": self.tokens, "vjps": self.vjps}


def measured(act: Callable[[], Any], trim: bool = True) -> tuple[Any, dict[str, float]]:
    """Run something; CPU and wall seconds, resident memory before and at its peak in MiB.

    With `trim`, freed memory is given back to the system before, so that the peak is the run's own, which costs time.
    """
    gc.collect()
    if trim:
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    idle = resident("VmRSS")
    cpu, wall = time.process_time(), time.perf_counter()
    result = act()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return result, {"cpu": cpu, "wall": wall, "idle": idle, "peak": resident("VmHWM")}


def resident(field: str) -> float:
    """A field of the process's status in MiB; 0 where there is none to read."""
    with suppress(OSError), open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))
    return 0.0


def rate(repeats: int = 3, seconds: float = 0.1) -> float:
    """The peak rate of matrix products in floating-point operations per CPU second: the median of a few short measurements."""
    left, right = torch.randn(2, PRODUCT, PRODUCT)
    left @ right
    found = []
    for _ in range(repeats):
        done, cpu = 0, time.process_time()
        while time.process_time() - cpu < seconds:
            left @ right
            done += 1
        found.append(2 * PRODUCT**3 * done / (time.process_time() - cpu))
    return statistics.median(found)
