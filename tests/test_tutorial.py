"""The user's tutorial: its two programs, unchanged but for model names and device where no hub or GPU is at hand."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

import inseq
from inseq import demo

TRANSLATION = """
import inseq

# 定义要使用的归因方法列表
attribution_methods = ['saliency', 'attention']

for method in attribution_methods:
    print(f"======= 归因方法: {method} =======")
    # 加载中译英模型并设置归因方法
    # model = inseq.load_model("Helsinki-NLP/opus-mt-zh-en", method)
    model = inseq.load_model("opus-mt-zh-en", method)  # 导入之前下载到本地的模型

    # 使用指定的归因方法对输入文本进行归因
    attribution_result = model.attribute(
        input_texts="我喜歡機器學習和人工智慧。",
        step_scores=["probability"],
    )

    # 从tokenizer中去除 '▁' 前缀以避免混淆（可以忽略这段代码）
    for attr in attribution_result.sequence_attributions:
        for item in attr.source:
            item.token = item.token.replace('▁', '')
        for item in attr.target:
            item.token = item.token.replace('▁', '')

    # 显示归因结果
    attribution_result.show()
    results.append(attribution_result)
"""

GENERATION = """
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

# 创建一个 BitsAndBytesConfig 对象，用于配置量化选项
bnb_config = BitsAndBytesConfig(load_in_8bit=True)
model = AutoModelForCausalLM.from_pretrained(
    "gpt2",  # gpt2
    quantization_config=bnb_config,
    device_map={"": "cpu"}
)

import inseq

# 定义要使用的归因方法列表
attribution_methods = ['saliency', 'attention']

for method in attribution_methods:
    print(f"======= 归因方法: {method} =======")
    # 使用指定的归因方法加载模型
    inseq_model = inseq.load_model(model, method)

    # 对输入文本进行归因分析
    attribution_result = inseq_model.attribute(
        input_texts="Hello world",
        step_scores=["probability"],
    )

    # 清理 tokenizer 中的特殊字符（可选）
    for attr in attribution_result.sequence_attributions:
        for item in attr.source:
            item.token = item.token.replace('Ġ', '')
        for item in attr.target:
            item.token = item.token.replace('Ġ', '')

    # 显示归因结果
    attribution_result.show()
    results.append(attribution_result)
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A working directory in which the models of the tutorial have been downloaded, as it tells to."""
    for name, bundled in (("opus-mt-zh-en", "demo/zh-en"), ("gpt2", "demo/gpt2")):
        shutil.copytree(demo.directory(bundled), tmp_path / name)
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


def run(program: str) -> list[inseq.FeatureAttributionOutput]:
    results: list[inseq.FeatureAttributionOutput] = []
    exec(compile(program, "tutorial", "exec"), {"results": results})
    return results


def test_translation(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saliency, attention = run(TRANSLATION)
    shown = capsys.readouterr().out
    for text in ("======= 归因方法: saliency =======", "機器學習", "intelligence", "probability"):
        assert text in shown
    assert "▁" not in shown
    for result in (saliency, attention):
        (found,) = result
        assert [t.token for t in found.source] == ["我", "喜歡", "機器學習", "和", "人工智慧", "。", "</s>"]
        assert [t.token for t in found.target][1:] == [
            *("I", "like", "machine", "learning", "and", "artificial", "intelligence", ".", "</s>")
        ]
        assert (found.step_scores["probability"] > 0.9).all()
        scores = found.aggregate().source_attributions
        torch.testing.assert_close(scores.sum(0), torch.ones(9))
    most = [t.token for t in saliency[0].source]
    scores = saliency[0].aggregate().source_attributions
    expected = [("I", "我喜歡"), ("like", "我喜歡"), ("machine", "機器學習"), ("learning", "機器學習")]
    for step, (written, read) in enumerate(expected):
        assert saliency[0].generated[step].token == written
        assert most[int(scores[:, step].argmax())] in read


def test_generation_in_8_bit_on_the_cpu(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bitsandbytes", reason="8-bit models need the extra 'quant'")
    results = run(GENERATION)
    shown = capsys.readouterr().out
    assert "======= 归因方法: attention =======" in shown
    assert "Ġ" not in shown
    for method, (quantised,) in zip(["saliency", "attention"], results, strict=True):
        text = "".join(t.text for t in quantised.target if not t.special)
        (exact,) = inseq.load_model("gpt2", method).attribute("Hello world", text, step_scores=["probability"])
        n = len(exact.generated)
        assert [t.id for t in quantised.target[: len(exact.target)]] == [t.id for t in exact.target]
        torch.testing.assert_close(
            quantised.step_scores["probability"][:n], exact.step_scores["probability"], atol=0.05, rtol=0.1
        )
        rough = quantised.aggregate().target_attributions[: len(exact.target), :n].nan_to_num()
        fine = exact.aggregate().target_attributions.nan_to_num()
        assert (rough[:-1] - fine[:-1]).abs().max() < 0.05


def test_8_bit_by_a_flag(here: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="8-bit models need the extra 'quant'")
    model = inseq.load_model("gpt2", model_kwargs={"load_in_8bit": True, "device_map": {"": "cpu"}})
    assert model.model.config.quantization_config.load_in_8bit
    assert "Hello" in model.attribute("Hello world").info["input_texts"][0]
