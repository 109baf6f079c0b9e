"""A directory that one process writes at a time.

The lock is the operating system's, on an open file: it goes with the process, however that ends, so that none is ever left
over. What the file says is for people.
"""

from __future__ import annotations

import errno
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from inseq.errors import ArgumentError, writing

NAME = ".lock"
TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
"""What a lock says that somebody else holds."""


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory until the end.

    Raises:
        ArgumentError: where another process holds it, or this one does already.
    """
    path = directory / NAME
    with writing(path):
        file = path.open("a+", encoding="utf-8")
    with file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno in TAKEN:
                raise ArgumentError(
                    f"{str(directory)!r} is being written by another run ({_said(file)}). Wait until it has ended, or choose "
                    "another directory."
                ) from None
            warnings.warn(
                f"{str(directory)!r} cannot be locked ({error.strerror}): see to it that no second run writes it.",
                stacklevel=3,
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node() or 'this machine'}")
        file.flush()
        yield


def _said(file: IO[str]) -> str:
    file.seek(0)
    return file.read(200) or "which does not say where"


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> None:
        """A byte far beyond the text, as locked bytes cannot be read."""
        file.seek(2**30)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
