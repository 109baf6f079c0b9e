"""Importing the package costs nothing, dependencies run one way, and rooms are small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "inseq"
HEAVY = ("torch", "transformers", "numpy", "matplotlib")

MAY_SEE: dict[str, set[str]] = {
    "text": set(),
    "models": {"text"},
    "engine": {"text", "models"},
    "methods": {"engine.requests", "text", "results.labelled"},
    "targets": {"engine.requests", "text", "results.labelled"},
    "results": {"text", "outputs"},
    "views": {"results", "outputs.showing", "text"},
    "outputs": {"results", "views", "text"},
    "demo": set(),
}
EVERYBODY_SEES = {"errors", "_registry", "__version__"}
FACADES = {"results.context": {"views"}}
"""``out.show()`` is a method of a result: these modules call the views, when they are called."""


def _loaded_after(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(' '.join(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name for name in HEAVY if name in ran.stdout.split()}


def test_import_loads_neither_torch_nor_transformers() -> None:
    assert _loaded_after("import inseq; inseq.__version__; dir(inseq)") == set()


def test_the_command_line_s_help_loads_neither() -> None:
    code = "import inseq.cli, typer.testing as t; assert t.CliRunner().invoke(inseq.cli.app, ['--help']).exit_code == 0"
    assert _loaded_after(code) == set()


def test_the_test_above_can_fail() -> None:
    assert {"torch", "transformers"} <= _loaded_after("import inseq; inseq.load_model")


def test_unknown_names_are_refused() -> None:
    import inseq

    with pytest.raises(AttributeError, match="no attribute 'lod_model'"):
        inseq.lod_model  # noqa: B018


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("inseq."):
            found.add((node.module or "").removeprefix("inseq."))
        elif isinstance(node, ast.ImportFrom) and node.module == "inseq":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("inseq.") for a in node.names if a.name.startswith("inseq.")}
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_run_one_way(path: Path) -> None:
    module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    room = module.split(".")[0]
    if room not in MAY_SEE:
        return
    allowed = MAY_SEE[room] | EVERYBODY_SEES | {room} | FACADES.get(module, set())
    for imported in _imports(path):
        assert any(imported == a or imported.startswith(f"{a}.") for a in allowed), f"{module} imports {imported}"


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_rooms_are_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
