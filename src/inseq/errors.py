"""Errors that are diagnoses: what was got, what was expected, the likely cause, the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class InseqError(Exception):
    """The parent of every error this library raises on purpose."""


class ArgumentError(InseqError, ValueError):
    """An argument has a value that cannot be used."""


class UnknownNameError(ArgumentError, KeyError):
    """A name that nothing is registered under."""

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownArgumentError(InseqError, TypeError):
    """A keyword that nothing in the call takes."""


class UnsupportedModelError(InseqError, ValueError):
    """The architecture cannot do what was asked."""


class FileFormatError(InseqError, ValueError):
    """A file is not a result of ours, or it is damaged."""


@contextmanager
def writing(path: object) -> Iterator[None]:
    """Turn what the file system says about a path into a diagnosis."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ArgumentError(
            f"Cannot write {str(path)!r}: {reason}. Choose a path in a directory that you may write to."
        ) from error


def near(name: object, known: Iterable[str]) -> str:
    """Return ``" Did you mean ...?"`` for the closest known names, or nothing."""
    matches = get_close_matches(str(name), list(known), n=3)
    return f" Did you mean {' or '.join(repr(m) for m in matches)}?" if matches else ""


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
