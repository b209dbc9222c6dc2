"""TGIF-QA: four tasks on animated GIFs; what is repeated, what precedes, what is seen, how often."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from clipbert_jax.config_checks import check_range
from clipbert_jax.errors import UserError
from data_pipelines.annotations.answers import question_vocabulary
from data_pipelines.annotations.dataset import Annotations, PublicDataset, numbered_repeats
from data_pipelines.annotations.files import AnnotationEntry, read_table
from data_pipelines.annotations.records import Count, MultipleChoice, OpenQuestion

Task = Literal["action", "transition", "frameqa", "count"]

_PUBLISHED = {
    "action": {"train": (20_475, 20_471), "test": 2_274},  # of the paper; rows of the file today
    "transition": {"train": 52_704, "test": 6_232},
    "frameqa": {"train": 39_392, "test": 13_691},
    "count": {"train": 26_843, "test": 3_554},
}
_OPTIONS = ("a1", "a2", "a3", "a4", "a5")
_COLUMNS = ("gif_name", "question", "answer", "vid_id")
_QUESTION_TYPES = ("object", "number", "color", "location")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TgifQa(PublicDataset):
    """TGIF-QA: 165,165 questions on 72,000 animated GIFs (Jang et al., CVPR 2017).

    Train_action_question.csv, Test_action_question.csv and the same for transition, frameqa and count are in
    the folder dataset/ of https://github.com/YunseokJANG/tgif-qa, which also links to the GIFs
    (tgif-qa.zip; or download them by the list of https://github.com/raingo/TGIF-Release).

    GIFs are named as in the column gif_name, for example tumblr_nk172bbdPI1u1lr18o1_250.gif.

    TGIF-QA has no official validation file. Every tenth GIF of the train file, by a hash of its name, becomes
    the validation split; --validation-percent 0 keeps all of them for training.

    Answers of frameqa are the 1,540 most frequent ones of the train file, as many as in ClipBERT. Its
    checkpoints need the labels of its own file: give --ans2label. action and transition are both multiple
    choice, so each needs a data directory of its own.
    """

    task: Task
    """action and transition: five options; frameqa: open question; count: a number."""
    train: Path | None = None
    """Train_TASK_question.csv."""
    test: Path | None = None
    """Test_TASK_question.csv."""
    validation_percent: int = 10
    """Percentage of the train file's GIFs that become the validation split."""
    ans2label: Path | None = None
    """ClipBERT's frameqa_trainval_ans2label.json."""
    num_answers: int = 1_540
    """Number of answers to take from the train file; not used with --ans2label."""

    def read(self) -> Annotations:
        """Read the questions of a task."""
        check_range("--validation-percent", self.validation_percent, 0, 99)
        kind = {"frameqa": OpenQuestion, "count": Count}.get(self.task, MultipleChoice)
        published = {split: {"questions": number} for split, number in _PUBLISHED[self.task].items()}
        records, facts = self.read_splits(
            f"TGIF-QA {self.task}", kind, self._read_questions, published, nouns=("questions", "GIFs")
        )
        if not records:
            return Annotations(records={})
        if (kind, "train") in records and self.validation_percent:
            train, validation = self._split(records[kind, "train"])
            records |= {(kind, "train"): train, (kind, "validation"): validation}
            facts.append(
                f"{len(train):,} train and {len(validation):,} validation questions: "
                f"{self.validation_percent} % of the GIFs of the train file, by hash of their names"
            )
        answers: tuple[str, ...] = ()
        if self.task == "frameqa":
            answers, lines = question_vocabulary(
                records, self.ans2label, self.num_answers, allow_partial=self.allow_partial
            )
            facts += lines
        return Annotations(
            records=records,
            answers={kind: answers} if answers else {},
            facts=tuple(facts),
        )

    def _read_questions(self, path: Path, split: str) -> list[Any]:
        has_options = self.task in ("action", "transition")
        rows = read_table(path, (*_COLUMNS, *_OPTIONS) if has_options else _COLUMNS, delimiter="\t")
        make = {"frameqa": _open_question, "count": _count}.get(self.task, _choice)
        if "a1" in rows[0] and not has_options:
            raise UserError(f"{path} has the columns a1 to a5: it is not a file of --task {self.task}")
        ids = numbered_repeats(row.text("vid_id") for row in rows)
        return [make(row, id_) for row, id_ in zip(rows, ids, strict=True)]

    def _split(self, records: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Return train and validation, no GIF in both."""
        is_train = [zlib.crc32(r.video_id.encode()) % 100 >= self.validation_percent for r in records]
        train = [record for record, keep in zip(records, is_train, strict=True) if keep]
        return train, [record for record, keep in zip(records, is_train, strict=True) if not keep]


def _choice(row: AnnotationEntry, id_: str) -> MultipleChoice:
    return MultipleChoice(
        id=id_,
        video_id=row.text("gif_name"),
        question=row.text("question"),
        options=tuple(map(row.text, _OPTIONS)),
        answer_index=row.position("answer", len(_OPTIONS)),
    )


def _open_question(row: AnnotationEntry, id_: str) -> OpenQuestion:
    question_type = _QUESTION_TYPES[row.position("type", len(_QUESTION_TYPES))] if "type" in row else ""
    return OpenQuestion(
        id=id_,
        video_id=row.text("gif_name"),
        question=row.text("question"),
        answer=row.text("answer"),
        question_type=question_type,
    )


def _count(row: AnnotationEntry, id_: str) -> Count:
    if row.integer("answer") < 0:
        raise row.bad("answer", "a count", row.integer("answer"))
    return Count(
        id=id_, video_id=row.text("gif_name"), question=row.text("question"), count=row.integer("answer")
    )
