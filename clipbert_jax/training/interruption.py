"""Ctrl-C as a request: training finishes its step, saves, and stops."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interruption:
    """Within the block the first SIGINT only sets `is_requested`; a second one interrupts at once.

    A KeyboardInterrupt in the middle of an asynchronous save would tear down what the save stands on.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._previous = signal.getsignal(signal.SIGINT)

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._previous)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.is_requested = True
        signal.signal(signal.SIGINT, self._previous)
