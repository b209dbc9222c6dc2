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
from data_pipelines.terminal_text import printable
from experiments.search.catalog import Catalog, Changes, IndexOptions
from experiments.search.encoding import Encoder
from experiments.search.folder import Scan, scan
from experiments.search.manifest import ManifestEntry
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

_MEND_WAIT_SECONDS = 2.0
"""How long a search waits for another one before it goes on without what is damaged."""


class Index(Catalog):
    """The videos of a folder, encoded by one model. One thread at a time may use it."""

    def __init__(self, folder: Path, facts: ModelFacts, options: IndexOptions) -> None:
        self.place = options.place or folder / INDEX_NAME
        self.root = root_of(self.place, folder, facts.fingerprint, options.num_clips)
        self.facts = facts
        self.num_linked_folders = 0
        super().__init__(folder, self.root, options)

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

    # ---- Bringing it up to date ---------------------------------------------------------------------------

    def update(self, model: SearchModel, *, log: Log = print) -> None:
        """Look through the folder; encode what is new, and forget what is gone.

        Raises:
          UserError: there is no video.
        """
        self.changes = Changes()
        self.manifest.refresh()
        if not self._has_changes(self._look()):
            return
        with locked(self.place, log):
            self.manifest.reload()
            found = self._look()  # another search may have been at it, and the folder may have changed since
            if not self._has_changes(found):
                return
            if not self.manifest.entries:
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
        self.unseen = {
            name for name in self.manifest.entries if name not in found.files and found.hides(name)
        }
        self._leave_out_too_large(found)
        return found

    def _leave_out_too_large(self, found: Scan) -> None:
        """Make problems of new files that no worker could hold, before they are hashed."""
        limit = self._memory_gib * 2**30
        for name, state in [*found.files.items()]:
            known = self.manifest.entries.get(name)
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
        known = self.manifest.entries
        return [
            name
            for name, state in found.files.items()
            if (entry := known.get(name)) is None or entry.state != state or self._is_tried_again(entry)
        ]

    def _is_tried_again(self, entry: ManifestEntry) -> bool:
        """Return whether a file that could not be read may be read now, though it has not changed."""
        has_more_memory = 0 < entry.short_memory_gib < self._memory_gib
        return bool(entry.reason) and (self.options.retry or has_more_memory)

    def _gone(self, found: Scan) -> list[str]:
        kept = found.files.keys() | self.unseen | self.problems.keys()
        return [name for name in self.manifest.entries if name not in kept]

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
        known = self.manifest.entries.values()
        by_content = {
            entry.content: entry
            for entry in known
            if entry.content not in damaged and not self._is_tried_again(entry)
        }
        new_files = NewFiles(self, found, by_content)
        unknown = new_files.unknown(names)
        if (first := next(unknown, None)) is None:
            return  # and no model is needed
        from experiments.runtime.progress import Progress

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
        entries: dict[str, ManifestEntry],
        contents: Collection[str],
        on_read: Callable[[], None],
    ) -> None:
        """Encode files of damaged contents again; if they have changed, the next update sees that."""
        self.manifest.reload()
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
                self.manifest.add({name: entries[name]})  # only its pictures are missing

    def _leave_out_damaged(self, contents: Collection[str]) -> set[str]:
        """Leave out the files that have no tokens, until the next update; return their contents."""
        without_tokens = self.store.without_tokens(contents, self.options.num_clips)
        left_out = [name for name, entry in self.entries.items() if entry.content in without_tokens]
        self.problems.update(dict.fromkeys(left_out, "what the index has of it is damaged"))
        return without_tokens

    def _forget(self, gone: list[str]) -> None:
        """Drop files that are gone, what was made of contents that no file has, and what a kill has left."""
        self.manifest.keep_only(self.manifest.entries.keys() - set(gone))
        self.store.keep_only({entry.content for entry in self.manifest.entries.values()})
        for left in self.root.glob(".*.tmp"):  # the lock says that nobody writes them any more
            left.unlink()
        self.changes.num_gone = len(gone)
