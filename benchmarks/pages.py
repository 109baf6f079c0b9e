"""How large a page of a long result is, and how soon it answers, beside the page that Inseq 0.7.1 makes of the same scores.

Opens each page in a headless Chromium without a network: bytes, elements, and seconds until the first click on an output token
is answered (ours) or the page is drawn (theirs). Prints a Markdown table and writes `benchmarks/results/pages.json`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SIZES = ((128, 64), (1000, 100), (4000, 400))
THEIRS = ((128, 64), (1000, 100))
"""What the peer's page can be opened with in reasonable time."""


def scores(rows: int, columns: int) -> Any:
    """Few strong scores among many weak ones."""
    import torch

    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(0)) ** 8


def ours(rows: int, columns: int) -> str:
    """Our page, as ``show`` returns it."""
    from inseq import FeatureAttributionOutput, FeatureAttributionSequenceOutput
    from inseq.text.tokens import Token

    sequence = FeatureAttributionSequenceOutput(
        source=[Token(f"▁word{i}", i, "source", f" word{i}") for i in range(rows)],
        target=[Token(f"▁out{i}", i, "generated", f" out{i}") for i in range(columns)],
        source_attributions=scores(rows, columns),
        attr_pos_start=0,
        attr_pos_end=columns,
    )
    return FeatureAttributionOutput([sequence]).show(display=False, return_html=True)


def theirs(rows: int, columns: int) -> str:
    """The peer's page; runs in its environment."""
    from inseq.data.attribution import FeatureAttributionSequenceOutput
    from inseq.utils.typing import TokenWithId

    sequence = FeatureAttributionSequenceOutput(
        source=[TokenWithId(f"▁word{i}", i) for i in range(rows)],
        target=[TokenWithId(f"▁out{i}", i) for i in range(columns)],
        source_attributions=scores(rows, columns),
        attr_pos_start=0,
        attr_pos_end=columns,
    )
    return str(sequence.show(display=False, return_html=True, do_aggregation=False))


def opened(page: str, click: bool) -> dict[str, float]:
    """Open a page and count."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "page.html"
        path.write_text(page, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_context(offline=True, viewport={"width": 1200, "height": 800}).new_page()
        tab.set_default_timeout(120_000)
        start = time.perf_counter()
        tab.goto(path.as_uri())
        if click:
            tab.locator("[data-line=output] .tok").first.click()
            tab.get_by_text("came from").wait_for()
        tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        seconds = time.perf_counter() - start
        elements = tab.locator("*").count()
        browser.close()
    return {"megabytes": len(page.encode()) / 1e6, "elements": elements, "seconds": seconds}


def measured(rows: int, columns: int, peer: str) -> dict[str, Any]:
    """Both pages of one size."""
    found: dict[str, Any] = {"rows": rows, "columns": columns, "ours": opened(ours(rows, columns), click=True)}
    if (rows, columns) in THEIRS:
        command = [peer, __file__, "--theirs", str(rows), str(columns)]
        page = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found["theirs"] = opened(page, click=False)
    return found


def line(result: dict[str, Any]) -> str:
    """A row of the table: ours / theirs."""
    cells = [f"{result['rows']:,} x {result['columns']}"]
    for key, form in (("megabytes", "{:.2f}"), ("elements", "{:,.0f}"), ("seconds", "{:.1f}")):
        both = [form.format(result[side][key]) if side in result else "–" for side in ("ours", "theirs")]
        cells.append(" / ".join(both))
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure every size, or write the peer's page of one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--theirs", nargs=2, type=int)
    parser.add_argument("--peer", default=".venv-peer/bin/python")
    arguments = parser.parse_args()
    if arguments.theirs:
        sys.stdout.write(theirs(*arguments.theirs))
        return
    results = [measured(rows, columns, arguments.peer) for rows, columns in SIZES]
    (HERE / "results" / "pages.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print("| input x output | MB | elements | seconds until it answers |\n|---|---|---|---|")
    print("\n".join(map(line, results)))


if __name__ == "__main__":
    main()
