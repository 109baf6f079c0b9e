"""Attribution methods: each is the formula of its paper over requests to the engine."""

from inseq.methods import (
    discretized,
    flow,
    gradient,
    integrated,
    internals,
    layers,
    perturbation,
    reagent,
    relevance,
    shapley,
    surrogate,
)
from inseq.methods._method import Attribution, method

__all__ = [
    "Attribution",
    "discretized",
    "flow",
    "gradient",
    "integrated",
    "internals",
    "layers",
    "method",
    "perturbation",
    "reagent",
    "relevance",
    "shapley",
    "surrogate",
]
