"""HTML: the running text first, then the heat map. It says what it has to say without its script, which makes it answer."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib import resources
from itertools import groupby
from typing import Literal

from inseq.views.colours import LEVELS, css, ink, palette
from inseq.views.page.payload import payload
from inseq.views.page.static import heat_map, legend, level
from inseq.views.page.style import PAGE, sheet
from inseq.views.table import Place, Table
from inseq.views.words import exact, visible

TITLE = "Inseq attribution"
SCRIPTS = ("data.js", "colour.js", "text.js", "matrix.js", "view.js", "controls.js", "start.js")
"""The modules of the page's script, in the order in which they stand in it."""
Theme = Literal["auto", "light", "dark"] | None


def page(tables: Sequence[Table], title: str | None = None, theme: Theme = None) -> str:
    """Return a whole document that stands alone. Its policy allows its own style sheets and script, and nothing else.

    Args:
        tables: what to show.
        title: a heading.
        theme: light or dark; by default and with ``auto`` as the host or the reader's system has it.
    """
    heading = visible(title or next((t.title for t in tables if t.title), "") or TITLE)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy(), quote=True)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(heading)}</title>\n<style>{PAGE}</style>\n<style class="sheet">{sheet()}</style>\n</head>\n<body>\n'
        f"{_body(tables, title, theme, inline=False)}\n</body>\n</html>\n"
    )


def fragment(tables: Sequence[Table], title: str | None = None, theme: Theme = None) -> str:
    """Return the same for a notebook's output cell: one element, its style scoped under its class.

    The colours of the text stand in its elements too, for readers whose host takes style sheets away.
    """
    return f'<div><style class="sheet">{sheet()}</style>{_body(tables, title, theme, inline=True)}</div>'


@cache
def script() -> str:
    """Return the modules of the page's script, in one scope of their own."""
    folder = resources.files("inseq.views.page")
    modules = "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    # A blank line would end the element where a host reads a notebook's output as Markdown.
    lines = "\n".join(line for line in modules.split("\n") if line)
    return f'(() => {{\n"use strict";\n{lines}\n}})();'


@cache
def policy() -> str:
    """A content security policy under which the page's own script and style run, and nothing that got into it."""
    styles = " ".join(map(_digest, (PAGE, sheet())))
    return (
        f"default-src 'none'; script-src {_digest(script())}; style-src {styles}; img-src blob:; base-uri 'none'; "
        "form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _body(tables: Sequence[Table], title: str | None, theme: Theme, *, inline: bool) -> str:
    sections = [_section(t, _heading(t, title, i, len(tables)), inline) for i, t in enumerate(tables)]
    chosen = f' data-theme="{theme}"' if theme in ("light", "dark") else ""
    inner = "".join(sections) or _remark("There is no result to show.")
    attributes = f'{chosen} data-policy="{escape(policy(), quote=True)}"'
    return f'<div class="inseq"{attributes}>{inner}<script>{script()}</script></div>'


def _heading(table: Table, title: str | None, i: int, n: int) -> str:
    own = table.title or (f"Text {i + 1} of {n}" if n > 1 else "")
    parts = [part for part in (title if i == 0 else None, own) if part]
    return f"<h2>{escape(visible(' · '.join(parts)))}</h2>" if parts else ""


def _section(table: Table, heading: str, inline: bool) -> str:
    data = f'<script type="application/json" class="data">{payload(table)}</script>' if table.columns and table.rows else ""
    return (
        f"<section>{heading}{_texts(table, inline)}{_remark(table.remark)}{heat_map(table)}{legend(table)}{_facts(table)}"
        f"{data}</section>"
    )


def _remark(text: str) -> str:
    return f'<p class="remark">{escape(text)}</p>' if text else ""


def _texts(table: Table, inline: bool) -> str:
    parts = []
    for line in ("input", "output"):
        places = [place for place in table.places if place.line == line]
        if places:
            name, run = line.capitalize(), _run(table, places, inline)
            run = f'<div class="run" dir="auto" lang="" data-line="{line}" aria-label="{name}">{run}</div>'
            parts.append(f'<div class="text"><span class="name">{name}</span>{run}</div>')
    return "".join(parts)


def _run(table: Table, places: Sequence[Place], inline: bool) -> str:
    groups = [list(members) for _, members in groupby(places, key=lambda place: place.label.group)]
    return "".join(_word(table, group, inline, first=i == 0) for i, group in enumerate(groups))


def _word(table: Table, places: list[Place], inline: bool, *, first: bool) -> str:
    label = places[0].label
    numbers = [total for place in places if place.row is not None and (total := table.totals[place.row]) is not None]
    kinds = ["tok", *["special"] * label.special, *["pieces"] * (len(places) > 1)]
    note, style = "", ""
    if numbers:
        total = sum(numbers)
        kinds.append(level(total, table.total_scale))
        note = f"mean score {exact(total)}"
        fill = palette(table.total_scale.kind, "light")[table.total_scale.level(total, LEVELS)]
        style = f' style="background:{css(fill)};color:{css(ink(fill))}"' if inline else ""
    note = ", ".join(filter(None, [note, f"{len(places)} tokens" if len(places) > 1 else ""]))
    blank = " " if label.text.startswith(" ") and label.text.strip() and not first else ""
    title = f' title="{escape(note, quote=True)}"' if note else ""
    return f'{blank}<span dir="auto" class="{" ".join(kinds)}"{title}{style}>{_shown(places)}</span>'


def _shown(places: Sequence[Place]) -> str:
    """A word without its leading blank, or the sign of what has no letters."""
    text = places[0].label.text
    signs = escape(visible(text.strip(" ") or text), quote=True)
    return f"{signs}\n" if places[-1].breaks else signs


def _facts(table: Table) -> str:
    pairs = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in table.facts)
    return f'<dl class="facts">{pairs}</dl>' if pairs else ""
