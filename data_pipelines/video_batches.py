"""Makes batches of videos without texts, each once and in order, for evaluation; evaluators call it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8

from clipbert_jax.errors import UserError
from data_pipelines.clips import sample_clips
from data_pipelines.corpus.reader import Corpus, open_corpus
from data_pipelines.data_config import DataConfig
from data_pipelines.loader import check_videos
from data_pipelines.original_sampling import OneClip
from data_pipelines.sampling import Sampling
from data_pipelines.workers.batch_workers import WatchedBatches, check_shared_memory
from data_pipelines.workers.heartbeat import decoding


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoBatch:
    """Videos without texts, for evaluation and search.

    Attributes:
      video_ids: ids of the real rows, so there may be fewer than b.
      frames: RGB 0-255; each process has its share of the rows.
      example_mask: False at the rows that fill the last batch.
      clip_times: time of each frame in seconds after the video's first frame, for this process's rows.
    """

    video_ids: tuple[str, ...]
    frames: UInt8[np.ndarray, "share k t h w 3"]
    example_mask: Bool[np.ndarray, " b"]
    clip_times: Float[np.ndarray, "share k t"]


@dataclasses.dataclass(frozen=True)
class _MakeVideoBatch:
    """Makes the arrays of an evaluation batch; rows after the last video stay zero."""

    video_ids: tuple[str, ...]
    corpus: Corpus
    config: DataConfig
    batch_size: int
    num_clips: tuple[int, ...]
    sampling: Sampling
    one_clip: OneClip
    process_index: int
    process_count: int

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        config = self.config
        share = self.batch_size // self.process_count
        shape = (share, sum(self.num_clips), config.num_frames)
        frames = np.zeros((*shape, config.size, config.size, 3), np.uint8)
        clip_times = np.zeros(shape)
        video_ids = self.rows(number)
        mine = video_ids[self.process_index * share : (self.process_index + 1) * share]
        for row, video_id in enumerate(mine):
            # Random clips of evaluation depend only on the video, not on its place in a batch.
            rng = np.random.default_rng(list(video_id.encode())) if self.sampling == "random" else None
            with decoding(video_id):
                clips = sample_clips(
                    self.corpus.read(video_id),
                    config,
                    num_clips=self.num_clips,
                    sampling=self.sampling,
                    one_clip=self.one_clip,
                    rng=rng,
                )
            frames[row], clip_times[row] = clips.frames, clips.times
        example_mask = np.arange(self.batch_size) < len(video_ids)
        return {"frames": frames, "example_mask": example_mask, "clip_times": clip_times}

    def rows(self, number: int) -> tuple[str, ...]:
        """Return the ids of the videos in a batch."""
        return self.video_ids[number * self.batch_size : (number + 1) * self.batch_size]


def video_batches(
    config: DataConfig,
    video_ids: Sequence[str],
    *,
    batch_size: int,
    num_clips: Sequence[int],
    sampling: Sampling = "uniform",
    one_clip: OneClip = "middle",
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[VideoBatch]:
    """Yield each video once, in order; the last batch is filled up with masked zeros.

    Args:
      config: settings for data and frames; its `num_clips` is for training and not used.
      video_ids: ids of the videos.
      batch_size: number of videos in a batch, over all processes; a multiple of `process_count`.
      num_clips: clips per video; several numbers give the clips of each, one after the other, and the video
        is read once.
      sampling: positions of the clips; `uniform` covers the whole video.
      one_clip: where a single clip lies by the original's rule; `start` for its question answering.
      process_index: index of this process, which reads only its rows of each batch.
      process_count: number of processes.

    Raises:
      UserError: a data directory or video does not exist, a video occurs twice, there is too little shared
        memory, or a worker dies or is stuck.
      UnreadableVideo: a video does not decode; no other video replaces it.
    """
    corpus = open_corpus(config.data_dir)
    check_videos(video_ids, corpus, "asked for")
    if len(set(video_ids)) < len(video_ids):
        twice = next(video_id for video_id in video_ids if video_ids.count(video_id) > 1)
        raise UserError(f"video {twice!r} is asked for twice; name every video once")
    if not video_ids:
        return
    batch_bytes = config.batch_bytes(batch_size // process_count, sum(num_clips))
    check_shared_memory(config, batch_bytes)
    make_batch = _MakeVideoBatch(
        tuple(video_ids),
        corpus,
        config,
        batch_size,
        tuple(num_clips),
        sampling,
        one_clip,
        process_index,
        process_count,
    )
    num_batches = -(-len(video_ids) // batch_size)
    batches = WatchedBatches(make_batch, config, start=0, stop=num_batches, batch_bytes=batch_bytes)
    try:
        for number, arrays in enumerate(batches):
            yield VideoBatch(video_ids=make_batch.rows(number), **arrays)
    finally:
        batches.close()
