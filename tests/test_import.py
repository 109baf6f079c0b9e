"""Importing the package costs nothing, dependencies run one way, and rooms are small."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from inseq.cli.main import COMMANDS

SOURCE = Path(__file__).parent.parent / "src" / "inseq"
HEAVY = ("torch", "transformers", "numpy", "matplotlib")

MAY_SEE: dict[str, set[str]] = {
    "text": set(),
    "models": {"text"},
    "engine": {"text", "models"},
    "methods": {"engine.requests", "text", "results.labelled"},
    "targets": {"engine.requests", "text", "results.labelled"},
    "results": {"text"},
    "results.aggregate": {"results", "text"},
    "results.files": {"results", "text"},
    "views": {"results", "text"},
    "outputs": {"results", "views", "text"},
    "demo": set(),
}
EVERYBODY_SEES = {"errors", "_registry", "version"}
WITHOUT_CIRCLES = ("results", "views", "outputs")


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


def _file(module: str) -> str:
    """Return the module, if it is one."""
    path = SOURCE.joinpath(*module.split("."))
    return module if path.with_suffix(".py").exists() or path.is_dir() else ""


def _name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def _room(module: str) -> str:
    """Return the innermost room of the table that a module is in, or nothing."""
    return max((room for room in MAY_SEE if f"{module}.".startswith(f"{room}.")), key=len, default="")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("inseq."):
            module = (node.module or "").removeprefix("inseq.")
            found |= {_file(f"{module}.{alias.name}") or module for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "inseq":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("inseq.") for a in node.names if a.name.startswith("inseq.")}
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_run_one_way(path: Path) -> None:
    module = _name(path)
    room = _room(module)
    if not room:
        return
    for imported in _imports(path):
        seen = any(f"{imported}.".startswith(f"{allowed}.") for allowed in MAY_SEE[room] | EVERYBODY_SEES)
        assert seen or _room(imported) == room, f"{module} imports {imported}"


def test_nothing_imports_the_command_line() -> None:
    outside = [path for path in sorted(SOURCE.rglob("*.py")) if path.parent.name != "cli"]
    assert [path.name for path in outside if any(f"{module}.".startswith("cli.") for module in _imports(path))] == []


def test_no_file_imports_another_that_imports_it() -> None:
    """Nor over others; imports for types alone and those in functions count too."""
    paths = [path for room in WITHOUT_CIRCLES for path in (SOURCE / room).rglob("*.py")]
    graph = {_name(path): _imports(path) for path in paths}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_rooms_are_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
