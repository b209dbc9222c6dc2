"""Keeps the search index of the folder up to date, in a thread beside that of the model.

Questions about a video do not wait while a large folder is read: the thread takes the model for one batch at
a time. The index belongs to this thread. It lends it to the searches that wait, and goes on when they have
ended: no thread waits while it holds a lock, and no file vanishes during a search.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, UInt8

from clipbert_jax.errors import UserError
from clipbert_jax.evaluation.scorer import Scorer
from data_pipelines.terminal_text import printable
from experiments.runs.load_run import Run
from experiments.search.folder import scan
from experiments.search.index import Index
from experiments.search.model import SearchModel
from experiments.search.options import IndexOptions
from experiments.search.place import INDEX_NAME, to_stderr, writing_to
from experiments.search.ranking import Ranked, rank
from experiments.search.store import DamagedIndexError
from experiments.serve.jobs import Job, Workroom
from experiments.serve.limits import MAX_WAITING_FOR_INDEX
from experiments.serve.refusal import RequestRefused, as_sentence


class TurnTaking(Scorer):
    """A scorer that waits for its turn before it encodes."""

    def __init__(self, scorer: Scorer, turn: threading.Lock) -> None:
        self.__dict__.update(scorer.__dict__)  # the same model on the same devices
        self._turn = turn

    def encode(self, frames: UInt8[np.ndarray, "b k t h w 3"]) -> Float[jax.Array, "rows k v d"]:
        with self._turn:
            return jax.block_until_ready(super().encode(frames))


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexStatus:
    """State of the index."""

    is_ready: bool
    sentence: str
    has_failed: bool = False
    """Whether the last update failed; the next search tries again."""
    num_done: int = 0
    num_total: int = 0
    """Number of new files; 0 if unknown."""


class IndexKeeper:
    """The index, and the thread that updates it: at once, and before each search."""

    def __init__(self, run: Run, folder: Path, options: IndexOptions, workroom: Workroom) -> None:
        self.options = options
        self._folder, self._workroom = folder, workroom
        self._place = options.place or folder / INDEX_NAME
        self._model = SearchModel.of(run)
        self._reader = SearchModel.of(dataclasses.replace(run, scorer=TurnTaking(run.scorer, workroom.turn)))
        self._index: Index | None = None
        self._num_known, self._num_total = 0, 0
        self._sentence = "Looking through the folder."
        self._is_ready = self._has_failed = self._is_closed = False
        self._damage: DamagedIndexError | None = None
        self._waiting: list[Job] = []
        """Searches that wait for the next update."""
        self._changed = threading.Condition()
        self.unreadable: dict[str, str] = {}
        """Files that cannot be searched, with reasons, as pages show them."""
        self.update_seconds = 0.0
        self._thread = threading.Thread(target=self._work, name="index", daemon=True)
        self._thread.start()

    @property
    def status(self) -> IndexStatus:
        """State of the index; any thread may ask."""
        if self._is_ready or self._has_failed or self._index is None or not self._num_total:
            return IndexStatus(is_ready=self._is_ready, sentence=self._sentence, has_failed=self._has_failed)
        done = min(self._index.changes.num_read, self._num_total)
        sentence = f"Making the index: {done:,} of {self._num_total:,} new videos are read."
        return IndexStatus(is_ready=False, sentence=sentence, num_done=done, num_total=self._num_total)

    def enqueue_when_ready(self, job: Job) -> None:
        """Let a search wait for an update of the index, and then for the model.

        Raises:
          RequestRefused: too many searches wait.
        """
        with self._changed:
            self._waiting = [other for other in self._waiting if not other.is_ended]
            if len(self._waiting) >= MAX_WAITING_FOR_INDEX:
                raise RequestRefused(
                    503,
                    f"{MAX_WAITING_FOR_INDEX} searches already wait for the index: try again in a moment.",
                )
            self._waiting.append(job)
            self._changed.notify_all()

    def rank(
        self, texts: Sequence[str], *, top: int, on_progress: Callable[[int], None]
    ) -> tuple[Ranked, Index]:
        """Rank the videos of the index, in the work of a job that it was lent to.

        Raises:
          RequestRefused: there is no index or no video; or it is damaged, and is now built again.
        """
        if self._index is None:
            raise RequestRefused(503, self._sentence)
        if not self._index.entries:
            raise RequestRefused(422, "No video of the folder can be read.")
        try:
            return rank(self._index, self._model, texts, top=top, on_progress=on_progress), self._index
        except DamagedIndexError as error:
            with self._changed:
                self._damage, self._is_ready = error, False
                self._changed.notify_all()
            raise RequestRefused(
                503, "The index is damaged and is built again: search again later."
            ) from error

    def close(self) -> None:
        """End the thread after its update; nothing waits for it."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        jobs: list[Job] | None = []
        while jobs is not None:
            problem = self._bring_up_to_date()
            self._is_ready, self._has_failed = problem is None, problem is not None
            self._sentence = problem.sentence if problem else f"{self._num_known:,} videos can be searched."
            for job in jobs:
                self._workroom.enqueue(job) if problem is None else job.fail(problem)
            for job in jobs:
                job.ended.wait()
            jobs = self._next_jobs()

    def _next_jobs(self) -> list[Job] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._damage or self._is_closed)
            jobs, self._waiting = self._waiting, []
            return None if self._is_closed else jobs

    def _bring_up_to_date(self) -> RequestRefused | None:
        """Update, and return why that was not possible."""
        try:
            self._update()
        except (UserError, OSError) as error:
            to_stderr(f"the index: {error}")
            return RequestRefused(503, f"The folder cannot be searched: {as_sentence(error)}")
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return RequestRefused(500, "The index could not be made; the server's log says why.")
        return None

    def _update(self) -> None:
        start = time.perf_counter()
        if self._index is None:
            with writing_to(self._place, self._folder):
                self._place.mkdir(parents=True, exist_ok=True)
                self._index = Index(self._folder, self._model.facts(self._place), self.options)
        index, damage = self._index, self._damage
        self._damage = None
        known = {} if damage else index.entries | index.unreadable
        found = scan(self._folder, left_out=index.place)
        self._num_total = len(found.files.keys() - known.keys())
        self._is_ready, self._has_failed = self._is_ready and not self._num_total, False
        index.update(self._reader, log=to_stderr, damage=damage)
        self._num_known = len(index.entries)
        self.unreadable = {printable(name): printable(reason) for name, reason in index.unreadable.items()}
        self.update_seconds = time.perf_counter() - start
