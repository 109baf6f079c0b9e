"""Digests tell models and tokenizers apart, and nothing else."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import zoo

import inseq
from inseq.models.digest import digests
from inseq.outputs.output import FeatureAttributionOutput


@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_equal_models_have_equal_digests_however_they_run(name: str, tmp_path: Path) -> None:
    model, tokenizer = zoo.build(name, "sdpa"), zoo.tokenizer("words")
    first = digests(model, tokenizer)
    assert all(len(value) == 16 for value in first.values())
    assert digests(copy.deepcopy(model).train(), copy.deepcopy(tokenizer)) == first
    assert digests(zoo.build(name, "eager"), tokenizer) == first
    model.save_pretrained(tmp_path)
    assert digests(type(model).from_pretrained(tmp_path), tokenizer)["model"] == first["model"]


def test_other_weights_types_and_vocabularies_have_others() -> None:
    model, tokenizer = zoo.build("gpt2"), zoo.tokenizer("words")
    first = digests(model, tokenizer)
    trained = copy.deepcopy(model)
    with torch.no_grad():
        for values in trained.parameters():
            values += 1e-4
    assert digests(trained, tokenizer)["model"] != first["model"]
    assert digests(copy.deepcopy(model).bfloat16(), tokenizer)["model"] != first["model"]
    assert digests(model, zoo.tokenizer("bytes"))["tokenizer"] != first["tokenizer"]
    more = copy.deepcopy(tokenizer)
    more.add_tokens(["one more"])
    assert digests(model, more) == {"model": first["model"], "tokenizer": digests(model, more)["tokenizer"]}
    assert digests(model, more)["tokenizer"] != first["tokenizer"]


def test_files_carry_them(tmp_path: Path) -> None:
    model = inseq.load_model(zoo.build("gpt2"), tokenizer=zoo.tokenizer("words"))
    out = model.attribute("w1 w2 w3", "w1 w2 w3 w4", show_progress=False)
    out.save(tmp_path / "a.json")
    back = FeatureAttributionOutput.load(tmp_path / "a.json")
    assert back.info == json.loads(json.dumps(out.info))
    assert back.info["digests"] == digests(model.model, model.tokenizer)
    assert back.info["versions"].keys() == {"inseq", "torch", "transformers"}
