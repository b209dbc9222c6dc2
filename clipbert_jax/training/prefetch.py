"""Brings batches to the devices before the step needs them, and measures how long steps wait for input."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from clipbert_jax.batch import Batch
from clipbert_jax.errors import TemporaryError

_CLOSE_SECONDS = 10.0
"""Time that `close` waits for a batch that is being made."""


@runtime_checkable
class BatchIterator(Protocol):
    """An endless iterator over host batches whose position can be read and stored as JSON."""

    def __next__(self) -> Batch:
        """Return the next batch."""
        ...

    def get_state(self) -> dict[str, Any]:
        """Return the position of the batch that `__next__` returns next."""
        ...

    def close(self) -> None:
        """Stop workers and free memory."""
        ...


@runtime_checkable
class TrainData(Protocol):
    """Training data of this process."""

    def starting_at(self, step: int) -> BatchIterator:
        """Return the batches after `step` steps."""
        ...

    def name_examples(self, step: int) -> Sequence[str]:
        """Return the names of the examples of a step, counted from 1, of all processes."""
        ...

    def explain_wait(self, videos_per_second: float) -> str:
        """Return what to do so that this process gets so many videos per second."""
        ...


class Prefetcher(Iterator[Batch]):
    """Runs a batch iterator and the transfer to the devices in a thread, some batches ahead.

    Attributes:
      wait_seconds: time that `__next__` has waited.
      state: position after the last returned batch, for checkpoints.
    """

    def __init__(
        self,
        batches: BatchIterator,
        put: Callable[[Batch], Batch],
        *,
        num_ahead: int = 2,
        timeout_seconds: float = 570.0,  # less than the watchdog allows, which knows less of the reason
    ) -> None:
        self.wait_seconds = 0.0
        self.state = batches.get_state()
        self._batches = batches
        self._put = put
        self._timeout_seconds = timeout_seconds
        self._queue: queue.Queue[tuple[Batch, dict[str, Any]] | BaseException] = queue.Queue(num_ahead)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._produce, name="prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> Batch:
        start = time.perf_counter()
        try:
            item = self._queue.get(timeout=self._timeout_seconds)
        except queue.Empty:
            raise TemporaryError(
                f"no batch came within {self._timeout_seconds:.0f} seconds: a worker is stuck on a video, or "
                f"the storage of the data does not answer. Check the data directory, then start the "
                f"same command again."
            ) from None
        self.wait_seconds += time.perf_counter() - start
        if isinstance(item, BaseException):
            raise item
        batch, self.state = item
        return batch

    @property
    def is_empty(self) -> bool:
        """Whether `__next__` would wait now."""
        return self._queue.empty()

    def close(self) -> None:
        """Stop the thread, then the iterator; a thread that never ends is left behind."""
        self._is_closed.set()
        give_up = time.perf_counter() + _CLOSE_SECONDS
        while self._thread.is_alive() and time.perf_counter() < give_up:
            self._drain()
            self._thread.join(timeout=0.05)
        if not self._thread.is_alive():
            self._batches.close()

    def _drain(self) -> None:
        try:
            while True:
                self._queue.get_nowait()
        except queue.Empty:
            return

    def _produce(self) -> None:
        try:
            while not self._is_closed.is_set():
                batch = self._put(next(self._batches))
                self._queue.put((batch, self._batches.get_state()))
        except BaseException as error:  # handed to the consumer, which raises it
            self._queue.put(error)
