"""The one atomic write: a file appears under its name complete, or not at all.

Readers find the old content or the new, never a part. A write that fails leaves the old file and nothing
else. A process that is killed leaves its temporary file, which `remove_unfinished` deletes. A durable write
also waits for the disk: even a power cut leaves the old content or the new.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

_UNFINISHED = re.compile(r"\..+\.[0-9a-f]+\.tmp", re.DOTALL)
_MAX_NAME_BYTES = 230
"""Most bytes of a name that its temporary file takes over; file systems limit names to 255."""


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give the block a temporary path to write to; it becomes `path` when the block ends without an error.

    Use it for streams and for libraries that write to a path; `write_whole` is for content in memory.

    Args:
      path: file to create or replace, in a folder that exists. Of a link the target is replaced.
      durable: whether to wait for the disk, which takes some milliseconds.
    """
    path = Path(os.path.realpath(path))
    name = os.fsdecode(os.fsencode(path.name)[:_MAX_NAME_BYTES])
    # Not the number of the process: containers that share a disk all have a process 1.
    temporary = path.with_name(f".{name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())  # some file systems report only here that they are full
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str, *, durable: bool = True) -> None:
    """Write bytes, or text as UTF-8, to a file that is never there in part; make its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def is_unfinished(path: Path) -> bool:
    """Return whether a file is the temporary file of a write that goes on or was killed."""
    return _UNFINISHED.fullmatch(path.name) is not None


def remove_unfinished(folder: Path) -> None:
    """Delete what killed writers left in a folder; the caller holds the lock that keeps other writers out."""
    for path in filter(is_unfinished, list(folder.iterdir())):
        path.unlink(missing_ok=True)
