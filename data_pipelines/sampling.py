"""Chooses the frames of a video's clips by pure functions over frame times; `clips` calls it.

A clip is `num_frames` frames, 1/`fps` seconds apart, so it is num_frames/fps seconds long. Working with
times rather than frame numbers handles variable frame rates and start offsets.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.decoding.video import Video
from data_pipelines.original_sampling import ONE_CLIP, Header, OneClip, original_frames, original_span

Sampling = Literal["random", "uniform"]
"""`random` draws starts independently (training); `uniform` spreads clips over the video (evaluation)."""

SamplingRule = Literal["corrected", "original"]
"""`corrected`: frames by time, over the whole video. `original`: the original's frame arithmetic."""

_TOLERANCE_SECONDS = 1e-6
"""Largest delay of a frame that still counts as shown at the wanted time: 0.1 + 0.2 is not 0.3."""

_TICKS_PER_SECOND = 1_000_000
"""Unit of the whole-numbered time stamps in the original's arithmetic."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ChosenFrames:
    """The frames of a video's clips; times are in seconds after the video's first frame."""

    wanted_times: Float[np.ndarray, "k t"]
    indices: Int[np.ndarray, "k t"]
    """Positions in the video's `frame_times`."""
    times: Float[np.ndarray, "k t"]
    """When these frames are shown."""


def choose_frames(
    video: Video,
    *,
    num_clips: int,
    num_frames: int,
    fps: float,
    sampling: Sampling,
    rule: SamplingRule = "corrected",
    one_clip: OneClip = "middle",
    rng: np.random.Generator | None = None,
) -> ChosenFrames:
    """Return the frames of a video's clips.

    Args:
      video: a video, of which only the frame index is used.
      num_clips: number of clips.
      num_frames: frames per clip.
      fps: frames per second within a clip.
      sampling: random or uniform.
      rule: `corrected` chooses by time, `original` by the original's arithmetic.
      one_clip: where a single uniform clip lies by the original's rule; `corrected` puts it in the middle.
      rng: generator for random clips.
    """
    if rule == "original":
        return _original(video, num_clips, num_frames, fps, sampling, one_clip, rng)
    starts = clip_starts(
        video.index.duration, num_clips=num_clips, clip_seconds=num_frames / fps, sampling=sampling, rng=rng
    )
    wanted = starts[:, None] + np.arange(num_frames) / fps
    indices, times = shown_frames(video.index.frame_times, starts, num_frames=num_frames, fps=fps)
    return ChosenFrames(wanted_times=wanted, indices=indices, times=times)


def clip_starts(
    duration: float,
    *,
    num_clips: int,
    clip_seconds: float,
    sampling: Sampling,
    rng: np.random.Generator | None = None,
) -> Float[np.ndarray, " k"]:
    """Return when each clip starts, in seconds after the first frame.

    random: each start is drawn from [0, duration - clip_seconds], so clips may overlap, as in the original's
      training. uniform: clip i of N is centred at duration * (i + 1/2) / N and moved inside the video; unlike
      the original's, these clips also see its end. All clips of a video shorter than a clip start at 0.

    Args:
      duration: seconds from the first frame to the end of the last.
      num_clips: number of starts.
      clip_seconds: num_frames / fps.
      sampling: random or uniform.
      rng: generator for random clips.
    """
    last_start = max(0.0, duration - clip_seconds)
    if sampling == "random":
        if rng is None:
            raise ValueError("random sampling needs rng=")
        return rng.uniform(0.0, last_start, num_clips)
    centres = duration * (np.arange(num_clips) + 0.5) / num_clips
    return np.clip(centres - clip_seconds / 2, 0.0, last_start)


def shown_frames(
    frame_times: Float[np.ndarray, " f"],
    starts: Float[np.ndarray, " k"],
    *,
    num_frames: int,
    fps: float,
) -> tuple[Int[np.ndarray, "k t"], Float[np.ndarray, "k t"]]:
    """Return the frames of each clip and their times in seconds.

    The frame at a time is the one on the screen: the last with frame_time <= time. After the end of the video
    its last frame repeats.
    """
    times = starts[:, None] + np.arange(num_frames) / fps
    indices = np.searchsorted(frame_times, times + _TOLERANCE_SECONDS, side="right") - 1
    indices = np.clip(indices, 0, len(frame_times) - 1)
    return indices, frame_times[indices]


def _original(
    video: Video,
    num_clips: int,
    num_frames: int,
    fps: float,
    sampling: Sampling,
    one_clip: OneClip,
    rng: np.random.Generator | None,
) -> ChosenFrames:
    """Choose by the original's arithmetic, but with times counted from the first frame."""
    frame_times = video.index.frame_times
    pts = np.rint(frame_times * _TICKS_PER_SECOND).astype(np.int64)
    # The original uses frame numbers if the header has no duration, and fails if no frame is left.
    duration = round(video.index.duration * _TICKS_PER_SECOND) if video.health.has_duration else None
    header = Header(num_frames=len(pts), fps=_mean_fps(video, default=fps), duration=duration)
    clips = [ONE_CLIP[one_clip]] if num_clips == 1 else [(number, num_clips) for number in range(num_clips)]
    spans = [
        original_span(
            header,
            clip_length=num_frames / fps * header.fps,
            clip="random" if sampling == "random" else clip,
            rng=rng,
        )
        for clip in clips
    ]
    found = [original_frames(pts, header, span, num_frames=num_frames) for span in spans]
    indices = np.stack([np.full(num_frames, len(pts) - 1) if one is None else one for one in found])
    # In its arithmetic a clip shorter than a frame of the video ends before it starts.
    wanted = [np.linspace(first, max(first, last), num_frames) / header.fps for first, last in spans]
    return ChosenFrames(wanted_times=np.stack(wanted), indices=indices, times=frame_times[indices])


def _mean_fps(video: Video, *, default: float) -> float:
    """Return frames per second; for a still image, which has no duration, the default."""
    duration = video.index.duration
    return len(video.index.frame_times) / duration if duration > 0 else default
