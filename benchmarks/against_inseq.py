"""Time this package against Inseq 0.7.1: same weights, same text, one thread each, runs in turn.

Prints a Markdown table and writes `benchmarks/results/against_inseq.json`. Seconds are CPU seconds; trust the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SHAPES = {
    "6x384": {"n_layer": 6, "n_embd": 384, "n_head": 6},
    "gpt2-small": {"n_layer": 12, "n_embd": 768, "n_head": 12},
}
METHODS = ("saliency", "integrated_gradients")
SAMPLED = {"integrated_gradients"}
SLOW = 20.0
"""CPU seconds of the slower side beyond which a case runs once."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}

Run = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What one line of the table is about."""

    shape: str
    method: str
    prompt: int
    generated: int
    nodes: int
    peer_batch: int | None

    def options(self, side: Side, nodes: int | None = None) -> dict[str, Any]:
        """What one side's `attribute` gets for the method."""
        if self.method != "integrated_gradients":
            return {}
        batch = {"internal_batch_size": self.peer_batch} if side.peer and self.peer_batch else {}
        return {"n_steps": nodes or self.nodes, **batch}

    def order(self, side: Side, start: int, end: int, nodes: int | None = None) -> dict[str, Any]:
        """An order to explain the generated tokens from `start` to `end`."""
        return {"method": self.method, "options": self.options(side, nodes), "window": [start, end]}


class Side:
    """One environment at work."""

    def __init__(self, python: str, peer: bool) -> None:
        self.peer = peer
        environment = {**os.environ, **ENVIRONMENT}
        command = [python, str(HERE / "worker.py")]
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """Send an order and wait for the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args[0]} ended with {self.process.wait()} during {do!r}; see above.")
        return json.loads(line)


@contextmanager
def started(python: str, peer: bool = False) -> Iterator[Side]:
    """A side that is ended on the way out."""
    side = Side(python, peer)
    try:
        yield side
    finally:
        side.process.stdin.close()
        try:
            side.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            side.process.kill()


def whole(side: Side, case: Case) -> Run:
    """Explain every generated token in one call."""
    return side.ask("attribute", **case.order(side, 0, case.generated))


def sampled(side: Side, case: Case) -> Run:
    """Explain the first, the middle and the last steps, each by itself, and estimate the cost of all."""
    at = sample(case.generated)
    runs = [side.ask("attribute", **case.order(side, step, step + 1)) for step in at]
    costs = {kind: integrate(at, [run[kind] for run in runs], case.generated) for kind in ("cpu", "wall")}
    counts = {kind: round(integrate(at, [run[kind] for run in runs], case.generated)) for kind in ("forwards", "tokens")}
    memory = {"idle": runs[0]["idle"], "peak": max(run["peak"] for run in runs)}
    joined = {kind: [value for run in runs for value in run[kind]] for kind in ("scores", "probabilities")}
    return {**costs, **counts, **memory, **joined, "steps": at}


def sample(generated: int) -> list[int]:
    """Two steps at either end, two in the middle."""
    middle = generated // 2
    return sorted({0, 1, middle - 1, middle, generated - 2, generated - 1} & set(range(generated)))


def integrate(at: Sequence[int], values: Sequence[float], n: int) -> float:
    """Sum over `n` steps what was seen at some of them, straight lines between."""
    total = 0.0
    for step in range(n):
        k = next((k for k in range(1, len(at) - 1) if at[k] >= step), len(at) - 1)
        a, b = (at[k - 1], at[k]) if len(at) > 1 else (at[0], at[0] + 1)
        share = (step - a) / (b - a)
        total += values[max(k - 1, 0)] * (1 - share) + values[k] * share
    return total


def compare(case: Case, ours: Side, theirs: Side, repeats: int, peer: Callable[[Side, Case], Run]) -> dict[str, Any]:
    """Run both sides in turn, and put what was found side by side."""
    for side in (ours, theirs):
        side.ask("attribute", **case.order(side, 0, 1, nodes=2))
    pairs: list[tuple[Run, Run]] = []
    while len(pairs) < repeats and not (pairs and max(run["cpu"] for run in pairs[0]) > SLOW):
        pairs.append((whole(ours, case), peer(theirs, case)))
    mine, other = (summary(runs) for runs in zip(*pairs, strict=True))
    steps = pairs[0][1].get("steps")
    return {
        **asdict(case),
        "ours": mine,
        "theirs": other,
        "ratio": statistics.median(b["cpu"] / a["cpu"] for a, b in pairs),
        "extrapolated_from_steps": steps,
        "difference": {kind: difference(pairs[0][0][kind], pairs[0][1][kind], steps) for kind in ("scores", "probabilities")},
    }


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """One side's cost over its runs."""
    middle = {kind: statistics.median(run[kind] for run in runs) for kind in ("cpu", "wall")}
    memory = {"peak": max(run["peak"] for run in runs), "above_idle": max(run["peak"] - run["idle"] for run in runs)}
    counts = {kind: runs[0][kind] for kind in ("forwards", "tokens")}
    return {**middle, **memory, **counts, "runs": [run["cpu"] for run in runs]}


