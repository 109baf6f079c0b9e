"""The matrix as tab-separated values, for spreadsheets and other programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inseq.views.table import Cells, Table

FORMULAS = ("=", "+", "-", "@")


def tsv(tables: Sequence[Table]) -> str:
    """Return a line for each input token, step score and diagnostic, a field for each output token; texts have a header each.

    A token that a spreadsheet would take for a formula has an apostrophe before it. A missing number is an empty field.
    """
    return "\n".join("".join(f"{line}\n" for line in _lines(table)) for table in tables)


def _lines(table: Table) -> Iterator[str]:
    yield "\t".join(["kind", "token", *(_inert(column.label) for column in table.columns)])
    for i, row in enumerate(table.rows):
        yield _line(row.role, row.label, table.row(i))
    for kind, named in (("step score", table.step_scores), ("diagnostic", table.diagnostics)):
        for name, values in named.items():
            yield _line(kind, name, values)


def _line(kind: str, name: str, values: Cells) -> str:
    return "\t".join([kind, _inert(name), *("" if value is None else f"{value:.9g}" for value in values)])


def _inert(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULAS) else text
