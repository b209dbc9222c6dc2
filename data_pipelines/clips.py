"""Samples the clips of a video: the one way from a video to pixels.

Training, evaluation, prediction, search, reports and the web app all call `sample_clips`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from clipbert_jax.errors import UserError
from data_pipelines.data_config import DataConfig
from data_pipelines.decoding.decode import read_frames
from data_pipelines.decoding.video import FrameIndex, UnreadableVideo, Video, as_stored
from data_pipelines.original_sampling import OneClip
from data_pipelines.sampling import ChosenFrames, Sampling, choose_frames
from data_pipelines.transforms import resize_and_pad, resized_hw


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class VideoClips:
    """The clips of one video, for the model and for people."""

    name: str
    width: int
    """Pixels of the video as it is displayed."""
    height: int
    duration: float
    """Seconds."""
    chosen: ChosenFrames
    frames: UInt8[np.ndarray, "k t s s 3"]
    """Frames for the model, resized and padded."""
    shown: UInt8[np.ndarray, "k t h w 3"]
    """The same frames for people, without padding; empty unless `shown_size` was given."""

    @property
    def times(self) -> Float[np.ndarray, "k t"]:
        """When each frame is shown, in seconds after the first frame of the video."""
        return self.chosen.times


def sample_clips(
    video: Video,
    config: DataConfig,
    *,
    num_clips: int | Sequence[int],
    sampling: Sampling = "uniform",
    one_clip: OneClip = "middle",
    rng: np.random.Generator | None = None,
    shown_size: int = 0,
) -> VideoClips:
    """Choose the frames of a video's clips, decode each of them once, and resize them.

    Args:
      video: a video with its frame times.
      config: frames per clip, their rate and size, and the sampling rule; `config.num_clips` is not used.
      num_clips: number of clips; several numbers give the clips of each, one after the other.
      sampling: where the clips lie: `uniform` covers the whole video, as evaluation does.
      one_clip: where a single uniform clip lies by the original's rule.
      rng: source of random clips.
      shown_size: pixels of the longer side of the frames for people; 0 makes none.

    Raises:
      UnreadableVideo: a chosen frame does not decode.
      UserError: the frames have a shape that cannot be resized, or do not fit into memory (then its cause is
        a MemoryError).
    """
    chosen = _choose(video, config, num_clips, sampling, one_clip, rng)
    wanted, places = np.unique(chosen.indices, return_inverse=True)
    places = places.reshape(chosen.indices.shape)
    # The original neither stretches nor deinterlaces.
    index = as_stored(video.index) if config.sampling_rule == "original" else video.index
    frames, shown = _decode(video, index, wanted, config, shown_size)
    return VideoClips(
        name=video.video_id,
        width=index.width,
        height=index.height,
        duration=video.index.duration,
        chosen=chosen,
        frames=frames[places],
        shown=shown[places],
    )


def _choose(
    video: Video,
    config: DataConfig,
    num_clips: int | Sequence[int],
    sampling: Sampling,
    one_clip: OneClip,
    rng: np.random.Generator | None,
) -> ChosenFrames:
    parts = [
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
        for count in ([num_clips] if isinstance(num_clips, int) else num_clips)
    ]
    return ChosenFrames(
        wanted_times=np.concatenate([part.wanted_times for part in parts]),
        indices=np.concatenate([part.indices for part in parts]),
        times=np.concatenate([part.times for part in parts]),
    )


def _decode(
    video: Video, index: FrameIndex, wanted: Int[np.ndarray, " u"], config: DataConfig, shown_size: int
) -> tuple[UInt8[np.ndarray, "u s s 3"], UInt8[np.ndarray, "u h w 3"]]:
    """Return frames for the model and for people; errors name the video."""
    height, width = index.height, index.width
    try:
        decoded = read_frames(video.data, wanted, index)
        frames, shown = resize_and_pad(decoded, config.size), np.zeros((len(wanted), 0, 0, 3), np.uint8)
        if shown_size:
            shown_height, shown_width = resized_hw(height, width, shown_size)
            shown = resize_and_pad(decoded, shown_size)[:, :shown_height, :shown_width]
        return frames, shown
    except (MemoryError, UserError) as error:
        cause = error.__cause__ if isinstance(error, UnreadableVideo) else error
        if isinstance(cause, MemoryError):
            raise UserError(
                f"video {video.video_id} ({width}x{height}) does not fit into memory: make it smaller; in "
                f"training, raise --data.worker-memory-gib, now {config.worker_memory_gib:g}"
            ) from cause
        if isinstance(error, UnreadableVideo):
            raise UnreadableVideo(video.video_id, error.reason) from error
        raise UserError(f"video {video.video_id}: {error}") from error
