"""Keeps the search index of the folder up to date, in a thread beside that of the model.

Reading a large folder takes long, and questions about a video shall not wait for it: the model is taken for
one batch at a time. Before: `search.index`; after: `search_work`.
"""

from __future__ import annotations

import dataclasses
import queue
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
from clipbert_jax.scorer import Scorer
from data_pipelines.printable import printable
from experiments.runs import Run
from experiments.search.folder import scan
from experiments.search.index import INDEX_NAME, Index, IndexOptions
from experiments.search.model import SearchModel
from experiments.search.ranking import Ranked, rank
from experiments.serve.refusal import Refusal

OnReady = Callable[[Refusal | None], None]
"""Called when the index is up to date, or cannot be."""


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
    num_done: int = 0
    num_total: int = 0
    """New files; 0 if that is not known."""


class IndexKeeper:
    """The index, and the thread that updates it."""

    def __init__(self, run: Run, folder: Path, options: IndexOptions, turn: threading.Lock) -> None:
        self.options = options
        self._folder = folder
        self._model = SearchModel.of(run)
        self._reader = SearchModel.of(dataclasses.replace(run, scorer=TurnTaking(run.scorer, turn)))
        self._index: Index | None = None
        self._in_use = threading.Lock()
        self._num_known, self._num_total = 0, 0
        self._sentence = "The folder is being looked through."
        self._is_ready = False
        self._wanted: queue.SimpleQueue[OnReady | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="index", daemon=True)
        self.unreadable: dict[str, str] = {}
        """Files that cannot be searched, and why; as people read it."""
        self.update_seconds = 0.0
        self._thread.start()

    @property
    def status(self) -> IndexStatus:
        """How far it is; any thread may ask."""
        if self._is_ready or self._index is None or not self._num_total:
            return IndexStatus(is_ready=self._is_ready, sentence=self._sentence)
        done = min(self._index.changes.num_read, self._num_total)
        sentence = f"The index is being made: {done:,} of {self._num_total:,} new videos are read."
        return IndexStatus(is_ready=False, sentence=sentence, num_done=done, num_total=self._num_total)

    def update(self, on_ready: OnReady = lambda problem: None) -> None:
        """Have the index brought up to date."""
        self._wanted.put(on_ready)

    def rank(self, texts: Sequence[str], *, top: int) -> tuple[Ranked, Index]:
        """Rank the videos of the index; in the thread of the model."""
        with self._in_use:
            if self._index is None:
                raise Refusal(503, self._sentence)
            return rank(self._index, self._model, texts, top=top), self._index

    def close(self) -> None:
        """End the thread when it has done what it does; nothing waits for it."""
        self._wanted.put(None)

    def _work(self) -> None:
        while (on_ready := self._wanted.get()) is not None:
            problem = None
            try:
                with self._in_use:
                    self._update()
            except (UserError, OSError) as error:
                problem = Refusal(503, f"The folder cannot be searched: {_sentence_of(error)}.")
            except Exception:
                traceback.print_exc(file=sys.stderr)
                problem = Refusal(500, "The index could not be made, and the server's log says why.")
            self._is_ready = problem is None
            self._sentence = problem.sentence if problem else f"{self._num_known:,} videos can be searched."
            on_ready(problem)

    def _update(self) -> None:
        start = time.perf_counter()
        if self._index is None:
            place = self.options.place or self._folder / INDEX_NAME
            place.mkdir(parents=True, exist_ok=True)
            self._index = Index(self._folder, self._model.facts(place), self.options)
        index = self._index
        found = scan(self._folder, left_out=index.place).files
        self._num_total = len(found.keys() - index.entries.keys() - index.unreadable.keys())
        self._is_ready = self._is_ready and not self._num_total
        index.update(self._reader, log=_log)
        self._num_known = len(index.entries)
        self.unreadable = {printable(name): printable(reason) for name, reason in index.unreadable.items()}
        self.update_seconds = time.perf_counter() - start


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _sentence_of(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
