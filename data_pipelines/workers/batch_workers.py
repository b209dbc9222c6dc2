"""Makes batches in worker processes (by Grain) or threads, and watches them while they decode.

If a worker dies or is stuck, the error names its video, which `heartbeat` records. `loader` and
`video_batches` pass a function without state that turns a number into arrays, so any batch can be made again.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import multiprocessing
import os
import re
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags

from clipbert_jax.errors import UserError
from data_pipelines.data_config import DataConfig
from data_pipelines.workers.batch_threads import ThreadBatches, slow_video
from data_pipelines.workers.heartbeat import Busy, Heartbeats, use_slot_in_process

Arrays = dict[str, np.ndarray]
MakeBatch = Callable[[int], Arrays]

_SHARED_MEMORY = Path("/dev/shm")
_GIB = 2**30
_DEATH_MESSAGE = re.compile(r"terminated unexpectedly with exit code (-?\d+)")
"""Grain's message about a dead worker, with its exit code."""
_log = logging.getLogger(__name__)


class WatchedBatches(Iterator[Arrays]):
    """Iterates over the batches from `start` up to `stop`, in order.

    After an error every further call raises the same error, so no batch is skipped.

    Raises:
      UserError: while iterating, a worker died or is stuck, or the function raised it.
    """

    def __init__(
        self, make_batch: MakeBatch, config: DataConfig, *, start: int, stop: int, batch_bytes: int
    ) -> None:
        self._make_batch = make_batch
        self._config = config
        self._next, self._stop = start, stop
        self._batch_bytes = batch_bytes
        self._was_stuck: set[str] = set()
        self._error: BaseException | None = None
        self._batches: _Workers | ThreadBatches = self._started()

    def __next__(self) -> Arrays:
        if self._error is not None:
            raise self._error
        try:
            return self._following()
        except StopIteration:
            raise
        except BaseException as error:
            self._error = error
            raise

    def _following(self) -> Arrays:
        while True:
            try:
                arrays = next(self._batches)
            except WorkerDiedError as error:
                self._restart(error)
                continue
            self._next += 1
            return arrays

    def core_seconds_per_video(self) -> float | None:
        """Return the mean cost of a video so far; None before the first."""
        return self._batches.core_seconds_per_video()

    def close(self) -> None:
        """Stop the workers."""
        self._batches.close()

    def _started(self) -> _Workers | ThreadBatches:
        config = self._config
        if not config.num_workers:
            return ThreadBatches(
                self._make_batch,
                range(self._next, self._stop),
                num_threads=config.num_threads,
                num_ahead=config.num_prefetch,
                timeout_seconds=config.decode_timeout_seconds,
            )
        return _Workers(self._make_batch, range(self._next, self._stop), config, self._batch_bytes)

    def _restart(self, error: WorkerDiedError) -> None:
        """Continue with the same batch after a video was stuck for the first time, else give up."""
        self._batches.close()
        stuck = error.stuck
        if stuck is None:
            raise UserError(_describe_death(error)) from None
        if self._config.on_stuck == "stop" or stuck.video_id in self._was_stuck:
            again = ", for the second time" if stuck.video_id in self._was_stuck else ""
            raise UserError(slow_video(stuck.video_id, self._config.decode_timeout_seconds, again)) from None
        _log.warning(
            "a worker was stuck in the video %s for %.0f s; all workers start again",
            stuck.video_id,
            stuck.seconds,
        )
        self._was_stuck.add(stuck.video_id)
        self._batches = self._started()


@dataclasses.dataclass
class WorkerDiedError(Exception):
    """A worker process ended unexpectedly."""

    exit_code: int | None
    video_id: str
    """Id of the video that it was decoding, or an empty string."""
    stuck: Busy | None
    """The stuck decoder, if the watcher ended the worker."""


def _describe_death(death: WorkerDiedError) -> str:
    code = death.exit_code
    how = f"exit code {code}"
    if code is not None and code < 0:
        how = f"signal {-code}, {signal.Signals(-code).name}"
    during = f" while it decoded the video {death.video_id}" if death.video_id else ""
    advice = "; see the messages above for the reason"
    if code == -signal.SIGKILL:
        advice = (
            ": the machine probably ran out of memory; lower --data.num-workers, --data.num-prefetch or "
            "--data.worker-memory-gib"
        )
    elif code is not None and code < 0:
        advice = ": the decoder crashed or ran out of memory; remove this video from the corpus"
    return f"a decoding worker died ({how}){during}{advice}"


class _Workers(Iterator[Arrays]):
    """Worker processes and their watcher."""

    def __init__(self, make_batch: MakeBatch, numbers: range, config: DataConfig, batch_bytes: int) -> None:
        self._heartbeats = Heartbeats(config.num_workers)
        bound_memory = _BoundMemory(int(config.worker_memory_gib * _GIB) + 4 * batch_bytes)
        dataset = grain.MapDataset.range(numbers.start, numbers.stop).map(bound_memory).map(make_batch)
        self._watcher = _Watcher(self._heartbeats, config)
        self._iterator = _start(dataset, config, _Begin(self._heartbeats.path))

    def __next__(self) -> Arrays:
        try:
            return _owned(next(self._iterator))
        except RuntimeError as error:  # Grain's, within a second or two of the death
            match = _DEATH_MESSAGE.search(str(error))
            if match is None:
                raise
        dead = self._watcher.dead()
        if dead is None:  # while it started
            raise WorkerDiedError(int(match[1]), "", None)
        busy = {b.process: b.video_id for b in self._heartbeats.busy()}
        raise WorkerDiedError(dead.exitcode, busy.get(dead.pid or 0, ""), self._watcher.stuck)

    def core_seconds_per_video(self) -> float | None:
        return self._heartbeats.core_seconds_per_video()

    def close(self) -> None:
        self._watcher.close()
        self._iterator.close()
        gc.collect()  # Grain leaves the workers' last batches in reference cycles, and so in shared memory
        self._heartbeats.close()


