"""Makes training batches; `experiments.runs` calls `train_batches`.

Data order, clips and negatives are functions of (seed, epoch, example) alone. So any number of workers and
processes makes the same batches, and training resumes at a step by starting there. `mixture` chooses the
example at a position, `clips` makes its frames, `examples` its texts, and `workers` runs the work.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from clipbert_jax.batch import Batch
from clipbert_jax.errors import UserError
from data_pipelines.annotations.store import answers_path, read_answers
from data_pipelines.clips import sample_clips
from data_pipelines.corpus.reader import Corpus, open_corpus
from data_pipelines.data_config import DataConfig
from data_pipelines.examples import TaskExamples
from data_pipelines.masking import MaskingVocabulary, mask_tokens
from data_pipelines.mixture import Mixture
from data_pipelines.read_examples import answer_kind, make_examples
from data_pipelines.tokenizer import Tokenizer
from data_pipelines.workers.batch_workers import WatchedBatches, check_shared_memory
from data_pipelines.workers.decoding_speed import explain_wait
from data_pipelines.workers.heartbeat import decoding

_CLIPS, _TEXTS = 1, 2
"""Last parts of the random keys of an example."""

_BY_TOKEN = {"text_ids", "text_mask", "token_labels"}
"""Arrays of a batch whose last axis is the tokens of a text."""


@dataclasses.dataclass(frozen=True)
class _MakeTrainBatch:
    """Makes this process's share of the batch of a step."""

    sources: tuple[tuple[TaskExamples, Corpus], ...]
    mixture: Mixture
    config: DataConfig
    tokenizer: Tokenizer
    batch_size: int
    process_index: int
    process_count: int

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        first = int(step) * self.batch_size
        share = self.batch_size // self.process_count
        whole = range(first, first + self.batch_size)
        mine = whole[self.process_index * share : (self.process_index + 1) * share]
        # All processes must pad alike, so each looks at all texts; they cost little beside the videos.
        lengths = self.config.text_lengths
        rows = {position: self._texts(position) for position in (whole if len(lengths) > 1 else mine)}
        longest = max(int(row["text_mask"].sum(-1).max()) for row in rows.values())
        length = next(length for length in lengths if length >= longest)
        texts = {name: np.stack([rows[p][name] for p in mine]) for name in rows[mine[0]]}
        for name in _BY_TOKEN & texts.keys():
            texts[name] = np.ascontiguousarray(texts[name][..., :length])
        return {**texts, "frames": self._frames(mine), "example_mask": np.ones(share, bool)}

    def _texts(self, position: int) -> dict[str, np.ndarray]:
        """Return the texts [n l], their masks and the labels of an example."""
        place = self.mixture.place(position)
        examples, _ = self.sources[place.source]
        rng = np.random.default_rng(place.key(self.mixture.seed, _TEXTS))
        texts, labels = examples.draw(place.index, rng)
        ids, mask = self.tokenizer.encode(texts, self.config.max_text_length, num_rows=self._num_texts)
        row = {
            "text_ids": ids,
            "text_mask": mask,
            "text_valid": np.arange(self._num_texts) < len(texts),
            "labels": labels,
        }
        if examples.masking is not None:
            row["text_ids"], row["token_labels"] = mask_tokens(
                ids, mask, self.masking_vocabulary, examples.masking, rng
            )
        return row

    @functools.cached_property
    def _num_texts(self) -> int:
        """Maximum number of texts of an example, counted once because there may be a million examples."""
        return max(examples.num_texts for examples, _ in self.sources)

    @functools.cached_property
    def masking_vocabulary(self) -> MaskingVocabulary:
        """Tokens that may be masked."""
        return MaskingVocabulary.from_tokens(self.tokenizer.tokens)

    def _frames(self, positions: range) -> UInt8[np.ndarray, "b k t h w 3"]:
        config = self.config
        shape = (len(positions), config.num_clips, config.num_frames, config.size, config.size, 3)
        frames = np.empty(shape, np.uint8)
        for row, position in enumerate(positions):
            place = self.mixture.place(position)
            examples, corpus = self.sources[place.source]
            rng = np.random.default_rng(place.key(self.mixture.seed, _CLIPS))
            video_id = examples.video_id(place.index)
            with decoding(video_id):
                video = corpus.read(video_id)
                frames[row] = sample_clips(
                    video, config, num_clips=config.num_clips, sampling=config.sampling, rng=rng
                ).frames
        return frames


