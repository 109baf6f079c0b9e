"""HTML and text: right, readable, and inert whatever the model wrote."""

from __future__ import annotations

import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from results import HOSTILE, NAN, continuation, everywhere, tokens, translation

from inseq.outputs.output import FeatureAttributionOutput
from inseq.outputs.sequence import FeatureAttributionSequenceOutput
from inseq.views import surface
from inseq.views.page import html, static
from inseq.views.page.style import sheet
from inseq.views.table import Table
from inseq.views.tabulate import table
from inseq.views.terminal import render as terminal
from inseq.views.words import visible


def plain(output: FeatureAttributionSequenceOutput, width: int = 60) -> str:
    file = io.StringIO()
    terminal.render([table(output)], width=width, file=file)
    return file.getvalue()


class Document(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def cells(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == "td"]


# ----------------------------------------------------------------------------- HTML


def test_cells_have_their_colours_numbers_and_exact_values() -> None:
    page = html.page([table(translation([[0.123456789, 0.0], [0.8, 0.4], [0.1, 0.1]]))])
    cells = Document(page).cells()
    assert [cell["class"] for cell in cells] == ["s5", "s0", "s32", "s16", "s4", "s4"]
    assert cells[0]["title"] == "0.123457"
    assert ">0.12<" in page
    for kind in ("s32", "s0", "d0", "d32"):
        assert f".inseq .{kind}{{background:" in page
    signed = Document(html.page([table(translation([[0.4, -0.4], [0.0, 0.2], [0.1, 0.1]], signed=True))]))
    assert [cell["class"] for cell in signed.cells()][:4] == ["d32", "d0", "d16", "d24"]


def test_pieces_of_one_character_are_drawn_as_one() -> None:
    made = table(translation([[0.1], [0.2], [0.3], [0.4]], ["你", "", "", "好"], [" I"]))
    spans = [attributes for tag, attributes in Document(html.page([made])).elements if tag == "span"]
    words = [span for span in spans if (span.get("class") or "").startswith("tok")]
    assert len(words) == 3
    assert "pieces" in (words[0]["class"] or "")
    assert words[0]["title"] == "mean score 0.6, 3 tokens"


def test_edited_tokens_are_shown() -> None:
    out = translation()
    out.source[0].token = "EDITED"
    assert "EDITED" in html.page([table(out)])
    assert "EDITED" in plain(out)


def test_the_page_stands_alone_under_a_strict_policy() -> None:
    page = html.page([table(translation())], "A title")
    policy = next(a["content"] for tag, a in Document(page).elements if tag == "meta" and "http-equiv" in a)
    digest = r"'sha256-[\w+/]{43}='"
    assert policy is not None
    allowed = rf"script-src {digest}; style-src {digest} {digest}; img-src blob:"
    assert re.fullmatch(rf"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'", policy)
    assert "A title" in page
    assert not re.search(r"https?:|url\(|@import|<link|<img|\sstyle=", page.replace(html.script(), ""))
    assert re.findall(r"https?:[^\"]+", html.script()) == ["http://www.w3.org/2000/svg"]


def test_the_policy_names_the_style_and_the_script_that_are_there() -> None:
    import base64
    import hashlib

    page = html.page([table(translation())])
    parts = re.findall(r"<(style|script)( class=\"sheet\")?>(.*?)</\1>", page, re.DOTALL)
    assert len(parts) == 3
    for _, _, part in parts:
        assert base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() in page


def test_the_script_is_small_and_once_on_a_page() -> None:
    assert len(html.script().encode()) < 55_000
    assert html.page([table(translation())] * 3).count(html.script()) == 1


def test_every_module_is_in_the_script() -> None:
    folder = Path(html.__file__).parent
    assert sorted(html.SCRIPTS) == sorted(path.name for path in folder.glob("*.js"))
    for name in html.SCRIPTS:
        assert set((folder / name).read_text(encoding="utf-8").splitlines()) - {""} <= set(html.script().splitlines())


def test_markdown_takes_a_fragment_for_one_block() -> None:
    assert "\n\n" not in html.fragment([table(translation()), table(continuation())])


def test_a_fragment_is_one_element_with_a_scoped_style() -> None:
    found = html.fragment([table(translation()), table(continuation())])
    assert found.startswith("<div>")
    assert found.endswith("</div>")
    assert "<html" not in found.replace(html.script(), "")
    rules = re.sub(r"@media[^{]+\{(.*?\})\}", r"\1", sheet())
    selectors = re.findall(r"([^{}]+)\{", rules)
    assert all(".inseq" in part for selector in selectors for part in selector.split(","))
    assert "Text 2 of 2" in found


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert_in_html(text: str) -> None:
    hostile, harmless = (everywhere(t).show(display=False, return_html=True, title=t) for t in (text, "harmless"))
    assert hostile is not None
    assert harmless is not None
    hostile.encode("utf-8")
    found, expected = Document(hostile), Document(harmless)
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in expected.elements]
    assert [set(a) for _, a in found.elements] == [set(a) for _, a in expected.elements]
    assert [a.get("class") for _, a in found.elements] == [a.get("class") for _, a in expected.elements]
    assert visible(text) in "".join(found.texts)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202a-\u202e]", hostile)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert_in_the_terminal(text: str) -> None:
    file = io.StringIO()
    tables = [table(s, info=everywhere(text).info) for s in everywhere(text)]
    terminal.render(tables, width=100, file=file, title=text)
    shown = file.getvalue()
    shown.encode("utf-8")
    assert visible(text) in shown
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202a-\u202e]", shown)


