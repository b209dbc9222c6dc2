"""Ctrl-C and SIGTERM as requests to stop: all processes finish the same step, save, and end.

Clusters send SIGTERM some seconds before they take a machine away. JAX passes a notice to one process on to
all, which agree on the step at which they stop.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Interruption:
    """Makes the first SIGINT or SIGTERM in the block set a flag only; a second one interrupts at once.

    A KeyboardInterrupt in the middle of an asynchronous save would break the save.

    Attributes:
      is_by_keyboard: whether a person asked, by Ctrl-C at this process; launchers send SIGTERM.
    """

    def __init__(self) -> None:
        self.is_by_keyboard = False
        self._is_signalled = False
        self._num_calls = 0
        self._is_agreed = False  # kept, as JAX reports it only once
        self._is_alone = jax.process_count() == 1
        # With other processes JAX itself handles SIGTERM, to tell them.
        self._signals = (signal.SIGINT, signal.SIGTERM) if self._is_alone else (signal.SIGINT,)
        self._previous: dict[signal.Signals, Callable[..., Any] | int | None] = {}

    def should_stop(self) -> bool:
        """Return whether to stop now; all processes must call it equally often."""
        if not self._is_alone and not self._is_agreed:
            self._num_calls += 1
            self._is_agreed = multihost_utils.reached_preemption_sync_point(self._num_calls)
        return self._is_signalled if self._is_alone else self._is_agreed

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            self._previous = {number: signal.signal(number, self._request) for number in self._signals}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._is_signalled = True
        self.is_by_keyboard = number == signal.SIGINT
        self._restore()
        if not self._is_alone:
            os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
