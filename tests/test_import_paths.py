"""Import paths that Inseq's documentation uses, and what is behind them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import compared
import pytest
import torch

import inseq
from inseq.errors import ArgumentError, UnknownNameError

QUIET: dict[str, Any] = {"show_progress": False}

SNIPPETS = [
    "from inseq.attr import FeatureAttribution, STEP_SCORES_MAP, StepFunctionArgs, register_step_function",
    "from inseq.attr.feat import IntegratedGradientsAttribution, ReagentAttribution, SaliencyAttribution",
    "from inseq.attr.step_functions import StepFunctionEncoderDecoderArgs, get_step_function, probability_fn",
    "from inseq.commands.attribute_context import AttributeContextArgs, visualize_attribute_context",
    "from inseq.commands.attribute_context.attribute_context import attribute_context, attribute_context_with_model",
    "from inseq.data import Batch, BatchEmbedding, BatchEncoding, DecoderOnlyBatch, EncoderDecoderBatch, merge_attributions",
    "from inseq.data.aggregator import AggregatorPipeline, SliceAggregator, StringSplitAggregator, SubwordAggregator",
    "from inseq.data.attribution import MultiDimensionalFeatureAttributionSequenceOutput, TokenWithId",
    "from inseq.data.batch import Batch",
    "from inseq.models import HuggingfaceDecoderOnlyModel, load_model",
    "from inseq.utils import LengthMismatchError, MissingAttributionMethodError, UnknownAttributionMethodError",
    "from inseq.utils.typing import SingleScorePerStepTensor, TargetIdsTensor",
]


def test_each_path_can_be_the_first_that_is_imported() -> None:
    """In a process of its own, where nothing else has loaded what it needs; two at a time, as a process costs seconds."""
    for code in (SNIPPETS[4], SNIPPETS[-1]):
        subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("code", SNIPPETS)
def test_a_documented_path_answers(code: str) -> None:
    exec(code, {})


def test_the_command_s_function_is_not_hidden_by_its_module() -> None:
    from importlib import import_module

    package = import_module("inseq.commands.attribute_context")
    import_module("inseq.commands.attribute_context.attribute_context")
    assert callable(package.attribute_context)


def test_classes_of_methods_say_their_names() -> None:
    from inseq.attr import feat

    named = {
        each.method_name
        for each in vars(feat).values()
        if isinstance(each, type) and issubclass(each, feat.FeatureAttribution)
    }
    assert named - {""} < set(inseq.list_feature_attribution_methods())
    assert len(named) == 16
    with pytest.raises(ArgumentError, match=r"Mine: methods are no classes here.*inseq\.method"):
        type("Mine", (feat.FeatureAttribution,), {})


def test_errors_are_ours() -> None:
    from inseq.utils import LengthMismatchError, UnknownAttributionMethodError

    model = compared.load("gpt2")
    assert issubclass(UnknownAttributionMethodError, UnknownNameError)
    with pytest.raises(UnknownAttributionMethodError):
        model.attribute("w1", "w1 w2", method="salient", **QUIET)
    with pytest.raises(LengthMismatchError):
        model.attribute(["w1", "w2"], ["w1 w2"], **QUIET)


@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_batches_go_through_the_model(name: str) -> None:
    from inseq.data import Batch, BatchEmbedding, DecoderOnlyBatch, EncoderDecoderBatch

    model = compared.load(name)
    if model.is_encoder_decoder:
        source, target = model.encode("w1 w2"), model.encode("w3 w4", as_targets=True)
        batch: Any = EncoderDecoderBatch(Batch(source), Batch(target))
        plain = model.model(input_ids=source.input_ids, decoder_input_ids=target.input_ids[:, :2]).logits
        batch = batch[:2]
    else:
        encoded = model.encode("w1 w2 w3")
        batch = DecoderOnlyBatch(encoded, BatchEmbedding(model.embed_ids(encoded.input_ids)))[:2]
        assert isinstance(batch, DecoderOnlyBatch)
        assert batch.input_tokens == [["w1", "w2"]]
        plain = model.model(input_ids=encoded.input_ids[:, :2]).logits
    torch.testing.assert_close(model.get_forward_output(batch).logits, plain, atol=1e-4, rtol=1e-4)
