"""Training examples: the texts and labels that go with the frames of a video, made from annotation records.

`loader` puts them and the frames together. A task names the form of its examples; a new form adds a class
here and a row of `_FORMS` in `read_examples`. `experiments/evaluators` evaluates the same records.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from clipbert_jax.config_checks import check_range
from clipbert_jax.tasks.pretraining import Masking
from data_pipelines.annotations.records import Caption, Count, MultipleChoice, OpenQuestion, SoftQuestion
from data_pipelines.negatives import check_negatives, draw_negative

AnyRecord = TypeVar("AnyRecord", Caption, OpenQuestion, SoftQuestion, Count)


class Texts(NamedTuple):
    """Texts of an example, and its labels as a row of the batch."""

    texts: list[str]
    labels: np.ndarray


@runtime_checkable
class TaskExamples(Protocol):
    """Texts and labels of all examples of a split."""

    @property
    def num_texts(self) -> int:
        """Largest number of texts of an example: `n` of the batch."""
        ...

    @property
    def masking(self) -> Masking | None:
        """Masking of the words, if the model has to guess some."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines that a user should read before training."""
        ...

    def __len__(self) -> int:
        """Return the number of examples of an epoch."""
        ...

    def video_id(self, index: int) -> str:
        """Return the video of an example."""
        ...

    def draw(self, index: int, rng: np.random.Generator) -> Texts:
        """Return the texts of an example and its labels; `rng` draws all that is random."""
        ...

    def all_texts(self) -> Iterator[str]:
        """Yield every text of the examples."""
        ...


@dataclasses.dataclass(frozen=True)
class RetrievalExamples:
    """A caption, then captions of other videos; labels [n]: 1 match, 0 mismatch.

    Raises:
      UserError: a caption has no possible negative, or `num_negatives` is below 1.
    """

    captions: Sequence[Caption]
    num_negatives: int
    masking = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_range("--task.num-negatives", self.num_negatives, 1)
        check_negatives(self.captions)

    @property
    def num_texts(self) -> int:
        """The caption and its negatives."""
        return 1 + self.num_negatives

    def __len__(self) -> int:
        return len(self.captions)

    def video_id(self, index: int) -> str:
        """Return the video of a caption."""
        return self.captions[index].video_id

    def draw(self, index: int, rng: np.random.Generator) -> Texts:
        """Return the caption and `num_negatives` others."""
        positive = self.captions[index]
        negatives = [draw_negative(self.captions, positive, rng).text for _ in range(self.num_negatives)]
        return Texts([positive.text, *negatives], np.array([1] + [0] * self.num_negatives, np.int32))

    def all_texts(self) -> Iterator[str]:
        """Yield the captions."""
        return (caption.text for caption in self.captions)


@dataclasses.dataclass(frozen=True)
class ChoiceExamples:
    """The options of a question, each after the question; the label [] is the index of the right one."""

    questions: Sequence[MultipleChoice]
    masking = None
    notes: tuple[str, ...] = ()

    @property
    def num_texts(self) -> int:
        """Largest number of options of a question."""
        return max(len(question.options) for question in self.questions)

    def __len__(self) -> int:
        return len(self.questions)

    def video_id(self, index: int) -> str:
        """Return the video of a question."""
        return self.questions[index].video_id

    def draw(self, index: int, rng: np.random.Generator) -> Texts:
        """Return the options in their order; nothing is random."""
        question = self.questions[index]
        return Texts(option_texts(question), np.array(question.answer_index, np.int32))

    def all_texts(self) -> Iterator[str]:
        """Yield questions with options."""
        return itertools.chain.from_iterable(map(option_texts, self.questions))


def option_texts(question: MultipleChoice) -> list[str]:
    """Return question + " " + option, for every option; only the option if the question is empty."""
    return [f"{question.question} {option}".strip() for option in question.options]


@dataclasses.dataclass(frozen=True)
class _Grouped:
    """Groups of up to `num_texts` records of one video."""

    groups: Sequence[Sequence[Any]]
    num_texts: int
    masking = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.groups)

    def video_id(self, index: int) -> str:
        """Return the video of a group."""
        return self.groups[index][0].video_id

    def all_texts(self) -> Iterator[str]:
        """Yield the questions."""
        return (record.question for group in self.groups for record in group)


@dataclasses.dataclass(frozen=True)
class OpenQuestionExamples(_Grouped):
    """Questions about a video; labels [n] are indices in the answer vocabulary, -1 without a question."""

    label_of: dict[str, int] = dataclasses.field(default_factory=dict)

    def draw(self, index: int, rng: np.random.Generator) -> Texts:
        """Return the questions; nothing is random."""
        group = self.groups[index]
        labels = np.full(self.num_texts, -1, np.int32)
        labels[: len(group)] = [self.label_of[question.answer] for question in group]
        return Texts([question.question for question in group], labels)


@dataclasses.dataclass(frozen=True)
class SoftQuestionExamples(_Grouped):
    """Questions about an image; labels [n a] are the scores of all answers of the vocabulary."""

    label_of: dict[str, int] = dataclasses.field(default_factory=dict)
    num_outputs: int = 0

    def draw(self, index: int, rng: np.random.Generator) -> Texts:
        """Return the questions; nothing is random."""
        group = self.groups[index]
        labels = np.zeros((self.num_texts, self.num_outputs), np.float32)
        for row, question in zip(labels, group, strict=False):
            for answer, score in question.answer_scores.items():
                if answer in self.label_of:
                    row[self.label_of[answer]] = score
        return Texts([question.question for question in group], labels)


@dataclasses.dataclass(frozen=True)
class CountExamples(_Grouped):
    """Questions about a video; labels [n] are numbers, -1 without a question."""

    def draw(self, index: int, rng: np.random.Generator) -> Texts:
        """Return the questions; nothing is random."""
        group = self.groups[index]
        labels = np.full(self.num_texts, -1, np.int32)
        labels[: len(group)] = [question.count for question in group]
        return Texts([question.question for question in group], labels)


@dataclasses.dataclass(frozen=True)
class PretrainingExamples(_Grouped):
    """Captions of an image or video, some replaced by those of others; labels [n]: 1 match, 0 mismatch."""

    captions: Sequence[Caption] = ()
    mismatch_share: float = 0.5
    masking: Masking | None = None

    def __post_init__(self) -> None:
        check_range("--task.mismatch-share", self.mismatch_share, 0, 1)
        check_negatives(self.captions)

    def draw(self, index: int, rng: np.random.Generator) -> Texts:
        """Return each caption, or at random a caption of another image or video with another text."""
        texts, labels = [], np.full(self.num_texts, -1, np.int32)
        for row, caption in enumerate(self.groups[index]):
            is_match = rng.random() >= self.mismatch_share
            texts.append((caption if is_match else draw_negative(self.captions, caption, rng)).text)
            labels[row] = is_match
        return Texts(texts, labels)

    def all_texts(self) -> Iterator[str]:
        """Yield the captions."""
        return (caption.text for caption in self.captions)


def chunk(records: Sequence[AnyRecord], size: int) -> list[tuple[AnyRecord, ...]]:
    """Return groups of up to `size` records of one video, in the order of the records.

    Follows the original's `chunk_list`, without its padding by random records.

    Raises:
      UserError: a size below 1.
    """
    check_range("--task.num-questions or --task.num-captions", size, 1)
    of_video: dict[str, list[AnyRecord]] = {}
    for record in records:
        of_video.setdefault(record.video_id, []).append(record)
    return [tuple(of[i : i + size]) for of in of_video.values() for i in range(0, len(of), size)]
