"""What leaves the page, comparisons of results, and long and odd ones."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from browsing import long, open_page, saved, sentence, shares, show
from results import NAN, continuation, tokens, translation

from inseq.views.colours import palette
from inseq.views.page import html
from inseq.views.tabulate import table

# ----------------------------------------------------------------------------- comparison


def test_two_results_side_by_side_and_as_a_difference(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, translation(), translation([[0.1, 0.0], [0.3, 0.2], [0.1, 0.2]]))
    results = opened.page.get_by_label("Results")
    results.select_option("beside")
    first, second = (opened.page.locator("section").nth(i).bounding_box() for i in (0, 1))
    assert first["y"] == second["y"]
    assert first["x"] < second["x"]
    results.select_option("0 1")
    opened.token("output", 0).click()
    assert "“I” came from: 我 0.5" in opened.told()
    assert opened.classes("input")[0].startswith("d2")
    results.select_option("1 0")
    opened.token("output", 0).click()
    assert "我 −0.5" in opened.told()
    results.select_option("below")
    assert opened.page.locator("section:not([hidden])").count() == 2
    assert not opened.problems


def test_a_difference_needs_the_same_tokens(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, translation(), continuation())
    assert opened.page.get_by_label("Results").locator("option").count() == 2
    assert opened.page.get_by_text("A difference needs the same tokens on both sides.").is_visible()


# ----------------------------------------------------------------------------- what leaves the page


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("TSV", "\tUne\tchose\n'=un\t0.1\t0\n"),
        ("Markdown", "|  | Une | chose |\n| :--- | ---: | ---: |\n| =un | 0.1 | 0 |\n| ha\\|ppy |"),
        ("LaTeX", "\\begin{tabular}{lrr}\n & Une & chose \\\\\n=un & 0.1 & 0 \\\\\nha|ppy"),
    ],
)
def test_tables_are_copied(kind: str, expected: str, browser: Any, tmp_path: Path) -> None:
    output = sentence()
    output.source[0].token, output.source[1].token = "=un", "ha|ppy"
    opened = show(browser, tmp_path, output, permissions=["clipboard-read", "clipboard-write"])
    opened.page.get_by_text("Copy and save").click()
    opened.page.get_by_text(f"Copy {kind}").click()
    opened.page.get_by_text("Copied.").wait_for()
    assert opened.page.evaluate("navigator.clipboard.readText()").startswith(expected)


def test_the_text_is_copied(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, sentence(), permissions=["clipboard-read", "clipboard-write"])
    opened.page.get_by_text("Copy and save").click()
    opened.page.get_by_text("Copy text").click()
    opened.page.get_by_text("Copied.").wait_for()
    assert opened.page.evaluate("navigator.clipboard.readText()") == "unhappy catfish.</s>\nUne chose"


def test_too_large_a_drawing_is_refused(browser: Any, tmp_path: Path) -> None:
    opened = open_page(browser, html.page([table(long(1000, 30))]), tmp_path)
    opened.page.get_by_text("Copy and save").click()
    opened.page.get_by_text("Save SVG").click()
    assert "Too many cells for an SVG" in opened.told()
    assert saved(opened, "Save PNG").startswith(b"\x89PNG")


def test_pictures_are_saved(browser: Any, tmp_path: Path) -> None:
    from xml.etree import ElementTree

    from matplotlib.image import imread

    output = sentence()
    output.source[0].token = "<&\"'>"
    svg = ElementTree.fromstring(saved(show(browser, tmp_path, output), "Save SVG"))
    texts = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert "<&\"'>" in texts
    assert "0.40" in texts
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}rect"))) == 13
    png = saved(show(browser, tmp_path, output, device_scale_factor=2), "Save PNG")
    image = (imread(io.BytesIO(png))[..., :3] * 255).round().astype(int)
    assert image.shape == (2 * (96 + 6 * 24 + 8), 2 * (150 + 2 * 46 + 8), 3)
    assert shares(image, palette("sequential", "light")[-1]) > 0.02


@pytest.mark.parametrize("whole", [True, False])
def test_the_page_is_saved_and_lives_again(whole: bool, browser: Any, tmp_path: Path) -> None:
    tables = [table(sentence())]
    document = html.page(tables) if whole else f"<!doctype html><meta charset=utf-8>{html.fragment(tables)}"
    opened = open_page(browser, document, tmp_path)
    opened.page.get_by_label("Show").select_option("word")
    document = saved(opened, "Save the page").decode()
    again = open_page(browser, document, tmp_path)
    assert not again.problems
    again.token("output", 0).click()
    assert "“Une” came from" in again.told()
    injected = document.replace("<section>", "<script>document.title='PWNED'</script><section>", 1)
    assert "PWNED" not in open_page(browser, injected, tmp_path).page.title()


# ----------------------------------------------------------------------------- long and odd results


def test_a_long_result_is_within_its_budget(browser: Any, tmp_path: Path) -> None:
    page = html.page([table(long(1000, 100))])
    assert len(page.encode()) < 1_000_000
    opened = open_page(browser, page, tmp_path)
    assert opened.page.locator("*").count() < 2_000
    opened.token("output", 99).click()
    assert "“out99” came from" in opened.told()
    assert opened.page.locator("canvas.map").is_visible()
    opened.page.locator("canvas.map").click(position={"x": 180, "y": 100})
    box = opened.page.locator(".box")
    assert box.evaluate("b => b.scrollTop") > 10_000
    opened.page.locator(".box canvas").focus()
    opened.page.keyboard.press("ArrowDown")
    assert box.evaluate("b => b.scrollTop") == 0


@pytest.mark.slow
def test_a_very_long_result_is_within_its_budget(browser: Any, tmp_path: Path) -> None:
    page = html.page([table(long(4000, 400))])
    assert len(page.encode()) < 10_000_000
    opened = open_page(browser, page, tmp_path)
    opened.token("output", 0).click()
    assert "“out0” came from" in opened.told()
    found = long(4000, 400).source_attributions
    assert found is not None
    strongest = int(found[:, 0].argmax())
    assert f"word{strongest} " in opened.told()


def test_half_precision_is_near(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inseq.views.page import payload

    monkeypatch.setattr(payload, "HALF_FROM", 1)
    output = translation([[3e-9, 1e-12], [NAN, 1.5e-9], [0.0, -2e-9]], signed=True)
    opened = open_page(browser, html.page([table(output)]), tmp_path)
    opened.token("output", 0).click()
    assert "我 3.00e-9" in opened.told()
    opened.token("output", 1).click()
    assert "</s> −2.00e-9, 喜欢 1.50e-9, 我 1.00e-12." in opened.told()


def test_a_folded_result_says_so_and_keeps_every_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    from inseq.views import budget

    monkeypatch.setattr(budget, "MAX_CELLS", 100)
    monkeypatch.setattr(budget, "LEAST_ROWS", 10)
    output = long(200, 4)
    made = table(output)
    assert len(made.rows) < 40
    assert output.source_attributions is not None
    assert made.values.sum(0) == pytest.approx(output.source_attributions.double().sum(0).numpy(), rel=1e-5)
    assert any(label == "Left out" and "strongest of each output token" in said for label, said in made.facts)
    best = output.source_attributions.argmax(0).tolist()
    assert {f"word{i}" for i in best} <= {row.label for row in made.rows}


@pytest.mark.parametrize("size", [(0, 1), (1, 0), (1, 1), (2, 1)])
def test_small_results_are_a_page_without_problems(size: tuple[int, int], browser: Any, tmp_path: Path) -> None:
    rows, columns = size
    output = translation(torch.full(size, NAN if rows == 2 else 0.0), ["a"] * rows, ["b"] * columns)
    opened = show(browser, tmp_path, output)
    assert opened.page.locator(".tok").count() == rows + columns


def test_a_hundred_thousand_tokens(browser: Any, tmp_path: Path) -> None:
    output = long(100_000, 3)
    page = html.page([table(output)])
    assert len(page.encode()) < 10_000_000


def test_writing_from_right_to_left_and_many_scripts(browser: Any, tmp_path: Path) -> None:
    texts = ["مرحبا", " שלום", " 你好", " 👩‍🚀", " e\u0301", "</s>"]
    opened = show(browser, tmp_path, translation(torch.eye(6)[:, :2], texts, [" a", " b"]))
    assert opened.page.locator("[data-line=input] .tok").all_inner_texts() == [text.strip() for text in texts]
    boxes = [opened.token("input", i).bounding_box()["x"] for i in range(2)]
    opened.token("input", 0).focus()
    opened.page.keyboard.press("ArrowLeft" if boxes[0] > boxes[1] else "ArrowRight")
    assert "“\u2068שלום\u2069” influenced" in opened.told()


# ----------------------------------------------------------------------------- the data on the page


def test_the_scores_on_the_page_are_the_scores() -> None:
    page = html.page([table(sentence())])
    found = re.search(r'class="data">(.*?)</script>', page)
    assert found is not None
    told = json.loads(found.group(1))
    values = torch.frombuffer(bytearray(base64.b64decode(told["values"])), dtype=torch.float32)
    assert values.reshape(6, 2).tolist() == pytest.approx(sentence().source_attributions)
    assert [place[0] for place in told["places"]][:2] == ["un", "happy"]


def test_tokens_are_shown_as_asked(browser: Any, tmp_path: Path) -> None:
    output = sentence()
    page = output.show_tokens(
        display=False, return_html=True, replace_char={"happy": "glad"}, wrap_after=2, step_score_highlight="rank"
    )
    opened = open_page(browser, page, tmp_path)
    assert opened.page.locator("[data-line=input] .tok").all_inner_texts()[:2] == ["un", "glad\n"]
    assert "underlined: rank" in opened.legend()
    assert [str(token) for token in output.source][:2] == ["un", "happy"]
    assert tokens(["x"])[0].shown == "x"


def test_of_many_results_the_first_twelve_can_be_compared(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, *[translation() for _ in range(14)])
    assert opened.page.get_by_label("Results").locator("option").count() == 2 + 12 * 11
