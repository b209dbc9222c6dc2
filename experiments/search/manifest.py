"""The files that an index knows: one JSON line each, appended when a file is read.

A line that a kill has cut off, or that no index has written, is left out. Lines of files that are gone vanish
when the whole list is written anew.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clipbert_jax.atomic_files import write_whole
from experiments.search.folder import FileState

Span = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManifestEntry:
    """Entry of a file in an index."""

    state: FileState
    """Size and time when it was read."""
    content: str
    """sha256 of the file: the name of its tokens, which files of the same content share."""
    clip_seconds: tuple[Span, ...] = ()
    """Times of the first and last frame of each clip, in seconds after the first frame."""
    reason: str = ""
    """Reason why it cannot be read; empty if it can."""


class Manifest:
    """The entries of an index, on disk."""

    def __init__(self, path: Path, num_clips: int) -> None:
        self._path, self._num_clips = path, num_clips
        self.entries: dict[str, ManifestEntry] = {}
        """Entries by file name."""
        self.num_damaged = 0
        """Number of lines that are left out."""
        self._state = self._on_disk()
        self.reload()

    def refresh(self) -> None:
        """Read the file if another process has written or deleted it."""
        if self._on_disk() != self._state:
            self.reload()

    def _on_disk(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def reload(self) -> None:
        """Read the file."""
        self._state = self._on_disk()
        self.entries, self.num_damaged = {}, 0
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        for line in filter(None, lines):
            if (named := _parse(line, self._num_clips)) is not None:
                self.entries[named[0]] = named[1]
            else:
                self.num_damaged += 1

    def add(self, name: str, entry: ManifestEntry) -> None:
        """Append an entry, which replaces an earlier one of the same name."""
        self.entries[name] = entry
        with self._path.open("ab") as file:
            # A line that was cut off must not take the next one with it.
            file.write(b"\n" + _line(name, entry))
            file.flush()
            os.fsync(file.fileno())
        self._state = self._on_disk()

    def forget_unreadable(self) -> None:
        """Drop the files that could not be read, so that they count as new; the file stays as it is."""
        self.entries = {name: entry for name, entry in self.entries.items() if not entry.reason}

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget all other files, and write the whole list anew."""
        kept = set(names)
        self.entries = {name: entry for name, entry in self.entries.items() if name in kept}
        write_whole(self._path, b"".join(_line(name, entry) for name, entry in self.entries.items()))
        self._state, self.num_damaged = self._on_disk(), 0


def _line(name: str, entry: ManifestEntry) -> bytes:
    values = {"name": name, **dataclasses.asdict(entry.state), "content": entry.content}
    values |= {"reason": entry.reason} if entry.reason else {"clip_seconds": entry.clip_seconds}
    return json.dumps(values).encode("ascii") + b"\n"  # also names in no encoding, as \ud8..


def _parse(line: bytes, num_clips: int) -> tuple[str, ManifestEntry] | None:
    """Return the entry of a line, or None if it is not sound: contents become names of files."""
    try:
        values: dict[str, Any] = json.loads(line)
        entry = ManifestEntry(
            state=FileState(size=values["size"], mtime_ns=values["mtime_ns"]),
            content=values["content"],
            clip_seconds=tuple((start, end) for start, end in values.get("clip_seconds", ())),
            reason=values.get("reason", ""),
        )
        return (values["name"], entry) if _is_sound(values["name"], entry, num_clips) else None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _is_sound(name: Any, entry: ManifestEntry, num_clips: int) -> bool:
    numbers = (entry.state.size, entry.state.mtime_ns)
    return (
        isinstance(name, str)
        and isinstance(entry.reason, str)
        and all(isinstance(number, int) for number in numbers)
        and re.fullmatch("[0-9a-f]{64}", entry.content) is not None
        and len(entry.clip_seconds) == (0 if entry.reason else num_clips)
        and all(math.isfinite(seconds) for span in entry.clip_seconds for seconds in span)
    )
