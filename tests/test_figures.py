"""Figures: the numbers and colours of the table, within their size, inert whatever the model wrote."""

from __future__ import annotations

import io
import re
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from results import HOSTILE, NAN, continuation, everywhere, translation

from inseq.errors import ArgumentError, UnknownArgumentError
from inseq.result.output import FeatureAttributionOutput, FeatureAttributionSequenceOutput
from inseq.views import svg
from inseq.views.colours import CONTRAST, contrast, css, palette
from inseq.views.layout import drawing
from inseq.views.measures import cut, from_right, width, wrapped
from inseq.views.shapes import Drawing, Grid, Text
from inseq.views.table import Table
from inseq.views.tabulate import table
from inseq.views.words import visible

STRONGEST = {kind: css(palette(kind, "light")[-1]) for kind in ("sequential", "diverging")}
ATTRIBUTES = re.compile(
    "(width|height|viewBox|role|aria-label|font-(family|size|weight)|.*namespace}space|[xy][12]?|d|fill|stroke|stroke-width|"
    "shape-rendering|text-anchor|direction|unicode-bidi|transform)"
)
INCHES_WIDE, POINTS = 10.0, 72.0


class Picture:
    """What an SVG consists of."""

    def __init__(self, text: str) -> None:
        self.root = ElementTree.fromstring(text)
        self.elements = [(e.tag.rpartition("}")[2], dict(e.attrib), e.text or "") for e in self.root.iter()]
        self.texts = [text for tag, _, text in self.elements if tag == "text"]

    def cells(self) -> list[dict[str, str]]:
        """Without the paper."""
        return [attributes for tag, attributes, _ in self.elements if tag == "rect" and "x" in attributes]

    def labelled(self, text: str) -> dict[str, str]:
        return next(attributes for tag, attributes, found in self.elements if tag == "text" and found == text)


def picture(*outputs: FeatureAttributionSequenceOutput, title: str | None = None) -> Picture:
    return Picture(svg.document([table(output) for output in outputs], title))


def long(rows: int, columns: int, **changes: Any) -> FeatureAttributionSequenceOutput:
    scores = torch.rand(rows, columns, generator=torch.Generator().manual_seed(0))
    return translation(scores, [f" in{i}" for i in range(rows)], [f" out{i}" for i in range(columns)], **changes)


def pixels(output: FeatureAttributionSequenceOutput | FeatureAttributionOutput) -> Any:
    """The figure as an array of red, green and blue; at 72 dots to an inch a pixel is a point."""
    from matplotlib.image import imread

    buffer = io.BytesIO()
    output.plot().savefig(buffer, format="png", dpi=POINTS)
    buffer.seek(0)
    return (imread(buffer)[..., :3] * 255).round().astype(int)


def grid(drawn: Drawing) -> Grid:
    return next(mark for mark in drawn.marks if isinstance(mark, Grid))


def texts(drawn: Drawing) -> list[str]:
    return [mark.text for mark in drawn.marks if isinstance(mark, Text)]


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
    assert len(shown) > 20 or shown.translate(svg.NO_XML) in found.texts


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
    from inseq.views.plan import _strongest

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


# ----------------------------------------------------------------------------- matplotlib


def test_the_figure_has_the_colours_of_the_svg() -> None:
    output = translation([[0.6, NAN], [0.3, 0.8], [0.1, 0.2]])
    cells, image = picture(output).cells(), pixels(output)
    assert len(cells) == 5
    for cell in cells:
        x, y = float(cell["x"]), float(cell["y"])
        assert css(tuple(image[round(y + 3), round(x + 3)])) == cell["fill"]
    by_place = {(cell["x"], cell["y"]) for cell in cells}
    missing = next((x, y) for x in {c["x"] for c in cells} for y in {c["y"] for c in cells} if (x, y) not in by_place)
    assert tuple(image[round(float(missing[1]) + 3), round(float(missing[0]) + 3)]) == (255, 255, 255)
    assert STRONGEST["sequential"] in {cell["fill"] for cell in cells}


