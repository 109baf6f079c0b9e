"""The command line, as a shell calls it."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from results import continuation
from typer.testing import CliRunner

import inseq
import inseq.errors
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


def _run(*arguments: str) -> str:
    ran = RUN.invoke(app, list(arguments), catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_the_flags_of_inseq_are_taken(tmp_path: Path) -> None:
    result = tmp_path / "a.json"
    arguments = ["--model_name_or_path", "demo/zh-en", "-a", "input_x_gradient", "-i", "我喜歡貓。", "他喜歡狗。", "-s", "2"]
    arguments += ["-e", "3", "--attribute_target", "true", "--step_scores", "entropy", "logit", "-bs", "1", "--hide"]
    arguments += ["--generation_kwargs", '{"max_new_tokens": 6}', "--attribution_aggregators", "sum", "-fn", "logit"]
    _run("attribute", *arguments, "-o", str(result), "--include_eos_baseline", "false", "-v")
    found = inseq.FeatureAttributionOutput.load(result)
    assert [(x.attr_pos_start, x.attr_pos_end, x.axes) for x in found] == [(2, 3, ())] * 2
    assert list(found[0].step_scores) == ["entropy", "logit"]
    assert found.info["attribute_target"] is True
    assert "我" in _run("show", str(result))


def test_show_takes_a_text_a_token_and_a_number(tmp_path: Path) -> None:
    result = str(tmp_path / "a.json")
    arguments = [
        "attribute",
        "-m",
        "demo/zh-en",
        "-i",
        "我喜歡貓。",
        "他喜歡狗。",
        "-s",
        "probability",
        "--hide",
        "-q",
        "-o",
        result,
    ]
    _run(*arguments)
    shown = _run("show", result, "--text", "2", "--token", "-3", "--top", "2")
    assert "Output  He likes »dogs«. </s>" in shown
    assert "dogs · explained token 3 of 5 · probability" in shown
    assert len(re.findall(r"^0\.\d\d  .*input \d$", shown, re.MULTILINE)) == 2
    assert "Text 1" not in shown
    assert re.search(r"^cats +貓 0\.\d\d \| probability 0\.\d\d$", _run("show", result, "--top", "1"), re.MULTILINE)
    values = _run("show", result, "--tsv")
    assert values.startswith("kind\ttoken\tI\tlike\tcats\t.\t</s>\nsource\t我\t0.")
    assert values.count("kind\ttoken") == 2
    assert _run("show", result, "--tsv", "--text", "1") == values.split("\n\n")[0] + "\n"
    _run("show", result, "--text", "2", "--html", str(tmp_path / "a.html"))
    page = (tmp_path / "a.html").read_text()
    assert "dogs" in page
    assert "cats" not in page


def test_show_opens_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("inseq._commands.typer.launch", opened.append)
    inseq.FeatureAttributionOutput([continuation()]).save(tmp_path / "a.json")
    _run("show", str(tmp_path / "a.json"), "--open")
    _run("show", str(tmp_path / "a.json"), "--open", "--html", str(tmp_path / "b.html"))
    assert opened[1] == str(tmp_path / "b.html")
    assert all("data-line" in Path(path).read_text(encoding="utf-8") for path in opened)


def test_what_the_documentation_shows_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documented = (Path(__file__).parent.parent / "docs" / "command-line.md").read_text(encoding="utf-8")
    commands = re.findall(r"^(?:\$ )?inseq ((?:attribute|show) .*result\.json.*)$", documented, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    attribute, *_, show = [shlex.split(command) for command in commands]
    _run(*attribute, "--hide")
    assert f"$ inseq {commands[-1]}\n{_run(*show).rstrip()}\n```\n" in documented


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "0"], "Got --text 0, but the result has 1 text, counted from 1."),
        (["--text", "2"], "Got --text 2, but the result has 1 text"),
        (["--token", "9"], "Got token 9, but the explained tokens are 1 to 2"),
        (["--top", "0"], "Got top 0"),
        (["--tsv", "--top", "3"], "--top cannot go with --tsv, which writes all scores."),
        (["--tsv", "--token", "3"], "--token cannot go with --tsv"),
        (["--html", "x.html", "--token", "1"], "--token cannot go with --html"),
        (["--html", "x.html", "--tsv"], "--tsv cannot go with --html"),
    ],
)
def test_show_says_what_it_cannot_show(arguments: list[str], message: str, tmp_path: Path) -> None:
    inseq.FeatureAttributionOutput([continuation()]).save(tmp_path / "a.json")
    with pytest.raises(inseq.errors.ArgumentError, match=re.escape(message)):
        RUN.invoke(app, ["show", str(tmp_path / "a.json"), *arguments], catch_exceptions=False)
    assert not Path("x.html").exists()


@pytest.mark.parametrize(
    "flags",
    [["1"], ["1", "mean"], ["1", "mean", "max"], ["1", "0", "mean", "mean"], ["1", "0", "mean", "words"]],
    ids=" ".join,
)
def test_selectors_take_an_index_for_each_aggregator(tmp_path: Path, flags: list[str]) -> None:
    """The last axis first: heads, then layers."""
    selectors, aggregators = ([flag for flag in flags if flag.isdigit() is wanted] for wanted in (True, False))
    arguments = ["attribute", "-m", "demo/zh-en", "-a", "attention", "-i", "我喜歡貓。", "--hide"]
    arguments += ["--options", '{"granular": true}']
    _run(*arguments, "-o", str(tmp_path / "whole.json"))
    named = ["--attribution_aggregators", *aggregators] if aggregators else []
    _run(*arguments, "-o", str(tmp_path / "a.json"), "--attribution_selectors", *selectors, *named)
    whole = inseq.FeatureAttributionOutput.load(tmp_path / "whole.json")[0]
    found = inseq.FeatureAttributionOutput.load(tmp_path / "a.json")[0]
    head = whole.source_attributions[..., 1]
    over_layers = head[..., 0] if len(selectors) == 2 else head.amax(-1) if "max" in aggregators else head.mean(-1)
    assert found.axes == ()
    assert torch.allclose(found.source_attributions, over_layers, atol=1e-6)


def test_tokens_can_be_merged_on_the_command_line(tmp_path: Path) -> None:
    arguments = ["attribute", "-m", "demo/gpt2", "-i", "Hello world", "--max-new-tokens", "4", "--hide", "-o"]
    _run(*arguments, str(tmp_path / "a.json"), "--attribution_aggregators", "words", "--normalize_attributions")
    _run(*arguments, str(tmp_path / "b.json"))
    merged, whole = (inseq.FeatureAttributionOutput.load(tmp_path / name) for name in ("a.json", "b.json"))
    assert merged == whole.aggregate(["words", "scores"])


def test_selectors_that_cannot_be(tmp_path: Path) -> None:
    arguments = ["attribute", "-m", "demo/gpt2", "-i", "Hello", "--max-new-tokens", "2", "--hide", "--attribution_selectors"]
    with pytest.raises(inseq.errors.ArgumentError, match="must be whole numbers"):
        RUN.invoke(app, [*arguments, "one"], catch_exceptions=False)
    with pytest.raises(inseq.errors.ArgumentError, match="no axis left"):
        RUN.invoke(app, [*arguments, "0", "1"], catch_exceptions=False)


def test_a_configuration_file_gives_defaults(tmp_path: Path) -> None:
    config = tmp_path / "inseq.toml"
    config.write_text('model = "x"\n', encoding="utf-8")
    with pytest.raises(inseq.errors.UnknownArgumentError, match="unknown setting 'model'"):
        RUN.invoke(app, ["attribute", "--config", str(config)], catch_exceptions=False)
    text = 'model_name_or_path = "demo/gpt2"\n[attribute]\ninput_texts = ["Hello"]\nattributed_fn = "logit"\nquiet = true\n'
    config.write_text(text, encoding="utf-8")
    _run("attribute", "--config", str(config), "-fn", "entropy", "--max-new-tokens", "2", "-o", str(tmp_path / "a.json"))
    assert inseq.FeatureAttributionOutput.load(tmp_path / "a.json").info["attributed_fn"] == "entropy"


def test_context_on_the_command_line(tmp_path: Path) -> None:
    arguments = ["-m", "demo/gpt2", "--input_context_text", "Anna gave the red ball to Tom.", "--input_current_text", "Now"]
    arguments += ["--attributed_fn", "contrast_prob_diff", "--context_sensitivity_topk", "1", "-q"]
    arguments += [
        "--context_sensitivity_std_threshold",
        "0",
        "-o",
        str(tmp_path / "c.json"),
        "--viz_path",
        str(tmp_path / "c.html"),
    ]
    assert "cues: Tom" in _run("attribute-context", *arguments)
    saved = json.loads((tmp_path / "c.json").read_text())
    assert saved["cci_scores"][0]["cti_token"] == "ĠTom"
    assert saved["info"]["attributed_fn"] == "contrast_prob_diff"
    assert "cues: Tom" in _run("show", str(tmp_path / "c.json"))
    shown = _run("show", str(tmp_path / "c.json"), "--text", "1", "--token", "1", "--top", "1")
    assert re.search(r"^\d\.\d\d  Tom  input 7$", shown, re.MULTILINE)
    assert _run("show", str(tmp_path / "c.json"), "--tsv").startswith("kind\ttoken\tTom\nsource\tAnna\t")
    assert "cues" not in _run("attribute-context", *arguments, "--no_show_viz", "--overwrite")


@pytest.mark.parametrize("command", ["attribute", "attribute-dataset", "attribute-context"])
def test_commands_say_what_they_take(command: str) -> None:
    shown = RUN.invoke(app, [command, "--help"]).output
    assert all(flag in shown for flag in ("--model_name_or_path", "--config", "--quiet", "--generation_kwargs"))


def test_exit_codes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def code(*arguments: str) -> object:
        monkeypatch.setattr(sys, "argv", ["inseq", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code

    assert code("methods") == 0
    assert code("attribute", "-m", "demo/gpt2") == 2
    assert code("attribute", "--no_such_flag") == 2
    assert code("show", "/no/such.json") == 2
    assert code("attribute-dataset", "-m", "demo/gpt2", "-d", "x.csv", "-o", "run", "--viz_path", "x.html") == 2
    monkeypatch.setattr("inseq._commands.run_attribute", lambda arguments: 1 / 0)
    assert code("attribute") == 1
    assert "Failed: ZeroDivisionError" in capsys.readouterr().err


def test_existing_files_are_replaced_where_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("mine")
    arguments = ["attribute", "-m", "demo/gpt2", "-i", "Hello", "--max_new_tokens", "1", "--hide", "-o", str(path)]
    with pytest.raises(inseq.errors.ArgumentError, match="pass --overwrite"):
        RUN.invoke(app, arguments, catch_exceptions=False)
    assert path.read_text() == "mine"
    _run(*arguments, "--overwrite", "--aggregate_output")
    assert inseq.FeatureAttributionOutput.load(path)[0].axes == ()


def test_a_data_set_on_the_command_line_says_how_far_it_is(tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("text\nHello\nGood morning\n")
    arguments = ["attribute-dataset", "-m", "demo/gpt2", "-d", str(tmp_path / "texts.csv"), "--max_new_tokens", "1"]
    ran = RUN.invoke(app, [*arguments, "-o", str(tmp_path / "run")], catch_exceptions=False)
    assert "2 rows done, 0 done before, 0 failed" in ran.stderr
    assert ran.stdout == ""
    assert RUN.invoke(app, [*arguments, "-o", str(tmp_path / "run"), "--quiet"], catch_exceptions=False).output == ""
