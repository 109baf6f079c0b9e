"""Drive methods, gather their outstanding requests, run them in full batches, hand the answers back."""

from __future__ import annotations

from collections.abc import Coroutine, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from inseq.engine.accelerators import pays
from inseq.engine.answers import ANSWERS, Answer
from inseq.engine.batches import batches, pack
from inseq.engine.budget import Budget, default_budget
from inseq.engine.gradients.batch import has_beginnings
from inseq.engine.jobs import Job, jobs_of
from inseq.engine.measures import Counters, Measures, RunContext, StepScores, apart_of
from inseq.engine.memory.footprint import Footprint
from inseq.engine.memory.plan import MemoryPlan, smaller_than
from inseq.engine.progress import shown_progress
from inseq.engine.scores.reuse import portions, prepare_reuse, reusing
from inseq.models.adapter import Adapter
from inseq.models.guest import fused_activations, guest, is_out_of_memory
from inseq.requests import Gradient, Logits, Request, Score, StepFunction, Target
from inseq.requests.example import Example

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
        self._plan: MemoryPlan | None = None
        self._footprints: dict[Hashable, Footprint] = {}

    @property
    def counters(self) -> Counters:
        """Return the counts since they were last set."""
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
        plan: MemoryPlan | None = None,
    ) -> list[tuple[Any, StepScores]]:
        """Drive one method per example, all at once: their outstanding requests share batches.

        Args:
            plans: examples and the methods started on them.
            target: what scores and gradients are of.
            step_functions: what to record for every step of every example, by name.
            progress: whether a bar is shown.
            plan: what the run may hold, and what takes account of it.

        Returns:
            For each plan what its method returned, and the recorded step scores, of every prediction.
        """
        functions = {name: Target.of(function) for name, function in (step_functions or {}).items()}
        shared = {name: f for name, f in functions.items() if not (f.stepwise or f.passes)}
        examples = [x for x, _ in plans]
        model = self.adapter.model
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            guest(model),
            fused_activations(model),
            shown_progress(self.adapter, plan, progress) as bar,
        ):
            self._plan = plan
            run = RunContext(Target.of(target), shared, bar, {id(x): _unrecorded(x, functions) for x in examples})
            try:
                run.contrasts = self._contrasts(examples, [run.target, *functions.values()], run)
                results = self._drive([method for _, method in plans], run)
                self._record_missing(examples, run)
                for name in functions:
                    if name not in shared:
                        self._record_alone(name, functions[name], examples, run)
            finally:
                self._plan = None
                for _, method in plans:
                    method.close()
        return [(result, run.step_scores[id(x)]) for result, (x, _) in zip(results, plans, strict=True)]

    def _drive(self, plans: Sequence[Coroutine[Any, Any, Any]], run: RunContext) -> list[Any]:
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

    def _contrasts(self, examples: Sequence[Example], targets: Sequence[Target], run: RunContext) -> dict[int, Tensor]:
        """Predictions of the contrasts under their own contexts, where a target asks for them: all in full batches."""
        kinds = {target.contrast for target in targets}
        asked = {
            id(x.contrast.example): Logits(x.contrast.example)
            for x in examples
            if x.contrast is not None and ("own" in kinds or ("differing" in kinds and x.contrast.differs.any()))
        }
        answers = self._answer(list(asked.values()), run)
        return {key: answers[id(request)] for key, request in asked.items()}

    def _record_missing(self, examples: Sequence[Example], run: RunContext) -> None:
        if run.recorded:
            missing = [x for x in examples if any(run.step_scores[id(x)][name].isnan().all() for name in run.recorded)]
            any_target = next(iter(run.recorded.values()))
            self._answer([Score(x) for x in missing], replace(run, target=any_target, attributing=False))

    def _record_alone(self, name: str, function: Target, examples: Sequence[Example], run: RunContext) -> None:
        """Record a step function that needs forwards of its own."""
        requests = {id(x): Score(x.apart()) for x in examples}
        answers = self._answer(list(requests.values()), replace(run, target=function, recorded={}, attributing=False))
        for key, request in requests.items():
            run.step_scores[key][name] = answers[id(request)][0]

    def _answer(self, requests: Sequence[Request[Any]], run: RunContext) -> dict[int, Any]:
        """Answer all requests, kind by kind, in batches of similar length."""
        answers: dict[int, Answer] = {id(r): ANSWERS[type(r)](r) for r in requests}
        for company in dict.fromkeys(r.company for r in requests):
            jobs: list[Job] = []
            together = [r for r in requests if r.company == company]
            apart = apart_of(together[0], run)
            in_one = self._in_one(apart)
            if self._plan is not None:
                self._plan.limit(together, self.budget, self._measures, self._footprints)
            budget = self._limited(together[0])
            drawn = apart is not None and apart.passes > 0
            overhead = UNCUT if drawn else budget.overhead
            plans = {id(r): plan for r in together if in_one and not apart and (plan := self._reusing(r)) is not None}
            whole = [r for r in together if id(r) not in plans]
            stepwise = apart is not None and apart.stepwise
            for request in whole:
                most = None if drawn else budget.steps(request, self.adapter.vocabulary_size)
                begun = in_one and apart is None and has_beginnings(request, self.adapter)
                jobs += jobs_of(request, in_one, overhead, stepwise=stepwise, beginnings=begun, most=most)
            self._run_sorted(jobs, answers, run)
            for portion in portions(list(plans.values()), budget):
                self._run_sorted([first for first, _ in portion], answers, run)
                self._run_sorted([job for _, jobs in portion for job in jobs], answers, run)
                for first, _ in portion:
                    first.forget()
        return {key: answer.value() for key, answer in answers.items()}

    def _reusing(self, request: Request[Any]) -> tuple[Job, list[Job]] | None:
        """Return jobs that continue from the example's cache, where the model and the work allow it."""
        plan = reusing(request, self._limited(request)) if pays("cache_reuse") else None
        return plan if plan is not None and prepare_reuse(self.adapter, plan[0].n_decoder) else None

    def _run_sorted(self, jobs: list[Job], answers: Mapping[int, Answer], run: RunContext) -> None:
        run.bar.expect(jobs)
        self._run_jobs(sorted(jobs, key=lambda job: (job.skipped, job.width)), answers, run)

    def _run_jobs(self, jobs: Sequence[Job], answers: Mapping[int, Answer], run: RunContext) -> None:
        """Run jobs batch by batch; out of memory halves the budget and goes on with what is left."""
        if not jobs:
            return
        apart, n_predicted = apart_of(jobs[0].request, run), self._measures.n_predicted(jobs, run)
        for batch in batches(jobs, lambda: self._room(jobs[0].request, apart), n_predicted, self._in_one(apart)):
            self._added = []
            if not self._fits(batch, answers, run):
                self._run_jobs([rest for job in batch for rest in _rest(job, self._added)], answers, run)

    def _room(self, request: Request[Any], apart: Target | None) -> Budget:
        """Return the limits of a forward.

        One row, of which dropout draws; every position's predictions, for stepwise targets; half, where each row has a
        reference beside it.
        """
        budget = self._limited(request)
        if apart and apart.passes:
            return replace(budget, tokens=1)
        if apart and apart.stepwise:
            return replace(budget, tokens=min(budget.tokens, budget.logits // self.adapter.vocabulary_size))
        return budget.halved() if isinstance(request, Gradient) and request.reference is not None else budget

    def _limited(self, request: Request[Any]) -> Budget:
        """Return the limits that suit the device, within the memory plan."""
        limit = None if self._plan is None else self._plan.limits.get(request.company)
        return self.budget if limit is None else limit

    def _in_one(self, apart: Target | None) -> bool:
        """Return whether one forward serves several steps."""
        return self.adapter.facts.causal and not (apart and apart.stepwise)

    def _fits(self, batch: Sequence[Job], answers: Mapping[int, Answer], run: RunContext) -> bool:
        """Run a batch; where the memory does not suffice, halve the budget and answer no."""
        budget = self._room(batch[0].request, apart_of(batch[0].request, run))
        try:
            self._run_batch(batch, answers, run, budget)
        except (RuntimeError, MemoryError) as error:
            smaller = smaller_than(batch, budget, self.adapter) if is_out_of_memory(error) else None
            if smaller is None:
                raise
            self.budget = self.budget.within(smaller)
            if self._plan is not None:
                self._plan.shrink(smaller)
            if self.adapter.device.type == "cuda":
                torch.cuda.empty_cache()
            return False
        return True

    def _run_batch(self, batch: Sequence[Job], answers: Mapping[int, Answer], run: RunContext, budget: Budget) -> None:
        for job, contribution in self._measures.measure(pack(batch), run, budget):
            answers[id(job.request)].add(job, contribution)
            self._added.append(job)
            run.bar.ran(job)
        if self._plan is not None:
            self._plan.ran(batch, budget, self.adapter)


def _rest(job: Job, added: Sequence[Job]) -> list[Job]:
    """Return the rest of a job of which some sums were answered."""
    if not job.sums or job.n_blocks > 1:
        return [] if any(part is job for part in added) else [job]
    own = [part for part in added if part.request is job.request and part.variants == job.variants]
    answered = {k for part in own for k in part.sums}
    left = [k for k in job.sums if k not in answered]
    if len(left) == len(job.sums):
        return [job]
    starts = [k for k in left if k - 1 not in left]
    ends = [k + 1 for k in left if k + 1 not in left]
    return [job.of_sums(range(a, b)) for a, b in zip(starts, ends, strict=True)]


def _unrecorded(x: Example, functions: Mapping[str, Target]) -> StepScores:
    return {name: torch.full((len(x.at),), torch.nan) for name in functions}
