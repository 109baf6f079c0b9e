"""Which tokens a vector deep in the model is made of: the share of each, followed layer by layer."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from inseq.engine.requests import Attended, Capture
from inseq.methods._method import Attribution, method
from inseq.text.example import Example


class Flow:
    """The shares of all tokens in each position's vector; every row sums to 1.

    The encoder's tokens come first. Each attention mixes the rows: a self-attention's ``mix`` holds the residual on its
    diagonal; in a cross-attention the decoder's own vector keeps the share ``kept`` of itself and takes the rest from
    the encoder's last vectors, which by then hold shares of the source tokens.
    """

    def __init__(self, x: Example) -> None:
        self.x = x
        self.encoder: Tensor | None = None
        self.decoder: Tensor | None = None

    def through_encoder(self, mix: Float[Tensor, "query key"]) -> None:
        self.encoder = mix if self.encoder is None else mix @ self.encoder

    def through_decoder(self, mix: Float[Tensor, "query key"]) -> None:
        self.decoder = mix @ self.shares(mix)

    def through_cross(self, mix: Float[Tensor, "query source"], kept: Float[Tensor, " query"]) -> None:
        assert self.decoder is not None
        self.decoder = kept[:, None] * self.decoder
        self.decoder[:, : self.x.n_source] += mix if self.encoder is None else mix @ self.encoder

    def shares(self, like: Float[Tensor, "query key"]) -> Float[Tensor, "query token"]:
        """The shares in the decoder's vectors so far; before the first layer each is its own token."""
        if self.decoder is None:
            self.decoder = pad(torch.eye(len(like), dtype=like.dtype, device=like.device), (self.x.n_source, 0))
        return self.decoder

    def at(self, at: Tensor) -> Float[Tensor, "step feature"]:
        """The features' shares in the vectors that predict the steps; what is not a feature is left out."""
        assert self.decoder is not None
        found = self.decoder[at.to(self.decoder.device)]
        n = len(self.x.features)
        return pad(found, (0, max(0, n - found.shape[1])))[:, :n]


@method(
    "attention_rollout",
    paper="abnar2020quantifying",
    signed=False,
    axes=(),
    reduce_by=(),
    normalize=False,
    uses_target=False,
    needs="attention",
)
async def attention_rollout(x: Example) -> Attribution:
    """Attention followed through the layers: the share of each token in the vector that predicts a step.

    A layer's attention, its heads averaged, counts for one half and the residual connection for the other:
    (A + I) / 2, multiplied over the layers. In an encoder-decoder the decoder's row goes over source and decoder tokens:
    a self-attention mixes the rows of the decoder's positions likewise; a cross-attention halves the row and adds half
    of the attended encoder positions' rows, which are the encoder's own rollout. A step's scores sum to 1 over all
    tokens it has read. Where the source alone is attributed, the share of the decoder's tokens is left out and not
    given to others, so that a step's scores sum to the source's share.

    Attention is not an explanation of the target: it says where information was read, not what it changed.
    """
    found = await Capture(x, fold=lambda: _Rollout(x), sites=("encoder", "decoder", "cross"))
    return Attribution(rearrange(found["scores"], "step feature -> feature step"))


class _Rollout:
    def __init__(self, x: Example) -> None:
        self.flow = Flow(x)
        self.at: Tensor | None = None

    def add(self, seen: Attended) -> None:
        half = seen.weights.mean(0) / 2
        self.at = seen.at
        if seen.site == "cross":
            self.flow.through_cross(half, half.new_full(half.shape[:1], 0.5))
            return
        half.diagonal().add_(0.5)
        through = self.flow.through_encoder if seen.site == "encoder" else self.flow.through_decoder
        through(half)

    def value(self) -> dict[str, Tensor]:
        assert self.at is not None
        return {"scores": self.flow.at(self.at)}
