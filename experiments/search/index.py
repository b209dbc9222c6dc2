"""The index of a folder: its videos as a model sees them, kept up to date with the folder.

    DIR/.clipbert_index/          or another place
        models.json               which runs have which fingerprint
        FINGERPRINT/              one for each model and number of clips that the folder was searched with
            about.json            what these are
            manifest.jsonl        the files, see `manifest`
            videos/               visual tokens and pictures, see `store`
            scores/               of texts that were asked, see `scores`

A file whose size and time are as noted counts as unchanged. Any other file is hashed, and encoded only if its
content is new: a file that is moved, copied or touched is not encoded again. A file that cannot be read is
noted with the reason. A kill loses the two batches of videos that are being encoded.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

from clipbert_jax.atomic_files import remove_unfinished
from clipbert_jax.errors import UserError
from data_pipelines.terminal_text import printable
from experiments.search.encoding import EncodedVideo, NotEncoded, encode
from experiments.search.folder import ABOUT_NAME, Scan, content_of, scan
from experiments.search.manifest import Manifest, ManifestEntry
from experiments.search.model import ModelFacts, SearchModel
from experiments.search.options import IndexOptions
from experiments.search.place import INDEX_NAME, Log, describe, locked, root_of, writing_to
from experiments.search.store import DamagedIndexError, TokenStore


@dataclasses.dataclass(kw_only=True)
class Changes:
    """Numbers of files in an update, by what happened to them."""

    num_encoded: int = 0
    num_unreadable: int = 0
    """New files that cannot be read."""
    num_same: int = 0
    """New names or times of a known content."""
    num_gone: int = 0

    @property
    def num_read(self) -> int:
        """Number of all new files."""
        return self.num_encoded + self.num_unreadable + self.num_same


class Index:
    """The videos of a folder, encoded by one model. Only one thread at a time may use it."""

    def __init__(self, folder: Path, facts: ModelFacts, options: IndexOptions) -> None:
        self.folder, self.facts, self.options = folder, facts, options
        self.place = options.place or folder / INDEX_NAME
        self.root = root_of(self.place, folder, facts.fingerprint, options.num_clips)
        self.store = TokenStore(
            self.root / "videos", num_clips=options.num_clips, memory_bytes=options.memory_bytes
        )
        self.manifest = Manifest(self.root / "manifest.jsonl", options.num_clips)
        self.changes = Changes()
        """Result of the last update."""
        self.problems: dict[str, str] = {}
        """Files and folders that could not be read this time, with reasons; the next search tries again."""
        self.num_linked_folders = 0
        self._unseen: set[str] = set()
        """Known files in folders that cannot be looked at now."""

    @classmethod
    def open_or_update(
        cls, model: SearchModel, folder: Path, options: IndexOptions | None = None, *, log: Log = print
    ) -> Index:
        """Return the index of a folder, made or brought up to date; nothing is loaded if nothing has changed.

        Raises:
          UserError: the folder is missing or has no video, the model does not match texts, or the place
            cannot be written to.
        """
        options = options or IndexOptions()
        if not folder.is_dir():
            what = "is a file" if folder.is_file() else "does not exist"
            raise UserError(f"{folder} {what}: give the folder with the videos to search, after the run")
        place = options.place or folder / INDEX_NAME
        with writing_to(place, folder):
            place.mkdir(parents=True, exist_ok=True)
            index = cls(folder, model.facts(place), options)
        index.update(model, log=log)
        return index

    # ---- What it knows ------------------------------------------------------------------------------------

    @property
    def entries(self) -> dict[str, ManifestEntry]:
        """The files that can be searched, by name."""
        hidden = self._unseen | self.problems.keys()
        known = self.manifest.entries
        return {name: known[name] for name in known if not known[name].reason and name not in hidden}

    @property
    def unreadable(self) -> dict[str, str]:
        """The files that cannot be searched, with reasons."""
        noted = {name: entry.reason for name, entry in self.manifest.entries.items() if entry.reason}
        return dict(sorted({**noted, **self.problems}.items()))

    @property
    def when_tried_again(self) -> str:
        """When unreadable files are tried again, in words."""
        noted = "when they change or with --retry"
        if not self.problems:
            return f"tried again {noted}"
        if len(self.problems) == len(self.unreadable):
            return "tried again in each search"
        return f"{len(self.problems):,} of them tried again in each search, the others {noted}"

    # ---- Bringing it up to date ---------------------------------------------------------------------------

    def update(
        self, model: SearchModel, *, log: Log = print, damage: DamagedIndexError | None = None
    ) -> None:
        """Look through the folder, encode what is new, and forget what is gone.

        Args:
          model: the one whose index this is.
          log: told what the user should know.
          damage: error of a ranking. Everything is encoded again, unless no file has that content any more:
            then another process has deleted its tokens.

        Raises:
          UserError: the folder has no video, or the place cannot be written to.
        """
        self.changes = Changes()
        with writing_to(self.place, self.folder):
            self.manifest.refresh()
            if damage is None and not self._has_changes(self._look()):
                return
            with locked(self.place, log):
                self.manifest.reload()
                if damage is not None and self._has_content(damage.content):
                    log(f"the index is damaged ({printable(damage.reason)}) and is built again")
                    self.manifest.keep_only(())
                    self.store.forget()
                found = self._look()  # the folder or the index may have changed while this process waited
                if self._has_changes(found):
                    self._follow(found, model, log)

    def _has_content(self, content: str) -> bool:
        return any(entry.content == content for entry in self.manifest.entries.values())

    def _follow(self, found: Scan, model: SearchModel, log: Log) -> None:
        if num_damaged := self.manifest.num_damaged:
            log(f"{num_damaged:,} line(s) of the index are damaged: their files are read again")
        if not (self.root / ABOUT_NAME).exists():
            facts = dataclasses.asdict(self.facts)
            about = facts | {"num_clips": self.options.num_clips, "folder": str(self.folder)}
            describe(self.root, about, log)
        if self.options.retry:
            self.manifest.forget_unreadable()
        self._read(self._stale(found), found, model)
        self._forget(self._gone(found))

    def _look(self) -> Scan:
        """Return what is in the folder, and note what cannot be looked at."""
        found = scan(self.folder, left_out=self.place)
        self.problems, self.num_linked_folders = dict(found.problems), found.num_linked_folders
        if not found.files:  # a drive that is not mounted must not cost its index
            if (reason := found.problems.get(".")) is not None:
                raise UserError(f"{self.folder} cannot be listed ({reason}): give another folder")
            raise UserError(f"no videos in {self.folder}: put files such as .mp4, .webm, .gif or .jpg there")
        self._unseen = {
            name for name in self.manifest.entries if name not in found.files and found.hides(name)
        }
        return found

    def _has_changes(self, found: Scan) -> bool:
        is_retried = self.options.retry and any(entry.reason for entry in self.manifest.entries.values())
        return bool(is_retried or self._stale(found) or self._gone(found))

    def _stale(self, found: Scan) -> list[str]:
        known = self.manifest.entries
        return [
            name
            for name, state in found.files.items()
            if (entry := known.get(name)) is None or entry.state != state
        ]

    def _gone(self, found: Scan) -> list[str]:
        kept = found.files.keys() | self._unseen | self.problems.keys()
        return [name for name in self.manifest.entries if name not in kept]

    def _read(self, names: list[str], found: Scan, model: SearchModel) -> None:
        """Add files: by their content if that is known, else encoded."""
        copies: list[str] = []
        unknown = self._unknown(names, found, copies)
        if (first := next(unknown, None)) is None:
            return  # no model is needed
        from experiments.runtime.progress import Progress

        progress = Progress(f"reading {printable(str(self.folder))}", total=len(names), unit="files")
        num_before = self.changes.num_read
        files = itertools.chain([first], unknown)
        for outcome in encode(files, model.run, self.folder, self.options):
            self._add(outcome)
            progress.update(self.changes.num_read - num_before)
        self._read(copies, found, model)  # their content is known by now

    def _unknown(
        self, names: list[str], found: Scan, copies: list[str]
    ) -> Iterator[tuple[str, ManifestEntry]]:
        """Yield the files to encode, each content once; add files of a known content, and collect copies."""
        by_content = {entry.content: entry for entry in self.manifest.entries.values()}
        contents: set[str] = set()
        for name in names:
            try:
                content = content_of(self.folder / name)
            except OSError as error:
                self._note_problem(name, error.strerror or str(error))
                continue
            entry = ManifestEntry(state=found.files[name], content=content)
            if (known := by_content.get(content)) is not None:
                self.manifest.add(name, dataclasses.replace(known, state=entry.state))
                self.changes.num_same += 1
            elif content in contents:
                copies.append(name)
            else:
                contents.add(content)
                yield name, entry

    def _add(self, outcome: EncodedVideo | NotEncoded) -> None:
        if isinstance(outcome, EncodedVideo):
            self.store.put(outcome.entry.content, outcome.tokens, outcome.pictures)
            self.manifest.add(outcome.name, outcome.entry)
            self.changes.num_encoded += 1
        elif outcome.may_pass:
            self._note_problem(outcome.name, outcome.reason)
        else:
            self.manifest.add(outcome.name, dataclasses.replace(outcome.entry, reason=outcome.reason))
            self.changes.num_unreadable += 1

    def _note_problem(self, name: str, reason: str) -> None:
        """Note why a file was not read this time; what is known of it stays, except an older reason."""
        self.problems[name] = reason
        if (known := self.manifest.entries.get(name)) is not None and known.reason:
            del self.manifest.entries[name]
        self.changes.num_unreadable += 1

    def _forget(self, gone: list[str]) -> None:
        """Drop files that are gone, the tokens of contents that no file has, and what a kill has left."""
        self.manifest.keep_only(self.manifest.entries.keys() - set(gone))
        self.store.keep_only({entry.content for entry in self.manifest.entries.values()})
        remove_unfinished(self.root)
        self.changes.num_gone = len(gone)
