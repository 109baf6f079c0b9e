"""What an attribution found of one text."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.outputs import figures, scores_dicts, showing
from inseq.results.aggregate import axes as aggregation
from inseq.results.aggregate import pipeline
from inseq.results.aggregate.axes import Names, SelectIdx
from inseq.results.alternatives import Alternatives, tokens_of
from inseq.results.files import records
from inseq.results.scores import Scored
from inseq.text.example import Token, joined


@dataclass(kw_only=True, eq=False)
class FeatureAttributionSequenceOutput(Scored):
    """Scores of the input tokens of one sequence, for each generated token that was explained.

    A decoder-only model has its prompt in ``source``, prompt and generation in ``target``, and only
    ``target_attributions``. An encoder-decoder model has ``target`` start with the decoder's start token, and
    ``target_attributions`` only where the target prefix was attributed too.

    Attributes:
        source: tokens of the encoder's input, or the prompt.
        target: the whole target sequence.
        source_attributions: scores of the source tokens, or None.
        target_attributions: scores of the first ``min(len(target), attr_pos_end)`` target tokens, or None; NaN where
            the token was not yet written.
        step_scores: values of step functions at each explained token.
        sequence_scores: other matrices of the call, such as ``"encoder_self_attentions"``, with the same trailing axes.
        attr_pos_start: index in ``target`` of the first explained token.
        attr_pos_end: index in ``target`` after the last one.
        spans: for each step the half-open span of ``target`` that it explains at once; none where each is a single token.
        axes: names of the trailing axes, beyond feature and step.
        reduce_by: default function for each trailing axis, the last axis first.
        normalize: whether the default aggregation makes the magnitudes of each step sum to 1.
        signed: whether a score may be negative, as declared by the method.
        reduced: what aggregation has done so far, in words.
        diagnostics: how far each step can be trusted, such as the completeness ``"delta"``.
        alternatives: for each step the most probable tokens with their probabilities, the first choice first, where
            ``attribute(..., alternatives=)`` recorded them; none of a step of several tokens.
        info: facts of the call.

    Raises:
        ArgumentError: if a tensor does not have a row for each token and a column for each explained token.
    """

    source: list[Token]
    target: list[Token]
    source_attributions: Float[Tensor, "source step *extra"] | None = None
    target_attributions: Float[Tensor, "target step *extra"] | None = None
    step_scores: dict[str, Shaped[Tensor, " step"]] = field(default_factory=dict)
    sequence_scores: dict[str, Float[Tensor, "row column *extra"]] = field(default_factory=dict)
    attr_pos_start: int
    attr_pos_end: int
    spans: tuple[tuple[int, int], ...] = ()
    axes: tuple[str, ...] = ()
    reduce_by: tuple[str, ...] = ()
    normalize: bool = False
    signed: bool = False
    reduced: tuple[str, ...] = ()
    diagnostics: dict[str, Shaped[Tensor, " step"]] = field(default_factory=dict)
    alternatives: Alternatives = ()
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.attr_pos_start <= self.attr_pos_end <= len(self.target):
            raise ArgumentError(
                f"Got positions {self.attr_pos_start} to {self.attr_pos_end} for {len(self.target)} target tokens; "
                "expected 0 <= attr_pos_start <= attr_pos_end <= len(target)."
            )
        if any(not self.attr_pos_start <= start < end <= self.attr_pos_end for start, end in self.spans):
            raise ArgumentError(
                f"Got spans {list(self.spans)}; expected half-open (start, end) pairs from {self.attr_pos_start} to "
                f"{self.attr_pos_end}."
            )
        steps = len(self.positions)
        _expect("source_attributions", self.source_attributions, (len(self.source), steps), len(self.axes))
        _expect("target_attributions", self.target_attributions, (self.attr_pos_end, steps), len(self.axes))
        for name, scores in {**self.step_scores, **self.diagnostics}.items():
            _expect(name, scores, (steps,), 0)
        if self.alternatives and len(self.alternatives) != steps:
            raise ArgumentError(
                f"alternatives has {len(self.alternatives)} entries; expected {steps}, one for each explained token, or none."
            )
        for name, scores in self.sequence_scores.items():
            _expect(name, scores, (*scores.shape[:2], -1, -1)[:2], len(self.axes))

    def __repr__(self) -> str:
        spans = f" in {len(self.spans)} spans" if self.spans else ""
        return (
            f"{type(self).__name__}({len(self.source)} source tokens, {len(self.target)} target tokens, "
            f"explained {self.attr_pos_start}:{self.attr_pos_end}{spans}, axes {('feature', 'step', *self.axes)})"
        )

    def __eq__(self, other: object) -> bool:
        """Same tokens, scores (to 1e-5, NaN equal to NaN) and defaults; ``info`` holds times and is not compared."""
        if not isinstance(other, FeatureAttributionSequenceOutput):
            return NotImplemented
        return same(_found(self), _found(other))

    __hash__ = None  # type: ignore[assignment]

    @property
    def positions(self) -> list[tuple[int, int]]:
        """For each step what it explains: a half-open span of ``target``."""
        return list(self.spans) or [(i, i + 1) for i in range(self.attr_pos_start, self.attr_pos_end)]

    @property
    def generated(self) -> list[Token]:
        """The tokens that are explained: the very objects in ``target``, or one for each span of several."""
        return [joined(self.target[start:end]) for start, end in self.positions]

    @property
    def tokens(self) -> list[Token]:
        """Every token that the output holds: those of the source and of the target, and alternatives."""
        return [*self.source, *self.target, *tokens_of(self.alternatives)]

    def copy(self) -> FeatureAttributionSequenceOutput:
        """Return an output with tokens and dictionaries of its own. Tensors are shared."""
        return replace(
            self,
            source=[token.copy() for token in self.source],
            target=[token.copy() for token in self.target],
            step_scores=dict(self.step_scores),
            sequence_scores=dict(self.sequence_scores),
            diagnostics=dict(self.diagnostics),
            alternatives=tuple(tuple(each.copy() for each in step) for step in self.alternatives),
            info=dict(self.info),
        )

    def aggregate(
        self,
        aggregator: Names = None,
        aggregate_fn: Names = None,
        *,
        normalize: bool | None = None,
        rescale: bool = False,
        select_idx: SelectIdx = None,
        do_pre_aggregation_checks: bool = True,
        do_post_aggregation_checks: bool = True,
        **unknown: Any,
    ) -> FeatureAttributionSequenceOutput:
        """Fold the trailing axes and return a new output; a second call without arguments changes nothing.

        Args:
            aggregator: an aggregation function by name or itself, for every trailing axis; a list of them, for the last
                axis first (a shorter list leaves axes, an empty one does nothing). None and ``"scores"`` are the
                method's default. The name of an aggregator registered with ``inseq.aggregator``, such as ``"subwords"`` or
                ``"spans"``, stands for that, and takes its options. Several are applied from left to right: a list of names,
                of (name, function) pairs, or an ``AggregatorPipeline``.
            aggregate_fn: the same, next to ``aggregator="scores"``; next to others, how they merge scores.
            normalize: whether to make the magnitudes of each step sum to 1 over source and target rows together, after
                each fold. None is the method's default.
            rescale: divide by the largest magnitude, in place of normalising.
            select_idx: along the last trailing axis, one index in place of a fold, or a (start, end) range or a list of
                indices to fold.
            do_pre_aggregation_checks: as in Inseq; what is checked is always checked.
            do_post_aggregation_checks: likewise.

        Raises:
            ArgumentError: for functions that do not fit the axes, or indices out of range.
            UnknownNameError: for a function nobody registered.
            UnknownArgumentError: for any other keyword.
        """
        named = {"normalize": normalize, "select_idx": select_idx, "rescale": rescale or None}
        own = unknown | {name: value for name, value in named.items() if value is not None}
        scored = self.with_tensors()
        if (found := pipeline.staged(scored, aggregator, aggregate_fn, own)) is not None:
            return found
        scores_dicts.refuse(unknown, "aggregate")
        return aggregation.aggregate_scores(
            scored, aggregator, aggregate_fn, normalize=normalize, rescale=rescale, select_idx=select_idx
        )

    show = showing.show
    show_granular = showing.show_granular
    show_tokens = showing.show_tokens
    save_html = showing.save_html
    plot = figures.plot
    tables = showing.tables
    _repr_html_ = showing.repr_html

    def get_scores_dicts(
        self, aggregator: Names = None, do_aggregation: bool = True, **options: Any
    ) -> dict[str, dict[tuple[int, str], dict[Any, float]]]:
        """Return scores by token.

        Returns:
            ``source_attributions`` and ``target_attributions``: (position in the target, token) -> {(position, token):
            score}, without tokens that were not yet written; ``step_scores``: (position in the target, token) ->
            {name: value}.
        """
        scored = self.aggregate(aggregator, **options) if do_aggregation else self.with_tensors()
        return scores_dicts.scores_dicts(scored)

    def __getitem__(self, chosen: int | slice) -> FeatureAttributionSequenceOutput:
        """Some of the input's tokens: of the source, or of a decoder-only model's prompt. What is explained stays."""
        from inseq.results.aggregate.slices import part

        return part(self.with_tensors(), chosen)

    def __iter__(self) -> Any:
        raise TypeError(f"{type(self).__name__} is not a sequence: see its source, target and generated tokens.")

    def __sub__(self, other: FeatureAttributionSequenceOutput) -> FeatureAttributionSequenceOutput:
        """This output's attributions minus another's; see the aggregator ``"pair"``."""
        return self.aggregate("pair", paired_attr=other)

    @property
    def minimum(self) -> float:
        """The lowest score, or 0 where none is below."""
        return min([0.0, *(float(s.nan_to_num(0.0).min()) for s in aggregation.scores_of(self.with_tensors()) if s.numel())])

    @property
    def maximum(self) -> float:
        """The highest score, or 0 where none is above."""
        return max([0.0, *(float(s.nan_to_num(0.0).max()) for s in aggregation.scores_of(self.with_tensors()) if s.numel())])

    def weight_attributions(self, step_fn_id: str) -> FeatureAttributionSequenceOutput:
        """Aggregate by default and multiply each step's scores by its step score, in place.

        Raises:
            ArgumentError: for a step score that was not recorded.
        """
        if step_fn_id not in self.step_scores:
            known = ", ".join(self.step_scores) or "none"
            raise ArgumentError(f"{step_fn_id!r} was not recorded: pass step_scores=[{step_fn_id!r}] (recorded: {known}).")
        vars(self).update(vars(aggregation.weighted(self.aggregate(), step_fn_id)))
        return self

    def decode_tokens(self, tokenizer: Any) -> FeatureAttributionSequenceOutput:
        """Write each token as the tokenizer decodes it by itself, in place; merged tokens stay."""
        for token in self.tokens:
            if token.id >= 0:
                token.token = tokenizer.decode([token.id])
        return self

    def clone(self) -> FeatureAttributionSequenceOutput:
        """Return an output that shares nothing with this one."""
        return self.copy()._apply(Tensor.clone)

    def to_pandas(self) -> Any:
        """The aggregated scores as a data frame: a row for each input token of each step."""
        return records.to_pandas([self.aggregate()])

    def to_csv(self, path: str | Path) -> None:
        """Write the aggregated scores: a line for each input token of each step."""
        records.to_csv([self.aggregate()], path)

    def top_k(self, k: int = 5) -> list[list[dict[str, Any]]]:
        """For each step the input tokens of the largest aggregated scores, the largest first."""
        return records.top_k(self.aggregate(), k)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values; tensors are nested lists, NaN in them is None."""
        return scores_dicts.plain(self)


def _found(output: FeatureAttributionSequenceOutput) -> list[Any]:
    values = {name: value for name, value in vars(output.with_tensors()).items() if name != "info"}
    values["alternatives"] = [
        ([each.token for each in step], torch.tensor([each.probability for each in step])) for step in output.alternatives
    ]
    return list(values.values())


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.allclose(a.double().cpu(), b.double().cpu(), atol=1e-5, equal_nan=True)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) if not isinstance(a, Tensor) and not isinstance(b, Tensor) else False


def _expect(name: str, values: Tensor | None, leading: tuple[int, ...], extra: int) -> None:
    if values is None:
        return
    if tuple(values.shape[: len(leading)]) != leading or values.ndim != len(leading) + extra:
        raise ArgumentError(
            f"{name} has shape {tuple(values.shape)}; expected {leading} and {extra} further axes: "
            "one row for each token, one column for each explained token."
        )
