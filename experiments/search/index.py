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
cannot be read is noted with its reason and not tried again before its content changes, or workers may take
more memory where that was the reason; what cannot be looked at keeps its place. A kill loses the two batches
of videos that are being encoded.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection
from pathlib import Path

import filelock

from clipbert_jax.errors import UserError
from data_pipelines.printable import printable
from experiments.search.encoding import Encoder
from experiments.search.folder import Scan, scan
from experiments.search.manifest import Entry, Manifest
from experiments.search.model import ModelFacts, SearchModel
from experiments.search.new_files import NewFiles
from experiments.search.place import (
    INDEX_NAME,
    Log,
    describe,
    is_not_writable,
    locked,
    not_kept,
    root_of,
    to_stderr,
)
from experiments.search.store import TokenStore

_MEND_WAIT_SECONDS = 2.0
"""How long a search waits for another one before it goes on without what is damaged."""


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
        self.root = root_of(self.place, folder, facts.fingerprint, options.num_clips)
        self.store = TokenStore(self.root / "videos", memory_bytes=options.memory_bytes)
        self.changes = Changes()
        """Of the last update."""
        self.num_linked_folders = 0
        self.problems: dict[str, str] = {}
        """What could not be looked at or read this time, and why; it is tried again in the next search."""
        self._unseen: set[str] = set()
        self._manifest = Manifest(self.root / "manifest.jsonl", options.num_clips)

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
            if not is_not_writable(place, error):
                raise
            raise not_kept(folder, place, error) from error
        return index

    @property
    def entries(self) -> dict[str, Entry]:
        """The files that can be searched, by name."""
        hidden = self._unseen | self.problems.keys()
        known = self._manifest.entries
        return {name: known[name] for name in known if not known[name].reason and name not in hidden}

    @property
    def unreadable(self) -> dict[str, str]:
        """The files that cannot, and why."""
        noted = {name: entry.reason for name, entry in self._manifest.entries.items() if entry.reason}
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

    def known(self, name: str) -> Entry:
        """Return what is known of a file."""
        return self._manifest.entries[name]

    # ---- Bringing it up to date ---------------------------------------------------------------------------

    def update(self, model: SearchModel, *, log: Log = print) -> None:
        """Look through the folder; encode what is new, and forget what is gone.

        Raises:
          UserError: there is no video.
        """
        self.changes = Changes()
        self._manifest.refresh()
        if not self._has_changes(self._look()):
            return
        with locked(self.place, log):
            self._manifest.reload()
            found = self._look()  # another search may have been at it, and the folder may have changed since
            if not self._has_changes(found):
                return
            if not self._manifest.entries:
                facts = dataclasses.asdict(self.facts)
                about = facts | {"num_clips": self.options.num_clips, "folder": str(self.folder)}
                describe(self.root, about, log)
            self._read(model, self._stale(found), found)
            self._forget(self._gone(found))

    def _look(self) -> Scan:
        """Return what is in the folder; note what cannot be looked at, and what no worker could hold."""
        found = scan(self.folder, left_out=self.place)
        self.problems, self.num_linked_folders = dict(found.problems), found.num_linked_folders
        if not found.files:  # a drive that is not there must not cost its index
            if (reason := found.problems.get(".")) is not None:
                raise UserError(f"{self.folder} cannot be listed ({reason}): give a folder that can")
            raise UserError(f"no videos in {self.folder}: put files such as .mp4, .webm, .gif or .jpg there")
        self._unseen = {
            name for name in self._manifest.entries if name not in found.files and found.hides(name)
        }
        self._leave_out_too_large(found)
        return found

    def _leave_out_too_large(self, found: Scan) -> None:
        """Make problems of new files that no worker could hold, before they are hashed."""
        limit = self._memory_gib * 2**30
        for name, state in [*found.files.items()]:
            known = self._manifest.entries.get(name)
            if state.size >= limit and (known is None or known.state != state):
                del found.files[name]
                self.problems[name] = (
                    f"{state.size / 2**30:.1f} GiB do not fit into a worker's {limit / 2**30:g} GiB: raise "
                    "--worker-memory-gib"
                )

    @property
    def _memory_gib(self) -> float:
        """What may be taken to read a file."""
        return self.options.worker_memory_gib if self.options.num_workers else float("inf")

    def _has_changes(self, found: Scan) -> bool:
        return bool(self._stale(found) or self._gone(found))

    def _stale(self, found: Scan) -> list[str]:
        known = self._manifest.entries
        return [
            name
            for name, state in found.files.items()
            if (entry := known.get(name)) is None or entry.state != state or self._is_tried_again(entry)
        ]

    def _is_tried_again(self, entry: Entry) -> bool:
        """Return whether a file that could not be read may be read now, though it has not changed."""
        has_more_memory = 0 < entry.short_memory_gib < self._memory_gib
        return bool(entry.reason) and (self.options.retry or has_more_memory)

    def _gone(self, found: Scan) -> list[str]:
        kept = found.files.keys() | self._unseen | self.problems.keys()
        return [name for name in self._manifest.entries if name not in kept]

    def _read(
        self,
        model: SearchModel,
        names: list[str],
        found: Scan,
        *,
        damaged: Collection[str] = (),
        on_read: Callable[[], None] = lambda: None,
    ) -> None:
        """Add files: by their content if that is known and not damaged, else encoded."""
        known = self._manifest.entries.values()
        by_content = {
            entry.content: entry
            for entry in known
            if entry.content not in damaged and not self._is_tried_again(entry)
        }
        new_files = NewFiles(self, found, by_content)
        unknown = new_files.unknown(names)
        if (first := next(unknown, None)) is None:
            return  # and no model is needed
        from experiments.progress import Progress

        progress = Progress(f"reading {printable(str(self.folder))}", total=len(names), unit="files")
        num_before = self.changes.num_read

        def note() -> None:
            progress.update(self.changes.num_read - num_before)
            on_read()

        Encoder(self, model.run, on_read=note).encode(itertools.chain([first], unknown))
        new_files.add_copies()

    def mend(
        self,
        model: SearchModel,
        contents: Collection[str],
        *,
        on_read: Callable[[], None] = lambda: None,
        log: Log = to_stderr,
    ) -> bool:
        """Encode again what is gone or damaged of some contents; return whether there was any.

        A search waits for it, and in a server all others: nothing else is read, and what cannot be mended now
        is left out until the next update. Entries stay until there are better ones, and so do whole tokens of
        which only the pictures are damaged.

        Args:
          model: whose index it is.
          contents: that are needed.
          on_read: called now and then while files are read; may raise to end it.
          log: told what is done.

        Raises:
          UserError: the index cannot be written to.
        """
        damaged = self.store.damaged(contents, self.options.num_clips)
        if not damaged:
            return False
        log(f"{len(damaged):,} video(s) of the index are damaged or gone: they are encoded again")
        entries = {name: entry for name, entry in self.entries.items() if entry.content in damaged}
        try:
            with locked(self.place, log, timeout_seconds=_MEND_WAIT_SECONDS):
                self._encode_again(model, entries, contents, on_read)
        except filelock.Timeout:
            log("the other search goes on: what is damaged is left out until the next update")
            self._leave_out_damaged(contents)
        except OSError as error:
            if not is_not_writable(self.place, error):
                raise
            raise not_kept(self.folder, self.place, error) from error
        return True

    def _encode_again(
        self,
        model: SearchModel,
        entries: dict[str, Entry],
        contents: Collection[str],
        on_read: Callable[[], None],
    ) -> None:
        """Encode files of damaged contents again; if they have changed, the next update sees that."""
        self._manifest.reload()
        damaged = self.store.damaged(contents, self.options.num_clips)  # another search may have been at it
        names = [name for name, entry in entries.items() if entry.content in damaged]
        self.store.forget(damaged)
        as_known = Scan(
            files={name: entries[name].state for name in names}, problems={}, num_linked_folders=0
        )
        self._read(model, names, as_known, damaged=damaged, on_read=on_read)
        without_tokens = self._leave_out_damaged(contents)
        for name in names:
            if entries[name].content not in without_tokens and name in self.unreadable:
                self.problems.pop(name, None)
                self._manifest.add({name: entries[name]})  # only its pictures are missing

    def _leave_out_damaged(self, contents: Collection[str]) -> set[str]:
        """Leave out the files that have no tokens, until the next update; return their contents."""
        without_tokens = self.store.without_tokens(contents, self.options.num_clips)
        left_out = [name for name, entry in self.entries.items() if entry.content in without_tokens]
        self.problems.update(dict.fromkeys(left_out, "what the index has of it is damaged"))
        return without_tokens

    def add(self, entries: dict[str, Entry]) -> None:
        """Note files that were read."""
        self._manifest.add(entries)
        num_unreadable = sum(bool(entry.reason) for entry in entries.values())
        self.changes.num_unreadable += num_unreadable
        self.changes.num_encoded += len(entries) - num_unreadable

    def add_same(self, name: str, entry: Entry) -> None:
        """Note a file of a known content."""
        self._manifest.add({name: entry})
        self.changes.num_same += 1

    def note_problem(self, name: str, reason: str) -> None:
        """Note why a file was not read this time; what was known of it stays, but for an older reason."""
        self.problems[name] = reason
        if (known := self._manifest.entries.get(name)) is not None and known.reason:
            del self._manifest.entries[name]
        self.changes.num_unreadable += 1

    def _forget(self, gone: list[str]) -> None:
        """Drop files that are gone, what was made of contents that no file has, and what a kill has left."""
        self._manifest.keep_only(self._manifest.entries.keys() - set(gone))
        self.store.keep_only({entry.content for entry in self._manifest.entries.values()})
        for left in self.root.glob(".*.tmp"):  # the lock says that nobody writes them any more
            left.unlink()
        self.changes.num_gone = len(gone)
