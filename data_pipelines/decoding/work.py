"""Counts the work of decoding a file, so that a slow file can be told from a stuck decoder.

`streams`, `decode` and `full_decode` report it; a worker of `isolation` passes it on to its parent.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_REPORT_SECONDS = 1.0

OnProgress = Callable[[int], None]
"""Called with the number of pixels that the file has as far as is known: declared, or decoded so far."""


class _Work:
    """The work on the file at hand."""

    def __init__(self) -> None:
        self.on_progress: OnProgress | None = None
        self.begin()

    def begin(self) -> None:
        """Forget the file before."""
        self.num_declared = self.num_decoded = 0
        self.next_report = 0.0

    def expect(self, num_pixels: int) -> None:
        """Note how many pixels a header declares, in all frames together."""
        self.num_declared = max(self.num_declared, num_pixels)

    def advance(self, num_pixels: int) -> None:
        """Note that so many pixels more are decoded, or a packet without any."""
        self.num_decoded += num_pixels
        if self.on_progress is None or time.monotonic() < self.next_report:
            return
        self.next_report = time.monotonic() + _REPORT_SECONDS
        self.on_progress(max(self.num_declared, self.num_decoded))


WORK = _Work()
"""The work of this process. Only isolated workers read it; they do one item at a time."""
