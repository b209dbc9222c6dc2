"""Encodes the files of a folder that an index does not know yet.

Before: `reading`, in worker processes, which may crash or hang without harm; after: the index has the tokens.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_pipelines.workers.isolation import Failure, Isolated, time_limit_seconds
from experiments.search.folder import FileState
from experiments.search.manifest import ManifestEntry
from experiments.search.reading import FileToIndex, Read, Unreadable, read

if TYPE_CHECKING:
    import jax

    from experiments.runs.load_run import Run
    from experiments.search.catalog import Catalog

_Batch = list[tuple[str, ManifestEntry, Read]]
"""Names, what will be noted of them, and what was read."""

_OUT_OF_MEMORY = "needed more than "
"""How `isolation` says that a worker may take too little, which is a verdict on a file and this limit."""


class Encoder:
    """Reads files in workers and encodes them in batches of one shape, each while the next are read."""

    def __init__(self, catalog: Catalog, run: Run, *, on_read: Callable[[], None]) -> None:
        self._catalog, self._run, self._on_read = catalog, run, on_read
        self._options = catalog.options
        self._num_rows = 0

    def encode(self, files: Iterator[tuple[str, ManifestEntry]]) -> None:
        """Add files to the index."""
        under_way: tuple[_Batch, jax.Array] | None = None
        for batch in self._batches(files):
            tokens = self._run.scorer.encode(self._stack(batch))  # dispatched: devices work while we go on
            if under_way:
                self._keep(*under_way)
            under_way = batch, tokens
        if under_way:
            self._keep(*under_way)

    def _batches(self, files: Iterator[tuple[str, ManifestEntry]]) -> Iterator[_Batch]:
        readable = self._readable(files)
        while batch := list(itertools.islice(readable, self._options.batch_size)):
            yield batch

    def _readable(
        self, files: Iterator[tuple[str, ManifestEntry]]
    ) -> Iterator[tuple[str, ManifestEntry, Read]]:
        """Yield what can be read; note what cannot."""
        given: collections.deque[tuple[str, ManifestEntry]] = collections.deque()

        def items() -> Iterator[FileToIndex]:
            for name, entry in files:
                given.append((name, entry))
                yield self._item(name, entry.state)

        for outcome in self._outcomes(items()):
            name, entry = given.popleft()
            match outcome:
                case Read():
                    yield name, dataclasses.replace(entry, clip_seconds=outcome.clip_seconds), outcome
                case Failure() if outcome.reason.startswith(_OUT_OF_MEMORY):
                    self._catalog.add({name: self._short_of_memory(entry, outcome)})
                    self._on_read()
                case Failure(may_pass=True):
                    self._catalog.note_problem(name, outcome.reason)
                    self._on_read()
                case Failure() | Unreadable():
                    self._catalog.add({name: dataclasses.replace(entry, reason=outcome.reason)})
                    self._on_read()

    def _short_of_memory(self, entry: ManifestEntry, failure: Failure) -> ManifestEntry:
        reason = f"{failure.reason}: raise --worker-memory-gib"
        return dataclasses.replace(entry, reason=reason, short_memory_gib=self._options.worker_memory_gib)

    def _outcomes(self, items: Iterator[FileToIndex]) -> Iterator[Read | Unreadable | Failure]:
        if self._options.num_workers == 0:
            yield from map(_read_here, items)
            return
        with Isolated(
            self._options.num_workers, memory_limit_gib=self._options.worker_memory_gib
        ) as isolated:
            yield from isolated.map(
                read, items, timeout_seconds=lambda item: time_limit_seconds(item.num_bytes)
            )

    def _item(self, name: str, state: FileState) -> FileToIndex:
        data = self._run.experiment.data
        path = Path(os.path.abspath(self._catalog.folder / name))
        return FileToIndex(path=path, num_bytes=state.size, config=data, num_clips=self._options.num_clips)

    def _stack(self, batch: _Batch) -> np.ndarray:
        """Return the frames, filled up to one of few numbers of rows, each of which is compiled once."""
        self._num_rows = max(self._num_rows, num_rows(len(batch), self._options.batch_size))
        frames = np.zeros((self._num_rows, *batch[0][2].frames.shape), np.uint8)
        for row, (_, _, outcome) in enumerate(batch):
            frames[row] = outcome.frames
        return frames

    def _keep(self, batch: _Batch, tokens: jax.Array) -> None:
        for (_, entry, outcome), of_video in zip(batch, np.asarray(tokens), strict=False):
            self._catalog.store.put(entry.content, of_video.astype(np.float16), outcome.pictures)
        self._catalog.add({name: entry for name, entry, _ in batch})
        self._on_read()


def _read_here(item: FileToIndex) -> Read | Unreadable | Failure:
    try:
        return read(item)
    except MemoryError:
        return Failure("does not fit into the memory of this process", may_pass=True)


def num_rows(count: int, most: int) -> int:
    """Return the least power of two that is not below `count`, but no more than `most`."""
    return min(most, 1 << max(0, count - 1).bit_length())
