"""Which files of a folder are searched, and how to tell that one has changed.

Before: the folder, as it is; after: `index` reads what is new in it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_pipelines.corpus.folder import VIDEO_SUFFIXES

_CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileState:
    """What changes with a file, as a rule: a file that has both is not looked into again."""

    size: int
    mtime_ns: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
    """The files below a folder."""

    files: dict[str, FileState]
    """By '/'-separated name below the folder, sorted."""
    problems: dict[str, str]
    """What could not be looked at, and why."""
    num_linked_folders: int
    """Links to folders, which are not entered."""


def scan(folder: Path, *, left_out: Path) -> Scan:
    """Find videos, images and GIFs below a folder, by their suffixes.

    Hidden files and folders are left out, and what macOS adds. A link to a file is followed wherever it
    leads; a link to a folder is not, so that nothing is found twice and no walk goes round in circles.

    Args:
      folder: searched with its subfolders.
      left_out: a folder that is not entered, though it may be in there: that of the index.
    """
    files: dict[str, FileState] = {}
    problems: dict[str, str] = {}
    num_linked_folders = 0
    for name, entry in _walk(folder, _identity(left_out), problems):
        if entry.is_symlink() and entry.is_dir():
            num_linked_folders += 1
        elif PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES and not entry.is_dir():
            try:
                files[name] = _state(entry)
            except (OSError, ValueError) as error:
                problems[name] = _reason(error)
    return Scan(files=dict(sorted(files.items())), problems=problems, num_linked_folders=num_linked_folders)


def _walk(
    folder: Path, left_out: tuple[int, int] | None, problems: dict[str, str]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield all that is not hidden; folders that cannot be listed become problems."""
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        try:
            with os.scandir(folder / prefix) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        continue
                    yield prefix + entry.name, entry
                    if entry.is_dir(follow_symlinks=False) and _identity(Path(entry.path)) != left_out:
                        waiting.append(f"{prefix}{entry.name}/")
        except OSError as error:
            problems[prefix or "."] = _reason(error)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _state(entry: os.DirEntry[str]) -> FileState:
    try:
        found = entry.stat()
    except FileNotFoundError:
        if entry.is_symlink():
            raise ValueError(f"a link to {os.readlink(entry.path)}, which is not there") from None
        raise
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a file but a pipe, socket or device")  # reading it might never end
    return FileState(size=found.st_size, mtime_ns=found.st_mtime_ns)


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def content_of(path: Path) -> str:
    """Return the sha256 of a file, its content's name in the index.

    Raises:
      OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
