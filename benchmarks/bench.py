"""Time this package against its peers: same weights, same texts, one thread each, runs in turn.

Prints a row for each case as it is found and writes it to `benchmarks/results/`, a file for each. Seconds are CPU seconds of
the process; trust the ratios.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cases import Case, every, switched_off
from sides import COSTS, Failed, Run, Side, Sides, alternating, difference
from table import PRINTED, header, line

RESULTS = Path(__file__).parent / "results"
SLOW = 20.0
"""CPU seconds beyond which a side runs once."""

PEERS = {
    "inseq": "Inseq 0.7.1",
    "captum": "captum 0.9",
    "ours": "with a fixed number of nodes",
    "plain": "one forward and backward",
    "body": "one forward without the vocabulary matrix",
}


def measured(case: Case, sides: Sides, arguments: argparse.Namespace) -> dict[str, Any]:
    """See that both sides hold the same model, and run the case on both."""
    ours = sides.ours()
    theirs = None
    if case.peer is not None and (case.peer["tool"] == "ours" or not arguments.alone):
        theirs = sides.peers() if case.peer["tool"] in ("inseq", "captum") else ours
    known = built(case, {ours: "ours"} if theirs in (None, ours) else {ours: "ours", theirs: (case.peer or {})["tool"]})
    runs = alternating(case, ours, theirs, arguments.repeats, SLOW, lambda text: print(text, file=sys.stderr, flush=True))
    operations = ours.ask("needed", work=case.work, count=case.count)["operations"] if case.work else None
    return compared(case, *runs, operations) | {"machine": machine(known)}


def built(case: Case, sides: Mapping[Side, str]) -> list[dict[str, str]]:
    """Build the model on each side, for its tool; their versions. Texts of bundled models are ours.

    Raises:
        Failed: where weights differ.
    """
    facts: list[dict[str, Any]] = []
    for side, tool in sides.items():
        texts = facts[0]["texts"] if facts else None
        order = {"shape": case.shape, "attention": case.attends(tool), "lengths": case.lengths, "texts": texts}
        facts.append(side.ask("build", **order))
    if len({round(each["weights"], 3) for each in facts}) > 1:
        raise Failed(f"The environments built different weights; compare their versions: {facts}")
    return [each["versions"] for each in facts]


def compared(case: Case, mine: Sequence[Run], other: Sequence[Run], operations: int | None) -> dict[str, Any]:
    """Put what was found side by side."""
    found: dict[str, Any] = {"ours": summary(mine)}
    if other:
        found["theirs"] = summary(other)
        found["peer"] = PEERS[(case.peer or {})["tool"]]
        found["ratio"] = {kind: found["theirs"][kind] / found["ours"][kind] for kind in ("cpu", "wall")}
        found["difference"] = difference(mine[0], other[0], case) if case.exact else None
    if operations:
        found["operations"] = operations
        found["rate"] = statistics.median(run["rate"] for run in mine)
        found["limit"] = operations / found["rate"]
        found["fraction"] = statistics.median(operations / run["rate"] / run["cpu"] for run in mine)
    return found


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """One side's cost over its runs."""
    middle = {kind: statistics.median(run[kind] for run in runs) for kind in ("cpu", "wall")}
    memory = {"peak": max(run["peak"] for run in runs), "above_idle": max(run["peak"] - run["idle"] for run in runs)}
    counts = {kind: round(runs[0][kind]) for kind in COSTS[2:]}
    deltas = {kind: runs[0][kind] for kind in ("shortfall", "nodes") if kind in runs[0]}
    return {**middle, **memory, **counts, **deltas, "runs": [run["cpu"] for run in runs]}


def machine(versions: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Where and when this was measured, and how busy the machine was."""
    return {
        "processor": processor(),
        "threads": 1,
        "load": os.getloadavg()[0],
        "date": datetime.date.today().isoformat(),
        "versions": list(versions),
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def write(case: Case, found: dict[str, Any], folder: Path = RESULTS) -> None:
    """Keep a case in its own file; a failure does not replace what an earlier run found."""
    path = folder / f"{case.name.replace('/', '_')}.json"
    if "failed" in found and path.exists() and "failed" not in json.loads(path.read_text()):
        return
    folder.mkdir(exist_ok=True)
    facts = {name: value for name, value in asdict(case).items() if name not in ("ours", "peer")}
    path.write_text(json.dumps({**facts, "method": case.ours["method"], **found}, indent=1) + "\n")


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", default=".venv/bin/python", help="interpreter with this package")
    parser.add_argument("--theirs", default=".venv-peer/bin/python", help="interpreter with Inseq 0.7.1 and captum")
    parser.add_argument(
        "--cases", nargs="+", default=["*"], help="parts of names, or patterns with * (--list shows all names)"
    )
    parser.add_argument("--repeats", type=int, default=5, help=f"runs a side; one where a run takes over {SLOW:.0f} s")
    parser.add_argument("--alone", action="store_true", help="do not run the peers, but ours with each accelerator off")
    parser.add_argument("--list", action="store_true", help="show the cases' names")
    parser.add_argument("--dry", action="store_true", help="do not write results")
    parser.add_argument("--machine", default="", help="write them to a folder of this name, for tables of a further machine")
    return parser.parse_args(arguments)


def chosen(patterns: Sequence[str]) -> list[Case]:
    """The cases whose name holds or matches one of the patterns."""
    return [case for case in every() if any(fnmatch.fnmatch(case.name, each) or each in case.name for each in patterns)]


def main() -> None:
    """Run the chosen cases, and print each as it is found; one that fails does not end the others."""
    arguments = parsed()
    cases = chosen(arguments.cases)
    if arguments.alone:
        cases = [each for case in cases for each in (case, *switched_off(case))]
    if arguments.list:
        print("\n".join(case.name for case in cases))
        return
    print(f"One thread each on {processor()}; CPU seconds; ratios are theirs / ours.\n\n{header(PRINTED)}", flush=True)
    with Sides(arguments.ours, arguments.theirs) as sides:
        for case in cases:
            try:
                found = measured(case, sides, arguments)
            except Exception as error:
                found = {"failed": str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"}
                sides.end()
            print(line({**asdict(case), **found}, PRINTED), flush=True)
            if not arguments.dry and not arguments.alone:
                write(case, found, RESULTS / arguments.machine)


if __name__ == "__main__":
    main()
