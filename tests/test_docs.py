"""What the documentation shows is what happens."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parent.parent / "docs"
EXECUTED = sorted(path for path in DOCS.glob("*.md") if ">>>" in path.read_text())


@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.name)
def test_examples_give_what_is_shown(path: Path, registered: Any) -> None:
    found = doctest.testfile(str(path), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted
    assert not found.failed
