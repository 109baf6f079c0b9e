"""What ``save`` can write, and that files which are hostile as bytes are refused before they cost anything."""

from __future__ import annotations

import contextlib
import gzip
import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from results import continuation, translation
from test_store import rich

from inseq.errors import ArgumentError, FileFormatError
from inseq.outputs.output import FeatureAttributionOutput
from inseq.results.files import containers
from inseq.results.files.fields import PRECISIONS, Field, pack, rounded

LOADED = ("a.json", "a.json.gz", "a.safetensors", "a.safetensors.gz", "a", "a.b.json")
ERRORS = {"float16": (2**-11, 2**-39), "bfloat16": (2**-8, 0.0), "float8": (2**-4, 2**-17)}


@pytest.mark.parametrize("name", LOADED)
@pytest.mark.parametrize("compress", [False, True])
def test_everything_comes_back_by_every_ending(name: str, compress: bool, tmp_path: Path) -> None:
    out = rich()
    out.save(tmp_path / name, compress=compress)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    zipped = (tmp_path / name).read_bytes().startswith(containers.GZIP)
    assert zipped == (compress or name.endswith(".gz"))
    for decompress in (False, True):
        back = FeatureAttributionOutput.load(tmp_path / name, decompress=decompress)
        assert back == out
        assert back.info == out.info
        assert back[0].sequence_scores["encoder_self_attentions"].dtype == torch.bfloat16
        assert back.aggregate() == out.aggregate()


def test_equal_outputs_give_equal_bytes(tmp_path: Path) -> None:
    out = rich()
    for name in LOADED:
        out.save(tmp_path / name)
        before = (tmp_path / name).read_bytes()
        FeatureAttributionOutput.load(tmp_path / name).save(tmp_path / name, overwrite=True)
        assert (tmp_path / name).read_bytes() == before


def test_other_programs_read_the_tensors(tmp_path: Path) -> None:
    from safetensors import safe_open

    rich().save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        document = json.loads(file.metadata()["inseq"])
        name = document["sequences"][0]["source_attributions"]["tensor"]
        assert torch.equal(
            file.get_tensor(name), FeatureAttributionOutput.load(tmp_path / "a.safetensors")[0].source_attributions
        )


