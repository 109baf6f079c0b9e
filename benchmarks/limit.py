"""The floating-point operations that a result strictly needs, a multiplication and an addition being two.

Matrix products alone are counted. A gradient costs what its forward costs for the products with weights (no weight needs a
gradient), and twice that for the two products of an attention, each of which has two factors that depend on the input. What is
exact in less work, such as a last layer in which only one row of a step has a gradient, is *not* deducted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """What of a transformer's shape decides its work.

    Attributes:
        layers: decoder layers.
        encoder_layers: encoder layers, of the same sizes; 0 of a decoder-only model.
        width: of the residual stream.
        heads: query heads.
        queries: width of all query heads together.
        keys: width of all key heads together, which is that of the values.
        inner: width inside a feed-forward layer.
        gated: whether a feed-forward layer has a gate beside its first matrix.
        vocabulary: words.
    """

    layers: int
    encoder_layers: int
    width: int
    heads: int
    queries: int
    keys: int
    inner: int
    gated: bool
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> Sizes:
        """Read a transformers configuration of GPT-2, Llama or Marian."""
        width, heads = config.hidden_size, config.num_attention_heads
        grouped = getattr(config, "num_key_value_heads", None) or heads
        named = (getattr(config, name, None) for name in ("intermediate_size", "n_inner", "decoder_ffn_dim"))
        inner = next((size for size in named if size), 4 * width)
        return cls(
            layers=config.decoder_layers if config.is_encoder_decoder else config.num_hidden_layers,
            encoder_layers=config.encoder_layers if config.is_encoder_decoder else 0,
            width=width,
            heads=heads,
            queries=width,
            keys=width * grouped // heads,
            inner=inner,
            gated=config.model_type == "llama",
            vocabulary=config.vocab_size,
        )

    @property
    def attention(self) -> int:
        """Weights of one self-attention."""
        return 2 * self.width * (self.queries + self.keys)

    @property
    def feed_forward(self) -> int:
        """Weights of one feed-forward layer."""
        return (2 + self.gated) * self.width * self.inner


def pairs(tokens: int, before: int = 0) -> int:
    """Pairs of a token and what it attends to: itself, those before it in the text, and `before` cached ones."""
    return tokens * (tokens + 1) // 2 + tokens * before


def body(sizes: Sizes, tokens: int, before: int = 0, products: int = 2) -> int:
    """All layers over `tokens` positions that also see `before` cached ones, without the head; 2 products in an attention."""
    weights = 2 * (sizes.attention + sizes.feed_forward) * tokens
    return sizes.layers * (weights + 2 * products * sizes.queries * pairs(tokens, before))


def head(sizes: Sizes, rows: int) -> int:
    """The vocabulary matrix at some positions."""
    return 2 * sizes.width * sizes.vocabulary * rows


def backward(sizes: Sizes, tokens: int) -> int:
    """The gradient of all layers' input: as a forward, with 4 products in an attention."""
    return body(sizes, tokens, products=4)


def scores(sizes: Sizes, n: int, t: int) -> int:
    """The prediction of each of `t` generated tokens after `n` others: what step scores need."""
    return body(sizes, n + t - 1) + head(sizes, t)


def gradients(sizes: Sizes, n: int, t: int, nodes: int = 1) -> int:
    """One forward, the head and its gradient at the explained rows, and for each step a backward over its own prefix."""
    if sizes.encoder_layers:
        return nodes * _translated(sizes, n, t)
    return nodes * (scores(sizes, n, t) + head(sizes, t) + sum(backward(sizes, n + step) for step in range(t)))


def span(sizes: Sizes, n: int, t: int) -> int:
    """The gradient of one sum over `t` generated tokens: one backward."""
    return scores(sizes, n, t) + head(sizes, t) + backward(sizes, n + t - 1)


def occlusion(sizes: Sizes, n: int, t: int) -> int:
    """A forward, and for each token another from it on, with the head at the explained rows that see it."""
    tokens = n + t - 1
    return scores(sizes, n, t) + sum(
        body(sizes, tokens - j, before=j) + head(sizes, min(t, tokens - j)) for j in range(tokens)
    )


def samples(sizes: Sizes, n: int, t: int, count: int) -> int:
    """A forward of the whole text for each sample."""
    return count * scores(sizes, n, t)


def attention(sizes: Sizes, n: int, t: int) -> int:
    """One forward without the head."""
    return body(sizes, n + t - 1)


def value_zeroing(sizes: Sizes, n: int, t: int) -> int:
    """A forward, and for each layer, token and later token what the layer puts out without the former's values.

    Without a token's values, an attention's output loses one vector per head, scaled by its weight: a product of rank `heads`.
    So does the output of the feed-forward layer's first matrix, up to a norm's two scalars: only the second is needed in full.
    """
    tokens, wide = n + t - 1, sizes.inner * (1 + sizes.gated)
    prepared = 2 * sizes.queries * sizes.width * tokens + 2 * sizes.heads * sizes.width * wide * tokens
    each = 2 * sizes.heads * (sizes.width + wide) + 2 * sizes.inner * sizes.width
    return body(sizes, tokens) + sizes.layers * (prepared + each * pairs(tokens))


def _translated(sizes: Sizes, n: int, t: int) -> int:
    """Gradients of an encoder's `n` tokens; a step's prefix in the decoder begins with its start."""
    forward = encoded(sizes, n) + decoded(sizes, n, t) + 2 * head(sizes, t)
    return forward + sum(decoded_backward(sizes, n, step + 1) + encoded(sizes, n, products=4) for step in range(t))


def encoded(sizes: Sizes, n: int, products: int = 2) -> int:
    """All encoder layers, forward with 2 products in an attention or backward with 4."""
    weights = 2 * (sizes.attention + sizes.feed_forward) * n
    return sizes.encoder_layers * (weights + 2 * products * sizes.queries * n * n)


def decoded(sizes: Sizes, n: int, tokens: int, products: int = 2) -> int:
    """All decoder layers; half of a cross-attention's weights read the encoder's tokens."""
    cross = sizes.attention // 2
    weights = 2 * (sizes.attention + cross + sizes.feed_forward) * tokens + 2 * cross * n
    return sizes.layers * (weights + 2 * products * sizes.queries * (pairs(tokens) + tokens * n))


def decoded_backward(sizes: Sizes, n: int, tokens: int) -> int:
    """To the encoder's output: nothing before the first layer's cross-attention depends on it."""
    before = 2 * (sizes.attention + sizes.attention // 4) * tokens + 2 * sizes.queries * (4 * pairs(tokens) + tokens * n)
    return decoded(sizes, n, tokens, products=4) - before


def of(work: str, sizes: Sizes, lengths: Sequence[tuple[int, int]], count: int = 1) -> int:
    """The operations of a kind of work on texts of some lengths: prompt (or source) and generated tokens of each."""
    needed = {
        "scores": scores,
        "gradients": lambda *each: gradients(*each, nodes=count),
        "span": span,
        "occlusion": occlusion,
        "samples": lambda *each: samples(*each, count=count),
        "attention": attention,
        "value_zeroing": value_zeroing,
    }[work]
    return sum(needed(sizes, n, t) for n, t in lengths)
