"""Clips of a video as a model sees them and as people do, made without JAX: a worker process can do it.

Before: `data_pipelines`, which opens the video; after: `asking` and `probe_video`, which need no file.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.clips import sample_video
from data_pipelines.data_config import DataConfig
from data_pipelines.released_sampling import OneClip
from data_pipelines.transforms import resized_hw
from data_pipelines.video import Video


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class VideoClips:
    """All that is looked at of one video."""

    name: str
    width: int
    """Pixels of the video as it is displayed."""
    height: int
    duration: float
    """Seconds."""
    frames: UInt8[np.ndarray, "k t s s 3"]
    """For the model, resized and padded."""
    times: Float[np.ndarray, "k t"]
    """When each is shown, in seconds after the first frame."""
    shown: UInt8[np.ndarray, "k t h w 3"]
    """The same frames for people: of another size, without padding."""


def sample_clips(
    video: Video, config: DataConfig, *, num_clips: int, one_clip: OneClip, shown_size: int
) -> VideoClips:
    """Return the clips of evaluation, spread over a video, and its pictures.

    Args:
      video: with its frame times.
      config: of the model's clips.
      num_clips: how many.
      one_clip: where a single clip lies by the released rule.
      shown_size: pixels of the longer side of the pictures.

    Raises:
      UnreadableVideo: a wanted frame does not decode.
      UserError: frames of a shape that cannot be resized, or too large for the memory.
    """
    frames, times = sample_video(video, config, num_clips=[num_clips], sampling="uniform", one_clip=one_clip)
    large = dataclasses.replace(config, size=shown_size)
    shown, _ = sample_video(video, large, num_clips=[num_clips], sampling="uniform", one_clip=one_clip)
    height, width = resized_hw(video.index.height, video.index.width, shown_size)
    return VideoClips(
        name=video.video_id,
        width=video.index.width,
        height=video.index.height,
        duration=video.index.duration,
        frames=frames,
        times=times,
        shown=shown[:, :, :height, :width],
    )
