"""Stage 6, the end of the corridor's host side: Grain puts the stages together and yields batches.

Data order, clips and negatives are functions of (seed, epoch, example) alone. So the same batches come out
for any number of workers, and training resumes at a step by starting there. After: `clipbert_jax.training`.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags
from jaxtyping import Bool, Float, UInt8

from clipbert_jax.batch import Batch
from clipbert_jax.errors import UserError
from data_pipelines.corpus.builder import Corpus, Video, open_corpus
from data_pipelines.decode import UnreadableVideo, read_frames
from data_pipelines.examples import TaskExamples, make_examples
from data_pipelines.sampling import Sampling, clip_starts, shown_frames
from data_pipelines.tokenizer import Tokenizer, load_tokenizer
from data_pipelines.transforms import resize_and_pad

_ORDER, _EXAMPLE = 0, 1
"""Last parts of the random keys of an epoch's order and of an example."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the data are and how clips are taken from them."""

    data_dir: str
    """Made by a prepare command."""
    num_clips: int = 8
    """Clips per video in training."""
    num_frames: int = 2
    """Frames per clip."""
    fps: float = 2.0
    """Frames per second within a clip."""
    size: int = 448
    """Pixels of the longer side."""
    max_text_length: int = 20
    """Tokens, [CLS] and [SEP] included; longer texts are cut."""
    num_workers: int = 0
    """Processes that decode; 0 decodes in threads of this one."""
    num_threads: int = 2
    """Threads that decode when there are no workers."""
    num_prefetch: int = 4
    """Batches ready ahead, per worker."""
    vocab: str | None = None
    """vocab.txt or tokenizer folder; that of the data directory by default."""

    def load_tokenizer(self) -> Tokenizer:
        """Return the tokenizer that texts go through."""
        return load_tokenizer(self.vocab or Path(self.data_dir) / "vocab.txt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoBatch:
    """Videos without texts, for evaluation and search.

    Attributes:
      video_ids: of the real rows only, so there may be fewer than b.
      frames: RGB 0-255.
      example_mask: False for the rows that fill the last batch.
      clip_times: when each frame is shown, in seconds after the video's first frame.
    """

    video_ids: tuple[str, ...]
    frames: UInt8[np.ndarray, "b k t h w 3"]
    example_mask: Bool[np.ndarray, " b"]
    clip_times: Float[np.ndarray, "b k t"]


def sample_video(
    video: Video,
    config: DataConfig,
    *,
    num_clips: int,
    sampling: Sampling,
    rng: np.random.Generator | None = None,
) -> tuple[UInt8[np.ndarray, "k t s s 3"], Float[np.ndarray, "k t"]]:
    """Return the resized frames of a video's clips and when each is shown (seconds after the first frame).

    The one way from a video to pixels, in training, evaluation and prediction.

    Raises:
      UnreadableVideo: a wanted frame does not decode.
      UserError: frames of a shape that cannot be resized.
    """
    starts = clip_starts(
        video.index.duration,
        num_clips=num_clips,
        clip_seconds=config.num_frames / config.fps,
        sampling=sampling,
        rng=rng,
    )
    shown, times = shown_frames(video.index.frame_times, starts, num_frames=config.num_frames, fps=config.fps)
    wanted, places = np.unique(shown, return_inverse=True)
    try:
        frames = resize_and_pad(read_frames(video.data, wanted, video.index), config.size)
    except UnreadableVideo as error:
        raise UnreadableVideo(video.video_id, error.reason) from error
    except UserError as error:
        raise UserError(f"video {video.video_id}: {error}") from error
    return frames[places.reshape(shown.shape)], times


@dataclasses.dataclass(frozen=True)
class _MakeExample:
    """Turns a position in the endless stream of training examples into arrays."""

    examples: TaskExamples
    corpus: Corpus
    config: DataConfig
    tokenizer: Tokenizer
    seed: int

    def __call__(self, position: int) -> dict[str, np.ndarray]:
        epoch, place = divmod(int(position), len(self.examples))
        index = int(_epoch_order(self.seed, epoch, len(self.examples))[place])
        rng = np.random.default_rng([self.seed, epoch, index, _EXAMPLE])
        config = self.config
        video = self.corpus.read(self.examples.video_id(index))
        frames, _ = sample_video(video, config, num_clips=config.num_clips, sampling="random", rng=rng)
        texts, labels = self.examples.texts_and_labels(index, rng)
        text_ids, text_mask = self.tokenizer.encode(texts, config.max_text_length)
        return {
            "frames": frames,
            "text_ids": text_ids,
            "text_mask": text_mask,
            "text_valid": np.ones(len(texts), bool),
            "labels": labels,
            "example_mask": np.array(True),
        }


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, count, _ORDER]).permutation(count)


