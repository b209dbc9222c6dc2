"""VQA v2: questions on COCO images, ten answers each; with the questions of Visual Genome, if wanted."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipbert_jax.errors import UserError
from data_pipelines.annotations.answers import at_least, read_ans2label
from data_pipelines.annotations.dataset import Annotations, PublicDataset, check_disjoint, num_videos
from data_pipelines.annotations.files import AnnotationEntry, read_object
from data_pipelines.annotations.images import coco_id, file_stems
from data_pipelines.annotations.records import SoftQuestion
from data_pipelines.annotations.visual_genome import read_questions
from data_pipelines.annotations.vqa_answers import normalize_answer, score_answers

_PUBLISHED = {
    "train2014": {"questions": 443_757, "images": 82_783},
    "val2014": {"questions": 214_354, "images": 40_504},
    "test2015": {"questions": 447_793},
    "test-dev2015": {"questions": 107_394},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vqa(PublicDataset):
    """VQA v2: 1.1 million questions on COCO images, ten answers each (Goyal et al., CVPR 2017).

    https://visualqa.org/download.html has all files, as zip:
      v2_OpenEnded_mscoco_SPLIT_questions.json (train2014 ... test-dev2015)
      v2_mscoco_SPLIT_annotations.json (train2014, val2014)

    It also has the COCO images, as https://cocodataset.org does. Visual Genome's question_answers.json and
    images are at https://homes.cs.washington.edu/~ranjay/visualgenome/api.html.

    COCO images are named COCO_train2014_000000458752.jpg or 000000458752.jpg, and those of Visual
    Genome 1.jpg, 2.jpg, ...; --videos is one folder that holds them all, in subfolders as you like.

    As in the official evaluation, an answer of one person in ten scores 0.3, of two 0.6, of three 0.9, of
    four or more 1. The vocabulary has each answer that is the most common one of 9 or more questions in
    train and validation (3,129 in the full files). --ans2label takes ClipBERT's trainval_ans2label.json
    instead.

    Questions of the test split have no answers; they keep their ids so that results can be submitted.
    """

    train: tuple[Path, Path] | None = None
    """Questions and annotations of train2014."""
    validation: tuple[Path, Path] | None = None
    """Questions and annotations of val2014."""
    test: Path | None = None
    """Questions of test2015 or test-dev2015."""
    visual_genome: Path | None = None
    """question_answers.json, as more train questions; those with an unknown answer are left out."""
    ans2label: Path | None = None
    """ClipBERT's trainval_ans2label.json."""
    min_occurrences: int = 9
    """Number of questions whose most common answer an answer must be; not used with --ans2label."""

    def read(self) -> Annotations:
        """Read the questions and score the answers."""
        records: dict[tuple[type, str], list[SoftQuestion]] = {}
        facts: list[str] = []
        most_common: list[str] = []
        for split, paths in (("train", self.train), ("validation", self.validation)):
            if paths is not None:
                questions, common = self._read_answered(*paths, facts)
                records[SoftQuestion, split] = questions
                most_common += common
        if self.test is not None:
            questions = self._read_questions(self.test, facts)
            records[SoftQuestion, "test"] = [_make(question, {}, {}) for question in questions]
        facts.append(check_disjoint("VQA", records))
        answers = self._answers(most_common, facts)
        for split in ("train", "validation"):
            facts += _outside(split, answers, records.get((SoftQuestion, split), ()))
        if self.visual_genome is not None:
            extra = self._visual_genome(self.visual_genome, answers, facts)
            records[SoftQuestion, "train"] = [*records.get((SoftQuestion, "train"), ()), *extra]
        return Annotations(
            records=records,
            answers={SoftQuestion: answers} if answers else {},
            file_stems=file_stems({q.video_id for questions in records.values() for q in questions}),
            facts=tuple(facts),
        )

    def _read_questions(self, path: Path, facts: list[str]) -> list[AnnotationEntry]:
        whole = read_object(path)
        questions = whole.entries("questions")
        images = {question.integer("image_id") for question in questions}
        found = {"questions": len(questions), "images": len(images)}
        subtype = whole.text("data_subtype") if "data_subtype" in whole else ""
        facts.append(self.check(path, f"VQA v2's {subtype}", found, _PUBLISHED.get(subtype, {})))
        return questions

    def _read_answered(
        self, questions_path: Path, annotations_path: Path, facts: list[str]
    ) -> tuple[list[SoftQuestion], list[str]]:
        """Return the questions with scored answers, and the most common answer of each."""
        questions = self._read_questions(questions_path, facts)
        annotations = read_object(annotations_path).entries("annotations")
        annotation_of = {entry.integer("question_id"): entry for entry in annotations}
        records, common = [], []
        for question in questions:
            annotation = annotation_of.get(question.integer("question_id"))
            if annotation is None:
                raise UserError(
                    f"{annotations_path} has no answers to question {question.integer('question_id')} of "
                    f"{questions_path}; give both files of one split, questions first"
                )
            answers = [answer.text("answer", may_be_empty=True) for answer in annotation.entries("answers")]
            if len(answers) < 2:
                raise annotation.bad("answers", "the answers of ten people, or at least of two", answers)
            records.append(_make(question, score_answers(answers), annotation.fields))
            common.append(_most_common(annotation, answers))
        return records, common

    def _answers(self, most_common: list[str], facts: list[str]) -> tuple[str, ...]:
        if self.ans2label is not None:
            answers = read_ans2label(self.ans2label, allow_partial=self.allow_partial)
            found = {"answers": len(answers)}
            facts.append(self.check(self.ans2label, "ClipBERT's VQA vocabulary", found, {"answers": 3_129}))
        else:
            answers = at_least(most_common, self.min_occurrences)
            if most_common:
                rule = f"the most common ones of {self.min_occurrences} questions or more"
                facts.append(f"{len(answers):,} answers: {rule}, of the splits given")
        return answers

    def _visual_genome(self, path: Path, answers: Sequence[str], facts: list[str]) -> list[SoftQuestion]:
        known = set(answers)
        if not known:
            raise UserError("--visual-genome needs the answer vocabulary of VQA; give --train or --ans2label")
        questions, fact = read_questions(path, self)
        usable = [
            dataclasses.replace(question, answer_scores={answer: 1.0})
            for question in questions
            if (answer := normalize_answer(next(iter(question.answer_scores)))) in known
        ]
        facts += [fact, f"{len(usable):,} of them have an answer of the vocabulary and are added to train"]
        return usable


def _make(question: AnnotationEntry, scores: dict[str, float], annotation: Any) -> SoftQuestion:
    return SoftQuestion(
        id=question.text("question_id"),
        video_id=coco_id(question.integer("image_id")),
        question=question.text("question"),
        answer_scores=scores,
        question_type=str(annotation.get("question_type", "")),
        answer_type=str(annotation.get("answer_type", "")),
    )


def _most_common(annotation: AnnotationEntry, answers: Sequence[str]) -> str:
    """Return the most common answer; it is counted if a sample of the files lacks the authors' one."""
    if "multiple_choice_answer" in annotation:
        return normalize_answer(annotation.text("multiple_choice_answer", may_be_empty=True))
    counts = collections.Counter(map(normalize_answer, answers))
    return min(counts, key=lambda answer: (-counts[answer], answer))


def _outside(split: str, answers: Sequence[str], questions: Sequence[SoftQuestion]) -> list[str]:
    known = set(answers)
    count = sum(known.isdisjoint(question.answer_scores) for question in questions)
    if not questions:
        return []
    of_images = f"{len(questions):,} questions on {num_videos(questions):,} images"
    return [f"{split}: {count:,} of {of_images} have no answer of the vocabulary"]
