"""Figures: the numbers and colours of the table, within their size, inert whatever the model wrote."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from pictures import INCHES_WIDE, POINTS, STRONGEST, Picture, grid, long, picture, texts
from results import HOSTILE, NAN, continuation, everywhere, translation

from inseq.views.colours import CONTRAST, contrast, css, palette
from inseq.views.figure import svg
from inseq.views.figure.layout import drawing
from inseq.views.figure.measures import cut, from_right, width, wrapped
from inseq.views.figure.shapes import Text
from inseq.views.tabulate import table
from inseq.views.words import visible

ATTRIBUTES = re.compile(
    "(width|height|viewBox|role|aria-label|font-(family|size|weight)|.*namespace}space|[xy][12]?|d|fill|stroke|stroke-width|"
    "shape-rendering|text-anchor|direction|unicode-bidi|transform)"
)


# ----------------------------------------------------------------------------- SVG


def test_cells_have_their_colours_and_numbers() -> None:
    found = picture(translation([[0.6, 0.0], [0.3, 0.8], [0.1, 0.2]], step_scores={"probability": torch.tensor([0.25, 0.75])}))
    cells = found.cells()
    assert len(cells) == 6
    assert cells[3]["fill"] == STRONGEST["sequential"]
    assert cells[1]["fill"] == "#ffffff"
    assert {"0.60", "0.00", "0.80", "probability", "0.25", "0.75", "score"} <= set(found.texts)
    (x, y), (right, _), (_, below) = ((float(cell["x"]), float(cell["y"])) for cell in cells[:3])
    assert right > x
    assert below > y


def test_signed_scores_have_two_colours() -> None:
    found = picture(translation([[0.4, -0.4], [0.0, 0.2], [0.1, 0.1]], signed=True))
    assert [cell["fill"] for cell in found.cells()[:2]] == [css(palette("diverging", "light")[i]) for i in (-1, 0)]
    assert {"−0.40", "0.00", "0.40"} <= set(found.texts)


def test_a_missing_number_has_neither_fill_nor_text() -> None:
    found = picture(continuation([[0.5, 0.1], [0.4, 0.2], [NAN, 0.7], [NAN, NAN]]))
    assert len(found.cells()) == 5
    assert [tag for tag, attributes, _ in found.elements if tag == "line"]
    assert not [text for text in found.texts if "nan" in text.lower()]


def test_labels_stand_beside_their_cells() -> None:
    found = picture(translation(source=["α", "β", "γ"], written=["a", "b"]))
    cells = found.cells()
    for i, row in enumerate("αβγ"):
        label, cell = found.labelled(row), cells[2 * i]
        assert float(cell["y"]) < float(label["y"]) < float(cell["y"]) + float(cell["height"])
        assert float(label["x"]) < float(cell["x"])
        assert label["text-anchor"] == "end"
    for i, column in enumerate("ab"):
        label, cell = found.labelled(column), cells[i]
        assert float(label["x"]) == pytest.approx(float(cell["x"]) + float(cell["width"]) / 2, abs=0.02)
        assert float(label["y"]) < float(cell["y"])


def test_every_number_can_be_read_on_its_cell() -> None:
    drawn = drawing([table(translation(torch.linspace(-1, 1, 30).reshape(6, 5), list("abcdef"), list("vwxyz"), signed=True))])
    cells = {(round(box.x, 2), round(box.y, 2)): box for box in grid(drawn).boxes()}
    numbers = [mark for mark in drawn.marks if isinstance(mark, Text) and mark.anchor == "middle" and "." in mark.text]
    checked = 0
    for mark in numbers:
        for box in cells.values():
            if box.x < mark.x < box.x + box.width and box.y < mark.y < box.y + box.height:
                assert contrast(mark.colour, box.fill) >= CONTRAST
                checked += 1
    assert checked == 30
    others = [mark.colour for mark in drawn.marks if isinstance(mark, Text) and mark not in numbers]
    assert all(contrast(colour, (255, 255, 255)) >= CONTRAST for colour in others)


def test_the_caption_says_what_was_done() -> None:
    info = {"attribution_method": "saliency", "attributed_fn": "logit", "model_name": "demo/zh-en"}
    found = Picture(svg.document([table(translation(info=info))], "A title"))
    assert any("Method: saliency · Explains: logit · Model: demo/zh-en" in text for text in found.texts)
    assert found.labelled("A title")["font-weight"] == "600"
    assert found.root.get("aria-label") == "A title"


def test_several_texts_are_drawn_one_below_the_other() -> None:
    one, both = picture(translation()), picture(translation(), continuation())
    assert float(both.labelled("Text 1 of 2")["y"]) < float(both.labelled("Text 2 of 2")["y"])
    assert float(both.root.get("height", "").removesuffix("pt")) > float(one.root.get("height", "").removesuffix("pt"))
    assert {"喜欢", "sky"} <= set(both.texts)
    assert picture().texts == ["There is no result to show."]


def test_source_prompt_and_generated_tokens_stand_apart() -> None:
    tops = sorted({float(cell["y"]) for cell in picture(continuation()).cells()})
    first, second = np.diff(tops).tolist()
    assert second > first


@pytest.mark.parametrize("text", [*HOSTILE, "￾￿", "a\u0301" * 500, "x" * 100_000, "\x00"])
def test_hostile_text_is_inert(text: str) -> None:
    hostile, harmless = everywhere(text), everywhere("harmless")
    made = [[table(s, info=out.info, title=title) for s in out] for out, title in ((hostile, text), (harmless, "harmless"))]
    written = svg.document(made[0], text)
    written.encode("utf-8")
    found, expected = Picture(written), Picture(svg.document(made[1], "harmless"))
    assert {tag for tag, _, _ in found.elements} <= {"svg", "rect", "text", "line", "g", "path"}
    assert [tag for tag, _, _ in found.elements if tag != "text"] == [tag for tag, _, _ in expected.elements if tag != "text"]
    assert all(ATTRIBUTES.fullmatch(name) for _, attributes, _ in found.elements for name in attributes)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202a-\u202e\ufffe\uffff]", written)
    assert len(written) < 100_000
    shown = visible(text)
    assert len(shown) > 20 or shown in found.texts


def test_text_from_right_to_left_keeps_its_side() -> None:
    found = picture(translation(source=["سلام!", "שלום", "abc"]))
    for text in ("سلام!", "שלום"):
        label = found.labelled(text)
        assert (label["direction"], label.get("text-anchor", "start"), label["unicode-bidi"]) == ("rtl", "start", "isolate")
    assert "direction" not in found.labelled("abc")
    assert found.labelled("abc")["x"] == found.labelled("שלום")["x"]


def test_fonts_are_generic_and_know_chinese() -> None:
    family = picture(translation()).root.get("font-family", "")
    assert family.endswith("sans-serif")
    assert "Noto Sans CJK" in family


# ----------------------------------------------------------------------------- size


def test_a_long_result_keeps_its_size_and_says_what_was_thinned() -> None:
    written = svg.document([table(long(1000, 100, step_scores={"probability": torch.rand(100)}))])
    assert len(written) < 1_000_000
    found = Picture(written)
    assert len(found.elements) < 500
    assert float(found.root.get("width", "").removesuffix("pt")) <= INCHES_WIDE * POINTS
    assert float(found.root.get("height", "").removesuffix("pt")) <= 13 * POINTS
    said = " ".join(found.texts)
    every = re.search(r"one in (\d+) input tokens and one in (\d+) output tokens are labelled", said)
    assert every
    assert sum(bool(re.fullmatch(r"in\d+", text)) for text in found.texts) == -(-1000 // int(every[1]))
    assert sum(bool(re.fullmatch(r"out\d+", text)) for text in found.texts) == -(-100 // int(every[2]))
    assert not [text for text in found.texts if re.fullmatch(r"0\.[1-8]\d", text)], "numbers do not fit"


def test_labels_that_are_there_do_not_overlap() -> None:
    for output in (long(1000, 100), long(60, 40), long(5, 30), translation()):
        drawn = drawing([table(output)])
        rows = [m for m in drawn.marks if isinstance(m, Text) and re.fullmatch(r"in\d+", m.text)]
        assert all(below.y - above.y >= above.size for above, below in pairwise(rows))
        heads = [m for m in drawn.marks if isinstance(m, Text) and re.fullmatch(r"out\d+", m.text)]
        for left, right in pairwise(heads):
            apart = (right.x - left.x) * (0.7 if left.slanted else 1.0)
            assert apart >= (left.size if left.slanted else width(left.text, left.size))


def test_nothing_reaches_beyond_the_paper() -> None:
    names = {"a step score with a very long name indeed, too long": torch.rand(40) * 1e-9, "short": -torch.rand(40)}
    for output in (long(30, 40, step_scores=names), long(2, 2), translation(source=["我" * 90] * 3, written=["W" * 99, "b"])):
        drawn = drawing([table(output)])
        for mark in (m for m in drawn.marks if isinstance(m, Text)):
            size = width(mark.text, mark.size) * (0.71 if mark.slanted else 1.0)
            left = mark.x - size * {"start": 0.0, "middle": 0.5, "end": 1.0}[mark.anchor]
            assert left >= 0
            assert left + size <= drawn.width
            assert 0 < mark.y < drawn.height


def test_what_no_eye_can_tell_apart_is_pooled_and_said() -> None:
    output = long(3000, 700)
    output.source_attributions[1234, 567] = 9.0  # type: ignore[index]
    drawn = drawing([table(output)])
    found = grid(drawn)
    assert found.levels.shape[0] <= 1200
    assert found.levels.shape[1] <= 600
    assert (found.levels == 32).sum() == 1
    assert any("each cell is the strongest of up to" in text for text in texts(drawn))


def test_pooling_keeps_signs_and_blanks() -> None:
    from inseq.views.figure.sizes import _strongest

    values = np.array([[0.1, -0.9, NAN], [0.2, NAN, NAN], [-0.3, 0.2, 0.5]])
    assert np.array_equal(_strongest(values, 2, 2), [[-0.9, NAN], [-0.3, 0.5]], equal_nan=True)
    assert np.array_equal(_strongest(values, 1, 1), values, equal_nan=True)


def test_small_cells_without_a_number_are_grey() -> None:
    scores = torch.rand(300, 20)
    scores[:, 3] = NAN
    found = picture(translation(scores, [f" {i}" for i in range(300)], [f" {i}" for i in range(20)]))
    paths = {attributes["stroke"]: attributes["d"] for tag, attributes, _ in found.elements if tag == "path"}
    assert len(re.findall(r"M3 \d+h1", paths["#eceff2"])) == 300


def test_many_texts_end_before_the_paper_does() -> None:
    drawn = drawing([table(translation())] * 1000)
    assert drawn.height < 5000
    assert "further texts are left out" in texts(drawn)[-1]


def test_many_step_scores_are_left_out_and_said() -> None:
    drawn = drawing([table(translation(step_scores={f"s{i}": torch.ones(2) for i in range(15)}))])
    assert any("3 further step scores are left out" in text for text in texts(drawn))


def test_measures() -> None:
    assert width("我", 10) == 10
    assert width("e\u0301", 10) == width("e", 10)
    assert cut("short", 100, 10) == "short"
    long_word = cut("W" * 50, 100, 10)
    assert long_word.endswith("…")
    assert width(long_word, 10) <= 100
    assert len(cut("\u0301" * 10_000, 100, 10)) <= 201
    lines = wrapped("some words and averyveryverylongword 我喜歡機器學習", 60, 10)
    assert "".join(lines).replace(" ", "") == "somewordsandaveryveryverylongword我喜歡機器學習"
    assert all(width(line, 10) <= 60 for line in lines)
    assert from_right("1. سلام")
    assert not from_right("a שלום")
    assert not from_right("")
