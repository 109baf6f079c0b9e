"""Reading data sets: rows one after the other, from files or the hub, never all at once where the format allows."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inseq.errors import ArgumentError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
LINES = (".jsonl", ".ndjson")
KNOWN = (*SEPARATORS, *LINES, ".json", ".parquet", ".txt")
TEXT_FIELD = "text"
"""The only field of a text file, whose lines are its rows."""

MAX_FIELD = 2**27


@dataclass(frozen=True)
class Row:
    """One row: its number, and its fields or why it could not be read."""

    index: int
    fields: Mapping[str, Any]
    error: str | None = None


def read_rows(dataset: str | Path, hub: Mapping[str, Any] | None = None) -> Iterator[Row]:
    """The rows of a file, by its ending, or of a data set of the hub.

    Args:
        dataset: a path, or a name that the hub knows.
        hub: arguments of ``datasets.load_dataset``.

    Raises:
        ArgumentError: for what is neither, for an ending that is not known, and where a package is missing.
    """
    path = Path(dataset)
    if hub and any(value for key, value in hub.items() if key != "split"):
        return _numbered(_hub_rows(str(dataset), hub))
    if not path.is_file():
        if path.suffix in KNOWN:
            raise ArgumentError(f"dataset={str(dataset)!r}: there is no such file.")
        return _numbered(_hub_rows(str(dataset), hub or {}))
    if path.suffix in SEPARATORS:
        return _numbered(_separated(path, SEPARATORS[path.suffix]))
    if path.suffix in LINES:
        return _json_lines(path)
    if path.suffix == ".json":
        return _numbered(_json(path))
    if path.suffix == ".parquet":
        return _numbered(_parquet(path))
    if path.suffix == ".txt":
        return _numbered({TEXT_FIELD: line.rstrip("\r\n")} for line in _lines(path))
    raise ArgumentError(f"dataset={str(dataset)!r}: files end with {', '.join(KNOWN)}.")


def identity(dataset: str | Path) -> dict[str, Any]:
    """What tells a changed file from the one that a run began with."""
    path = Path(dataset)
    if not path.is_file():
        return {"dataset": str(dataset)}
    with path.open("rb") as file:
        beginning = hashlib.sha256(file.read(2**20)).hexdigest()[:16]
    return {"dataset": path.name, "dataset_bytes": path.stat().st_size, "dataset_beginning": beginning}


def _numbered(rows: Iterable[Any]) -> Iterator[Row]:
    yield from (_one(i, row) for i, row in enumerate(rows))


def _lines(path: Path) -> Iterator[str]:
    """Lines; bytes that are no UTF-8 become lone surrogates, which the row's own check refuses."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        yield from file


def _separated(path: Path, separator: str) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(MAX_FIELD)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        yield from csv.DictReader(file, delimiter=separator)


def _json_lines(path: Path) -> Iterator[Row]:
    lines = (line for line in _lines(path) if line.strip())
    for i, line in enumerate(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Row(i, {}, f"Row {i} is not JSON ({error}).")
        else:
            yield _one(i, row)


def _one(i: int, row: Any) -> Row:
    return Row(i, row) if isinstance(row, Mapping) else Row(i, {}, f"Row {i} is no object with fields: {str(row)[:60]!r}.")


def _json(path: Path) -> Iterator[Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"dataset={str(path)!r} is not a JSON document ({error}); one object a line is .jsonl.") from error
    found = found.get("data", found) if isinstance(found, dict) else found
    if not isinstance(found, list):
        raise ArgumentError(f"dataset={str(path)!r} must hold a list of objects, or an object with such a list as 'data'.")
    return iter(found)


def _parquet(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ArgumentError("Parquet files are read by pyarrow, which is not installed: pip install 'inseq[data]'.") from error
    for batch in parquet.ParquetFile(path).iter_batches(batch_size=256):
        yield from batch.to_pylist()


def _hub_rows(name: str, arguments: Mapping[str, Any]) -> Iterator[Any]:
    try:
        import datasets
    except ImportError as error:
        raise ArgumentError(
            f"dataset={name!r} is no file here, and data sets of the hub are read by the package datasets, which is not "
            "installed: pip install 'inseq[data]'."
        ) from error
    given = {key: value for key, value in arguments.items() if value is not None}
    try:
        return iter(datasets.load_dataset(name, **{"split": "train", "streaming": True, **given}))
    except Exception as error:
        raise ArgumentError(f"dataset={name!r} could not be loaded: {type(error).__name__}: {error}") from error
