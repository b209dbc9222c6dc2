"""Frames of videos for reports: one from each clip that an evaluation looks at."""

from __future__ import annotations

import dataclasses

import numpy as np

from data_pipelines.clips import sample_video
from data_pipelines.corpus.builder import open_corpus
from data_pipelines.data_config import DataConfig
from data_pipelines.transforms import resized_hw

DISPLAY_SIZE = 160


def clip_frames(data: DataConfig, video_id: str, *, num_clips: int) -> list[np.ndarray]:
    """Return the first frame of each clip, uint8 RGB [h w 3].

    Raises:
      UserError: no such corpus or video.
      UnreadableVideo: a frame does not decode.
    """
    video = open_corpus(data.data_dir).read(video_id)
    shown = dataclasses.replace(data, size=DISPLAY_SIZE)
    clips, _ = sample_video(video, shown, num_clips=[num_clips], sampling="uniform")
    height, width = resized_hw(video.index.height, video.index.width, DISPLAY_SIZE)
    return [clip[0, :height, :width] for clip in clips]  # without the padding
