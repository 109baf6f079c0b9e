"""Make the tables of `docs/performance.md` from the files in `benchmarks/results/`."""

from __future__ import annotations

from typing import Any

HEADER = (
    "| case | ratio, CPU (wanted) | ratio, wall | of the limit (wanted) | theirs, s | ours, s | scores differ "
    "| probabilities differ | forwards | products | tokens | above idle, MiB |\n|" + "---|" * 12
)


def line(found: dict[str, Any]) -> str:
    """A case as a line of the table; `~` marks what was extrapolated."""
    if "failed" in found:
        return f"| {found['name']} | failed: {found['failed'][:200]} |" + " |" * 10
    ours, theirs = found["ours"], found.get("theirs")
    mark = "~" if found.get("sampled") is not None else ""
    ratio, fraction = found["wanted"]
    cells = [
        found["name"],
        _cell(found, lambda: f"**{mark}{found['ratio']['cpu']:.1f}**" + (f" ({ratio:g})" if ratio else "")),
        _cell(found, lambda: f"{mark}{found['ratio']['wall']:.1f}"),
        _cell(found, lambda: f"**{found['fraction']:.2f}**" + (f" ({fraction:g})" if fraction else "")),
        _cell(found, lambda: f"{mark}{theirs['cpu']:.3g}"),
        f"{ours['cpu']:.3g}",
        *(_cell(found, lambda kind=kind: f"{found['difference'][kind]:.0e}") for kind in ("scores", "probabilities")),
        *(_both(ours, theirs, kind, mark) for kind in ("forwards", "vjps", "tokens")),
        _both(ours, theirs, "above_idle"),
    ]
    return "| " + " | ".join(cells) + " |"


def _cell(found: dict[str, Any], write: Any) -> str:
    """What can be written of what was found; a dash for what was not."""
    try:
        return write()
    except (KeyError, TypeError):
        return "–"


def _both(ours: dict[str, Any], theirs: dict[str, Any] | None, kind: str, mark: str = "") -> str:
    return (f"{mark}{theirs[kind]:.0f} / " if theirs else "") + f"{ours[kind]:.0f}"
