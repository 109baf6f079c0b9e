"""Data sets: what is read, what a bad row becomes, and what is left of a run that was killed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import inseq
from inseq.dataset.attribute import Finished, attribute_dataset, load_run
from inseq.dataset.rows import read_rows
from inseq.dataset.runs import locked
from inseq.errors import ArgumentError, UnknownArgumentError

TEXTS = [f"{name} gave the {colour} ball to Tom. Now" for name in ("Anna", "Mark", "Kate") for colour in ("red", "blue")]
OPTIONS = {"generation_args": {"max_new_tokens": 4}, "step_scores": ["probability"]}


@pytest.fixture(scope="module")
def gpt2() -> Any:
    return inseq.load_model("demo/gpt2", "saliency")


def _write(path: Path, texts: list[str]) -> Path:
    """The texts in the format of the file's ending."""
    lines: dict[str, Callable[[], str]] = {
        ".txt": lambda: "".join(f"{text}\n" for text in texts),
        ".jsonl": lambda: "".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(texts)),
        ".json": lambda: json.dumps([{"text": text} for text in texts]),
        ".csv": lambda: "n,text\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(texts)),
        ".tsv": lambda: "n\ttext\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(texts)),
    }
    path.write_text(lines[path.suffix](), encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".json", ".csv", ".tsv"])
def test_files_are_read_by_their_ending(tmp_path: Path, ending: str) -> None:
    texts = ["Hello, world", "機器學習", "third"]
    rows = list(read_rows(_write(tmp_path / f"data{ending}", texts)))
    assert [(row.index, row.fields["text"]) for row in rows] == list(enumerate(texts))


def test_parquet_is_read_or_the_missing_package_named(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    path.write_bytes(b"PAR1")
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        with pytest.raises(ArgumentError, match="pyarrow, which is not installed"):
            next(read_rows(path))
        return
    parquet.write_table(arrow.table({"text": ["a", "b"]}), path)
    assert [row.fields["text"] for row in read_rows(path)] == ["a", "b"]


def test_data_sets_of_the_hub_go_through_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Datasets:
        @staticmethod
        def load_dataset(name: str, **arguments: Any) -> list[dict[str, str]]:
            asked.update(arguments, name=name)
            return [{"text": "Hello"}]

    monkeypatch.setitem(sys.modules, "datasets", Datasets)
    assert [row.fields["text"] for row in read_rows("some/name", {"split": "test", "revision": None})] == ["Hello"]
    assert asked == {"name": "some/name", "split": "test", "streaming": True}
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ArgumentError, match=r"pip install 'inseq\[data\]'"):
        read_rows("some/name")


def test_rows_are_those_of_one_call(gpt2: Any, tmp_path: Path) -> None:
    data = _write(tmp_path / "data.jsonl", TEXTS)
    finished = attribute_dataset(gpt2, data, tmp_path / "run", batch_size=4, **OPTIONS)
    assert finished == Finished(tmp_path / "run", 6, 0, 0)
    expected = gpt2.attribute(TEXTS, show_progress=False, **OPTIONS)
    found = list(load_run(tmp_path / "run"))
    assert [result.row for result in found] == list(range(6))
    for result, sequence in zip(found, expected, strict=True):
        assert result.output is not None
        assert result.output[0] == sequence
    again = attribute_dataset(gpt2, data, tmp_path / "run", batch_size=4, **OPTIONS)
    assert (again.done, again.skipped) == (0, 6)


