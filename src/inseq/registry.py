"""Names to functions: methods, step functions and aggregators each have one registry."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from inseq.errors import ArgumentError, UnknownArgumentError, UnknownNameError, near

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry(Generic[F]):
    """A registered function, its name and the facts declared with it."""

    name: str
    function: F
    facts: dict[str, Any]

    @property
    def options(self) -> dict[str, Any]:
        """Parameters after the first that can be given by name, and their defaults."""
        return dict(self._options)

    @cached_property
    def _options(self) -> dict[str, Any]:
        parameters = list(inspect.signature(self.function).parameters.values())
        return {p.name: p.default for p in parameters[1:] if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.function) or "").split("\n")[0]


@dataclass
class Registry(Generic[F]):
    """Filled by its decorator; refuses double names; answers a misspelt name with the near ones.

    Attributes:
        kind: what errors call an entry.
        defaults: facts that an entry has unless it declares others; where there are any, no others are known.
        awaits: whether entries must be ``async def``.
    """

    kind: str
    defaults: dict[str, Any] = field(default_factory=dict)
    awaits: bool = False
    _entries: dict[str, Entry[F]] = field(default_factory=dict)
    _plugins_loaded: bool = False

    def __call__(self, name: str, *, overwrite: bool = False, **facts: Any) -> Callable[[F], F]:
        """Decorate a function to register it under ``name``.

        Raises:
            ArgumentError: if the name is taken, unless ``overwrite``, and for a fact that entries do not have.
        """
        if not isinstance(name, str) or not name:
            raise ArgumentError(f"A {self.kind} is registered under a name, as in @{self.kind}('name'); got {name!r}.")

        def add(function: F) -> F:
            self.add(name, function, facts, overwrite=overwrite)
            return function

        return add

    def add(self, name: str, function: F, facts: dict[str, Any], *, overwrite: bool = False) -> None:
        """Register a function.

        Raises:
            ArgumentError: if the name is taken, unless ``overwrite``; for a fact that entries do not have; and for a
                function that should be ``async``.
        """
        if name in self._entries and not overwrite:
            raise ArgumentError(f"{self.kind} {name!r} is already registered; choose another name, or pass overwrite=True.")
        unknown = next((fact for fact in facts if self.defaults and fact not in self.defaults), None)
        if unknown is not None:
            known = ", ".join(self.defaults)
            raise ArgumentError(f"A {self.kind} has no fact {unknown!r}.{near(unknown, self.defaults)} Known: {known}.")
        if self.awaits and not inspect.iscoroutinefunction(function):
            raise ArgumentError(
                f"{self.kind} {name!r} must be an async def that awaits requests, got {type(function).__name__}."
            )
        self._entries[name] = Entry(name, function, {**self.defaults, **facts})

    def __iter__(self) -> Iterator[str]:
        self._load_plugins()
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        self._load_plugins()
        return name in self._entries

    def __getitem__(self, name: str) -> Entry[F]:
        """Return the entry called ``name``.

        Raises:
            UnknownNameError: with the nearest known names.
        """
        if isinstance(name, str) and name in self:
            return self._entries[name]
        known = ", ".join(self)
        raise UnknownNameError(f"Unknown {self.kind} {name!r}.{near(name, self)} Known: {known}.")

    def _load_plugins(self) -> None:
        if not self._plugins_loaded:
            self._plugins_loaded = True
            for point in entry_points(group=f"inseq.{self.kind.replace(' ', '_')}s"):
                point.load()


def bind(
    options: dict[str, Any],
    takers: dict[str, dict[str, Any]],
    also: set[str] | None = None,
    hint: Callable[[str], str] = lambda name: "",
    elsewhere: Collection[str] = (),
) -> dict[str, dict[str, Any]]:
    """Route keyword options to those that take them; one option may reach several.

    Args:
        options: the keywords of the call.
        takers: name of each taker -> its options and their defaults.
        also: arguments of the call itself, named when a misspelt option is close to one.
        hint: what can be said of a name that nobody here takes.
        elsewhere: names that others take.

    Raises:
        UnknownArgumentError: for the first option nobody takes, before anything has run.
    """
    known = {name for taken in takers.values() for name in taken}
    for name in options:
        if name not in known:
            lists = "; ".join(f"{taker} takes {', '.join(sorted(taken)) or 'no options'}" for taker, taken in takers.items())
            said = hint(name) or near(name, known | (also or set())) or near(name, elsewhere)
            raise UnknownArgumentError(f"Unknown argument {name!r}.{said} ({lists}.)")
        for taken in takers.values():
            if name in taken:
                _check_kind(name, options[name], taken[name])
    return {taker: {k: v for k, v in options.items() if k in taken} for taker, taken in takers.items()}


def _check_kind(name: str, value: Any, default: Any) -> None:
    """An option with a default that is a flag or a number takes only such values."""
    kinds: dict[type, tuple[tuple[type, ...], str]] = {
        bool: ((bool,), "True or False"),
        int: ((int,), "a whole number"),
        float: ((int, float), "a number"),
    }
    allowed, expected = kinds.get(type(default), ((object,), ""))
    if not isinstance(value, allowed) or (isinstance(value, bool) and type(default) in (int, float)):
        raise ArgumentError(f"{name} must be {expected}, got {type(value).__name__} ({value!r}).")
    if isinstance(value, float) and not math.isfinite(value):
        raise ArgumentError(f"{name} must be a finite number, got {value}.")
    if name == "seed" and isinstance(value, int) and not 0 <= value < 2**32:
        raise ArgumentError(f"seed={value} must be from 0 to {2**32 - 1}.")
