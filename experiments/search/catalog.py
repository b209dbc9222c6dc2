"""The files that an index knows: which can be searched, which cannot be read, and what has changed.

`index` keeps it up to date with the folder; `new_files` and `encoding` add to it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from experiments.search.manifest import Manifest, ManifestEntry
from experiments.search.store import TokenStore


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """How an index is made; changes the speed only, but for the number of clips."""

    place: Path | None = None
    """Folder of the indexes; by default `.clipbert_index` in the searched folder."""
    num_clips: int = 8
    """Of each video, spread over all of it."""
    num_workers: int = 0
    """Processes that decode; 0 decodes in this one, which a broken file may then crash."""
    worker_memory_gib: float = 4.0
    """What a worker may take: the size of the largest file, and some frames."""
    batch_size: int = 8
    """Videos that are encoded at once, at most."""
    memory_bytes: int = 2 << 30
    """Tokens that are kept in memory for the next search, at most."""
    retry: bool = False
    """Try files again that could not be read."""


@dataclasses.dataclass(kw_only=True)
class Changes:
    """What an update has found."""

    num_encoded: int = 0
    num_unreadable: int = 0
    """Of the new ones."""
    num_same: int = 0
    """New names or times of a known content."""
    num_gone: int = 0

    @property
    def num_read(self) -> int:
        """New files in all."""
        return self.num_encoded + self.num_unreadable + self.num_same


class Catalog:
    """What is known of the files of one folder, and where their tokens are."""

    def __init__(self, folder: Path, root: Path, options: IndexOptions) -> None:
        self.folder = folder
        self.options = options
        self.store = TokenStore(root / "videos", memory_bytes=options.memory_bytes)
        self.manifest = Manifest(root / "manifest.jsonl", options.num_clips)
        self.changes = Changes()
        """Of the last update."""
        self.problems: dict[str, str] = {}
        """What could not be looked at or read this time, and why; it is tried again in the next search."""
        self.unseen: set[str] = set()
        """Known files in folders that cannot be looked at now."""

    @property
    def entries(self) -> dict[str, ManifestEntry]:
        """The files that can be searched, by name."""
        hidden = self.unseen | self.problems.keys()
        known = self.manifest.entries
        return {name: known[name] for name in known if not known[name].reason and name not in hidden}

    @property
    def unreadable(self) -> dict[str, str]:
        """The files that cannot, and why."""
        noted = {name: entry.reason for name, entry in self.manifest.entries.items() if entry.reason}
        return dict(sorted({**noted, **self.problems}.items()))

    @property
    def when_tried_again(self) -> str:
        """When the files that cannot be read are tried again, in words."""
        num_unreadable, num_problems = len(self.unreadable), len(self.problems)
        noted = "when they change, with --retry, or with more memory if their line says so"
        if not num_problems:
            return f"tried again {noted}"
        if num_problems == num_unreadable:
            return "tried again in each search"
        return f"{num_problems:,} of them tried again in each search, the others {noted}"

    def known(self, name: str) -> ManifestEntry:
        """Return what is known of a file."""
        return self.manifest.entries[name]

    def add(self, entries: dict[str, ManifestEntry]) -> None:
        """Note files that were read."""
        self.manifest.add(entries)
        num_unreadable = sum(bool(entry.reason) for entry in entries.values())
        self.changes.num_unreadable += num_unreadable
        self.changes.num_encoded += len(entries) - num_unreadable

    def add_same(self, name: str, entry: ManifestEntry) -> None:
        """Note a file of a known content."""
        self.manifest.add({name: entry})
        self.changes.num_same += 1

    def note_problem(self, name: str, reason: str) -> None:
        """Note why a file was not read this time; what was known of it stays, but for an older reason."""
        self.problems[name] = reason
        if (known := self.manifest.entries.get(name)) is not None and known.reason:
            del self.manifest.entries[name]
        self.changes.num_unreadable += 1
