"""Reads the records that a task is trained on, and makes its examples of them.

`loader` calls it for training; a task's `example_form` picks the row of `_FORMS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from clipbert_jax.errors import UserError
from clipbert_jax.tasks.task import AnswerTask, ExampleForm, Task
from data_pipelines.annotations.records import Caption, Count, MultipleChoice, OpenQuestion, SoftQuestion
from data_pipelines.annotations.store import answers_path, read_answers, read_records, records_path
from data_pipelines.examples import (
    ChoiceExamples,
    CountExamples,
    OpenQuestionExamples,
    PretrainingExamples,
    RetrievalExamples,
    SoftQuestionExamples,
    TaskExamples,
    chunk,
)


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
                f"--task.max-count {task.max_count}: widen the range or correct the question"
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
