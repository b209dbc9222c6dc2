"""Stages 3 to 5 of the corridor in one call: from a video to the pixels of its clips.

Before: the corpus, which gives a video with its frame times; after: `loader` makes batches of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from clipbert_jax.errors import UserError
from data_pipelines.data_config import DataConfig
from data_pipelines.decoding.decode import read_frames
from data_pipelines.decoding.video import UnreadableVideo, Video
from data_pipelines.original_sampling import OneClip
from data_pipelines.sampling import Sampling, choose_frames
from data_pipelines.transforms import resize_and_pad, resized_hw


def sample_video(
    video: Video,
    config: DataConfig,
    *,
    num_clips: Sequence[int],
    sampling: Sampling,
    one_clip: OneClip = "middle",
    rng: np.random.Generator | None = None,
) -> tuple[UInt8[np.ndarray, "k t s s 3"], Float[np.ndarray, "k t"]]:
    """Return the resized frames of a video's clips and when each is shown (seconds after the first frame).

    The one way from a video to pixels, in training, evaluation and prediction.

    Args:
      video: with its frame times.
      config: of the clips.
      num_clips: how many; several numbers give the clips of each, one after the other, decoded in one pass.
      sampling: where the clips lie.
      one_clip: where a single clip lies by the original's rule.
      rng: for random clips.

    Raises:
      UnreadableVideo: a wanted frame does not decode.
      UserError: frames of a shape that cannot be resized, or too large for the memory.
    """
    chosen = [
        choose_frames(
            video,
            num_clips=count,
            num_frames=config.num_frames,
            fps=config.fps,
            sampling=sampling,
            rule=config.sampling_rule,
            one_clip=one_clip,
            rng=rng,
        )
        for count in num_clips
    ]
    indices = np.concatenate([clips.indices for clips in chosen])
    wanted, places = np.unique(indices, return_inverse=True)
    (frames,) = _decoded(video, wanted, (config.size,), config)
    return frames[places.reshape(indices.shape)], np.concatenate([clips.times for clips in chosen])


def _too_large(video: Video, config: DataConfig) -> UserError:
    return UserError(
        f"the video {video.video_id} ({video.index.width}x{video.index.height}) does not fit into memory: "
        f"make it smaller, or in training, where a worker may take {config.worker_memory_gib:g} GiB, raise "
        "--data.worker-memory-gib"
    )


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
      one_clip: where a single clip lies by the original's rule.
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
    frames, shown = _decoded(video, wanted, (config.size, shown_size), config)
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
    video: Video, wanted: Int[np.ndarray, " u"], sizes: tuple[int, ...], config: DataConfig
) -> tuple[UInt8[np.ndarray, "u s s 3"], ...]:
    """Return frames in several sizes; they are decoded once."""
    try:
        decoded = read_frames(video.data, wanted, video.index)
        return tuple(resize_and_pad(decoded, size) for size in sizes)
    except MemoryError as error:
        raise _too_large(video, config) from error
    except UnreadableVideo as error:
        if isinstance(error.__cause__, MemoryError):
            raise _too_large(video, config) from error
        raise UnreadableVideo(video.video_id, error.reason) from error
    except UserError as error:
        raise UserError(f"video {video.video_id}: {error}") from error
