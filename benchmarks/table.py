"""Write the tables of `docs/performance.md`, between its marks, from the files in `benchmarks/results/`."""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
NONE = "–"

Found = dict[str, Any]
Column = tuple[str, Callable[[Found], str]]


def wanted(found: Found, which: int, value: str) -> str:
    """A number, and in brackets what the project asks for."""
    asked = found["wanted"][which]
    return value if asked is None else f"{value} ({asked:g})"


def mark(found: Found) -> str:
    """A sign before what was extrapolated."""
    return "~" if found.get("sampled") is not None else ""


def both(kind: str) -> Callable[[Found], str]:
    """A count or a size, theirs / ours."""

    def write(found: Found) -> str:
        theirs = f"{mark(found)}{found['theirs'][kind]:.0f} / " if "theirs" in found else ""
        return f"{theirs}{found['ours'][kind]:.0f}"

    return write


def differ(kind: str) -> Callable[[Found], str]:
    """The largest relative difference of numbers."""
    return lambda found: f"{found['difference'][kind]:.0e}"


CASE: Column = ("case", lambda found: found["name"].split("/", 1)[1].replace("/", ", ").replace("_", " "))
RATIO: Column = ("ratio, CPU (wanted)", lambda found: wanted(found, 0, f"**{mark(found)}{found['ratio']['cpu']:.3g}**"))
WALL: Column = ("ratio, wall", lambda found: f"{mark(found)}{found['ratio']['wall']:.3g}")
FRACTION: Column = ("of the limit (wanted)", lambda found: wanted(found, 1, f"**{found['fraction']:.2f}**"))
THEIRS: Column = ("theirs, s", lambda found: f"{mark(found)}{found['theirs']['cpu']:.3g}")
OURS: Column = ("ours, s", lambda found: f"{found['ours']['cpu']:.3g}")
SCORES: Column = ("scores differ", differ("scores"))
PROBABILITIES: Column = ("probabilities differ", differ("probabilities"))
ABOVE: Column = ("peak above idle, MiB", both("above_idle"))
COUNTS: tuple[Column, ...] = (("forwards", both("forwards")), ("tokens", both("tokens")), ("products", both("vjps")), ABOVE)
PER_TOKEN: Column = (
    "ours per generated token, ms",
    lambda found: f"{1000 * found['ours']['cpu'] / sum(t for _, t in found['lengths']):.3g}",
)


def share(side: str) -> Column:
    """How far one side's scores are from complete: the largest and the middle share of the target's change."""

    def write(found: Found) -> str:
        shares = found[side]["shortfall"]
        return f"{statistics.median(shares):.1e}, {max(shares):.1e}"

    return f"delta {side}: median, largest", write


TABLES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "reach": ("reach", (CASE, RATIO, WALL, FRACTION, THEIRS, OURS, SCORES, PROBABILITIES)),
    "counts": ("reach", (CASE, *COUNTS)),
    "sdpa": ("sdpa", (CASE, RATIO, WALL, FRACTION, THEIRS, OURS)),
    "captum": ("captum", (CASE, RATIO, WALL, THEIRS, OURS, SCORES, *COUNTS)),
    "body": ("body", (CASE, RATIO, WALL, THEIRS, OURS, ABOVE)),
    "refined": (
        "refined",
        (
            CASE,
            RATIO,
            WALL,
            ("nodes of a step, mean", lambda found: f"{statistics.mean(found['ours']['nodes']):.1f}"),
            share("ours"),
            share("theirs"),
        ),
    ),
    "growth": (
        "growth",
        (CASE, OURS, PER_TOKEN, ("of the limit", lambda found: f"{found['fraction']:.2f}"), RATIO, THEIRS, ABOVE),
    ),
    "memory": ("memory", (CASE, OURS, THEIRS, ABOVE)),
    "call": (
        "call",
        (
            CASE,
            ("ours, ms", lambda found: f"{1000 * found['ours']['cpu']:.1f}"),
            ("theirs, ms", lambda found: f"{1000 * found['theirs']['cpu']:.1f}"),
            RATIO,
        ),
    ),
}
"""For each table the group of cases in it, and its columns."""

PRINTED = (("case", lambda found: found["name"]), RATIO, WALL, FRACTION, THEIRS, OURS, SCORES, PROBABILITIES, *COUNTS)


def header(columns: Sequence[Column]) -> str:
    """A table's first two lines."""
    return "| " + " | ".join(name for name, _ in columns) + " |\n|" + "---|" * len(columns)


def line(found: Found, columns: Sequence[Column]) -> str:
    """A case as a line of a table."""
    if "failed" in found:
        return f"| {found['name']} | failed: {found['failed'].splitlines()[0][:160]} |" + " |" * (len(columns) - 2)
    return "| " + " | ".join(_cell(found, write) for _, write in columns) + " |"


def _cell(found: Found, write: Callable[[Found], str]) -> str:
    try:
        return write(found)
    except (KeyError, TypeError):
        return NONE


def results(machine: str = "") -> list[Found]:
    """What was found, in the order of the cases; on a further machine, in the folder of its name."""
    from cases import every

    names = {case.name: i for i, case in enumerate(every())}
    read = [json.loads(path.read_text()) for path in (HERE / "results" / machine).glob("*.json")]
    kept = [found for found in read if isinstance(found, dict) and found.get("name") in names]
    return sorted(kept, key=lambda found: names[found["name"]])


def table(name: str, found: Sequence[Found]) -> str:
    """One of the tables."""
    group, columns = TABLES[name]
    rows = [line(each, columns) for each in found if each["name"].startswith(group + "/")]
    return "\n".join([header(columns), *rows])


def conditions(found: Sequence[Found]) -> str:
    """When and where the cases were measured."""
    machines = [each["machine"] for each in found if "machine" in each]
    if not machines:
        return "Nothing has been measured."
    loads = [each["load"] for each in machines]
    dates = sorted({each["date"] for each in machines})
    known = machines[-1]["versions"][0]
    return (
        f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))} on {machines[-1]['processor']}, one thread, PyTorch "
        f"{known['torch']}, transformers {known['transformers']}. The load of the two-core machine was {min(loads):.1f} to "
        f"{max(loads):.1f}: where it is above 1, other work ran at the same time, and seconds are longer than they need be."
    )


def page(text: str) -> str:
    """The page with its tables written anew; those ``on`` a further machine from what was found there."""

    def replaced(match: re.Match[str]) -> str:
        name, found = match["name"], results(match["machine"] or "")
        return f"<!-- {match['mark']} -->\n{conditions(found) if name == 'conditions' else table(name, found)}\n<!-- end -->"

    mark = r"(?P<mark>(?P<name>\w+)(?: on (?P<machine>\w+))?)"
    return re.sub(rf"<!-- {mark} -->\n.*?<!-- end -->", replaced, text, flags=re.DOTALL)


def main() -> None:
    """Rewrite the page."""
    text = PAGE.read_text()
    PAGE.write_text(page(text))
    print(f"{PAGE.name}: {len(results())} cases", file=sys.stderr)


if __name__ == "__main__":
    main()
