"""The gold data that ship are those that the generators write, and can be read without a model library."""

from __future__ import annotations

import doctest
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import write_gold

from corpora.scenes import KINDS
from inseq import demo

NAMES = ("translations", "scenes", "documents")


@pytest.mark.parametrize("name", NAMES)
def test_files_are_written_again_bit_for_bit(name: str) -> None:
    assert (write_gold.DIRECTORY / f"{name}.jsonl").read_bytes() == write_gold.lines(write_gold.gold()[name]).encode()


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_read_as_they_were_generated(name: str) -> None:
    assert list(getattr(demo, f"gold_{name}")()) == write_gold.gold()[name]


def test_the_last_cue_of_a_scene_is_decided_by_one_word() -> None:
    for scene in demo.gold_scenes():
        assert {cue.kind for cue in scene.cues} <= set(write_gold.DECIDED)
        assert len({scene.text[start:end] for start, end in scene.cues[-1].sure}) == 1


def test_documents_are_of_every_kind() -> None:
    assert {cue.kind for document in demo.gold_documents() for cue in document.cues} == set(KINDS)


def test_reading_loads_no_model_library() -> None:
    code = (
        "import sys, inseq.demo; inseq.demo.gold_translations(), inseq.demo.gold_scenes(); "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_schema_of_the_document_is_that_of_the_files() -> None:
    text = (Path(__file__).parent.parent / "docs" / "demo.md").read_text(encoding="utf-8")
    for name in NAMES:
        row = json.loads((write_gold.DIRECTORY / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[0])
        for field in {*row, *(field for cue in row.get("cues", ()) for field in cue)}:
            assert f"| `{field}` |" in text, field


@pytest.mark.parametrize("name", ["corpora.scenes", "corpora.translations_grammar"])
def test_examples_of_the_generators_give_what_is_shown(name: str) -> None:
    examples = doctest.testmod(importlib.import_module(name))
    assert examples.attempted
    assert not examples.failed
