"""Checks of options that several methods share."""

from __future__ import annotations

from inseq.errors import ArgumentError


def at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ArgumentError(f"{name}={value} must be at least {least}.")
