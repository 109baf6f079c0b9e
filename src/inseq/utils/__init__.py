"""Errors under the import path of Inseq 0.7.1, for code that was written for it; ours are in :mod:`inseq.errors`."""

from inseq.errors import ArgumentError, UnknownNameError

LengthMismatchError = ArgumentError
MissingAttributionMethodError = ArgumentError
UnknownAttributionMethodError = UnknownNameError

__all__ = ["LengthMismatchError", "MissingAttributionMethodError", "UnknownAttributionMethodError"]
