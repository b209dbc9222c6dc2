"""What is known of a video: its bytes, when each frame is shown, and whether it is sound.

Made once, at ingest, by `examine_video`; stored by the corpus; everything later reads it from there.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from clipbert_jax.errors import UserError

UNKNOWN_PTS = -(2**63)
"""`first_pts` of a video whose packets cannot be found by time: it is decoded from its start."""

MAX_PIXELS = 100_000_000
"""Pixels of a frame; anything larger is refused, because nobody means it and it would fill the memory."""


class UnreadableVideo(UserError):  # noqa: N818, it names the video, not the code
    """A video file that cannot be decoded, with the reason."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(str(path), reason)  # arguments as given, so that it can come out of a worker
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read the video {self.path}: {self.reason}"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FrameIndex:
    """When every frame of a video is shown, and how to get at it; made once, by `examine_video`."""

    frame_times: Float[np.ndarray, " f"]
    """Seconds after the first frame, rising (float64)."""
    key_frames: Int[np.ndarray, " g"]
    """Positions in `frame_times` where decoding may start."""
    first_pts: int
    """Time stamp of the first frame in the units of the stream."""
    width: int
    """Pixels as displayed, that is after `rotation`."""
    height: int
    rotation: int
    """Degrees counter-clockwise that the stored frames are turned by for display: 0, 90, 180 or 270."""
    is_reflected: bool
    """Whether the stored frames are also mirrored, left to right, after being turned."""
    duration: float
    """Seconds from the first frame to the end of the last one."""


Verdict = Literal["ok", "damaged", "unreadable"]
"""`damaged`: some of its frames do not decode, or come out with errors concealed by the decoder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Health:
    """What a full decode found out about a file; the same for the same bytes, whenever and wherever."""

    verdict: Verdict
    reason: str = ""
    """Why it is not `ok`, in one sentence; else empty."""
    container: str = ""
    codec: str = ""
    pixel_format: str = ""
    num_frames: int = 0
    """Frames that decode."""
    num_declared_frames: int = 0
    """Frames that the header promises; 0 if it says nothing."""
    start_time: float = 0.0
    """Seconds at which the file says its first frame is shown; frame times count from that frame."""
    fps: float = 0.0
    """Mean frames per second."""
    is_variable_rate: bool = False
    has_duration: bool = True
    """Whether the header states how long the video is."""
    damaged_ranges: tuple[tuple[float, float], ...] = ()
    """Seconds (from, to) after the first frame where frames are missing or damaged."""
    notes: tuple[str, ...] = ()
    """What else a user should know, such as `HDR, tone-mapped` or `decoded from its start`."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Video:
    """One video (or image): a file's bytes, the index of its frames, and what was found out about it."""

    video_id: str
    data: bytes
    index: FrameIndex
    health: Health
