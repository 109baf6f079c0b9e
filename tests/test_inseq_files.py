"""What the published Inseq saved is read, by data classes that it wrote itself (tests/data/inseq)."""

from __future__ import annotations

import base64
import contextlib
import copy
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inseq.errors import FileFormatError
from inseq.outputs.output import FeatureAttributionOutput
from inseq.results.files import containers

SAMPLES = Path(__file__).parent / "data" / "inseq"
VERSIONS = ("0.5.0", "0.6.0", "0.7.1")
NAMES = ("granular", "decoder", "coarse", "heads")
ZIPPED = ("heads", "whole", "window", "sources", "steps")
AXES = {"granular": ("dim",), "decoder": ("dim",), "coarse": (), "heads": ("layer", "head")}
FILES = [(version, name) for version in VERSIONS for name in NAMES] + [("0.7.1", "float16"), ("0.7.1", "float8")]


def sample(version: str, name: str) -> Path:
    return SAMPLES / f"{version}-{name}.json{'.gz' if name in ZIPPED else ''}"


def document(version: str, name: str) -> Any:
    raw = sample(version, name).read_bytes()
    return json.loads(gzip.decompress(raw) if name == "heads" else raw)


def written(found: Any, path: Path) -> Path:
    path.write_text(json.dumps(found))
    return path


@pytest.mark.parametrize(("version", "name"), FILES)
def test_the_scores_are_those_that_inseq_saved(version: str, name: str) -> None:
    (found,) = FeatureAttributionOutput.load(sample(version, name))
    (expected,) = json.loads((SAMPLES / f"{version}-{name}.expected").read_text())
    error = {"float16": 2**-11, "float8": 2**-4}.get(name, 0.0)
    for field in ("source_attributions", "target_attributions"):
        scores = getattr(found, field)
        if scores is None:
            assert expected[field] is None
            continue
        wanted = torch.tensor(expected[field])
        wanted = wanted.masked_fill(wanted == -99, float("nan"))
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores, wanted, rtol=error, atol=error * 2**-5, equal_nan=True)
    torch.testing.assert_close(
        found.step_scores["probability"].double(),
        torch.tensor(expected["step_scores"]["probability"]).double(),
        rtol=error or 1e-7,
        atol=error * 2**-5,
    )
    if not error:
        aggregated = found.aggregate().target_attributions
        assert aggregated is not None
        wanted = torch.tensor(expected["aggregated"])
        torch.testing.assert_close(aggregated.nan_to_num(0.0), wanted.masked_fill(wanted == -99, 0.0))


@pytest.mark.parametrize(("version", "name"), FILES)
def test_axes_and_defaults_follow_from_the_class(version: str, name: str) -> None:
    (found,) = FeatureAttributionOutput.load(sample(version, name))
    assert found.axes == AXES.get(name, ("dim",))
    assert found.normalize is (name != "coarse")
    assert found.reduce_by == {"coarse": (), "heads": ("mean", "mean")}.get(name, ("vnorm",))
    assert found.signed
    if name == "heads":
        assert found.sequence_scores["encoder_self_attentions"].shape == (3, 3, 2, 2)


@pytest.mark.parametrize("version", VERSIONS)
def test_tokens_get_roles_texts_and_flags(version: str) -> None:
    (found,) = FeatureAttributionOutput.load(sample(version, "decoder"))
    assert [(t.text, t.role, t.id) for t in found.target] == [
        ("The", "prompt", 10), (" sky", "prompt", 11), (" is", "generated", 12), (" blue", "generated", 13),
    ]  # fmt: skip
    (found,) = FeatureAttributionOutput.load(sample(version, "granular"))
    assert [(t.text, t.role, t.special) for t in found.source] == [
        (" Hello", "source", False), (" world", "source", False), ("</s>", "source", True),
    ]  # fmt: skip
    assert [t.token for t in found.target if t.special] == ["<pad>", "</s>"]


