"""How a view shall look, as far as the caller says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inseq.errors import ArgumentError


@dataclass(frozen=True)
class Look:
    """How a view shall look.

    Attributes:
        min_val: score at the weak end of the colour scale.
        max_val: score at the strong end.
        max_show_size: how many input tokens are drawn one by one at most.
        show_dim: the trailing axis whose single indices can be looked at, by name or number; layers and heads by default.
        title: a heading.
        theme: ``"light"`` or ``"dark"``; what the host has by default.
        highlight: the step score that underlines the output; the first by default.
        replace_char: texts to exchange in what tokens show.
        wrap_after: break the line after so many tokens, or after tokens that end in a text, or in one of several.
    """

    min_val: float | None = None
    max_val: float | None = None
    max_show_size: int | None = None
    show_dim: int | str | None = None
    title: str | None = None
    theme: Any = None
    highlight: str = ""
    replace_char: dict[str, str] | None = None
    wrap_after: int | str | list[str] | None = None

    def __post_init__(self) -> None:
        if self.theme not in (None, "auto", "light", "dark"):
            raise ArgumentError(f"theme={self.theme!r} must be 'light', 'dark' or 'auto'.")
        if self.max_show_size is not None and (type(self.max_show_size) is not int or self.max_show_size < 1):
            raise ArgumentError(f"max_show_size={self.max_show_size!r} must be a whole number of at least 1.")
