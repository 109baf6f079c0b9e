"""The house's rules: every file stands in a room, imports run one way, no two files need each other, names are unique.

``ROOMS`` is the order. A file may import its own room and earlier ones, at run time, for types and inside functions alike.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "inseq"

ROOMS = (
    "errors",
    "version",
    "registry",
    "text",
    "requests",
    "results",
    "results.aggregate",
    "results.files",
    "targets",
    "methods",
    "models",
    "engine.accelerators",
    "engine.budget",
    "engine.jobs",
    "engine.batches",
    "engine.answers",
    "engine.scores",
    "engine.rules",
    "engine.gradients",
    "engine.inside",
    "engine.measures",
    "engine.memory",
    "engine.progress",
    "engine.scheduler",
    "views",
    "outputs",
    "compat",
    "demo",
    "call",
    "api",
    "dataset",
    "context",
    "attr",
    "data",
    "utils",
    "commands",
    "__init__",
    "cli",
)
TOP = {"__init__.py", "api.py", "errors.py", "registry.py", "version.py"}
INSEQ_PATHS = ("attr", "data", "utils", "commands")
"""Import paths of Inseq 0.7.1: they hand names on, and nothing of ours imports them."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str | None:
    """Return the innermost room that a module stands in."""
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len, default=None)


TREES = {name_of(path): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}


def imports_of(module: str) -> Iterator[tuple[str, str]]:
    """Yield the modules of ours that a file imports, each with the name taken from it."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "inseq":
            source = (node.module or "").removeprefix("inseq").removeprefix(".")
            for alias in node.names:
                inner = f"{source}.{alias.name}".removeprefix(".")
                yield (inner, "") if inner in TREES else (source or "__init__", alias.name)
        elif isinstance(node, ast.Import):
            yield from ((a.name.removeprefix("inseq."), "") for a in node.names if a.name.startswith("inseq."))


def is_face(module: str) -> bool:
    """Return whether a file is a package's ``__init__``, which hands on names of its own package."""
    return (SOURCE / Path(*module.split(".")) / "__init__.py").exists() or module == "__init__"


def test_every_file_stands_in_a_room() -> None:
    assert [module for module in TREES if module and room_of(module) is None and module != "engine"] == []


def test_nothing_stands_at_the_top_but_five_files() -> None:
    assert {path.name for path in SOURCE.glob("*.py")} == TOP


def test_imports_go_to_the_same_room_or_an_earlier_one() -> None:
    """The one way up is no import: ``inseq.models`` answers names of Inseq's from a table in ``compat``, when it is asked."""
    upward = []
    for module in TREES:
        own = room_of(module or "__init__")
        for imported, _ in imports_of(module):
            other = room_of(imported)
            if own is not None and other is not None and ROOMS.index(other) > ROOMS.index(own):
                upward.append(f"{module} -> {imported}")
    assert upward == []


def test_no_two_files_need_each_other() -> None:
    """Directly from file to file, over any number of others."""
    graph = {
        module: {i for i, _ in imports_of(module) if not is_face(i)} - {module} for module in TREES if not is_face(module)
    }
    TopologicalSorter(graph).prepare()


def test_import_paths_of_inseq_hand_names_on_and_nothing_imports_them() -> None:
    for module, tree in TREES.items():
        if module.split(".")[0] in INSEQ_PATHS:
            kinds = {type(node) for node in tree.body}
            assert kinds <= {ast.Expr, ast.ImportFrom, ast.Assign}, module
        else:
            paths = [i for i, _ in imports_of(module) if i.split(".")[0] in INSEQ_PATHS]
            assert paths == [], module


def test_every_class_has_a_name_of_its_own() -> None:
    homes = defaultdict(list)
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                homes[node.name.lstrip("_")].append(module)
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}


def test_no_file_takes_a_private_name_of_another() -> None:
    taken = []
    for module in TREES:
        for imported, name in imports_of(module):
            if name.startswith("_") and not name.startswith("__"):
                taken.append(f"{module}: {imported}.{name}")
    assert taken == []


def test_nothing_imports_the_command_line() -> None:
    outside = [module for module in TREES if not f"{module}.".startswith("cli.")]
    assert [module for module in outside if any(f"{i}.".startswith("cli.") for i, _ in imports_of(module))] == []


def test_rooms_are_small() -> None:
    long = {name_of(path): n for path in SOURCE.rglob("*.py") if (n := len(path.read_text().splitlines())) > 400}
    assert long == {}


def test_the_rules_can_fail() -> None:
    assert room_of("results.files.document") == "results.files"
    assert ("errors", "ArgumentError") in set(imports_of("registry"))
    assert is_face("requests")
