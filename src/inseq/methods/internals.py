"""Methods that read what the model computes inside."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from inseq.engine.requests import Attended, Capture, Choice, Site
from inseq.methods._method import Attribution, method
from inseq.text.example import Example


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
    scores = rearrange(found["scores"], "step feature ... -> feature step ...")
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
        joined = [torch.cat(parts, -1) for parts in zip(*(self.layers[site] for site in sites_of(self.x)), strict=True)]
        if not self.x.granular:
            return {"scores": torch.stack(joined).mean(0)}
        found = {"scores": rearrange(torch.stack(joined), "layer head step feature -> step feature layer head")}
        if "encoder" in self.layers:
            own = torch.stack(self.layers["encoder"])
            found["encoder"] = rearrange(own, "layer head query key -> key query layer head")
        return found
