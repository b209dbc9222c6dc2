"""Keeps the search index of the folder up to date, in a thread beside that of the model.

Reading a large folder takes long, and questions about a video shall not wait for it: the model is taken for
one batch at a time. The index belongs to this thread. It lends it to the searches that wait for it, and goes
on when they have ended: nobody holds a lock while it waits for another, and no file vanishes under a search.
Before: `search.index`; after: `search_work`.
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
from experiments.search.catalog import IndexOptions
from experiments.search.folder import Scan, scan
from experiments.search.index import Index
from experiments.search.model import SearchModel
from experiments.search.place import INDEX_NAME, is_not_writable, not_kept, to_stderr
from experiments.search.ranking import Ranked, rank
from experiments.serve.jobs import Job, Workroom
from experiments.serve.limits import MAX_WAITING_FOR_INDEX
from experiments.serve.public import public_reason
from experiments.serve.refusal import RequestRefused


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
    """How far the index is."""

    is_ready: bool
    sentence: str
    has_failed: bool = False
    """Whether it could not be made; the next search tries again."""
    num_done: int = 0
    num_total: int = 0
    """New files; 0 if that is not known."""


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
        self._sentence = "The folder is being looked through."
        self._is_ready = self._has_failed = self._is_closed = False
        self._waiting: list[Job] = []
        """Searches that the next update is for, however many they are."""
        self._changed = threading.Condition()
        self.unreadable: dict[str, str] = {}
        """Files that cannot be searched, and why; as people read it."""
        self.update_seconds = 0.0
        self._thread = threading.Thread(target=self._work, name="index", daemon=True)
        self._thread.start()

    @property
    def status(self) -> IndexStatus:
        """How far it is; any thread may ask."""
        if self._is_ready or self._has_failed or self._index is None or not self._num_total:
            return IndexStatus(is_ready=self._is_ready, sentence=self._sentence, has_failed=self._has_failed)
        done = min(self._index.changes.num_read, self._num_total)
        sentence = f"The index is being made: {done:,} of {self._num_total:,} new videos are read."
        return IndexStatus(is_ready=False, sentence=sentence, num_done=done, num_total=self._num_total)

    def enqueue_when_ready(self, job: Job) -> None:
        """Have the index brought up to date, and then let a search wait for the model.

        Raises:
          RequestRefused: too many wait.
        """
        with self._changed:
            self._waiting = [other for other in self._waiting if not other.is_ended]
            if len(self._waiting) >= MAX_WAITING_FOR_INDEX:
                sentence = f"{MAX_WAITING_FOR_INDEX} searches are waiting for the index already"
                raise RequestRefused(503, f"{sentence}: try again in a moment.")
            self._waiting.append(job)
            self._changed.notify_all()

    def rank(
        self, texts: Sequence[str], *, top: int, on_progress: Callable[[int], None]
    ) -> tuple[Ranked, Index]:
        """Rank the videos of the index; in the work of a job that it was lent to, until that ends."""
        if self._index is None:
            raise RequestRefused(503, self._sentence)
        if not self._index.entries:
            raise RequestRefused(422, "No video of the folder can be read.")
        return rank(self._index, self._model, texts, top=top, on_progress=on_progress), self._index

    def close(self) -> None:
        """End the thread when it has done what it does; nothing waits for it."""
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
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            jobs, self._waiting = self._waiting, []
            return None if self._is_closed else jobs

    def _bring_up_to_date(self) -> RequestRefused | None:
        """Update, and return why that was not possible."""
        try:
            self._update()
        except RequestRefused as problem:
            return problem
        except OSError as error:
            if is_not_writable(self._place, error):
                to_stderr(f"the index: {not_kept(self._folder, self._place, error)}")
                sentence = "its index cannot be kept there: start the server with --index"
                return RequestRefused(503, f"The folder cannot be searched: {sentence}.")
            to_stderr(f"the index: {error}")
            return RequestRefused(
                503, f"The folder cannot be searched: {error.strerror or 'it cannot be read'}."
            )
        except UserError as error:
            to_stderr(f"the index: {error}")
            return RequestRefused(503, "The folder cannot be searched, and the server's log says why.")
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return RequestRefused(500, "The index could not be made, and the server's log says why.")
        return None

    def _update(self) -> None:
        start = time.perf_counter()
        if self._index is None:
            self._place.mkdir(parents=True, exist_ok=True)
            self._index = Index(self._folder, self._model.facts(self._place), self.options)
        index = self._index
        found = scan(self._folder, left_out=index.place)
        _check_has_videos(found)
        self._num_total = len(found.files.keys() - index.entries.keys() - index.unreadable.keys())
        self._is_ready, self._has_failed = self._is_ready and not self._num_total, False
        index.update(self._reader, log=to_stderr)
        self._num_known = len(index.entries)
        self.unreadable = {
            printable(name): public_reason(reason) for name, reason in index.unreadable.items()
        }
        self.update_seconds = time.perf_counter() - start


def _check_has_videos(found: Scan) -> None:
    """Refuse an empty folder, without the path that the index would say."""
    if found.files:
        return
    if "." in found.problems:
        raise RequestRefused(503, "The folder cannot be searched: it cannot be listed.")
    raise RequestRefused(503, "The folder cannot be searched: there are no videos in it.")
