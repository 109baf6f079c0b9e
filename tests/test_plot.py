"""Figures with matplotlib, and figures in files: as the SVG, whatever is set or installed."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import INCHES_WIDE, POINTS, STRONGEST, Picture, font, grid, long, picture, pixels
from results import HOSTILE, NAN, continuation, everywhere, translation

from inseq.errors import ArgumentError, UnknownArgumentError
from inseq.outputs.output import FeatureAttributionOutput
from inseq.outputs.sequence import FeatureAttributionSequenceOutput
from inseq.views.colours import css
from inseq.views.figure import svg
from inseq.views.figure.layout import drawing
from inseq.views.table import Table
from inseq.views.tabulate import table


@pytest.fixture(autouse=True)
def a_font_with_chinese(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is drawn does not depend on the fonts of the machine."""
    from matplotlib.font_manager import fontManager

    monkeypatch.setattr(fontManager, "ttflist", list(fontManager.ttflist))
    fontManager.addfont(font(tmp_path_factory.mktemp("fonts") / "squares.ttf", "Noto Sans CJK Squares", "我喜欢歡"))


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
    out = translation(source=["$x^2$", "$\\nothing{$", "$"], written=["$a", "b$"])
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
    "image.aspect": 3.0,
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
    with matplotlib.rc_context(UNUSUAL), warnings.catch_warnings():
        warnings.simplefilter("error")
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
    from inseq.views.figure import fonts

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

    from inseq.views.figure import fonts

    latin, nothing = fonts.families("abc")
    assert latin[-1] == "DejaVu Sans"
    assert nothing == ""
    _, private = fonts.families("\U000e0fff")
    assert private == "\U000e0fff"
    both, missing = fonts.families("喜歡 abc")
    assert len(both) > len(latin)
    assert not missing


def test_a_font_installed_since_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from matplotlib import font_manager

    from inseq.views.figure import fonts

    written, broken = font(tmp_path / "new.ttf", "Noto Sans Gothic", "\U00010330\U00010331"), tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    output = translation(source=["\U00010330", "\U00010331", "a"])
    fonts._look_again.cache_clear()
    with pytest.warns(UserWarning, match="No installed font has Gothic"):
        output.plot()
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(broken), str(written)])
    fonts._look_again.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = output.plot()
        figure.savefig(io.BytesIO(), format="png")
    assert "\U00010330" in [text.get_text() for text in figure.axes[0].texts]


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


def test_show_returns_the_figure_where_asked() -> None:
    for show in (translation().show, FeatureAttributionOutput([translation()]).show_granular, translation().show_tokens):
        figure = show(display=False, return_figure=True)
        assert [text.get_text() for text in figure.axes[0].texts] == picture(translation()).texts


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
