"""Decodes videos in processes of their own, and keeps what was decoded last.

Before: `reading`, which runs there; after: the jobs of `asking` and `probing`, in the thread of the model.
"""

from __future__ import annotations

import collections
import threading
from pathlib import Path

from data_pipelines.clips import VideoClips
from data_pipelines.workers.isolation import Failure, Isolated
from experiments.search.reading import Unreadable
from experiments.serve.public import public_reason
from experiments.serve.reading import VideoToRead, read, thumbnail
from experiments.serve.refusal import RequestRefused

_NUM_KEPT = 6
"""Videos whose clips stay in memory: the next question is often about the same one."""
_NUM_THUMBNAILS = 2000
_THUMBNAIL_SECONDS = 10.0
_MAX_THUMBNAIL_BYTES = 100 << 20
"""Of a video: a larger one is not read for a small picture."""


class BrokenVideo(RequestRefused):
    """A video that cannot be read, now or later."""


class ClipReader:
    """Reads clips in one worker process. One thread at a time may use it."""

    def __init__(self, *, memory_gib: float, seconds: float) -> None:
        self._seconds = seconds
        self._isolated = Isolated(1, memory_limit_gib=memory_gib)
        self._kept: collections.OrderedDict[VideoToRead, VideoClips] = collections.OrderedDict()

    def read(self, item: VideoToRead) -> VideoClips:
        """Return the clips of a video.

        Raises:
          BrokenVideo: it cannot be read, with the reason.
          RequestRefused: it could not, but may another time.
        """
        if (known := self._kept.pop(item, None)) is None:
            known = self._read(item)
        self._kept[item] = known
        if len(self._kept) > _NUM_KEPT:
            self._kept.popitem(last=False)
        return known

    def _read(self, item: VideoToRead) -> VideoClips:
        (outcome,) = self._isolated.map(read, [item], timeout_seconds=self._seconds)
        if isinstance(outcome, Failure | Unreadable):
            may_pass = isinstance(outcome, Failure) and outcome.may_pass
            kind = RequestRefused if may_pass else BrokenVideo
            raise kind(422, f"{item.name} cannot be read: {public_reason(outcome.reason)}.")
        return outcome

    def close(self) -> None:
        """End the worker."""
        self._isolated.__exit__()


class Thumbnails:
    """Small pictures of videos, for people who choose one; any thread may ask."""

    def __init__(self) -> None:
        self._isolated = Isolated(1, memory_limit_gib=1.0)
        self._lock = threading.Lock()
        self._known: dict[tuple[Path, int], bytes | None] = {}

    def get(self, path: Path) -> bytes | None:
        """Return a JPEG, or nothing for a video that shows none."""
        with self._lock:
            state = path.stat()
            key = path, state.st_mtime_ns
            if key not in self._known:
                if len(self._known) >= _NUM_THUMBNAILS:
                    self._known.clear()
                self._known[key] = self._made(path) if state.st_size <= _MAX_THUMBNAIL_BYTES else None
            return self._known[key]

    def _made(self, path: Path) -> bytes | None:
        (outcome,) = self._isolated.map(thumbnail, [path], timeout_seconds=_THUMBNAIL_SECONDS)
        return None if isinstance(outcome, Failure) else outcome

    def close(self) -> None:
        """End the worker."""
        self._isolated.__exit__()
