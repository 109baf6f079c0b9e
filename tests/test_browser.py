"""Pages in a real browser: colours are really there, and hostile text really does nothing.

``sh tests/browser.sh`` installs what is needed.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from results import HOSTILE, everywhere, translation

from inseq.result.output import FeatureAttributionSequenceOutput
from inseq.views import html
from inseq.views.colours import PAPER, RGB, palette
from inseq.views.tabulate import table

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)
SIZE = (900, 700)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; run `sh tests/browser.sh` as root")


def browse(page: str, folder: Path, *flags: str) -> str:
    """Open a page and return what the browser writes to its standard output."""
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, path.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def screenshot(page: str, folder: Path, *flags: str) -> list[list[RGB]]:
    """Return the rows of pixels of a page."""
    image = folder / "page.png"
    browse(page, folder, f"--screenshot={image}", f"--window-size={SIZE[0]},{SIZE[1]}", *flags)
    return pixels(image.read_bytes())


def pixels(png: bytes) -> list[list[RGB]]:
    """Decode a PNG of 8 bits a channel without interlacing, which is what Chromium writes."""
    chunks, at = [], 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        chunks.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += length + 12
    width, height, depth, kind = struct.unpack(">IIBB", chunks[0][1][:10])
    assert depth == 8
    size = {2: 3, 6: 4}[kind]
    raw = zlib.decompress(b"".join(data for name, data in chunks if name == b"IDAT"))
    previous, rows = bytearray(width * size), []
    for y in range(height):
        start = y * (width * size + 1)
        previous = unfiltered(raw[start], bytearray(raw[start + 1 : start + 1 + width * size]), previous, size)
        rows.append([(previous[x], previous[x + 1], previous[x + 2]) for x in range(0, width * size, size)])
    return rows


def unfiltered(kind: int, line: bytearray, above: bytearray, size: int) -> bytearray:
    for i in range(len(line)):
        left = line[i - size] if i >= size else 0
        corner = above[i - size] if i >= size else 0
        line[i] = (line[i] + (0, left, above[i], (left + above[i]) // 2, paeth(left, above[i], corner))[kind]) % 256
    return line


def paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda value: abs(guess - value))


def shares(image: list[list[RGB]], colour: RGB) -> float:
    """How many pixels have a colour, of all of them, to two units a channel."""
    near = sum(all(abs(a - b) <= 2 for a, b in zip(pixel, colour, strict=True)) for row in image for pixel in row)
    return near / (len(image) * len(image[0]))


def one_cell(score: float, signed: bool = False) -> FeatureAttributionSequenceOutput:
    """Wide cells: one has the score, the other one sets the scale."""
    return translation([[score], [1.0]], ["我", "</s>"], [" a-rather-wide-token"], signed=signed)


@pytest.mark.parametrize(("score", "signed"), [(1.0, False), (1.0, True), (-1.0, True)])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_strong_cell_has_its_colour(score: float, signed: bool, theme: str, tmp_path: Path) -> None:
    flags = ("--blink-settings=preferredColorScheme=0",) if theme == "dark" else ()
    image = screenshot(html.page([table(one_cell(score, signed))]), tmp_path, *flags)
    fills = palette("diverging" if signed else "sequential", theme)  # type: ignore[arg-type]
    strong = fills[0] if score < 0 else fills[-1]
    assert shares(image, strong) > 0.004
    assert shares(image, PAPER[theme]) > 0.5  # type: ignore[index]


def test_a_zero_cell_looks_like_the_paper(tmp_path: Path) -> None:
    output = translation([[0.0]], ["我"], [" a-rather-wide-token"])
    image = screenshot(html.page([table(output)], "zero"), tmp_path)
    assert shares(image, palette("sequential", "light")[-1]) < 0.002
    assert shares(image, PAPER["light"]) > 0.9


def test_a_forced_theme_wins(tmp_path: Path) -> None:
    page = html.page([table(one_cell(1.0))]).replace('<html lang="en">', '<html lang="en" data-theme="dark">')
    assert shares(screenshot(page, tmp_path), palette("sequential", "dark")[-1]) > 0.004


def test_hostile_text_runs_no_script(tmp_path: Path) -> None:
    for as_fragment in (False, True):
        parts = []
        for text in HOSTILE:
            output = everywhere(text)
            tables = [table(sequence, info=output.info) for sequence in output]
            parts.append(html.fragment(tables, text) if as_fragment else html.page(tables, text))
        page = "".join(parts) if as_fragment else parts[0]
        name = "fragments" if as_fragment else "page"
        folder = tmp_path / name
        folder.mkdir()
        document = f"<!doctype html><meta charset=utf-8><title>calm</title>{page}" if as_fragment else page
        dom = browse(document, folder, "--dump-dom", "--virtual-time-budget=1000")
        assert "<title>PWNED" not in dom
        assert "<svg" not in dom
        assert "<img" not in dom
        assert "<script" not in dom


def test_the_policy_stops_script_that_got_in(tmp_path: Path) -> None:
    page = html.page([table(translation())])
    injected = "<script>document.title='PWNED'</script><img src=x onerror=\"document.title='PWNED'\">"
    dom = browse(page.replace("<section>", f"<section>{injected}", 1), tmp_path, "--dump-dom")
    assert "<img" in dom
    assert "<title>PWNED" not in dom
    unguarded = f"<!doctype html><title>calm</title>{injected}"
    assert "<title>PWNED" in browse(unguarded, tmp_path, "--dump-dom")