def test_a_token_of_the_hub_is_not_stored(gpt2: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Datasets:
        @staticmethod
        def load_dataset(name: str, **arguments: Any) -> list[dict[str, str]]:
            return [{"text": TEXTS[0]}]

    monkeypatch.setitem(sys.modules, "datasets", Datasets)
    attribute_dataset(gpt2, "some/name", tmp_path / "run", dataset_kwargs={"token": "hf_secret", "split": "test"}, **OPTIONS)
    assert "hf_secret" not in "".join(path.read_text() for path in (tmp_path / "run").rglob("*.json"))


def test_a_bad_row_is_a_row_with_its_error(gpt2: Any, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    good, long = json.dumps({"text": TEXTS[0]}), json.dumps({"text": "ball " * 400})
    data.write_bytes(
        f'{good}\n{{"text": \n{long}\n{{"text": ""}}\n[1]\n{{"other": 1}}\n{{"text": "\\udc80"}}\n{good}\n'.encode()
    )
    finished = attribute_dataset(gpt2, data, tmp_path / "run", **OPTIONS)
    assert (finished.done, finished.failed) == (2, 6)
    errors = {result.row: result.error for result in load_run(tmp_path / "run") if result.error}
    for row, message in {
        1: "is not JSON",
        2: "positions",
        3: "is empty",
        4: "no object",
        5: "must be a text",
        6: "lone",
    }.items():
        assert message in errors[row]


def test_what_no_row_would_survive_stops_the_run(gpt2: Any, tmp_path: Path) -> None:
    data = _write(tmp_path / "data.txt", TEXTS)
    with pytest.raises(UnknownArgumentError, match="n_stepz"):
        attribute_dataset(gpt2, data, tmp_path / "a", n_stepz=3)
    with pytest.raises(ArgumentError, match=r"no field 'txt'\. Did you mean 'text'"):
        attribute_dataset(gpt2, data, tmp_path / "b", "txt")
    with pytest.raises(ArgumentError, match="no such file"):
        attribute_dataset(gpt2, tmp_path / "none.csv", tmp_path / "c")
    with pytest.raises(ArgumentError, match="no rows"):
        attribute_dataset(gpt2, _write(tmp_path / "empty.txt", []), tmp_path / "d")


def test_another_run_is_not_continued(gpt2: Any, tmp_path: Path) -> None:
    data = _write(tmp_path / "data.txt", TEXTS[:1])
    attribute_dataset(gpt2, data, tmp_path / "run", **OPTIONS)
    with pytest.raises(ArgumentError, match="method was 'saliency' and is 'occlusion'"):
        attribute_dataset(gpt2, data, tmp_path / "run", method="occlusion", **OPTIONS)
    _write(data, TEXTS[:2])
    with pytest.raises(ArgumentError, match="dataset_bytes was"):
        attribute_dataset(gpt2, data, tmp_path / "run", **OPTIONS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(ArgumentError, match="holds no run of ours"):
        attribute_dataset(gpt2, data, tmp_path / "full", **OPTIONS)


def test_a_run_that_was_killed_at_its_first_write_begins_again(gpt2: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.json.tmp").write_text('{"form')
    assert attribute_dataset(gpt2, _write(tmp_path / "data.txt", TEXTS[:1]), tmp_path / "run", **OPTIONS).done == 1


HOLDING = """
import sys, time
from pathlib import Path
from inseq.dataset.runs import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_processes_do_not_write_one_directory(gpt2: Any, tmp_path: Path) -> None:
    data = _write(tmp_path / "data.txt", TEXTS[:1])
    (tmp_path / "run").mkdir()
    other = subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path / "run")], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ArgumentError, match=rf"is being written by another run \(process {other.pid} on .+\)\. Wait"):
            attribute_dataset(gpt2, data, tmp_path / "run", **OPTIONS)
    finally:
        other.kill()
        other.wait()
    assert attribute_dataset(gpt2, data, tmp_path / "run", **OPTIONS).done == 1, "a lock ends with its process"
    assert [result.row for result in load_run(tmp_path / "run")] == [0]


def test_a_run_lets_its_directory_go(gpt2: Any, tmp_path: Path) -> None:
    data = _write(tmp_path / "data.txt", TEXTS[:1])
    inside: list[str] = []

    def progress(n: int) -> None:
        with pytest.raises(ArgumentError, match=f"process {os.getpid()} on") as error:
            attribute_dataset(gpt2, data, tmp_path / "run", **OPTIONS)
        inside.append(str(error.value))

    attribute_dataset(gpt2, data, tmp_path / "run", progress=progress, **OPTIONS)
    assert len(inside) == 1

    def interrupt(n: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attribute_dataset(gpt2, data, tmp_path / "other", progress=interrupt, **OPTIONS)
    for name in ("run", "other"):
        assert attribute_dataset(gpt2, data, tmp_path / name, **OPTIONS).skipped == 1


def test_a_file_system_without_locks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock._acquire", refuse)
    with pytest.warns(UserWarning, match=r"cannot be locked \(No locks available\): see to it that no"), locked(tmp_path):
        pass


def test_a_directory_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("filelock.FileLock._acquire", refuse)
    with pytest.raises(ArgumentError, match=r"Cannot write '.*\.lock': Permission denied"), locked(tmp_path):
        pass


@pytest.fixture(scope="module")
def whole(gpt2: Any, usual_sizes: None, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The results of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    data = _write(folder / "data.txt", TEXTS * 10)
    attribute_dataset(gpt2, data, folder / "run", method="occlusion", generation_args={"max_new_tokens": 4})
    return list(load_run(folder / "run"))


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, whole: list[Any], by: signal.Signals) -> None:
    data = _write(tmp_path / "data.txt", TEXTS * 10)
    command = ["attribute-dataset", "-m", "demo/gpt2", "-d", str(data), "-in", "text", "-a", "occlusion", "-bs", "1"]
    command += ["--max-new-tokens", "4", "-o", str(tmp_path / "run")]

    def start() -> subprocess.Popen[bytes]:
        run = [
            sys.executable,
            "-c",
            "import signal; signal.signal(2, signal.default_int_handler); import inseq.cli as c; c.main()",
        ]
        return subprocess.Popen([*run, *command], env=os.environ, stderr=subprocess.DEVNULL)

    def rows() -> list[Path]:
        return list((tmp_path / "run").glob("*/*.json"))

    process = start()
    while len(rows()) < 3 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(by)
    assert process.wait() == (-signal.SIGKILL if by == signal.SIGKILL else 130)
    assert 3 <= len(rows()) < 60, "the run was not stopped in the middle"
    (tmp_path / "run" / "000000" / ".000000059.json.tmp").write_text('{"half')
    times = {path: path.stat().st_mtime_ns for path in rows()}
    assert start().wait() == 0
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    found = list(load_run(tmp_path / "run"))
    assert [(a.row, a.error) for a in found] == [(i, None) for i in range(60)]
    assert [a.output for a in found] == [b.output for b in whole]
