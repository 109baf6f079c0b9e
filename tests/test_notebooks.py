"""The page inside a real JupyterLab and a real Notebook 7: keys pressed in it may not act on the notebook.

JupyterLab listens to keys as they bubble, Notebook 7 before the page sees them.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import pytest
import torch
from nbformat import v4
from nbformat.sign import NotebookNotary
from results import translation

pytestmark = pytest.mark.slow

KINDS = ("jp-CodeCell", "jp-MarkdownCell", "jp-RawCell")
CELLS = f"cells => cells.map(cell => {list(KINDS)}.find(kind => cell.classList.contains(kind)))"
ACTIVE = "cells => cells.findIndex(cell => cell.classList.contains('jp-mod-active'))"
PLACES = ("[data-line=output] .tok", ".inseq select", ".inseq input[type=range]", ".inseq summary", ".box canvas")
KEYS = ([], ["r"], ["x"], ["d", "d"], ["b"], ["m"], ["ArrowDown"], ["ArrowRight"], ["Shift+Enter"])
"""No key, and those that make a cell raw, cut, delete, insert, make Markdown, go down and right, and run."""
ADDRESSES = {"jupyterlab": "lab/tree/{}?reset", "notebook": "notebooks/{}"}
OPTIONS = (
    "--no-browser",
    "--allow-root",
    "--ServerApp.ip=127.0.0.1",
    "--IdentityProvider.token=",
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.extension_manager=readonly",
)
"""A server for this machine alone that looks up neither news nor updates."""


@dataclass(frozen=True)
class Host:
    """A running server, the folder it serves, and the folder of the signatures it trusts."""

    name: str
    address: str
    folder: Path
    data: Path

    def write(self, name: str) -> str:
        """Write a trusted notebook whose first cell shows a page, and return its address."""
        output = v4.new_output("execute_result", {"text/html": layered()._repr_html_()}, execution_count=1)
        cells = [v4.new_code_cell("out.show()", outputs=[output], execution_count=1), v4.new_code_cell("1 + 1")]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        NotebookNotary(data_dir=str(self.data)).sign(notebook)
        nbformat.write(notebook, self.folder / name)
        return f"{self.address}/{ADDRESSES[self.name].format(name)}"


def layered() -> Any:
    """Four input tokens of two words, three output tokens and three layers, which have a slider."""
    scores = torch.rand(4, 3, 3, generator=torch.Generator().manual_seed(0))
    return translation(scores, ["un", "happy", " cat", "fish"], [" a", " b", " c"], axes=("layer",), reduce_by=("mean",))


@pytest.fixture(scope="module", params=ADDRESSES)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A server with settings of its own on a free port, ended with its kernels after the last test."""
    home = tmp_path_factory.mktemp(request.param)
    folder, data, log = home / "notebooks", home / "data", home / "log"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {f"JUPYTERLAB_{name}_DIR": str(home / name.lower()) for name in ("SETTINGS", "WORKSPACES")}
    command = [sys.executable, "-m", request.param, *OPTIONS, f"--ServerApp.port={port}", f"--ServerApp.root_dir={folder}"]
    with log.open("wb") as file:
        server = subprocess.Popen(command, env={**os.environ, **own}, stdout=file, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(server, f"{address}/api/status", log)
        yield Host(request.param, address, folder, data)
    finally:
        server.terminate()
        server.wait(30)


def wait_for(server: subprocess.Popen[bytes], url: str, log: Path, seconds: int = 60) -> None:
    """Wait until a server answers; fail with its log if it ends before, or is too slow."""
    for _ in range(10 * seconds):
        if server.poll() is not None:
            break
        try:
            urlopen(url).close()
        except URLError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"{server.args} did not start:\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}", pytrace=False)


@dataclass(frozen=True)
class Notebook:
    """A notebook that is open in the browser."""

    page: Any

    def cells(self) -> list[str]:
        """The kind of each cell."""
        return list(self.page.eval_on_selector_all(".jp-Notebook .jp-Cell", CELLS))

    def is_whole(self) -> bool:
        """Whether both cells are code still, the first one active, with its output."""
        active = self.page.eval_on_selector_all(".jp-Notebook .jp-Cell", ACTIVE)
        output = self.page.locator(".jp-OutputArea .inseq[data-live]")
        return self.cells() == ["jp-CodeCell"] * 2 and active == 0 and output.count() == 1 and output.is_visible()

    def press(self, *keys: str) -> None:
        """Press keys, and leave the host the time to run a command."""
        for key in keys:
            self.page.keyboard.press(key)
        self.page.wait_for_timeout(100)

    def token(self, line: str, i: int) -> Any:
        return self.page.locator(f"[data-line={line}] .tok").nth(i)

    def sentence(self) -> str:
        return str(self.page.locator(".told").inner_text())

    def focused(self) -> str:
        return str(self.page.evaluate("document.activeElement.localName"))


@pytest.fixture
def notebook(host: Host, browser: Any, tmp_path: Path) -> Iterator[Notebook]:
    """A notebook of this test alone, since the host saves what happens to it."""
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    context.route(lambda url: not url.startswith(host.address), lambda route: route.abort())
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(host.write(f"{tmp_path.name}.ipynb"))
    page.locator(".jp-OutputArea .inseq[data-live] .tok").first.wait_for()
    yield Notebook(page)
    context.close()


def test_no_key_reaches_the_notebook(notebook: Notebook) -> None:
    for place in PLACES:
        notebook.page.locator(place).first.focus()
        for keys in KEYS:
            notebook.press(*keys)
            assert notebook.is_whole(), (place, keys)


def test_the_notebook_answers_to_its_keys_outside_the_page(notebook: Notebook) -> None:
    """Else the other tests would hold for a host without shortcuts."""
    notebook.page.locator(".jp-Cell .jp-InputPrompt").first.click()
    notebook.press("r")
    notebook.page.locator(".jp-RawCell").wait_for()
    notebook.press("d", "d")
    notebook.page.locator(".jp-RawCell").wait_for(state="detached")
    assert notebook.cells() == ["jp-CodeCell"]


def test_the_page_answers_to_its_keys(notebook: Notebook) -> None:
    notebook.token("output", 1).click()
    assert "“b” came from" in notebook.sentence()
    notebook.press("ArrowRight", "Enter")
    assert "“c” came from" in notebook.sentence()
    notebook.press("ArrowUp", "r")
    assert "“un” influenced" in notebook.sentence()
    notebook.press("Escape")
    assert notebook.page.locator("[data-line] [aria-selected=true]").count() == 0
    notebook.press("Tab")
    assert notebook.token("output", 2).evaluate("token => token === document.activeElement")
    notebook.press("Tab")
    assert notebook.focused() == "canvas"
    assert notebook.is_whole()


def test_sliders_and_lists_move_by_arrows(notebook: Notebook) -> None:
    panel = notebook.page.locator(".inseq .panel")
    slider, levels = panel.get_by_label("Layer"), panel.get_by_label("Show")
    slider.click(position={"x": 2, "y": 8})
    before = slider.input_value()
    notebook.press("ArrowRight")
    assert int(slider.input_value()) == int(before) + 1
    levels.focus()
    notebook.press("ArrowDown")
    assert levels.input_value() == "word"
    assert notebook.page.locator("[data-line=input] .tok").all_inner_texts() == ["unhappy", "catfish"]
    assert notebook.is_whole()
