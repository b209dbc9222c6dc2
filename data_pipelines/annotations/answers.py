"""Answer vocabularies: from the original's `ans2label` files, or the most frequent training answers.

A model cannot give an answer outside of the vocabulary. Evaluation counts such a question as wrong, and
`outside_of` tells how many there are.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipbert_jax.config_checks import check_range
from clipbert_jax.errors import UserError
from data_pipelines.annotations.dataset import Annotations, PublicDataset, Records, check_disjoint
from data_pipelines.annotations.files import read_json
from data_pipelines.annotations.records import OpenQuestion


def most_frequent(answers: Iterable[str], count: int) -> tuple[str, ...]:
    """Return the `count` most frequent answers, those with equal frequency in alphabetical order."""
    frequency = collections.Counter(answers)
    return tuple(sorted(frequency, key=lambda answer: (-frequency[answer], answer))[:count])


def at_least(answers: Iterable[str], num_times: int) -> tuple[str, ...]:
    """Return the answers that occur `num_times` or more, the most frequent first."""
    frequency = collections.Counter(answers)
    frequent = {answer: count for answer, count in frequency.items() if count >= num_times}
    return tuple(sorted(frequent, key=lambda answer: (-frequent[answer], answer)))


def read_ans2label(path: Path, *, allow_partial: bool = False) -> tuple[str, ...]:
    """Return the answers of a JSON object {answer: label}, in the order of their labels.

    Args:
      path: a file such as the original's `train_ans2label.json`.
      allow_partial: accept a sample of the answers, whose labels have gaps.

    Raises:
      UserError: the file does not exist, or its labels are not 0, 1, 2 ... each once.
    """
    labels = read_json(path)
    is_mapping = isinstance(labels, dict) and labels and all(type(v) is int for v in labels.values())
    if not is_mapping:
        raise UserError(f'{path} must be one JSON object such as {{"yes": 0, "no": 1}}')
    ordered = sorted(labels, key=lambda answer: labels[answer])
    numbers = [labels[answer] for answer in ordered]
    if len(set(numbers)) < len(numbers):
        twice = next(b for a, b in itertools.pairwise(numbers) if a == b)
        raise UserError(f"{path} gives label {twice} to two answers; each needs its own")
    if numbers != list(range(len(numbers))) and not allow_partial:
        gap = next(i for i, number in enumerate(numbers) if i != number)
        raise UserError(
            f"{path} has {len(numbers)} labels from {numbers[0]} to {numbers[-1]}, but none is {gap}: it is "
            "truncated, or it is another file; --allow-partial accepts it"
        )
    return tuple(ordered)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenQuestionDataset(PublicDataset):
    """Base of the published datasets that have open questions only."""

    ans2label: Path | None = None
    """Answers and their labels as JSON, {"yes": 0, ...}, for a checkpoint that was trained with them."""
    num_answers: int = 1_000
    """Number of answers to take from train, the most frequent first; not used with --ans2label."""

    def read_questions(
        self,
        name: str,
        read: Callable[[Any, str], Sequence[OpenQuestion]],
        published: Mapping[str, Mapping[str, int]],
    ) -> Annotations:
        """Read the questions of each given split, and make the answer vocabulary; see `read_splits`."""
        nouns = ("questions", "videos")
        records, facts = self.read_splits(name, OpenQuestion, read, published, nouns=nouns)
        if not records:
            return Annotations(records={})
        answers, lines = question_vocabulary(
            records, self.ans2label, self.num_answers, allow_partial=self.allow_partial
        )
        facts.append(check_disjoint(name, records))
        return Annotations(records=records, answers={OpenQuestion: answers}, facts=(*facts, *lines))


def question_vocabulary(
    records: Records,
    ans2label: Path | None,
    num_answers: int,
    *,
    allow_partial: bool,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the answer vocabulary of open questions, and lines about it for the user.

    Args:
      records: the questions of each split.
      ans2label: a file of answers and labels; None takes the most frequent answers of the train split.
      num_answers: number of answers to take from the train split.
      allow_partial: see `read_ans2label`.

    Raises:
      UserError: neither an ans2label file nor train records.
    """
    check_range("--num-answers", num_answers, 1)
    if ans2label is not None:
        answers = read_ans2label(ans2label, allow_partial=allow_partial)
        line = f"{len(answers):,} answers, labels as in {ans2label.name}"
    elif train := records.get((OpenQuestion, "train")):
        answers = most_frequent((record.answer for record in train), num_answers)
        line = f"{len(answers):,} answers: the most frequent of train"
    else:
        raise UserError("there are no answers to learn; give --train or --ans2label")
    return answers, (line, *outside_of(answers, records))


def outside_of(answers: Collection[str], records: Records) -> tuple[str, ...]:
    """Return a line for each split: how many of its answers are outside of the vocabulary."""
    known, lines = set(answers), []
    for (_, split), questions in records.items():
        outside = sum(question.answer not in known for question in questions)
        if questions:
            effect = "not trained on" if split == "train" else "always count as wrong"
            share = 100 * outside / len(questions)
            lines.append(
                f"{split}: {outside:,} of {len(questions):,} answers ({share:.1f} %) are not among these, "
                f"{effect}"
            )
    return tuple(lines)
