"""Methods that read what the model computes inside."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from inseq.engine.requests import Capture, Site
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
async def attention(x: Example) -> Attribution:
    """How much the position that writes a token attends to each token before it.

    Source tokens have the weights of the decoder's attention to the encoder, decoder tokens those of its self-attention.
    Attention is not an explanation of the target: it says where information was read, not what it changed.
    """
    sites: tuple[Site, ...] = ("encoder", "cross") if x.n_source else ()
    sites += () if len(x.context) else ("decoder",)

    def read(weights: Tensor) -> Tensor:
        return weights if x.granular else weights.mean(0)

    found = await Capture(x, sites=sites, read=read)
    read_by_decoder = [found[site] for site in sites if site != "encoder"]
    joined = [torch.cat(parts, -1) for parts in zip(*read_by_decoder, strict=True)]
    if not x.granular:
        return Attribution(torch.stack(joined).mean(0).T)
    scores = rearrange(torch.stack(joined), "layer head step feature -> feature step layer head")
    if "encoder" not in found:
        return Attribution(scores)
    own = rearrange(torch.stack(found["encoder"]), "layer head query key -> key query layer head")
    return Attribution(scores, sequence_scores={"encoder_self_attentions": own})
