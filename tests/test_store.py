"""Files are data: everything comes back, and nothing else gets in."""

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from results import continuation, translation

from inseq.errors import ArgumentError, FileFormatError
from inseq.outputs.output import FeatureAttributionOutput
from inseq.results.files import containers, document
from inseq.results.files.fields import DTYPES, Field, pack
from inseq.results.scores import SequenceScores


def rich() -> FeatureAttributionOutput:
    first = translation(
        torch.randn(3, 2, 2, 4),
        axes=("layer", "head"),
        reduce_by=("mean", "mean"),
        normalize=True,
        signed=True,
        step_scores={"probability": torch.tensor([0.5, 0.25], dtype=torch.float64), "rank": torch.tensor([1, 7])},
        sequence_scores={"encoder_self_attentions": torch.randn(3, 3, 2, 4).bfloat16()},
        diagnostics={"delta": torch.tensor([1e-5, float("inf")])},
        info={"attribution_method": "attention", "options": {"n": [1, 2.5, None, True]}},
    )
    first.source[0].token = "edited"
    return FeatureAttributionOutput([first, continuation()], [continuation()], {"model_name": "模型", "seed": 3})


def saved(tmp_path: Path, output: FeatureAttributionOutput | None = None) -> Path:
    path = tmp_path / "result.json"
    (rich() if output is None else output).save(path, overwrite=True)
    return path


def test_everything_comes_back(tmp_path: Path) -> None:
    out = rich()
    back = FeatureAttributionOutput.load(saved(tmp_path, out))
    assert back == out
    assert back.info == out.info
    assert back[0].info == out[0].info
    assert [token.shown for token in back[0].source] == ["edited", "喜欢", "</s>"]
    assert [(t.id, t.role, t.special) for t in back[1].target] == [(t.id, t.role, t.special) for t in out[1].target]
    assert back[0].step_scores["probability"].dtype == torch.float64
    assert back[0].step_scores["rank"].dtype == torch.int64
    assert back[0].sequence_scores["encoder_self_attentions"].dtype == torch.bfloat16
    assert back.aggregate() == out.aggregate()
    assert back.show(display=False, return_html=True) == out.show(display=False, return_html=True)


def test_aggregated_and_empty_outputs_come_back(tmp_path: Path) -> None:
    for out in (
        rich().aggregate(),
        FeatureAttributionOutput([]),
        FeatureAttributionOutput([translation(torch.zeros(0, 0), [], [])]),
    ):
        assert FeatureAttributionOutput.load(saved(tmp_path, out)) == out


def test_files_are_read_into_the_class_that_is_asked_for(tmp_path: Path) -> None:
    for path in (saved(tmp_path), Path(__file__).parent / "data" / "inseq" / "0.7.1-heads.json.gz"):
        sequences, _, info = document.read(path, SequenceScores)
        assert {type(sequence) for sequence in sequences} == {SequenceScores}
        assert sequences == list(FeatureAttributionOutput.load(path))
        data = document.encode(sequences, info, stepwise=False, precision="float32", as_safetensors=True)
        (tmp_path / "again").write_bytes(data)
        assert document.read(tmp_path / "again", SequenceScores)[0] == sequences


def test_facts_json_does_not_know_are_kept_as_text(tmp_path: Path) -> None:
    out = FeatureAttributionOutput([], info={"dtype": torch.float32, "nan": float("nan"), "pair": (1, 2), 3: "x"})
    back = FeatureAttributionOutput.load(saved(tmp_path, out)).info
    assert back == {"dtype": "torch.float32", "nan": "nan", "pair": [1, 2], "3": "x"}