def test_the_figure_has_the_texts_of_the_svg() -> None:
    output = long(20, 12, signed=True)
    figure = output.plot(title="Title")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == picture(output, title="Title").texts
    assert figure.get_figwidth() <= INCHES_WIDE


def test_a_long_figure_keeps_its_size_and_colours() -> None:
    scores = torch.zeros(1000, 100)
    scores[:, 40:50] = 1.0
    output = translation(scores, [f" in{i}" for i in range(1000)], [f" out{i}" for i in range(100)])
    image, cells = pixels(output), grid(drawing([table(output)]))
    assert image.shape[1] <= INCHES_WIDE * POINTS
    y = round(cells.y + 300)
    assert css(tuple(image[y, round(cells.x + 45 * cells.width)])) == STRONGEST["sequential"]
    assert tuple(image[y, round(cells.x + 60 * cells.width)]) == (255, 255, 255)


def test_dollars_are_dollars() -> None:
    out = translation(source=["$x^2$", "$\\frac{", "$"], written=["$a", "b$"])
    image = pixels(out)
    assert image.min() < 128
    assert "$x^2$" in [text.get_text() for text in out.plot().axes[0].texts]


UNUSUAL = {
    "text.usetex": True,
    "text.color": "red",
    "font.size": 30,
    "font.family": "serif",
    "font.weight": "bold",
    "figure.autolayout": True,
    "figure.dpi": 50,
    "figure.facecolor": "black",
    "axes.grid": True,
    "axes.facecolor": "black",
    "lines.linewidth": 9,
    "patch.force_edgecolor": True,
    "image.interpolation": "bilinear",
    "image.aspect": "equal",
    "axes.spines.left": True,
    "axes.xmargin": 0.5,
    "image.origin": "lower",
    "text.parse_math": True,
}


def test_nothing_global_is_touched(tmp_path: Path) -> None:
    import matplotlib

    def settings() -> dict[str, Any]:
        return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}

    loaded, before = "matplotlib.pyplot" in sys.modules, settings()
    plain = pixels(translation(step_scores={"p": torch.ones(2)}))
    with matplotlib.rc_context(UNUSUAL):
        ours = settings()
        assert np.array_equal(pixels(translation(step_scores={"p": torch.ones(2)})), plain)
        FeatureAttributionOutput([translation()]).save(tmp_path / "x.pdf")
        assert settings() == ours
    assert settings() == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_notebooks_show_the_figure() -> None:
    data, size = translation().plot()._repr_png_()  # type: ignore[attr-defined]
    assert data.startswith(b"\x89PNG")
    assert size["width"] == pytest.approx(312 / POINTS * 96, abs=1)


def test_a_script_without_a_font_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from inseq.views import fonts

    monkeypatch.setattr(fonts, "FURTHER", ())
    with pytest.warns(UserWarning, match=r"No installed font has CJK: .* fonts-noto-cjk .* \.svg") as caught:
        figure = translation().plot()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png")
    assert len(caught) == 1
    assert Path(caught[0].filename) == Path(__file__)
    assert "□□" in [text.get_text() for text in figure.axes[0].texts]


def test_a_font_of_the_script_is_chosen() -> None:
    from matplotlib.font_manager import fontManager

    from inseq.views import fonts

    latin, nothing = fonts.families("abc")
    assert latin[-1] == "DejaVu Sans"
    assert nothing == ""
    _, private = fonts.families("\U000e0fff")
    assert private == "\U000e0fff"
    if any(entry.name.startswith(("WenQuanYi", "Noto Sans CJK")) for entry in fontManager.ttflist):
        both, missing = fonts.families("喜歡 abc")
        assert len(both) > len(latin)
        assert not missing
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            FeatureAttributionOutput([translation()]).plot(title="我喜欢").savefig(io.BytesIO(), format="png")


