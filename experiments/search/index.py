"""The index of a folder: its videos as a model sees them, kept up to date with the folder.

    DIR/.clipbert_index/          or another place
        models.json               which runs have which fingerprint
        FINGERPRINT/              one for each model and number of clips that the folder was searched with
            about.json            what these are
            manifest.jsonl        the files, see `manifest`
            videos/               visual tokens and pictures, see `store`
            scores/               of texts that were asked, see `scores`

A file whose size and time are as noted is taken as unchanged. Any other is hashed: if its content is known,
under whichever name, that is all. So a file that is moved, copied or touched is not encoded again. What
cannot be read is noted with its reason and not tried again before its content changes. A kill loses the two
batches of videos that are being encoded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from clipbert_jax.errors import UserError
from experiments.search.encoding import Encoder
from experiments.search.folder import Scan, content_of, scan
from experiments.search.manifest import Entry, Manifest, write_whole
from experiments.search.model import ModelFacts, SearchModel
from experiments.search.store import TokenStore

INDEX_NAME = ".clipbert_index"
"""Hidden, so that the index of a folder is no part of it."""

_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR}

Log = Callable[[str], None]


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


class Index:
    """The videos of a folder, encoded by one model. One thread at a time may use it."""

    def __init__(self, folder: Path, facts: ModelFacts, options: IndexOptions) -> None:
        self.folder = folder
        self.facts = facts
        self.options = options
        self.place = options.place or folder / INDEX_NAME
        key = hashlib.sha256(f"{facts.fingerprint} {options.num_clips}".encode()).hexdigest()[:16]
        self.root = self.place / key
        self.store = TokenStore(self.root / "videos", memory_bytes=options.memory_bytes)
        self.changes = Changes()
        """Of the last update."""
        self.num_linked_folders = 0
        self._manifest = Manifest(self.root / "manifest.jsonl")
        self._problems: dict[str, str] = {}

    @classmethod
    def open_or_update(
        cls, model: SearchModel, folder: Path, options: IndexOptions | None = None, *, log: Log = print
    ) -> Index:
        """Return the index of a folder, made or brought up to date; nothing is loaded if nothing has changed.

        Raises:
          UserError: no such folder, or no video in it; a model that does not match texts; a place that cannot
            be written to.
        """
        options = options or IndexOptions()
        if not folder.is_dir():
            what = "is a file" if folder.is_file() else "does not exist"
            raise UserError(f"{folder} {what}: give the folder with the videos to search, after the run")
        place = options.place or folder / INDEX_NAME
        try:
            place.mkdir(parents=True, exist_ok=True)
            index = cls(folder, model.facts(place), options)
            index.update(model, log=log)
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise
            raise UserError(
                f"the index of {folder} cannot be kept in {place} ({error.strerror}): name a folder that may "
                "be written to with --index"
            ) from error
        return index

    @property
    def entries(self) -> dict[str, Entry]:
        """The files that can be searched, by name."""
        return {name: entry for name, entry in self._manifest.entries.items() if not entry.reason}

    @property
    def unreadable(self) -> dict[str, str]:
        """The files that cannot, and why."""
        noted = {name: entry.reason for name, entry in self._manifest.entries.items() if entry.reason}
        return dict(sorted({**noted, **self._problems}.items()))

    # ---- Bringing it up to date ---------------------------------------------------------------------------

    def update(self, model: SearchModel, *, log: Log = print) -> None:
        """Look through the folder; encode what is new, and forget what is gone.

        Raises:
          UserError: there is no video.
        """
        found = scan(self.folder, left_out=self.place)
        self._problems, self.num_linked_folders = dict(found.problems), found.num_linked_folders
        self.changes = Changes()
        if not found.files:  # a drive that is not there must not cost its index
            raise UserError(f"no videos in {self.folder}: put files such as .mp4, .webm, .gif or .jpg there")
        self._leave_out_too_large(found)
        if not self._stale(found) and not self._gone(found):
            return
        with self._locked(log):
            self._manifest.reload()
            if not self._manifest.entries:
                self._describe(log)
            before = {entry.content for entry in self._manifest.entries.values()}
            self._read(model, self._stale(found), found)
            self._forget(self._gone(found), before)

    def _leave_out_too_large(self, found: Scan) -> None:
        """Make problems of new files that no worker could hold, before they are hashed."""
        limit = self.options.worker_memory_gib * 2**30 if self.options.num_workers else float("inf")
        for name, state in [*found.files.items()]:
            known = self._manifest.entries.get(name)
            if state.size >= limit and (known is None or known.state != state):
                del found.files[name]
                self._problems[name] = (
                    f"{state.size / 2**30:.1f} GiB do not fit into a worker's {limit / 2**30:g} GiB: raise "
                    "--worker-memory-gib"
                )

    def _stale(self, found: Scan) -> list[str]:
        known = self._manifest.entries
        return [
            name
            for name, state in found.files.items()
            if (entry := known.get(name)) is None
            or entry.state != state
            or (self.options.retry and entry.reason)
        ]

    def _gone(self, found: Scan) -> list[str]:
        return [name for name in self._manifest.entries if name not in found.files]

    def _read(self, model: SearchModel, names: list[str], found: Scan) -> None:
        """Add what is new: by its content if that is known, else encoded."""
        by_content = {entry.content: entry for entry in self._manifest.entries.values()}
        if self.options.retry:
            by_content = {content: entry for content, entry in by_content.items() if not entry.reason}
        unknown = self._unknown(names, found, by_content)
        if (first := next(unknown, None)) is None:
            return  # and no model is needed
        from experiments.progress import Progress

        progress = Progress(f"reading {self.folder}", total=len(names), unit="files")
        encoder = Encoder(self, model.run, on_read=lambda: progress.update(self.changes.num_read))
        encoder.encode(itertools.chain([first], unknown))

    def _unknown(
        self, names: list[str], found: Scan, by_content: dict[str, Entry]
    ) -> Iterator[tuple[str, Entry]]:
        """Yield files of unknown content, with what is known of them; the others are added."""
        for name in names:
            try:
                content = content_of(self.folder / name)
            except OSError as error:
                self.note_problem(name, error.strerror or str(error))
                continue
            entry = Entry(state=found.files[name], content=content)
            if (known := by_content.get(content)) is None:
                yield name, entry
            else:
                self.changes.num_same += 1
                self._manifest.add({name: dataclasses.replace(known, state=entry.state)})

    def add(self, entries: dict[str, Entry]) -> None:
        """Note files that were read."""
        self._manifest.add(entries)
        num_unreadable = sum(bool(entry.reason) for entry in entries.values())
        self.changes.num_unreadable += num_unreadable
        self.changes.num_encoded += len(entries) - num_unreadable

    def note_problem(self, name: str, reason: str) -> None:
        """Note why a file was not read this time; it is tried again in the next search."""
        self._problems[name] = reason
        self._manifest.entries.pop(name, None)
        self.changes.num_unreadable += 1

    def _forget(self, gone: list[str], before: set[str]) -> None:
        """Drop files that are gone, and of the contents that were there before those that no file has now."""
        self._manifest.keep_only(self._manifest.entries.keys() - set(gone))
        for content in before - {entry.content for entry in self._manifest.entries.values()}:
            self.store.remove(content)
        self.changes.num_gone = len(gone)

    def _describe(self, log: Log) -> None:
        """Write down what the index is of, and say so if the folder has others."""
        others = [path.parent.name for path in self.place.glob("*/about.json") if path.parent != self.root]
        if others:
            log(
                f"{self.place} holds {len(others)} index(es) of another model, version or number of clips: a "
                f"new one is made beside ({', '.join(sorted(others))}; delete what you need no more)"
            )
        about = {**dataclasses.asdict(self.facts), "num_clips": self.options.num_clips}
        write_whole(self.root / "about.json", json.dumps(about, indent=1).encode())

    @contextlib.contextmanager
    def _locked(self, log: Log) -> Iterator[None]:
        lock = filelock.FileLock(self.place / "lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            log(f"another search brings {self.place} up to date: waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