@pytest.mark.parametrize(("version", "name"), FILES)
def test_facts_are_kept_and_what_is_read_can_be_shown_and_saved(version: str, name: str, tmp_path: Path) -> None:
    found = FeatureAttributionOutput.load(sample(version, name), decompress=name != "heads")
    assert found.info["model_name"] == "tiny"
    assert found.info["generated_texts"] == ["Hallo"]
    assert "Hallo" not in (found.show(display=False, return_html=True) or "")[:20]
    found.save(tmp_path / "again.json")
    assert FeatureAttributionOutput.load(tmp_path / "again.json") == found


@pytest.mark.parametrize("version", VERSIONS)
def test_plain_values_are_refused_with_the_reason(version: str) -> None:
    with pytest.raises(FileFormatError, match="use_primitives=True, which leaves out"):
        FeatureAttributionOutput.load(sample(version, "primitives"))


def test_steps_are_made_of_the_sequences_as_they_hold_the_same() -> None:
    """Inseq itself cannot load this file."""
    out, whole = (FeatureAttributionOutput.load(sample("0.7.1", name)) for name in ("steps", "whole"))
    assert out == whole
    assert whole.step_attributions is None
    assert out.step_attributions is not None
    assert [step.target[0][0].text for step in out.step_attributions] == [" I", " like", " cats", ".", "</s>"]
    second = out.step_attributions[1]
    assert second.source_attributions is not None
    assert whole[0].source_attributions is not None
    assert torch.equal(second.source_attributions[0], whole[0].source_attributions[:, 1])


@pytest.mark.parametrize("name", ["window", "sources"])
def test_a_window_is_put_under_its_tokens(name: str) -> None:
    """Inseq found the scores of ▁like and ▁cats, and stored the positions of ▁I and ▁like."""
    (whole,), (out,) = (FeatureAttributionOutput.load(sample("0.7.1", n)) for n in ("whole", name))
    assert [token.text for token in out.generated] == [" like", " cats"]
    assert whole.source_attributions is not None
    assert out.source_attributions is not None
    torch.testing.assert_close(out.source_attributions, whole.source_attributions[:, 1:3])
    torch.testing.assert_close(out.step_scores["probability"], whole.step_scores["probability"][1:3])
    assert "put right" in out.info["notes"][0]


def test_a_partly_aggregated_output_keeps_the_axes_that_are_left(tmp_path: Path) -> None:
    found = document("0.6.0", "coarse")
    sequence = found["attributes"]["sequence_attributions"][0]
    sequence["__instance_type__"][1] = "GranularFeatureAttributionSequenceOutput"
    (out,) = FeatureAttributionOutput.load(written(found, tmp_path / "aggregated.json"))
    assert out.axes == ()
    assert not out.normalize
    assert out.reduced == ("aggregated before it was saved",)


