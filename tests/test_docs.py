"""What the documentation shows is what happens."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parent.parent / "docs"
SOURCES = sorted((DOCS.parent / "src").rglob("*.py"))
EXECUTED = sorted(path for path in DOCS.glob("*.md") if ">>>" in path.read_text())


@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.name)
def test_examples_give_what_is_shown(path: Path, registered: Any) -> None:
    found = doctest.testfile(str(path), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted
    assert not found.failed


def test_every_method_and_its_paper_is_documented() -> None:
    from inseq.methods import method
    from inseq.targets import step_function

    known = {p.name: p.read_text() for p in DOCS.glob("*.md")}
    readme = (DOCS.parent / "README.md").read_text()
    for name in method:
        assert f"`{name}`" in known["methods.md"], name
        assert name == "dummy" or f"`{name}`" in readme, name
        assert method[name].facts["paper"] in known["bibliography.md"], name
    assert all(f"`{name}`" in readme for name in step_function)


def test_every_source_in_a_docstring_is_in_the_bibliography() -> None:
    keys = {key for path in SOURCES for key in re.findall(r"\b[a-z]{3,}(?:19|20)\d\d[a-z]{2,}\b", path.read_text())}
    assert len(keys) > 20
    assert not [key for key in sorted(keys) if f"| {key} |" not in (DOCS / "bibliography.md").read_text()]
