"""Two environments at work: a process on either side, and what is made of their answers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cases import Case, Order

HERE = Path(__file__).parent
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}
COSTS = ("cpu", "wall", "forwards", "tokens", "vjps")

Run = dict[str, Any]


class Failed(Exception):
    """A side could not do what it was asked."""


class Side:
    """One environment at work."""

    def __init__(self, python: str, foreign: bool) -> None:
        """Start an interpreter; a foreign one does not see this package."""
        command = [python, str(HERE / "worker.py")]
        path = "" if foreign else str(HERE.parent / "src")
        environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": path}
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """Send an order and wait for the answer.

        Raises:
            Failed: where the answer is an error, and where the process has ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **order}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Failed(f"{self.process.args[0]} ended with {self.process.wait()} during {do!r}")
        answer = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer

    def end(self) -> None:
        """Let the process end, or see to it."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Sides:
    """Both environments, each started when it is first needed and kept until the end, or until a failure."""

    def __init__(self, ours: str, theirs: str) -> None:
        self.pythons = {"ours": ours, "theirs": theirs}
        self.running: dict[str, Side] = {}

    def ours(self) -> Side:
        """This package's."""
        return self._side("ours")

    def peers(self) -> Side:
        """The peers'."""
        return self._side("theirs")

    def _side(self, name: str) -> Side:
        if name not in self.running:
            self.running[name] = Side(self.pythons[name], foreign=name == "theirs")
        return self.running[name]

    def end(self) -> None:
        """End what runs."""
        for side in self.running.values():
            side.end()
        self.running.clear()

    def __enter__(self) -> Sides:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def once(side: Side, order: Order) -> Run:
    """One run of everything, between two measurements of the machine's speed."""
    before = side.ask("rate")["rate"]
    run = side.ask("run", **order)
    return {**run, "rate": (before + side.ask("rate")["rate"]) / 2}


def sampled(side: Side, case: Case, order: Order) -> Run:
    """Some steps (of one text) or some texts (of many), each by itself, and the cost of all estimated from them."""
    assert case.sampled is not None
    if len(case.lengths) > 1:
        runs = [side.ask("run", **order, texts=[i]) for i in case.sampled]
        work = [t * (2 * n + t) for n, t in case.lengths]
        share = sum(work) / sum(work[i] for i in case.sampled)
        costs = {kind: share * sum(run[kind] for run in runs) for kind in COSTS}
    else:
        (_, generated), *_ = case.lengths
        runs = [side.ask("run", **order, window=[step, step + 1]) for step in case.sampled]
        costs = {kind: integrate(case.sampled, [run[kind] for run in runs], generated) for kind in COSTS}
    memory = {"idle": runs[0]["idle"], "peak": max(run["peak"] for run in runs)}
    joined = {kind: [each for run in runs for each in run.get(kind, [])] for kind in ("scores", "probabilities")}
    if len(case.lengths) == 1:
        joined = {kind: [[step for each in found for step in each]] for kind, found in joined.items()}
    return {**costs, **memory, **joined}


def integrate(at: Sequence[int], values: Sequence[float], n: int) -> float:
    """Sum over `n` steps what was seen at some of them, straight lines between."""
    total = 0.0
    for step in range(n):
        k = next((k for k in range(1, len(at) - 1) if at[k] >= step), len(at) - 1)
        a, b = (at[k - 1], at[k]) if len(at) > 1 else (at[0], at[0] + 1)
        share = (step - a) / (b - a)
        total += values[max(k - 1, 0)] * (1 - share) + values[k] * share
    return total


def difference(ours: Run, theirs: Run, case: Case) -> dict[str, float | None]:
    """The largest differences of scores and of probabilities, relative to the largest of a step; the worst step counts."""
    found: dict[str, float | None] = {}
    for kind, wrap in (("scores", lambda step: step), ("probabilities", lambda step: [step])):
        pairs = list(_steps(ours.get(kind) or [], theirs.get(kind) or [], case))
        found[kind] = max((gap(wrap(a), wrap(b)) for a, b in pairs), default=None)
    return found


def _steps(ours: list[Any], theirs: list[Any], case: Case) -> Iterator[tuple[Any, Any]]:
    """The steps that both sides have explained."""
    texts = case.sampled if case.sampled is not None and len(case.lengths) > 1 else range(len(ours))
    for text, other in zip(texts, theirs, strict=bool(theirs)):
        mine = ours[text]
        chosen = [mine[step] for step in case.sampled] if case.sampled is not None and len(case.lengths) == 1 else mine
        yield from zip(chosen, other, strict=True)


def gap(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest difference relative to the largest magnitude; of what both sides have, where one explains fewer tokens."""
    shared = min(len(ours), len(theirs))
    if not shared:
        return float("nan")
    largest = max(abs(each) for each in theirs[:shared]) or 1.0
    gaps = [abs(abs(a) - abs(b)) for a, b in zip(ours[:shared], theirs[:shared], strict=True)]
    return max(gaps) / largest if all(each == each for each in gaps) else float("nan")


def alternating(
    case: Case, ours: Side, theirs: Side | None, repeats: int, slow: float, report: Callable[[str], None]
) -> tuple[list[Run], list[Run]]:
    """Run both sides in turn, each as often as asked for while its runs are short, else once; the runs of each."""

    def peer(trim: bool) -> Run:
        assert theirs is not None
        assert case.peer is not None
        order = {**case.peer, "trim": trim}
        return theirs.ask("run", **order) if case.sampled is None else sampled(theirs, case, order)

    acts = [(ours, case.ours, lambda trim: once(ours, {**case.ours, "trim": trim}))]
    if theirs is not None and case.peer is not None:
        acts.append((theirs, case.peer, peer))
    for side, order, _ in acts:
        side.ask("run", **order, warm=True)
    runs: tuple[list[Run], list[Run]] = ([], [])
    for _ in range(repeats):
        for (_, order, act), found in zip(acts, runs, strict=False):
            if not found or found[0]["cpu"] <= slow:
                found.append(act(not found))
                report(f"{case.name}, {order['tool']}: {found[-1]['cpu']:.3g} s")
    return runs
