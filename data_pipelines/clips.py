"""Stages 3 to 5 of the corridor in one call: from a video to the pixels of its clips.

Before: the corpus, which gives a video with its frame times; after: `loader` makes batches of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from clipbert_jax.errors import UserError
from data_pipelines.data_config import DataConfig
from data_pipelines.decode import read_frames
from data_pipelines.released_sampling import OneClip
from data_pipelines.sampling import Sampling, choose_frames
from data_pipelines.transforms import resize_and_pad
from data_pipelines.video import UnreadableVideo, Video


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
      one_clip: where a single clip lies by the released rule.
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
    try:
        frames = resize_and_pad(read_frames(video.data, wanted, video.index), config.size)
    except MemoryError as error:
        raise _too_large(video, config) from error
    except UnreadableVideo as error:
        if isinstance(error.__cause__, MemoryError):
            raise _too_large(video, config) from error
        raise UnreadableVideo(video.video_id, error.reason) from error
    except UserError as error:
        raise UserError(f"video {video.video_id}: {error}") from error
    return frames[places.reshape(indices.shape)], np.concatenate([clips.times for clips in chosen])


def _too_large(video: Video, config: DataConfig) -> UserError:
    return UserError(
        f"the video {video.video_id} ({video.index.width}x{video.index.height}) does not fit into memory: "
        f"make it smaller, or in training, where a worker may take {config.worker_memory_gib:g} GiB, raise "
        "--data.worker-memory-gib"
    )
