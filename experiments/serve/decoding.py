"""Decodes videos in processes of their own, and keeps what was decoded last.

`site` uses it for the jobs in the thread of the model, `shared_pages` for the pictures of the video list.
"""

from __future__ import annotations

import collections
import threading
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from data_pipelines.clips import VideoClips
from data_pipelines.decoding.pixels import RgbConverter
from data_pipelines.decoding.still_images import picture_kind, read_picture
from data_pipelines.decoding.streams import DAMAGE, open_video, orientation, pixel_aspect
from data_pipelines.decoding.video import UnreadableVideo, square_size
from data_pipelines.terminal_text import printable
from data_pipelines.workers.isolation import Failure, Isolated
from experiments.reports.page import SHOWN_SIZE, jpeg_bytes
from experiments.search.reading import ClipRequest, Unreadable, read_clips
from experiments.serve.refusal import RequestRefused

_NUM_KEPT = 6
"""Number of videos whose clips stay in memory: the next question is often about the same one."""
_NUM_THUMBNAILS = 2000
_THUMBNAIL_SECONDS = 10.0
_MAX_THUMBNAIL_BYTES = 100 << 20
"""Size of the largest video that is read for a thumbnail."""


class BrokenVideo(RequestRefused):
    """A video that cannot be read, now or later."""


class ClipReader:
    """Reads clips in one worker process. One thread at a time may use it."""

    def __init__(self, *, memory_gib: float, seconds: float) -> None:
        self._seconds = seconds
        self._isolated = Isolated(1, memory_limit_gib=memory_gib)
        self._kept: collections.OrderedDict[ClipRequest, VideoClips] = collections.OrderedDict()

    def read(self, request: ClipRequest) -> VideoClips:
        """Return the clips of a video.

        Raises:
          BrokenVideo: it cannot be read, with the reason.
          RequestRefused: it could not be read this time.
        """
        if (known := self._kept.pop(request, None)) is None:
            known = self._read(request)
        self._kept[request] = known
        if len(self._kept) > _NUM_KEPT:
            self._kept.popitem(last=False)
        return known

    def _read(self, request: ClipRequest) -> VideoClips:
        (outcome,) = self._isolated.map(read_clips, [request], time_limit=self._seconds)
        if isinstance(outcome, Failure | Unreadable):
            may_pass = isinstance(outcome, Failure) and outcome.may_pass
            kind = RequestRefused if may_pass else BrokenVideo
            raise kind(422, f"{request.name} cannot be read: {printable(outcome.reason)}.")
        return outcome

    def close(self) -> None:
        """End the worker."""
        self._isolated.__exit__()


class Thumbnails:
    """Small pictures of videos in the list to choose from; any thread may ask."""

    def __init__(self) -> None:
        self._isolated = Isolated(1, memory_limit_gib=1.0)
        self._lock = threading.Lock()
        self._known: dict[tuple[Path, int], bytes | None] = {}

    def get(self, path: Path) -> bytes | None:
        """Return a JPEG, or None for a video that shows none."""
        with self._lock:
            state = path.stat()
            key = path, state.st_mtime_ns
            if key not in self._known:
                if len(self._known) >= _NUM_THUMBNAILS:
                    self._known.clear()
                self._known[key] = self._made(path) if state.st_size <= _MAX_THUMBNAIL_BYTES else None
            return self._known[key]

    def _made(self, path: Path) -> bytes | None:
        (outcome,) = self._isolated.map(thumbnail, [path], time_limit=_THUMBNAIL_SECONDS)
        return None if isinstance(outcome, Failure) else outcome

    def close(self) -> None:
        """End the worker."""
        self._isolated.__exit__()


def thumbnail(path: Path) -> bytes | None:
    """Return a JPEG of a frame after the first quarter, or None; decodes no more than that takes."""
    try:
        return jpeg_bytes(_some_frame(path.read_bytes()), max_side=SHOWN_SIZE)
    except (*DAMAGE, UnreadableVideo, ValueError, OSError, StopIteration, cv2.error):
        return None


def _some_frame(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Return a frame, RGB."""
    if picture_kind(data) is not None:
        return read_picture(data, np.zeros(1, np.int64))[0]
    with open_video(data) as (container, stream, _):
        if container.duration:
            container.seek(container.duration // 4)
        frame = next(container.decode(stream))
        rotation, is_reflected = orientation(frame)
        size = square_size((frame.width, frame.height), pixel_aspect(stream))
        to_rgb = RgbConverter(size, rotation, is_reflected=is_reflected, deinterlaces=True)
        return to_rgb(frame)
