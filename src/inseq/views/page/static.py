"""The heat map as a table of elements, for readers without scripts."""

from __future__ import annotations

from html import escape

from inseq.views.colours import LEVELS
from inseq.views.table import Cells, Label, Scale, Table
from inseq.views.words import exact, exponent, number, power_sign

MAX_CELLS = 600
"""Small enough to be read as a table; a larger heat map is drawn by the script alone."""


def heat_map(table: Table) -> str:
    """The place of the heat map, with the table that the script replaces, or a sentence in place of a large one."""
    if not table.columns or not table.rows:
        return ""
    if table.values.size > MAX_CELLS:
        said = f"The heat map of {len(table.rows)} by {len(table.columns)} scores needs scripts; the text above does not."
        return f'<div class="map"><p class="remark fallback">{said}</p></div>'
    power = exponent(max(abs(table.scale.minimum), abs(table.scale.maximum)))
    head = "".join(f'<th scope="col">{_isolated(column)}</th>' for column in table.columns)
    rows = "".join(_row(row, table.row(i), table.scale, power) for i, row in enumerate(table.rows))
    under = [*table.step_scores.items(), *table.diagnostics.items()]
    foot = "".join(_under(name, cells, first=i == 0) for i, (name, cells) in enumerate(under))
    return (
        '<div class="map"><div class="scroll fallback"><table class="heat">'
        f'<thead><tr><th class="row corner" scope="col">input ↓ output →</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody><tfoot>{foot}</tfoot></table></div></div>"
    )


def level(value: float, scale: Scale) -> str:
    """The class of a score's colour."""
    return f"{'d' if scale.kind == 'diverging' else 's'}{scale.level(value, LEVELS)}"


def legend(table: Table) -> str:
    """What the colours mean, in numbers."""
    if not table.rows or not table.columns:
        return ""
    scale, letter = table.scale, "d" if table.scale.kind == "diverging" else "s"
    power = exponent(max(abs(scale.minimum), abs(scale.maximum)))
    bar = "".join(f'<i class="{letter}{i}"></i>' for i in range(0, LEVELS, 2))
    low, high = number(scale.minimum, power), number(scale.maximum, power)
    unit = f"<span>cells{power_sign(power)}</span>" if power else ""
    return (
        f'<div class="legend"><span>{low}</span><span class="bar" role="img" '
        f'aria-label="colours from {low} to {high}">{bar}</span><span>{high}</span>{unit}'
        "<span>· input text: mean over the output tokens, on a scale of its own</span></div>"
    )


def _row(label: Label, cells: Cells, scale: Scale, power: int) -> str:
    filled = "".join(_cell(value, scale, power) for value in cells)
    return f'<tr><th class="row" scope="row">{_isolated(label)}</th>{filled}</tr>'


def _cell(value: float | None, scale: Scale, power: int) -> str:
    if value is None:
        return '<td class="none"></td>'
    return f'<td class="{level(value, scale)}" title="{exact(value)}">{number(value, power)}</td>'


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
