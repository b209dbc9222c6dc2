"""Videos and texts that `export` compares a program on: those of the run's data, or random ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from clipbert_jax.export import InputShape
from data_pipelines.annotations.records import Caption, MultipleChoice
from data_pipelines.annotations.store import read_records, records_path
from data_pipelines.data_config import DataConfig
from data_pipelines.examples import option_texts
from data_pipelines.original_sampling import OneClip
from data_pipelines.read_examples import record_kind
from data_pipelines.video_batches import video_batches
from experiments.runs.load_run import Run

_NUM_MATCHED = 8
"""Smallest number of texts that each video is matched with: its own, and those of the videos after it."""

Inputs = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Frames [b k t h w 3], text ids [b n l], text mask [b n l]."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """Some videos, and texts for each."""

    source: str
    """Origin of the videos, in words."""
    shape: InputShape
    """Shape of a call's inputs."""
    data: DataConfig
    video_ids: tuple[str, ...]
    """Ids in the corpus; empty for random pixels."""
    one_clip: OneClip
    text_ids: Int[np.ndarray, "m t l"]
    """Token ids of each video's texts; `t` is a multiple of the texts of a call."""
    text_mask: Bool[np.ndarray, "m t l"]

    @property
    def is_text(self) -> Bool[np.ndarray, "m t"]:
        """Mask of the texts that are not padding."""
        return np.any(self.text_mask, axis=-1)

    def batches(self) -> Iterator[tuple[int, Inputs]]:
        """Yield the number of videos in a batch, and the padded batch with all texts."""
        num_videos = len(self.text_ids)
        for start, frames in self._frames():
            rows = np.minimum(np.arange(start, start + self.shape.num_videos), num_videos - 1)
            yield (
                min(self.shape.num_videos, num_videos - start),
                (frames, self.text_ids[rows], self.text_mask[rows]),
            )

    def calls(self, batch: Inputs) -> Iterator[Inputs]:
        """Split a batch into calls, by texts."""
        frames, ids, mask = batch
        for start in range(0, ids.shape[1], self.shape.num_texts):
            texts = slice(start, start + self.shape.num_texts)
            yield frames, ids[:, texts], mask[:, texts]

    def _frames(self) -> Iterator[tuple[int, UInt8[np.ndarray, "b k t h w 3"]]]:
        shape, starts = self.shape, range(0, len(self.text_ids), self.shape.num_videos)
        if not self.video_ids:
            rng, pixels = np.random.default_rng(0), shape.structs()[0].shape
            yield from ((start, rng.integers(0, 256, pixels, np.uint8)) for start in starts)
            return
        batches = video_batches(
            self.data,
            self.video_ids,
            batch_size=shape.num_videos,
            num_clips=[shape.num_clips],
            one_clip=self.one_clip,
        )
        yield from ((start, batch.frames) for start, batch in zip(starts, batches, strict=True))


def make_trial(run: Run, shape: InputShape, data_dir: str, num_videos: int) -> Trial:
    """Return videos with their texts of the validation split, else of the test split, else random ones.

    Raises:
      UserError: records are broken.
    """
    is_matched = run.experiment.task.answer_form == "match"
    num_rows = shape.num_texts * -(-_NUM_MATCHED // shape.num_texts) if is_matched else shape.num_texts
    split, records = find_records(run.experiment.task, data_dir)
    of_video: dict[str, list[Any]] = {}
    for record in records:
        of_video.setdefault(record.video_id, []).append(record)
    video_ids = tuple(of_video)[:num_videos]
    if video_ids:
        source = f"{len(video_ids)} videos of the {split} split of {data_dir}"
        texts = _texts([of_video[video_id] for video_id in video_ids], num_rows)
        ids, masks = zip(*(run.text_options.encode(of, num_rows) for of in texts), strict=True)
    else:
        source = f"{num_videos} videos of random pixels and random words: {data_dir} has no records to try"
        rng = np.random.default_rng(0)
        texts = [_random_texts(run.tokenizer.vocab_size, num_rows, shape, rng) for _ in range(num_videos)]
        ids, masks = zip(*texts, strict=True)
    return Trial(
        source=source,
        shape=shape,
        data=dataclasses.replace(run.experiment.data, data_dir=data_dir, num_workers=0),
        video_ids=video_ids,
        one_clip=run.experiment.task.one_clip,
        text_ids=np.stack(ids),
        text_mask=np.stack(masks),
    )


def find_records(task: Any, data_dir: str) -> tuple[str, list[Any]]:
    """Return a split, validation or else test, with its records of the task's kind; empty without any.

    Raises:
      UserError: records are broken.
    """
    kind = record_kind(task)
    for split in ("validation", "test"):
        if records_path(data_dir, kind, split).is_file() and (records := read_records(data_dir, kind, split)):
            return split, list(records)
    return "", []


def _texts(of_videos: Sequence[Sequence[Any]], num_rows: int) -> list[list[str]]:
    """Return texts for each video: its questions, the options of one question, or captions of all videos."""
    match of_videos[0][0]:
        case MultipleChoice():
            return [option_texts(questions[0])[:num_rows] for questions in of_videos]
        case Caption():
            captions = [records[0].text for records in of_videos]
            return [(captions[place:] + captions[:place])[:num_rows] for place in range(len(captions))]
    return [[record.question for record in records[:num_rows]] for records in of_videos]


def _random_texts(
    vocab_size: int, num_rows: int, shape: InputShape, rng: np.random.Generator
) -> tuple[Int[np.ndarray, "t l"], Bool[np.ndarray, "t l"]]:
    """Return ids of random texts of at least three tokens."""
    lengths = rng.integers(3, shape.text_length + 1, num_rows)
    mask = np.arange(shape.text_length) < lengths[:, None]
    ids = rng.integers(0, vocab_size, mask.shape, np.int32)
    return np.where(mask, ids, 0).astype(np.int32), mask
