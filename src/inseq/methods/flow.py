"""Which tokens a vector deep in the model is made of: the share of each, followed layer by layer."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from inseq.errors import UnsupportedModelError
from inseq.methods._method import Attribution, method
from inseq.requests import Attended, Capture, Direction, Pieces, Site
from inseq.requests.example import Example


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
        self.encoder = mix if self.encoder is None else mix @ self.encoder.to(mix)

    def through_decoder(self, mix: Float[Tensor, "query key"]) -> None:
        self.decoder = mix @ self.shares(mix)

    def through_cross(self, mix: Float[Tensor, "query source"], kept: Float[Tensor, " query"]) -> None:
        self.decoder = kept[:, None] * self.shares(mix)
        self.decoder[:, : self.x.n_source] += mix if self.encoder is None else mix @ self.encoder.to(mix)

    def through(self, site: Site, mix: Float[Tensor, "query key"], kept: Float[Tensor, " query"]) -> None:
        """Pass one attention; ``kept`` is what a cross-attention leaves of the decoder's own vector."""
        if site == "cross":
            self.through_cross(mix, kept)
        elif site == "encoder":
            self.through_encoder(mix)
        else:
            self.through_decoder(mix)

    def shares(self, like: Float[Tensor, "query key"]) -> Float[Tensor, "query token"]:
        """The shares in the decoder's vectors so far; before the first layer each is its own token."""
        if self.decoder is None:
            self.decoder = pad(torch.eye(len(like), dtype=like.dtype, device=like.device), (self.x.n_source, 0))
        return self.decoder.to(like)

    def at(self, at: Tensor) -> Float[Tensor, "step feature"]:
        """The features' shares in the vectors that predict the steps."""
        assert self.decoder is not None
        return self.features(self.decoder[at.to(self.decoder.device)])

    def features(self, tokens: Float[Tensor, "step token"]) -> Float[Tensor, "step feature"]:
        """What belongs to features; context is left out, tokens that a block has not read have nothing."""
        n = len(self.x.features)
        return pad(tokens, (0, max(0, n - tokens.shape[1])))[:, :n]


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
    given to others, so that a step's scores sum to the source's share. So is what an attention gives to no token, as to the
    learnt sinks of some models.

    Attention is not an explanation of the target: it says where information was read, not what it changed.
    """
    found = await Capture(x, fold=lambda: _Rollout(x), sites=("encoder", "decoder", "cross"))
    return Attribution(found["scores"].transpose(0, 1))


class _Rollout:
    def __init__(self, x: Example) -> None:
        self.flow = Flow(x)
        self.at: Tensor | None = None

    def add(self, seen: Attended) -> None:
        self.at = seen.at
        mix = seen.weights.mean(0) / 2
        if seen.site != "cross":
            if mix.shape[0] != mix.shape[1]:
                raise UnsupportedModelError(
                    f"Layer {seen.layer} of the {seen.site} gives its attention weights as {tuple(mix.shape)}, not from each "
                    "token to each: it attends within windows of its own, which a rollout cannot follow. Use 'attention'."
                )
            mix.diagonal().add_(0.5)
        self.flow.through(seen.site, mix, mix.new_full((len(mix),), 0.5))

    def value(self) -> dict[str, Tensor]:
        assert self.at is not None
        return {"scores": self.flow.at(self.at)}


@method(
    "alti",
    paper="ferrando2022measuring",
    signed=False,
    axes=(),
    reduce_by=(),
    normalize=False,
    uses_target=False,
    needs="values",
)
async def alti(x: Example) -> Attribution:
    """Layer-wise token attributions, followed through the layers: the share of each token in the vector of a step.

    The vector after an attention is its residual, a bias and, from every token j, the piece T(j) that the heads carry
    over: the attention's weight times the token's value (its bias included) through the output projection, and through
    the norm that follows, if one does, with its statistics held. A token counts by how near its piece brings the whole,
    max(0, |y|_1 - |y - T(j)|_1), divided by the sum; the residual belongs to the token's own piece. The matrices are
    multiplied over the layers.

    In an encoder-decoder (Ferrando et al. 2022, "Towards opening the black box": ALTI+) a cross-attention divides the
    vector between the encoder's positions, whose shares are the encoder's own, and the residual, whose shares are the
    decoder's so far. A step's scores sum to 1 over all tokens it has read; where the source alone is attributed, the
    share of the decoder's tokens is left out.

    That the pieces sum to what the model computed is verified at every layer.

    Raises:
        UnsupportedModelError: if the attention does not go through transformers' interface, or the pieces do not sum.
    """
    found = await Capture(x, fold=lambda: _Alti(x), sites=("encoder", "decoder", "cross"), pieces=True)
    return Attribution(found["scores"].transpose(0, 1))


class _Alti:
    def __init__(self, x: Example) -> None:
        self.flow = Flow(x)
        self.at: Tensor | None = None

    def add(self, seen: Attended) -> None:
        assert seen.pieces is not None
        self.at = seen.at
        self.flow.through(seen.site, *contributions(seen.pieces, own=seen.site != "cross"))

    def value(self) -> dict[str, Tensor]:
        assert self.at is not None
        return {"scores": self.flow.at(self.at)}


def contributions(pieces: Pieces, *, own: bool) -> tuple[Float[Tensor, "query key"], Float[Tensor, " query"]]:
    """What each key, and the residual, contributes to each vector; together 1.

    ``own`` says that the keys are the queries themselves, so that a residual is part of its own key's piece. Where no
    part is near the whole, the vector is its residual.
    """
    mix: Tensor | None = None
    kept = pieces.total.new_empty(len(pieces.total))
    for queries, parts in pieces.chunks(torch.arange(len(pieces.total))):
        total, residual = pieces.total[queries], pieces.residual[queries]
        if own:
            parts[torch.arange(len(queries), device=queries.device), queries] += residual
            apart = total.new_zeros(len(queries))
        else:
            apart = nearness(residual[:, None], total)[:, 0]
        near = nearness(parts, total)
        whole = near.sum(1) + apart
        lost = whole == 0
        near, apart = near / whole.masked_fill(lost, 1)[:, None], apart / whole.masked_fill(lost, 1)
        if own:
            near[lost, queries[lost]] = 1
        mix = near.new_empty(len(kept), near.shape[1]) if mix is None else mix
        mix[queries], kept[queries] = near, apart.masked_fill(lost, 1)
    assert mix is not None
    return mix, kept


def nearness(parts: Float[Tensor, "query key dim"], total: Float[Tensor, "query dim"]) -> Float[Tensor, "query key"]:
    """By how much a part shortens the way to the whole, in the Manhattan norm; not below zero."""
    return (total.abs().sum(-1)[:, None] - (total[:, None] - parts).abs().sum(-1)).clamp_min(0)


@method(
    "alti_logit",
    paper="ferrando2023explaining",
    signed=True,
    axes=(),
    reduce_by=(),
    normalize=False,
    uses_target=False,
    needs="values",
)
async def alti_logit(x: Example) -> Attribution:
    """What each token adds to the written token's logit through the attention of every layer.

    The logit is a dot product with the last layer's output once the final norm's statistics are held, and that output is
    a sum: the token's own embedding, and what every attention and every feed-forward layer added. The piece that a layer's
    attention carries over from a position changes the logit by its dot product; that belongs to the tokens by their shares
    in the position's vector below the layer, which are those of ``alti``. Pieces from the encoder belong to the source
    tokens by the encoder's shares. The embedding at the step's own position belongs to its token.

    The diagnostic ``unassigned`` is the rest of the logit: feed-forward layers and biases. Where it outweighs the scores, the
    feed-forward layers decided, and the scores say little. The logit is that of the
    vocabulary matrix, before any cap or scale that a model puts on it. Where the source alone is attributed, what belongs to
    the decoder's tokens is left out; it is not part of the rest.

    Raises:
        UnsupportedModelError: see ``alti``; and for models that norm the residual stream itself, or that do more than norm
            and scale before the vocabulary matrix, as the logit is then no sum over layers.
    """
    end = await Direction(x)
    found = await Capture(x, fold=lambda: _AltiLogit(x, end["direction"]), sites=("encoder", "decoder", "cross"), pieces=True)
    unassigned = end["logit"] - found["assigned"]
    return Attribution(found["scores"].transpose(0, 1), {"unassigned": unassigned})


class _AltiLogit:
    """The parts of the logits of a block's steps, over all tokens, summed as the layers come."""

    def __init__(self, x: Example, directions: Float[Tensor, "step dim"]) -> None:
        self.x = x
        self.flow = Flow(x)
        self.directions = directions
        self.scores: Tensor | None = None

    def add(self, seen: Attended) -> None:
        pieces = seen.pieces
        assert pieces is not None
        mix, kept = contributions(pieces, own=seen.site != "cross")
        if seen.site != "encoder":
            self._add_logits(seen, pieces, mix)
        self.flow.through(seen.site, mix, kept)

    def _add_logits(self, seen: Attended, pieces: Pieces, mix: Tensor) -> None:
        if not pieces.additive:
            raise UnsupportedModelError(
                f"A logit of this model is no sum of what its layers add: layer {seen.layer} norms or changes the residual "
                "stream after its attention. Use 'alti', which follows the tokens' shares through it, or 'input_x_gradient'."
            )
        at = seen.at.to(mix.device)
        steps = torch.searchsorted(self.x.at.cpu(), seen.at.cpu())
        directions = self.directions[steps].to(mix)
        below = self.flow.shares(mix) if seen.site == "decoder" else self.flow.encoder
        if self.scores is None:
            own = (pieces.before[at] * directions).sum(-1)
            self.scores = own[:, None] * self.flow.shares(mix)[at]
        start = 0
        for queries, parts in pieces.chunks(at):
            block = slice(start, start := start + len(queries))
            change = torch.einsum("qkd,qd->qk", parts, directions[block])
            carried = change if below is None else change @ below.to(change)
            self.scores[block, : carried.shape[1]] += carried.to(self.scores)

    def value(self) -> dict[str, Tensor]:
        assert self.scores is not None
        return {"scores": self.flow.features(self.scores), "assigned": self.scores.sum(1)}
