"""What is measured on one packed batch: a model call, and what it gives each job."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inseq.engine.answers import by_feature, wide
from inseq.engine.edited import edited_reading, with_references
from inseq.engine.evaluate import Predicted, Streamed, cotangents_of, evaluate, streams
from inseq.engine.gradients import body_gradients, head_cotangents
from inseq.engine.inside import Captures, Enough
from inseq.engine.packing import Budget, Job, Packed
from inseq.engine.replay import Replays
from inseq.engine.requests import (
    Activations,
    Capture,
    Direction,
    Edit,
    Gradient,
    Hidden,
    Layer,
    Logits,
    Placed,
    Replay,
    Request,
    Rescale,
    Score,
    Target,
)
from inseq.engine.stepwise import step_gradients, step_values
from inseq.errors import ArgumentError
from inseq.models.adapter import Adapter, Inputs, Reading, Tap
from inseq.models.anatomy import dissecting, reading_out
from inseq.models.edits import dropout, is_out_of_memory
from inseq.models.head import prepare_head
from inseq.models.hiding import prepare_hiding
from inseq.models.replays import replaying

StepScores = dict[str, Float[Tensor, " step"]]


@dataclass
class Counters:
    """What a run cost: model calls, rows and token positions in them, vector-Jacobian products, positions of single layers."""

    forwards: int = 0
    rows: int = 0
    tokens: int = 0
    vjps: int = 0
    replays: int = 0


@dataclass
class Run:
    """What one call of the engine needs to know beside the requests."""

    target: Target
    recorded: Mapping[str, Target]
    bar: Any
    step_scores: dict[int, StepScores] = field(default_factory=dict)
    contrasts: dict[int, Tensor] = field(default_factory=dict)
    attributing: bool = True


class Measures:
    """Runs packed batches, whose jobs' requests are of one kind, and says what each job contributes to its answer.

    Attributes:
        adapter: the model.
        counters: what was run.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.counters = Counters()
        self._batched: dict[Edit | None, bool] = {}

    def measure(self, packed: Packed, run: Run, budget: Budget) -> Sequence[Any]:
        """Each job's contribution to the answer of its request."""
        if any(isinstance(job.request.variants, Hidden) for job, _ in packed.jobs):
            prepare_hiding(self.adapter)
        request = packed.jobs[0][0].request
        apart = apart_of(request, run)
        stepwise = apart is not None and apart.stepwise
        if not stepwise and not isinstance(request, Gradient):
            prepare_head(self.adapter)
        measures: dict[type[Request[Any]], Any] = {
            Score: self._step_scores if stepwise else self._scores,
            Gradient: self._step_gradients if stepwise else self._gradients,
            Logits: self._logits,
            Activations: self._activations,
            Capture: self._captured,
            Direction: self._directions,
            Replay: self._replayed,
        }
        found: Sequence[Any] = measures[type(request)](packed, run, budget)
        return found

    def _count(self, packed: Packed) -> None:
        self.counters.forwards += 1
        self.counters.rows += len(packed.inputs.decoder)
        self.counters.tokens += packed.tokens

    def n_predicted(self, jobs: Sequence[Job], run: Run) -> int:
        """How many numbers a prediction of some jobs takes: as many as there are tokens, or few where it is streamed."""
        requests = {id(job.request): job.request for job in jobs}.values()
        scored = all(isinstance(r, Score) and streams(target_of(r, run), run.contrasts) for r in requests)
        return 1 if scored and prepare_head(self.adapter) is not None else self.adapter.vocabulary_size

    def _read(self, packed: Packed, run: Run, targets: Iterable[Target] = (), **how: Any) -> tuple[Reading, Predicted]:
        """A forward without gradients; its predictions are streamed where no target wants to see all logits."""
        self._count(packed)
        wanted = bool(run.recorded and _originals(packed, run)) or bool(targets)
        head = prepare_head(self.adapter) if all(streams(target, run.contrasts) for target in targets) else None
        n_predicted = 0 if head else None if wanted else 1
        reading = self.adapter.read(packed.inputs, n_predicted=n_predicted, **how)
        return reading, Streamed(head, reading.chosen) if head else reading.logits

    def _record(self, predicted: Predicted, packed: Packed, run: Run) -> None:
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
                scores[name] = scores[name].to(values.dtype)
                scores[name][job.steps.start : job.steps.stop] = values[k, : len(job.steps)]

    def _pass(self, apart: Target | None, k: int) -> AbstractContextManager[None]:
        """The ``k``-th forward of an average, with draws of its own."""
        return dropout(self.adapter.model, (apart.seed * 1_000_003 + k) % 2**63) if apart else nullcontext()

    def _scores(self, packed: Packed, run: Run, budget: Budget) -> list[Tensor]:
        variants = packed.jobs[0][0].request.variants
        taps = self._taps(packed, (variants.layer,) if isinstance(variants, Placed) else ())
        placed = packed.placed(taps[0].side) if taps else None
        targets = [target_of(job.request, run) for job, _ in packed.jobs]
        means: dict[Target, Tensor] = {}
        apart = apart_of(packed.jobs[0][0].request, run)
        for k in range(apart.passes if apart else 1):
            with self._pass(apart, k), self.adapter.tapped(taps, placed):
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

    def _logits(self, packed: Packed, run: Run, budget: Budget) -> list[Tensor]:
        self._count(packed)
        logits = self.adapter.read(packed.inputs).logits
        return [logits[rows.start, : len(job.steps)] for job, rows in packed.jobs]

    def _step_scores(self, packed: Packed, run: Run, budget: Budget) -> list[Tensor]:
        self._count(packed)
        with torch.no_grad():
            values, logits = step_values(run.target, self.adapter, packed, packed.inputs, run.attributing)
        self._record(logits, packed, run)
        return [wide(values)[rows.start : rows.stop, None].cpu() for _, rows in packed.jobs]

    def _step_gradients(self, packed: Packed, run: Run, budget: Budget) -> list[Tensor]:
        self._count(packed)
        request = packed.jobs[0][0].request
        assert isinstance(request, Gradient)
        inputs, leaves = _with_leaves(packed)
        taps = self._taps(packed, request.at)
        with self.adapter.tapped(taps, packed.placed(taps[0].side) if taps else None) as values:
            scores, logits = step_values(run.target, self.adapter, packed, inputs, run.attributing)
        self._record(logits, packed, run)
        self.counters.vjps += 1
        if request.edit is not None:
            raise ArgumentError(
                f"Step function {run.target.name!r} is run on whole prefixes, step by step, and this method edits the "
                "backward pass: write it as a function of a Prediction, or use 'saliency' or 'integrated_gradients'."
            )
        return step_gradients(run.target, packed, scores, values if taps else leaves, [tap.side for tap in taps])

    def _captured(self, packed: Packed, run: Run, budget: Budget) -> list[dict[str, Tensor]]:
        """Fold the attention of every layer as it comes; no layer waits for another, and nothing after the last is run."""
        captures = Captures(self.adapter, packed, budget, bool(run.recorded and _originals(packed, run)))
        watch = dissecting(self.adapter, captures.dissected) if captures.pieces else nullcontext()
        with suppress(Enough):
            with watch:
                _, predicted = self._read(packed, run, attention=None if captures.pieces else captures.attended)
            self._record(predicted, packed, run)
        return [fold.value() for fold in captures.folds]

    def _directions(self, packed: Packed, run: Run, budget: Budget) -> list[dict[str, Tensor]]:
        """How each written token's logit follows the last layer's output."""
        with reading_out(self.adapter) as read_out:
            reading, predicted = self._read(packed, run)
            found = read_out(reading, packed.inputs.at, packed.ids)
        self._record(predicted, packed, run)
        return [
            {"direction": found.directions[rows.start, : len(job.steps)], "logit": found.logits[rows.start, : len(job.steps)]}
            for job, rows in packed.jobs
        ]

    def _replayed(self, packed: Packed, run: Run, budget: Budget) -> list[dict[str, Tensor]]:
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

    def _activations(self, packed: Packed, run: Run, budget: Budget) -> list[Tensor]:
        request = packed.jobs[0][0].request
        assert isinstance(request, Activations)
        taps = self._taps(packed, request.at)
        with self.adapter.tapped(taps) as values:
            _, predicted = self._read(packed, run)
        _check_values(values, packed.inputs, differentiable=False)
        self._record(predicted, packed, run)
        sides = [tap.side for tap in taps]
        return [by_feature(job, rows, values, sides).cpu() for job, rows in packed.jobs]

    def _gradients(self, packed: Packed, run: Run, budget: Budget) -> list[Tensor]:
        apart = apart_of(packed.jobs[0][0].request, run)
        sums: list[Tensor] = []
        for k in range(apart.passes if apart else 1):
            with self._pass(apart, k):
                found = self._pass_gradients(packed, run, budget)
            sums = [total + more for total, more in zip(sums, found, strict=True)] if sums else found
        return [total / apart.passes for total in sums] if apart else sums

    def _pass_gradients(self, packed: Packed, run: Run, budget: Budget) -> list[Tensor]:
        request = packed.jobs[0][0].request
        assert isinstance(request, Gradient)
        packed = with_references(packed) if isinstance(request.edit, Rescale) else packed
        self._count(packed)
        inputs, leaves = _with_leaves(packed, request.edit)
        taps = self._taps(packed, request.at)
        values: list[Tensor] = []
        watch = self.adapter.tapped(taps, packed.placed(taps[0].side) if taps else None, values)
        reading, scores = self._reading(packed, inputs, request.edit, run, watch)
        _check_values(values, inputs, differentiable=True)
        leaves, sides = (values, [tap.side for tap in taps]) if taps else (leaves, [])
        real = packed.real.to(scores.device)
        cotangents = cotangents_of(run.target, real, head_cotangents(reading, scores, real))
        per_product = inputs.decoder.numel() + (0 if inputs.source is None else inputs.source.numel())
        chunk = max(1, min(budget.cotangents // per_product, inputs.at.shape[1]))
        batched = chunk > 1 and self._can_batch(request.edit, reading, cotangents, inputs.at, leaves)
        sums: list[list[Tensor]] = [[] for _ in packed.jobs]
        at = [_taken(leaf.detach(), request.edit) for leaf in leaves]
        taken = [by_feature(job, rows, at, sides) for job, rows in packed.jobs]
        for steps, grads in body_gradients(reading.hidden, cotangents, inputs.at, leaves, chunk, batched):
            self.counters.vjps += len(steps)
            for (job, rows), parts, values_at in zip(packed.jobs, sums, taken, strict=True):
                if n := max(0, min(len(steps), len(job.steps) - steps.start)):
                    assert isinstance(job.request, Gradient)
                    gradient = by_feature(job, rows, [g[:n] for g in grads], sides)
                    parts.append(job.request.combine(gradient, values_at, job.variants))
        return [torch.cat(parts) for parts in sums]

    def _reading(
        self, packed: Packed, inputs: Inputs, edit: Edit | None, run: Run, watch: AbstractContextManager[Any]
    ) -> tuple[Reading, Tensor]:
        """A forward with its graph, and the target's value; an edited one, which attends eagerly, records no step score."""
        value = partial(evaluate, run.target, packed=packed, kept=run.contrasts)
        if edit is not None:
            return edited_reading(self.adapter, edit, inputs, value, watch)
        with watch:
            reading = self.adapter.read(inputs, differentiable=True)
        if not run.target.passes:
            self._record(reading.logits, packed, run)
        return reading, value(reading.logits)

    def _can_batch(
        self, edit: Edit | None, reading: Reading, cotangents: Tensor, at: Tensor, leaves: Sequence[Tensor]
    ) -> bool:
        """Whether batched products equal single ones on this model under this edit: measured once, at first use."""
        if edit not in self._batched:
            first = slice(0, min(2, at.shape[1]))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    pair = [
                        next(
                            body_gradients(reading.hidden, cotangents[:, first], at[:, first], leaves, 2, batched, keep=True)
                        )[1]
                        for batched in (True, False)
                    ]
                self._batched[edit] = all(_close(a, b) for a, b in zip(*pair, strict=True))
            except (RuntimeError, NotImplementedError) as error:
                if is_out_of_memory(error):
                    raise
                self._batched[edit] = False
        return self._batched[edit]


def apart_of(request: Request[Any], run: Run) -> Target | None:
    """The run's target, where it wants forwards of a kind of its own for a request."""
    wanted = isinstance(request, Score | Gradient) and target_of(request, run) is run.target
    return run.target if wanted and (run.target.passes > 0 or run.target.stepwise) else None


def _originals(packed: Packed, run: Run) -> list[tuple[Job, int]]:
    """The rows of a batch that hold examples themselves, and the jobs they belong to."""
    return [
        (job, rows[job.variants.index(original)])
        for job, rows in packed.jobs
        if (original := job.request.variants.original) is not None
        and original in job.variants
        and id(job.example) in run.step_scores
    ]


def target_of(request: Request[Any], run: Run) -> Target:
    """What a request is about: a function of its own, or the run's target."""
    return run.target if not isinstance(request, Score) or request.target is None else request.target


def _remember(packed: Packed, reading: Reading) -> None:
    for job, rows in packed.jobs:
        if job.memory is not None and job.remembers:
            job.memory.tensors = tuple(tensor[rows.start : rows.stop] for tensor in reading.memory)


def _with_leaves(packed: Packed, edit: Edit | None = None) -> tuple[Inputs, list[Tensor]]:
    """Make the features' embeddings leaves of the graph: the encoder's, the decoder's, or both.

    An edit's rules ask what depends on the input; the context does, though nobody asks for its gradient.
    """
    source, decoder = packed.inputs.source, packed.inputs.decoder
    leaves = []
    if source is not None:
        leaves.append(source := source.detach().requires_grad_())
    if not len(packed.jobs[0][0].example.context):
        leaves.append(decoder := decoder.detach().requires_grad_())
    elif edit is not None:
        decoder = decoder.detach().requires_grad_()
    return replace(packed.inputs, source=source, decoder=decoder), leaves


def _check_values(values: Sequence[Tensor], inputs: Inputs, *, differentiable: bool) -> None:
    """Refuse layers that do not stand between the tokens and the predictions.

    Raises:
        ArgumentError: for values that are not those of the rows' positions, or that depend on no token.
    """
    lengths = {side.shape[1] for side in (inputs.source, inputs.decoder) if side is not None}
    for value in values:
        if (
            value.shape[0] != len(inputs.decoder)
            or value.shape[1] not in lengths
            or (differentiable and not value.requires_grad)
        ):
            raise ArgumentError(
                f"target_layer: values of shape {tuple(value.shape)} do not depend on the tokens at their positions, as those "
                "of position tables do not. Choose a block, its attention or its feed-forward part."
            )


def _taken(leaf: Tensor, edit: Edit | None) -> Tensor:
    """The values that gradients are taken at; beside references, the differences from theirs."""
    if not isinstance(edit, Rescale):
        return leaf
    own, reference = leaf.chunk(2)
    return own - reference


def _close(a: Tensor, b: Tensor) -> bool:
    scale = b.abs().max().clamp_min(1e-12)
    return bool((a - b).abs().max() <= 1e-2 * scale)