@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    shape=st.lists(st.integers(0, 4), max_size=4),
    seed=st.integers(0, 99),
)
def test_tensors_come_back_bit_by_bit(dtype: str, shape: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    values = (torch.randn(shape) * 3).to(DTYPES[dtype])
    back = Field(json.loads(json.dumps(pack(values)))).tensor()
    assert back.dtype == values.dtype
    assert back.shape == values.shape
    assert torch.equal(back, values)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(text=st.text(st.characters(), max_size=12))
def test_any_text_comes_back(text: str, tmp_path: Path) -> None:
    out = translation(source=[text, "喜欢", "</s>"])
    back = FeatureAttributionOutput.load(saved(tmp_path, FeatureAttributionOutput([out], info={text: text})))
    assert back[0].source[0].text == text
    assert back.info == {text: text}


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()
    with pytest.raises(ArgumentError, match="overwrite=True"):
        rich().save(path)
    assert path.read_bytes() == before


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(ArgumentError, match=r"Cannot write '.*result.json': disk full"):
        rich().save(path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_links_are_followed_and_permissions_kept(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.chmod(0o600)
    link = tmp_path / "link.json"
    link.symlink_to(path.name)
    FeatureAttributionOutput([]).save(link, overwrite=True)
    assert link.is_symlink()
    assert FeatureAttributionOutput.load(path) == FeatureAttributionOutput([])
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == [link.name, path.name]


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(ArgumentError, match="a folder, a device or a pipe"):
            rich().save(tmp_path / name, overwrite=True)
    assert (tmp_path / "pipe").is_fifo()


def test_sizes_are_capped_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    monkeypatch.setattr(containers, "MAX_BYTES", 100)
    with pytest.raises(FileFormatError, match="larger"):
        FeatureAttributionOutput.load(path)
    with pytest.raises(ArgumentError, match="aggregate"):
        rich().save(path, overwrite=True)


# ----------------------------------------------------------------------------- hostile files

RAW = {
    "empty": b"",
    "no JSON": b"\x80\x04pickle",
    "no UTF-8": b'{"format": "\xff"}',
    "deep": b"[" * 200_000,
    "long number": b'{"format": ' + b"9" * 10_000 + b"}",
    "a list": b"[]",
    "NaN": b'{"format": "inseq", "version": NaN}',
    "twice": b'{"format": "inseq", "format": "inseq"}',
    "zip": b"PK\x03\x04",
}


@pytest.mark.parametrize("name", RAW)
def test_what_is_no_result_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.json"
    path.write_bytes(RAW[name])
    with pytest.raises(FileFormatError):
        FeatureAttributionOutput.load(path)


def at(*keys: Any) -> Callable[[Any, Any], None]:
    def put(document: Any, value: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return put


SEQUENCE = ("sequences", 0)
SCORES = (*SEQUENCE, "source_attributions")
HOSTILE = [
    (("version",), 4, "newer release: update"),
    (("version",), 0, "not written by any release"),
    (("version",), True, "version"),
    (("version",), "1", "version"),
    (("format",), "other", "format"),
    (("info",), [], "info"),
    (("sequences",), {}, "sequences"),
    (("steps",), 3, "steps"),
    (("__instance_type__",), ["os", "system"], "keys"),
    ((*SEQUENCE, "show"), "owned", r"sequences\[0\]"),
    ((*SEQUENCE, "source", 1, "id"), "7", r"sequences\[0\].source\[1\].id"),
    ((*SEQUENCE, "source", 1, "id"), 2**70, r"source\[1\].id"),
    ((*SEQUENCE, "source", 1, "id"), -5, r"source\[1\].id"),
    ((*SEQUENCE, "source", 1, "id"), 1.0, r"source\[1\].id"),
    ((*SEQUENCE, "source", 1, "role"), "owner", r"source\[1\].role"),
    ((*SEQUENCE, "source", 1, "text"), None, r"source\[1\].text"),
    ((*SEQUENCE, "source", 1, "special"), 0, r"source\[1\].special"),
    ((*SEQUENCE, "source"), [], "source_attributions"),
    ((*SEQUENCE, "axes"), "layer", "axes"),
    ((*SEQUENCE, "axes"), ["layer"], "source_attributions"),
    ((*SEQUENCE, "reduce_by"), [1], "reduce_by"),
    ((*SEQUENCE, "signed"), 1, "signed"),
    ((*SEQUENCE, "attr_pos_end"), 9, "attr_pos_end"),
    ((*SEQUENCE, "attr_pos_start"), -1, "attr_pos_start"),
    ((*SEQUENCE, "step_scores"), [], "step_scores"),
    ((*SEQUENCE, "step_scores", "rank"), [1, 2], r"step_scores\['rank'\]"),
    ((*SCORES, "dtype"), "object", "source_attributions.dtype"),
    ((*SCORES, "dtype"), "float64", "source_attributions.data"),
    ((*SCORES, "dtype"), "int32", "source_attributions should be a tensor with a floating"),
    ((*SCORES, "shape"), [2**40, 2**40], "source_attributions.shape"),
    ((*SCORES, "shape"), [2**30, 2**10], "source_attributions.data"),
    ((*SCORES, "shape"), [-1, 2], r"shape\[0\]"),
    ((*SCORES, "shape"), [3, 2, 2, True], r"shape\[3\]"),
    ((*SCORES, "shape"), [0] * 9, "shape"),
    ((*SCORES, "shape"), 12, "shape"),
    ((*SCORES, "data"), "A" * 256, "data"),
    ((*SCORES, "data"), "*" * 256, "base64"),
    ((*SCORES, "data"), "é" * 256, "base64"),
    ((*SCORES, "data"), 5, "data"),
]


@pytest.mark.parametrize(("keys", "value", "field"), HOSTILE, ids=lambda v: None if isinstance(v, tuple) else str(v)[:20])
def test_a_damaged_field_is_named(keys: tuple[Any, ...], value: Any, field: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    document = json.loads(path.read_text())
    at(*keys)(document, value)
    if keys == (*SCORES, "data") and value == "A" * 256:
        document["sequences"][0]["source_attributions"]["shape"] = [3, 2, 2, 5]
    path.write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match=field) as caught:
        FeatureAttributionOutput.load(path)
    assert len(str(caught.value)) < 600


def test_every_missing_key_is_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path)
    document = json.loads(path.read_text())
    for part in (document, document["sequences"][0], document["sequences"][0]["source"][0]):
        for key in list(part):
            kept = copy.copy(part[key])
            del part[key]
            path.write_text(json.dumps(document))
            with pytest.raises(FileFormatError):
                FeatureAttributionOutput.load(path)
            part[key] = kept


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_random_damage_is_refused_or_read(data: st.DataObject, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = saved(tmp_path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at_byte = data.draw(st.integers(0, len(raw) - 1))
        raw[at_byte] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.sampled_from([len(raw), len(raw) // 2]))])
    with contextlib.suppress(FileFormatError):
        assert isinstance(FeatureAttributionOutput.load(path), FeatureAttributionOutput)
