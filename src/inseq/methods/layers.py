"""Methods that attribute the target to what a layer holds at each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inseq.errors import ArgumentError
from inseq.methods._method import Attribution, method
from inseq.methods._options import at_least, one_of
from inseq.methods.baselines import Baseline, baseline_embeds
from inseq.methods.integrated import QUADRATURES
from inseq.requests import Activations, Gradient, Layer, Path, Placed, Rescale, Score, gather, weighted
from inseq.requests.example import Example

FACTS: dict[str, Any] = {"signed": True, "axes": ("layer", "dim"), "reduce_by": ("vnorm", "mean"), "normalize": True}


def layers_of(target_layer: Any, at_input: bool) -> tuple[Layer, ...]:
    """The layers that an option names: one of them, or a list.

    Raises:
        ArgumentError: where none is named.
    """
    several = isinstance(target_layer, Sequence) and not isinstance(target_layer, str)
    named = list(target_layer) if several else [target_layer]
    if not named or not all(isinstance(name, str | nn.Module) for name in named):
        raise ArgumentError(
            f"target_layer={str(target_layer)[:60]} names no layer: give a module, its dotted name (print(model.model) shows "
            "them; in GPT-2 'transformer.h[0].mlp', in Marian 'model.encoder.layers[0]'), or a list of them. For the input "
            "embeddings use the method without 'layer_'."
        )
    return tuple(Layer(name, "input" if at_input else "output") for name in named)


@method("layer_gradient_x_activation", paper="ancona2018towards", **FACTS)
async def layer_gradient_x_activation(
    x: Example, *, target_layer: Any = None, attribute_to_layer_input: bool = False
) -> Attribution:
    """What a layer's values at a token contribute to a linear model of the target: the gradient times the values.

    Several layers are taken in one pass. Where scores are not kept granular, they are the mean over the layers of each
    layer's norm.

    Args:
        x: the example.
        target_layer: a module, its dotted name, or a list of either; tokens of the side that a layer does not run over
            score nothing there.
        attribute_to_layer_input: whether the module's input is meant in place of its output.
    """
    layers = layers_of(target_layer, attribute_to_layer_input)
    gradient = Gradient(x, combine=lambda g, values, _: (g * values).sum(1), at=layers, held=len(layers))
    return Attribution(_reduced(x, await gradient).transpose(0, 1))


def _reduced(x: Example, scores: Float[Tensor, "step feature layer *width"]) -> Tensor:
    return scores if x.granular else scores.mean(-1)


@method("layer_integrated_gradients", paper="sundararajan2017axiomatic", **FACTS)
async def layer_integrated_gradients(
    x: Example,
    *,
    target_layer: Any = None,
    attribute_to_layer_input: bool = False,
    n_steps: int = 50,
    quadrature: str = "gausslegendre",
    baseline: Baseline = "unk",
    include_eos_baseline: bool = False,
) -> Attribution:
    """The gradient collected on the straight way from a layer's values at a baseline to those at the input.

    Each layer has a way of its own, with the rest of the model at the input. The scores of a layer sum to the target's
    change when the layer's values are exchanged for the baseline's; the diagnostic ``delta`` is the largest gap of a layer.

    Args:
        x: the example.
        target_layer: a module, its dotted name, or a list of either.
        attribute_to_layer_input: whether the module's input is meant in place of its output.
        n_steps: how many points of each way are visited.
        quadrature: see ``integrated_gradients``.
        baseline: the input at which the layer's values are where the way starts.
        include_eos_baseline: whether end-of-sequence tokens are replaced too.
    """
    at_least("n_steps", n_steps, 1)
    one_of("quadrature", quadrature, QUADRATURES)
    layers = layers_of(target_layer, attribute_to_layer_input)
    b = baseline_embeds(x, baseline, include_eos_baseline=include_eos_baseline)
    alphas, weights = QUADRATURES[quadrature](n_steps)
    start, end = await Activations(x, Path(b, torch.tensor([0.0, 1.0])), layers)

    def way(i: int) -> Gradient:
        ends = start[:, i].to(x.embeds.device), end[:, i].to(x.embeds.device)

        def read(mean_gradient: Float[Tensor, "step feature layer width"], steps: range) -> tuple[Tensor, Tensor]:
            scores = mean_gradient[:, :, 0] * (ends[1] - ends[0])
            return scores, scores.sum((1, 2))

        return Gradient(x, Placed(layers[i], *ends, alphas), weighted(weights), read, layers[i : i + 1])

    def exchanged(i: int) -> Score:
        ends = start[:, i].to(x.embeds.device), end[:, i].to(x.embeds.device)
        return Score(x, Placed(layers[i], *ends, torch.tensor([0.0, 1.0])))

    found = await gather(*map(way, range(len(layers))), *map(exchanged, range(len(layers))))
    ways, ends = found[: len(layers)], found[len(layers) :]
    gaps = [total - (values[1] - values[0]) for (_, total), values in zip(ways, ends, strict=True)]
    scores = torch.stack([scores for scores, _ in ways], 2)
    return Attribution(_reduced(x, scores).transpose(0, 1), {"delta": torch.stack(gaps).abs().amax(0)})


@method("layer_deeplift", paper="shrikumar2017learning", **FACTS)
async def layer_deeplift(
    x: Example,
    *,
    target_layer: Any = None,
    attribute_to_layer_input: bool = False,
    baseline: Baseline = "unk",
    include_eos_baseline: bool = False,
) -> Attribution:
    """How the target's difference from a baseline passes through a layer's values at each token; see ``deeplift``.

    The scores of a layer that everything passes through, such as a block, sum to the target's change from the baseline to
    the input. Several layers are taken in one pass; reduced scores are the mean over the layers of each layer's norm.

    Args:
        x: the example.
        target_layer: a module, its dotted name, or a list of either.
        attribute_to_layer_input: whether the module's input is meant in place of its output.
        baseline: what the input is compared with.
        include_eos_baseline: whether end-of-sequence tokens are replaced too.
    """
    layers = layers_of(target_layer, attribute_to_layer_input)
    b = baseline_embeds(x, baseline, include_eos_baseline=include_eos_baseline)
    scores = await Gradient(
        x,
        combine=lambda multipliers, differences, _: (multipliers * differences).sum(1),
        at=layers,
        edit=Rescale("layer_deeplift"),
        reference=b,
        held=len(layers),
    )
    return Attribution(_reduced(x, scores).transpose(0, 1))
