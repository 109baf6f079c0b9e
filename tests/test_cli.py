"""The command line, as a shell calls it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import inseq
from inseq.cli import app, main

RUN = CliRunner()


def test_version_and_help() -> None:
    assert RUN.invoke(app, ["--version"]).output == f"inseq {inseq.__version__}\n"
    shown = RUN.invoke(app, ["--help"]).output
    assert all(command in shown for command in ("attribute", "demo", "methods", "doctor"))


def test_methods_lists_all_with_their_options() -> None:
    shown = RUN.invoke(app, ["methods"]).output
    for name in (*inseq.list_feature_attribution_methods(), *inseq.list_step_functions(), "n_steps=50", "logprob=False"):
        assert name in shown


def test_attribute_shows_and_writes(tmp_path: Path) -> None:
    result, page = tmp_path / "result.json", tmp_path / "page.html"
    arguments = ["attribute", "-m", "demo/gpt2", "-i", "Hello world", "-a", "integrated_gradients", "-s", "entropy"]
    arguments += ["--options", '{"n_steps": 3}', "-fn", "logit", "-o", str(result), "--html", str(page)]
    ran = RUN.invoke(app, [*arguments, "--max-new-tokens", "4"], catch_exceptions=False)
    assert ran.exit_code == 0
    assert "entropy" in ran.output
    found = inseq.FeatureAttributionOutput.load(result)
    assert found.info["options"]["n_steps"] == 3
    assert found.info["attributed_fn"] == "logit"
    assert len(found[0].generated) == 4
    assert "Hello" in page.read_text()


def test_forced_outputs_and_silence(tmp_path: Path) -> None:
    arguments = ["attribute", "-m", "demo/gpt2", "-i", "Hello", "-g", "Hello world!", "--hide", "-o", str(tmp_path / "a.json")]
    ran = RUN.invoke(app, arguments, catch_exceptions=False)
    assert ran.stdout == ""
    assert json.loads((tmp_path / "a.json").read_text())["format"] == "inseq"


def test_demo_writes_a_page(tmp_path: Path) -> None:
    ran = RUN.invoke(app, ["demo", "--save", str(tmp_path / "demo.html")], catch_exceptions=False)
    assert "機器學習" in ran.output
    assert "machine" in (tmp_path / "demo.html").read_text()


def test_doctor_says_what_works() -> None:
    shown = RUN.invoke(app, ["doctor"], catch_exceptions=False).output
    assert "demo/zh-en    works: 我喜歡機器學習和人工智慧。 -> I like machine learning and artificial intelligence." in shown
    assert "transformers" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-a", "salency"], "Did you mean 'saliency'"),
        (["--options", '{"n_stepz": 3}'], "Unknown argument 'n_stepz'"),
    ],
)
def test_our_errors_are_a_sentence_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["inseq", "attribute", "-m", "demo/gpt2", "-i", "Hello", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    shown = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("options", ["{n_steps: 3}", "[1]"])
def test_options_must_be_an_object(options: str) -> None:
    ran = RUN.invoke(app, ["attribute", "-m", "demo/gpt2", "-i", "Hello", "--options", options])
    assert ran.exit_code == 2
    assert "must be a JSON object" in ran.output
