"""What a task makes of the annotation records: the texts and labels that go with the frames of a video.

Beside stages 2 to 5, which make frames; `loader` puts both together. A new task adds a class and
a case in `make_examples`.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from clipbert_jax.errors import UserError
from clipbert_jax.tasks.retrieval import Retrieval
from data_pipelines.annotations.records import Caption
from data_pipelines.annotations.store import read_records


@runtime_checkable
class TaskExamples(Protocol):
    """What a task adds to the frames of a video."""

    def __len__(self) -> int:
        """Return the number of examples of an epoch."""
        ...

    def video_id(self, index: int) -> str:
        """Return the video of an example."""
        ...

    def texts_and_labels(self, index: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
        """Return the texts of an example (as many for all) and its labels."""
        ...


@dataclasses.dataclass(frozen=True)
class RetrievalExamples:
    """A caption, then captions of other videos.

    Raises:
      UserError: a caption has no possible negative, or no negatives are wanted.
    """

    captions: Sequence[Caption]
    num_negatives: int

    def __post_init__(self) -> None:
        if self.num_negatives < 1:
            raise UserError(f"--task.num-negatives must be at least 1, not {self.num_negatives}")
        of_video = collections.Counter(caption.video_id for caption in self.captions)
        of_text = collections.Counter(caption.text for caption in self.captions)
        of_both = collections.Counter((caption.video_id, caption.text) for caption in self.captions)
        for c in self.captions:
            if of_video[c.video_id] + of_text[c.text] - of_both[c.video_id, c.text] == len(self.captions):
                raise UserError(
                    f"no negative for caption {c.id!r}: all others are of the same video or say the same; "
                    "retrieval needs captions of at least two videos that differ"
                )

    def __len__(self) -> int:
        return len(self.captions)

    def video_id(self, index: int) -> str:
        """Return the video of a caption."""
        return self.captions[index].video_id

    def texts_and_labels(self, index: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
        """Return the caption and `num_negatives` others, and 1 for the match, 0 for the others."""
        positive = self.captions[index]
        texts = [positive.text]
        while len(texts) <= self.num_negatives:
            texts.append(self._negative(positive, rng).text)
        return texts, np.array([1] + [0] * self.num_negatives, np.int32)

    def _negative(self, positive: Caption, rng: np.random.Generator) -> Caption:
        """Draw a caption of another video that says something else."""
        others = (self.captions[index] for index in _draws(rng, len(self.captions)))
        return next(c for c in others if c.video_id != positive.video_id and c.text != positive.text)


def _draws(rng: np.random.Generator, count: int) -> Iterator[int]:
    """Yield some random positions, then all of them, so that a search always ends."""
    yield from rng.integers(count, size=32).tolist()
    yield from rng.permutation(count).tolist()


def make_examples(task: Any, data_dir: str | Path, split: str) -> TaskExamples:
    """Return the examples of a task; a new task adds a case here.

    Raises:
      UserError: the data directory has no records of the kind the task needs, or they do not do for it.
    """
    match task:
        case Retrieval():
            return RetrievalExamples(read_records(data_dir, Caption, split), task.num_negatives)
    raise NotImplementedError(f"no loader for task {type(task).__name__}")