def _start(
    dataset: grain.MapDataset, config: DataConfig, begin: Callable[[int, int], None]
) -> grain.DatasetIterator:
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read flags, which no absl app has parsed here
    grain.config.update("py_traceback_filtering", "off")  # else it appends a paragraph to every message
    batches = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    workers = grain.MultiprocessingOptions(
        num_workers=config.num_workers, per_worker_buffer_size=_buffer_size(config)
    )
    iterator: Any = iter(batches.mp_prefetch(workers, worker_init_fn=begin))
    iterator.get_state()  # makes the iterators of all workers; else `close` overlooks some
    iterator.start_prefetch()
    return iterator


def _buffer_size(config: DataConfig) -> int:
    """Return the size of Grain's buffers for the requested number of batches ahead, at least 4.

    Each worker has two buffers, one on each side, and one batch is on its way into each of them.
    """
    return max(1, (config.num_prefetch - 2) // 2)


def _owned(arrays: Arrays) -> Arrays:
    """Copy arrays out of the memory shared with workers, so that it is free before the program ends."""
    return {name: np.array(array) for name, array in arrays.items()}


class _Watcher:
    """A thread that ends a worker which exceeds the time limit of a video; Grain then reports its death.

    It must exist before the workers, which Grain starts one by one in threads.
    """

    def __init__(self, heartbeats: Heartbeats, config: DataConfig) -> None:
        self.stuck: Busy | None = None
        self._heartbeats = heartbeats
        self._num_workers = config.num_workers
        self._limit_seconds = config.decode_timeout_seconds
        self._others = set(multiprocessing.active_children())
        self._processes: list[BaseProcess] = []
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="decode-watcher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._is_closed.set()
        self._thread.join()

    def dead(self) -> BaseProcess | None:
        """Return a worker that ended with an error."""
        return next((process for process in self._processes if process.exitcode), None)

    def _watch(self) -> None:
        while not self._is_closed.wait(min(0.2, self._limit_seconds / 4)):
            if len(self._processes) < self._num_workers:  # dead ones are no longer active
                known = {*self._others, *self._processes}
                self._processes += [p for p in multiprocessing.active_children() if p not in known]
            for busy in self._heartbeats.busy():
                if busy.seconds > self._limit_seconds:
                    self._end(busy)

    def _end(self, busy: Busy) -> None:
        self._heartbeats.forget(busy.slot)
        for process in self._processes:
            if process.pid == busy.process and process.is_alive():
                self.stuck = self.stuck or busy
                process.kill()


@dataclasses.dataclass(frozen=True)
class _Begin:
    """Starts a worker."""

    heartbeats: str

    def __call__(self, worker_index: int, worker_count: int) -> None:
        """Join the heartbeats; end when the parent dies, even if by SIGKILL.

        The kernel's parent death signal is of no use: it comes when the thread that started the worker ends.
        """
        del worker_count
        for number in (signal.SIGINT, signal.SIGTERM):  # all processes get these; the parent decides
            signal.signal(number, signal.SIG_IGN)
        use_slot_in_process(self.heartbeats, worker_index)
        parent = multiprocessing.parent_process()
        assert parent is not None
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


@dataclasses.dataclass
class _BoundMemory:
    """Passes numbers on, and limits the memory of this worker before the first."""

    extra_bytes: int
    is_done: bool = False

    def __call__(self, number: int) -> int:
        if not self.is_done:
            self.is_done = True
            limit = _data_bytes() + self.extra_bytes
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        return number


def _data_bytes() -> int:
    """Return the size that counts for RLIMIT_DATA: all private writable memory."""
    status = Path("/proc/self/status").read_text().split("VmData:")[1]
    return int(status.split()[0]) * 1024


def check_shared_memory(config: DataConfig, batch_bytes: int) -> None:
    """Refuse workers whose batches do not fit into the memory that they share with this process.

    Raises:
      UserError: names the needed and the available memory; workers would die later.
    """
    if not config.num_workers or not _SHARED_MEMORY.is_dir():
        return
    needed = (config.num_workers * (2 * _buffer_size(config) + 2) + 1) * batch_bytes
    status = os.statvfs(_SHARED_MEMORY)
    available = status.f_bavail * status.f_frsize
    if needed > available:
        raise UserError(
            f"{config.num_workers} workers with --data.num-prefetch {config.num_prefetch} need "
            f"{needed / _GIB:.2f} GiB of shared memory, and {_SHARED_MEMORY} has {available / _GIB:.2f} GiB "
            "left: lower --data.num-prefetch or --data.num-workers, or start the container with a larger "
            "--shm-size"
        )
