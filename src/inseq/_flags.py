"""Flags of the commands that Inseq 0.7.1 has, in its spelling and in ours. Nothing heavy is loaded here.

argparse and not typer: a list takes several values after one flag (``-i one two``), and a flag may be told its value
(``--attribute_target false``).
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from inseq.errors import ArgumentError, UnknownArgumentError, near

YES, NO = ("true", "yes", "1", "y", "t"), ("false", "no", "0", "n", "f")


def boolean(text: str) -> bool:
    """``true``, ``yes``, ``1`` and their opposites."""
    if text.lower() in (*YES, *NO):
        return text.lower() in YES
    raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")


def json_object(text: str) -> dict[str, Any]:
    """An object in JSON."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {text!r} ({error})") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {text!r}")
    return value


class Flags(argparse.ArgumentParser):
    """A parser in which names may be written with ``-`` or ``_``, and that reads defaults from a file."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"inseq {command}", description=description, allow_abbrev=False)
        self.command = command
        self.add_argument("--config", help="A TOML file with values for these flags; those on the command line win.")

    def flag(self, names: str, kind: Any = str, default: Any = None, help: str = "") -> None:
        """Add one flag; the first of the names says what it is called in Python.

        Args:
            names: separated by blanks.
            kind: ``bool``, ``list`` (of texts), ``dict`` (in JSON), or what reads one value.
            default: its value where it is not given.
            help: a sentence.
        """
        first, *others = names.split()
        spelt = [first, *others, *(n.replace("_", "-", n.count("_")) for n in (first, *others) if "_" in n)]
        dest = first.lstrip("-")
        taken: dict[str, Any] = {"type": kind}
        if kind is bool:
            taken = {"type": boolean, "nargs": "?", "const": True, "metavar": "true|false"}
            off = [f"--no{dash}{n[2:]}" for n in spelt if n.startswith("--") for dash in "_-"]
            self.add_argument(*dict.fromkeys(off), dest=dest, action="store_false", default=default, help=argparse.SUPPRESS)
        elif kind is list:
            taken = {"nargs": "+", "action": "extend", "type": str}
        elif kind is dict:
            taken = {"type": json_object, "metavar": "JSON"}
        self.add_argument(*spelt, dest=dest, default=default, help=help.replace("%", "%%"), **taken)

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse.

        Raises:
            ArgumentError, UnknownArgumentError: for a configuration file that cannot be used.
            SystemExit: with 2 for flags that cannot be.
        """
        known = {action.dest for action in self._actions} - {"help", "config"}
        path = next((a for flag, a in pairwise(arguments) if flag == "--config"), None)
        path = next((a.partition("=")[2] for a in arguments if a.startswith("--config=")), path)
        if path is not None:
            values = _config(Path(path), self.command)
            for name in values:
                if name not in known:
                    raise UnknownArgumentError(f"{path}: unknown setting {name!r}.{near(name, known)}")
            lists = {action.dest: values.pop(action.dest) for action in self._actions if self._is_list(action, values)}
            self.set_defaults(**values)
            found = self.parse_args(arguments)
            for name, value in lists.items():
                if getattr(found, name) is None:
                    setattr(found, name, value)
            return found
        return self.parse_args(arguments)

    @staticmethod
    def _is_list(action: argparse.Action, values: dict[str, Any]) -> bool:
        return action.nargs == "+" and action.dest in values


def _config(path: Path, command: str) -> dict[str, Any]:
    """The settings of a command: of the table with its name, and of those outside any table."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArgumentError(f"--config {str(path)!r} cannot be read: {error}.") from error
    commands = ("attribute", "attribute-dataset", "attribute-context")
    own = found.get(command, {})
    outside = {key: value for key, value in found.items() if key not in commands}
    return {key.replace("-", "_"): value for key, value in {**outside, **own}.items()}


def shared(flags: Flags) -> None:
    """Flags of all commands that attribute."""
    flags.flag("--model_name_or_path -m --model", help="Hub name, local directory, demo/zh-en or demo/gpt2.")
    flags.flag("--attribution_method -a --method", default="saliency", help="Attribution method; see `inseq methods`.")
    flags.flag("--device --dev", help="A torch device; CUDA where there is one by default.")
    flags.flag("--attributed_fn -fn --target", help="The step function to attribute; the probability by default.")
    flags.flag("--attribution_selectors", kind=list, help="Indices along the last axis, the one before, ...")
    flags.flag("--attribution_aggregators", kind=list, help="Aggregators, or aggregation functions.")
    flags.flag("--normalize_attributions", bool, False, "Whether the scores of a token sum to 1.")
    flags.flag("--rescale_attributions", bool, False, "Whether scores are divided by the largest.")
    flags.flag("--model_kwargs", dict, {}, "Arguments of the model's from_pretrained.")
    flags.flag("--tokenizer_kwargs", dict, {}, "Arguments of the tokenizer's from_pretrained.")
    flags.flag("--generation_kwargs", dict, {}, "Arguments of generation.")
    flags.flag("--attribution_kwargs --options", dict, {}, "Options of method and step functions.")
    flags.flag("--quiet -q", bool, False, "No progress and no remarks on standard error.")
    flags.flag("--overwrite", bool, False, "Replace existing files.")


def of_attribution(flags: Flags) -> None:
    """Flags of ``attribute`` and ``attribute-dataset``."""
    shared(flags)
    flags.flag("--attribute_target", bool, False, "Score the generated prefix beside an encoder's source.")
    flags.flag("--generate_from_target_prefix", bool, False, "Go on from the generated texts of an encoder-decoder.")
    flags.flag("--step_scores --step_score", list, help="Step functions to record.")
    flags.flag("--alternatives", int, 0, "How many of the most probable tokens to record for each explained one.")
    flags.flag("--output_step_attributions", bool, False, "Keep an output for each step, too.")
    flags.flag("--include_eos_baseline --eos", bool, False, "Replace end tokens in the baseline, too.")
    flags.flag("--batch_size -bs", int, 8, "Texts at a time.")
    flags.flag("--aggregate_output", bool, False, "Save aggregated scores.")
    flags.flag("--hide_attributions --hide", bool, False, "Do not print the result.")
    flags.flag("--save_path -o --output", help="Where the result is saved.")
    flags.flag("--viz_path --html", help="Where a page to open in a browser is saved.")
    flags.flag("--start_pos", int, help="The first position to explain.")
    flags.flag("--end_pos -e", int, help="The position after the last one to explain.")
    flags.flag("--s -s", list, help="A number is --start_pos, as in Inseq 0.7.1; a name is --step_scores.")
    flags.flag("--max_new_tokens", int, help="The longest output to generate.")
    flags.flag("--verbose -v", bool, False, "Accepted; there is nothing more to say.")
    flags.flag("--very_verbose -vv", bool, False, "Accepted; there is nothing more to say.")
