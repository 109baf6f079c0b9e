"""Attention followed through the layers, where an output holds the attention of every position."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.results.aggregate.axes import aggregators
from inseq.results.scores import S, SequenceScores

ENCODER = "encoder_self_attentions"


@aggregators("rollout")
def rollout(output: S) -> S:
    """Fold the layers and heads of the method ``attention`` into the share of each token in the vector that predicts a step.

    The heads of a layer are averaged, (A + I) / 2 counts the residual connection, and layers are multiplied (Abnar and Zuidema
    2020), as by the method ``attention_rollout``, of which these are the very scores. That takes the attention of all
    positions before the last explained one: outputs that explain all tokens but the first have it, so those of
    encoder-decoders with ``attribute_target=True``. The prompt of a decoder-only model has more tokens than one, as a rule,
    and what its positions attend to is not in the output: there the method is the way.

    Args:
        output: an output of ``attention`` with every layer and head.

    Raises:
        ArgumentError: for an output that does not hold what it takes.
    """
    target, source = _whole(output), output.source_attributions
    n, steps = 0 if source is None else len(output.source), target.shape[1]
    shares = torch.eye(steps, steps + n, dtype=target.dtype, device=target.device).roll(n, 1)
    encoder = torch.eye(n, dtype=target.dtype, device=target.device)
    for weights in [] if source is None else _layers(output.sequence_scores[ENCODER]):
        encoder = _with_residual(weights) @ encoder
    crosses = [None] * target.shape[2] if source is None else _layers(source)
    for weights, cross in zip(_layers(target), crosses, strict=True):
        shares = _with_residual(weights) @ shares
        if cross is not None:
            shares = shares / 2
            shares[:, :n] += cross @ encoder / 2
    own = torch.where(target[..., 0, 0].isnan(), torch.nan, shares[:, n:].T)
    return replace(
        output,
        source_attributions=None if source is None else shares[:, :n].T,
        target_attributions=torch.cat([own, own.new_full((1, steps), torch.nan)]),
        sequence_scores={},
        axes=(),
        reduce_by=(),
        normalize=False,
        reduced=(*output.reduced, "rollout over layer and head"),
    )


def _layers(scores: Float[Tensor, "key query layer head"]) -> list[Float[Tensor, "query key"]]:
    """For each layer the mean of its heads."""
    return [layer.T for layer in scores.nan_to_num(0.0).mean(-1).unbind(-1)]


def _with_residual(weights: Float[Tensor, "query key"]) -> Float[Tensor, "query key"]:
    return (weights + torch.eye(len(weights), dtype=weights.dtype, device=weights.device)) / 2


def _whole(output: SequenceScores) -> Float[Tensor, "key query layer head"]:
    """The decoder's attention from each position that predicts a step to each.

    Raises:
        ArgumentError: where something is missing, which it names.
    """
    chosen = [name for name in ("layers", "heads") if (output.info.get("options") or {}).get(name) is not None]
    if output.axes != ("layer", "head") or output.reduced or chosen:
        got = " and ".join(chosen) + " chosen" if chosen else ", ".join([f"axes {output.axes}", *output.reduced])
        raise _missing(
            f"it needs the weights of every layer and head ({got}), as method='attention' gives them with granular=True"
        )
    target = output.target_attributions
    if target is None:
        raise _missing("the decoder's attention to its own tokens is not in this output; pass attribute_target=True")
    if output.spans or output.attr_pos_start != 1:
        raise _missing(
            f"it needs the attention of every position, and this output has that of explained tokens alone, "
            f"{output.positions}, not of what stands before them"
        )
    matrices = {"target_attributions": target}
    if output.source_attributions is not None:
        if ENCODER not in output.sequence_scores:
            raise _missing(f"the encoder's own attention, sequence_scores[{ENCODER!r}], is not in this output")
        matrices |= {"source_attributions": output.source_attributions, ENCODER: output.sequence_scores[ENCODER]}
    for name, weights in matrices.items():
        sums = weights.nansum(0)
        if (weights < 0).any() or (sums > 1.01).any():
            raise _missing(f"{name} are no attention weights, which sum to 1 for each position that attends")
    return target[: target.shape[1]]


def _missing(reason: str) -> ArgumentError:
    return ArgumentError(
        f"aggregate('rollout') cannot follow attention through the layers of this output: {reason}. "
        "method='attention_rollout' computes the same in the model, for any output."
    )
