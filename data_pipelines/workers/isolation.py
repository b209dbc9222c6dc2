"""Decodes untrusted files in processes that may crash, hang or run out of memory.

A decoder is C code. Ingest, `doctor`, search, the web app and the fuzz test run it here, one item at a time
in each worker, so that a bad file affects no other.

Each worker has its own pipe. A pool with one pipe for all workers loses results or waits forever when a
worker is killed while it writes (docs/adr/0009).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Pipe, wait
from typing import Any, Generic, TypeVar

from data_pipelines.workers.isolated_worker import Advanced, Done, Message, OutOfMemory, Started, serve

Item = TypeVar("Item")
Result = TypeVar("Result")

_START_SECONDS = 120.0
"""Time limit for a worker to start and import what the function needs, on the slowest machine."""

_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT})
"""Signals that do not come from a decoder: the machine ran out of memory, or a user ended the process."""

_STUCK_SECONDS = 60.0
"""Time without a decoded frame after which a decoder counts as stuck, if the limit follows the work."""

_PIXELS_PER_SECOND = 1e6
"""Slowest accepted decoding: half a frame of full HD."""

_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""Workers share the cores, and threads of many cores would use up the memory limit."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """A failed item: the worker crashed, took too long, or needed too much memory."""

    reason: str
    may_pass: bool = False
    """Whether the machine may be the cause, and not the item, so that another attempt may succeed."""


@dataclasses.dataclass(frozen=True)
class TimeLimit:
    """The time limit of one item."""

    seconds: float
    follows_work: bool = False
    """Whether an item may take longer while its decoder goes on, at the pace of `_PIXELS_PER_SECOND`."""


def file_time_limit(num_bytes: int, seconds: float | None = None) -> TimeLimit:
    """Return the time limit for examining a file.

    By its size it is ten seconds a megabyte, slow even for 4K. A screen recording has many frames in few
    bytes, so the limit also follows the frames.

    Args:
      num_bytes: size of the file.
      seconds: the limit that a user has set; None sets it by the work.
    """
    if seconds is not None:
        return TimeLimit(seconds)
    return TimeLimit(max(20.0, num_bytes / 1e5), follows_work=True)


class Isolated:
    """Worker processes that run a function on items; leaving the context ends all of them.

    Args:
      num_workers: number of processes; at least one, because this process must survive every item.
      memory_limit_gib: memory that a worker may allocate.
    """

    def __init__(self, num_workers: int, *, memory_limit_gib: float = 1.5):
        self._num_workers = max(1, num_workers)
        self._memory_limit_gib = memory_limit_gib
        self._idle: list[_Worker] = []
        self._busy: dict[_Worker, _IsolatedCall[Any]] = {}

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in [*self._idle, *self._busy]:
            worker.end()
        self._idle, self._busy = [], {}

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        time_limit: Callable[[Item], TimeLimit] | float,
    ) -> Iterator[Result | Failure]:
        """Yield the function's result for each item, in order, or a Failure for that item alone.

        At most two items per worker are taken ahead of the one yielded, so memory is bounded. If a worker
        that did other items before crashes or runs out of memory, its item is tried again in a new worker,
        because an earlier item may be the cause. If a worker is killed from outside, its item is tried once
        more.

        Args:
          function: a module's function, which a worker can import; it reports bad content in its result.
          items: small objects that can be pickled, such as names rather than bytes.
          time_limit: seconds from the start of an item, or a function that returns the limit of an item.

        Raises:
          Exception: the function's error, when its item's turn comes; the worker's traceback is a note.
          RuntimeError: a worker cannot be started.
          ValueError: the function is in the main module, which workers do not import.
        """
        if function.__module__ == "__main__":
            raise ValueError(f"{function.__qualname__} must be in a module that worker processes can import")
        ahead: deque[_IsolatedCall[Item]] = deque()
        waiting: deque[_IsolatedCall[Item]] = deque()
        source = iter(items)
        try:
            while True:
                for item in itertools.islice(source, 2 * self._num_workers - len(ahead)):
                    limit = time_limit(item) if callable(time_limit) else TimeLimit(time_limit)
                    task = _IsolatedCall(item, limit)
                    ahead.append(task)
                    waiting.append(task)
                if not ahead:
                    return
                while waiting and len(self._busy) < self._num_workers:
                    self._give(function, waiting.popleft())
                if ahead[0].is_done:
                    yield ahead.popleft().result()
                else:
                    waiting.extendleft(self._step())
        finally:  # the caller may stop early
            for worker in self._busy:
                worker.end()
            self._busy = {}

    def _give(self, function: Callable[[Item], Any], task: _IsolatedCall[Item]) -> None:
        worker = self._idle.pop() if self._idle else _Worker(self._memory_limit_gib)
        worker.deadline = time.monotonic() + _START_SECONDS
        self._busy[worker] = task
        with contextlib.suppress(OSError):  # it died; `_step` notices
            worker.connection.send((function, task.item))

    def _step(self) -> list[_IsolatedCall[Any]]:
        """Wait until a worker answers or exceeds its time limit; return the calls to try again."""
        seconds = max(0.0, min(worker.deadline for worker in self._busy) - time.monotonic())
        heard = set(wait([worker.connection for worker in self._busy], seconds))
        again = []
        for worker, task in list(self._busy.items()):
            if worker.connection in heard:
                outcome = worker.receive()
            elif time.monotonic() >= worker.deadline:
                outcome = _Late()
            else:
                continue
            if isinstance(outcome, Started):
                worker.has_started = True
                worker.deadline = task.begin()
            elif isinstance(outcome, Advanced):
                worker.deadline = task.extended(worker.deadline, outcome.num_pixels)
            elif self._finish(worker, task, outcome):
                again.append(task)
        return again

    def _finish(self, worker: _Worker, task: _IsolatedCall[Any], outcome: _Outcome) -> bool:
        """Record the outcome of a call, and keep or end its worker; return whether to try the call again."""
        del self._busy[worker]
        if isinstance(outcome, Done):
            worker.num_done += 1
            worker.has_started = False
            self._idle.append(worker)
            task.finish(outcome)
            return False
        exit_code = worker.end(patience_seconds=5.0 if isinstance(outcome, _Crashed) else 0.0)
        if not worker.has_started and not worker.num_done and not isinstance(outcome, OutOfMemory):
            raise RuntimeError(f"a worker process did not start (exit code {exit_code})")
        if isinstance(outcome, _Late):
            failure = Failure(task.why_late(), may_pass=True)
        elif worker.num_done:
            return True
        elif isinstance(outcome, OutOfMemory):
            failure = Failure(f"needed more than {self._memory_limit_gib:g} GiB")
        elif -exit_code in _FROM_OUTSIDE:
            task.num_killed += 1
            if task.num_killed == 1:
                return True
            failure = Failure(_crash_reason(exit_code), may_pass=True)
        else:
            failure = Failure(_crash_reason(exit_code))
        task.finish(Done(failure))
        return False


def _crash_reason(exit_code: int) -> str:
    if exit_code >= 0:
        return f"the decoder ended its process (exit code {exit_code})"
    if -exit_code in _FROM_OUTSIDE:
        twice = f"its process was killed twice (signal {-exit_code})"
        return f"{twice}, perhaps because the machine ran out of memory"
    return f"the decoder crashed (signal {-exit_code})"


@dataclasses.dataclass(frozen=True)
class _Late:
    """The worker exceeded its time limit."""


@dataclasses.dataclass(frozen=True)
class _Crashed:
    """The worker ended without an answer."""


_Outcome = Message | _Late | _Crashed


class _IsolatedCall(Generic[Item]):
    def __init__(self, item: Item, limit: TimeLimit):
        self.item = item
        self._limit = limit
        self._started = 0.0
        self._allowed_seconds = limit.seconds
        self._is_stuck = False
        self.is_done = False
        self.num_killed = 0
        self._outcome = Done(None)

    def begin(self) -> float:
        """Start the clock; return the deadline."""
        self._started = time.monotonic()
        return self._started + self._limit.seconds

    def extended(self, deadline: float, num_pixels: int) -> float:
        """Return the deadline after a sign of progress, by the number of pixels that the item has."""
        if not self._limit.follows_work:
            return deadline
        self._allowed_seconds = max(self._limit.seconds, num_pixels / _PIXELS_PER_SECOND)
        allowed, if_stuck = self._started + self._allowed_seconds, time.monotonic() + _STUCK_SECONDS
        self._is_stuck = if_stuck < allowed
        return max(self._started + self._limit.seconds, min(if_stuck, allowed))

    def why_late(self) -> str:
        """Return the reason for the failure of an item that exceeded its deadline."""
        if self._is_stuck:
            return f"its decoder is stuck: no frame came for {_STUCK_SECONDS:g} s"
        remedy = "; allow more with --decode-timeout" if self._limit.follows_work else ""
        return f"took longer than {self._allowed_seconds:g} s{remedy}"

    def finish(self, outcome: Done) -> None:
        self._outcome, self.is_done = outcome, True

    def result(self) -> Any:
        if self._outcome.error is not None:
            raise self._outcome.error
        return self._outcome.value


class _Worker:
    """A fresh process that inherits only the import path.

    `multiprocessing` would import the main module of the program again: the `clipbert` command, and with it
    JAX.
    """

    def __init__(self, memory_limit_gib: float):
        self.connection, theirs = Pipe()
        self.deadline = 0.0
        self.num_done = 0
        self.has_started = False
        import_path = os.pathsep.join(path or os.getcwd() for path in sys.path)
        command = f"from {serve.__module__} import serve; serve({theirs.fileno()}, {memory_limit_gib})"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", command],
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": import_path},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

    def receive(self) -> _Outcome:
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            return _Crashed()

    def end(self, *, patience_seconds: float = 0.0) -> int:
        """Kill the process unless it ends by itself; return its exit code, negative for a signal."""
        try:
            return self._process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            self.connection.close()
