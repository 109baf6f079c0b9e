"""Methods that read what the model computes inside."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from inseq.methods._method import Attribution, method
from inseq.methods._options import one_of
from inseq.requests import Altered, Attended, Capture, Choice, HeadChoice, Replay, Site
from inseq.requests.example import Example


@method("dummy", paper="", signed=False, axes=(), reduce_by=(), normalize=False, uses_target=False)
async def dummy(x: Example) -> Attribution:
    """Attribute nothing: for step scores alone."""
    return Attribution(None)


@method(
    "attention",
    paper="bahdanau2015neural",
    signed=False,
    axes=("layer", "head"),
    reduce_by=("mean", "mean"),
    normalize=True,
    uses_target=False,
    needs="attention",
    encoder_matrix=True,
)
async def attention(x: Example, *, layers: Choice = None, heads: Choice = None) -> Attribution:
    """How much the position that writes a token attends to each token before it.

    Source tokens have the weights of the decoder's attention to the encoder, decoder tokens those of its self-attention.
    Attention is not an explanation of the target: it says where information was read, not what it changed.

    Args:
        x: the example.
        layers: the decoder's layers, all by default: an index, a list, or a (start, end) range; negative from the end.
        heads: the decoder's heads, likewise. Where layers or heads are chosen, the encoder's own attention is left out.
    """
    whole = x.granular and layers is None and heads is None
    own: tuple[Site, ...] = ("encoder",) if x.n_source and whole else ()
    found = await Capture(x, fold=lambda: _Weights(x), sites=(*own, *sites_of(x)), layers=layers, heads=heads)
    scores = found["scores"].transpose(0, 1)
    return Attribution(scores, sequence_scores={"encoder_self_attentions": found["encoder"]} if own else {})


def sites_of(x: Example) -> tuple[Site, ...]:
    """The attentions by which the decoder reads the features."""
    source: tuple[Site, ...] = ("cross",) if x.n_source else ()
    return source if len(x.context) else (*source, "decoder")


class _Weights:
    """Attention weights of the steps' queries; where the example is not granular, their mean over heads and layers."""

    def __init__(self, x: Example) -> None:
        self.x = x
        self.layers: dict[Site, list[Tensor]] = {}

    def add(self, seen: Attended) -> None:
        x = self.x
        if seen.site == "encoder":
            weights = seen.weights
        else:
            weights = seen.at_steps(x.n_source if seen.site == "cross" else x.n_decoder)
        self.layers.setdefault(seen.site, []).append((weights if x.granular else weights.mean(0)).cpu())

    def value(self) -> dict[str, Tensor]:
        sites = zip(*(self.layers[site] for site in sites_of(self.x)), strict=True)
        joined = [torch.cat(parts, -1) if len(parts) > 1 else parts[0] for parts in sites]
        if not self.x.granular:
            return {"scores": torch.stack(joined).mean(0)}
        weights: Float[Tensor, "layer head step feature"] = torch.stack(joined)
        found = {"scores": weights.permute(2, 3, 0, 1)}
        if "encoder" in self.layers:
            own: Float[Tensor, "layer head query key"] = torch.stack(self.layers["encoder"])
            found["encoder"] = own.permute(3, 2, 0, 1)
        return found


@method(
    "value_zeroing",
    paper="mohebbi2023quantifying",
    signed=False,
    axes=("layer",),
    reduce_by=("mean",),
    normalize=True,
    uses_target=False,
    needs="values",
    encoder_matrix=True,
)
async def value_zeroing(
    x: Example,
    *,
    layers: Choice = None,
    heads: HeadChoice = None,
    metric: Literal["cosine", "euclidean"] = "cosine",
) -> Attribution:
    """How far a layer's output moves, at the position that writes a token, when another token's value vectors are zeroed.

    Each layer is changed by itself: it is run again from its clean inputs, once for every token, whose value vectors are
    nought in all heads or in chosen ones. The distance of the layer's outputs is 1 - cos. As in the paper, the distances
    of one attention at one position are divided by their sum, and small ones are kept; where nothing moves, all are 0.

    Source tokens are zeroed in the decoder's attention to the encoder, decoder tokens in its self-attention, each with
    rows of its own that sum to 1. ``encoder_self_scores`` of a granular result is the same for the encoder's
    self-attention: Float["key query layer"].

    Args:
        x: the example.
        layers: the decoder's layers, all by default: an index, a list, or a (start, end) range; negative from the end.
        heads: the decoder's query heads, likewise, or a mapping from layers to heads. Where layers or heads are chosen, the
            encoder's own scores are left out.
        metric: ``"cosine"``, or ``"euclidean"`` for the length of the difference.

    Raises:
        ArgumentError: for another metric, and for layers or heads that the model does not have.
        UnsupportedModelError: if the model's attention does not go through transformers' interface.
    """
    one_of("metric", metric, DISTANCES)
    whole = x.granular and layers is None and heads is None
    own: tuple[Site, ...] = ("encoder",) if x.n_source and whole else ()
    found = await Replay(
        x,
        fold=lambda: _Changes(x),
        distance=DISTANCES[metric],
        sites=(*own, *sites_of(x)),
        layers=layers,
        heads=heads,
    )
    scores = found["scores"].transpose(0, 1)
    return Attribution(scores, sequence_scores={"encoder_self_scores": found["encoder"]} if own else {})


def cosine_distance(
    clean: Float[Tensor, "query dim"], altered: Float[Tensor, "token query dim"]
) -> Float[Tensor, "token query"]:
    """1 - cos, from the difference of the unit vectors: half its square, to which no digits are lost."""
    return (unit(altered) - unit(clean)).square().sum(-1) / 2


def euclidean_distance(
    clean: Float[Tensor, "query dim"], altered: Float[Tensor, "token query dim"]
) -> Float[Tensor, "token query"]:
    """The length of the difference."""
    return torch.linalg.vector_norm(altered - clean, dim=-1)


def unit(vectors: Float[Tensor, "*row dim"]) -> Float[Tensor, "*row dim"]:
    """Vectors of length 1; what has no length stays so."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / torch.where(length > 0, length, 1)


DISTANCES = {"cosine": cosine_distance, "euclidean": euclidean_distance}


class _Changes:
    """Rows of changes that sum to 1, layer by layer; where the example is not granular, their mean."""

    def __init__(self, x: Example) -> None:
        self.x = x
        self.layers: dict[Site, list[Tensor]] = {}

    def add(self, seen: Altered) -> None:
        total = seen.changes.sum(0)
        rows = (seen.changes / torch.where(total > 0, total, 1)).T
        if seen.site == "decoder":
            rows = pad(rows, (0, self.x.n_decoder - rows.shape[1]))
        self.layers.setdefault(seen.site, []).append(rows.cpu())

    def value(self) -> dict[str, Tensor]:
        scores = torch.cat([torch.stack(self.layers[site], -1) for site in sites_of(self.x)], 1)
        if not self.x.granular:
            return {"scores": scores.mean(-1)}
        found = {"scores": scores}
        if "encoder" in self.layers:
            own: Float[Tensor, "layer query key"] = torch.stack(self.layers["encoder"])
            found["encoder"] = own.permute(2, 1, 0)
        return found
