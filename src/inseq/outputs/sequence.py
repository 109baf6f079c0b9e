"""What an attribution found of one text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inseq.errors import ArgumentError
from inseq.outputs import figures, scores_dicts, showing
from inseq.outputs.tables import tables
from inseq.results.aggregate import axes as aggregation
from inseq.results.aggregate.axes import Names, SelectIdx
from inseq.results.aggregate.pipeline import aggregated
from inseq.results.aggregate.slices import part
from inseq.results.files import records
from inseq.results.scores import SequenceScores


class FeatureAttributionSequenceOutput(SequenceScores):
    """Scores of the input tokens of one sequence, for each generated token that was explained, and what can be done with them.

    The fields are those of ``SequenceScores``.
    """

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
        options = {"normalize": normalize, "rescale": rescale, "select_idx": select_idx, **unknown}
        return aggregated(self, aggregator, aggregate_fn, options)

    show = showing.show
    show_granular = showing.show_granular
    show_tokens = showing.show_tokens
    save_html = showing.save_html
    plot = figures.plot
    tables = tables
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
        return records.plain(self)
