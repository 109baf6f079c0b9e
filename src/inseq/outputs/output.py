"""What an attribution found: one output for each sequence, one container for each call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inseq.errors import ArgumentError
from inseq.outputs import figures, saving, showing
from inseq.outputs.sequence import FeatureAttributionSequenceOutput
from inseq.outputs.tables import tables
from inseq.results.aggregate.axes import Names
from inseq.results.files import document, records
from inseq.results.scores import Device, Scored, same
from inseq.results.steps import FeatureAttributionStepOutput

SAME_CALL = ("attribution_method", "attributed_fn", "model_name")


@dataclass(eq=False)
class FeatureAttributionOutput:
    """The outputs of one call, one for each text.

    Attributes:
        sequence_attributions: one output for each text, in the order given.
        step_attributions: the same scores step by step, where that was asked for.
        info: facts of the call.
    """

    sequence_attributions: list[FeatureAttributionSequenceOutput]
    step_attributions: list[FeatureAttributionStepOutput] | None = None
    info: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        said = [f"{len(self)} sequence" + ("" if len(self) == 1 else "s")]
        facts = {"method": "attribution_method", "attributed_fn": "attributed_fn", "model": "model_name"}
        said += [f"{name} {self.info[key]!r}" for name, key in facts.items() if self.info.get(key) is not None]
        said += [f"{len(self.step_attributions)} steps"] if self.step_attributions is not None else []
        return f"{type(self).__name__}({', '.join(said)})"

    def __len__(self) -> int:
        return len(self.sequence_attributions)

    def __iter__(self) -> Iterator[FeatureAttributionSequenceOutput]:
        return iter(self.sequence_attributions)

    def __getitem__(self, index: int) -> FeatureAttributionSequenceOutput:
        return self.sequence_attributions[index]

    def __radd__(self, other: Any) -> FeatureAttributionOutput:
        """So that outputs can be summed."""
        return self if other == 0 else NotImplemented

    def __add__(self, other: FeatureAttributionOutput) -> FeatureAttributionOutput:
        return merge_attributions([self, other])

    def __eq__(self, other: object) -> bool:
        """Equal sequences; ``info`` holds times and is not compared."""
        if not isinstance(other, FeatureAttributionOutput):
            return NotImplemented
        return self.sequence_attributions == other.sequence_attributions

    __hash__ = None  # type: ignore[assignment]

    def aggregate(self, aggregator: Names = None, aggregate_fn: Names = None, **options: Any) -> FeatureAttributionOutput:
        """Aggregate every sequence; see ``FeatureAttributionSequenceOutput.aggregate``. Steps stay as they are."""
        sequences = [sequence.aggregate(aggregator, aggregate_fn, **options) for sequence in self]
        return replace(self, sequence_attributions=sequences, info=dict(self.info))

    show = showing.show
    show_granular = showing.show_granular
    show_tokens = showing.show_tokens
    save_html = showing.save_html
    plot = figures.plot
    tables = tables
    _repr_html_ = showing.repr_html

    def get_scores_dicts(
        self, aggregator: Names = None, do_aggregation: bool = True, **options: Any
    ) -> list[dict[str, dict[tuple[int, str], dict[Any, float]]]]:
        """Return the scores of every sequence by token."""
        return [sequence.get_scores_dicts(aggregator, do_aggregation, **options) for sequence in self]

    def weight_attributions(self, step_fn_id: str) -> FeatureAttributionOutput:
        """Weight every sequence in place; see ``FeatureAttributionSequenceOutput.weight_attributions``."""
        for sequence in self:
            sequence.weight_attributions(step_fn_id)
        return self

    def decode_tokens(self, tokenizer: Any) -> FeatureAttributionOutput:
        """Write every sequence's tokens as the tokenizer decodes them, in place."""
        for sequence in self:
            sequence.decode_tokens(tokenizer)
        return self

    def to(self, device: Device) -> FeatureAttributionOutput:
        """Move all scores, in place."""
        return self._each(lambda found: found.to(device))

    def numpy(self) -> FeatureAttributionOutput:
        """Put NumPy arrays in the place of all tensors, and return the output itself."""
        return self._each(Scored.numpy)

    def torch(self) -> FeatureAttributionOutput:
        """Put tensors in the place of all arrays, and return the output itself."""
        return self._each(Scored.torch)

    def _each(self, change: Callable[[Scored], Any]) -> FeatureAttributionOutput:
        for found in [*self.sequence_attributions, *(self.step_attributions or [])]:
            change(found)
        return self

    def to_pandas(self) -> Any:
        """The aggregated scores as a data frame: a row for each input token of each step of each text."""
        return records.to_pandas([sequence.aggregate() for sequence in self])

    def to_csv(self, path: str | Path) -> None:
        """Write the aggregated scores: a line for each input token of each step of each text."""
        records.to_csv([sequence.aggregate() for sequence in self], path)

    def top_k(self, k: int = 5) -> list[list[list[dict[str, Any]]]]:
        """For each text and step the input tokens of the largest aggregated scores."""
        return [sequence.top_k(k) for sequence in self]

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values."""
        return {"sequence_attributions": [sequence.to_dict() for sequence in self], "info": records.plain(self.info)}

    save = saving.save

    @staticmethod
    def load(path: str | Path, decompress: bool = False) -> FeatureAttributionOutput:
        """Read a file written by ``save``, or by that of Inseq 0.5 to 0.7. Nothing in it is run or imported.

        Args:
            path: the file. What it is, and whether it is compressed, is told from its content.
            decompress: kept for Inseq's sake.

        Raises:
            FileFormatError: which names the field that is not as it should be.
            ArgumentError: if the path is none.
        """
        return FeatureAttributionOutput(*document.read(path, FeatureAttributionSequenceOutput))


def merge_attributions(attributions: list[FeatureAttributionOutput]) -> FeatureAttributionOutput:
    """Join the outputs of several calls of the same method on the same model.

    Facts that differ between the calls are left out, but texts are joined and times added.

    Raises:
        ArgumentError: for an empty list, or where method, attributed function or model differ.
    """
    if not isinstance(attributions, (list, tuple)) or any(not isinstance(a, FeatureAttributionOutput) for a in attributions):
        raise ArgumentError(f"Expected a list of FeatureAttributionOutput, got {type(attributions).__name__}.")
    if not attributions:
        raise ArgumentError("Got an empty list; expected at least one output to merge.")
    for key in SAME_CALL:
        values = [attribution.info.get(key) for attribution in attributions]
        if any(value != values[0] for value in values):
            raise ArgumentError(f"Outputs to merge have different {key}: {values}; merge those of one kind only.")
    steps = [attribution.step_attributions for attribution in attributions]
    return FeatureAttributionOutput(
        [sequence for attribution in attributions for sequence in attribution],
        [step for kept in steps for step in kept or []] if all(kept is not None for kept in steps) else None,
        _merged_info([attribution.info for attribution in attributions]),
    )


def _merged_info(infos: list[dict[str, Any]]) -> dict[str, Any]:
    merged = {key: value for key, value in infos[0].items() if all(_agree(info.get(key), value) for info in infos)}
    for key in records.OF_EACH:
        lists = [info[key] for info in infos if isinstance(info.get(key), list)]
        if len(lists) == len(infos):
            merged[key] = [text for texts in lists for text in texts]
    times = [info["exec_time"] for info in infos if isinstance(info.get("exec_time"), (int, float))]
    return {**merged, "exec_time": sum(times)} if len(times) == len(infos) else merged


def _agree(a: Any, b: Any) -> bool:
    return type(a) is type(b) and same(a, b)
