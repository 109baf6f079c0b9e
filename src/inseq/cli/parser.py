"""How the flags of a command are read: argparse with diagnoses, and with values from a settings file."""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from inseq.errors import ArgumentError, UnknownArgumentError, near

YES, NO = ("true", "yes", "1", "y", "t"), ("false", "no", "0", "n", "f")


def boolean(text: str) -> bool:
    """Read ``true``, ``yes``, ``1`` and their opposites."""
    if text.lower() in (*YES, *NO):
        return text.lower() in YES
    raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")


def whole_number(text: str) -> int:
    """Read a whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None


def number(text: str) -> float:
    """Read a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None


def json_object(text: str) -> dict[str, Any]:
    """Read an object in JSON."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {text!r} ({error})") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {text!r}")
    return value


READERS: dict[type, Callable[[str], Any]] = {
    str: str,
    int: whole_number,
    float: number,
    bool: boolean,
    list: str,
    dict: json_object,
}
"""The function that reads one value, by the kind of the flag."""


class PlainHelp(argparse.RawDescriptionHelpFormatter):
    """Help in which each flag has a line of its own and names its value once, after its spellings."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=8)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        spellings = ", ".join(sorted(action.option_strings, key=lambda spelling: spelling.startswith("--")))
        if action.nargs == 0:
            return spellings
        return f"{spellings} {self._format_args(action, self._get_default_metavar_for_optional(action))}"


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are diagnoses and whose flags may be written with ``-`` in place of ``_``."""

    def __init__(self, prog: str, description: str, usage: str) -> None:
        super().__init__(prog, f"{prog} {usage}".rstrip(), description, formatter_class=PlainHelp, allow_abbrev=False)
        self._section: Any = self
        self._flag_kinds: dict[str, type] = {}
        self._flag_defaults: dict[str, Any] = {}

    def section(self, title: str | None) -> None:
        """List the flags that follow under a title; with None, accept them without listing them."""
        self._section = None if title is None else self.add_argument_group(title)

    def flag(self, names: str, kind: type = str, default: Any = None, help: str = "") -> None:
        """Add one flag.

        Args:
            names: its spellings and, in capitals, the name of its value, separated by blanks. The first spelling gives the
                name in Python.
            kind: ``str``, ``int``, ``float``, ``bool``, ``list`` (of texts) or ``dict`` (in JSON).
            default: its value where neither the command line nor a settings file has one.
            help: a sentence.
        """
        spellings = [name for name in names.split() if name.startswith("-")]
        metavar = next((name for name in names.split() if not name.startswith("-")), "true|false")
        dest = spellings[0].lstrip("-")
        self._flag_kinds[dest], self._flag_defaults[dest] = kind, default
        options: dict[str, Any] = {"nargs": "?", "const": True} if kind is bool else {}
        if kind is list:
            options = {"nargs": "+", "action": "extend"}
        target = self._section or self
        # Without a default of argparse, a flag that is not passed leaves room for the settings file.
        shared: dict[str, Any] = {"dest": dest, "default": argparse.SUPPRESS}
        listed = argparse.SUPPRESS if self._section is None else _with_default(help, default)
        target.add_argument(*spellings, type=READERS[kind], metavar=metavar, help=listed, **options, **shared)
        if kind is bool:
            opposites = [f"--no_{name[2:]}" for name in spellings if name.startswith("--")]
            target.add_argument(*opposites, action="store_false", help=argparse.SUPPRESS, **shared)

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Return the values of all flags: of the command line, else of the settings file, else the defaults.

        Raises:
            ArgumentError, UnknownArgumentError: for flags and settings files that cannot be used.
            SystemExit: after ``--help``.
        """
        namespace, unknown = self.parse_known_args([self._underscored(argument) for argument in arguments])
        if unknown:
            name = unknown[0].partition("=")[0]
            similar = near(name, self._option_string_actions)
            raise UnknownArgumentError(f"{self.prog} has no argument {name!r}.{similar} {self._see_help()}")
        values = vars(namespace)
        settings = self._settings(Path(values["config"])) if "config" in values else {}
        return argparse.Namespace(**{**self._flag_defaults, **settings, **values})

    def error(self, message: str) -> NoReturn:
        """Raise what argparse has to say.

        Raises:
            ArgumentError: always.
        """
        raise ArgumentError(f"{self.prog}: {message}. {self._see_help()}")

    def _see_help(self) -> str:
        return f"See `{self.prog} --help`."

    def _underscored(self, argument: str) -> str:
        name, equals, value = argument.partition("=")
        spelling = f"--{name[2:].replace('-', '_')}"
        known = argument.startswith("--") and spelling in self._option_string_actions
        return f"{spelling}{equals}{value}" if known else argument

    def _settings(self, path: Path) -> dict[str, Any]:
        """Return the settings for this command: those of its own table, and those outside any table."""
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArgumentError(f"--config {str(path)!r} cannot be read: {error}.") from error
        tables = {name: document.pop(name, {}) for name in CONFIGURED}
        own = tables[self.prog.removeprefix("inseq ")]
        if not isinstance(own, dict):
            raise ArgumentError(f"{path}: [{self.prog.removeprefix('inseq ')}] must be a table, got {own!r}.")
        settings = {key.replace("-", "_"): value for key, value in {**document, **own}.items()}
        return {name: self._setting(path, name, value) for name, value in settings.items()}

    def _setting(self, path: Path, name: str, value: Any) -> Any:
        known = self._flag_kinds.keys() - {"config"}
        if name not in known:
            raise UnknownArgumentError(f"{path}: unknown setting {name!r}.{near(name, known)}")
        try:
            return _as_flag(self._flag_kinds[name], value)
        except argparse.ArgumentTypeError as error:
            raise ArgumentError(f"{path}: {name}: {error}.") from None


CONFIGURED = ("attribute", "attribute-dataset", "attribute-context")
"""The commands that a settings file may have a table for."""


def _with_default(help: str, default: Any) -> str:
    text = help.replace("%", "%%")
    return text if default in (None, False, "", [], {}) else f"{text} Default: {json.dumps(default)}."


def _as_flag(kind: type, value: Any) -> Any:
    """Return the value of a setting as the flag would have it after its text was read."""
    if kind is list:
        return [_text(item) for item in (value if isinstance(value, list) else [value])]
    if kind is dict and isinstance(value, dict):
        return value
    return READERS[kind](_text(value))


def _text(value: Any) -> str:
    if isinstance(value, list | dict):
        raise argparse.ArgumentTypeError(f"expected one value, got {value!r}")
    return str(value).lower() if isinstance(value, bool) else str(value)
