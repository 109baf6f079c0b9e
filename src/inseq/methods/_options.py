"""Checks of options that several methods have."""

from __future__ import annotations

from collections.abc import Collection

from inseq.errors import ArgumentError, near


def at_least(name: str, value: int, least: int) -> None:
    """Refuse a count that is too small."""
    if value < least:
        raise ArgumentError(f"{name}={value} must be at least {least}.")


def one_of(name: str, value: object, known: Collection[str]) -> None:
    """Refuse a name that is none of those known."""
    if not isinstance(value, str) or value not in known:
        raise ArgumentError(f"{name}={value!r} is not one of {', '.join(map(repr, known))}.{near(value, known)}")