ONE = ("attributes", "sequence_attributions", 0)
HOSTILE = [
    (("__instance_type__",), ["os", "system"], "__instance_type__"),
    (("__instance_type__",), ["os", "FeatureAttributionOutput"], "__instance_type__"),
    (("__instance_type__",), "os", "__instance_type__"),
    ((*ONE, "__instance_type__"), ["inseq.data.attribution", "Path"], "no other is looked up"),
    ((*ONE, "__instance_type__"), ["inseq.data", ["x"]], "no other is looked up"),
    ((*ONE, "attributes", "source", 0, "__instance_type__"), ["subprocess", "Popen"], r"source\[0\]"),
    ((*ONE, "attributes", "source", 0, "attributes", "id"), "7", r"source\[0\].attributes.id"),
    ((*ONE, "attributes", "attr_pos_start"), 2**80, "attr_pos_start"),
    ((*ONE, "attributes", "attr_pos_end"), 1.5, "attr_pos_end"),
    ((*ONE, "attributes", "source_attributions"), "AAAA", "source_attributions"),
    ((*ONE, "attributes", "source_attributions"), 5, "source_attributions"),
    ((*ONE, "attributes", "source_attributions", "shape"), [2**40, 2**40], "shape"),
    ((*ONE, "attributes", "source_attributions", "shape"), [2**30, 9], "source_attributions.__ndarray__"),
    ((*ONE, "attributes", "source_attributions", "dtype"), "object", "dtype"),
    ((*ONE, "attributes", "source_attributions", "__ndarray__"), "b64.gz:AAAA", "decompressed"),
    ((*ONE, "attributes", "source_attributions", "__ndarray__"), "pickle:AAAA", "b64"),
    ((*ONE, "attributes", "source_attributions", "__ndarray__"), [["x"] * 3] * 3, "__ndarray__"),
    ((*ONE, "attributes", "step_scores"), [], "step_scores"),
    ((*ONE, "attributes"), None, "attributes"),
    (("attributes", "info"), 3, "info"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "value", "field"), HOSTILE, ids=lambda v: None if isinstance(v, tuple) else str(v)[:20])
def test_a_damaged_field_is_named(keys: tuple[Any, ...], value: Any, field: str, tmp_path: Path) -> None:
    found = document("0.5.0", "granular")
    part = found
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    with pytest.raises(FileFormatError, match=field):
        FeatureAttributionOutput.load(written(found, tmp_path / "hostile.json"))


def test_an_array_that_grows_when_decompressed_is_cut_at_its_declared_size(tmp_path: Path) -> None:
    found = document("0.5.0", "granular")
    bomb = base64.b64encode(gzip.compress(bytes(10**6))).decode()
    found["attributes"]["sequence_attributions"][0]["attributes"]["source_attributions"]["__ndarray__"] = f"b64.gz:{bomb}"
    with pytest.raises(FileFormatError, match="grow to more than 108"):
        FeatureAttributionOutput.load(written(found, tmp_path / "bomb.json"))


def test_many_small_arrays_do_not_grow_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "INFLATED", 10_000)
    zeros = base64.b64encode(gzip.compress(bytes(8000))).decode()
    array = {"__ndarray__": f"b64.gz:{zeros}", "dtype": "float32", "shape": [2000]}
    found = document("0.5.0", "granular")
    scores = found["attributes"]["sequence_attributions"][0]["attributes"]["step_scores"]
    for count, match in ((1, "step_scores|a0"), (1000, "declare to grow to 8000144")):
        scores.update({f"a{i}": array for i in range(count)})
        monkeypatch.setattr(containers, "RATIO", 1 if count > 1 else 200)
        with pytest.raises(FileFormatError, match=match):
            FeatureAttributionOutput.load(written(found, tmp_path / "bombs.json"))


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5),
    st.lists(st.integers(0, 9), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every key of every object and list."""
    found: list[tuple[Any, Any]] = []
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        found += [(value, key), *places(item)]
    return found


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), file=st.sampled_from([f for f in FILES if f[1] != "float16"] + [("ours", "rich")]))
def test_any_value_anywhere_is_refused_or_read(data: st.DataObject, file: tuple[str, str], tmp_path: Path) -> None:
    if file[0] == "ours":
        FeatureAttributionOutput.load(sample("0.7.1", "heads")).save(tmp_path / "ours.json", overwrite=True)
        found = json.loads((tmp_path / "ours.json").read_text())
    else:
        found = copy.deepcopy(document(*file))
    for _ in range(data.draw(st.integers(1, 2))):
        part, key = data.draw(st.sampled_from(places(found)))
        if data.draw(st.booleans()):
            part[key] = data.draw(VALUES)
        else:
            part.pop(key)
    with contextlib.suppress(FileFormatError):
        out = FeatureAttributionOutput.load(written(found, tmp_path / "mutated.json"))
        assert isinstance(out, FeatureAttributionOutput)
