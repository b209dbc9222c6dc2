"""Chooses frames by the arithmetic of the original ClipBERT, to reproduce its numbers; `sampling` calls it.

It counts in frames: a clip is num_frames / fps * (the video's frames per second) frames long. The first pass
keeps the frames whose time stamps lie in the clip, from the first one at or after its start to the first one
after its end. The second pass spreads `num_frames` evenly over the kept frames.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Literal

import numpy as np
from jaxtyping import Int

OneClip = Literal["start", "middle", "end"]
"""Position of a single clip: the original's retrieval takes `middle`, its question answering `start`."""

ONE_CLIP: dict[OneClip, tuple[int, int]] = {"start": (0, 3), "middle": (1, 3), "end": (2, 3)}
"""The positions as clip i of N; `middle` is therefore the beginning of the second third."""

_LEAST_DURATION_SHARE = 0.8
"""Share of the header's duration before which a file may not end, or its header counts as wrong.
The reference values put the original's limit between 0.67 and 0.9."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """The video stream as the header of a file describes it."""

    num_frames: int
    fps: float
    duration: int | None
    """Duration in the units of the time stamps; None chooses frames by their numbers alone."""


def original_span(
    header: Header,
    *,
    clip_length: float,
    clip: tuple[int, int] | Literal["random"],
    rng: random.Random | np.random.Generator | None = None,
) -> tuple[float, float]:
    """Return the first and the last frame number of a clip; both may be fractions or outside the video.

    Clip i of N starts at i/N of the length that the clip leaves free, so no clip sees the end of the video.

    Args:
      header: header of the video.
      clip_length: length of a clip in frames of the video, num_frames / fps * header.fps.
      clip: (i, N), or "random".
      rng: generator for a random clip, from which one number is drawn (the original's is Python's).
    """
    free = max(header.num_frames - clip_length, 0.0)
    if clip == "random":
        if rng is None:
            raise ValueError("a random clip needs rng=")
        first = rng.uniform(0, free)
    else:
        number, num_clips = clip
        first = free * number / num_clips
    return first, first + clip_length - 1


def original_frames(
    pts: Int[np.ndarray, " f"],
    header: Header,
    span: tuple[float, float],
    *,
    num_frames: int,
    safeguards_duration: bool = False,
) -> Int[np.ndarray, " t"] | None:
    """Return the positions of a clip's frames in the file; None if the original fails because none is left.

    Args:
      pts: time stamps of the frames, rising, in any unit.
      header: header of the same file.
      span: the clip, from `original_span`.
      num_frames: number of frames in the clip; a short video repeats its last frame.
      safeguards_duration: use the last time stamp as duration if the header's is far too long.
    """
    first, last = span
    if header.duration is None:
        return spread(first, last, num_frames, num_available=len(pts))
    duration = header.duration
    if safeguards_duration and pts[-1] < _LEAST_DURATION_SHARE * duration:
        duration = int(pts[-1])
    ticks_per_frame = duration / header.num_frames
    kept = _kept(pts, int(first * ticks_per_frame), int(last * ticks_per_frame))
    if not len(kept):
        return None
    return kept[spread(0.0, last - first, num_frames, num_available=len(kept))]


def spread(first: float, last: float, num_frames: int, *, num_available: int) -> Int[np.ndarray, " t"]:
    """Return `num_frames` positions spread from first to last, truncated and clipped to available ones."""
    # In single precision and from both ends, as `torch.linspace` counts: rounding decides some frames.
    low, high, steps = np.float32(first), np.float32(last), np.arange(num_frames, dtype=np.float32)
    step = (high - low) / np.float32(max(num_frames - 1, 1))
    is_first_half = steps < max(num_frames // 2, 1)
    positions = np.where(is_first_half, low + step * steps, high - step * steps[::-1])
    return np.clip(positions, 0, num_available - 1).astype(np.int64)


def _kept(pts: Int[np.ndarray, " f"], first: int, last: int) -> Int[np.ndarray, " u"]:
    """Return the frames from the first at or after `first` to the first of them after `last`."""
    start = int(np.searchsorted(pts, first))
    stop = max(int(np.searchsorted(pts, last, side="right")), start) + 1
    return np.arange(start, min(stop, len(pts)))
