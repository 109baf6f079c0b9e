"""The command line, as a shell calls it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest
import torch
from command import call, refuse, succeed
from results import continuation

import inseq
from inseq.cli.flags import attribute_context_flags
from inseq.cli.main import COMMANDS
from inseq.cli.parser import CommandParser

HELLO = ("attribute", "-m", "demo/gpt2", "-i", "Hello", "--max-new-tokens", "2", "--hide")


def test_version_and_help() -> None:
    assert succeed("--version") == f"inseq {inseq.__version__}\n"
    shown = succeed("--help")
    assert succeed("-h") == shown
    assert all(re.search(rf"^  {name} +[A-Z]", shown, re.MULTILINE) for name in COMMANDS)
    alone = call()
    assert (alone.code, alone.output, alone.errors) == (2, shown, "")


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_help_is_plain_and_fits_a_terminal(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = succeed(*command, "--help")
    assert succeed(*command, "-h") == shown
    assert shown.startswith(" ".join(["usage: inseq", *command]))
    assert max(map(len, shown.splitlines())) <= 80
    assert "\x1b" not in shown
    flags = re.findall(r"^  (-.+)\n(.*)$", shown, re.MULTILINE)
    assert all(help.startswith("        ") and help.strip() for _, help in flags), "every flag says what it does"


def test_the_module_runs_as_the_script_does() -> None:
    def run(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    script = "import sys; from inseq.cli import main; sys.exit(main())"
    assert run(sys.executable, "-m", "inseq.cli", "--help") == run(sys.executable, "-c", script, "--help")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no broken pipes")
def test_a_reader_may_go_before_the_end() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run([sys.executable, "-m", "inseq.cli", "methods"], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (1, "")


def test_methods_lists_all_with_their_options() -> None:
    shown = succeed("methods")
    for name in (*inseq.list_feature_attribution_methods(), *inseq.list_step_functions(), "n_steps=50", "logprob=False"):
        assert name in shown


def test_attribute_shows_and_writes(tmp_path: Path) -> None:
    result, page = tmp_path / "result.json", tmp_path / "page.html"
    arguments = ["attribute", "-m", "demo/gpt2", "-i", "Hello world", "-a", "integrated_gradients", "-s", "entropy"]
    arguments += ["--options", '{"n_steps": 3}', "-fn", "logit", "-o", str(result), "--html", str(page)]
    assert "entropy" in succeed(*arguments, "--max-new-tokens", "4")
    found = inseq.FeatureAttributionOutput.load(result)
    assert found.info["options"]["n_steps"] == 3
    assert found.info["attributed_fn"] == "logit"
    assert len(found[0].generated) == 4
    assert "Hello" in page.read_text()


def test_forced_outputs_and_silence(tmp_path: Path) -> None:
    arguments = ["attribute", "-m", "demo/gpt2", "-i", "Hello", "-g", "Hello world!", "--hide", "-o", str(tmp_path / "a.json")]
    assert succeed(*arguments) == ""
    assert json.loads((tmp_path / "a.json").read_text())["format"] == "inseq"


def test_demo_writes_a_page(tmp_path: Path) -> None:
    ended = call("demo", "--save", str(tmp_path / "demo.html"))
    assert ended.code == 0
    assert "機器學習" in ended.output
    assert f"Written: {tmp_path / 'demo.html'}" in ended.errors
    assert "machine" in (tmp_path / "demo.html").read_text()


def test_doctor_says_what_works() -> None:
    shown = succeed("doctor")
    assert "demo/zh-en    works: 我喜歡機器學習和人工智慧。 -> I like machine learning and artificial intelligence." in shown
    assert "transformers" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-a", "salency"], "Did you mean 'saliency'"),
        (["--options", '{"n_stepz": 3}'], "Unknown argument 'n_stepz'"),
        (
            ["--options", "{n_steps: 3}"],
            "--attribution_kwargs/--options: must be a JSON object, got '{n_steps: 3}' (",
        ),
        (["--options", "[1]"], "must be a JSON object, got '[1]'. See `inseq attribute --help`."),
        (["--batch-size", "two"], "inseq attribute: argument --batch_size/-bs: expected a whole number, got 'two'."),
        (["--quiet", "perhaps"], "expected true or false, got 'perhaps'"),
        (["--generated_texts"], "argument --generated_texts/-g/--generated: expected at least one argument."),
        (["--modle", "x"], "inseq attribute has no argument '--modle'. Did you mean '--model'"),
        (["--modle=x"], "inseq attribute has no argument '--modle'. Did you mean '--model'"),
        (["--attribution_selectors", "one"], "--attribution_selectors must be whole numbers, got ['one']."),
        (["--max_new_tokens", "2", "--attribution_selectors", "0", "1"], "no axis left"),
    ],
)
def test_wrong_input_is_a_diagnosis_and_exit_code_2(arguments: list[str], message: str) -> None:
    assert message in refuse("attribute", "-m", "demo/gpt2", "-i", "Hello", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["atribute"], "Unknown command 'atribute'. Did you mean 'attribute'"),
        (["run"], "Unknown command 'run'. The commands are attribute, attribute-dataset, "),
        (["--verison"], "inseq has no argument '--verison'. Did you mean '--version'? See `inseq --help`."),
        (["attribute", "-m", "demo/gpt2"], "Missing --input_texts, on the command line or in --config; see --help."),
        (["attribute-context", "-m", "demo/gpt2"], "Missing --input_current_text"),
        (["attribute-context", "--attribution_std_threshold", "x"], "expected a number, got 'x'"),
        (["show"], "inseq show: the following arguments are required: PATH. See `inseq show --help`."),
        (["show", "a.json", "b.json"], "inseq show has no argument 'b.json'."),
        (["show", "a.json", "--top", "x"], "argument --top: expected a whole number, got 'x'"),
        (["show", "/no/such.json"], "Cannot read '/no/such.json'"),
        (["methods", "--all"], "inseq methods has no argument '--all'."),
    ],
)
def test_what_no_command_takes_is_named(arguments: list[str], message: str) -> None:
    assert message in refuse(*arguments)


def test_the_flags_of_inseq_are_taken(tmp_path: Path) -> None:
    result = tmp_path / "a.json"
    arguments = ["--model_name_or_path", "demo/zh-en", "-a", "input_x_gradient", "-i", "我喜歡貓。", "他喜歡狗。", "-s", "2"]
    arguments += ["-e", "3", "--attribute_target", "true", "--step_scores", "entropy", "logit", "-bs", "1", "--hide"]
    arguments += ["--generation_kwargs", '{"max_new_tokens": 6}', "--attribution_aggregators", "sum", "-fn", "logit"]
    succeed("attribute", *arguments, "-o", str(result), "--include_eos_baseline", "false", "-v")
    found = inseq.FeatureAttributionOutput.load(result)
    assert [(x.attr_pos_start, x.attr_pos_end, x.axes) for x in found] == [(2, 3, ())] * 2
    assert list(found[0].step_scores) == ["entropy", "logit"]
    assert found.info["attribute_target"] is True
    assert "我" in succeed("show", str(result))


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
    succeed(*arguments)
    shown = succeed("show", result, "--text", "2", "--token", "-3", "--top", "2")
    assert "Output  He likes »dogs«. </s>" in shown
    assert "dogs · explained token 3 of 5 · probability" in shown
    assert len(re.findall(r"^0\.\d\d  .*input \d$", shown, re.MULTILINE)) == 2
    assert "Text 1" not in shown
    assert re.search(r"^cats +貓 0\.\d\d \| probability 0\.\d\d$", succeed("show", result, "--top", "1"), re.MULTILINE)
    values = succeed("show", result, "--tsv")
    assert values.startswith("kind\ttoken\tI\tlike\tcats\t.\t</s>\nsource\t我\t0.")
    assert values.count("kind\ttoken") == 2
    assert succeed("show", result, "--tsv", "--text", "1") == values.split("\n\n")[0] + "\n"
    succeed("show", result, "--text", "2", "--html", str(tmp_path / "a.html"))
    page = (tmp_path / "a.html").read_text()
    assert "dogs" in page
    assert "cats" not in page


def test_show_opens_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda page: bool(opened.append(page)))
    inseq.FeatureAttributionOutput([continuation()]).save(tmp_path / "a.json")
    succeed("show", str(tmp_path / "a.json"), "--open")
    ended = call("show", str(tmp_path / "a.json"), "--open", "--html", str(tmp_path / "b.html"))
    assert opened[1] == (tmp_path / "b.html").as_uri()
    assert all("data-line" in Path(url2pathname(urlparse(page).path)).read_text(encoding="utf-8") for page in opened)
    assert ended.errors == f"No browser can be opened here. Written: {tmp_path / 'b.html'}\n"


def test_what_the_documentation_shows_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documented = (Path(__file__).parent.parent / "docs" / "command-line.md").read_text(encoding="utf-8")
    commands = re.findall(r"^(?:\$ )?inseq ((?:attribute|show) .*result\.json.*)$", documented, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    attribute, *_, show = [shlex.split(command) for command in commands]
    succeed(*attribute, "--hide")
    assert f"$ inseq {commands[-1]}\n{succeed(*show).rstrip()}\n```\n" in documented


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
    assert message in refuse("show", str(tmp_path / "a.json"), *arguments)
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
    succeed(*arguments, "-o", str(tmp_path / "whole.json"))
    named = ["--attribution_aggregators", *aggregators] if aggregators else []
    succeed(*arguments, "-o", str(tmp_path / "a.json"), "--attribution_selectors", *selectors, *named)
    whole = inseq.FeatureAttributionOutput.load(tmp_path / "whole.json")[0]
    found = inseq.FeatureAttributionOutput.load(tmp_path / "a.json")[0]
    head = whole.source_attributions[..., 1]
    over_layers = head[..., 0] if len(selectors) == 2 else head.amax(-1) if "max" in aggregators else head.mean(-1)
    assert found.axes == ()
    assert torch.allclose(found.source_attributions, over_layers, atol=1e-6)


def test_tokens_can_be_merged_on_the_command_line(tmp_path: Path) -> None:
    arguments = ["attribute", "-m", "demo/gpt2", "-i", "Hello world", "--max-new-tokens", "4", "--hide", "-o"]
    succeed(*arguments, str(tmp_path / "a.json"), "--attribution_aggregators", "words", "--normalize_attributions")
    succeed(*arguments, str(tmp_path / "b.json"))
    merged, whole = (inseq.FeatureAttributionOutput.load(tmp_path / name) for name in ("a.json", "b.json"))
    assert merged == whole.aggregate(["words", "scores"])


def test_a_configuration_file_gives_defaults(tmp_path: Path) -> None:
    config = tmp_path / "inseq.toml"
    text = 'model_name_or_path = "demo/gpt2"\n[attribute]\ninput-texts = ["Hello"]\nattributed_fn = "logit"\nquiet = true\n'
    config.write_text(text + 'step_scores = "entropy"\ns = [1]\nmax_new_tokens = 2\n', encoding="utf-8")
    arguments = ["attribute", "--config", str(config), "-fn", "entropy", "--step_scores", "logit", "--end_pos", "2"]
    ended = call(*arguments, "-o", str(tmp_path / "a.json"))
    assert (ended.code, ended.errors) == (0, "")
    output = inseq.FeatureAttributionOutput.load(tmp_path / "a.json")
    assert output.info["attributed_fn"] == "entropy"
    assert list(output[0].step_scores) == ["logit"], "a list on the command line replaces that of the file"
    assert output[0].attr_pos_start == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('model = "x"', "unknown setting 'model'"),
        ("batch_size = 2.5", "inseq.toml: batch_size: expected a whole number, got '2.5'."),
        ("batch_size = true", "batch_size: expected a whole number, got 'true'."),
        ("attributed_fn = ['logit']", "attributed_fn: expected one value, got ['logit']."),
        ("model_kwargs = 'x'", "model_kwargs: must be a JSON object, got 'x'"),
        ("input_texts = [['Hello']]", "input_texts: expected one value, got ['Hello']."),
        ("attribute = 1", "inseq.toml: [attribute] must be a table, got 1."),
        ("model_kwargs =", "cannot be read: Invalid value"),
    ],
)
def test_a_configuration_file_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "inseq.toml").write_text(text, encoding="utf-8")
    assert message in refuse("attribute", "--config", str(tmp_path / "inseq.toml"))


def test_the_flags_of_attribute_context_are_its_arguments_in_python() -> None:
    from inseq.context.arguments import AttributeContextArgs

    parser = CommandParser("inseq attribute-context", "", "")
    attribute_context_flags(parser)
    values = vars(parser.read([]))
    for field in fields(AttributeContextArgs):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        assert values[field.name] == default, field.name


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
    assert "cues: Tom" in succeed("attribute-context", *arguments)
    saved = json.loads((tmp_path / "c.json").read_text())
    assert saved["cci_scores"][0]["cti_token"] == "ĠTom"
    assert saved["info"]["attributed_fn"] == "contrast_prob_diff"
    assert "cues: Tom" in succeed("show", str(tmp_path / "c.json"))
    shown = succeed("show", str(tmp_path / "c.json"), "--text", "1", "--token", "1", "--top", "1")
    assert re.search(r"^\d\.\d\d  Tom  input 7$", shown, re.MULTILINE)
    assert succeed("show", str(tmp_path / "c.json"), "--tsv").startswith("kind\ttoken\tTom\nsource\tAnna\t")
    assert "cues" not in succeed("attribute-context", *arguments, "--no_show_viz", "--overwrite")


@pytest.mark.parametrize("command", ["attribute", "attribute-dataset", "attribute-context"])
def test_commands_say_what_they_take(command: str) -> None:
    shown = succeed(command, "--help")
    assert all(flag in shown for flag in ("--model_name_or_path", "--config", "--quiet", "--generation_kwargs"))
    assert 'The method; see `inseq methods`. Default: "saliency".' in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["--viz_path", "x.html"],
        ["--attribution_aggregators", "words"],
        ["--attribution_selectors", "0"],
        ["--aggregate_output"],
    ],
    ids=" ".join,
)
def test_a_data_set_s_scores_are_stored_as_they_are(arguments: list[str]) -> None:
    message = f"{arguments[0]} is not for attribute-dataset, which stores scores as they are: load_run gives each row."
    assert message in refuse("attribute-dataset", "-m", "demo/gpt2", "-d", "x.csv", "-o", "run", *arguments)
    assert arguments[0] not in succeed("attribute-dataset", "--help")
    assert arguments[0] in succeed("attribute", "--help")


def test_a_failure_while_running_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inseq, "load_model", lambda *_, **__: 1 / 0)
    ended = call(*HELLO)
    assert (ended.code, ended.output, ended.errors) == (1, "", "Failed: ZeroDivisionError: division by zero\n")


def test_an_interruption_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inseq, "load_model", interrupt)
    ended = call(*HELLO)
    assert (ended.code, ended.output, ended.errors) == (130, "", "Interrupted.\n")


def test_existing_files_are_replaced_where_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("mine")
    assert "pass --overwrite" in refuse(*HELLO, "-o", str(path))
    assert path.read_text() == "mine"
    succeed(*HELLO, "-o", str(path), "--overwrite", "--aggregate_output")
    assert inseq.FeatureAttributionOutput.load(path)[0].axes == ()


def test_a_data_set_on_the_command_line_says_how_far_it_is(tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("text\nHello\nGood morning\n")
    arguments = ["attribute-dataset", "-m", "demo/gpt2", "-d", str(tmp_path / "texts.csv"), "--max_new_tokens", "1"]
    ended = call(*arguments, "-o", str(tmp_path / "run"))
    assert "2 rows done, 0 done before, 0 failed" in ended.errors
    assert (ended.code, ended.output) == (0, "")
    quiet = call(*arguments, "-o", str(tmp_path / "run"), "--quiet")
    assert (quiet.code, quiet.output, quiet.errors) == (0, "", "")
