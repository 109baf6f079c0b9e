"""What the reliance of an output on its context was found to be (PECoRe, sarti2024quantifying)."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from inseq.errors import ArgumentError, FileFormatError, writing


@dataclass
class CCIOutput:
    """The cues of one context-sensitive token.

    Attributes:
        cti_idx: its index among the tokens of the current output.
        cti_token: the token.
        cti_score: how much the context changed its prediction.
        contextual_output: the output up to and with it.
        contrast_token: what the target compares it with, where the target is contrastive.
        contextless_output: the output up to and with that.
        input_context_scores: a score for each token of the input's context.
        output_context_scores: a score for each token of the output's context.
    """

    cti_idx: int
    cti_token: str
    cti_score: float
    contextual_output: str
    contrast_token: str | None = None
    contextless_output: str | None = None
    input_context_scores: list[float] | None = None
    output_context_scores: list[float] | None = None

    @property
    def all_scores(self) -> list[float]:
        """The scores of both contexts."""
        return [*(self.input_context_scores or []), *(self.output_context_scores or [])]

    @property
    def minimum(self) -> float:
        """The least score, 0 at most."""
        return min([0.0, *self.all_scores])

    @property
    def maximum(self) -> float:
        """The largest score, 0 at least."""
        return max([0.0, *self.all_scores])

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass
class ContextScores:
    """Which tokens of an output depend on the context, and on which of the context's tokens.

    Attributes:
        input_context: the context in the input.
        input_context_tokens: its tokens.
        output_context: the context in the output.
        output_context_tokens: its tokens.
        output_current: the output that was examined.
        output_current_tokens: its tokens.
        cti_scores: how much the context changed the prediction of each of them.
        cci_scores: the cues of those that were selected, the most sensitive first.
        info: what was asked for.
    """

    input_context: str | None = None
    input_context_tokens: list[str] | None = None
    output_context: str | None = None
    output_context_tokens: list[str] | None = None
    output_current: str | None = None
    output_current_tokens: list[str] | None = None
    cti_scores: list[float] | None = None
    cci_scores: list[CCIOutput] = field(default_factory=list)
    info: dict[str, Any] | None = None

    @property
    def cci_all_scores(self) -> list[float]:
        """The scores of all cues of all tokens."""
        return [score for cci in self.cci_scores for score in cci.all_scores]

    @property
    def min_cti(self) -> float:
        return min(self.cti_scores or [0.0])

    @property
    def max_cti(self) -> float:
        return max(self.cti_scores or [0.0])

    @property
    def mean_cti(self) -> float:
        return statistics.fmean(self.cti_scores or [0.0])

    @property
    def std_cti(self) -> float:
        return deviation(self.cti_scores or [])

    @property
    def min_cci(self) -> float:
        return min([0.0, *self.cci_all_scores])

    @property
    def max_cci(self) -> float:
        return max([0.0, *self.cci_all_scores])

    @property
    def mean_cci(self) -> float:
        return statistics.fmean(self.cci_all_scores or [0.0])

    @property
    def std_cci(self) -> float:
        return deviation(self.cci_all_scores)

    @property
    def input_context_scores(self) -> list[list[float] | None] | None:
        """For each selected token the scores of the input's context."""
        found = [cci.input_context_scores for cci in self.cci_scores]
        return None if not found or found[0] is None else found

    @property
    def output_context_scores(self) -> list[list[float] | None] | None:
        """For each selected token the scores of the output's context."""
        found = [cci.output_context_scores for cci in self.cci_scores]
        return None if not found or found[0] is None else found

    def to_dict(self) -> dict[str, Any]:
        """Plain values; ``info`` is left out where it is None."""
        found = asdict(self)
        if self.info is None:
            del found["info"]
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` gave.

        Raises:
            FileFormatError: for anything else.
        """
        known = {f.name for f in fields(cls)}
        if not isinstance(values, Mapping) or not isinstance(values.get("cci_scores"), list):
            raise FileFormatError("Not a context attribution: it should be an object with a list 'cci_scores'.")
        try:
            cues = [CCIOutput(**cues) for cues in values["cci_scores"]]
            return cls(**{k: v for k, v in values.items() if k in known and k != "cci_scores"}, cci_scores=cues)
        except TypeError as error:
            raise FileFormatError(f"Damaged context attribution: {error}.") from error

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write JSON.

        Raises:
            ArgumentError: if the path exists and ``overwrite`` is not set.
        """
        if Path(path).exists() and not overwrite:
            raise ArgumentError(f"{str(path)!r} exists; choose another path, or pass overwrite=True.")
        with writing(path):
            Path(path).write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote, as data."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            if isinstance(error, FileFormatError):
                raise
            raise FileFormatError(f"Cannot read {str(path)!r} as a context attribution: {error}.") from error


def deviation(scores: list[float]) -> float:
    """The standard deviation of a sample; 0 of fewer than two."""
    return statistics.stdev(scores) if len(scores) > 1 else 0.0


def selected(scores: Iterable[float], std_threshold: float | None, topk: int | None) -> list[int]:
    """Which scores stand out, the largest magnitude first.

    Args:
        scores: all of them.
        std_threshold: by how many standard deviations a magnitude reaches above the mean score; None for 0 as the threshold.
        topk: how many are kept at most; None for all.
    """
    scores = list(scores)
    if not scores:
        return []
    limit = 0.0 if std_threshold is None else statistics.fmean(scores) + std_threshold * deviation(scores)
    kept = [i for i, score in enumerate(scores) if abs(score) >= limit]
    return sorted(kept, key=lambda i: -abs(scores[i]))[: topk or None]
