"""What the model could have written in place of each explained token, recorded as step scores are."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.requests import Prediction, Target, WrittenLogits
from inseq.requests.example import Example
from inseq.results.alternatives import Alternative, Alternatives
from inseq.text.encode import Encoder

NAME = ""
"""What they are recorded under: a name that no step function can have."""


def checked(n: object, vocabulary: int) -> int:
    """How many are wanted of each token.

    Raises:
        ArgumentError: for anything but a number of tokens that the vocabulary has.
    """
    if type(n) is not int or n < 0:
        raise ArgumentError(
            f"alternatives={n!r} must be a whole number: how many of the most probable tokens are recorded for each explained "
            "one, and 0 for none."
        )
    if n > vocabulary:
        raise ArgumentError(f"alternatives={n} is more than there are: the model's vocabulary has {vocabulary} tokens.")
    return n


def recorded(n: int) -> dict[str, Target]:
    """What the engine records beside step scores: nothing, or the ``n`` most probable tokens."""
    return {NAME: Target(partial(_most_probable, n=n), "alternatives", "none", axes=2, of_written=True)} if n else {}


def alternatives_of(x: Example, found: Tensor | None, encoder: Encoder) -> Alternatives:
    """The tokens of what was recorded for each prediction; a step of several predictions has none.

    Each is read by itself, so that a part of a character says so.
    """
    if found is None:
        return ()
    each = [
        tuple(Alternative(encoder.tokens([int(i)], ["generated"])[0], p) for p, i in pairs) for pairs in found.float().tolist()
    ]
    return tuple(each[part.start] if len(part) == 1 else () for part in x.parts)


def _most_probable(p: Prediction | WrittenLogits, *, n: int) -> Tensor:
    """Float["n token pair"]: probabilities in falling order and, as numbers, the ids that they are of."""
    logits, ids = p.top(n)
    return torch.stack([(logits - p.normalizer[:, None]).exp().clamp_max(1), ids.to(logits)], -1)
