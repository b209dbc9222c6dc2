"""A video with its frame index and health, as the corpus stores it.

`examine_video` makes it once, at ingest; everything later reads it from the corpus.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from clipbert_jax.errors import UserError

UNKNOWN_PTS = -(2**63)
"""`first_pts` of a video that is always decoded from its start: its packets cannot be found by time."""

MAX_PIXELS = 100_000_000
"""Maximum number of pixels in a frame; a larger frame is surely an error and would fill the memory."""


class UnreadableVideo(UserError):  # noqa: N818, it names the video, not the code
    """A video file cannot be decoded, for a reason that it states."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(str(path), reason)  # same arguments, so that it can be pickled
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read the video {self.path}: {self.reason}"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FrameIndex:
    """Times of all frames of a video, and the facts needed to decode any of them."""

    frame_times: Float[np.ndarray, " f"]
    """Seconds after the first frame, rising (float64)."""
    key_frames: Int[np.ndarray, " g"]
    """Positions in `frame_times` where decoding may start."""
    first_pts: int
    """Time stamp of the first frame in the units of the stream."""
    width: int
    """Width in square pixels as displayed, after `rotation`."""
    height: int
    rotation: int
    """Counter-clockwise rotation of stored frames for display, in degrees: 0, 90, 180 or 270."""
    is_reflected: bool
    """Whether stored frames are also mirrored, left to right, after the rotation."""
    duration: float
    """Seconds from the first frame to the end of the last one."""
    pixel_aspect: float = 1.0
    """Width of a stored pixel divided by its height; frames are stretched until pixels are square."""
    is_interlaced: bool = False
    """Whether frames hold two fields, of which the second is replaced by an interpolation of the first."""


def square_size(stored_size: tuple[int, int], pixel_aspect: float) -> tuple[int, int]:
    """Return width and height in square pixels; the side that is too short grows, so no pixel is lost."""
    width, height = stored_size
    if pixel_aspect >= 1:
        return round(width * pixel_aspect), height
    return width, round(height / pixel_aspect)


def as_stored(index: FrameIndex) -> FrameIndex:
    """Return the index of the same frames with the pixels of the file, neither stretched nor deinterlaced."""
    aspect = 1 / index.pixel_aspect if index.rotation % 180 else index.pixel_aspect
    width = round(index.width / aspect) if aspect > 1 else index.width
    height = round(index.height * aspect) if aspect < 1 else index.height
    return dataclasses.replace(index, width=width, height=height, pixel_aspect=1.0, is_interlaced=False)


Verdict = Literal["ok", "damaged", "unreadable"]
"""`damaged`: some frames do not decode, or the decoder concealed errors in them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Health:
    """Findings of a full decode about a file, which depend only on its bytes."""

    verdict: Verdict
    reason: str = ""
    """Reason for another verdict than `ok`, in one sentence; else empty."""
    container: str = ""
    codec: str = ""
    pixel_format: str = ""
    num_frames: int = 0
    """Number of frames that decode."""
    num_declared_frames: int = 0
    """Number of frames in the header; 0 if it has none."""
    start_time: float = 0.0
    """Time of the first frame in the file, in seconds; `frame_times` count from that frame."""
    fps: float = 0.0
    """Mean frames per second."""
    is_variable_rate: bool = False
    has_duration: bool = True
    """Whether the header has the duration."""
    damaged_ranges: tuple[tuple[float, float], ...] = ()
    """Ranges (from, to), in seconds after the first frame, with missing or damaged frames."""
    notes: tuple[str, ...] = ()
    """Other notes for the user, such as `HDR, tone-mapped` or `decoded from its start`."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Video:
    """One video or image: the bytes of its file, the index of its frames, and its health."""

    video_id: str
    data: bytes
    index: FrameIndex
    health: Health
