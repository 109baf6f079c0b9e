"""Calls of the command line within the process of the tests."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from inseq.cli import main


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it wrote."""

    code: object
    output: str
    errors: str


def call(*arguments: str) -> Ended:
    """Call a command as the shell would."""
    output, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    try:
        with redirect_stdout(output), redirect_stderr(errors):
            main(arguments)
    except SystemExit as end:
        code = end.code
    return Ended(code, *(stream.buffer.getvalue().decode() for stream in (output, errors)))


def succeed(*arguments: str) -> str:
    """Call a command that must succeed, and return its standard output."""
    ended = call(*arguments)
    assert ended.code == 0, ended.errors
    return ended.output


def refuse(*arguments: str) -> str:
    """Call a command that must be refused, and return its diagnosis."""
    ended = call(*arguments)
    assert ended.code == 2, ended
    assert ended.output == ""
    assert "Traceback" not in ended.errors
    *_, diagnosis = ended.errors.splitlines()
    assert diagnosis.startswith("Error: ")
    return diagnosis
