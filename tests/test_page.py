"""The page answers: hover, click, drag, keys, granularity, layers, scales, comparison, export."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from browsing import open_page, sentence, show
from results import NAN, continuation, translation

from inseq.outputs.sequence import FeatureAttributionSequenceOutput

# ----------------------------------------------------------------------------- pointing


def test_hovering_previews_and_leaving_ends_it(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, sentence())
    before = opened.classes("input")
    opened.token("output", 1).hover()
    assert "“chose” came from: </s> 0.9, fish 0.4" in opened.told()
    assert opened.classes("input") != before
    opened.page.locator(".facts, .legend").first.hover()
    assert "Strongest on average" in opened.told()
    assert opened.classes("input") == before


def test_a_click_pins_and_hovering_does_not_override_it(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, sentence())
    opened.token("output", 0).click()
    assert opened.classes("input") == ["s8", "s16", "s24", "s0", "s8", "s32"]
    assert opened.token("output", 0).get_attribute("aria-selected") == "true"
    opened.token("output", 1).hover()
    assert "“Une” came from" in opened.told()
    assert "probability 0.9; rank 1." in opened.told()
    opened.token("output", 0).click()
    assert opened.token("output", 0).get_attribute("aria-selected") == "false"
    opened.page.mouse.move(0, 0)
    opened.page.keyboard.press("Escape")
    assert "Strongest on average" in opened.told()


def test_a_click_on_an_input_token_asks_the_reverse(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, sentence())
    opened.token("input", 3).click()
    assert "“fish” influenced: chose 0.4, Une 0." in opened.told()
    assert opened.classes("output") == ["s0", "s32"]
    assert opened.classes("input") == [""] * 6


def test_with_a_token_pinned_pointing_tells_single_scores(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, sentence())
    opened.token("output", 1).click()
    opened.token("input", 3).hover()
    assert opened.told() == "fish → chose: 0.4"
    opened.page.mouse.move(0, 0)
    assert "“chose” came from" in opened.told()
    opened.token("input", 1).click()
    opened.token("output", 0).hover()
    assert opened.told() == "happy → Une: 0.2"


def test_a_page_that_a_browser_saved_as_it_was_lives_again(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, translation(), translation([[0.1, 0.0], [0.3, 0.2], [0.1, 0.2]]))
    opened.page.get_by_label("Results").select_option("0 1")
    opened.token("output", 0).click()
    again = open_page(browser, opened.page.content(), tmp_path, color_scheme="dark")
    assert all("inline style" in problem for problem in again.problems)
    assert again.page.locator("section:not([hidden])").count() == 2
    assert again.page.locator(".panel").count() == 3
    again.token("output", 0).click()
    assert "“I” came from: 我 0.6" in again.told()
    assert again.page.locator(".inseq").evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(22, 24, 29)"


def test_dragging_sums_a_range_or_takes_its_mean(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, sentence())
    first, last = (opened.token("output", i).bounding_box() for i in (0, 1))
    opened.page.mouse.move(first["x"] + 5, first["y"] + 8)
    opened.page.mouse.down()
    opened.page.mouse.move(last["x"] + 5, last["y"] + 8, steps=4)
    opened.page.mouse.up()
    assert "“Une chose” came from: </s> 1.8, fish 0.4, cat 0.3, happy 0.3, ." in opened.told()
    assert "sum over 2 chosen tokens" in opened.legend()
    opened.page.get_by_text("View", exact=True).click()
    opened.page.get_by_label("Several tokens").select_option("mean")
    assert "</s> 0.9, fish 0.2, cat 0.15, happy 0.15" in opened.told()
    assert "mean over 2 chosen tokens" in opened.legend()


def test_generated_tokens_are_input_too(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, continuation())
    opened.token("output", 1).click()
    assert opened.classes("input") == ["s5", "s9"]
    assert opened.classes("output") == ["s32", ""]
    opened.token("output", 0).click(modifiers=["Alt"])
    assert "“is” influenced: blue 0.7" in opened.told()


def test_the_matrix_answers_to_the_pointer_and_to_keys(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, sentence())
    canvas = opened.page.locator(".box canvas")
    box = canvas.bounding_box()
    canvas.hover(position={"x": box["width"] - 20, "y": 24 + 3.5 * 25})
    assert opened.told() == "fish → chose: 0.4"
    canvas.click(position={"x": box["width"] - 20, "y": 24 + 3.5 * 25})
    assert opened.token("output", 1).get_attribute("aria-selected") == "true"
    canvas.click(position={"x": 10, "y": 24 + 1.5 * 25})
    assert "“happy” influenced" in opened.told()
    canvas.focus()
    opened.page.keyboard.press("ArrowDown")
    opened.page.keyboard.press("ArrowRight")
    assert re.fullmatch(r"\S+ → (Une|chose): [\d.]+", opened.told())
    opened.page.keyboard.press("Escape")
    assert "Strongest on average" in opened.told()


# ----------------------------------------------------------------------------- keyboard and screen readers


def test_the_keyboard_alone_suffices(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, sentence())
    press = opened.page.keyboard.press
    opened.token("output", 0).focus()
    assert "“Une” came from" in opened.told()
    press("ArrowRight")
    assert "“chose” came from" in opened.told()
    press("Enter")
    assert opened.token("output", 1).get_attribute("aria-selected") == "true"
    press("Shift+ArrowLeft")
    assert "“Une chose” came from" in opened.told()
    press("Escape")
    press("ArrowUp")
    assert "“un” influenced" in opened.told()
    press("End")
    assert "“</s>” influenced" in opened.told()
    press("Home")
    press(" ")
    assert opened.token("input", 0).get_attribute("aria-selected") == "true"
    assert opened.page.locator("[data-line=input] .tok[tabindex='0']").count() == 1


def test_what_a_screen_reader_is_told(browser: Any, tmp_path: Path) -> None:
    page = show(browser, tmp_path, sentence()).page
    assert page.locator("[role=listbox]").count() == 2
    assert page.get_by_role("listbox", name="Input").get_by_role("option").count() == 6
    assert page.locator("[aria-live=polite]").count() == 1
    assert "6 input by 2 output tokens" in (page.locator(".box canvas").get_attribute("aria-label") or "")
    assert page.get_by_role("img", name="colours from").count() == 1


TEXTS = ".tok,.told,.top b,.top span,.legend span,dt,dd,summary,select,label"
CONTRAST = """(texts) => {
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[0-9.]+/g).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const fill = (e) => {
    const own = getComputedStyle(e).backgroundColor;
    return own !== "rgba(0, 0, 0, 0)" || !e.parentElement ? own : fill(e.parentElement);
  };
  const ratio = (e) => {
    const [dark, light] = [getComputedStyle(e).color, fill(e)].map(luminance).sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const seen = [...document.querySelectorAll(texts)].filter((e) => e.textContent.trim() && e.offsetParent);
  return [seen.length, seen.filter((e) => ratio(e) < 4.5).map((e) => [ratio(e), e.textContent])];
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("signed", [False, True])
def test_contrast_is_enough_on_every_fill(signed: bool, theme: Any, browser: Any, tmp_path: Path) -> None:
    scores = torch.linspace(-1 if signed else 0, 1, 40).reshape(40, 1)
    output = translation(scores, [f"t{i}" for i in range(39)] + ["</s>"], [" word"], signed=signed)
    opened = show(browser, tmp_path, output, color_scheme=theme)
    opened.token("output", 0).click()
    assert len(set(opened.classes("input"))) > 25
    seen, weak = opened.page.evaluate(CONTRAST, TEXTS)
    assert seen > 50
    assert weak == []


# ----------------------------------------------------------------------------- levels, layers, scales


def test_words_are_the_sums_of_their_tokens(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, sentence())
    opened.token("output", 0).click()
    opened.page.get_by_label("Show").select_option("word")
    assert opened.page.locator("[data-line=input] .tok").all_inner_texts() == ["unhappy", "catfish", ".", "</s>"]
    assert "“Une” came from: </s> 0.9, unhappy 0.3, catfish 0.3" in opened.told()
    opened.page.get_by_label("Show").select_option("sentence")
    assert "“Une chose” came from: </s> 1.8, unhappy catfish. 1.3; mean probability 0.575" in opened.told()
    opened.page.get_by_label("Show").select_option("token")
    assert "cat 0.3" in opened.told()


def test_turns_of_a_chat(browser: Any, tmp_path: Path) -> None:
    output = continuation(info={"turns": [[{"role": "user", "span": [0, 2]}]]})
    opened = show(browser, tmp_path, output)
    opened.page.get_by_label("Show").select_option("turn")
    assert opened.page.locator(".tok").all_inner_texts() == ["The sky", "is", "blue"]


def test_chosen_tokens_can_be_joined(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, sentence())
    assert not opened.page.get_by_text("Join the chosen tokens").is_visible()
    opened.token("input", 1).focus()
    for _ in range(2):
        opened.page.keyboard.press("Shift+ArrowRight")
    opened.page.get_by_text("Join the chosen tokens").click()
    assert opened.page.locator("[data-line=input] .tok").all_inner_texts() == ["un", "happy catfish", ".", "</s>"]
    assert "“happy catfish” influenced: Une 0.5, chose 0.5" in opened.told()


def test_pieces_of_a_character_are_one_in_the_text_and_apart_in_the_matrix(browser: Any, tmp_path: Path) -> None:
    output = translation([[0.1], [0.2], [0.3], [0.4]], ["你", "", "", "好"], [" I"])
    opened = show(browser, tmp_path, output)
    assert opened.page.locator("[data-line=input] .tok").all_inner_texts() == ["你", "好"]
    opened.token("input", 0).click()
    assert "你 1/3 你 2/3 你 3/3" in opened.told()
    assert "I 0.6" in opened.told()


def layered() -> FeatureAttributionSequenceOutput:
    scores = torch.tensor([[[[0.0, 0.2], [0.4, 0.6]]], [[[0.5, 0.5], [0.5, 0.1]]]])
    return translation(scores, ["我", "你"], [" I"], axes=("layer", "head"), reduce_by=("mean", "mean"))


def test_layers_and_heads_have_sliders(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, layered())
    opened.token("output", 0).click()
    assert "你 0.4, 我 0.3" in opened.told()
    opened.page.get_by_label("Layer").fill("2")
    assert "我 0.5, 你 0.3" in opened.told()
    opened.page.get_by_label("Head").fill("2")
    assert "我 0.6, 你 0.1" in opened.told()
    opened.page.get_by_label("Layer").fill("0")
    assert "我 0.4, 你 0.3" in opened.told()


def test_scales_and_clipping_are_said(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, sentence())
    opened.token("output", 0).click()
    assert "special and first tokens do not stretch the scale" in opened.legend()
    assert opened.legend().split()[1] == "0.40"
    opened.page.get_by_text("View", exact=True).click()
    opened.page.get_by_label("Special and first tokens").check()
    assert "scale with special and first tokens" in opened.legend()
    assert opened.legend().split()[1] == "0.90"
    opened.page.get_by_label("Special and first tokens").uncheck()
    opened.page.get_by_label("Colours per").select_option("step")
    assert opened.legend().split()[1] == "0.30"
    opened.page.get_by_label("Strongest colour").fill("50")
    assert "50 % quantile" in opened.legend()


def test_step_scores_underline_the_output(browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, sentence())
    lines = "all => all.map(t => getComputedStyle(t).borderBottomColor)"
    colours = opened.page.eval_on_selector_all("[data-line=output] .tok", lines)
    assert len(set(colours)) == 2
    assert "underlined: probability, 0 to 1" in opened.legend()
    opened.page.get_by_text("View", exact=True).click()
    opened.page.get_by_label("Underline").select_option("rank")
    assert "underlined: rank, 0 to 3" in opened.legend()
    canvas = opened.page.locator(".box canvas")
    canvas.click(position={"x": 10, "y": 24 + 6 * 25 + 16})
    assert "underlined: probability" in opened.legend()


def test_the_source_and_the_prefix_share_a_step(browser: Any, tmp_path: Path) -> None:
    output = translation(target_attributions=torch.tensor([[1.0, 0.2], [NAN, 0.3], [NAN, NAN]]))
    opened = show(browser, tmp_path, output)
    opened.token("output", 2).click()
    assert "source 67 %, prefix 33 %" in opened.told()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_can_be_changed(theme: str, browser: Any, tmp_path: Path) -> None:
    opened = show(browser, tmp_path, sentence(), color_scheme="dark" if theme == "light" else "light")
    opened.page.get_by_text("View", exact=True).click()
    opened.page.get_by_label("Theme").select_option(theme)
    paper = opened.page.locator(".inseq").evaluate("e => getComputedStyle(e).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 29)"}[theme]
