"""The place of an index: its folder, its description, and the lock of the process that writes.

A place holds the indexes of several models and numbers of clips, and of several folders with `--index`.
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

from clipbert_jax.atomic_files import write_whole
from clipbert_jax.errors import UserError
from data_pipelines.terminal_text import printable
from experiments.search.folder import ABOUT_NAME

INDEX_NAME = ".clipbert_index"
"""Name of the default place, hidden so that it does not count as part of the folder."""

Log = Callable[[str], None]


def to_stderr(line: str) -> None:
    """Log a line beside the result, which goes to standard output."""
    print(line, file=sys.stderr, flush=True)


_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR}


def root_of(place: Path, folder: Path, fingerprint: str, num_clips: int) -> Path:
    """Return the folder of an index.

    Its name depends on the searched folder, unless the index lies inside it: a folder that is moved then
    keeps its index.
    """
    said = [fingerprint, str(num_clips)]
    if os.path.realpath(place) != os.path.join(os.path.realpath(folder), INDEX_NAME):
        said.append(os.path.realpath(folder))
    return place / hashlib.sha256(os.fsencode(" ".join(said))).hexdigest()[:16]


def describe(root: Path, about: Mapping[str, Any], log: Log) -> None:
    """Write the description of an index, and tell the log if the place holds others."""
    place = root.parent
    others = sorted(path.parent.name for path in place.glob(f"*/{ABOUT_NAME}") if path.parent != root)
    if others:
        log(
            f"{printable(str(place))} holds {len(others)} index(es) of another folder, model, version or "
            f"number of clips ({', '.join(others)}): a new one is made; delete those that you do not need"
        )
    write_whole(root / ABOUT_NAME, json.dumps(about, indent=1).encode())


@contextlib.contextmanager
def locked(place: Path, log: Log) -> Iterator[None]:
    """Be the only process that writes to a place; tell the log if another one has to finish first."""
    lock = filelock.FileLock(place / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        log(f"another search is updating {printable(str(place))}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class ReadOnlyIndexError(UserError):
    """The place of an index cannot be written to."""

    def __init__(self, folder: Path, place: Path, error: OSError) -> None:
        super().__init__(
            f"the index of {folder} cannot be written to {place} ({error.strerror}): name a writable folder "
            "with --index"
        )


@contextlib.contextmanager
def writing_to(place: Path, folder: Path) -> Iterator[None]:
    """Turn errors of a place that cannot be written to into one sentence; errors of other files pass.

    Raises:
      ReadOnlyIndexError: the place cannot be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITABLE or error.filename is None:
            raise
        path = Path(os.fsdecode(error.filename))
        if not (path.is_relative_to(place) or place.is_relative_to(path)):
            raise
        raise ReadOnlyIndexError(folder, place, error) from error
