"""Attribution methods: each is the formula of its paper over requests to the engine."""

from inseq.methods import gradient, internals, perturbation, relevance
from inseq.methods._method import Attribution, method

__all__ = ["Attribution", "gradient", "internals", "method", "perturbation", "relevance"]
