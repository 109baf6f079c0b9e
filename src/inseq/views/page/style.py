"""The style sheet of the page: scoped under one class, light and dark."""

from __future__ import annotations

from functools import cache
from importlib import resources

from inseq.views.colours import Theme, css, ink, palette

ALWAYS_LIGHT = (
    '[data-theme="light"]',
    'html[theme="light"]',
    'body[data-jp-theme-light="true"]',
    'body[data-vscode-theme-kind="vscode-light"]',
)
ALWAYS_DARK = (
    '[data-theme="dark"]',
    'html[theme="dark"]',
    'body[data-jp-theme-light="false"]',
    'body[data-vscode-theme-kind="vscode-dark"]',
)

UNDERLINES = 8
PAGE = """
html{color-scheme:light dark}
body{margin:0;background:light-dark(#ffffff,#16181d)}
body>.inseq{max-width:1240px;margin:0 auto}
"""


@cache
def sheet() -> str:
    """Return the style of a fragment. Themes only switch ``color-scheme``; every colour knows both sides."""
    switches = [f"{_scoped(ALWAYS_LIGHT)}{{color-scheme:light}}", f"{_scoped(ALWAYS_DARK)}{{color-scheme:dark}}"]
    rules = [_rule(f"s{i}", *both) for i, both in enumerate(_pairs("sequential"))]
    rules += [_rule(f"d{i}", *both) for i, both in enumerate(_pairs("diverging"))]
    marks = [
        f".inseq .u{i}{{border-bottom:3px solid color-mix(in srgb,var(--mark) {i * 100 // UNDERLINES}%,transparent)}}"
        for i in range(UNDERLINES + 1)
    ]
    return "\n".join([_layout(), *switches, *rules, *marks])


def _layout() -> str:
    return (resources.files("inseq.views.page") / "layout.css").read_text(encoding="utf-8").strip()


def _pairs(kind: str) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    def coloured(theme: Theme) -> list[tuple[str, str]]:
        fills = palette("diverging" if kind == "diverging" else "sequential", theme)
        return [(css(fill), css(ink(fill))) for fill in fills]

    return list(zip(coloured("light"), coloured("dark"), strict=True))


def _rule(name: str, light: tuple[str, str], dark: tuple[str, str]) -> str:
    return (
        f".inseq .{name}{{background:{light[0]}!important;color:{light[1]}!important;"
        f"background:light-dark({light[0]},{dark[0]})!important;color:light-dark({light[1]},{dark[1]})!important}}"
    )


def _scoped(hosts: tuple[str, ...]) -> str:
    return ",".join(f"{host} .inseq" for host in hosts) + "," + f".inseq.inseq{hosts[0]}"
