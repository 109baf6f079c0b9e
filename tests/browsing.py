"""A headless Chromium that may ask nobody for anything, and what tests want to know of a page."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from results import translation

from inseq.outputs.output import FeatureAttributionOutput
from inseq.outputs.sequence import FeatureAttributionSequenceOutput
from inseq.views.colours import RGB

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--force-color-profile=srgb", "--disable-background-networking"]


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the system's Chromium under Playwright. Fail if there is none: a skipped test shows nothing."""
    if CHROMIUM is None:
        pytest.fail("There is no chromium on PATH, which this test needs; run `sh tests/browser.sh` as root.", pytrace=False)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page in the browser, with what went wrong in it and what it asked for."""

    page: Any
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def token(self, line: str, i: int) -> Any:
        return self.page.locator(f"section:not([hidden]) [data-line={line}] .tok").nth(i)

    def told(self) -> str:
        return str(self.page.locator("section:not([hidden]) .told").first.inner_text())

    def legend(self) -> str:
        return str(self.page.locator("section:not([hidden]) .legend").first.inner_text())

    def classes(self, line: str) -> list[str]:
        """The colour class of each token of a line, or nothing."""
        tokens = f"section:not([hidden]) [data-line={line}] .tok"
        found = self.page.eval_on_selector_all(
            tokens, "all => all.map(t => [...t.classList].find(c => /^[sd][0-9]/.test(c)) || '')"
        )
        return list(found)

    def pixels(self, selector: str | None = None) -> Any:
        """Red, green and blue of each pixel, of an element or of all that is seen."""
        from matplotlib.image import imread

        png = (self.page.locator(selector).first if selector else self.page).screenshot()
        return (imread(io.BytesIO(png))[..., :3] * 255).round().astype(int)


def open_page(browser: Any, html: str, folder: Path, **options: Any) -> Opened:
    """Open a page from a file, without a network."""
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    options = {"viewport": {"width": 1100, "height": 800}, "offline": True, "accept_downloads": True, **options}
    opened = Opened(browser.new_context(**options).new_page())
    opened.page.set_default_timeout(20_000)
    opened.page.on("pageerror", lambda error: opened.problems.append(str(error)))
    opened.page.on("console", lambda said: opened.problems.append(said.text) if said.type == "error" else None)
    opened.page.on("request", lambda request: opened.requests.append(request.url))
    opened.page.goto(path.as_uri())
    return opened


def shares(image: Any, colour: RGB) -> float:
    """How many pixels have a colour, of all of them, to two units a channel."""
    return float((np.abs(image - np.array(colour)) <= 2).all(-1).mean())


def show(browser: Any, folder: Path, *outputs: FeatureAttributionSequenceOutput, **options: Any) -> Opened:
    """The page of outputs as they are shown to users."""
    found = FeatureAttributionOutput(list(outputs)).show(display=False, return_html=True)
    opened = open_page(browser, found, folder, **options)
    assert not opened.problems
    return opened


def sentence() -> FeatureAttributionSequenceOutput:
    """Two words of two pieces each, and a full stop; two output tokens."""
    return translation(
        [[0.1, 0.0], [0.2, 0.1], [0.3, 0.0], [0.0, 0.4], [0.1, 0.1], [0.9, 0.9]],
        ["un", "happy", " cat", "fish", ".", "</s>"],
        [" Une", " chose"],
        step_scores={"probability": torch.tensor([0.9, 0.25]), "rank": torch.tensor([1.0, 3.0])},
    )


def long(rows: int, columns: int, generator: int = 0) -> FeatureAttributionSequenceOutput:
    scores = torch.rand(rows, columns, generator=torch.Generator().manual_seed(generator)) ** 8
    return translation(scores, [f" word{i}" for i in range(rows)], [f" out{i}" for i in range(columns)])


def saved(opened: Opened, name: str) -> bytes:
    if not opened.page.get_by_text(name).first.is_visible():
        opened.page.get_by_text("Copy and save").first.click()
    with opened.page.expect_download() as download:
        opened.page.get_by_text(name).first.click()
    return Path(download.value.path()).read_bytes()
