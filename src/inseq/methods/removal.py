"""How a feature is taken from the input."""

from __future__ import annotations

from typing import Any, Literal, get_args

from jaxtyping import Bool
from torch import Tensor

from inseq.errors import ArgumentError, near
from inseq.methods.baselines import baseline_embeds, kept
from inseq.requests import Deleted, Hidden, Replaced, Variants
from inseq.requests.example import Example

Removal = Literal["replace", "delete", "hide"]
"""``"replace"``: the baseline stands in its place. ``"delete"``: it is left out, and what follows moves up, so that a step
whose predicting token is gone is predicted from the token before. ``"hide"``: it keeps its place, but no token attends to
it; a step that is predicted at the hidden token itself still sees that token's own embedding."""


def without(
    x: Example,
    removed: Bool[Tensor, "variant feature"],
    *,
    removal: str,
    baseline: Any = "unk",
    include_eos_baseline: bool = True,
) -> Variants:
    """Variants of an example that lack some features; the decoder's start never goes.

    Raises:
        ArgumentError: for an unknown ``removal``, for a baseline that cannot be used, and where nothing is left to read.
    """
    if removal not in get_args(Removal):
        raise ArgumentError(
            f"removal={removal!r} is not known.{near(removal, get_args(Removal))} Choose 'replace' (by the baseline), "
            "'delete' (what follows moves up) or 'hide' (from attention)."
        )
    if removal == "replace":
        return Replaced(baseline_embeds(x, baseline, include_eos_baseline=include_eos_baseline), removed)
    gone = removed & ~kept(x, include_eos=include_eos_baseline).cpu()
    _check_something_left(x, gone, removal)
    return Deleted(gone) if removal == "delete" else Hidden(gone)


def _check_something_left(x: Example, gone: Bool[Tensor, "variant feature"], removal: str) -> None:
    for role, side in x.sides:
        read = gone[:, side.start : min(side.stop, min(x.apart().visible))]
        if read.all(1).any():
            where = "of the source" if role == "source" else f"before {x.steps[0].token!r}"
            raise ArgumentError(
                f"removal={removal!r} takes all {read.shape[1]} tokens {where} at once, so that nothing is left to read. Use "
                "removal='replace', a smaller window, or a longer input."
            )
