"""Training examples: the texts and labels that go with the frames of a video, made from annotation records.

`loader` puts them and the frames together. A task names the form of
its examples; a new form adds a class and a row of `_FORMS`. `experiments/evaluators` evaluates the same
records.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from clipbert_jax.errors import UserError
from clipbert_jax.tasks.pretraining import Masking
from clipbert_jax.tasks.task import AnswerTask, ExampleForm, Task
from data_pipelines.annotations.records import Caption, Count, MultipleChoice, OpenQuestion, SoftQuestion
from data_pipelines.annotations.store import answers_path, read_answers, read_records, records_path
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
        if self.num_negatives < 1:
            raise UserError(f"--task.num-negatives must be at least 1, not {self.num_negatives}")
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
        if not 0 <= self.mismatch_share <= 1:
            raise UserError(f"--task.mismatch-share must be from 0 to 1, not {self.mismatch_share}")
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
    if size < 1:
        raise UserError(f"--task.num-questions and --task.num-captions must be at least 1, not {size}")
    of_video: dict[str, list[AnyRecord]] = {}
    for record in records:
        of_video.setdefault(record.video_id, []).append(record)
    return [tuple(of[i : i + size]) for of in of_video.values() for i in range(0, len(of), size)]


def make_examples(task: Task, data_dir: str | Path, split: str) -> TaskExamples:
    """Return the examples of a task.

    Raises:
      UserError: the data directory has no records of the kind the task needs, or the task cannot use them.
    """
    return _FORMS[task.example_form].make(task, data_dir, split)


def record_kind(task: Task) -> type:
    """Return the kind of records that a task is trained on."""
    return _FORMS[task.example_form].record_kind


def answer_kind(task: Task) -> type | None:
    """Return the kind of records whose answer vocabulary gives a task its labels; None if it has none."""
    return record_kind(task) if isinstance(task, AnswerTask) else None


def _matched_captions(task: Any, data_dir: str | Path, split: str) -> RetrievalExamples:
    return RetrievalExamples(read_records(data_dir, Caption, split), task.num_negatives)


def _options(task: Task, data_dir: str | Path, split: str) -> ChoiceExamples:
    return ChoiceExamples(read_records(data_dir, MultipleChoice, split))


def _masked_captions(task: Any, data_dir: str | Path, split: str) -> PretrainingExamples:
    captions = read_records(data_dir, Caption, split)
    return PretrainingExamples(
        chunk(captions, task.num_captions),
        task.num_captions,
        captions=captions,
        mismatch_share=task.mismatch_share,
        masking=task.masking,
    )


def _open_question_examples(task: Any, data_dir: str | Path, split: str) -> OpenQuestionExamples:
    """Leave out questions whose answer is not in the vocabulary: they have no label."""
    questions = read_records(data_dir, OpenQuestion, split)
    label_of = {answer: label for label, answer in enumerate(read_answers(data_dir, OpenQuestion))}
    known = [question for question in questions if question.answer in label_of]
    if questions and not known:
        raise UserError(
            f"none of the {len(questions)} answers in {records_path(data_dir, OpenQuestion, split)}, "
            f"{questions[0].answer!r} first, is in {answers_path(data_dir, OpenQuestion)}: prepare the data "
            "with the vocabulary of these questions"
        )
    return OpenQuestionExamples(
        chunk(known, task.num_questions),
        task.num_questions,
        label_of=label_of,
        notes=_left_out(len(questions) - len(known), len(questions), split),
    )


def _left_out(num_left_out: int, num_questions: int, split: str) -> tuple[str, ...]:
    if not num_left_out:
        return ()
    return (
        f"{num_left_out:,} of {num_questions:,} {split} questions have an answer outside of the vocabulary "
        "and are not trained on",
    )


def _soft_question_examples(task: Any, data_dir: str | Path, split: str) -> SoftQuestionExamples:
    questions = read_records(data_dir, SoftQuestion, split)
    label_of = {answer: label for label, answer in enumerate(read_answers(data_dir, SoftQuestion))}
    answered = [question for question in questions if question.answer_scores]
    if questions and not any(label_of.keys() & question.answer_scores.keys() for question in questions):
        raise UserError(
            f"no answer in {records_path(data_dir, SoftQuestion, split)} is in "
            f"{answers_path(data_dir, SoftQuestion)}: prepare the data with the vocabulary of these questions"
        )
    num_without = len(questions) - len(answered)
    num_unknown = sum(label_of.keys().isdisjoint(question.answer_scores) for question in answered)
    notes = (f"{num_without:,} {split} questions have no answers and are not trained on",) * bool(num_without)
    notes += (
        f"{num_unknown:,} of {len(answered):,} {split} questions have no answer of the vocabulary, and "
        "teach that none is right",
    ) * bool(num_unknown)
    return SoftQuestionExamples(
        chunk(answered, task.num_questions),
        task.num_questions,
        label_of=label_of,
        num_outputs=task.num_answers or len(label_of),
        notes=notes,
    )


def _count_examples(task: Any, data_dir: str | Path, split: str) -> CountExamples:
    questions = read_records(data_dir, Count, split)
    for question in questions:
        if not task.min_count <= question.count <= task.max_count:
            raise UserError(
                f"question {question.id!r} in {records_path(data_dir, Count, split)} has the count "
                f"{question.count}, out of the range from --task.min-count {task.min_count} to "
                f"--task.max-count {task.max_count}: widen the range or mend the question"
            )
    return CountExamples(chunk(questions, task.num_questions), task.num_questions)


class _ExampleMaker(NamedTuple):
    """Records that examples of one form are made of, and the function that makes them."""

    record_kind: type
    make: Callable[[Any, str | Path, str], TaskExamples]


_FORMS: dict[ExampleForm, _ExampleMaker] = {
    "matched_captions": _ExampleMaker(Caption, _matched_captions),
    "options": _ExampleMaker(MultipleChoice, _options),
    "open_questions": _ExampleMaker(OpenQuestion, _open_question_examples),
    "soft_questions": _ExampleMaker(SoftQuestion, _soft_question_examples),
    "counts": _ExampleMaker(Count, _count_examples),
    "masked_captions": _ExampleMaker(Caption, _masked_captions),
}
