"""A collection of video files by name, and what the kinds of `sources` have in common."""

from __future__ import annotations

import functools
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

from clipbert_jax.errors import UserError
from data_pipelines.decoding.signatures import NUM_SIGNATURE_BYTES


@runtime_checkable
class VideoSource(Protocol):
    """A collection of files by name."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names below the root, separated by '/', sorted, each once."""
        ...

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        ...

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
          UserError: that part of the archive is damaged.
          OSError: the file cannot be read.
        """
        ...


class OpenedSource(VideoSource, Protocol):
    """A collection that a user named, which may hold other files too."""

    @property
    def hidden(self) -> tuple[str, ...]:
        """Names of hidden files and of those that macOS adds, which `names` leaves out."""
        ...

    def head(self, name: str) -> bytes:
        """Return the first bytes of a file, or none if it cannot be read."""
        ...


@functools.lru_cache(maxsize=4)
def _reopened(kind: type[StoredVideos], path: Path) -> StoredVideos:
    """Return the source in a worker process, opened once for all files that are read there."""
    return kind(path)


class StoredVideos:
    """A source on this machine, which travels to workers as its path."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (type(self), self.path)

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        names = tuple(sorted(name for name in self._all_names() if self._is_wanted(name)))
        for name in names:
            _check_name(self.path, name)
        return names

    @property
    def hidden(self) -> tuple[str, ...]:
        return tuple(sorted(self._all_names() - set(self.names)))

    def _is_wanted(self, name: str) -> bool:
        """Tell whether a name may be a video's, and not a file that a system leaves behind.

        Raises:
          UserError: the name points out of the source.
        """
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts:
            raise UserError(
                f"{self.path} holds the name {name!r}, which points outside; make the archive again"
            )
        return bool(parts) and not any(part.startswith(".") or part == "__MACOSX" for part in parts)

    def _all_names(self) -> set[str]:
        raise NotImplementedError

    def size(self, name: str) -> int:
        raise NotImplementedError

    def read(self, name: str) -> bytes:
        raise NotImplementedError

    def head(self, name: str) -> bytes:
        try:
            return self.read(name)[:NUM_SIGNATURE_BYTES]
        except (OSError, UserError):
            return b""


def _check_name(path: Path, name: str) -> None:
    """Refuse a name that a table or record cannot hold.

    Raises:
      UserError: the name is not UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{path} holds the name {name!a}, which is not UTF-8; rename the file") from error


def head_of(path: Path) -> bytes:
    """Return the first bytes of a file, or none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(NUM_SIGNATURE_BYTES)
    except OSError:
        return b""
