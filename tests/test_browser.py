"""Pages in a real browser: colours are really there, hostile text really does nothing, and nobody is asked for anything.

``sh tests/browser.sh`` installs what is needed.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import browsing
import pytest
from browsing import chromium, open_page, shares
from results import HOSTILE, continuation, everywhere, translation

from inseq.outputs.output import FeatureAttributionOutput
from inseq.outputs.sequence import FeatureAttributionSequenceOutput
from inseq.views.colours import PAPER, palette
from inseq.views.page import html
from inseq.views.tabulate import table
from inseq.views.words import visible


def one_cell(score: float, signed: bool = False) -> FeatureAttributionSequenceOutput:
    """Wide cells: one has the score, the other one sets the scale."""
    return translation([[score], [1.0]], ["我", "</s>"], [" a-rather-wide-token"], signed=signed)


@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.parametrize(("score", "signed"), [(1.0, False), (1.0, True), (-1.0, True)])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_strong_cell_has_its_colour(
    score: float, signed: bool, theme: Any, scripts: bool, browser: Any, tmp_path: Path
) -> None:
    page = html.page([table(one_cell(score, signed))])
    image = open_page(browser, page, tmp_path, color_scheme=theme, java_script_enabled=scripts).pixels()
    fills = palette("diverging" if signed else "sequential", theme)
    assert shares(image, fills[0] if score < 0 else fills[-1]) > 0.003
    assert shares(image, PAPER[theme]) > 0.5


def test_a_zero_cell_looks_like_the_paper_and_a_missing_one_is_hatched(browser: Any, tmp_path: Path) -> None:
    output = translation([[0.0, 1.0], [0.0, float("nan")]], ["我", "和"], [" wide-token", " another"])
    opened = open_page(browser, html.page([table(output)], "zero"), tmp_path)
    canvas = opened.pixels(".box canvas")
    assert 0.05 < shares(canvas, palette("sequential", "light")[-1]) < 0.3
    assert shares(canvas, PAPER["light"]) > 0.4
    middle = canvas.shape[1] // 2
    assert shares(canvas[-20:-4, 36:60], PAPER["light"]) > 0.95
    assert shares(canvas[-20:-4, middle + 40 : middle + 90], PAPER["light"]) < 0.9


@pytest.mark.parametrize(
    "host",
    [
        "<html data-theme=dark>",
        "<html theme=dark>",
        "<body data-jp-theme-light=false>",
        "<body data-vscode-theme-kind=vscode-dark>",
        "<body style='color:#ddd'>",
    ],
)
def test_the_theme_is_that_of_the_host(host: str, browser: Any, tmp_path: Path) -> None:
    document = f"<!doctype html>{host}<meta charset=utf-8>{html.fragment([table(one_cell(1.0))])}"
    image = open_page(browser, document, tmp_path).pixels(".inseq")
    assert shares(image, PAPER["dark"]) > 0.5
    assert shares(image, palette("sequential", "dark")[-1]) > 0.003


def test_a_light_host_stays_light_on_a_dark_system(browser: Any, tmp_path: Path) -> None:
    document = f"<!doctype html><meta charset=utf-8><body>{html.fragment([table(one_cell(1.0))])}"
    assert shares(open_page(browser, document, tmp_path, color_scheme="dark").pixels(".inseq"), PAPER["light"]) > 0.5


def test_a_theme_that_was_asked_for_wins(browser: Any, tmp_path: Path) -> None:
    page = html.page([table(one_cell(1.0))], theme="dark").replace('<html lang="en">', '<html lang="en" data-theme="light">')
    assert shares(open_page(browser, page, tmp_path).pixels(".inseq"), palette("sequential", "dark")[-1]) > 0.003


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_runs_no_script(text: str, whole: bool, browser: Any, tmp_path: Path) -> None:
    output = everywhere(text)
    tables = [table(sequence, info=output.info, title=text) for sequence in output]
    document = f"<!doctype html><meta charset=utf-8><title>calm</title>{html.fragment(tables, text)}"
    opened = open_page(browser, html.page(tables, text) if whole else document, tmp_path)
    page = opened.page
    opened.token("output", 0).click()
    page.locator(".panel.compare select").select_option(index=2)
    page.get_by_text("Copy and save").last.click()
    page.keyboard.press("Escape")
    assert "PWNED" not in page.title() or page.title() == text
    assert (
        page.evaluate("document.querySelectorAll('svg,img,[onmouseover],[onerror],[onload],[style*=color\\\\:red]').length")
        == 0
    )
    assert page.locator("script").count() == 3
    assert not opened.problems
    assert len(opened.requests) == 1


def test_the_policy_stops_script_that_got_in(browser: Any, tmp_path: Path) -> None:
    page = html.page([table(translation())])
    injected = "<script>document.title='PWNED'</script><img src=x onerror=\"document.title='PWNED'\">"
    opened = open_page(browser, page.replace("<section>", f"<section>{injected}", 1), tmp_path)
    assert opened.page.locator("img").count() == 1
    assert "PWNED" not in opened.page.title()
    assert opened.page.locator("canvas").count() > 0
    unguarded = f"<!doctype html><title>calm</title>{injected}"
    assert open_page(browser, unguarded, tmp_path).page.title() == "PWNED"


def test_a_page_asks_for_nothing_and_complains_of_nothing(browser: Any, tmp_path: Path) -> None:
    opened = open_page(browser, html.page([table(translation())]), tmp_path)
    assert opened.requests == [(tmp_path / "page.html").as_uri()]
    assert opened.problems == []


def test_two_cells_of_a_notebook_do_not_meet(browser: Any, tmp_path: Path) -> None:
    one, other = html.fragment([table(translation())]), html.fragment([table(continuation())])
    opened = open_page(browser, f"<!doctype html><meta charset=utf-8>{one}{other}{one}", tmp_path)
    assert not opened.problems
    assert opened.page.locator(".inseq[data-live]").count() == 3
    assert opened.page.locator(".panel").count() == 3
    opened.page.locator(".inseq").nth(1).locator("[data-line=output] .tok").first.click()
    told = opened.page.locator(".told").all_inner_texts()
    assert ["came from" in text for text in told] == [False, True, False]


HOST = """
.host dl dt {float: left; clear: left; width: 20%; padding: 4px}
.host dl dd {display: table-cell; margin-left: 30%; width: 80%}
.host ol {padding-left: 2em; margin: 1em} .host ol li {list-style: decimal; margin: 1em} .host p {margin: 2em 0}
.host table, .host td {border: 3px solid red} .host h2 {font-size: 40px}
"""


def test_a_host_s_style_does_not_get_in(browser: Any, tmp_path: Path) -> None:
    found = html.fragment([table(translation(info={"attribution_method": "saliency", "model_name": "demo"}))])
    boxes = []
    for style in ("", HOST):
        document = f"<!doctype html><meta charset=utf-8><style>{style}</style><div class=host>{found}</div>"
        page = open_page(browser, document, tmp_path).page
        boxes.append([page.locator(part).first.bounding_box() for part in ("dt", "dd", ".top", ".top li", ".told", ".box")])
    assert boxes[0] == boxes[1]


CANARY = "</script></style>'\"><img src=x onerror=document.title='PWNED'><script>document.title='PWNED'</script>&lt;"


def test_a_canary_in_every_text_stays_inert(browser: Any, tmp_path: Path) -> None:
    """Tokens, names of step scores and diagnostics, titles, facts, turns, contrasts, notes, errors, names of files."""
    output = everywhere(CANARY)
    output.info.update(
        tokenizer_name=CANARY, contrast=[{"text": CANARY}], turns=[[{"role": CANARY, "span": [0, 2]}]], error=CANARY
    )
    output.info["generation_args"] = {CANARY: CANARY}
    path = tmp_path / (CANARY.replace("/", "_")[:80] + ".html")
    output.save_html(path, title=CANARY)
    other = continuation(info={"attribution_method": CANARY + "2"})
    mixed = FeatureAttributionOutput([*output, other]).show(display=False, return_html=True, title=CANARY)
    for document in (path.read_text(encoding="utf-8"), mixed):
        opened = open_page(browser, document, tmp_path)
        for i in range(3):
            opened.token("output", i % 2).click()
        opened.page.get_by_label("Results").select_option(index=1)
        opened.page.get_by_text("Copy and save").first.click()
        with opened.page.expect_download() as download:
            opened.page.get_by_text("Save SVG").first.click()
        drawn = Path(download.value.path()).read_text(encoding="utf-8")
        assert opened.page.locator("img").count() == 0
        assert opened.page.evaluate("document.title") == visible(CANARY)
        assert not opened.problems
        assert len(opened.requests) == 1
        again = open_page(browser, f"<!doctype html><title>calm</title>{drawn}", tmp_path)
        assert again.page.title() == "calm"
        assert again.page.locator("img, script").count() == 0


def test_a_missing_browser_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browsing, "CHROMIUM", None)
    with pytest.raises(pytest.fail.Exception, match=r"no chromium on PATH, .* run `sh tests/browser.sh`"), chromium():
        pass


def test_a_browser_that_cannot_be_installed_fails() -> None:
    script = Path(__file__).with_name("browser.sh")
    ended = subprocess.run(["/bin/sh", script], env={"PATH": ""}, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "need chromium and a Chinese font, which only root with apt-get installs" in ended.stderr


def test_without_scripts_the_text_is_coloured_and_the_table_is_there(browser: Any, tmp_path: Path) -> None:
    opened = open_page(browser, html.page([table(translation())]), tmp_path, java_script_enabled=False)
    assert opened.page.locator("td").count() == 6
    fill = opened.page.locator("[data-line=input] .tok").nth(1).evaluate("t => getComputedStyle(t).backgroundColor")
    assert fill not in ("rgba(0, 0, 0, 0)", "rgb(255, 255, 255)")


def test_colours_of_a_fragment_survive_without_its_style_sheet(browser: Any, tmp_path: Path) -> None:
    found = html.fragment([table(translation())])
    bare = found[: found.index("<style")] + found[found.index("</style>") + 8 :]
    opened = open_page(browser, f"<!doctype html><meta charset=utf-8>{bare}", tmp_path, java_script_enabled=False)
    fill = opened.page.locator("[data-line=input] .tok").nth(1).evaluate("t => getComputedStyle(t).backgroundColor")
    assert fill not in ("rgba(0, 0, 0, 0)", "rgb(255, 255, 255)")
