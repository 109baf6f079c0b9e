"""The engine's accelerators: one table, with a switch in each row.

Each row gives the same numbers as the plain form; a slow test turns every one off and compares. ``make bench`` prints what
each buys (``ARGS="--cases reach --alone"``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Accelerator:
    """One row.

    Attributes:
        summary: what it does instead.
        pays_from: the size of the work, below which the plain form is taken and the model is asked nothing.
        unit: what the size counts.
        on: the switch.
    """

    summary: str
    pays_from: int = 0
    unit: str = ""
    on: bool = True


# Measured on Llama-like, Marian, SmolLM2 and 6x384 shapes, single thread: at 24 positions x 8 products cheaper graphs are .9
# times as fast as the model's own, at 32 x 16 between .98 and 1.1, at 64 x 32 between 1.0 and 1.3. Asking takes longer than
# such a call. 2**23 logits are 32 MiB of float32.
ACCELERATORS = {
    "last_layer": Accelerator("one backward through the last layer serves all products", 1024, "positions x products"),
    "saved_slopes": Accelerator(
        "activations, norms and attention keep what their backward needs", 1024, "positions x products"
    ),
    "beginnings": Accelerator("graphs over the first positions of rows, from one forward", 1024, "positions x products"),
    "batched_products": Accelerator("several vector-Jacobian products in one backward"),
    "streamed_predictions": Accelerator("tiles of the vocabulary in place of rows of logits", 2**23, "logits"),
    "early_end": Accelerator("the last layer at the predicting positions alone"),
    "cache_reuse": Accelerator("variants go on from the keys and values of their example"),
    "zeroing_shortcut": Accelerator("zeroed values change a layer by a few vectors"),
}


def pays(name: str, size: int | None = None) -> bool:
    """Return whether an accelerator is on, and worth it for work of a size."""
    row = ACCELERATORS[name]
    return row.on and (size is None or size >= row.pays_from)


@contextmanager
def without(name: str) -> Iterator[None]:
    """Turn one off."""
    row = ACCELERATORS[name]
    before, row.on = row.on, False
    try:
        yield
    finally:
        row.on = before