class TrainBatches(Iterator[Batch]):
    """An endless iterator over training batches; its position is the number of the next step."""

    def __init__(self, make_batch: _MakeTrainBatch, *, start_step: int):
        self._make_batch = make_batch
        config = make_batch.config
        self._batch_bytes = config.batch_bytes(
            make_batch.batch_size // make_batch.process_count, config.num_clips
        )
        check_shared_memory(config, self._batch_bytes)
        self._batches: WatchedBatches | None = None
        self.set_state({"next_step": start_step})

    @property
    def num_examples(self) -> int:
        """Number of examples in all data directories."""
        return sum(len(examples) for examples, _ in self._make_batch.sources)

    @property
    def notes(self) -> list[str]:
        """Notes on the examples for the user, a line each."""
        config, tokenizer = self._make_batch.config, self._make_batch.tokenizer
        notes = [note for examples, _ in self._make_batch.sources for note in examples.notes]
        texts = itertools.chain.from_iterable(
            examples.all_texts() for examples, _ in self._make_batch.sources
        )
        cut = tokenizer.note_on_length(texts, config.max_text_length)
        return [*notes, cut] if cut else notes

    def __next__(self) -> Batch:
        if self._batches is None:
            self._batches = WatchedBatches(
                self._make_batch,
                self._make_batch.config,
                start=self._next_step,
                stop=sys.maxsize // self._make_batch.batch_size,
                batch_bytes=self._batch_bytes,
            )
        batch = Batch(**next(self._batches))
        self._next_step += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Return the position of the next batch, ready for JSON."""
        return {"next_step": self._next_step}

    def set_state(self, state: dict[str, int]) -> None:
        """Move to a position."""
        self.close()
        self._next_step = int(state["next_step"])

    def starting_at(self, step: int) -> TrainBatches:
        """Move to a step, and return this iterator."""
        self.set_state({"next_step": step})
        return self

    def name_examples(self, step: int) -> list[str]:
        """Return the ids of the videos of a step (counted from 1), over all processes."""
        make_batch = self._make_batch
        first = (step - 1) * make_batch.batch_size
        places = map(make_batch.mixture.place, range(first, first + make_batch.batch_size))
        return [make_batch.sources[place.source][0].video_id(place.index) for place in places]

    def core_seconds_per_video(self) -> float | None:
        """Return the mean cost of a video for the decoders so far; None before the first."""
        return self._batches.core_seconds_per_video() if self._batches is not None else None

    def explain_wait(self, videos_per_second: float) -> str:
        """Return a line on how this process can get so many videos per second."""
        return explain_wait(self._make_batch.config, self.core_seconds_per_video(), videos_per_second)

    def close(self) -> None:
        """Stop the workers; the next batch starts them again."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None


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

    Every example comes once in an epoch (of its data directory, in a mixture). Epochs run into each other, so
    no batch is short. Process p of P gets rows [p/P, (p+1)/P) of the batch that a single process would get.

    Args:
      config: settings for data and clips.
      task: the task, which decides the texts and labels of a video.
      batch_size: number of videos in a step, over all processes.
      seed: seed of order, clips and negatives.
      start_step: step of the first batch.
      process_index: index of this process.
      process_count: number of processes.
      split: split of the records.

    Raises:
      UserError: the data directory, its records or its vocabulary are missing or unfit for the task; records
        name missing videos; weights or text lengths are bad; there is too little shared memory; while
        iterating, a worker dies or is stuck.
      UnreadableVideo: while iterating, a video does not decode.
    """
    if batch_size % process_count:
        raise UserError(
            f"--train.batch-size {batch_size} must be a multiple of the {process_count} processes"
        )
    data_dirs, weights = zip(*config.sources, strict=True)
    sources = tuple(_open_source(task, data_dir, split) for data_dir in data_dirs)
    _check_answers(task, data_dirs)
    _ = config.text_lengths  # raises if a length is bad
    make_batch = _MakeTrainBatch(
        sources=sources,
        mixture=Mixture([len(examples) for examples, _ in sources], [*map(float, weights)], seed),
        config=config,
        tokenizer=config.load_tokenizer(),
        batch_size=batch_size,
        process_index=process_index,
        process_count=process_count,
    )
    if any(examples.masking is not None for examples, _ in sources):
        _ = make_batch.masking_vocabulary  # raises if [MASK] is missing
    return TrainBatches(make_batch, start_step=start_step)


def _open_source(task: Any, data_dir: str, split: str) -> tuple[TaskExamples, Corpus]:
    corpus = open_corpus(data_dir)
    examples = make_examples(task, data_dir, split)
    if not len(examples):
        raise UserError(
            f"{corpus.data_dir} has no {split} examples for this task; prepare it with records of that split"
        )
    check_videos(map(examples.video_id, range(len(examples))), corpus, f"of the {split} records")
    return examples, corpus


def _check_answers(task: Any, data_dirs: Sequence[str]) -> None:
    """Refuse a mixture in which a label means different answers."""
    if (kind := answer_kind(task)) is None:
        return
    first, *others = data_dirs
    for other in others:
        if read_answers(other, kind) != read_answers(first, kind):
            raise UserError(
                f"{answers_path(first, kind)} and {answers_path(other, kind)} differ: a mixture needs one "
                "answer vocabulary; prepare both data directories with it"
            )


def check_videos(video_ids: Iterable[str], corpus: Corpus, which: str) -> None:
    """Refuse video ids that a corpus lacks.

    Raises:
      UserError: names the first missing id and their number.
    """
    missing = sorted({video_id for video_id in video_ids if video_id not in corpus})
    if missing:
        raise UserError(
            f"{corpus.data_dir} lacks {len(missing)} video(s) {which}, first {missing[0]!r}: correct the "
            "records, or prepare the data again"
        )
