"""Text: what was read and written first, then the numbers; within the width, and inert."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from results import HOSTILE, NAN, continuation, everywhere, translation
from rich.cells import cell_len
from screens import WAYS, coloured, plain
from test_views import ODD

from inseq.errors import ArgumentError
from inseq.outputs.context import AttributeContextOutput
from inseq.outputs.sequence import FeatureAttributionSequenceOutput
from inseq.views import budget
from inseq.views.context import context_table
from inseq.views.tabulate import table
from inseq.views.terminal import render as terminal
from inseq.views.words import visible

MIXED = ["Hello", " wörld", "你好", "世界。", " שלום", " عليكم", "👩\u200d🚀", "e\u0301", "\n", " ", "</s>", " a", "bc"]


def counted(output: FeatureAttributionSequenceOutput) -> FeatureAttributionSequenceOutput:
    output.step_scores = {"probability": torch.tensor([0.5, 0.25])}
    output.info = {"attribution_method": "saliency", "model_name": "demo"}
    return output


# ----------------------------------------------------------------------------- word for word


def test_the_text_and_its_matrix_word_for_word() -> None:
    assert plain(counted(continuation())) == (
        "Input   The[0.30] sky[0.35]\n"
        "Output  is[0.35] blue\n"
        "\n"
        "               is  blue\n"
        "The          0.50  0.10\n"
        "sky          0.50  0.20\n"
        "is                 0.70\n"
        "probability  0.50  0.25\n"
        "\n"
        "in brackets: the 3 strongest means over the output tokens ·\n"
        "rows: input, columns: output, scores: 0.00 to 0.70\n"
        "Method: saliency · Model: demo\n"
        "\n"
    )


def test_one_token_word_for_word() -> None:
    made = replace(
        table(counted(continuation())), alternatives=(((" is", 0.5), ("\n", 0.25)), ((" blue", 0.75), (" red", 0.2)))
    )
    assert plain(made, token=-1, top=2) == (
        "Input   The[0.10] sky[0.20]\n"
        "Output  is[0.70] »blue«\n"
        "\n"
        "blue · explained token 2 of 2 · probability 0.25\n"
        "0.70  is   output 1\n"
        "0.20  sky  input 2\n"
        "most probable: blue 0.75 · red 0.20\n"
        "\n"
        "in brackets: the 3 strongest scores of blue\n"
        "Method: saliency · Model: demo\n"
        "\n"
    )
    assert "most probable: is 0.50 · ↵ 0.25\n" in plain(made, token=1)


def test_the_list_word_for_word() -> None:
    signed = translation(
        [[-0.6, 0.0], [0.3, 0.8], [0.1, -0.2]], signed=True, step_scores={"probability": torch.tensor([0.5, 0.25])}
    )
    assert plain(signed, top=2) == (
        "Input   我[−0.30]喜欢[0.55] </s>[−0.05]\n"
        "Output  I like\n"
        "\n"
        "I     我 −0.60 · 喜欢 0.30 | probability 0.50\n"
        "like  喜欢 0.80 · </s> −0.20 | probability 0.25\n"
        "\n"
        "in brackets: the 3 strongest means over the output tokens ·\n"
        "after each output token: its 2 strongest input tokens\n"
        "\n"
    )


def test_narrow_text_word_for_word() -> None:
    assert plain(counted(continuation()), width=12, token=2) == (
        "Input\n"
        "The[0.10]\n"
        "sky[0.20]\n"
        "Output\n"
        "is[0.70]\n"
        "»blue«\n"
        "\n"
        "blue ·\n"
        "explained\n"
        "token 2 of 2\n"
        "·\n"
        "probability\n"
        "0.25\n"
        "0.70  is\n"
        "0.20  sky\n"
        "0.10  The\n"
        "\n"
        "in brackets:\n"
        "the 3\n"
        "strongest\n"
        "scores of\n"
        "blue\n"
        "Method:\n"
        "saliency ·\n"
        "Model: demo\n"
        "\n"
    )


def test_shares_of_the_source_stand_under_the_matrix() -> None:
    both = translation(target_attributions=torch.tensor([[0.0, 1.0], [NAN, 0.0], [NAN, NAN]]))
    assert "source share  1.00  0.50\n" in plain(both)
    assert "explained token 2 of 2 · source share 0.50" in plain(both, token=2)


def test_numbers_of_one_size_have_their_unit() -> None:
    small = translation([[0.00003, 0.0], [0.00001, 0.0], [0.0, 0.0]])
    assert "3.00  我    input 1\n1.00  喜欢  input 2\nnumbers × 10⁻⁵\n" in plain(small, token=1)
    assert "我 3.00 · 喜欢 1.00\n" in plain(small, top=3)
    assert plain(small, top=3).count("× 10⁻⁵") == 2
    assert "like · explained token 2 of 2\nonly zeros\n" in plain(small, token=2)
    assert "like  only zeros\n" in plain(small, top=2)
    assert "only zeros" not in plain(translation([[NAN, 1.0], [NAN, 1.0], [NAN, 1.0]]), token=1)


def test_no_number_in_brackets_is_zero() -> None:
    assert "Input   我[0.90]喜欢 </s>[0.10]\n" in plain(translation([[0.9], [0.001], [0.1]], written=["x"]))
    assert "\n\nrows: input" in plain(translation([[0.0], [0.0], [0.0]], written=["x"]))


# ----------------------------------------------------------------------------- widths and scripts


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("width", [12, 13, 20, 40, 79, 200])
def test_every_line_fits_and_nothing_is_lost(width: int, way: dict[str, Any]) -> None:
    written = [" Wort", "für", " 字", " ←"]
    scores = torch.linspace(-1, 1, len(MIXED) * 4).reshape(len(MIXED), 4)
    info = {"notes": ["a note with averyveryveryveryverylongword in it"], "model_name": "名" * 20}
    out = translation(scores, MIXED, written, signed=True, info=info, step_scores={"p": torch.ones(4)})
    shown = plain(out, width, title="A heading that is long", **way)
    assert all(cell_len(line) <= width for line in shown.splitlines())
    kept = re.sub(r"\[−?\d\.\d\d\]|[»«]|\s", "", shown.split("\n\n")[0])
    read = "".join(visible(text.strip(" ") or text) for text in MIXED)
    assert kept.endswith(f"Input{read}Output{''.join(map(str.strip, written))}")


def test_no_width_is_less_than_twelve() -> None:
    assert plain(translation(), 1) == plain(translation(), 12)


def test_text_is_broken_at_borders_of_tokens() -> None:
    out = translation(torch.zeros(30, 1), [f" token{i:02}" for i in range(30)], [" x"])
    lines = plain(out, 40).split("\n\n")[0].splitlines()
    assert lines[:3] == [
        "Every score is zero.",
        "Input   token00 token01 token02 token03",
        "        token04 token05 token06 token07",
    ]


def test_line_breaks_of_the_text_are_kept_and_seen() -> None:
    out = translation(torch.ones(4, 1), ["a", "\n\n", "b", " c\n"], [" x"])
    assert plain(out).startswith("Input   a[1.00]↵↵[1.00]\n        b[1.00] c↵[1.00]\nOutput  x\n")


def test_pieces_of_one_character_are_one_word() -> None:
    out = translation([[0.1], [0.2], [0.3], [0.4]], ["你", "", "", "好"], [" I"])
    assert plain(out).startswith("Input   你[0.60]好[0.40]\n")
    assert "I  你 0.60 · 好 0.40\n" in plain(out, top=2)
    assert "你 3/3  0.30\n" in plain(out)
    written = translation(torch.ones(1, 3), ["a"], ["你", "", " b"])
    assert "Output  »你« b\n" in plain(written, token=2)
    assert "你 2/2 · explained token 2 of 3\n" in plain(written, token=2)


def test_tokens_explained_at_once_are_marked_at_once() -> None:
    out = translation(torch.ones(1, 3), ["a"], [" I", " like", " it"])
    merged = out.aggregate("spans", target_spans=[(2, 4)])
    assert "Output  I »like it«\n" in plain(merged, token=2)


def test_right_to_left_text_stays_in_its_own_order() -> None:
    out = translation(torch.tensor([[0.5], [0.25]]), ["שלום", " عليكم"], [" x"])
    assert plain(out).startswith("Input   שלום[0.50] عليكم[0.25]\n")


def test_wide_characters_are_aligned() -> None:
    matrix = plain(translation()).split("\n\n")[1].splitlines()
    assert {cell_len(line) for line in matrix} == {16}
    places = [line for line in plain(translation(), token=1).splitlines() if " input " in line]
    assert len({cell_len(line) for line in places}) == 1


# ----------------------------------------------------------------------------- what does not fit


def test_the_matrix_gives_way_to_the_list_where_it_does_not_fit() -> None:
    written = [f" word{i}" for i in range(15)]
    out = translation(torch.rand(3, 15) + 0.01, written=written, info={"notes": ["many short words in one long line"]})
    assert len(re.findall(r" \d\.\d\d", plain(out, 40))) >= 45
    shown = plain(out, 20)
    assert "the matrix, 3 × 15, does not fit;" in " ".join(shown.split())
    assert all(f"\nword{i}\n  " in shown for i in range(15))
    tall = translation(torch.rand(200, 1) + 0.01, [f" w{i}" for i in range(200)], [" x"])
    assert "the matrix, 200 × 1, does not fit; after each output token: its 5 strongest input tokens" in plain(tall, 200)


def test_only_the_first_of_many_output_tokens_are_listed_unless_all_are_wanted() -> None:
    out = translation(torch.rand(3, 100) + 0.01, written=[f" w{i}" for i in range(100)])
    assert "\nw59  " in plain(out)
    assert "\nw60  " not in plain(out)
    assert "\nand 40 further output tokens\n" in plain(out)
    assert "\nw99  " in plain(out, top=1)


def test_of_a_long_text_the_lines_that_matter_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.full((2000, 1), 0.01)
    scores[1234] = 1.0
    out = translation(scores, [f" w{i}" for i in range(2000)], [" x"])
    shown = plain(out, 80)
    text = shown.split("Output")[0].splitlines()
    assert len(text) < 50
    assert text[0].startswith("Input   w0")
    assert text[-1].endswith("w1999")
    assert "w1234[1.00]" in shown
    monkeypatch.setattr(terminal, "MOST_LINES", 10_000)
    whole = plain(out, 80).split("Output")[0].splitlines()
    assert sum(int(n) for n in re.findall(r"⋯ (\d+) lines? ⋯", shown)) + len(text) - shown.count(" ⋯\n") == len(whole)
    assert all(line in whole for line in text if "⋯" not in line)


def test_a_hundred_thousand_tokens() -> None:
    made = table(translation(torch.rand(100_000, 1), [" word"] * 100_000, [" a"]))
    shown = plain(made, 80)
    assert len(shown.splitlines()) < 70
    assert f"the matrix, {len(made.rows)} × 1, does not fit" in " ".join(shown.split())
    assert len(plain(made, 80, token=1).splitlines()) < 70


def test_stretches_of_weak_tokens_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MAX_CELLS", 10)
    scores = torch.full((5000, 2), 0.01)
    scores[2500] = 1.0
    shown = plain(translation(scores, [" word"] * 2500 + [" strong"] + [" word"] * 2499, [" a", " b"]), 80)
    assert "strong[1.00]" in shown
    assert "stretches of weaker ones as one" in " ".join(shown.split())
    assert len(shown.splitlines()) < 150
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("signed", [False, True])
def test_odd_results_are_a_view_or_a_sentence(name: str, signed: bool, way: dict[str, Any]) -> None:
    output, sentence = ODD[name]
    output.signed = signed
    if "token" in way and not output.generated:
        with pytest.raises(ArgumentError, match="no output token was explained"):
            plain(output, **way)
        return
    shown = plain(output, **way)
    assert sentence in shown
    assert not re.search(r"\b(nan|inf|None)\b", shown)


# ----------------------------------------------------------------------------- inert


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert(text: str, way: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = everywhere(text)
    file = io.StringIO()
    made = [replace(table(s, info=hostile.info), alternatives=(((text, 0.5),),) * 2) for s in hostile]
    terminal.render(made, width=200, file=file, title=text, **way)
    shown = file.getvalue()
    shown.encode("utf-8")
    assert visible(text) in shown
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202a-\u202e]", shown)
    seen = coloured(hostile[0], monkeypatch, "TERM=xterm COLORTERM=truecolor", **way)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202a-\u202e]", re.sub(r"\x1b\[[\d;]*m", "", seen))


def test_markup_is_literal() -> None:
    out = translation(source=["[red]x[/red]", ":smile:", "</s>"])
    for way in WAYS:
        assert "[red]x[/red]" in plain(out, **way)
        assert ":smile:" in plain(out, **way)


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ({"token": 0}, "Got token 0, but the explained tokens are 1 to 2, or -2 to -1 counted from the end."),
        ({"token": 3}, "Got token 3, but the explained tokens are 1 to 2"),
        ({"token": -3}, "Got token -3"),
        ({"top": 0}, "Got top 0; it is how many input tokens to list, at least 1"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_drawn(way: dict[str, Any], message: str) -> None:
    file = io.StringIO()
    with pytest.raises(ArgumentError, match=re.escape(message)):
        terminal.render([table(translation())], width=60, file=file, **way)
    assert file.getvalue() == ""


def test_the_text_without_the_token_is_named() -> None:
    shorter = translation([[1.0]], ["a"], [" b"])
    with pytest.raises(ArgumentError, match="the explained tokens of text 2 are 1 to 1"):
        terminal.render([table(translation()), table(shorter)], file=io.StringIO(), token=2)


# ----------------------------------------------------------------------------- contexts


def test_a_context_without_cues_is_text_and_a_sentence() -> None:
    bare = AttributeContextOutput(input_context_tokens=["The", "Ġsky"], output_current_tokens=["is", "Ġblue"])
    shown = plain(context_table(bare))
    assert shown.startswith(
        "Context reliance\nNo token of the output is sensitive to the context.\nInput   The sky\nOutput  is blue\n"
    )
    with pytest.raises(ArgumentError, match="no output token was explained"):
        plain(context_table(bare), token=1)
