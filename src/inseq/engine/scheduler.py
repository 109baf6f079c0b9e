"""Drive methods, gather their outstanding requests, run them in full batches, hand the answers back."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from inseq.engine.answers import ANSWERS, Answer
from inseq.engine.measures import Counters, Measures, Run, StepScores, apart_of
from inseq.engine.packing import Budget, Job, batches, default_budget, jobs_of, pack
from inseq.engine.requests import Gradient, Logits, Request, Score, StepFunction, Target
from inseq.engine.reuse import portions, reusing
from inseq.models.adapter import Adapter
from inseq.models.edits import fused_activations, guest, is_out_of_memory
from inseq.models.reuse import prepare_reuse
from inseq.text.example import Example

PROGRESS_DELAY = 0.5
"""Seconds before a bar appears: short runs show none."""

UNCUT = 10**12
"""A forward's fixed work, in tokens, at which no gradient is cut into blocks: dropout draws by the length of a row."""


class Engine:
    """Answers requests about one model.

    Args:
        adapter: the model.
        budget: how much one forward may hold; by default what suits the device.
    """

    def __init__(self, adapter: Adapter, budget: Budget | None = None) -> None:
        self.adapter = adapter
        self.budget = budget or default_budget(adapter.device, adapter.n_weights, adapter.axis_size("dim"))
        self._measures = Measures(adapter)
        self._added: list[Job] = []

    @property
    def counters(self) -> Counters:
        """What was run since they were last set."""
        return self._measures.counters

    @counters.setter
    def counters(self, counters: Counters) -> None:
        self._measures.counters = counters

    def run(
        self,
        plans: Sequence[tuple[Example, Coroutine[Any, Any, Any]]],
        target: StepFunction | Target,
        step_functions: Mapping[str, StepFunction | Target] | None = None,
        *,
        progress: bool = False,
    ) -> list[tuple[Any, StepScores]]:
        """Drive one method per example, all at once: their outstanding requests share batches.

        Args:
            plans: examples and the methods started on them.
            target: what scores and gradients are of.
            step_functions: what to record for every step of every example, by name.
            progress: whether a bar is shown.

        Returns:
            For each plan what its method returned, and the recorded step scores.
        """
        functions = {name: Target.of(function) for name, function in (step_functions or {}).items()}
        shared = {name: f for name, f in functions.items() if not (f.stepwise or f.passes)}
        examples = [x for x, _ in plans]
        shown = {"disable": not progress, "delay": PROGRESS_DELAY, "unit": "step", "leave": False}
        model = self.adapter.model
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            guest(model),
            fused_activations(model),
            tqdm(total=0, **shown) as bar,
        ):
            run = Run(Target.of(target), shared, bar, {id(x): _unrecorded(x, functions) for x in examples})
            try:
                run.contrasts = self._contrasts(examples, [run.target, *functions.values()], run)
                results = self._drive([plan for _, plan in plans], run)
                self._record_missing(examples, run)
                for name in functions:
                    if name not in shared:
                        self._record_alone(name, functions[name], examples, run)
            finally:
                for _, plan in plans:
                    plan.close()
        return [(result, run.step_scores[id(x)]) for result, (x, _) in zip(results, plans, strict=True)]

    def _drive(self, plans: Sequence[Coroutine[Any, Any, Any]], run: Run) -> list[Any]:
        done: dict[int, Any] = {}
        waiting: dict[int, tuple[Request[Any], ...]] = {}

        def advance(k: int, answers: tuple[Any, ...] | None) -> None:
            try:
                waiting[k] = plans[k].send(answers)
            except StopIteration as stop:
                waiting.pop(k, None)
                done[k] = stop.value

        for k in range(len(plans)):
            advance(k, None)
        while waiting:
            answers = self._answer([request for requests in waiting.values() for request in requests], run)
            for k, requests in list(waiting.items()):
                advance(k, tuple(answers[id(request)] for request in requests))
        return [done[k] for k in range(len(plans))]

    def _contrasts(self, examples: Sequence[Example], targets: Sequence[Target], run: Run) -> dict[int, Tensor]:
        """Predictions of the contrasts under their own contexts, where a target asks for them: all in full batches."""
        kinds = {target.contrast for target in targets}
        asked = {
            id(x.contrast.example): Logits(x.contrast.example)
            for x in examples
            if x.contrast is not None and ("own" in kinds or ("differing" in kinds and x.contrast.differs.any()))
        }
        answers = self._answer(list(asked.values()), run)
        return {key: answers[id(request)] for key, request in asked.items()}

    def _record_missing(self, examples: Sequence[Example], run: Run) -> None:
        if run.recorded:
            missing = [x for x in examples if any(run.step_scores[id(x)][name].isnan().all() for name in run.recorded)]
            any_target = next(iter(run.recorded.values()))
            self._answer([Score(x) for x in missing], replace(run, target=any_target, attributing=False))

    def _record_alone(self, name: str, function: Target, examples: Sequence[Example], run: Run) -> None:
        """Record a step function that needs forwards of its own."""
        requests = [Score(x) for x in examples]
        answers = self._answer(requests, replace(run, target=function, recorded={}, attributing=False))
        for request in requests:
            run.step_scores[id(request.example)][name] = answers[id(request)][0]

    def _answer(self, requests: Sequence[Request[Any]], run: Run) -> dict[int, Any]:
        """Answer all requests, kind by kind, in batches of similar length."""
        answers: dict[int, Answer] = {id(r): ANSWERS[type(r)](r) for r in requests}
        for company in dict.fromkeys(r.company for r in requests):
            together = [r for r in requests if r.company == company]
            apart = apart_of(together[0], run)
            in_one = self._in_one(apart)
            overhead = UNCUT if apart and apart.passes else self.budget.overhead
            plans = {id(r): plan for r in together if in_one and not apart and (plan := self._reusing(r)) is not None}
            whole = [r for r in together if id(r) not in plans]
            stepwise = apart is not None and apart.stepwise
            jobs = [job for r in whole for job in jobs_of(r, in_one, overhead, stepwise=stepwise)]
            self._run_sorted(jobs, answers, run)
            for portion in portions(list(plans.values()), self.budget):
                self._run_sorted([first for first, _ in portion], answers, run)
                self._run_sorted([job for _, jobs in portion for job in jobs], answers, run)
                for first, _ in portion:
                    first.forget()
        return {key: answer.value() for key, answer in answers.items()}

    def _reusing(self, request: Request[Any]) -> tuple[Job, list[Job]] | None:
        """How a request is answered from where its variants change on, where the model and the work allow it."""
        plan = reusing(request, self.budget)
        return plan if plan is not None and prepare_reuse(self.adapter, plan[0].n_decoder) else None

    def _run_sorted(self, jobs: list[Job], answers: Mapping[int, Answer], run: Run) -> None:
        run.bar.total += sum(job.rows * len(job.steps) for job in jobs)
        self._run_jobs(sorted(jobs, key=lambda job: (job.skipped, job.width)), answers, run)

    def _run_jobs(self, jobs: Sequence[Job], answers: Mapping[int, Answer], run: Run) -> None:
        """Run jobs batch by batch; out of memory halves the budget and goes on with what is left."""
        if not jobs:
            return
        apart, n_predicted = apart_of(jobs[0].request, run), self._measures.n_predicted(jobs, run)
        for batch in batches(jobs, lambda: self._room(jobs[0].request, apart), n_predicted, self._in_one(apart)):
            self._added = []
            if not self._fits(batch, answers, run):
                added = {id(job) for job in self._added}
                self._run_jobs([job for job in batch if id(job) not in added], answers, run)

    def _room(self, request: Request[Any], apart: Target | None) -> Budget:
        """What a forward may hold.

        One row, of which dropout draws; every position's predictions, for stepwise targets; half, where each row has a
        reference beside it.
        """
        if apart and apart.passes:
            return replace(self.budget, tokens=1)
        if apart and apart.stepwise:
            return replace(self.budget, tokens=min(self.budget.tokens, self.budget.logits // self.adapter.vocabulary_size))
        return self.budget.halved() if isinstance(request, Gradient) and request.reference is not None else self.budget

    def _in_one(self, apart: Target | None) -> bool:
        """Whether one forward serves several steps."""
        return self.adapter.causal and not (apart and apart.stepwise)

    def _fits(self, batch: Sequence[Job], answers: Mapping[int, Answer], run: Run) -> bool:
        """Run a batch; where the memory does not suffice, halve the budget and answer no."""
        try:
            self._run_batch(batch, answers, run)
        except (RuntimeError, MemoryError) as error:
            smaller = self.budget.halved()
            if not is_out_of_memory(error) or smaller == self.budget:
                raise
            self.budget = smaller
            return False
        return True

    def _run_batch(self, batch: Sequence[Job], answers: Mapping[int, Answer], run: Run) -> None:
        packed = pack(batch)
        contributions = self._measures.measure(packed, run, self.budget)
        for (job, _), contribution in zip(packed.jobs, contributions, strict=True):
            answers[id(job.request)].add(job, contribution)
            self._added.append(job)
            run.bar.update(job.rows * len(job.steps))


def _unrecorded(x: Example, functions: Mapping[str, Target]) -> StepScores:
    return {name: torch.full((len(x.steps),), torch.nan) for name in functions}
