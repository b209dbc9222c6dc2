"""Watchdog: ends a process whose training makes no progress, so that a launcher can start it again.

A collective that waits for a dead process, a file system that has stopped to answer: such things hang for
ever and cost a cluster. The stacks of all threads are kept, to find out what it was.
"""

from __future__ import annotations

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

import jax

from clipbert_jax.training.interruption import CONTINUE_EXIT_CODE

MIN_SECONDS = 600.0
NUM_MEDIANS = 20
COMPILE_SECONDS = 3600.0
"""How long a step may take that compiles; a TPU pod's program can take half an hour on a busy host."""

SAVE_SECONDS = 1800.0
"""How long a save may take; storage that needs more has stopped to answer."""

_BARK_SECONDS = 20.0
"""How long it may take to write down where the threads stand."""

_OTHERS_SECONDS = 15.0
"""How much longer process 0 stays, as the others end with it: they hang too, and have stacks to write."""


class Watchdog:
    """Within the block, no more than `limit` seconds may pass between two beats.

    That is 10 minutes, or 20 times the median of the time between beats if that is longer.

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
        self._last_seconds = _OTHERS_SECONDS if process_index == 0 and jax.process_count() > 1 else 0.0
        self._path = folder / f"stacks-process-{process_index}.txt"
        self._give_up = give_up
        self._clock = clock
        self._check_seconds = check_seconds
        self._intervals: deque[float] = deque(maxlen=100)
        self._patience = COMPILE_SECONDS
        self._last_beat = clock()
        self._what = "the start"
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @property
    def limit(self) -> float:
        """Seconds that may pass since the last beat."""
        usual = NUM_MEDIANS * statistics.median(self._intervals) if self._intervals else 0.0
        return max(MIN_SECONDS, usual, self._patience)

    def beat(self, what: str) -> None:
        """Note progress; `what` has been done."""
        now = self._clock()
        if not self._patience:
            self._intervals.append(now - self._last_beat)
        self._patience = 0.0
        self._last_beat, self._what = now, what

    def be_patient(self, seconds: float = COMPILE_SECONDS) -> None:
        """Allow so long until the next beat; by default an hour, as something is compiled."""
        self._patience = seconds

    def __enter__(self) -> Watchdog:
        self._last_beat = self._clock()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over.set()

    def _watch(self) -> None:
        while not self._is_over.wait(self._check_seconds):
            seconds = self._clock() - self._last_beat
            if seconds > self.limit:
                # Apart, as what hangs may be the file system: nothing may keep this thread from giving up.
                barking = threading.Thread(target=self._bark, args=(seconds,), daemon=True)
                barking.start()
                barking.join(_BARK_SECONDS)
                time.sleep(self._last_seconds)
                self._give_up()
                return

    def _bark(self, seconds: float) -> None:
        sentence = (
            f"clipbert: no progress for {seconds:.0f} s since {self._what} (allowed: {self.limit:.0f} s), so "
            f"this process ends with exit code {CONTINUE_EXIT_CODE}; where each thread stood is in "
            f"{self._path}. The same command goes on from the newest checkpoint."
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
