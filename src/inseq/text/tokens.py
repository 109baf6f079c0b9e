"""Tokens: one piece of the input or the output, and how a reader sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["source", "prompt", "generated"]


@dataclass(eq=False)
class Token:
    """One token of the input or the output.

    Attributes:
        token: the raw piece of the vocabulary. It may be edited, and is then what every view shows.
        id: its id, or -1 where several tokens were merged.
        role: which part of the model's input it belongs to.
        text: the same piece as a reader wants to see it.
        special: whether it is a special token such as ``</s>``.
    """

    token: str
    id: int
    role: Role = "generated"
    text: str = ""
    special: bool = False
    _piece: str = field(init=False, repr=False, default="")

    def __post_init__(self) -> None:
        self._piece = self.token

    @property
    def shown(self) -> str:
        """The edited token where it was edited, the readable text elsewhere."""
        return self.token if self.token != self._piece else self.text

    def __str__(self) -> str:
        return self.token

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return self.token == other
        if isinstance(other, int):
            return self.id == other
        return isinstance(other, Token) and (self.token, self.id) == (other.token, other.id)

    __hash__ = None  # type: ignore[assignment]

    def copy(self) -> Token:
        """Return an independent token, edits included."""
        twin = Token(self._piece, self.id, self.role, self.text, self.special)
        twin.token = self.token
        return twin


def joined(tokens: Sequence[Token]) -> Token:
    """One token of several, with what each shows; a single one is itself."""
    if len(tokens) == 1:
        return tokens[0]
    text = "".join(token.shown for token in tokens)
    return Token("".join(map(str, tokens)), -1, tokens[-1].role, text, all(token.special for token in tokens))
