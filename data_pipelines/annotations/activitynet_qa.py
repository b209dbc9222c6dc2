"""ActivityNet-QA: open questions on ActivityNet videos, questions and answers in files of their own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from clipbert_jax.errors import UserError
from data_pipelines.annotations.answers import OpenQuestionDataset
from data_pipelines.annotations.dataset import Annotations
from data_pipelines.annotations.files import AnnotationEntry, read_objects
from data_pipelines.annotations.records import OpenQuestion

_PUBLISHED = {
    "train": {"questions": 32_000, "videos": 3_200},
    "validation": {"questions": 18_000, "videos": 1_800},
    "test": {"questions": 8_000, "videos": 800},
}
_TYPES = (
    "motion", "spatial", "temporal", "yes/no", "color", "object", "location", "number", "other",
)  # fmt: skip
"""Question types in the order of the numbers in `type`; the names are those of the authors' evaluation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActivitynetQa(OpenQuestionDataset):
    """ActivityNet-QA: 58,000 open questions on 5,800 ActivityNet videos (Yu et al., AAAI 2019).

    train_q.json, train_a.json and the same for val and test are in the folder dataset/ of
    https://github.com/MILVLG/activitynet-qa. Each split is given as two files, questions first.

    Videos are named v_ and their YouTube id, for example v_QOlSCBRmfWY.mp4; the v_ may be missing. They are
    among those of ActivityNet Captions: to add the questions to its data directory, leave out --videos.
    """

    train: tuple[Path, Path] | None = None
    """train_q.json train_a.json."""
    validation: tuple[Path, Path] | None = None
    """val_q.json val_a.json."""
    test: tuple[Path, Path] | None = None
    """test_q.json test_a.json."""

    def read(self) -> Annotations:
        """Read the questions with their answers."""
        annotations = self.read_questions("ActivityNet-QA", _questions, _PUBLISHED)
        file_stems = {video_id: (video_id[2:],) for video_id in annotations.video_ids}
        return dataclasses.replace(annotations, file_stems=file_stems)


def _questions(paths: tuple[Path, Path], split: str) -> list[OpenQuestion]:
    questions_path, answers_path = paths
    answers = {entry.text("question_id"): entry for entry in read_objects(answers_path)}
    questions = read_objects(questions_path)
    if len(answers) != len(questions):
        raise UserError(
            f"{questions_path} has {len(questions):,} questions, but {answers_path} {len(answers):,} "
            "answers; give both files of one split"
        )
    return [_question(entry, answers, answers_path) for entry in questions]


def _question(
    entry: AnnotationEntry, answers: dict[str, AnnotationEntry], answers_path: Path
) -> OpenQuestion:
    question_id = entry.text("question_id")
    if question_id not in answers:
        raise UserError(f"{entry.where}: {answers_path} has no answer to {question_id!r}")
    answer = answers[question_id]
    return OpenQuestion(
        id=question_id,
        video_id=f"v_{entry.text('video_name')}",
        question=entry.text("question"),
        answer=answer.text("answer"),
        question_type=_TYPES[answer.position("type", len(_TYPES))],
    )
