"""Which layers and heads a request is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inseq.errors import ArgumentError
from inseq.requests import HeadChoice


def chosen(choice: Any, size: int, name: str) -> list[int]:
    """The indices that a choice means among ``size``, ascending.

    Raises:
        ArgumentError: for an index out of range, one given twice, none at all, or another type.
    """
    if choice is None:
        return list(range(size))
    if isinstance(choice, tuple):
        if len(choice) != 2 or not all(map(_whole, choice)):
            raise ArgumentError(
                f"{name}={choice!r}: a tuple is a half-open range (start, end); pass a list for single indices."
            )
        start, end = (i + size if i < 0 else i for i in choice)
        if not 0 <= start < end <= size:
            raise ArgumentError(f"{name}={choice!r} is not a range within {_there_are(size, name)}.")
        return list(range(start, end))
    given: Any = [choice] if _whole(choice) else choice
    if not isinstance(given, list) or not all(map(_whole, given)):
        raise ArgumentError(
            f"{name} must be None for all, a whole number, a list of them, or a (start, end) range; got {choice!r}."
        )
    outside = [i for i in given if not -size <= i < size]
    if outside:
        raise ArgumentError(f"{name}={choice!r}: {outside[0]} is out of range, {_there_are(size, name)}.")
    found = [i % size for i in given]
    if not found or len(set(found)) < len(found):
        raise ArgumentError(f"{name}={choice!r} must name at least one, and each once.")
    return sorted(found)


def heads_by_layer(choice: HeadChoice, n_layers: int, n_heads: int) -> dict[int, list[int]]:
    """The chosen heads of every layer; a layer that a mapping does not name keeps all."""
    if not isinstance(choice, Mapping):
        return dict.fromkeys(range(n_layers), chosen(choice, n_heads, "heads"))
    found = {layer: list(range(n_heads)) for layer in range(n_layers)}
    for layer, heads in choice.items():
        (index,) = chosen([layer], n_layers, "layers")
        found[index] = chosen(heads, n_heads, "heads")
    return found


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _there_are(size: int, name: str) -> str:
    return f"the {size} {name} 0 to {size - 1}"
