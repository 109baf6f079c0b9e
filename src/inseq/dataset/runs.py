"""Storing a run over a data set: a directory in which every row has a file of its own, whole or not there at all.

What has a file is done. So a run can be stopped at any moment, and goes on from its files. One process writes at a time.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from inseq.errors import ArgumentError, FileFormatError, writing
from inseq.outputs.output import FeatureAttributionOutput
from inseq.results.files.document import jsonable

FORMAT, VERSION = "inseq-run", 1
A_FOLDER = 1000
"""How many rows share a folder."""
LOCK, WRITER = ".lock", ".writer"
"""The file that is locked, and the file that says for people by whom: on Windows a locked file cannot be read."""
UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Errors of file systems that cannot lock."""


@dataclass(frozen=True)
class RowResult:
    """What became of one row: an output, or its error."""

    row: int
    output: FeatureAttributionOutput | None
    error: str | None = None


class RunFiles:
    """The directory of a run, which is this process's own until :meth:`close`.

    Args:
        directory: where it is, or is made.
        settings: what decides its results.

    Raises:
        ArgumentError: for a run with other settings, which it names, for a directory that holds something else, and for one
            that another process is writing.
    """

    def __init__(self, directory: str | Path, settings: dict[str, Any]) -> None:
        self.directory = Path(directory)
        self.settings = jsonable(settings)
        with writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        head = self.directory / "run.json"
        ours = head.exists() or all(path.suffix == ".tmp" or path.name in (LOCK, WRITER) for path in self.directory.iterdir())
        if not ours:
            raise ArgumentError(f"{str(directory)!r} is not empty and holds no run of ours: choose another directory.")
        with ExitStack() as held:
            held.enter_context(locked(self.directory))
            if head.exists():
                self._check(_read(head))
            else:
                _write(head, {"format": FORMAT, "version": VERSION, "settings": self.settings})
            self._held = held.pop_all()

    def close(self) -> None:
        """Let other processes write."""
        self._held.close()

    def _check(self, found: Any) -> None:
        if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("version") != VERSION:
            raise FileFormatError(f"{str(self.directory / 'run.json')!r} is not that of a run that this release can continue.")
        before = found.get("settings") or {}
        differ = [key for key in {**before, **self.settings} if before.get(key) != self.settings.get(key)]
        if differ:
            said = "; ".join(f"{key} was {before.get(key)!r} and is {self.settings.get(key)!r}" for key in differ)
            raise ArgumentError(
                f"{str(self.directory)!r} holds a run with other settings: {said}. Use them again, or another directory."
            )

    def path(self, row: int, ending: str = ".json") -> Path:
        """Where a row's file is."""
        return self.directory / f"{row // A_FOLDER:06}" / f"{row:09}{ending}"

    def is_done(self, row: int) -> bool:
        """Whether a row has an output or an error."""
        return self.path(row).exists() or self.path(row, ".error").exists()

    def add(self, row: int, output: FeatureAttributionOutput) -> None:
        """Store a row's output."""
        self.path(row).parent.mkdir(exist_ok=True)
        output.save(self.path(row), overwrite=True)

    def add_error(self, row: int, error: str) -> None:
        """Store why a row has no output."""
        self.path(row).parent.mkdir(exist_ok=True)
        _write(self.path(row, ".error"), {"row": row, "error": error})


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory until the end.

    The lock is that of the operating system. It ends with the process, however that ends.

    Raises:
        ArgumentError: where another process holds the directory, or this one does already.
    """
    lock, writer = FileLock(directory / LOCK, timeout=0), directory / WRITER
    with writing(directory / LOCK):
        _acquire(lock, directory)
    try:
        with writing(writer):
            writer.write_text(f"process {os.getpid()} on {platform.node() or 'this machine'}", encoding="utf-8")
        yield
    finally:
        lock.release()


def _acquire(lock: BaseFileLock, directory: Path) -> None:
    try:
        lock.acquire()
    except Timeout:
        raise ArgumentError(
            f"{str(directory)!r} is being written by another run ({_writer(directory)}). Wait until it has ended, or choose "
            "another directory."
        ) from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        warnings.warn(
            f"{str(directory)!r} cannot be locked ({error.strerror}): see to it that no second run writes it.", stacklevel=2
        )


def _writer(directory: Path) -> str:
    try:
        return (directory / WRITER).read_text(encoding="utf-8")[:200]
    except (OSError, ValueError):
        return "which does not say where"


def load_run(directory: str | Path) -> Iterator[RowResult]:
    """What is there of a run, in the order of its rows, one row at a time.

    Raises:
        FileFormatError: for a directory that holds no run, and for damaged files.
    """
    directory = Path(directory)
    if not (directory / "run.json").is_file():
        raise FileFormatError(f"{str(directory)!r} holds no run: there is no run.json in it.")
    names = sorted(path for path in directory.glob("*/*") if path.suffix in (".json", ".error") and path.stem.isdigit())
    for path in names:
        if path.suffix == ".json":
            yield RowResult(int(path.stem), FeatureAttributionOutput.load(path))
        else:
            yield RowResult(int(path.stem), None, str(_read(path).get("error")))


def _write(path: Path, value: Any) -> None:
    unfinished = path.with_name(f".{path.name}.tmp")
    with writing(path):
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileFormatError(f"Cannot read {str(path)!r}: {error}.") from error
