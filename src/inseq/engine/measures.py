"""One packed batch: run the model, and give each job its contribution."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inseq.engine.accelerators import pays
from inseq.engine.answers import by_feature, wide
from inseq.engine.batches import Packed
from inseq.engine.budget import Budget
from inseq.engine.gradients.batch import Backward, averaged, check_values, leaves_of, with_leaves
from inseq.engine.inside.capture import Captures, Enough
from inseq.engine.inside.layers import replaying
from inseq.engine.inside.pieces import dissecting, reading_out
from inseq.engine.inside.zeroing import Replays
from inseq.engine.jobs import Job
from inseq.engine.scores.ending import ending_at, is_worth, prepare_ending
from inseq.engine.scores.evaluate import Predicted, Streamed, evaluate, streams
from inseq.engine.scores.head import prepare_head
from inseq.engine.scores.hiding import prepare_hiding
from inseq.engine.scores.stepwise import step_gradients, step_values
from inseq.errors import ArgumentError
from inseq.models.adapter import Adapter, Tap
from inseq.models.guest import dropout
from inseq.models.inputs import Reading
from inseq.requests import (
    Activations,
    Capture,
    Direction,
    Gradient,
    Hidden,
    Layer,
    Logits,
    Placed,
    Replay,
    Request,
    Score,
    Target,
)

StepScores = dict[str, Float[Tensor, "prediction *extra"]]


@dataclass
class Counters:
    """The cost of a run: forwards, their rows and token positions, vector-Jacobian products, positions of replayed layers."""

    forwards: int = 0
    rows: int = 0
    tokens: int = 0
    vjps: int = 0
    replays: int = 0


@dataclass
class RunContext:
    """The context of one call of the engine: everything but the requests."""

    target: Target
    recorded: Mapping[str, Target]
    bar: Any
    step_scores: dict[int, StepScores] = field(default_factory=dict)
    contrasts: dict[int, Tensor] = field(default_factory=dict)
    attributing: bool = True
    streamed: bool = True


class Measures:
    """Runs packed batches, whose jobs' requests are of one kind, and says what each job contributes to its answer.

    Attributes:
        adapter: the model.
        counters: what was run.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.counters = Counters()
        self._backward = Backward(adapter, self._count, self._taps)

    def measure(self, packed: Packed, run: RunContext, budget: Budget) -> Iterator[tuple[Job, Any]]:
        """Yield the batch's jobs, or parts of them in steps, each with its contribution to the answer."""
        if any(isinstance(job.request.variants, Hidden) for job, _ in packed.jobs):
            prepare_hiding(self.adapter)
        request = packed.jobs[0][0].request
        apart = apart_of(request, run)
        stepwise = apart is not None and apart.stepwise
        if (
            run.streamed
            and not stepwise
            and not isinstance(request, Gradient)
            and (run.recorded or isinstance(request, Score))
        ):
            prepare_head(self.adapter)  # before the hooks of a measurement are in place
        measures: dict[type[Request[Any]], Any] = {
            Score: self._step_scores if stepwise else self._scores,
            Gradient: self._step_gradients,
            Logits: self._logits,
            Activations: self._activations,
            Capture: self._captured,
            Direction: self._directions,
            Replay: self._replayed,
        }
        if isinstance(request, Gradient) and not stepwise:
            yield from self._gradients(packed, run, budget)
        else:
            found = measures[type(request)](packed, run, budget)
            yield from ((job, contribution) for (job, _), contribution in zip(packed.jobs, found, strict=True))

    def _count(self, packed: Packed | int) -> None:
        """Count a forward, or products."""
        if isinstance(packed, int):
            self.counters.vjps += packed
            return
        self.counters.forwards += 1
        self.counters.rows += len(packed.inputs.decoder)
        self.counters.tokens += packed.tokens

    def n_predicted(self, jobs: Sequence[Job], run: RunContext) -> int:
        """Return the numbers that a prediction of some jobs takes: the vocabulary's size, or 1 if predictions are streamed."""
        n_numbers = sum(job.rows * len(job.steps) for job in jobs) * self.adapter.vocabulary_size
        run.streamed = pays("streamed_predictions", n_numbers)
        requests = {id(job.request): job.request for job in jobs}.values()
        scored = all(isinstance(r, Score) and streams(target_of(r, run), run.contrasts) for r in requests)
        return 1 if scored and run.streamed and prepare_head(self.adapter) is not None else self.adapter.vocabulary_size

    def _read(self, packed: Packed, run: RunContext, targets: Iterable[Target] = (), **how: Any) -> tuple[Reading, Predicted]:
        """Run a forward without gradients. Stream its predictions where no target needs all logits."""
        self._count(packed)
        wanted = bool(run.recorded and _originals(packed, run)) or bool(targets)
        streamed = run.streamed and wanted and all(streams(target, run.contrasts) for target in targets)
        head = prepare_head(self.adapter) if streamed else None
        n_predicted = 0 if head else None if wanted else 1
        reading = self.adapter.read(packed.inputs, n_predicted=n_predicted, **how)
        return reading, Streamed(head, reading.chosen) if head else reading.logits

    def _record(self, predicted: Predicted, packed: Packed, run: RunContext) -> None:
        """Step scores cost nothing where the original example ran anyway."""
        wanted = _originals(packed, run) if run.recorded else []
        if not wanted:
            return
        predicted = predicted.detach() if isinstance(predicted, Tensor) else predicted
        rows = [row for _, row in wanted]
        placed = tuple((job, range(k, k + 1)) for k, (job, _) in enumerate(wanted))
        originals = replace(packed, jobs=placed, ids=packed.ids[rows], real=packed.real[rows])
        for name, function in run.recorded.items():
            values = wide(evaluate(function, predicted[rows], originals, run.contrasts)).cpu()
            for k, (job, _) in enumerate(wanted):
                scores = run.step_scores[id(job.example)]
                if scores[name].shape[1:] != values.shape[2:]:
                    scores[name] = values.new_full((len(scores[name]), *values.shape[2:]), torch.nan)
                scores[name] = scores[name].to(values.dtype)
                scores[name][job.steps.start : job.steps.stop] = values[k, : len(job.steps)]

    def _pass(self, apart: Target | None, k: int) -> AbstractContextManager[None]:
        """The ``k``-th forward of an average, with draws of its own."""
        return dropout(self.adapter.model, (apart.seed * 1_000_003 + k) % 2**63) if apart else nullcontext()

    def _ending(self, packed: Packed, budget: Budget) -> AbstractContextManager[None]:
        """Run the last layer at the wanted positions alone, where that is known and spares enough."""
        overhead = budget.overhead * self.adapter.axis_size("layer")
        worth = pays("early_end") and is_worth(packed.inputs, overhead) and prepare_ending(self.adapter)
        return ending_at(self.adapter, packed.inputs.at) if worth else nullcontext()

    def _scores(self, packed: Packed, run: RunContext, budget: Budget) -> list[Tensor]:
        variants = packed.jobs[0][0].request.variants
        taps = self._taps(packed, (variants.layer,) if isinstance(variants, Placed) else ())
        placed = packed.placed(taps[0].side) if taps else None
        targets = [target_of(job.request, run) for job, _ in packed.jobs]
        means: dict[Target, Tensor] = {}
        apart = apart_of(packed.jobs[0][0].request, run)
        for k in range(apart.passes if apart else 1):
            ending = self._ending(packed, budget) if apart is None and not taps else nullcontext()
            with self._pass(apart, k), self.adapter.tapped(taps, placed), ending:
                reading, predicted = self._read(packed, run, targets, remember=packed.jobs[0][0].remembers)
            _remember(packed, reading)
            for target in dict.fromkeys(targets):
                with torch.no_grad():
                    values = wide(evaluate(target, predicted, packed, run.contrasts)).cpu()
                mean = means.get(target, values)
                means[target] = mean + (values - mean) / (k + 1)
            if apart is None:
                self._record(predicted, packed, run)
        chosen = zip(targets, packed.jobs, strict=True)
        return [means[target][rows.start : rows.stop, : len(job.steps)] for target, (job, rows) in chosen]

    def _logits(self, packed: Packed, run: RunContext, budget: Budget) -> list[Tensor]:
        self._count(packed)
        logits = self.adapter.read(packed.inputs).logits
        return [logits[rows.start, : len(job.steps)] for job, rows in packed.jobs]

    def _step_scores(self, packed: Packed, run: RunContext, budget: Budget) -> list[Tensor]:
        self._count(packed)
        with torch.no_grad():
            values, logits = step_values(run.target, self.adapter, packed, packed.inputs, run.attributing)
        self._record(logits, packed, run)
        return [wide(values)[rows.start : rows.stop, None].cpu() for _, rows in packed.jobs]

    def _step_gradients(self, packed: Packed, run: RunContext, budget: Budget) -> list[Tensor]:
        self._count(packed)
        request = packed.jobs[0][0].request
        assert isinstance(request, Gradient)
        inputs = with_leaves(packed)
        taps = self._taps(packed, request.at)
        with self.adapter.tapped(taps, packed.placed(taps[0].side) if taps else None) as values:
            scores, logits = step_values(run.target, self.adapter, packed, inputs, run.attributing)
        self._record(logits, packed, run)
        self._count(1)
        if request.edit is not None:
            raise ArgumentError(
                f"Step function {run.target.name!r} is run on whole prefixes, step by step, and this method edits the "
                "backward pass: write it as a function of a Prediction, or use 'saliency' or 'integrated_gradients'."
            )
        return step_gradients(
            run.target, packed, scores, values if taps else leaves_of(inputs, packed), [tap.side for tap in taps]
        )

    def _captured(self, packed: Packed, run: RunContext, budget: Budget) -> list[dict[str, Tensor]]:
        """Fold the attention of every layer as it comes; no layer waits for another, and nothing after the last is run."""
        captures = Captures(self.adapter, packed, budget, bool(run.recorded and _originals(packed, run)))
        watch = dissecting(self.adapter, captures.dissected) if captures.pieces else nullcontext()
        with suppress(Enough):
            with watch:
                _, predicted = self._read(packed, run, attention=None if captures.pieces else captures.attended)
            self._record(predicted, packed, run)
        return [fold.value() for fold in captures.folds]

    def _directions(self, packed: Packed, run: RunContext, budget: Budget) -> list[dict[str, Tensor]]:
        """Return the gradient of each written token's logit at the last layer's output."""
        with reading_out(self.adapter) as read_out:
            reading, predicted = self._read(packed, run)
            found = read_out(reading, packed.inputs.at, packed.ids)
        self._record(predicted, packed, run)
        return [
            {"direction": found.directions[rows.start, : len(job.steps)], "logit": found.logits[rows.start, : len(job.steps)]}
            for job, rows in packed.jobs
        ]

    def _replayed(self, packed: Packed, run: RunContext, budget: Budget) -> list[dict[str, Tensor]]:
        """Run each layer again when the forward has run it, with tokens zeroed."""
        replays = Replays(self.adapter, packed, budget)
        with replaying(self.adapter, replays.visit):
            _, predicted = self._read(packed, run)
        self.counters.replays += replays.n_positions
        self._record(predicted, packed, run)
        return [fold.value() for fold in replays.folds]

    def _taps(self, packed: Packed, layers: Sequence[Layer]) -> list[Tap]:
        taps = self.adapter.taps(layers)
        unscored = any(len(job.example.context) for job, _ in packed.jobs)
        if unscored and any(tap.side != "source" for tap in taps):
            raise ArgumentError(
                "target_layer runs over the decoder's tokens, which receive no scores here: pass attribute_target=True, or "
                "choose a layer of the encoder."
            )
        return taps

    def _activations(self, packed: Packed, run: RunContext, budget: Budget) -> list[Tensor]:
        request = packed.jobs[0][0].request
        assert isinstance(request, Activations)
        taps = self._taps(packed, request.at)
        with self.adapter.tapped(taps) as values:
            _, predicted = self._read(packed, run)
        check_values(values, packed.inputs, differentiable=False)
        self._record(predicted, packed, run)
        sides = [tap.side for tap in taps]
        return [by_feature(job, rows, values, sides).cpu() for job, rows in packed.jobs]

    def _gradients(self, packed: Packed, run: RunContext, budget: Budget) -> Iterator[tuple[Job, Tensor]]:
        def record(logits: Tensor, batch: Packed) -> None:
            self._record(logits, batch, run)

        job = packed.jobs[0][0]
        apart = apart_of(job.request, run)

        def once(k: int) -> list[tuple[Job, Tensor]]:
            with self._pass(apart, k):
                return list(self._backward.at_once(packed, run.target, run.contrasts, budget, None))

        if apart is not None:
            yield from averaged(apart.passes, once)
        elif job.block:
            yield from self._backward.in_blocks(packed, run.target, run.contrasts, budget, record)
        else:
            yield from self._backward.at_once(packed, run.target, run.contrasts, budget, record)


def apart_of(request: Request[Any], run: RunContext) -> Target | None:
    """The run's target, where it wants forwards of a kind of its own for a request."""
    wanted = isinstance(request, Score | Gradient) and target_of(request, run) is run.target
    return run.target if wanted and (run.target.passes > 0 or run.target.stepwise) else None


def _originals(packed: Packed, run: RunContext) -> list[tuple[Job, int]]:
    """The rows of a batch that hold examples themselves, and the jobs they belong to."""
    return [
        (job, rows[job.variants.index(original)])
        for job, rows in packed.jobs
        if (original := job.request.variants.original) is not None
        and original in job.variants
        and id(job.example) in run.step_scores
    ]


def target_of(request: Request[Any], run: RunContext) -> Target:
    """Return the target of a request: its own function, or that of the run."""
    return run.target if not isinstance(request, Score) or request.target is None else request.target


def _remember(packed: Packed, reading: Reading) -> None:
    for job, rows in packed.jobs:
        if job.memory is not None and job.remembers:
            job.memory.tensors = tuple(tensor[rows.start : rows.stop] for tensor in reading.memory)