def difference(ours: Sequence[Any], theirs: Sequence[Any], steps: Sequence[int] | None) -> float:
    """The largest difference within a step, relative to the step's largest magnitude; the worst step counts."""
    chosen = ours if steps is None else [ours[step] for step in steps]
    pairs = zip(chosen, theirs, strict=True)
    return max(_gap(*(each if isinstance(each, list) else [each] for each in pair)) for pair in pairs)


def _gap(ours: list[float], theirs: list[float]) -> float:
    gaps = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    largest = max(abs(b) for b in theirs)
    return max(gaps) / largest if all(gap == gap for gap in gaps) else float("nan")


HEADER = (
    "| method | model | N | T | theirs, s | ours, s | ratio | scores differ | probabilities differ | forwards | peak, MiB "
    "| above idle, MiB |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def row(found: dict[str, Any]) -> str:
    """A case as a line of the table; `~` marks what was extrapolated."""
    ours, theirs = found["ours"], found["theirs"]
    mark = "" if found["extrapolated_from_steps"] is None else "~"
    cells = [
        *(found["method"], found["shape"], found["prompt"], found["generated"]),
        *(f"{mark}{theirs['cpu']:.1f}", f"{ours['cpu']:.1f}", f"**{mark}{found['ratio']:.1f}**"),
        *(f"{found['difference'][kind]:.0e}" for kind in ("scores", "probabilities")),
        f"{mark}{theirs['forwards']} / {ours['forwards']}",
        *(f"{theirs[kind]:.0f} / {ours[kind]:.0f}" for kind in ("peak", "above_idle")),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def cases(arguments: argparse.Namespace) -> list[Case]:
    """Every chosen method on every chosen shape, the cheap ones first."""
    return [
        Case(shape, method, arguments.prompt, arguments.generated, arguments.nodes, arguments.peer_batch or None)
        for method in arguments.methods
        for shape in arguments.shapes
    ]


def both(arguments: argparse.Namespace, case: Case, known: dict[str, Any]) -> dict[str, Any]:
    """Start a fresh pair of workers, see that they hold the same model, and compare them on one case."""
    with ExitStack() as stack:
        ours, theirs = (
            stack.enter_context(started(arguments.ours)),
            stack.enter_context(started(arguments.theirs, peer=True)),
        )
        shape = {**SHAPES[case.shape], "attn_implementation": arguments.attention}
        builds = [side.ask("build", shape=shape, prompt=case.prompt, generated=case.generated) for side in (ours, theirs)]
        if builds[0]["weights"] != builds[1]["weights"]:
            raise SystemExit("The two environments built different weights; compare their versions: " + str(builds))
        known.update(ours=builds[0]["versions"], theirs=builds[1]["versions"])
        peer = sampled if case.method in SAMPLED and not arguments.full else whole
        return compare(case, ours, theirs, arguments.repeats, peer)


def write(found: list[dict[str, Any]], known: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Keep what was found so far."""
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    facts = {"processor": processor(), "threads": 1, "attention": arguments.attention, "versions": known, "cases": found}
    arguments.output.write_text(json.dumps(facts, indent=2) + "\n")


def processor() -> str:
    """The processor's name, where the system tells it."""
    with ExitStack() as stack:
        try:
            lines = stack.enter_context(open("/proc/cpuinfo"))
        except OSError:
            return platform.processor()
        return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", default=".venv/bin/python", help="interpreter with this package")
    parser.add_argument("--theirs", default=".venv-peer/bin/python", help="interpreter with Inseq 0.7.1")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens (N)")
    parser.add_argument("--generated", type=int, default=64, help="generated tokens (T), all explained")
    parser.add_argument("--nodes", type=int, default=50, help="nodes of integrated gradients")
    parser.add_argument(
        "--peer-batch", type=int, default=10, help="nodes Inseq runs at once; 0 for its own default, all: slower and larger"
    )
    parser.add_argument("--repeats", type=int, default=5, help=f"runs a side; one where a run takes over {SLOW:.0f} s")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa", help="what both models are built with")
    parser.add_argument("--full", action="store_true", help="run the peer's integrated gradients whole (hours)")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "against_inseq.json")
    return parser.parse_args(arguments)


def main() -> None:
    """Run the chosen cases, and print each as it is found."""
    arguments = parsed()
    found: list[dict[str, Any]] = []
    known: dict[str, Any] = {}
    print(f"One thread each on {processor()}; CPU seconds; theirs / ours.\n\n{HEADER}", flush=True)
    for case in cases(arguments):
        found.append(both(arguments, case, known))
        print(row(found[-1]), flush=True)
        write(found, known, arguments)
    if any(each["extrapolated_from_steps"] for each in found):
        steps = ", ".join(map(str, sample(arguments.generated)))
        print(
            f"\n~ EXTRAPOLATED from Inseq's steps {steps} of 0 to {arguments.generated - 1}, straight lines between; "
            "ours ran whole. --full runs both whole."
        )
    print(f"\nWritten to {os.path.relpath(arguments.output)}.", file=sys.stderr)


if __name__ == "__main__":
    main()
