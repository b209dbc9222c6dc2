"""Records the video of every decoder and the time since it began, to find and name a stuck decoder.

Workers and threads write into slots of a small file that all of them map; `batch_workers` reads it. They also
record the cost of their work, from which `decoding_speed` estimates the needed cores.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

_SLOT = np.dtype(
    [
        ("process", "<i8"),
        ("since", "<f8"),
        ("video_id", "S248"),
        ("num_videos", "<i8"),
        ("first_core_seconds", "<f8"),
        ("core_seconds", "<f8"),
    ]
)
"""A slot; `since` is 0 while nothing is decoded, else a time of a clock that the machine's processes share.
`core_seconds` counts from the start of the first video, at `first_core_seconds` of the decoder's clock."""


class _Current(threading.local):
    """The slot of the thread if it has one, else (as class attribute) of the process."""

    slot: np.ndarray | None = None
    spent: Callable[[], float] = staticmethod(time.process_time)
    """Function that returns the core-seconds spent by the owner of the slot."""


_current = _Current()


@contextlib.contextmanager
def decoding(video_id: str) -> Iterator[None]:
    """Tell the watcher, if any, that the block reads and decodes this video."""
    slot = _current.slot
    if slot is None:
        yield
        return
    if not slot["num_videos"]:
        slot["first_core_seconds"] = _current.spent()
    slot["video_id"] = video_id.encode()
    slot["since"] = time.monotonic()
    try:
        yield
    finally:
        slot["since"] = 0.0
        # Work between videos counts too: texts, and handing over the batch.
        slot["core_seconds"] = _current.spent() - slot["first_core_seconds"]
        slot["num_videos"] += 1


def use_slot_in_process(path: str, number: int) -> None:
    """Make all threads of this worker process write into one slot."""
    _Current.slot = _map(path)[number : number + 1]
    _Current.slot["process"] = os.getpid()


class Busy(NamedTuple):
    """A decoder that is at work."""

    slot: int
    process: int
    video_id: str
    seconds: float


class Heartbeats:
    """The slots of some decoders."""

    def __init__(self, num_slots: int) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="clipbert-heartbeats-")  # noqa: SIM115, see close
        self._file.truncate(num_slots * _SLOT.itemsize)
        self.path = self._file.name
        self._slots = _map(self.path)

    def use_slot_in_thread(self, number: int) -> None:
        """Have this thread write into a slot."""
        _current.slot = self._slots[number : number + 1]
        _current.spent = time.thread_time

    def busy(self) -> list[Busy]:
        """Return what is being decoded."""
        now = time.monotonic()
        return [
            Busy(number, int(process), video_id.decode(errors="replace"), now - since)
            for number, (process, since, video_id, *_) in enumerate(self._slots.tolist())
            if since
        ]

    def core_seconds_per_video(self) -> float | None:
        """Return the mean cost of a video so far; None before the first."""
        num_videos = int(self._slots["num_videos"].sum())
        return float(self._slots["core_seconds"].sum()) / num_videos if num_videos else None

    def forget(self, slot: int) -> None:
        """Mark a decoder as idle: it has been ended."""
        self._slots[slot]["since"] = 0.0

    def close(self) -> None:
        """Delete the file; decoders that still run may write on."""
        self._file.close()


def _map(path: str) -> np.ndarray:
    return np.memmap(path, _SLOT, "r+")
