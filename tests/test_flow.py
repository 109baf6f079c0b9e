"""What text in a terminal is made of: lines that flow, and tab-separated values."""

from __future__ import annotations

import pytest
import torch
from results import HOSTILE, NAN, continuation, everywhere, translation
from rich.cells import cell_len

from inseq.views.tabulate import table
from inseq.views.terminal.flow import Piece, cut, drawn, flow, weightiest
from inseq.views.terminal.tsv import tsv


def test_pieces_flow() -> None:
    def lines(room: int, *pieces: Piece) -> list[str]:
        return [drawn(line).plain for line in flow(pieces, room)]

    assert lines(5, Piece("ab"), Piece("cd", gap=" "), Piece("e", gap=" ")) == ["ab cd", "e"]
    assert lines(3, Piece("a"), Piece("bcdefgh"), Piece("i")) == ["a", "bcd", "efg", "hi"]
    assert lines(3, Piece("你好"), Piece("b")) == ["你", "好b"]
    assert lines(9, Piece("a", ends=True), Piece("b")) == ["a", "b"]
    assert lines(0, Piece("你好")) == ["你", "好"]
    assert lines(4) == []


def test_the_weightiest_lines_are_kept() -> None:
    lines = [[Piece(f"{i}", weight=w)] for i, w in enumerate([0, 1, 9, 2, 8, 0])]
    assert [drawn(line).plain for line in weightiest(lines, 4)] == ["0", "⋯ 1 line ⋯", "2", "⋯ 1 line ⋯", "4", "5"]
    assert [drawn(line).plain for line in weightiest(lines, 2)] == ["0", "⋯ 4 lines ⋯", "5"]
    assert weightiest(lines, 6) == lines


@pytest.mark.parametrize("width", range(1, 6))
@pytest.mark.parametrize("text", ["", "word", "你好吗", "a" * 1000, "e" + "\u0301" * 100, "👩\u200d🚀👩\u200d🚀"])
def test_text_is_cut_to_size(text: str, width: int) -> None:
    assert cell_len(cut(text, width)) <= width
    assert cut(text, 2000) == text


# ----------------------------------------------------------------------------- tab-separated values


def test_tab_separated_values_word_for_word() -> None:
    out = translation(
        [[0.5, -0.25], [NAN, 1e-9], [0.0, 2.0]],
        ["=1+1", "a\tb", "</s>"],
        [" I", "-"],
        step_scores={"probability": torch.tensor([0.5, NAN])},
        diagnostics={"delta": torch.tensor([0.0, 1.0])},
    )
    one = (
        "kind\ttoken\tI\t'-\n"
        "source\t'=1+1\t0.5\t-0.25\n"
        "source\ta⇥b\t\t9.99999972e-10\n"
        "source\t</s>\t0\t2\n"
        "step score\tprobability\t0.5\t\n"
        "diagnostic\tdelta\t0\t1\n"
    )
    assert tsv([table(out)]) == one
    assert tsv([table(out), table(out)]) == f"{one}\n{one}"
    assert tsv([]) == ""
    assert tsv([table(continuation())]).splitlines()[3] == "generated\tis\t\t0.699999988"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_breaks_no_line_of_values(text: str) -> None:
    made = table(everywhere(text)[0])
    lines = tsv([made]).encode().decode().splitlines()
    assert len(lines) == 6
    assert {line.count("\t") for line in lines} == {3}