def made(scores: Any, source: list[str], written: list[str]) -> FeatureAttributionSequenceOutput:
    return translation(torch.as_tensor(scores).reshape(len(source), len(written)), source, written)


ODD = {
    "no step": (made([], ["我"], []), "No generated token"),
    "no input": (made([], [], [" I"]), "no scores of input"),
    "nothing": (made([], [], []), "No generated token"),
    "one token": (made([0.5], ["我"], [" I"]), ""),
    "zeros": (made([0.0, 0.0], ["我", "和"], [" I"]), "Every score is zero"),
    "NaN": (made([NAN, NAN], ["我", "和"], [" I"]), "No score is a finite number"),
    "infinite": (made([float("inf"), 1.0], ["我", "和"], [" I"]), ""),
    "huge": (made([3e38, 1.0], ["我", "和"], [" I"]), ""),
    "tiny": (made([1e-45, 0.0], ["我", "和"], [" I"]), ""),
    "only special": (made([0.5], ["</s>"], ["</s>"]), ""),
    "no scores": (
        FeatureAttributionSequenceOutput(
            source=[], target=tokens(["a"]), attr_pos_start=0, attr_pos_end=1, step_scores={"p": torch.ones(1)}
        ),
        "no scores of input",
    ),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("signed", [False, True])
def test_odd_results_are_a_view_or_a_sentence(name: str, signed: bool) -> None:
    output, sentence = ODD[name]
    output.signed = signed
    page = html.page([table(output)])
    assert sentence in page
    assert sentence in plain(output)
    assert not re.search(r">(nan|inf|None)<", page)
    output._repr_html_()


def test_no_result_at_all() -> None:
    assert "no result" in html.page([])
    assert "no result" in FeatureAttributionOutput([])._repr_html_()


def test_a_large_matrix_is_left_to_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "MAX_CELLS", 4)
    page = html.page([table(translation([[0.1, 0.1], [0.9, 0.8], [0.7, 0.7]]))])
    assert "The heat map of 3 by 2 scores needs scripts" in page
    assert not Document(page).cells()
    assert "我" in page


# ----------------------------------------------------------------------------- show


def test_show_writes_text_outside_notebooks(capsys: pytest.CaptureFixture[str]) -> None:
    granular = translation(torch.ones(3, 2, 4), axes=("dim",), reduce_by=("vnorm",), normalize=True)
    assert FeatureAttributionOutput([granular]).show(title="Heading") is None
    shown = capsys.readouterr().out
    assert "Heading" in shown
    assert "0.33" in shown
    granular.aggregate().show()
    assert "0.33" in capsys.readouterr().out
    granular.show(display=False)
    assert capsys.readouterr().out == ""


def test_show_displays_html_in_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, str]] = []
    kernel = SimpleNamespace(kernel=object())
    display = SimpleNamespace(display=lambda bundle, raw: shown.append(bundle))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel, display=display))  # type: ignore[arg-type]  # fmt: skip
    assert surface.in_notebook()
    translation().show()
    assert "text/html" in shown[0]
    kernel.kernel = None  # type: ignore[assignment]
    assert not surface.in_notebook()


def test_options_reach_the_view(capsys: pytest.CaptureFixture[str]) -> None:
    page = translation().show(0.0, 2.0, display=False, return_html=True, rescale=True)
    assert page is not None
    assert "colours from 0.00 to 2.00" in page
    assert ">1.00<" in page
    assert capsys.readouterr().out == ""


def test_pages_are_written(tmp_path: Any) -> None:
    path = tmp_path / "page.html"
    FeatureAttributionOutput([translation()]).save_html(path, title="我喜欢")
    assert "<title>我喜欢</title>" in path.read_text(encoding="utf-8")
    translation(source=["\ud800", "b", "c"]).save_html(path)
    assert "⟨U+D800⟩" in path.read_text(encoding="utf-8")


def test_tables_are_frozen() -> None:
    made = table(translation())
    assert isinstance(made, Table)
    with pytest.raises(AttributeError):
        made.title = "x"  # type: ignore[misc]
