"""Frames of videos for reports: one from each clip that an evaluation looks at."""

from __future__ import annotations

import numpy as np

from data_pipelines.clips import sample_clips
from data_pipelines.corpus.builder import open_corpus
from data_pipelines.data_config import DataConfig

DISPLAY_SIZE = 160


def clip_frames(data: DataConfig, video_id: str, *, num_clips: int) -> list[np.ndarray]:
    """Return the first frame of each clip, uint8 RGB [h w 3].

    Raises:
      UserError: no such corpus or video.
      UnreadableVideo: a frame does not decode.
    """
    video = open_corpus(data.data_dir).read(video_id)
    clips = sample_clips(video, data, num_clips=num_clips, shown_size=DISPLAY_SIZE)
    return list(clips.shown[:, 0])
