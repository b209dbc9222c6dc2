"""Progress lines of long work, with rate and time left; only process 0 prints them."""

from __future__ import annotations

import sys
import time
from typing import TextIO

import jax

_SECONDS_BETWEEN = 5.0
"""Time between two lines."""


def say(message: str, *, stream: TextIO | None = None) -> None:
    """Print a line, on process 0 only."""
    if jax.process_index() == 0:
        print(message, file=stream or sys.stdout, flush=True)


class Progress:
    """Prints every few seconds how much is done, and the time left if the total is known.

    The rate leaves out the first portion, which includes start-up or compilation.
    """

    def __init__(self, what: str, *, total: int | None, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._stream = sys.stdout  # libraries redirect it while they work
        self._begin = time.perf_counter()
        self._first: tuple[int, float] | None = None
        self._last_line = self._begin

    def update(self, done: int) -> None:
        """Note that `done` of the total are done; print a line if it is time or the end."""
        now = time.perf_counter()
        self._first = self._first or (done, now)
        is_end = self._total is not None and done >= self._total
        if not is_end and now - self._last_line < _SECONDS_BETWEEN:
            return
        self._last_line = now
        if is_end:
            say(f"{self._what}: {done} {self._unit} in {now - self._begin:.1f} s", stream=self._stream)
            return
        first_done, first_time = self._first
        line = f"{self._what}: {done}{'' if self._total is None else f'/{self._total}'} {self._unit}"
        if done > first_done:
            rate = (done - first_done) / (now - first_time)
            line += f"  {rate:.1f} {self._unit}/s"
            if self._total is not None:
                line += f"  {(self._total - done) / rate:.0f} s left"
        say(line, stream=self._stream)
