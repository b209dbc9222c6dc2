"""Makes batches in threads of this process; `batch_workers` uses it if there are no worker processes.

The threads are daemons, unlike Grain's: a thread stuck in a decoder must not keep the program alive.
"""

from __future__ import annotations

import collections
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import numpy as np

from clipbert_jax.errors import UserError
from data_pipelines.workers.heartbeat import Heartbeats

_CLOSE_SECONDS = 5.0
"""Time that `close` waits for unfinished batches."""


class ThreadBatches(Iterator[dict[str, np.ndarray]]):
    """Iterates over batches by number, in order, and makes some ahead.

    Raises:
      UserError: while iterating, a thread exceeds the time limit of a video.
    """

    def __init__(
        self,
        make_batch: Callable[[int], dict[str, np.ndarray]],
        numbers: range,
        *,
        num_threads: int,
        num_ahead: int,
        timeout_seconds: float,
    ) -> None:
        self._make_batch = make_batch
        self._numbers = iter(numbers)
        self._timeout_seconds = timeout_seconds
        self._tasks: queue.SimpleQueue[tuple[int, Future] | None] = queue.SimpleQueue()
        self._pending: collections.deque[Future[dict[str, np.ndarray]]] = collections.deque()
        self._heartbeats = Heartbeats(num_threads)
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name="decode", daemon=True)
            for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()
        for _ in range(num_ahead):
            self._submit()

    def __next__(self) -> dict[str, np.ndarray]:
        if not self._pending:
            raise StopIteration
        batch = self._result(self._pending.popleft())
        self._submit()
        return batch

    def core_seconds_per_video(self) -> float | None:
        """Return the mean cost of a video so far; None before the first."""
        return self._heartbeats.core_seconds_per_video()

    def close(self) -> None:
        """Stop the threads; a stuck one stays behind and ends with the program."""
        for future in self._pending:
            future.cancel()
        for _ in self._threads:
            self._tasks.put(None)
        give_up = time.monotonic() + _CLOSE_SECONDS
        for thread in self._threads:
            thread.join(0.0 if self._slow() else max(0.0, give_up - time.monotonic()))
        self._heartbeats.close()

    def _submit(self) -> None:
        number = next(self._numbers, None)
        if number is not None:
            self._pending.append(Future())
            self._tasks.put((number, self._pending[-1]))

    def _result(self, future: Future[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        poll_seconds = min(1.0, self._timeout_seconds / 4)
        while True:
            try:
                return future.result(poll_seconds)
            except TimeoutError:
                if future.done():  # the batch itself raised it
                    raise
            if slow := self._slow():
                raise UserError(slow_video(slow, self._timeout_seconds))

    def _slow(self) -> str:
        """Return the id of a video that exceeds the time limit, or an empty string."""
        busy = self._heartbeats.busy()
        return next((b.video_id for b in busy if b.seconds > self._timeout_seconds), "")

    def _work(self, number: int) -> None:
        self._heartbeats.use_slot_in_thread(number)
        while (task := self._tasks.get()) is not None:
            batch_number, future = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._make_batch(batch_number))
            except BaseException as error:  # handed to the consumer, which raises it
                future.set_exception(error)


def slow_video(video_id: str, limit_seconds: float, when: str = "") -> str:
    """Return the message about a video in which a decoder is stuck."""
    return (
        f"reading and decoding the video {video_id} takes longer than {limit_seconds:g} s{when}: remove it "
        "from the corpus if its file is broken, or raise --data.decode-timeout-seconds (in evaluation: "
        "--decode-timeout)"
    )