class TrainBatches(Iterator[Batch]):
    """Endless training batches; the position is the number of the next step, whatever the workers."""

    def __init__(self, batches: grain.MapDataset, config: DataConfig, *, start_step: int):
        self._batches = batches
        self._config = config
        self._iterator: Any = None
        self.set_state({"next_step": start_step})

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = _start(self._batches[self._next_step :], self._config)
        batch = Batch(**_owned(next(self._iterator)))
        self._next_step += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Return the position of the batch that comes next, as JSON."""
        return {"next_step": self._next_step}

    def set_state(self, state: dict[str, int]) -> None:
        """Go to a position."""
        self.close()
        self._next_step = int(state["next_step"])

    def close(self) -> None:
        """Stop the workers; asking for another batch would start them again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


def train_batches(
    config: DataConfig,
    task: Any,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    split: str = "train",
) -> TrainBatches:
    """Return an endless iterator over this process's share of the training batches.

    Every example comes once in an epoch; epochs run into each other, so no batch is short. Process p of P has
    rows [p/P, (p+1)/P) of the batch that one process alone would have.

    Args:
      config: data and clips.
      task: says which texts and labels come with a video.
      batch_size: videos of a step, over all processes.
      seed: of order, clips and negatives.
      start_step: the step whose batch comes first.
      process_index: which process this is.
      process_count: how many there are.
      split: whose records.

    Raises:
      UserError: data directory, records or vocabulary are missing; records name videos that are not there.
      UnreadableVideo: while iterating, a video does not decode.
    """
    if batch_size % process_count:
        raise UserError(
            f"--train.batch-size {batch_size} must be a multiple of the {process_count} processes"
        )
    corpus = open_corpus(config.data_dir)
    examples = make_examples(task, config.data_dir, split)
    _check_examples(examples, corpus, split)
    make_example = _MakeExample(examples, corpus, config, config.load_tokenizer(), seed)
    share = batch_size // process_count
    endless = grain.MapDataset.range(sys.maxsize // batch_size * batch_size)
    batches = endless.map(make_example).batch(share)[process_index::process_count]
    return TrainBatches(batches, config, start_step=start_step)


def _check_examples(examples: TaskExamples, corpus: Corpus, split: str) -> None:
    if not len(examples):
        raise UserError(f"{corpus.data_dir} has no {split} examples for this task; prepare it with some")
    _check_videos(map(examples.video_id, range(len(examples))), corpus, f"of the {split} records")


def _check_videos(video_ids: Iterable[str], corpus: Corpus, which: str) -> None:
    missing = sorted({video_id for video_id in video_ids if video_id not in corpus})
    if missing:
        raise UserError(
            f"{len(missing)} videos {which}, {missing[0]!r} first, are not in {corpus.data_dir}; "
            "prepare it again"
        )


@dataclasses.dataclass(frozen=True)
class _MakeVideoBatch:
    """Turns the number of an evaluation batch into arrays; rows beyond the last video stay zero."""

    video_ids: tuple[str, ...]
    corpus: Corpus
    config: DataConfig
    batch_size: int
    num_clips: int
    sampling: Sampling

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        config = self.config
        shape = (self.batch_size, self.num_clips, config.num_frames)
        frames = np.zeros((*shape, config.size, config.size, 3), np.uint8)
        clip_times = np.zeros(shape)
        video_ids = self.rows(number)
        for row, video_id in enumerate(video_ids):
            # Random clips of evaluation depend on the video alone, not on its place in a batch.
            rng = np.random.default_rng(list(video_id.encode())) if self.sampling == "random" else None
            frames[row], clip_times[row] = sample_video(
                self.corpus.read(video_id), config, num_clips=self.num_clips, sampling=self.sampling, rng=rng
            )
        example_mask = np.arange(self.batch_size) < len(video_ids)
        return {"frames": frames, "example_mask": example_mask, "clip_times": clip_times}

    def rows(self, number: int) -> tuple[str, ...]:
        """Return the videos of a batch."""
        return self.video_ids[number * self.batch_size : (number + 1) * self.batch_size]


def video_batches(
    config: DataConfig,
    video_ids: Sequence[str],
    *,
    batch_size: int,
    num_clips: int,
    sampling: Sampling = "uniform",
) -> Iterator[VideoBatch]:
    """Yield each video once, in order; the last batch is filled up with masked zeros.

    Args:
      config: data and frames; its `num_clips` is that of training and not used.
      video_ids: which videos.
      batch_size: videos of a batch.
      num_clips: clips per video.
      sampling: `uniform` covers the whole video.

    Raises:
      UserError: no such data directory or video; a video twice.
      UnreadableVideo: a video does not decode; nothing is put in its place.
    """
    corpus = open_corpus(config.data_dir)
    _check_videos(video_ids, corpus, "asked for")
    if len(set(video_ids)) < len(video_ids):
        twice = next(video_id for video_id in video_ids if video_ids.count(video_id) > 1)
        raise UserError(f"video {twice!r} is asked for twice; name every video once")
    make_batch = _MakeVideoBatch(tuple(video_ids), corpus, config, batch_size, num_clips, sampling)
    num_batches = -(-len(video_ids) // batch_size)
    if not num_batches:
        return
    iterator = _start(grain.MapDataset.range(num_batches).map(make_batch), config)
    try:
        for number, arrays in enumerate(iterator):
            yield VideoBatch(video_ids=make_batch.rows(number), **_owned(arrays))
    finally:
        iterator.close()
        gc.collect()  # Grain leaves the workers' last batches in reference cycles, and so in shared memory


def _start(dataset: grain.MapDataset, config: DataConfig) -> grain.DatasetIterator:
    """Start reading a dataset of batches: in threads of this process, or in worker processes."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers ask for flags that no absl app has parsed here
    grain.config.update("py_traceback_filtering", "off")  # it would append a paragraph to every message
    num_threads = 1 if config.num_workers else config.num_threads
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=config.num_prefetch)
    batches = dataset.to_iter_dataset(options)
    if config.num_workers:
        workers = grain.MultiprocessingOptions(
            num_workers=config.num_workers, per_worker_buffer_size=config.num_prefetch
        )
        batches = batches.mp_prefetch(workers, worker_init_fn=_end_with_parent)
    iterator = iter(batches)
    iterator.get_state()  # makes the iterators of all workers, or `close` would overlook some
    iterator.start_prefetch()
    return iterator


def _owned(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copy arrays out of the memory shared with workers, which must be given back before the program ends."""
    return {name: np.array(array) for name, array in arrays.items()}


def _end_with_parent(worker_index: int, worker_count: int) -> None:
    """Have this worker end when its parent dies, even if by SIGKILL.

    The kernel's parent death signal would not do: it is sent when the thread that started the worker ends.
    """
    del worker_index, worker_count
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
