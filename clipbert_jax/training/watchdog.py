"""Watchdog: ends a process whose training makes no progress, so that a launcher can start it again.

A collective that waits for a dead process, or storage that does not answer, hangs for ever and costs a
cluster. All processes write down the stacks of their threads first: the first one that ends tells the others,
and stays until they have written theirs.
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

import jax

from clipbert_jax.batch import Batch
from clipbert_jax.errors import CONTINUE_EXIT_CODE
from clipbert_jax.training.callbacks import Callback
from clipbert_jax.training.coordination import EndNotice, announce_end, on_end_notice
from clipbert_jax.training.step import Metrics

MIN_SECONDS = 600.0
NUM_MEDIANS = 20
NUM_KNOWN = 3
"""Number of steps after which their median says how long the next one may take."""

COMPILE_SECONDS = 3600.0
"""Longest time of a step that compiles; a TPU pod's program can take half an hour on a busy host."""

SAVE_SECONDS = 1800.0
"""Longest time of a save; storage that needs more does not answer any more."""

_WRITE_SECONDS = 20.0
"""Longest time for writing the stacks."""

_OTHERS_SECONDS = 25.0
"""Time that a process stays for the others, which hang too and have stacks to write."""

_LAST_SECONDS = 5.0
"""Time that process 0 stays after all others."""


class Watchdog(Callback):
    """Ends the process if, within the block, more than `limit` seconds pass between two beats.

    That is 10 minutes, or 20 times the median time of a step if that is longer; an hour until a few steps are
    known. With several processes it also ends this one when another makes no progress.

    Args:
      folder: directory that gets `stacks-process-<index>.txt` when the process is ended.
      give_up: function that ends the process; by default at once, with a code that asks for a restart.
      clock: function that returns seconds that never go back.
      check_seconds: time between two checks.
    """

    def __init__(
        self,
        folder: Path,
        *,
        give_up: Callable[[], None] = lambda: os._exit(CONTINUE_EXIT_CODE),
        clock: Callable[[], float] = time.monotonic,
        check_seconds: float = 1.0,
    ) -> None:
        self._has_others = jax.process_count() > 1
        self._path = folder / f"stacks-process-{jax.process_index()}.txt"
        self._give_up = give_up
        self._clock = clock
        self._check_seconds = check_seconds
        self._intervals: deque[float] = deque(maxlen=100)
        self._extension = COMPILE_SECONDS
        self._last_beat = clock()
        self._what = "the start"
        self._other_hang: EndNotice | None = None
        self._is_over = threading.Event()

    @property
    def limit(self) -> float:
        """Seconds that may pass since the last beat."""
        is_known = len(self._intervals) >= NUM_KNOWN
        usual = NUM_MEDIANS * statistics.median(self._intervals) if is_known else COMPILE_SECONDS
        return max(MIN_SECONDS, usual, self._extension)

    def beat(self, what: str, *, extension: float = 0.0) -> None:
        """Note progress: `what` has been done, and the next beat may take `extension` seconds."""
        self._last_beat, self._what = self._clock(), what
        self._extension = extension  # last: until then the old interval is watched, with its extension

    def beat_step(self, step: int) -> None:
        """Note that a step is done; its time counts for the limit unless the deadline was extended."""
        interval, is_usual = self._clock() - self._last_beat, not self._extension
        self.beat(f"step {step}")
        if is_usual:
            self._intervals.append(interval)

    def extend_deadline(self, seconds: float = COMPILE_SECONDS) -> None:
        """Allow so many seconds until the next beat; by default an hour, for a compilation."""
        self._extension = seconds

    def after_step(self, step: int, batch: Batch, metrics: Metrics) -> None:
        self.beat_step(step)

    def before_save(self, step: int) -> None:
        self.extend_deadline(SAVE_SECONDS)

    def after_save(self, step: int) -> None:
        self.beat(f"the save of step {step}")

    def before_validation(self, step: int) -> None:
        self.extend_deadline()

    def on_validation_batch(self, step: int) -> None:
        self.beat(f"a batch of the validation of step {step}")

    def at_end(self, step: int) -> None:
        self.extend_deadline(SAVE_SECONDS)  # the last save may still be going on

    def __enter__(self) -> Watchdog:
        self._last_beat = self._clock()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        if self._has_others:
            on_end_notice(self._hear, self._is_over)
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()

    def _hear(self, notice: EndNotice) -> None:
        if notice.is_hang:
            self._other_hang = notice

    def _watch(self) -> None:
        while not self._is_over.wait(self._check_seconds):
            limit = self.limit  # first: a beat between the two makes the seconds fewer, never more
            seconds = self._clock() - self._last_beat
            since = f"no progress for {seconds:.0f} s since {self._what}"
            if self._is_over.is_set():  # meanwhile
                return
            if self._other_hang is not None:
                self._end(
                    f"process {self._other_hang.process} says: {self._other_hang.sentence}; here {since}"
                )
                return
            if seconds > limit:
                self._end(f"{since} (allowed: {limit:.0f} s)")
                return

    def _end(self, reason: str) -> None:
        # In threads, as what hangs may be network or storage: nothing may keep this one from giving up.
        if self._has_others:
            options = {"is_hang": True}
            threading.Thread(
                target=announce_end, args=(reason, CONTINUE_EXIT_CODE), kwargs=options, daemon=True
            ).start()
        writer = threading.Thread(target=self._write_stacks, args=(reason,), daemon=True)
        writer.start()
        writer.join(_WRITE_SECONDS)
        if self._has_others:
            # Process 0 last: with it the others lose the store, and would say that it is gone.
            seconds = _OTHERS_SECONDS + (_LAST_SECONDS if jax.process_index() == 0 else 0.0)
            if self._is_over.wait(seconds):
                return
        self._give_up()

    def _write_stacks(self, reason: str) -> None:
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
