"""Which files an index knows, and what it knows of them: a JSON line each, appended as they are read.

A line that a kill has cut off, or that was written by somebody else in another way, is as if it were not
there. What vanishes is dropped when the file is written anew, which happens to a copy that then takes its
place.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from experiments.search.folder import FileState

Span = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManifestEntry:
    """What is known of a file."""

    state: FileState
    """When it was read."""
    content: str
    """sha256: the name of its tokens, which files of the same content share."""
    clip_seconds: tuple[Span, ...] = ()
    """When the first and last frame of each clip are shown, in seconds after the first frame."""
    reason: str = ""
    """Why it cannot be read; empty if it can."""
    short_memory_gib: float = 0.0
    """Memory of a worker that was too little for it; 0 if that is not why."""


class Manifest:
    """The entries of an index, on disk."""

    def __init__(self, path: Path, num_clips: int) -> None:
        self._path, self._num_clips = path, num_clips
        self.entries: dict[str, ManifestEntry] = {}
        """By file name."""
        self._state = self._on_disk()
        self.reload()

    def refresh(self) -> None:
        """Read what is on disk if another process has written or deleted it."""
        if self._on_disk() != self._state:
            self.reload()

    def _on_disk(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def reload(self) -> None:
        """Read what is on disk."""
        self._state = self._on_disk()
        self.entries.clear()
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        for line in lines[:-1]:  # what follows the last line feed is cut off
            if (named := _parse(line, self._num_clips)) is not None:
                self.entries[named[0]] = named[1]

    def add(self, entries: dict[str, ManifestEntry]) -> None:
        """Append entries; one of a known name takes the place of what was there."""
        self.entries.update(entries)
        with self._path.open("ab") as file:
            # A line that was cut off must not take the next one with it.
            file.write(b"\n" + b"".join(_line(name, entry) for name, entry in entries.items()))
            _to_disk(file)
        self._state = self._on_disk()

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget all other files, and lines that are no longer true."""
        kept = set(names)
        self.entries = {name: entry for name, entry in self.entries.items() if name in kept}
        lines = b"".join(_line(name, entry) for name, entry in self.entries.items())
        write_whole(self._path, lines)
        self._state = self._on_disk()


def _line(name: str, entry: ManifestEntry) -> bytes:
    values = {"name": name, **dataclasses.asdict(entry.state), "content": entry.content}
    values |= {"reason": entry.reason} if entry.reason else {"clip_seconds": entry.clip_seconds}
    values |= {"short_memory_gib": entry.short_memory_gib} if entry.short_memory_gib else {}
    return json.dumps(values).encode("ascii") + b"\n"  # names of no encoding too, as \ud8..


def _parse(line: bytes, num_clips: int) -> tuple[str, ManifestEntry] | None:
    """Return what a line says, but nothing of a strange one: contents become names of files."""
    try:
        values: dict[str, Any] = json.loads(line)
        entry = ManifestEntry(
            state=FileState(size=values["size"], mtime_ns=values["mtime_ns"]),
            content=values["content"],
            clip_seconds=tuple((start, end) for start, end in values.get("clip_seconds", ())),
            reason=values.get("reason", ""),
            short_memory_gib=float(values.get("short_memory_gib", 0.0)),
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


def write_whole(path: Path, data: bytes, *, survives_power_failure: bool = True) -> None:
    """Write a file whole or not at all, whatever ends this process or the machine; folders are made.

    Args:
      path: of the file.
      data: to write.
      survives_power_failure: wait for the disk, some milliseconds; else an end of the machine may leave less.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if survives_power_failure:  # else the name may outlive the content
                _to_disk(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
