"""The page under demanding hands: hosts that forbid, ranges and spans, nothing that jumps."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import pytest
import torch
from browsing import Opened, open_page
from results import translation

from inseq.outputs.output import FeatureAttributionOutput
from inseq.outputs.sequence import FeatureAttributionSequenceOutput
from inseq.views.page import html
from inseq.views.tabulate import table

NOTEBOOK = """fragment => {
  const output = document.createElement("div");
  output.innerHTML = fragment;
  for (const script of output.querySelectorAll("script")) {
    const copy = document.createElement("script");
    for (const { name, value } of script.attributes) copy.setAttribute(name, value);
    copy.textContent = script.textContent;
    script.replaceWith(copy);
  }
  document.body.append(output);
}"""
"""How a notebook inserts an output: its scripts are made anew, or they would not run."""


def show(browser: Any, folder: Path, *outputs: FeatureAttributionSequenceOutput, **options: Any) -> Opened:
    found = FeatureAttributionOutput(list(outputs)).show(display=False, return_html=True)
    return open_page(browser, found, folder, **options)


def small(**parts: Any) -> FeatureAttributionSequenceOutput:
    """Two words of two pieces, and three output tokens."""
    scores = [[0.5, 0.2, 0.0], [0.1, 0.1, 0.3], [0.2, 0.0, 0.0], [0.1, 0.3, 0.2]]
    return translation(scores, ["un", "happy", " cat", "fish"], [" a", " b", " c"], **parts)


def layered() -> FeatureAttributionSequenceOutput:
    scores = torch.rand(4, 3, 3, generator=torch.Generator().manual_seed(0))
    return translation(scores, ["un", "happy", " cat", "fish"], [" a", " b", " c"], axes=("layer",), reduce_by=("mean",))


# ----------------------------------------------------------------------------- what is told


def test_a_rank_is_told_as_it_is(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, small(step_scores={"rank": torch.tensor([1.0, 1234.0, 50257.0])}))
    opened.token("output", 1).click()
    assert "rank 1234." in opened.told()
    opened.token("output", 2).click()
    assert "rank 50257." in opened.told()


def test_the_power_of_ten_of_the_cells_is_said(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, translation([[3e-3], [1e-3]], ["x", "y"], [" a"]))
    assert "cells × 10⁻³" in opened.legend()
    opened.page.get_by_text("Copy and save").click()
    with opened.page.expect_download() as download:
        opened.page.get_by_text("Save SVG").click()
    assert "scores × 10⁻³" in Path(download.value.path()).read_text(encoding="utf-8")


def test_tokens_without_scores_and_with_nothing_but_zeros(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, translation([[0.0, 0.4], [0.0, 0.2]], ["x", "y"], [" a", " b"]))
    opened.token("output", 0).focus()
    assert opened.told() == "“a” came from: all scores are 0."
    opened.page.keyboard.press("r")
    assert "came from" in opened.told()
    assert opened.token("output", 0).get_attribute("aria-selected") == "true"


def test_words_are_what_aggregate_makes_of_them(browser: Any, tmp_path: Path) -> None:
    import inseq

    out = inseq.load_model("demo/zh-en", "attention").attribute("他昨天去了学校。", attribute_target=True, show_progress=False)
    opened = open_page(browser, out.show(display=False, return_html=True), tmp_path)
    opened.page.get_by_label("Show").select_option("word")
    assert "joined tokens are summed" in opened.legend()
    words = table(out[0].aggregate().aggregate("words", aggregate_fn="sum"))
    for i, column in enumerate(words.columns):
        opened.token("output", i + 1).focus()
        rows = [(row.label, value) for row, value in zip(words.rows, words.column(i), strict=True) if value is not None]
        strongest = sorted(rows, key=lambda pair: -abs(pair[1]))[:5]
        listed = ", ".join(f"{label} {float(f'{value:.3g}'):g}" for label, value in strongest)
        assert f"“{column.label}” came from: {listed}" in opened.told()


def test_a_long_text_is_told_in_short(browser: Any, tmp_path: Path) -> None:
    texts = [f" word{i}" for i in range(400)] + ["."]
    opened = show(browser, tmp_path, translation(torch.ones(401, 1), texts, [" a"]))
    opened.page.get_by_label("Show").select_option("sentence")
    opened.token("output", 0).click()
    assert " … " in opened.told()
    assert len(opened.told()) < 120


# ----------------------------------------------------------------------------- choosing


def test_joined_words_stay_words_and_the_focus_stays(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, translation(torch.eye(5)[:, :2], ["你", "", " cat", "fish", "."], [" a", " b"]))
    opened.page.get_by_label("Show").select_option("word")
    opened.token("input", 1).focus()
    opened.page.keyboard.press("Shift+ArrowRight")
    opened.page.get_by_text("Join the chosen tokens").click()
    assert opened.page.locator("[data-line=input] .tok").all_inner_texts() == ["你", "catfish."]
    assert opened.page.evaluate("document.activeElement.textContent") == "catfish."


def test_sliders_stand_where_the_view_is_after_joining(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, layered())
    opened.page.get_by_label("Layer").fill("2")
    assert opened.page.get_by_label("Layer").get_attribute("aria-valuetext") == "1"
    opened.token("input", 0).focus()
    opened.page.keyboard.press("Shift+ArrowRight")
    opened.page.get_by_text("Join the chosen tokens").click()
    assert opened.page.get_by_label("Layer").input_value() == "2"
    assert opened.page.locator(".panel output").inner_text() == "1"


def test_a_range_goes_on_from_what_is_chosen_when_tokens_become_words(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, small())
    opened.token("input", 3).click()
    opened.page.get_by_label("Show").select_option("word")
    opened.token("input", 1).focus()
    opened.page.keyboard.press("Shift+ArrowLeft")
    assert "“unhappy catfish” influenced: a 0.9" in opened.told()
    assert not opened.problems


def test_escape_frees_wherever_the_focus_is(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, small())
    for place in ("select", "summary", ".box canvas", "[data-line=input] .tok"):
        opened.token("output", 0).click()
        opened.page.mouse.move(0, 0)
        opened.page.locator(place).first.focus()
        opened.page.keyboard.press("Escape")
        assert opened.token("output", 0).get_attribute("aria-selected") == "false", place


def test_escape_closes_a_menu_first_and_keeps_the_focus(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, small())
    opened.token("output", 0).click()
    opened.page.get_by_text("View", exact=True).click()
    opened.page.get_by_label("Several tokens").focus()
    opened.page.keyboard.press("Escape")
    assert not opened.page.get_by_label("Several tokens").is_visible()
    assert opened.page.evaluate("document.activeElement.textContent") == "View"
    assert opened.token("output", 0).get_attribute("aria-selected") == "true"


def test_a_pointer_that_is_taken_away_ends_a_drag(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, small())
    opened.token("output", 0).dispatch_event("pointerdown", {"button": 0, "pointerType": "touch"})
    opened.token("output", 0).dispatch_event("pointercancel")
    opened.token("output", 2).hover()
    assert "“c” came from" in opened.told()
    assert opened.page.locator("[data-line=output] [aria-selected=true]").count() == 1


# ----------------------------------------------------------------------------- nothing jumps, and focus is seen


def test_nothing_moves_when_tokens_are_pointed_at(browser: Any, tmp_path: Path) -> None:
    output = small(step_scores={"probability": torch.tensor([0.1, 0.2, 0.3]), "a score of a long name": torch.ones(3)})
    opened = show(browser, tmp_path, output, viewport={"width": 700, "height": 800})
    opened.token("output", 0).hover()
    opened.page.mouse.move(0, 0)
    end = "document.querySelector('.legend').getBoundingClientRect().bottom"
    before = opened.page.evaluate(end)
    for line, i in (("output", 1), ("input", 0), ("output", 2)):
        opened.token(line, i).hover()
        assert opened.page.evaluate(end) == before


def test_the_focus_on_the_matrix_is_seen(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, small())
    opened.token("output", 0).focus()
    before = opened.pixels(".box")
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.localName") == "canvas"
    edges = (opened.pixels(".box") != before).any(-1)
    assert edges[:3].any(0).mean() > 0.9
    assert edges[:, :3].any(1).mean() > 0.9


def test_menus_fit_a_narrow_window(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, small(), viewport={"width": 380, "height": 700})
    opened.page.get_by_text("View", exact=True).click()
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 380


def test_each_line_has_one_stop_for_the_tab_key(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, small())
    stops = "lines => lines.map(line => line.querySelectorAll('[tabindex=\"0\"]').length)"
    for level in ("word", "token"):
        opened.page.get_by_label("Show").select_option(level)
        opened.token("input", 1).click()
        opened.page.keyboard.press("End")
        opened.page.keyboard.press("ArrowDown")
        assert opened.page.eval_on_selector_all("[role=listbox]", stops) == [1, 1]


# ----------------------------------------------------------------------------- hosts


def test_a_cell_that_is_run_again_starts_a_page_again(browser: Any, tmp_path: Path) -> None:
    opened = open_page(browser, "<!doctype html><body data-jp-theme-light='true'>", tmp_path)
    fragment = html.fragment([table(small())])
    for n in (1, 2):
        opened.page.evaluate(NOTEBOOK, fragment)
        assert opened.page.locator(".inseq[data-live]").count() == n
        assert opened.page.locator(".panel").count() == n
    assert not opened.problems


def test_an_output_that_is_gone_does_not_complain_of_a_new_theme(browser: Any, tmp_path: Path) -> None:
    opened = open_page(browser, f"<!doctype html><meta charset=utf-8><body>{html.fragment([table(small())])}", tmp_path)
    opened.page.evaluate("document.createElement('div').append(document.querySelector('.inseq'))")
    opened.page.evaluate("document.body.className = 'other'")
    opened.page.emulate_media(color_scheme="dark")
    opened.page.evaluate("new Promise(requestAnimationFrame)")
    assert not opened.problems


def test_a_frame_without_rights_still_copies_and_keeps_the_focus(browser: Any, tmp_path: Path) -> None:
    inner = escape(f"<!doctype html><meta charset=utf-8><body>{html.fragment([table(small())])}", quote=True)
    opened = open_page(
        browser, f'<!doctype html><iframe sandbox="allow-scripts" width=900 height=700 srcdoc="{inner}">', tmp_path
    )
    frame = opened.page.frames[1]
    frame.get_by_text("Copy and save").click()
    frame.get_by_text("Copy TSV").click()
    frame.locator(".told", has_text="Copied.").or_(frame.locator(".told", has_text="does not let")).wait_for()
    assert frame.evaluate("document.activeElement.textContent") == "Copy TSV"
    frame.locator("[data-line=output] .tok").first.click()
    assert "“a” came from" in frame.locator(".told").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_printed_page_keeps_its_colours_and_leaves_its_controls(scheme: Any, browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, small(), color_scheme=scheme)
    opened.page.emulate_media(media="print")
    assert not opened.page.locator(".panel").first.is_visible()
    assert opened.page.locator(".inseq").evaluate("e => getComputedStyle(e).printColorAdjust") == "exact"


def test_colours_are_kept_where_the_system_forces_its_own(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, small(), forced_colors="active")
    opened.token("output", 0).click()
    fills = "tokens => new Set(tokens.map(t => getComputedStyle(t).backgroundColor)).size"
    assert opened.page.eval_on_selector_all("[data-line=input] .tok", fills) == 3
