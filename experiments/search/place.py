"""Where an index lies, what it says of itself, and whose turn it is to write.

A place holds the indexes of several models and numbers of clips, and of several folders if the user says so.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from clipbert_jax.errors import UserError
from data_pipelines.terminal_text import printable
from experiments.search.folder import ABOUT_NAME
from experiments.search.manifest import write_whole

INDEX_NAME = ".clipbert_index"
"""Hidden, so that the index of a folder is no part of it."""

Log = Callable[[str], None]


def to_stderr(line: str) -> None:
    """Log a line where it is no part of a result."""
    print(line, file=sys.stderr, flush=True)


_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR}


def root_of(place: Path, folder: Path, fingerprint: str, num_clips: int) -> Path:
    """Return the folder of an index.

    The searched folder is part of its name, but for an index inside of it: one that is moved keeps its index.
    """
    said = [fingerprint, str(num_clips)]
    if os.path.realpath(place) != os.path.join(os.path.realpath(folder), INDEX_NAME):
        said.append(os.path.realpath(folder))
    return place / hashlib.sha256(os.fsencode(" ".join(said))).hexdigest()[:16]


def describe(root: Path, about: Mapping[str, Any], log: Log) -> None:
    """Write down what an index is of, and say so if there are others."""
    place = root.parent
    others = sorted(path.parent.name for path in place.glob(f"*/{ABOUT_NAME}") if path.parent != root)
    if others:
        log(
            f"{printable(str(place))} holds {len(others)} index(es) of another folder, model, version or "
            f"number of clips: a new one is made beside ({', '.join(others)}; delete what you need no more)"
        )
    write_whole(root / ABOUT_NAME, json.dumps(about, indent=1).encode())


@contextlib.contextmanager
def locked(place: Path, log: Log, *, timeout_seconds: float | None = None) -> Iterator[None]:
    """Be the only one who writes there.

    Args:
      place: of the indexes.
      log: told if another one is at it.
      timeout_seconds: wait so long; None waits as long as it takes.

    Raises:
      filelock.Timeout: another one was still at it then.
    """
    lock = filelock.FileLock(place / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        log(f"another search brings {printable(str(place))} up to date: waiting for it")
        lock.acquire(timeout=-1 if timeout_seconds is None else timeout_seconds)
    try:
        yield
    finally:
        lock.release()


def not_kept(folder: Path, place: Path, error: OSError) -> UserError:
    """Return what is said of an index that cannot be written."""
    return UserError(
        f"the index of {folder} cannot be kept in {place} ({error.strerror}): name a folder that may be "
        "written to with --index"
    )


def is_not_writable(place: Path, error: OSError) -> bool:
    """Return whether an error says that a place cannot be written to; others are of other files."""
    if error.errno not in _NOT_WRITABLE or error.filename is None:
        return False
    path = Path(os.fsdecode(error.filename))
    return path.is_relative_to(place) or place.is_relative_to(path)
