"""The entry of the command line: which commands there are, and how they end."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from inseq.cli import commands, flags
from inseq.cli.parser import CommandParser
from inseq.errors import InseqError, UnknownNameError, near
from inseq.version import __version__

ABOUT = "Show which input tokens made a model write each of its output tokens."


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        summary: its line in the list of commands.
        usage: what follows its name.
        run: what it does with the values of its flags.
        add_flags: adds the flags to its parser.
        details: what its help says below the summary.
    """

    summary: str
    usage: str
    run: Callable[[Namespace], None]
    add_flags: Callable[[CommandParser], None] | None = None
    details: str = ""


COMMANDS = {
    "attribute": Command(
        "Attribute what a model writes to what it read.",
        "-m NAME -i TEXT [TEXT ...] [flags]",
        commands.run_attribute,
        flags.attribute_flags,
    ),
    "attribute-dataset": Command(
        "Attribute every row of a data set.",
        "-m NAME -d NAME -o PATH [flags]",
        commands.run_attribute_dataset,
        flags.attribute_dataset_flags,
        "The same command goes on with a run that was stopped.",
    ),
    "attribute-context": Command(
        "Find which output tokens depend on the context (PECoRe).",
        "-m NAME --input_current_text TEXT [flags]",
        commands.run_attribute_context,
        flags.attribute_context_flags,
        "For each of them, find the tokens of the context that it depends on.",
    ),
    "show": Command("Show a saved result.", "PATH [flags]", commands.run_show, flags.show_flags),
    "demo": Command(
        "Show an attribution of the bundled translation model.", "[TEXT] [flags]", commands.run_demo, flags.demo_flags
    ),
    "methods": Command("List methods and step functions with their options.", "", commands.run_methods),
    "doctor": Command("List versions and devices, and try the bundled models.", "", commands.run_doctor),
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    The exit code is 1 for a failure while running, 2 for wrong input and 130 for an interruption.
    """
    sys.exit(_exit_code(sys.argv[1:] if arguments is None else arguments))


def _exit_code(arguments: Sequence[str]) -> int:
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except InseqError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone, as in `inseq methods | head`. Python would fail once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        print(f"Failed: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _run(arguments: Sequence[str]) -> int:
    if not arguments:
        _top_parser().print_help()
        return 2
    name, *rest = arguments
    if name.startswith("-"):
        _top_parser().read(arguments)
    if name not in COMMANDS:
        raise UnknownNameError(f"Unknown command {name!r}.{near(name, COMMANDS)} The commands are {', '.join(COMMANDS)}.")
    command = COMMANDS[name]
    parser = CommandParser(f"inseq {name}", f"{command.summary}\n{command.details}".strip(), command.usage)
    if command.add_flags is not None:
        command.add_flags(parser)
    command.run(parser.read(rest))
    return 0


def _top_parser() -> CommandParser:
    listing = "\n".join(f"  {name:19}{command.summary}" for name, command in COMMANDS.items())
    description = f"{ABOUT}\n\ncommands:\n{listing}\n\n`inseq COMMAND --help` lists the flags of a command."
    parser = CommandParser("inseq", description, "COMMAND ...")
    parser.add_argument("--version", action="version", version=f"inseq {__version__}", help="show the version and exit")
    return parser
