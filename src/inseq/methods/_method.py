"""The registry of methods, and what a method returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from inseq.registry import Registry

method: Registry[Callable[..., Any]] = Registry(
    "method",
    defaults={
        "paper": "",
        "signed": True,
        "axes": (),
        "reduce_by": (),
        "normalize": False,
        "uses_target": True,
        "needs": None,
        "encoder_matrix": False,
    },
    awaits=True,
)
"""``@method("name", paper=..., signed=..., axes=..., reduce_by=..., normalize=...)`` on an ``async def`` of one example.

Facts: ``paper`` is a key of the bibliography; ``signed`` says whether scores below zero mean anything; ``axes`` names the
axes beyond feature and step that a granular result has; ``reduce_by`` the function that aggregates each of them, and
``normalize`` whether each step's scores are then divided by their sum of magnitudes; ``uses_target`` whether the
attributed function matters; ``needs`` what must be reachable inside the model: ``"attention"`` for attention weights,
``"values"`` for value vectors too; ``encoder_matrix`` whether a granular result holds a matrix of the encoder's tokens
beside the scores, with the same axes.
"""


@dataclass(frozen=True, eq=False)
class Attribution:
    """What a method found.

    Attributes:
        scores: Float["feature step *extra"], or None where nothing was attributed.
        diagnostics: how far to believe it, per step: Float["step"] by name.
        sequence_scores: further matrices, by name, such as the encoder's own attention.
    """

    scores: Float[Tensor, "feature step *extra"] | None
    diagnostics: dict[str, Float[Tensor, " step"]] = field(default_factory=dict)
    sequence_scores: dict[str, Tensor] = field(default_factory=dict)
