"""Attribution methods: each is the formula of its paper over requests to the engine."""

from inseq.methods import flow, gradient, internals, perturbation
from inseq.methods._method import Attribution, method

__all__ = ["Attribution", "flow", "gradient", "internals", "method", "perturbation"]
