"""Make the pictures of the README and the documents: ``python docs/images/make.py``. Needs Chromium and a Chinese font."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

import inseq

HERE = Path(__file__).parent
TEXT = "我喜歡機器學習和人工智慧。"


def main() -> None:
    """The tutorial's two results, each light and dark, and a comparison."""
    scores = {"step_scores": ["probability"], "show_progress": False}
    translated = inseq.load_model("demo/zh-en", "saliency").attribute(TEXT, **scores)
    translated.save(HERE / "zh-en-saliency.svg", overwrite=True)
    continued = inseq.load_model("demo/gpt2", "attention").attribute("Hello world", granular=True, **scores)
    other = inseq.load_model("demo/zh-en", "input_x_gradient").attribute(TEXT, **scores)
    pages = {
        "zh-en-saliency": (translated.show(display=False, return_html=True), 4),
        "gpt2-attention": (continued.show(display=False, return_html=True), 1),
        "comparison": (inseq.show_attributions([translated, other], display=False, return_html=True), 1),
    }
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (page, token) in pages.items():
            path = Path(folder) / f"{name}.html"
            path.write_text(page, encoding="utf-8")
            for theme in ("light", "dark"):
                shoot(browser, path, HERE / f"{name}-{theme}.png", theme, token)
        browser.close()


def shoot(browser: Any, page: Path, image: Path, theme: str, token: int) -> None:
    """One picture of a page, with one of its output tokens pinned."""
    tab = browser.new_page(viewport={"width": 1060, "height": 700}, color_scheme=theme, device_scale_factor=1.5)
    tab.goto(page.as_uri())
    if "comparison" in page.name:
        tab.get_by_label("Results").select_option("beside")
    for section in tab.locator("section").all():
        tokens = section.locator("[data-line=output] .tok")
        if tokens.count():
            tokens.nth(token).click()
    tab.mouse.move(0, 0)
    tab.locator(".inseq").screenshot(path=image)
    tab.close()


if __name__ == "__main__":
    main()
