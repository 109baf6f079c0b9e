"""The intermediate form of every view, its words, numbers and colours."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from results import NAN, continuation, translation

from inseq.errors import ArgumentError
from inseq.views.colours import LEVELS, PAPER, contrast, ink, palette
from inseq.views.look import Look
from inseq.views.page.style import sheet
from inseq.views.table import Scale
from inseq.views.tabulate import table
from inseq.views.words import exponent, number, visible

# ----------------------------------------------------------------------------- the intermediate form


def test_the_table_holds_what_was_found() -> None:
    made = table(
        translation(
            step_scores={"probability": torch.tensor([0.5, 0.25])},
            diagnostics={"delta": torch.tensor([0.001, -0.002])},
            info={
                "attribution_method": "saliency",
                "attributed_fn": "probability",
                "model_name": "demo",
                "dtype": "float32",
                "options": {"baseline": "unk"},
                "notes": ["read with care"],
            },
            reduced=("vnorm over dim",),
        )
    )
    assert [row.label for row in made.rows] == ["我", "喜欢", "</s>"]
    assert [row.special for row in made.rows] == [False, False, True]
    assert [column.label for column in made.columns] == ["I", "like"]
    assert [column.text for column in made.columns] == [" I", " like"]
    assert made.values[1] == pytest.approx((0.3, 0.8))
    assert made.totals == pytest.approx((0.3, 0.55, 0.15))
    assert made.scale == Scale(0.0, pytest.approx(0.8), "sequential")  # type: ignore[arg-type]
    assert made.step_scores == {"probability": (0.5, 0.25)}
    assert made.matrices == ("source",)
    assert made.facts == (
        ("Method", "saliency"),
        ("Explains", "probability"),
        ("Baseline", "unk"),
        ("Model", "demo"),
        ("Precision", "float32"),
        ("Scores", "vnorm over dim"),
        ("Completeness gap", "at most 0.002"),
        ("Note", "read with care"),
    )


def test_the_table_is_json() -> None:
    made = table(continuation(step_scores={"p": torch.tensor([NAN, 1.0])}))
    back = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert back["values"] == [[0.5, pytest.approx(0.1)], [0.5, pytest.approx(0.2)], [None, pytest.approx(0.7)]]
    assert back["step_scores"] == {"p": [None, 1.0]}
    assert back["rows"][0]["matrix"] == "target"


def test_the_table_is_what_its_schema_says() -> None:
    schema = json.loads((resources.files("inseq.views") / "table.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    layered = translation(torch.rand(3, 2, 2), axes=("layer",), reduce_by=("mean",))
    for output in (layered, continuation(step_scores={"p": torch.tensor([NAN, 1.0])}), translation(torch.zeros(0, 0), [], [])):
        (made,) = output.tables()
        plain = json.loads(json.dumps(made.to_dict(), allow_nan=False))
        assert list(validator.iter_errors(plain)) == []
        assert set(schema["required"]) == set(schema["properties"]) == set(plain)
    assert list(validator.iter_errors({**plain, "version": 2}))
    assert layered.tables()[0].to_dict()["planes"][1]["index"] == (1,)


def test_the_intermediate_form_word_for_word() -> None:
    made = table(
        translation(
            [[0.5, 0.0], [0.25, 1.0], [4.0, 2.0]],
            step_scores={"probability": torch.tensor([0.5, 0.25])},
            target_attributions=torch.tensor([[0.5, 0.0], [NAN, 0.0], [NAN, NAN]]),
            info={"attribution_method": "saliency", "model_name": "demo"},
        ),
        title="A title",
    )
    golden = Path(__file__).parent / "data" / "table.json"
    assert json.loads(json.dumps(made.to_dict())) == json.loads(golden.read_text(encoding="utf-8"))


def test_signed_scores_have_a_scale_with_zero_in_the_middle() -> None:
    scale = table(translation([[0.1, 0.0], [-0.4, 0.2], [9.0, 0.0]], signed=True)).scale
    assert (scale.minimum, scale.maximum, scale.kind) == (pytest.approx(-0.4), pytest.approx(0.4), "diverging")
    assert scale.level(0.0, LEVELS) == LEVELS // 2
    assert table(translation(signed=True), look=Look(-0.5, 0.2)).scale == Scale(-0.5, 0.5, "diverging")
    assert table(translation(), look=Look(0.1, 0.2)).scale == Scale(0.1, 0.2, "sequential")


def test_the_declared_sign_decides_the_colours_and_a_norm_has_none() -> None:
    out = translation(torch.ones(3, 2, 4), axes=("dim",), reduce_by=("vnorm",), signed=True)
    assert table(out.aggregate()).scale.kind == "sequential"
    assert table(out.aggregate("sum")).scale.kind == "diverging"


def test_special_tokens_do_not_stretch_the_scale_and_it_is_said() -> None:
    made = table(translation([[0.1, 0.1], [0.1, 0.2], [0.8, 0.7]]))
    assert made.scale.maximum == pytest.approx(0.2)
    assert ("Colours", "the scale leaves out the special </s>") in made.facts
    assert made.scale.level(0.8, LEVELS) == LEVELS - 1
    assert not any(label == "Colours" for label, _ in table(translation()).facts)
    assert table(translation([[0.5]], ["</s>"], [" I"])).scale.maximum == 0.5


def test_edited_tokens_are_shown() -> None:
    out = translation()
    out.source[0].token = "EDITED"
    out.target[1].token = ""
    made = table(out)
    assert (made.rows[0].label, made.columns[0].label) == ("EDITED", "∅")


def test_pieces_of_one_character_are_one_group() -> None:
    out = translation([[0.1], [0.2], [0.3], [0.4]], ["你", "", "", "好"], [" I"])
    made = table(out)
    assert [row.label for row in made.rows] == ["你 1/3", "你 2/3", "你 3/3", "好"]
    assert [row.group for row in made.rows] == [0, 0, 0, 1]


def test_the_last_token_is_no_row_and_broken_scores_are_counted() -> None:
    assert len(table(continuation()).rows) == 3
    broken = table(continuation([[NAN, 0.1], [0.5, float("inf")], [NAN, 0.7], [NAN, NAN]]))
    assert ("Missing", "2 scores are NaN or infinite and left blank") in broken.facts


def test_rows_of_both_matrices() -> None:
    made = table(translation(target_attributions=torch.tensor([[0.1, 0.2], [NAN, 0.3], [NAN, NAN]])))
    assert [row.matrix for row in made.rows] == ["source"] * 3 + ["target"] * 2
    assert len({(row.matrix, row.group) for row in made.rows}) == 5
    assert made.matrices == ("source", "target")


def test_trailing_axes_are_refused() -> None:
    with pytest.raises(ArgumentError, match="select_idx"):
        table(translation(torch.zeros(3, 2, 2), axes=("layer",)))


# ----------------------------------------------------------------------------- words and numbers


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("word", "word"),
        ("", "∅"),
        (" ", "␣"),
        ("   ", "␣␣␣"),
        (" " * 40, "␣×40"),
        ("\n", "↵"),
        ("a\tb", "a⇥b"),
        ("\x00\x1b", "␀␛"),
        ("\u202e", "⟨U+202E⟩"),
        ("\u200d", "⟨U+200D⟩"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("\u0301", "◌\u0301"),
        ("\ud800", "⟨U+D800⟩"),
        ("a\uffff", "a⟨U+FFFF⟩"),
        ("\x85\u2028", "⟨U+0085⟩⟨U+2028⟩"),
        ("你好", "你好"),
        ("مرحبا", "مرحبا"),
    ],
)
def test_nothing_is_hidden(text: str, seen: str) -> None:
    assert visible(text) == seen


@given(st.text(st.characters(exclude_categories=())))
def test_visible_text_can_be_written_and_is_one_line(text: str) -> None:
    seen = visible(text)
    assert seen
    assert len(seen.encode("utf-8").decode("utf-8").splitlines()) == 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", seen)


@pytest.mark.parametrize(
    ("value", "power", "text"),
    [(None, 0, ""), (0.5, 0, "0.50"), (-0.001, 0, "0.00"), (-0.25, 0, "−0.25"), (1.5e-7, -7, "1.50"), (2e12, 12, "2.00")],
)
def test_numbers(value: float | None, power: int, text: str) -> None:
    assert number(value, power) == text


@pytest.mark.parametrize(("largest", "power"), [(0.0, 0), (0.8, 0), (0.05, 0), (0.01, -2), (3e-9, -9), (1234.0, 3)])
def test_the_power_of_ten_keeps_cells_short(largest: float, power: int) -> None:
    assert exponent(largest) == power


# ----------------------------------------------------------------------------- colours


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["sequential", "diverging"])
def test_every_fill_can_be_read(kind: Any, theme: Any) -> None:
    fills = palette(kind, theme)
    assert len(fills) == LEVELS
    assert all(contrast(ink(fill), fill) >= 4.5 for fill in fills)
    zero = 0 if kind == "sequential" else LEVELS // 2
    assert fills[zero] == PAPER[theme]
    assert contrast(fills[-1], fills[zero]) > 3.5
    distances = [contrast(fill, fills[zero]) for fill in fills[zero:]]
    assert distances == sorted(distances)
    assert all(type(part) is int and 0 <= part <= 255 for fill in fills for part in fill)


def test_soft_text_can_be_read() -> None:
    for name in ("ink", "soft"):
        found = re.search(rf"--{name}:light-dark\(#(\w+),#(\w+)\)", sheet())
        assert found is not None
        light, dark = (tuple(bytes.fromhex(colour)) for colour in found.groups())
        assert contrast(light, PAPER["light"]) >= 4.5  # type: ignore[arg-type]
        assert contrast(dark, PAPER["dark"]) >= 4.5  # type: ignore[arg-type]
