"""Watchdog: ends a process whose training makes no progress, so that a launcher can start it again.

A collective that waits for a dead process, a file system that has stopped to answer: such things hang for
ever and cost a cluster. The stacks of all threads are kept, to find out what it was: of all processes, as the
first one that ends lets the others know, and stays until they have written theirs.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from jax._src import distributed  # the only way to the key-value store of the processes

from clipbert_jax.errors import CONTINUE_EXIT_CODE

MIN_SECONDS = 600.0
NUM_MEDIANS = 20
NUM_KNOWN = 3
"""So many steps must be known before their median says how long the next one may take."""

COMPILE_SECONDS = 3600.0
"""How long a step may take that compiles; a TPU pod's program can take half an hour on a busy host."""

SAVE_SECONDS = 1800.0
"""How long a save may take; storage that needs more has stopped to answer."""

_BARK_SECONDS = 20.0
"""How long it may take to write down where the threads stand."""

_OTHERS_SECONDS = 25.0
"""How much longer a process stays, as the others end with it: they hang too, and have stacks to write."""

_LAST_SECONDS = 5.0
"""How much longer still process 0 stays."""

_KEY = "clipbert/no progress"
"""Under which the first process that makes none says so to the others."""


class Watchdog:
    """Within the block, no more than `limit` seconds may pass between two beats.

    That is 10 minutes, or 20 times the median of the time that steps take if that is longer; an hour until a
    few steps are known. With several processes it also ends this one when another makes no progress.

    Args:
      folder: gets `stacks-process-<index>.txt` when it ends the process.
      process_index: which process this is.
      give_up: what ends the process; the default exits at once with a code that asks for a restart.
      clock: seconds that never go back.
    """

    def __init__(
        self,
        folder: Path,
        *,
        process_index: int = 0,
        give_up: Callable[[], None] = lambda: os._exit(CONTINUE_EXIT_CODE),
        clock: Callable[[], float] = time.monotonic,
        check_seconds: float = 1.0,
    ) -> None:
        self._store: Any = distributed.global_state.client if jax.process_count() > 1 else None
        self._index = process_index
        self._path = folder / f"stacks-process-{process_index}.txt"
        self._give_up = give_up
        self._clock = clock
        self._check_seconds = check_seconds
        self._intervals: deque[float] = deque(maxlen=100)
        self._patience = COMPILE_SECONDS
        self._last_beat = clock()
        self._what = "the start"
        self._heard = ""
        self._is_over = threading.Event()

    @property
    def limit(self) -> float:
        """Seconds that may pass since the last beat."""
        is_known = len(self._intervals) >= NUM_KNOWN
        usual = NUM_MEDIANS * statistics.median(self._intervals) if is_known else COMPILE_SECONDS
        return max(MIN_SECONDS, usual, self._patience)

    def beat(self, what: str) -> None:
        """Note progress; `what` has been done."""
        self._last_beat, self._what = self._clock(), what
        self._patience = 0.0  # last: until then the old interval is watched, with its patience

    def beat_step(self, step: int) -> None:
        """Note that a step is done; its time counts for the limit unless it was given patience."""
        interval, is_usual = self._clock() - self._last_beat, not self._patience
        self.beat(f"step {step}")
        if is_usual:
            self._intervals.append(interval)

    def extend_deadline(self, seconds: float = COMPILE_SECONDS) -> None:
        """Allow so long until the next beat; by default an hour, as something is compiled."""
        self._patience = seconds

    def __enter__(self) -> Watchdog:
        self._last_beat = self._clock()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        if self._store is not None:
            threading.Thread(target=self._listen, name="watchdog-listens", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over.set()

    def _watch(self) -> None:
        while not self._is_over.wait(self._check_seconds):
            limit = self.limit  # first: a beat between the two makes the seconds fewer, never more
            seconds = self._clock() - self._last_beat
            since = f"no progress for {seconds:.0f} s since {self._what}"
            if self._heard:
                self._end(f"{self._heard}; here {since}")
                return
            if seconds > limit:
                self._end(f"{since} (allowed: {limit:.0f} s)")
                return

    def _listen(self) -> None:
        """Hear of another process; apart, as the store may be what hangs."""
        while not self._is_over.wait(self._check_seconds):
            with contextlib.suppress(Exception):  # nobody has said anything, which the store says by an error
                self._heard = str(self._store.key_value_try_get(_KEY))
                return

    def _tell(self, reason: str) -> None:
        with contextlib.suppress(Exception):  # another one was first, or process 0 is gone
            self._store.key_value_set(_KEY, f"process {self._index} says: {reason}")

    def _end(self, reason: str) -> None:
        # Apart, as what hangs may be network or storage: nothing may keep this thread from giving up.
        writer = threading.Thread(target=self._give_up_with_stacks, args=(reason,), daemon=True)
        if self._store is not None:
            threading.Thread(target=self._tell, args=(reason,), daemon=True).start()
        writer.start()
        writer.join(_BARK_SECONDS)
        if self._store is not None:
            # Process 0 last: with it the others lose the store, and would say that it is gone.
            seconds = _OTHERS_SECONDS + (_LAST_SECONDS if self._index == 0 else 0.0)
            if self._is_over.wait(seconds):
                return
        self._give_up()

    def _give_up_with_stacks(self, reason: str) -> None:
        sentence = (
            f"clipbert: {reason}, so this process ends with exit code {CONTINUE_EXIT_CODE}; where each "
            f"thread stood is in {self._path}. The same command goes on from the newest checkpoint."
        )
        print(sentence, file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr, all_threads=True)
        try:
            with self._path.open("w") as file:
                file.write(sentence + "\n\n")
                file.flush()
                faulthandler.dump_traceback(file=file, all_threads=True)
        except OSError as error:  # perhaps the storage is what hangs
            print(f"clipbert: {self._path} cannot be written: {error}", file=sys.stderr, flush=True)