def test_a_page_is_written(tmp_path: Path) -> None:
    out = rich()
    out.save(tmp_path / "a.html")
    out.save_html(tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_tables_are_written_where_outputs_can(tmp_path: Path) -> None:
    out = rich()
    if hasattr(out, "to_csv"):
        out.save(tmp_path / "a.csv")
        assert (tmp_path / "a.csv").exists()
    else:
        with pytest.raises(ArgumentError, match=r"not written as \.csv"):
            out.save(tmp_path / "a.csv")
    for name in ("a.csv.gz", "a.html.gz"):
        with pytest.raises(ArgumentError, match=r"leave \.gz out"):
            out.save(tmp_path / name)


def test_plain_values_are_for_other_programs(tmp_path: Path) -> None:
    rich().save(tmp_path / "plain.json", use_primitives=True)
    found = json.loads((tmp_path / "plain.json").read_text())
    assert found["sequence_attributions"][1]["target_attributions"][0][0] == 0.5
    assert found["sequence_attributions"][1]["target_attributions"][3] == [None, None]
    with pytest.raises(FileFormatError, match="use_primitives=True, which leaves out"):
        FeatureAttributionOutput.load(tmp_path / "plain.json")


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("a.json", ("a_0.json", "a_1.json")),
        ("a.json.gz", ("a_0.json.gz", "a_1.json.gz")),
        ("a.safetensors", ("a_0.safetensors", "a_1.safetensors")),
        ("a.html", ("a_0.html", "a_1.html")),
        ("a", ("a_0.json", "a_1.json")),
    ],
)
def test_sequences_are_split(name: str, names: tuple[str, str], tmp_path: Path) -> None:
    out = rich()
    out.info["input_texts"] = ["x", "y"]
    out.save(tmp_path / name, split_sequences=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == list(names)
    if "html" not in name:
        for i, file in enumerate(names):
            back = FeatureAttributionOutput.load(tmp_path / file)
            assert back.sequence_attributions == [out[i]]
            assert back.info == out.info | {"input_texts": [["x", "y"][i]]}


def test_no_part_is_written_where_one_is_there(tmp_path: Path) -> None:
    (tmp_path / "a_1.json").write_text("mine")
    with pytest.raises(ArgumentError, match=r"a_1.json' exists"):
        rich().save(tmp_path / "a.json", split_sequences=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a_1.json"]
    rich().save(tmp_path / "a.json", split_sequences=True, overwrite=True)
    assert len(FeatureAttributionOutput.load(tmp_path / "a_1.json")) == 1


@pytest.mark.parametrize("arguments", [{"compress": 1}, {"scores_precision": "float61"}, {"overwrite": "yes"}])
def test_wrong_arguments_are_named(arguments: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=next(iter(arguments))):
        rich().save(tmp_path / "a.json", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", [None, 3, "", ["a.json"], rich])
def test_a_path_is_a_file_name(path: Any) -> None:
    for call in (rich().save, FeatureAttributionOutput.load):
        with pytest.raises(ArgumentError, match="path must be a file name"):
            call(path)
    with pytest.raises(FileFormatError, match="Cannot read"):
        FeatureAttributionOutput.load("a\0b")


def test_what_holds_itself_is_refused(tmp_path: Path) -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    for name, plain in (("a.json", False), ("a.safetensors", False), ("a.json", True)):
        with pytest.raises(ArgumentError, match="holds itself"):
            FeatureAttributionOutput([], info=loop).save(tmp_path / name, use_primitives=plain)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", LOADED)
def test_empty_outputs_and_those_with_gradients_come_back(name: str, tmp_path: Path) -> None:
    scores = torch.ones(3, 2, requires_grad=True)
    for out in (
        FeatureAttributionOutput([]),
        FeatureAttributionOutput([translation(torch.zeros(0, 0), [], [])]),
        FeatureAttributionOutput([translation(scores * 2)]),
        rich().aggregate(),
    ):
        out.save(tmp_path / name, overwrite=True)
        assert FeatureAttributionOutput.load(tmp_path / name) == out


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(text=st.text(st.characters(), max_size=12))
def test_any_text_comes_back_from_safetensors(text: str, tmp_path: Path) -> None:
    out = FeatureAttributionOutput(
        [translation(source=[text, "喜欢", "</s>"], step_scores={text: torch.ones(2)})], info={text: text}
    )
    out.save(tmp_path / "a.safetensors", overwrite=True)
    back = FeatureAttributionOutput.load(tmp_path / "a.safetensors")
    assert back == out
    assert back.info == {text: text}


# ----------------------------------------------------------------------------- precision


@given(
    precision=st.sampled_from(sorted(ERRORS)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    power=st.integers(-120, 110),
    seed=st.integers(0, 99),
)
def test_rounding_errs_no_more_than_stated(precision: str, dtype: torch.dtype, power: int, seed: int) -> None:
    torch.manual_seed(seed)
    values = (torch.randn(40, dtype=torch.float64) ** 5 * 2.0**power).to(dtype)
    values[:2] = torch.tensor([float("nan"), 0.0])
    back = Field(json.loads(json.dumps(pack(values, precision)))).tensor()
    assert back.dtype == dtype
    assert back[0].isnan()
    assert back[1] == 0
    relative, absolute = ERRORS[precision]
    bound = torch.maximum(values.double().abs() * relative, values.double().abs().nan_to_num(0).max() * absolute)
    tiny = float(torch.finfo(dtype).smallest_normal)
    assert ((back.double() - values.double()).abs()[1:] <= bound[1:] * 1.001 + tiny).all()


def test_integers_infinities_and_smaller_floats_stay() -> None:
    for precision in PRECISIONS:
        assert rounded(torch.tensor([1, 7]), precision)[0].tolist() == [1, 7]
        back = Field(pack(torch.tensor([float("inf"), 1.5]), precision)).tensor()
        assert back.tolist() == [float("inf"), 1.5]
    half = torch.tensor([0.1], dtype=torch.float16)
    assert rounded(half, "bfloat16")[0] is half


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["a.json", "a.safetensors"])
def test_scores_are_rounded_and_nothing_else(precision: str, name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    steps = {"probability": torch.rand(2), "rank": torch.tensor([1, 9])}
    out = FeatureAttributionOutput([translation(torch.randn(3, 2, 64), axes=("dim",), step_scores=steps)])
    out.save(tmp_path / "whole.json")
    out.save(tmp_path / name, scores_precision=precision)
    back = FeatureAttributionOutput.load(tmp_path / name)
    assert torch.equal(back[0].step_scores["probability"], out[0].step_scores["probability"])
    assert back[0].step_scores["rank"].tolist() == [1, 9]
    assert back[0].source_attributions is not None
    assert back[0].source_attributions.dtype == torch.float32
    if precision != "float32":
        assert back != out
        assert (tmp_path / name).stat().st_size < (tmp_path / "whole.json").stat().st_size


# ----------------------------------------------------------------------------- hostile bytes


def refused(path: Path, data: bytes, match: str, most: int = 2**23) -> None:
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match=match):
            FeatureAttributionOutput.load(path)
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def test_bombs_are_not_decompressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "INFLATED", 10_000)
    refused(tmp_path / "bomb.json", gzip.compress(bytes(2**24)), "grow to more than")
    refused(tmp_path / "cut.json", gzip.compress(b"[]" * 999)[:-9], "cut off")
    refused(tmp_path / "more.json", gzip.compress(b"[]") + b"more", "followed by more")
    refused(tmp_path / "damaged.json", gzip.compress(b"[]")[:10] + b"\xff" * 20, "cannot be decompressed")
    refused(tmp_path / "twice.json", gzip.compress(gzip.compress(b"[]")), "not a JSON document")


def test_what_compresses_too_well_can_still_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "INFLATED", 10_000)
    out = FeatureAttributionOutput([translation(torch.zeros(3, 2, 50_000), axes=("dim",))])
    out.save(tmp_path / "zeros.json.gz")
    assert FeatureAttributionOutput.load(tmp_path / "zeros.json.gz") == out


def safetensors_of(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS = {
    "cut": (struct.pack("<Q", 2**50) + b"{}", "cut off"),
    "no JSON": (safetensors_of(b"{]"), "not a JSON"),
    "deep": (safetensors_of(b'{"a":' + b"[" * 200_000), "not a JSON"),
    "no entry": (safetensors_of({"__metadata__": {}}), "no entry 'inseq'"),
    "metadata": (safetensors_of({"__metadata__": 3}), "__metadata__"),
    "document": (safetensors_of({"__metadata__": {"inseq": 3}}), "inseq"),
    "offsets": (safetensors_of({"a": ENTRY | {"data_offsets": [0, 99]}}, bytes(8)), "data_offsets"),
    "backwards": (safetensors_of({"a": ENTRY | {"data_offsets": [8, 0]}}, bytes(8)), "data_offsets"),
    "large": (safetensors_of({"a": ENTRY | {"shape": [2**40]}}, bytes(8)), "data_offsets"),
    "huge": (safetensors_of({"a": ENTRY | {"shape": [2**40, 2**40]}}, bytes(8)), "shape"),
    "empty and huge": (safetensors_of({"a": ENTRY | {"shape": [2**40, 2**40, 0]}}, bytes(8)), "shape"),
    "dtype": (safetensors_of({"a": ENTRY | {"dtype": "O"}}, bytes(8)), "dtype"),
    "shared": (safetensors_of({"a": ENTRY, "b": ENTRY}, bytes(8)), r"\['b'\].data_offsets .* from 8 on"),
    "overlapping": (safetensors_of({"a": ENTRY, "b": ENTRY | {"data_offsets": [4, 12]}}, bytes(12)), "from 8 on"),
    "a hole": (safetensors_of({"a": ENTRY | {"data_offsets": [8, 16]}}, bytes(16)), "from 0 on"),
    "a rest": (safetensors_of({"a": ENTRY}, bytes(16)), "8 bytes that belong to no tensor"),
    "surrogate": (safetensors_of(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)), "cannot be read"),
    "minus zero": (safetensors_of(b'{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'), "cannot be read"),
    "bool": (safetensors_of({"a": {"dtype": "BOOL", "shape": [1], "data_offsets": [0, 1]}}, b"\7"), "0 or 1"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_hostile_headers_are_refused(name: str, tmp_path: Path) -> None:
    refused(tmp_path / "hostile.safetensors", *HEADERS[name])


def test_long_headers_and_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {f"a{i}": ENTRY | {"data_offsets": [8 * i, 8 * i + 8]} for i in range(3)}
    monkeypatch.setattr(containers, "MAX_ENTRIES", 2)
    refused(tmp_path / "many.safetensors", safetensors_of(entries, bytes(24)), "3 tensors, and at most 2")
    monkeypatch.setattr(containers, "MAX_HEADER", 100)
    refused(tmp_path / "long.safetensors", safetensors_of(entries, bytes(24)), "bytes, and at most 100")


@pytest.mark.parametrize("item", [b"{}", b"[]", b'{"a":{}}', b'"ab"'])
def test_small_files_of_many_objects_are_refused(item: bytes, tmp_path: Path) -> None:
    text = b'{"info":{"a":[' + b",".join([item] * (60_000_000 // (len(item) + 1))) + b"]}}"
    refused(tmp_path / "objects.json", gzip.compress(text, 1), "of JSON would take .* split_sequences=True", 2**28)


def test_the_memory_of_a_document_is_not_underestimated() -> None:
    for item in ("{}", "[]", '{"a":{}}', '{"ab":"cd","ef":[1.5]}', '"ab"', "1.5", "[[]]"):
        text = f'{{"a":[{",".join([item] * 20_000)}]}}'.encode()
        tracemalloc.start()
        value = containers.parse(text)
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert taken <= containers.memory_of(text) * 1.1, (item, value["a"][0])


@pytest.mark.parametrize("limit", ["MAX_BYTES", "MAX_OBJECTS", "MAX_HEADER", "MAX_ENTRIES"])
def test_what_could_not_be_loaded_is_not_saved(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, limit, 1)
    with pytest.raises(ArgumentError, match=r"more than the .* that can be loaded again"):
        rich().save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_tensor_is_named_by_one_field_alone(tmp_path: Path) -> None:
    from safetensors.torch import save

    rich().save(tmp_path / "a.safetensors")
    metadata, stored = containers.tensors((tmp_path / "a.safetensors").read_bytes())
    document = json.loads(metadata["inseq"].text())
    document["sequences"][0]["diagnostics"]["again"] = document["sequences"][0]["source_attributions"]
    data = save(stored, {"inseq": json.dumps(document)})
    refused(tmp_path / "b.safetensors", data, r"again.*tensor should be the name of a tensor in the file, which no other")


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    refused(tmp_path / "b.json", (tmp_path / "a.pt").read_bytes(), "never opened")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"as": "int64"}, "as"),
        ({"as": "float32", "scale": 0}, "scale"),
        ({"as": "float32", "scale": -1.0}, "scale"),
        ({"as": "float32", "scale": "2"}, "scale"),
        ({"as": "float32", "scale": 10**400}, "scale"),
        ({"tensor": "tensor 0"}, "keys"),
    ],
)
def test_hostile_roundings_are_refused(change: dict[str, Any], field: str) -> None:
    packed = pack(torch.ones(2), "float8") | change
    with pytest.raises(FileFormatError, match=field):
        Field(packed, "scores").tensor()
    with pytest.raises(FileFormatError, match="the name of a tensor in the file"):
        Field({"tensor": "x"}, "scores").tensor()


@pytest.mark.parametrize(("steps", "count"), [(None, 0), (False, 0), ([{}], 2)])
def test_the_first_version_is_still_read(steps: Any, count: int, tmp_path: Path) -> None:
    out = FeatureAttributionOutput([continuation()])
    out.save(tmp_path / "a.json")
    document = json.loads((tmp_path / "a.json").read_text())
    del document["written_by"]
    (tmp_path / "a.json").write_text(json.dumps(document | {"version": 1, "steps": steps}))
    back = FeatureAttributionOutput.load(tmp_path / "a.json")
    assert back == out
    assert len(back.step_attributions or []) == count


def test_steps_of_sequences_that_differ_are_refused(tmp_path: Path) -> None:
    out = FeatureAttributionOutput([translation(), translation(torch.ones(3, 2, 4), axes=("dim",))])
    out.save(tmp_path / "a.json")
    document = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(document | {"steps": True}))
    with pytest.raises(FileFormatError, match="source_attributions of its sequences differ"):
        FeatureAttributionOutput.load(tmp_path / "a.json")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), name=st.sampled_from(["a.safetensors", "a.json.gz"]))
def test_random_damage_is_refused_or_read(data: st.DataObject, name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    rich().save(tmp_path / name, overwrite=True)
    raw = bytearray((tmp_path / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / name).write_bytes(raw[: data.draw(st.sampled_from([len(raw), len(raw) // 2]))])
    with contextlib.suppress(FileFormatError):
        assert isinstance(FeatureAttributionOutput.load(tmp_path / name), FeatureAttributionOutput)
