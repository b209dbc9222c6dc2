"""Finds the files of a folder to search, and tells when one has changed; for `index` and the server."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_pipelines.corpus.folder import VIDEO_SUFFIXES

ABOUT_NAME = "about.json"
"""A file in the folder of every index, whose name has 16 hexadecimal digits."""

_CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileState:
    """Size and time of a file: a file with the same state counts as unchanged."""

    size: int
    mtime_ns: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
    """The files below a folder."""

    files: dict[str, FileState]
    """Files by '/'-separated name below the folder, sorted."""
    problems: dict[str, str]
    """Names that could not be looked at, with reasons; folders end in '/', and '.' is the folder itself."""
    num_linked_folders: int
    """Number of links to folders, which are not entered."""

    def hides(self, name: str) -> bool:
        """Return whether a file may exist although it was not found: it or a folder above it is a problem."""
        return name in self.problems or name.startswith(self._unseen)

    @functools.cached_property
    def _unseen(self) -> tuple[str, ...]:
        return tuple("" if name == "." else f"{name.rstrip('/')}/" for name in self.problems)


def scan(folder: Path, *, left_out: Path) -> Scan:
    """Find videos, images and GIFs below a folder, by their suffixes.

    Hidden files and folders, folders that macOS adds, and indexes are left out. Links to files are followed;
    links to folders are not, so that nothing is found twice and no walk goes in circles.

    Args:
      folder: the folder; its subfolders are searched too.
      left_out: a folder that is not entered: that of the index.
    """
    files: dict[str, FileState] = {}
    problems: dict[str, str] = {}
    num_linked_folders = 0
    for name, entry in _walk(folder, _identity(left_out), problems):
        if _is_linked_folder(entry):
            num_linked_folders += 1
        elif PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES:
            try:
                if not entry.is_dir():
                    files[name] = _state(entry)
            except (OSError, ValueError) as error:
                problems[name] = _reason(error)
    return Scan(files=dict(sorted(files.items())), problems=problems, num_linked_folders=num_linked_folders)


def _walk(
    folder: Path, left_out: tuple[int, int] | None, problems: dict[str, str]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield everything that is not hidden; folders that cannot be listed become problems."""
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        try:
            with os.scandir(folder / prefix) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        continue
                    yield prefix + entry.name, entry
                    if _is_entered(entry, left_out, problems, prefix):
                        waiting.append(f"{prefix}{entry.name}/")
        except OSError as error:
            problems[prefix or "."] = _reason(error)


def _is_entered(
    entry: os.DirEntry[str], left_out: tuple[int, int] | None, problems: dict[str, str], prefix: str
) -> bool:
    try:
        if not entry.is_dir(follow_symlinks=False) or _is_index(entry):
            return False
    except OSError as error:  # only this entry is a problem, not its folder
        problems[prefix + entry.name] = _reason(error)
        return False
    return left_out is None or _identity(Path(entry.path)) != left_out


def _is_index(folder: os.DirEntry[str]) -> bool:
    """Return whether a folder is an index, of any folder and version."""
    is_named_so = re.fullmatch("[0-9a-f]{16}", folder.name) is not None
    return is_named_so and os.path.isfile(os.path.join(folder.path, ABOUT_NAME))


def _is_linked_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link to itself, or into an unreadable folder
        return False


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
            raise ValueError(f"a link to {os.readlink(entry.path)}, which does not exist") from None
        raise
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("a pipe, socket or device instead of a file")  # reading it might never end
    return FileState(size=found.st_size, mtime_ns=found.st_mtime_ns)


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def content_of(path: Path) -> str:
    """Return the sha256 of a file: the name of its content in the index.

    Raises:
      OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
