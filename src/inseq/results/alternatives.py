"""The most probable tokens at an explained place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from inseq.text.tokens import Token


@dataclass(frozen=True)
class Alternative:
    """A token that the model could have written, and how probable it was there.

    Attributes:
        token: the token; the written one, too, stands where it ranks.
        probability: of the model's unaltered prediction, from 0 to 1.
    """

    token: Token
    probability: float

    def copy(self) -> Alternative:
        """Return one with a token of its own."""
        return replace(self, token=self.token.copy())


Alternatives = tuple[tuple[Alternative, ...], ...]
"""For each step the most probable tokens, the first choice first; none of a step of several tokens."""


def tokens_of(alternatives: Alternatives) -> list[Token]:
    """All tokens, step by step."""
    return [each.token for step in alternatives for each in step]


def merged(alternatives: Alternatives, columns: Sequence[tuple[int, int]], single: Sequence[bool]) -> Alternatives:
    """Those of merged steps: a step that is still a single token keeps its own.

    Args:
        alternatives: of each step, or nothing where they were not recorded.
        columns: for each new step the half-open range of steps it is made of.
        single: for each new step whether it explains a single token.
    """
    if not alternatives:
        return ()
    return tuple(
        alternatives[start] if end - start == 1 and alone else () for (start, end), alone in zip(columns, single, strict=True)
    )
