"""Clips of a video as a model sees them and as people do, made without JAX: a worker process can do it.

Before: `data_pipelines`, which opens the video; after: `asking` and `probe_video`, which need no file.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int, UInt8

from clipbert_jax.errors import UserError
from data_pipelines.data_config import DataConfig
from data_pipelines.decode import read_frames
from data_pipelines.released_sampling import OneClip
from data_pipelines.sampling import choose_frames
from data_pipelines.transforms import resize_and_pad, resized_hw
from data_pipelines.video import UnreadableVideo, Video


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
    chosen = choose_frames(
        video,
        num_clips=num_clips,
        num_frames=config.num_frames,
        fps=config.fps,
        sampling="uniform",
        rule=config.sampling_rule,
        one_clip=one_clip,
    )
    wanted, places = np.unique(chosen.indices, return_inverse=True)
    places = places.reshape(chosen.indices.shape)
    frames, shown = _decoded(video, wanted, (config.size, shown_size))
    height, width = resized_hw(video.index.height, video.index.width, shown_size)
    return VideoClips(
        name=video.video_id,
        width=video.index.width,
        height=video.index.height,
        duration=video.index.duration,
        frames=frames[places],
        times=chosen.times,
        shown=shown[:, :height, :width][places],
    )


def _decoded(
    video: Video, wanted: Int[np.ndarray, " u"], sizes: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "u s s 3"], ...]:
    """Return frames in several sizes; they are decoded once."""
    try:
        decoded = read_frames(video.data, wanted, video.index)
        return tuple(resize_and_pad(decoded, size) for size in sizes)
    except MemoryError as error:
        raise _too_large(video) from error
    except UnreadableVideo as error:
        if isinstance(error.__cause__, MemoryError):
            raise _too_large(video) from error
        raise UnreadableVideo(video.video_id, error.reason) from error
    except UserError as error:
        raise UserError(f"video {video.video_id}: {error}") from error


def _too_large(video: Video) -> UserError:
    size = f"{video.index.width}x{video.index.height}"
    return UserError(f"video {video.video_id}: its frames ({size}) do not fit into memory: make it smaller")
