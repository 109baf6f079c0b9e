"""The most probable tokens in results, files and views."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from browsing import open_page
from results import continuation, tokens, translation
from test_alternatives import QUIET, load

from inseq.errors import ArgumentError, FileFormatError
from inseq.outputs.output import FeatureAttributionOutput
from inseq.outputs.tables import tables
from inseq.results.aggregate.slices import dimensions
from inseq.results.alternatives import Alternative, Alternatives
from inseq.views.look import Look
from inseq.views.page import html
from inseq.views.tabulate import table
from inseq.views.terminal import render as terminal

# ----------------------------------------------------------------------------- results


def some(n: int, *names: str) -> Alternatives:
    """For each of ``n`` steps two tokens."""
    pairs = zip(tokens(names or (" yes", " no"), "generated"), (0.75, 0.125), strict=True)
    one = [Alternative(token, p) for token, p in pairs]
    return tuple(tuple(each.copy() for each in one) for _ in range(n))


def test_a_copy_has_tokens_of_its_own_and_edits_reach_them() -> None:
    out = translation(alternatives=some(2))
    twin = out.copy()
    assert twin == out
    twin.alternatives[0][0].token.token = "other"
    assert twin != out
    assert out.alternatives[0][0].token.token == "▁yes"
    assert translation(alternatives=some(1) + some(1, " yes", " never")) != out
    assert translation() != out


def test_probabilities_are_compared_like_scores() -> None:
    near, far = (tuple(tuple(Alternative(a.token, a.probability + d) for a in step) for step in some(2)) for d in (1e-7, 1e-3))
    assert translation(alternatives=near) == translation(alternatives=some(2))
    assert translation(alternatives=far) != translation(alternatives=some(2))


def test_clean_special_chars_and_decode_tokens_are_for_them_too() -> None:
    model = load("demo/zh-en")
    (out,) = model.attribute("他喜歡貓。", "He likes cats.", alternatives=2, clean_special_chars=True, **QUIET)
    assert out.alternatives[0][0].token.token == "He"
    (out,) = model.attribute("他喜歡貓。", "He likes cats.", alternatives=2, **QUIET)
    out.decode_tokens(model.tokenizer)
    assert out.alternatives[0][0].token.token == model.tokenizer.decode([out.alternatives[0][0].token.id])


def test_merged_columns_lose_them_and_others_keep_them() -> None:
    out = translation(torch.rand(3, 3), written=(" I", " like", " cats"), alternatives=some(3))
    merged = out.aggregate("spans", target_spans=[(2, 4)])
    assert [len(step) for step in merged.alternatives] == [2, 0]
    assert merged.alternatives[0] == out.alternatives[0]
    assert out.aggregate("spans", source_spans=[(0, 2)]).alternatives == out.alternatives
    begun = continuation(alternatives=some(2)).aggregate("spans", target_spans=[(1, 3)])
    assert [len(step) for step in begun.alternatives] == [0, 2], "its column says more than was predicted"
    assert translation().aggregate("spans", target_spans=[(1, 3)]).alternatives == ()


def test_words_lose_them_where_pieces_are_merged() -> None:
    out = translation(torch.rand(3, 3), written=(" un", "happy", " I"), alternatives=some(3))
    assert [len(step) for step in out.aggregate("words").alternatives] == [0, 2]


def test_folds_and_slices_keep_them_and_differences_do_not() -> None:
    out = translation(torch.rand(3, 2, 4), axes=("dim",), reduce_by=("vnorm",), alternatives=some(1) + some(1, " a", " b"))
    assert out.aggregate().alternatives == out.alternatives
    assert out[0:2].alternatives == out.alternatives
    assert (out - out).alternatives == ()
    assert dimensions(out, {"step": (1, 2)}).alternatives == out.alternatives[1:]


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ArgumentError, match="alternatives has 3 entries; expected 2, one for each explained token, or none"):
        translation(alternatives=some(3))


def test_plain_values() -> None:
    found = translation(alternatives=some(2)).to_dict()["alternatives"]
    token = {"token": "▁yes", "id": 0, "role": "generated", "text": " yes", "special": False}
    assert found[1][0] == {"token": token, "probability": 0.75}


# ----------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.safetensors"])
def test_files_hold_them(name: str, tmp_path: Path) -> None:
    (out,) = load("demo/zh-en").attribute("他喜歡貓。", "He likes cats.", alternatives=3, **QUIET)
    found = FeatureAttributionOutput([out, translation(alternatives=(some(1)[0], ())), translation()])
    found.save(tmp_path / name)
    back = FeatureAttributionOutput.load(tmp_path / name)
    assert back == found
    assert back[0].alternatives == out.alternatives, "to the last bit"
    assert [x.token.shown for x in back[0].alternatives[0]] == [x.token.shown for x in out.alternatives[0]]


@pytest.mark.parametrize("version", [1, 2])
def test_older_files_are_read_without_them(version: int, tmp_path: Path) -> None:
    out = FeatureAttributionOutput([continuation()])
    out.save(tmp_path / "a.json")
    document = json.loads((tmp_path / "a.json").read_text()) | {"version": version}
    assert "alternatives" not in document["sequences"][0]
    if version == 1:
        del document["written_by"]
    (tmp_path / "a.json").write_text(json.dumps(document))
    assert FeatureAttributionOutput.load(tmp_path / "a.json") == out


HOSTILE: list[tuple[tuple[Any, ...], Any, str]] = [
    ((), 3, "alternatives should be a list"),
    ((), [[]], "alternatives has 1 entries; expected 2"),
    ((0,), {}, r"alternatives\[0\] should be a list"),
    ((0, 0), ["x", 0.5], r"alternatives\[0\]\[0\] should be an object with the keys token, probability"),
    ((0, 0, "probability"), 1.5, r"probability should be a number from 0 to 1"),
    ((0, 0, "probability"), -0.5, r"probability should be a number from 0 to 1"),
    ((0, 0, "probability"), "0.5", r"probability should be a number"),
    ((0, 0, "probability"), True, r"probability should be a number"),
    ((0, 0, "probability"), 10**400, r"probability should be a number"),
    ((1, 0, "token"), None, r"alternatives\[1\]\[0\].token should be an object"),
    ((1, 0, "token", "id"), -5, r"alternatives\[1\]\[0\].token.id"),
    ((1, 0, "token", "role"), "owner", r"alternatives\[1\]\[0\].token.role"),
]


@pytest.mark.parametrize(("keys", "value", "said"), HOSTILE)
def test_hostile_values_are_refused(keys: tuple[Any, ...], value: Any, said: str, tmp_path: Path) -> None:
    FeatureAttributionOutput([translation(alternatives=some(2))]).save(tmp_path / "a.json")
    document = json.loads((tmp_path / "a.json").read_text())
    part, *path = document["sequences"][0], "alternatives", *keys
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match=said):
        FeatureAttributionOutput.load(tmp_path / "a.json")


# ----------------------------------------------------------------------------- views


def test_views_show_them() -> None:
    out = load("demo/zh-en").attribute("他喜歡貓。", "He likes cats.", alternatives=3, **QUIET)
    expected = [[(a.token.shown, a.probability) for a in step] for step in out[0].alternatives]
    (made,) = tables(out)
    assert [list(step) for step in made.alternatives] == expected
    page = html.page([made])
    data = json.loads(page.partition('class="data">')[2].partition("</script>")[0])
    assert [[p for _, p in step] for step in data["alternatives"]] == [[p for _, p in step] for step in expected]
    assert "likes" in data["alternatives"][1][0][0]


def test_the_page_tells_them_where_a_token_is_pointed_at(browser: Any, tmp_path: Path) -> None:
    out = FeatureAttributionOutput([translation(alternatives=some(1) + some(1, "<b>x</b>", " no"))])
    opened = open_page(browser, html.page(tables(out)), tmp_path)
    opened.token("output", 0).hover()
    assert "most probable: yes 0.75, no 0.125" in " ".join(opened.told().split())
    opened.token("output", 1).hover()
    assert "most probable: <b>x</b> 0.75" in " ".join(opened.told().split())
    assert not opened.problems


def test_a_merged_column_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    out = translation(torch.rand(3, 3), written=(" un", "happy", " I"), alternatives=some(3)).aggregate("words")
    terminal.render([table(out)], token=1)
    terminal.render([table(out)], token=2)
    first, second = capsys.readouterr().out.split("explained token 2")
    assert "most probable" not in first
    assert "most probable: yes 0.75 · no 0.12" in second


def test_exchanged_texts_reach_them() -> None:
    out = translation(alternatives=some(2))
    made = tables(out, Look(replace_char={"yes": "ja"}))
    assert made[0].alternatives[0][0][0] == " ja"
    assert out.alternatives[0][0].token.shown == " yes"
