"""Models as people hold them: compiled, spread over devices, offloaded, quantised, in half precision."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import harness
import pytest
import torch
import zoo
from harness import relative
from rows import METHODS, TOLERANCE
from torch import Tensor, nn

import inseq
from inseq.models.guest import guest, uncompiled

QUIET: dict[str, Any] = {"show_progress": False}
TEXT, WHOLE = "w1 w2 w3 w4", "w1 w2 w3 w4 w7 w9 w12"
SOME = ["saliency", "occlusion", "attention", "value_zeroing", "deeplift"]


def load(name: str, model: nn.Module) -> Any:
    kind: Any = "words_eos" if zoo.ZOO[name].encoder_decoder else "words"
    return inseq.load_model(model, tokenizer=zoo.tokenizer(kind))


def scores(model: Any, method: str, **options: Any) -> Tensor:
    """Every score and the step scores, in one vector."""
    found = model.attribute(TEXT, WHOLE, method, attribute_target=True, step_scores="probability", **options, **QUIET)[0]
    sides = (found.source_attributions, found.target_attributions, found.step_scores["probability"])
    return torch.cat([side.nan_to_num(0).flatten() for side in sides if side is not None])


def options_of(method: str, model: nn.Module) -> dict[str, Any]:
    return harness.given(METHODS[method].options, model)


@pytest.mark.parametrize("name", ["gpt2", "marian"])
@pytest.mark.parametrize("way", ["wrapped", "in place", "forward"])
def test_compiled_models_are_explained_as_they_were_written(name: str, way: str) -> None:
    """Our hooks would compile them again and again; nothing of ours is ever compiled."""
    plain = load(name, zoo.build(name))
    model = copy.deepcopy(zoo.build(name))
    compiled: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    given: Any = model
    if way == "wrapped":
        given = torch.compile(model, backend=backend)
    elif way == "in place":
        model.compile(backend=backend)
    else:
        model.forward = torch.compile(model.forward, backend=backend)
    explained = load(name, given)
    assert explained.model is model
    for method in SOME:
        assert relative(scores(explained, method), scores(plain, method)) < TOLERANCE
    assert explained.attribute(TEXT, WHOLE, **QUIET).info["model_class"] == type(model).__name__
    assert not compiled
    ids = torch.tensor([[5, 6, 7]])
    given(**({"input_ids": ids} | ({"decoder_input_ids": ids} if zoo.ZOO[name].encoder_decoder else {})))
    assert compiled


def test_compilation_goes_on_when_the_last_visitor_has_left() -> None:
    def doubled(x: Tensor) -> Tensor:
        return 2 * x

    seen: list[Any] = []
    fast = torch.compile(doubled, backend=lambda graph, inputs: seen.append(graph) or graph.forward)
    first, second = uncompiled(), uncompiled()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    fast(torch.ones(2))
    assert not seen
    second.__exit__(None, None, None)
    fast(torch.ones(2))
    assert seen


def spread(name: str, offloaded: str, folder: Path) -> nn.Module:
    accelerate = pytest.importorskip("accelerate")
    model = copy.deepcopy(zoo.build(name))
    if offloaded == "nothing":
        places = {child: "cpu" for child, _ in model.named_children()}
        return accelerate.dispatch_model(model, {"": "cpu"} | places, main_device="cpu", force_hooks=True)
    if offloaded == "to the cpu":
        return accelerate.cpu_offload(model, execution_device="cpu")
    return accelerate.disk_offload(model, str(folder), execution_device="cpu")


@pytest.mark.parametrize("name", ["gpt2", "marian", "t5"])
@pytest.mark.parametrize("offloaded", ["nothing", "to the cpu", "to the disk"])
def test_models_spread_over_devices(name: str, offloaded: str, tmp_path: Path) -> None:
    plain, placed = load(name, zoo.build(name)), load(name, spread(name, offloaded, tmp_path))
    assert placed.device == torch.device("cpu")
    for method in SOME:
        assert relative(scores(placed, method), scores(plain, method)) < TOLERANCE


@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_a_model_whose_weights_come_when_they_are_needed(method: str, tmp_path: Path) -> None:
    plain, placed = load("gpt2", zoo.build("gpt2")), load("gpt2", spread("gpt2", "to the cpu", tmp_path))
    found = [scores(model, method, **options_of(method, model.model)) for model in (placed, plain)]
    assert relative(*found) < 1e-6


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_half_precision_gives_scores_in_float32(name: str, dtype: torch.dtype, attention: str) -> None:
    half, full = load(name, zoo.build(name, attention, dtype)), load(name, zoo.build(name, attention))
    for method in (*SOME, "integrated_gradients", "lime", "attnlrp"):
        rough, fine = (scores(model, method, **options_of(method, model.model)) for model in (half, full))
        assert rough.dtype == torch.float32
        assert torch.corrcoef(torch.stack([rough, fine]))[0, 1] > 0.97, method


def quantised(name: str, folder: Path, **kind: Any) -> nn.Module:
    pytest.importorskip("bitsandbytes", reason="quantised models need the extra 'quant'")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    recipe = zoo.ZOO[name]
    wide = {"hidden_size": 128, "intermediate_size": 256} if name == "llama" else {"n_embd": 128}
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, recipe.config)(**{**recipe.options, **wide})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(**kind), device_map={"": "cpu"}, dtype=torch.float32
    )
    return model


def slopes(model: Any) -> tuple[float, float]:
    """A logit's slope along a random direction of the input: by attribution, and by differences of plain forwards."""
    embeds = model.get_input_embeddings()(torch.tensor([[5, 6, 7, 8]])).detach()
    away = torch.randn(embeds.shape, generator=torch.Generator().manual_seed(0))
    explained = load("gpt2", model)
    gradient = explained.attribute("w1 w2 w3 w4", "w1 w2 w3 w4 w9", "input_x_gradient", attributed_fn="logit", **QUIET)[
        0
    ].target_attributions[:4, 0]
    slope = (gradient / torch.where(embeds[0] == 0, 1, embeds[0]) * away[0]).sum()
    with guest(model), torch.no_grad():
        ends = [model(inputs_embeds=embeds + step * away, use_cache=False).logits[0, -1, 13] for step in (5e-4, -5e-4)]
    return float(slope), float(ends[0] - ends[1]) / 1e-3


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_four_bit_layers_keep_their_gradient_after_a_forward_without(name: str, tmp_path: Path) -> None:
    """bitsandbytes packs them anew there, on CPUs with bfloat16 instructions, and they pass nothing back from then on.

    Packing rounds the layers' scales, so that the model itself is another one afterwards.
    """
    model = quantised(name, tmp_path, load_in_4bit=True, bnb_4bit_quant_type="nf4")
    before = slopes(model)
    with torch.no_grad():
        model(torch.tensor([[5, 6, 7, 8]]))
    after = slopes(model)
    for found, expected in (before, after):
        assert found == pytest.approx(expected, rel=0.02)
    layers = [module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    assert layers
    assert len({layer.support_avx512bf16_for_cpu for layer in layers}) == 1


@pytest.mark.parametrize("method", ["saliency", "attention", "value_zeroing", "occlusion", "attnlrp"])
def test_eight_bit_models_are_near_their_originals(method: str, tmp_path: Path) -> None:
    rough = load("llama", quantised("llama", tmp_path, load_in_8bit=True))
    from transformers import AutoModelForCausalLM

    fine = load("llama", AutoModelForCausalLM.from_pretrained(tmp_path))
    assert torch.corrcoef(torch.stack([scores(rough, method), scores(fine, method)]))[0, 1] > 0.95
