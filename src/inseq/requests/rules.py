"""What an edit of the backward pass is: the choices that attribution methods make. Forward values never change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Relevance:
    """How the gradient of one run passes what is not linear.

    Attributes:
        name: the method that asks, for messages.
        norm: ``"gradient"``, or ``"constant"``: the statistic that is divided by is held.
        activation: ``"gradient"``, or ``"ratio"``: what a function does to its input is held as a factor, phi(u) / u.
        softmax: ``"gradient"``; ``"constant"``: the weights are held; or ``"tempered"``: the gradient at ``temperature``.
        product: of two factors that both depend on the input: ``"gradient"``; ``"halved"``: each gets half of it; or
            ``"gated"``: a factor that is an activation's output is held.
        temperature: of the softmax in the backward pass.
    """

    name: str
    norm: Literal["gradient", "constant"] = "gradient"
    activation: Literal["gradient", "ratio"] = "gradient"
    softmax: Literal["gradient", "constant", "tempered"] = "gradient"
    product: Literal["gradient", "halved", "gated"] = "gradient"
    temperature: float = 1.0


@dataclass(frozen=True)
class Rescale:
    """Multipliers of differences from a reference, which runs beside the input: the rescale rule at every operation.

    Attributes:
        name: the method that asks, for messages.
    """

    name: str


Edit = Relevance | Rescale
