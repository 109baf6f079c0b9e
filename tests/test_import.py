"""Importing the package costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from inseq.cli.main import COMMANDS

HEAVY = ("torch", "transformers", "numpy", "matplotlib")


def _loaded_after(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(' '.join(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name for name in HEAVY if name in ran.stdout.splitlines()[-1].split()}


def test_import_loads_neither_torch_nor_transformers() -> None:
    assert _loaded_after("import inseq; inseq.__version__; dir(inseq)") == set()


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_the_command_line_s_help_loads_neither(arguments: list[str]) -> None:
    code = f"""
import contextlib, inseq.cli
with contextlib.suppress(SystemExit):
    inseq.cli.main({[*arguments, "--help"]})
"""
    assert _loaded_after(code) == set()


def test_the_test_above_can_fail() -> None:
    assert {"torch", "transformers"} <= _loaded_after("import inseq; inseq.load_model")


def test_unknown_names_are_refused() -> None:
    import inseq

    with pytest.raises(AttributeError, match="no attribute 'lod_model'"):
        inseq.lod_model  # noqa: B018
