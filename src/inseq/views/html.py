"""HTML: the running text first, then the heat map. No script, and nothing in it that model text could start."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Literal

from inseq.views.colours import LEVELS
from inseq.views.style import PAGE, sheet
from inseq.views.table import Cells, Label, Scale, Table
from inseq.views.words import exact, exponent, number, power_sign, visible

MAX_CELLS = 40_000
TITLE = "Inseq attribution"


def page(tables: Sequence[Table], title: str | None = None) -> str:
    """Return a whole document that stands alone. Its policy allows its own style sheet and nothing else."""
    style = f"{PAGE.strip()}\n{sheet()}"
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    heading = visible(title or next((t.title for t in tables if t.title), "") or TITLE)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy, quote=True)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(heading)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"{_body(tables, title)}\n</body>\n</html>\n"
    )


def fragment(tables: Sequence[Table], title: str | None = None) -> str:
    """Return the same for a notebook's output cell: one element, its style scoped under its class."""
    return f"<div><style>{sheet()}</style>{_body(tables, title)}</div>"


def _body(tables: Sequence[Table], title: str | None) -> str:
    sections = [_section(t, _heading(t, title, i, len(tables))) for i, t in enumerate(tables)]
    return f'<div class="inseq">{"".join(sections) or _remark("There is no result to show.")}</div>'


def _heading(table: Table, title: str | None, i: int, n: int) -> str:
    own = table.title or (f"Text {i + 1} of {n}" if n > 1 else "")
    parts = [part for part in (title if i == 0 else None, own) if part]
    return f"<h2>{escape(visible(' · '.join(parts)))}</h2>" if parts else ""


def _section(table: Table, heading: str) -> str:
    return (
        f"<section>{heading}{_texts(table)}{_remark(table.remark)}{_heat_map(table)}{_legend(table)}{_facts(table)}</section>"
    )


def _remark(text: str) -> str:
    return f'<p class="remark">{escape(text)}</p>' if text else ""


def _texts(table: Table) -> str:
    given = [(row, total) for row, total in zip(table.rows, table.totals, strict=True) if row.role != "generated"]
    power = exponent(table.scale.maximum)
    parts = []
    if given:
        run = _run([row for row, _ in given], [total for _, total in given], table.total_scale, power)
        parts.append(_line("Input", run))
    if table.columns:
        parts.append(_line("Output", _run(table.columns, [None] * len(table.columns), table.total_scale, power)))
    return "".join(parts)


def _line(name: str, run: str) -> str:
    return f'<div class="text"><span class="name">{name}</span><div class="run" dir="auto">{run}</div></div>'


def _run(labels: Sequence[Label], totals: Sequence[float | None], scale: Scale, power: int) -> str:
    pairs = zip(labels, totals, strict=True)
    groups = [list(members) for _, members in groupby(pairs, key=lambda pair: (pair[0].matrix, pair[0].group))]
    return "".join(
        _word([label for label, _ in group], [t for _, t in group], scale, first=i == 0) for i, group in enumerate(groups)
    )


def _word(labels: list[Label], totals: list[float | None], scale: Scale, *, first: bool) -> str:
    label, readable = labels[0], [total for total in totals if total is not None]
    total = sum(readable) if readable else None
    kinds = ["tok", *["special"] * label.special, *["pieces"] * (len(labels) > 1)]
    note = "" if total is None else f"mean score {exact(total)}"
    if total is not None:
        kinds.append(_level(total, scale))
    if len(labels) > 1:
        note = ", ".join(filter(None, [note, f"{len(labels)} tokens"]))
    blank = " " if label.text.startswith(" ") and label.text.strip() and not first else ""
    title = f' title="{escape(note, quote=True)}"' if note else ""
    return f'{blank}<span dir="auto" class="{" ".join(kinds)}"{title}>{_shown(label)}</span>'


def _shown(label: Label) -> str:
    """A word without its leading blank, or the sign of what has no letters."""
    text = label.text.strip(" ") or label.text
    signs = escape(visible(text), quote=True)
    return f"{signs}\n" if text.endswith("\n") else signs


def _level(value: float, scale: Scale) -> str:
    letter: Literal["d", "s"] = "d" if scale.kind == "diverging" else "s"
    return f"{letter}{scale.level(value, LEVELS)}"


def _heat_map(table: Table) -> str:
    if not table.columns:
        return ""
    power = exponent(max(abs(table.scale.minimum), abs(table.scale.maximum)))
    kept = _kept(table)
    head = "".join(f'<th scope="col">{_isolated(column)}</th>' for column in table.columns)
    rows = "".join(_row(table.rows[i], table.row(i), table.scale, power) for i in kept)
    under = [*table.step_scores.items(), *table.diagnostics.items()]
    foot = "".join(_under(name, cells, first=i == 0) for i, (name, cells) in enumerate(under))
    note = f"The heat map has the {len(kept)} strongest of {len(table.rows)} input tokens."
    return (
        f'{_remark(note) if len(kept) < len(table.rows) else ""}<div class="scroll"><table class="heat">'
        f'<thead><tr><th class="row corner" scope="col">input ↓ output →</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody><tfoot>{foot}</tfoot></table></div>"
    )


def _kept(table: Table) -> list[int]:
    """Indices of the rows to draw: all of them, or as many of the strongest as a browser can bear."""
    limit = max(1, MAX_CELLS // len(table.columns))
    strongest = sorted(range(len(table.rows)), key=lambda i: -abs(table.totals[i] or 0.0))
    return sorted(strongest[:limit])


def _row(label: Label, cells: Cells, scale: Scale, power: int) -> str:
    filled = "".join(_cell(value, scale, power) for value in cells)
    return f'<tr><th class="row" scope="row">{_isolated(label)}</th>{filled}</tr>'


def _cell(value: float | None, scale: Scale, power: int) -> str:
    if value is None:
        return '<td class="none"></td>'
    return f'<td class="{_level(value, scale)}" title="{exact(value)}">{number(value, power)}</td>'


def _under(name: str, cells: Cells, *, first: bool) -> str:
    power = exponent(max((abs(value) for value in cells if value is not None), default=0.0))
    values = "".join(
        "<td></td>" if value is None else f'<td title="{exact(value)}">{number(value, power)}</td>' for value in cells
    )
    kinds = "under first" if first else "under"
    return f'<tr class="{kinds}"><th class="row" scope="row">{escape(name + power_sign(power))}</th>{values}</tr>'


def _isolated(label: Label) -> str:
    special = ' class="special"' if label.special else ""
    return f'<bdi dir="auto"{special}>{escape(label.label, quote=True)}</bdi>'


def _legend(table: Table) -> str:
    if not table.rows or not table.columns:
        return ""
    scale, letter = table.scale, "d" if table.scale.kind == "diverging" else "s"
    power = exponent(max(abs(scale.minimum), abs(scale.maximum)))
    bar = "".join(f'<i class="{letter}{i}"></i>' for i in range(LEVELS))
    low, high = number(scale.minimum, power), number(scale.maximum, power)
    unit = f"<span>cells{power_sign(power)}</span>" if power else ""
    return (
        f'<div class="legend"><span>{low}</span><span class="bar" role="img" '
        f'aria-label="colours from {low} to {high}">{bar}</span><span>{high}</span>{unit}'
        "<span>· input text: mean over the output tokens, on a scale of its own</span></div>"
    )


def _facts(table: Table) -> str:
    pairs = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in table.facts)
    return f'<dl class="facts">{pairs}</dl>' if pairs else ""