def test_an_old_matplotlib_says_what_it_cannot_order(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    monkeypatch.setattr(matplotlib, "__version_info__", (3, 8, 0))
    with pytest.warns(UserWarning, match="from right to left in the wrong order; update it to 3.11"):
        translation(source=["שלום", "b", "c"]).plot()


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.filterwarnings("ignore:No installed font")
def test_hostile_text_is_drawn(text: str) -> None:
    assert everywhere(text).plot(title=text).axes[0].texts
    assert pixels(everywhere(text)).min() < 128


def test_without_matplotlib_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = FeatureAttributionOutput([translation()])
    with pytest.raises(ArgumentError, match=r"need matplotlib, which is not installed: pip install inseq\[plot\], or save as"):
        out.plot()
    with pytest.raises(ArgumentError, match="matplotlib"):
        out.save(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())
    out.save(tmp_path / "x.svg")
    assert Picture((tmp_path / "x.svg").read_text("utf-8")).cells()


# ----------------------------------------------------------------------------- plot and save


def test_plot_aggregates_as_show_does() -> None:
    granular = translation(torch.ones(3, 2, 4), axes=("dim",), reduce_by=("vnorm",), normalize=True)
    assert "0.33" in [text.get_text() for text in granular.plot().axes[0].texts]
    with pytest.raises(ArgumentError, match="axes dim are left"):
        granular.plot(do_aggregation=False)
    with pytest.raises(UnknownArgumentError, match="rescale"):
        translation().plot(rescal=True)
    shown = [text.get_text() for text in translation().plot(0.0, 2.0, rescale=True).axes[0].texts]
    assert {"1.00", "2.00"} <= set(shown)
    words = translation(source=["a", "b", "</s>"]).plot(aggregator="spans", source_spans=(0, 2), aggregate_fn="sum")
    assert "0.90" in [text.get_text() for text in words.axes[0].texts]


def test_figures_are_saved_by_their_ending(tmp_path: Path) -> None:
    out = FeatureAttributionOutput([translation(), continuation()], info={"attribution_method": "saliency"})
    for name, start in (("x.svg", b"<svg"), ("x.png", b"\x89PNG"), ("x.pdf", b"%PDF")):
        out.save(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
        with pytest.raises(ArgumentError, match="exists"):
            out.save(tmp_path / name)
        with pytest.raises(ArgumentError, match=r"leave \.gz out"):
            out.save(tmp_path / f"{name}.gz")
    out.save(tmp_path / "y.pdf")
    assert (tmp_path / "y.pdf").read_bytes() == (tmp_path / "x.pdf").read_bytes(), "no date in it"
    assert b"/Type3" not in (tmp_path / "x.pdf").read_bytes()
    assert "Method: saliency" in (tmp_path / "x.svg").read_text("utf-8")
    out.save(tmp_path / "z.svg", split_sequences=True)
    assert {"z_0.svg", "z_1.svg"} <= {path.name for path in tmp_path.iterdir()}
    with pytest.raises(ArgumentError, match="Cannot write"):
        out.save(tmp_path / "nowhere" / "x.svg")


def odd(scores: Any, source: list[str], written: list[str]) -> FeatureAttributionSequenceOutput:
    return translation(torch.as_tensor(scores).reshape(len(source), len(written)), source, written)


ODD = {
    "no step": (odd([], ["我"], []), "No generated token"),
    "no input": (odd([], [], [" I"]), "no scores of input"),
    "nothing": (odd([], [], []), "No generated token"),
    "one token": (odd([0.5], ["我"], [" I"]), "0.50"),
    "zeros": (odd([0.0, 0.0], ["我", "和"], [" I"]), "Every score is zero"),
    "NaN": (odd([NAN, NAN], ["我", "和"], [" I"]), "No score is a finite number"),
    "infinite": (odd([float("inf"), 1.0], ["我", "和"], [" I"]), "1.00"),
    "huge": (odd([3e38, 1.0], ["我", "和"], [" I"]), "3.00"),
    "tiny": (odd([1e-45, 0.0], ["我", "和"], [" I"]), "score × 10⁻⁴⁵"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_results_are_drawn(name: str) -> None:
    output, said = ODD[name]
    assert any(said in text for text in picture(output).texts)
    assert pixels(output).min() < 128


def test_a_table_of_a_context_is_drawn() -> None:
    made = table(translation(), title="<Context> reliance")
    assert isinstance(made, Table)
    assert "<Context> reliance" in Picture(svg.document([made])).texts
